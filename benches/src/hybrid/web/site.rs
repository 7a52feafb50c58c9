//! The hosts of the web, with one set of functions in the boxes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use middlenet_tests::wait_until;
use serde_json::{Value, json};

use crate::BenchError;
use crate::bench::Bench;
use crate::hybrid::parties::Parties;
use crate::hybrid::row::{Host, Row};
use crate::hybrid::{BOX_CORE, LOAD_CORE, filter};
use crate::l4l7::generator::Target;
use crate::l4l7::server::Server;
use crate::l4l7::{haproxy, nginx};
use crate::run::Run;

/// What clients connect to: an address of the balancer's box.
const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 80, 0, 1), 80);
const SERVERS: [SocketAddrV4; 2] = [server(11), server(12)];
/// What the firewall lets pass.
const PORTS: [u16; 2] = [80, 443];
const PATIENCE: Duration = Duration::from_secs(5);

const fn server(host: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 73, 0, host), 80)
}

/// Where the functions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// In a box each.
    Separate,
    /// In one.
    One,
}

/// What they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Functions {
    /// `efw` and `elb`.
    Hybrid,
    /// iptables and HAProxy.
    Legacy,
}

/// It goes with everything when this goes.
#[derive(Debug)]
pub(super) struct Site {
    parties: Parties,
    // Programs end before their namespaces.
    runs: Vec<Run>,
    _haproxy: Option<Server>,
    _servers: Vec<Server>,
    row: Row,
}

impl Site {
    /// Builds it, and waits until a request is answered.
    ///
    /// # Errors
    /// Without the privilege to make namespaces, or when a program is missing or does not start.
    pub(super) fn start(bench: &Bench, layout: Layout, functions: Functions) -> Result<Self, BenchError> {
        let row = lay(layout)?;
        let addresses = SERVERS.map(SocketAddr::V4);
        let answer = |&listen: &SocketAddr| {
            nginx::start(&bench.folder, LOAD_CORE, Some(&row.server().netns), &[nginx::Site::Empty { listen }])
        };
        let servers = addresses.iter().map(answer).collect::<Result<Vec<_>, _>>()?;
        let (firewall, balancer) = (&row.boxes()[0], &row.boxes()[row.boxes().len() - 1]);
        let mut roots: Vec<Vec<u32>> = row.boxes().iter().map(|host| host.threads().collect()).collect();
        let (mut runs, mut haproxy) = (Vec::new(), None);
        match functions {
            Functions::Legacy => {
                filter::in_kernel(firewall, &bench.folder, &PORTS)?;
                let listen = SERVICE.into();
                let started = haproxy::start_tcp(&bench.folder, &balancer.netns, BOX_CORE, listen, &addresses)?;
                roots[row.boxes().len() - 1].extend(started.pid());
                haproxy = Some(started);
            }
            Functions::Hybrid => {
                for (at, host) in row.boxes().iter().enumerate() {
                    let functions = match (layout, at) {
                        (Layout::One, _) => vec![filter::efw(&PORTS), elb()],
                        (Layout::Separate, 0) => vec![filter::efw(&PORTS)],
                        (Layout::Separate, _) => vec![elb()],
                    };
                    let run =
                        Run::start(&bench.programs, &bench.folder, Some(&host.netns), manifest(host, &functions))?;
                    roots[at].extend(run.pid());
                    runs.push(run);
                }
            }
        }
        wait_for_answer(&row)?;
        let load: Vec<u32> = servers.iter().filter_map(Server::pid).collect();
        let load = load.into_iter().chain(row.client().threads()).chain(row.server().threads()).collect();
        let parties = Parties::new(roots, load);
        Ok(Self { parties, runs, _haproxy: haproxy, _servers: servers, row })
    }

    pub(super) fn parties(&self) -> &Parties {
        &self.parties
    }

