//! QEMU's monitor: its cables, in its protocol of JSON lines.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Error;

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Monitor(BufReader<UnixStream>);

impl Monitor {
    pub(super) fn new(stream: UnixStream) -> Result<Self, Error> {
        stream.set_read_timeout(Some(PATIENCE)).map_err(fail)?;
        let mut monitor = Self(BufReader::new(stream));
        monitor.line()?;
        monitor.ask("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// One command; returns what it returns.
    pub(super) fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value, Error> {
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.0.get_mut().write_all(line.as_bytes()).map_err(fail)?;
        loop {
            let answer = self.line()?;
            if answer["error"].is_object() {
                return Err(Error::Vm { what: format!("QEMU refuses {command}: {}", answer["error"]["desc"]) });
            }
            // Anything else is an event.
            if let Some(result) = answer.get("return") {
                return Ok(result.clone());
            }
        }
    }

    fn line(&mut self) -> Result<Value, Error> {
        let mut line = String::new();
        self.0.read_line(&mut line).map_err(fail)?;
        serde_json::from_str(&line).map_err(|error| fail(error.into()))
    }
}

fn fail(error: std::io::Error) -> Error {
    Error::Vm { what: format!("QEMU's monitor: {error}") }
}
