//! nginx in its three parts: a server that answers, a proxy that does both functions, a proxy that does one.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use middlenet_tests::Netns;

use super::server::{Server, Tool};
use crate::BenchError;
use crate::work_folder::WorkFolder;

const NGINX: Tool = Tool { program: "nginx", package: "nginx-light" };

static NEXT: AtomicU32 = AtomicU32::new(0);

/// What one `server` block does.
#[derive(Debug, Clone)]
pub(crate) enum Site {
    /// Answers `/new/...` from memory with [`body`]; anything else is not found.
    Answer {
        listen: SocketAddr,
        /// Told in the body, so that clients know who answered.
        number: usize,
    },
    /// Answers `/new/...` with nothing.
    Empty { listen: SocketAddr },
    /// Passes requests on, to its upstreams in turn.
    Proxy { listen: SocketAddr, upstreams: Vec<SocketAddr>, rewrite: bool },
}

impl Site {
    fn listen(&self) -> SocketAddr {
        match self {
            Self::Answer { listen, .. } | Self::Empty { listen } | Self::Proxy { listen, .. } => *listen,
        }
    }
}

/// What an answering server says to a request for `path`: its number, the path, and 1,000 bytes.
pub(crate) fn body(number: usize, path: &str) -> String {
    format!("{number} {path}\n{}", "x".repeat(1_000))
}

/// Starts one nginx with one worker on `core`, which serves all `sites`.
///
/// # Errors
/// When it is not installed or does not start.
pub(crate) fn start(
    folder: &WorkFolder,
    core: usize,
    netns: Option<&Netns>,
    sites: &[Site],
) -> Result<Server, BenchError> {
    let prefix = folder.path().join(format!("nginx-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    let file = prefix.join("nginx.conf");
    std::fs::create_dir(&prefix).map_err(BenchError::file(&prefix))?;
    std::fs::write(&file, configuration(sites)).map_err(BenchError::file(&file))?;
    let mut command = NGINX.command(core, netns)?;
    command.arg("-p").arg(&prefix).args(["-c", "nginx.conf", "-e", "stderr"]);
    let addresses: Vec<SocketAddr> = sites.iter().map(Site::listen).collect();
    Server::start(command, netns, &addresses)
}

/// Everything it writes is below its prefix. Connections are never closed for having served much.
fn configuration(sites: &[Site]) -> String {
    let mut text = String::from(
        "daemon off;\n\
         worker_processes 1;\n\
         worker_rlimit_nofile 16384;\n\
         pid nginx.pid;\n\
         error_log stderr error;\n\
         events { worker_connections 8192; }\n\
         http {\n\
         \x20   access_log off;\n\
         \x20   keepalive_requests 1000000000;\n\
         \x20   keepalive_timeout 3600s;\n\
         \x20   client_body_temp_path body;\n\
         \x20   proxy_temp_path proxy;\n\
         \x20   fastcgi_temp_path fastcgi;\n\
         \x20   uwsgi_temp_path uwsgi;\n\
         \x20   scgi_temp_path scgi;\n",
    );
    for (index, site) in sites.iter().enumerate() {
        let block = match site {
            Site::Answer { listen, number } => answer(*listen, &body(*number, "$request_uri")),
            Site::Empty { listen } => answer(*listen, ""),
            Site::Proxy { listen, upstreams, rewrite } => proxy(index, *listen, upstreams, *rewrite),
        };
        text.push_str(&block);
    }
    text.push_str("}\n");
    text
}

fn answer(listen: SocketAddr, body: &str) -> String {
    format!(
        "    server {{\n        listen {listen} backlog=4096;\n        default_type text/plain;\n\
         \x20       location /new/ {{ return 200 \"{body}\"; }}\n        location / {{ return 404; }}\n    }}\n"
    )
}

fn proxy(index: usize, listen: SocketAddr, upstreams: &[SocketAddr], rewrite: bool) -> String {
    let mut text = format!("    upstream servers{index} {{\n");
    for upstream in upstreams {
        // Without `max_fails=0` one refused connection would take a server out of its turn for seconds.
        let _ = writeln!(text, "        server {upstream} max_fails=0;");
    }
    let rule = if rewrite { "            rewrite ^/old/(.*)$ /new/$1 break;\n" } else { "" };
    let _ = write!(
        text,
        "        keepalive 1024;\n        keepalive_requests 1000000000;\n        keepalive_timeout 3600s;\n    }}\n\
         \x20   server {{\n        listen {listen} backlog=4096;\n        location / {{\n{rule}\
         \x20           proxy_pass http://servers{index};\n            proxy_http_version 1.1;\n\
         \x20           proxy_set_header Connection \"\";\n        }}\n    }}\n"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn braces_balance_and_both_functions_are_there() {
        let text = configuration(&[
            Site::Answer { listen: address(1), number: 2 },
            Site::Proxy { listen: address(3), upstreams: vec![address(1), address(4)], rewrite: true },
            Site::Proxy { listen: address(5), upstreams: vec![address(3)], rewrite: false },
        ]);
        let count = |letter| text.matches(letter).count();
        assert_eq!(count('{'), count('}'), "{text}");
        assert!(text.contains("return 200 \"2 $request_uri\nxxx"), "{text}");
        assert!(text.contains("server 127.0.0.1:1 max_fails=0;\n        server 127.0.0.1:4 max_fails=0;"), "{text}");
        assert_eq!(text.matches("rewrite ^/old/(.*)$ /new/$1 break;").count(), 1);
        assert!(text.contains("proxy_pass http://servers2;"), "{text}");
    }
}