    pub(super) fn target(&self) -> Target<'_> {
        Target { address: SERVICE.into(), netns: Some(&self.row.client().netns), rewrites: false }
    }

    /// That it was the fast paths that passed the packets.
    ///
    /// # Errors
    /// When the kernel or the functions passed more than a few of them.
    pub(super) fn check(&mut self, bench: &Bench) -> Result<(), BenchError> {
        for run in &mut self.runs {
            let stats = run.stats()?;
            for hop in &stats.hops {
                let fast = hop.fast_path.as_ref().ok_or_else(|| {
                    BenchError::Failed(format!("`{}` has no fast path; the run said: {}", hop.name, run.log()))
                })?;
                let share = fast.hits as f64 / fast.entered.max(1) as f64;
                if share < 0.99 {
                    bench.progress(&format!("`{}` passed {:.1} % in its fast path: {fast:?}", hop.name, share * 100.0));
                }
            }
        }
        Ok(())
    }

    pub(super) fn stop(self) -> Result<(), BenchError> {
        self.runs.into_iter().try_for_each(|run| run.stop().map(drop))
    }
}

fn lay(layout: Layout) -> Result<Row, BenchError> {
    let (client, servers) = (["10.71.0.2/24", "10.71.0.1/24"], ["10.73.0.1/24", "10.73.0.11/24"]);
    let ends = |[near, far]: [&'static str; 2]| [Some(near), Some(far)];
    let row = match layout {
        Layout::One => Row::lay(&["client", "box", "servers"], &[ends(client), ends(servers)])?,
        Layout::Separate => {
            let between = ends(["10.72.0.1/24", "10.72.0.2/24"]);
            let row = Row::lay(&["client", "fw", "lb", "servers"], &[ends(client), between, ends(servers)])?;
            row.boxes()[0].route("default", "10.72.0.2")?;
            row.boxes()[1].route("default", "10.72.0.1")?;
            row
        }
    };
    row.client().route("default", "10.71.0.1")?;
    row.server().route("default", "10.73.0.1")?;
    let balancer = &row.boxes()[row.boxes().len() - 1];
    balancer.netns.exec("ip", ["addr", "add", &format!("{}/32", SERVICE.ip()), "dev", "lo"])?;
    let second = row.server().devices();
    row.server().netns.exec("ip", ["addr", "add", &format!("{}/24", SERVERS[1].ip()), "dev", second[0]])?;
    Ok(row)
}

fn elb() -> Value {
    let servers = SERVERS.map(|server| json!({ "address": server.ip(), "port": server.port() }));
    let service = json!({ "address": SERVICE.ip(), "port": SERVICE.port(), "servers": servers });
    json!({ "elb": { "mode": "offloading", "placement": "inline", "config": { "services": [service] } } })
}

fn manifest(host: &Host, functions: &[Value]) -> Value {
    let devices = host.devices();
    json!({
        "ports": { "left": { "xdp": devices[0] }, "right": { "xdp": devices[1] } },
        "cores": { "manager": [BOX_CORE] },
        "chains": { "web": { "ports": ["left", "right"], "functions": functions } },
    })
}

/// Waits until all neighbours are known and a request is answered.
fn wait_for_answer(row: &Row) -> Result<(), BenchError> {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&SERVICE.into(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /new/page HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200 "))
    };
    let mut last = None;
    let answered = wait_until("an answer of the web servers", PATIENCE, || {
        let answer = row.client().netns.enter(ask);
        let is_answered = matches!(&answer, Ok(Ok(true)));
        last = Some(answer);
        is_answered
    });
    answered.map_err(|error| match last {
        Some(Ok(Err(why))) => BenchError::Failed(format!("{error}: {why}")),
        _ => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_balancer_has_all_servers() {
        let elb = elb();
        let service = &elb["elb"]["config"]["services"][0];
        assert_eq!(service["address"], "10.80.0.1");
        assert_eq!(service["servers"][1], json!({ "address": "10.73.0.12", "port": 80 }));
    }
}
