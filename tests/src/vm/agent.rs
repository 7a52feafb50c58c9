//! The guest's side: carries out what comes over a serial line, one request at a time.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Error, Process};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ask {
    /// Run a program to its end.
    Run { command: Vec<String>, seconds: u64 },
    /// Start a program and keep what it writes.
    Spawn { command: Vec<String> },
    /// What a program has written, and how it ended.
    Look { pid: u32 },
}

/// Says hello and answers requests, a line of JSON each, until there are no more.
///
/// # Errors
///
/// What the line says.
pub fn serve(asks: impl BufRead, mut answers: impl Write) -> io::Result<()> {
    let mut running = HashMap::new();
    writeln!(answers, "{}", json!({ "hello": true }))?;
    for line in asks.lines() {
        let answer = match serde_json::from_str(&line?) {
            Ok(ask) => carry_out(ask, &mut running).unwrap_or_else(|error| json!({ "error": error.to_string() })),
            Err(error) => json!({ "error": format!("not understood: {error}") }),
        };
        writeln!(answers, "{answer}")?;
        answers.flush()?;
    }
    Ok(())
}

fn carry_out(ask: Ask, running: &mut HashMap<u32, Process>) -> Result<Value, Error> {
    match ask {
        Ask::Run { command, seconds } => {
            let output = start(&command)?.wait(Duration::from_secs(seconds))?;
            Ok(json!({ "status": output.status.code(), "stdout": output.stdout, "stderr": output.stderr }))
        }
        Ask::Spawn { command } => {
            let process = start(&command)?;
            let pid = process.pid();
            running.insert(pid, process);
            Ok(json!({ "pid": pid }))
        }
        Ask::Look { pid } => {
            let process = running.get_mut(&pid).ok_or_else(|| Error::Vm { what: format!("{pid} was not started") })?;
            let status = process.status().and_then(|status| status.code());
            Ok(json!({ "status": status, "stdout": process.stdout(), "stderr": process.stderr() }))
        }
    }
}

fn start(command: &[String]) -> Result<Process, Error> {
    let (program, arguments) = command.split_first().ok_or_else(|| Error::Vm { what: "an empty command".into() })?;
    Process::spawn(Command::new(program).args(arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(asks: &str) -> Vec<Value> {
        let mut written = Vec::new();
        serve(asks.as_bytes(), &mut written).unwrap();
        String::from_utf8(written).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn programs_run_and_their_ends_are_told() {
        let asks = r#"{"run":{"command":["sh","-c","echo out; echo err >&2; exit 3"],"seconds":20}}
            {"run":{"command":["middlenet-no-such-program"],"seconds":1}}
            {"spawn":{"command":["true"]}}
            {"look":{"pid":1}}
            nonsense"#;
        let answers = answers(asks);
        assert_eq!(answers[0], json!({ "hello": true }));
        assert_eq!(answers[1], json!({ "status": 3, "stdout": "out\n", "stderr": "err\n" }));
        assert!(answers[2]["error"].as_str().unwrap().contains("cannot start"));
        assert!(answers[3]["pid"].as_u64().unwrap() > 1);
        assert_eq!(answers[4]["error"], "the virtual machine: 1 was not started");
        assert!(answers[5]["error"].as_str().unwrap().starts_with("not understood"));
    }
}
