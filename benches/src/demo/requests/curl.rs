//! Single requests, shown as they are.

use serde_json::{Value, json};

use crate::BenchError;
use crate::demo::{heading, say};
use crate::stage::Stage;
use crate::tool::Tool;

pub(super) const CURL: Tool = Tool { program: "curl", package: "curl" };

/// What is asked for, and what the servers are asked for then.
const REQUESTS: [(&str, &str); 2] = [("/old/tea?cup=2", "/new/tea?cup=2"), ("/old/x/../coffee", "/new/coffee")];

/// Sends requests, one for each server, and shows what goes and comes.
///
/// # Errors
/// When an answer is not as it should be.
pub(super) fn talk(stage: &Stage, listen: &str) -> Result<Value, BenchError> {
    heading("curl: two requests; the path is rewritten, and the servers take turns");
    let mut bodies = Vec::new();
    for (asked, expected) in REQUESTS {
        let url = format!("http://{listen}{asked}");
        let arguments = ["--silent", "--show-error", "--verbose", "--path-as-is", "--max-time", "5", &url];
        let output = stage.client.exec("curl", arguments)?;
        lines_of(&output.stderr).for_each(say);
        let body = output.stdout.trim().to_owned();
        say(format_args!("  {body}"));
        if !output.stderr.contains("200 OK") || !body.contains(expected) {
            return Err(BenchError::Failed(format!("a request for {asked} was not answered as one for {expected}")));
        }
        bodies.push(body);
    }
    if bodies.iter().map(|body| body.split(':').next()).collect::<std::collections::BTreeSet<_>>().len() < bodies.len()
    {
        return Err(BenchError::Failed("both requests were answered by the same server".into()));
    }
    Ok(json!(bodies))
}

/// Of what curl tells: the heads, without what it has to say itself and without what tells nobody anything.
fn lines_of(told: &str) -> impl Iterator<Item = &str> {
    const QUIET: [&str; 5] = ["> User-Agent", "> Accept", "< date", "< server", "< content-type"];
    let is_head = |line: &&str| (line.starts_with("> ") || line.starts_with("< ")) && line.trim().len() > 1;
    let is_quiet = |line: &str| QUIET.iter().any(|quiet| line.to_ascii_lowercase().starts_with(&quiet.to_lowercase()));
    told.lines().map(str::trim_end).filter(is_head).filter(move |line| !is_quiet(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heads_are_shown_and_nothing_else() {
        let told = "* Connected to 10.3.0.1\n> GET / HTTP/1.1\r\n> Host: a\r\n> Accept: */*\r\n> \r\n< HTTP/1.1 200 OK\r\n\
                    < Server: nginx\r\n< x-a: b\r\n< \r\n{ [3 bytes data]\n";
        let lines: Vec<_> = lines_of(told).collect();
        assert_eq!(lines, ["> GET / HTTP/1.1", "> Host: a", "< HTTP/1.1 200 OK", "< x-a: b"]);
    }
}
