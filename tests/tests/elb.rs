//! The load balancer between a client and three servers: connections outlast what happens to weights, servers and its process.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use middlenet_tests::{Conversation, Echo, End, Error, Line, Process, RunStatus, Runtime, Scratch, Veth, require_root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
/// An agent tells no load until it has looked for a minute.
const AGENTS: Duration = Duration::from_secs(100);
const SERVICE: &str = "192.0.2.80:80";

/// Client, load balancer, and three servers on one host.
struct Stage {
    line: Line,
    _servers: Vec<Echo>,
}

impl Stage {
    fn new() -> Result<Self, Error> {
        let line = Line::new()?;
        for host in [&line.client, &line.server] {
            // They take packets that a program sends.
            host.exec("ethtool", ["-K", "eth0", "gro", "on"])?;
        }
        let mut servers = Vec::new();
        for n in 11..14 {
            line.server.exec("ip", ["address", "add", &format!("10.2.0.{n}/24"), "dev", "eth0"])?;
            servers.push(Echo::start(&line.server, &format!("10.2.0.{n}:8080"))?);
        }
        Ok(Self { line, _servers: servers })
    }

    /// Lets the kernel of the middle route, as it does for functions that are offloaded.
    fn route_in_the_kernel(&self) -> Result<(), Error> {
        for (device, address) in [("wan", "10.1.0.1/24"), ("lan", "10.2.0.1/24")] {
            self.line.middle.exec("ip", ["address", "add", address, "dev", device])?;
        }
        self.line.middle.exec("sysctl", ["-qw", "net.ipv4.ip_forward=1"])?;
        Ok(())
    }

    fn connect(&self, count: usize) -> Result<Vec<Conversation>, Error> {
        (0..count).map(|_| Conversation::tcp(&self.line.client, SERVICE, SOON)).collect()
    }
}

/// How the function works.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Slow,
    Proactive,
    Offloading,
}

impl Way {
    /// A manifest with these servers, each its configuration, and more of the function's own.
    fn manifest(self, servers: [&str; 3], more: &str) -> String {
        let servers: Vec<String> =
            (11..).zip(servers).map(|(n, more)| format!("{{ address: 10.2.0.{n}, port: 8080, {more} }}")).collect();
        let services = format!("services: [{{ address: 192.0.2.80, port: 80, servers: [{}] }}]", servers.join(", "));
        self.around(&format!("{services}{more}"))
    }

    /// A manifest with this configuration of the function.
    fn around(self, config: &str) -> String {
        let mode = match self {
            Self::Slow => "",
            Self::Proactive => ", mode: proactive",
            Self::Offloading => ", mode: offloading",
        };
        let elb = format!("elb: {{ config: {{ {config} }}{mode} }}");
        match self {
            Self::Offloading => Line::manifest(&[&elb]),
            _ => Line::manifest(&[&elb, Line::ROUTER]),
        }
    }
}

fn servers<'s>(status: &'s RunStatus, field: &str) -> Vec<&'s Value> {
    let servers = status.instances("elb")[0]["report"]["services"][0]["servers"].as_array();
    servers.into_iter().flatten().map(|server| &server[field]).collect()
}

fn connections(status: &RunStatus) -> Vec<u64> {
    servers(status, "connections").into_iter().filter_map(Value::as_u64).collect()
}

fn all_speak(conversations: &mut [Conversation], text: &str) -> Result<(), Error> {
    conversations.iter_mut().try_for_each(|conversation| conversation.say(text.as_bytes(), SOON))
}

fn kill_elb(run: &Runtime) -> Result<(), Error> {
    let status = run.status()?;
    let (pid, restarts) = (status.pid("elb").expect("a process"), status.restarts("elb"));
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("the function can be killed");
    run.wait_for("the function's return", SOON, |status| status.is_running() && status.restarts("elb") > restarts)?;
    Ok(())
}

fn apply(run: &Runtime, manifest: &str) -> Result<(), Error> {
    let output = run.apply(manifest)?;
    assert!(output.status.success(), "{}", output.stderr);
    Ok(())
}

