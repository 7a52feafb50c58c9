//! HAProxy, one thread: as the middlebox that does both functions, or as a load balancer of connections.

use std::fmt::Write as _;
use std::net::SocketAddr;

use middlenet_tests::Netns;

use super::MIDDLEBOX_CORE;
use super::server::{Server, Tool};
use crate::BenchError;
use crate::work_folder::WorkFolder;

const HAPROXY: Tool = Tool { program: "haproxy", package: "haproxy" };

/// Starts it on the middlebox's core.
///
/// # Errors
/// When it is not installed or does not start.
pub(crate) fn start(folder: &WorkFolder, listen: SocketAddr, upstreams: &[SocketAddr]) -> Result<Server, BenchError> {
    let file = folder.write(&format!("haproxy-{}.cfg", listen.port()), configuration(listen, upstreams).as_bytes())?;
    let mut command = HAPROXY.command(MIDDLEBOX_CORE, None)?;
    // In the foreground, without a supervising process.
    command.args(["-db", "-f"]).arg(file);
    Server::start(command, None, &[listen])
}

/// Starts it on a core of a namespace as a balancer of layer 4: it copies bytes between connections and looks at none.
///
/// # Errors
/// When it is not installed or does not start.
pub(crate) fn start_tcp(
    folder: &WorkFolder,
    netns: &Netns,
    core: usize,
    listen: SocketAddr,
    servers: &[SocketAddr],
) -> Result<Server, BenchError> {
    let file = folder.write("haproxy-tcp.cfg", tcp_configuration(listen, servers).as_bytes())?;
    let mut command = HAPROXY.command(core, Some(netns))?;
    command.args(["-db", "-f"]).arg(file);
    Server::start(command, Some(netns), &[listen])
}

/// Whoever balances by a hash has the same client on the same server again; connections in turn are what spreads best.
fn tcp_configuration(listen: SocketAddr, servers: &[SocketAddr]) -> String {
    let mut text = format!(
        "global\n    nbthread 1\n    maxconn 4096\n\
         defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 3600s\n    timeout server 3600s\n\
         listen web\n    bind {listen} backlog 4096\n    balance roundrobin\n"
    );
    for (index, server) in servers.iter().enumerate() {
        let _ = writeln!(text, "    server server{index} {server}");
    }
    text
}

fn configuration(listen: SocketAddr, upstreams: &[SocketAddr]) -> String {
    let mut text = format!(
        "global\n    nbthread 1\n    maxconn 4096\n\
         defaults\n    mode http\n    http-reuse always\n    timeout connect 5s\n    timeout client 3600s\n    timeout server 3600s\n\
         frontend clients\n    bind {listen} backlog 4096\n    http-request replace-path ^/old/(.*)$ /new/\\1\n\
         \x20   default_backend servers\n\
         backend servers\n    balance roundrobin\n"
    );
    for (index, upstream) in upstreams.iter().enumerate() {
        let _ = writeln!(text, "    server server{index} {upstream}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_functions_are_there() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let text = configuration(address(1), &[address(2), address(3)]);
        assert!(text.contains("bind 127.0.0.1:1 backlog 4096\n"), "{text}");
        assert!(text.contains("http-request replace-path ^/old/(.*)$ /new/\\1\n"), "{text}");
        let tcp = tcp_configuration(address(1), &[address(2)]);
        assert!(tcp.contains("mode tcp\n") && !tcp.contains("http"), "{tcp}");
        assert!(text.ends_with("balance roundrobin\n    server server0 127.0.0.1:2\n    server server1 127.0.0.1:3\n"));
    }
}
