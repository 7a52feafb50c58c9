//! A server: nginx, which says its number and what it was asked for.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use middlenet_tests::{Netns, Process, wait_until};

use crate::BenchError;
use crate::lifetime::kill_pid;
use crate::tool::Tool;
use crate::work_folder::WorkFolder;

pub(in crate::demo) const NGINX: Tool = Tool { program: "nginx", package: "nginx-light" };

/// Until it accepts connections, and until it is gone once killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// One, which ends with this value.
pub(in crate::demo) struct Backend {
    number: usize,
    listen: SocketAddr,
    process: Option<Process>,
}

impl Backend {
    /// Starts one in a namespace; returns when it accepts connections.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub(in crate::demo) fn start(
        netns: &Netns,
        folder: &WorkFolder,
        number: usize,
        listen: SocketAddr,
    ) -> Result<Self, BenchError> {
        let prefix = Self::prefix(folder, number);
        let file = prefix.join("nginx.conf");
        std::fs::create_dir(&prefix).map_err(BenchError::file(&prefix))?;
        std::fs::write(&file, configuration(number, listen)).map_err(BenchError::file(&file))?;
        let mut backend = Self { number, listen, process: None };
        backend.start_again(netns, folder)?;
        Ok(backend)
    }

    fn prefix(folder: &WorkFolder, number: usize) -> PathBuf {
        folder.path().join(format!("nginx-{number}"))
    }

    /// Starts it, at first or after it was killed.
    ///
    /// # Errors
    /// When it does not accept connections.
    pub(in crate::demo) fn start_again(&mut self, netns: &Netns, folder: &WorkFolder) -> Result<(), BenchError> {
        let mut command = netns.command(NGINX.path()?);
        command.arg("-p").arg(Self::prefix(folder, self.number)).args(["-c", "nginx.conf", "-e", "stderr"]);
        let process = self.process.insert(Process::spawn(&mut command)?);
        let listen = self.listen;
        let is_there = || TcpStream::connect_timeout(&listen, Duration::from_secs(1)).is_ok();
        let started = wait_until(&format!("nginx on {listen}"), PATIENCE, || netns.enter(is_there).unwrap_or(false));
        let said = process.stderr();
        started.map_err(|error| BenchError::Failed(format!("{error}: {}", said.trim().replace('\n', "; "))))
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it does not end by that.
    pub(in crate::demo) fn kill(&mut self) -> Result<(), BenchError> {
        let Some(process) = self.process.take() else { return Ok(()) };
        kill_pid(process.pid())?;
        process.wait(PATIENCE)?;
        Ok(())
    }
}

/// One process, so that killing it kills the server. Everything it writes is below its prefix.
fn configuration(number: usize, listen: SocketAddr) -> String {
    format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr error;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n    access_log off;\n    keepalive_requests 1000000000;\n    default_type text/plain;\n\
         \x20   client_body_temp_path body;\n    proxy_temp_path proxy;\n    fastcgi_temp_path fastcgi;\n\
         \x20   uwsgi_temp_path uwsgi;\n    scgi_temp_path scgi;\n\
         \x20   server {{\n        listen {listen} backlog=1024;\n        location /new/ {{\n\
         \x20           return 200 \"nginx {number}: you asked for $request_uri, for $http_x_forwarded_for\\n\";\n\
         \x20       }}\n        location / {{ return 404; }}\n    }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_balance() {
        let text = configuration(2, SocketAddr::from(([127, 0, 0, 1], 80)));
        let count = |letter| text.matches(letter).count();
        assert_eq!(count('{'), count('}'), "{text}");
        assert!(text.contains("\"nginx 2: you asked for $request_uri"), "{text}");
    }
}