fn connections_outlast_everything(way: Way) -> Result<(), Error> {
    let stage = Stage::new()?;
    if way == Way::Offloading {
        stage.route_in_the_kernel()?;
    }
    let run = Runtime::start(&stage.line.middle, &way.manifest(["weight: 100", "weight: 100", "weight: 100"], ""))?;
    // So many that each server has some, but for one time in three million.
    let mut first = stage.connect(40)?;
    all_speak(&mut first, "to begin with")?;
    let status = run.wait_for("all connections in the report", SOON, |s| connections(s).iter().sum::<u64>() == 40)?;
    assert!(connections(&status).iter().all(|&n| n > 0), "{:?}", connections(&status));

    kill_elb(&run)?;
    all_speak(&mut first, "after a death")?;

    apply(&run, &way.manifest(["weight: 10", "weight: 200", "weight: 100"], ""))?;
    all_speak(&mut first, "after other weights")?;

    apply(&run, &way.manifest(["weight: 10, drain: true", "weight: 200", "weight: 100"], ""))?;
    all_speak(&mut first, "while one is on its way out")?;
    let status = run.wait_for("all connections in the report", SOON, |s| connections(s).iter().sum::<u64>() == 40)?;
    let left = connections(&status)[0];
    assert!(left > 0, "{:?}", connections(&status));
    let mut later = stage.connect(12)?;
    all_speak(&mut later, "to the others")?;
    let status = run.wait_for("all connections in the report", SOON, |s| connections(s).iter().sum::<u64>() == 52)?;
    assert_eq!(connections(&status)[0], left, "a server on its way out has a new connection");

    if way != Way::Slow {
        // What the kernel knows outlasts the process whatever the slots say.
        kill_elb(&run)?;
        all_speak(&mut first, "after another death")?;
        all_speak(&mut later, "after a death")?;
        let status = run.status()?;
        let fast: u64 = servers(&status, "fast_packets").iter().filter_map(|packets| packets.as_u64()).sum();
        assert!(fast >= 2 * 52, "{fast} packets passed in the kernel since the function is back");
    }

    drop(first);
    drop(later);
    if way == Way::Proactive {
        // Answers meet the router first, so each path sees one side close, and neither both: silence ends these. A process that begins
        // anew has none with time left from before.
        let servers = ["weight: 10, drain: true", "weight: 200", "weight: 100"];
        apply(&run, &way.manifest(servers, ", timeouts: { tcp_s: 2 }"))?;
        kill_elb(&run)?;
    }
    run.wait_for("the end of all connections", SOON, |status| connections(status) == [0, 0, 0])?;
    run.stop()?;
    Ok(())
}

#[test]
fn connections_outlast_weights_draining_and_a_death_without_a_fast_path() -> Result<(), Error> {
    require_root!(Ok(()));
    connections_outlast_everything(Way::Slow)
}

#[test]
fn connections_outlast_weights_draining_and_deaths_with_a_fast_path() -> Result<(), Error> {
    require_root!(Ok(()));
    connections_outlast_everything(Way::Proactive)
}

#[test]
fn connections_outlast_weights_draining_and_deaths_where_the_kernel_routes() -> Result<(), Error> {
    require_root!(Ok(()));
    connections_outlast_everything(Way::Offloading)
}

/// How long one side of a datagram's way is silent: more than twice as long as a connection may be without a packet.
const SILENCE: Duration = Duration::from_secs(7);
/// While the other side goes on.
const STEP: Duration = Duration::from_millis(100);

/// Clients and servers that speak by datagrams, each only when it is told to.
struct Datagrams {
    clients: Vec<UdpSocket>,
    servers: Vec<UdpSocket>,
}

impl Datagrams {
    fn new(line: &Line) -> Result<Self, Error> {
        let fail = |source| Error::Socket { what: "use a socket for datagrams".into(), source };
        let own = |socket: UdpSocket| socket.set_nonblocking(true).map(|()| socket);
        let server = |n| line.server.enter(|| UdpSocket::bind(format!("10.2.0.{n}:9000")).and_then(own))?.map_err(fail);
        let connected = |socket: UdpSocket| socket.connect(SERVICE).map(|()| socket).and_then(own);
        // Ports below those that the host gives out, so that each run has the same clients, and each server some of them.
        let client = |port| line.client.enter(|| UdpSocket::bind(("0.0.0.0", port)).and_then(connected))?.map_err(fail);
        Ok(Self {
            clients: (20_000..20_012).map(client).collect::<Result<_, Error>>()?,
            servers: (11..14).map(server).collect::<Result<_, Error>>()?,
        })
    }

    /// All clients send this until it has arrived of each: at which server of whom.
    fn arrive(&self, text: &str) -> HashMap<SocketAddr, usize> {
        let (mut at, end) = (HashMap::new(), Instant::now() + SOON);
        while at.len() < self.clients.len() {
            assert!(Instant::now() < end, "{text}: {} of {} arrived", at.len(), self.clients.len());
            self.clients.iter().for_each(|client| drop(client.send(text.as_bytes())));
            let look = Instant::now() + STEP;
            while Instant::now() < look {
                for (n, server) in self.servers.iter().enumerate() {
                    let mut bytes = [0; 64];
                    while let Ok((length, from)) = server.recv_from(&mut bytes) {
                        if &bytes[..length] == text.as_bytes() {
                            assert_eq!(*at.entry(from).or_insert(n), n, "{text}: {from} is at two servers");
                        }
                    }
                }
                std::thread::yield_now();
            }
        }
        at
    }

