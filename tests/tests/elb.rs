//! The load balancer between a client and three servers: connections outlast what happens to weights, servers and its process.

use std::time::Duration;

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
        let mode = match self {
            Self::Slow => "",
            Self::Proactive => ", mode: proactive",
            Self::Offloading => ", mode: offloading",
        };
        let elb = format!("elb: {{ config: {{ {services}{more} }}{mode} }}");
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
    let mut first = stage.connect(24)?;
    all_speak(&mut first, "to begin with")?;
    let status = run.wait_for("all connections in the report", SOON, |s| connections(s).iter().sum::<u64>() == 24)?;
    assert!(connections(&status).iter().all(|&n| n > 0), "{:?}", connections(&status));

    kill_elb(&run)?;
    all_speak(&mut first, "after a death")?;

    apply(&run, &way.manifest(["weight: 10", "weight: 200", "weight: 100"], ""))?;
    all_speak(&mut first, "after other weights")?;

    apply(&run, &way.manifest(["weight: 10, drain: true", "weight: 200", "weight: 100"], ""))?;
    all_speak(&mut first, "while one is on its way out")?;
    let status = run.wait_for("all connections in the report", SOON, |s| connections(s).iter().sum::<u64>() == 24)?;
    let left = connections(&status)[0];
    assert!(left > 0, "{:?}", connections(&status));
    let mut later = stage.connect(12)?;
    all_speak(&mut later, "to the others")?;
    let status = run.wait_for("all connections in the report", SOON, |s| connections(s).iter().sum::<u64>() == 36)?;
    assert_eq!(connections(&status)[0], left, "a server on its way out has a new connection");

    if way != Way::Slow {
        // What the kernel knows outlasts the process whatever the slots say.
        kill_elb(&run)?;
        all_speak(&mut first, "after another death")?;
        all_speak(&mut later, "after a death")?;
        let status = run.status()?;
        let fast: u64 = servers(&status, "fast_packets").iter().filter_map(|packets| packets.as_u64()).sum();
        assert!(fast > 200, "{fast} packets passed in the kernel");
    }

    drop(first);
    drop(later);
    run.wait_for("the end of all connections", SOON, |status| connections(status).iter().sum::<u64>() == 0)?;
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
            ", feedback: {{ snmp: {{ community: middlenet{snmp} }}, interval_ms: 500, timeout_ms: 400, fails: 3 }}"
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
        loads.len() == 3 && loads.iter().all(|load| load.as_f64().is_some()) && moved
    })?;
    assert_eq!(servers(&status, "up"), [true, true, true]);
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
    let status = run.status()?;
    assert_eq!(connections(&status)[1], before);
    assert!(status.counter("elb", "poll-failures") >= 3);
    drop((conversations, later));
    run.stop()?;
    Ok(())
}