    /// Each server answers its clients.
    fn answer(&self, at: &HashMap<SocketAddr, usize>, text: &str) {
        at.iter().for_each(|(client, &server)| drop(self.servers[server].send_to(text.as_bytes(), client)));
    }

    /// Servers answer until each client has heard it from the service.
    fn are_answered(&self, at: &HashMap<SocketAddr, usize>, text: &str) {
        let end = Instant::now() + SOON;
        let mut waiting: Vec<&UdpSocket> = self.clients.iter().collect();
        while !waiting.is_empty() {
            assert!(Instant::now() < end, "{text}: {} clients hear nothing", waiting.len());
            self.answer(at, text);
            let look = Instant::now() + STEP;
            while Instant::now() < look {
                let mut bytes = [0; 64];
                waiting.retain(|client| {
                    !std::iter::from_fn(|| {
                        client.recv(&mut bytes).ok().map(|length| bytes[..length] == *text.as_bytes())
                    })
                    .any(|is_it| is_it)
                });
                std::thread::yield_now();
            }
        }
    }
}

/// Does something while `speak` is called over and over, and for as long as one side is to be silent.
fn meanwhile(speak: impl Fn() + Sync, act: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    let is_over = AtomicBool::new(false);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let speaker = scope.spawn(|| {
            while start.elapsed() < SILENCE || !is_over.load(Ordering::Relaxed) && start.elapsed() < 3 * SOON {
                speak();
                std::thread::sleep(STEP);
            }
        });
        let result = act();
        is_over.store(true, Ordering::Relaxed);
        speaker.join().expect("a thread that sends");
        result
    })
}

/// Datagrams have no handshake that would tell of a server that knows nothing: they have to arrive where they arrived before.
fn datagrams_stay_with_their_server(way: Way) -> Result<(), Error> {
    let stage = Stage::new()?;
    if way == Way::Offloading {
        stage.route_in_the_kernel()?;
    }
    let manifest = |servers: [&str; 3]| {
        let servers = (11..).zip(servers).map(|(n, more)| format!("{{ address: 10.2.0.{n}, port: 9000, {more} }}"));
        let servers = servers.collect::<Vec<_>>().join(", ");
        way.around(&format!(
            "services: [{{ address: 192.0.2.80, port: 80, protocol: udp, servers: [{servers}] }}], timeouts: {{ udp_s: 3 }}"
        ))
    };
    let run = Runtime::start(&stage.line.middle, &manifest(["weight: 100", "weight: 100", "weight: 100"]))?;
    let datagrams = Datagrams::new(&stage.line)?;
    let at = datagrams.arrive("to begin with");
    assert!((0..3).all(|server| at.values().any(|&n| n == server)), "{at:?}");
    // Only the servers send, while weights change and one is on its way out.
    meanwhile(
        || datagrams.answer(&at, "news"),
        || {
            apply(&run, &manifest(["weight: 100, drain: true", "weight: 1", "weight: 200"]))?;
            if way == Way::Slow { Ok(()) } else { kill_elb(&run) }
        },
    )?;
    assert_eq!(datagrams.arrive("after the clients' silence"), at);
    // Only the clients send, while weights change again.
    meanwhile(
        || datagrams.clients.iter().for_each(|client| drop(client.send(b"anybody there?"))),
        || apply(&run, &manifest(["weight: 100, drain: true", "weight: 200", "weight: 1"])),
    )?;
    datagrams.are_answered(&at, "after the servers' silence");
    assert_eq!(datagrams.arrive("in the end"), at);
    // When both are silent, a connection is over; so a server on its way out is left by all.
    run.wait_for("the end of all connections", SOON, |status| connections(status) == [0, 0, 0])?;
    assert!(datagrams.arrive("anew").values().all(|&server| server != 0));
    run.stop()?;
    Ok(())
}

#[test]
fn datagrams_stay_with_their_server_without_a_fast_path() -> Result<(), Error> {
    require_root!(Ok(()));
    datagrams_stay_with_their_server(Way::Slow)
}

#[test]
fn datagrams_stay_with_their_server_with_a_fast_path() -> Result<(), Error> {
    require_root!(Ok(()));
    datagrams_stay_with_their_server(Way::Proactive)
}

#[test]
fn datagrams_stay_with_their_server_where_the_kernel_routes() -> Result<(), Error> {
    require_root!(Ok(()));
    datagrams_stay_with_their_server(Way::Offloading)
}

/// The agents of the servers, on a network of their own.
struct Agents {
    _cable: Veth,
    _scratch: Scratch,
    agents: Vec<Process>,
}

impl Agents {
    fn start(stage: &Stage) -> Result<Self, Error> {
        let Stage { line, .. } = stage;
        let end = |host, address: &str| End::new(host, "mgmt").address(address);
        let cable = Veth::between(&end(&line.middle, "10.9.0.1/24"), &end(&line.server, "10.9.0.11/24"))?;
        for n in 12..14 {
            line.server.exec("ip", ["address", "add", &format!("10.9.0.{n}/24"), "dev", "mgmt"])?;
        }
        let scratch = Scratch::new()?;
        let file = scratch.write("snmpd.conf", "rocommunity middlenet\n")?;
        let mut agents = Vec::new();
        for n in 11..14 {
            let mut command = line.server.command("snmpd");
            command.args(["-f", "-Lo", "-C", "-c"]).arg(&file).arg("-p").arg(file.with_extension(n.to_string()));
            command.env("SNMP_PERSISTENT_DIR", file.with_extension(format!("state{n}")));
            let mut agent = Process::spawn(command.arg(format!("udp:10.9.0.{n}:161")))?;
            agent.wait_for_output("NET-SNMP version", SOON)?;
            agents.push(agent);
        }
        Ok(Self { _cable: cable, _scratch: scratch, agents })
    }
}

impl Way {
    /// A manifest whose weights follow what the agents tell.
    fn with_agents(self, snmp: &str, placement: &str) -> String {
        let feedback = format!(
            ", feedback: {{ snmp: {{ community: middlenet{snmp} }}, interval_ms: 1000, timeout_ms: 1000, fails: 3 }}"
        );
        let manifest = self.manifest(["agent: 10.9.0.11", "agent: 10.9.0.12", "agent: 10.9.0.13"], &feedback);
        manifest.replacen("elb: {", &format!("elb: {{ {placement}"), 1)
    }
}

/// Waits until all agents have told their load, and the weights have followed. Loads are those of this host, whatever they are; a
/// weight that stays as configured would mean exactly 0.95.
fn loads_are_told(run: &Runtime) -> Result<(), Error> {
    let status = run.wait_for("loads of all servers", AGENTS, |status| {
        let loads = servers(status, "load");
        let moved = servers(status, "weight_now").iter().all(|weight| weight.as_f64() != Some(100.0));
        let up = servers(status, "up") == [true, true, true];
        loads.len() == 3 && loads.iter().all(|load| load.as_f64().is_some()) && moved && up
    })?;
    for (load, weight) in servers(&status, "load").iter().zip(servers(&status, "weight_now")) {
        let (load, weight) = (load.as_f64().unwrap(), weight.as_f64().unwrap());
        assert!((0.0..=1.0).contains(&load) && (10.0..=200.0).contains(&weight), "{load} {weight}");
    }
    Ok(())
}

#[test]
fn weights_follow_the_load_that_snmp_agents_tell() -> Result<(), Error> {
    require_root!(Ok(()));
    let stage = Stage::new()?;
    let mut agents = Agents::start(&stage)?;
    // Inline, the function asks by itself.
    let inline = Way::Slow.with_agents(", metric: hr-processor-load", "placement: inline, ");
    let run = Runtime::start(&stage.line.middle, &inline)?;
    loads_are_told(&run)?;
    run.stop()?;
    // As a process, by way of the supervisor.
    let run = Runtime::start(&stage.line.middle, &Way::Slow.with_agents("", ""))?;
    let mut conversations = stage.connect(12)?;
    all_speak(&mut conversations, "to begin with")?;
    loads_are_told(&run)?;
    // One falls silent.
    agents.agents.remove(1).signal(Signal::SIGKILL);
    let status =
        run.wait_for("a server that is taken to be down", SOON, |s| servers(s, "up") == [true, false, true])?;
    assert_eq!(servers(&status, "slots")[1], 0);
    all_speak(&mut conversations, "those it has go on")?;
    let before = connections(&run.status()?)[1];
    let mut later = stage.connect(8)?;
    all_speak(&mut later, "to the others")?;
    let status = run.wait_for("all connections in the report", SOON, |s| connections(s).iter().sum::<u64>() == 20)?;
    assert_eq!(connections(&status)[1], before);
    assert!(status.counter("elb", "poll-failures") >= 3);
    drop((conversations, later));
    run.stop()?;
    Ok(())
}
