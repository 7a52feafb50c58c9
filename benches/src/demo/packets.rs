//! The first act: three functions between a client and a server, and what they do with packets.

pub(super) mod account;
pub(super) mod traffic;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use middlenet_runtime::api::Status;
use middlenet_tests::Process;
use serde_json::{Value, json};

use super::{bars, heading, left_of, say};
use crate::BenchError;
use crate::lifetime::{gap_after_kill, pid_of};
use crate::programs::Programs;
use crate::run::{Run, pause};
use crate::stage::Stage;
use crate::table::count;
use crate::tool::Tool;
use crate::work_folder::WorkFolder;
use traffic::{Ping, Transfer};

/// What this act needs of the host.
pub(super) const TOOLS: [Tool; 4] = [
    Tool { program: "ip", package: "iproute2" },
    Tool { program: "ethtool", package: "ethtool" },
    Tool { program: "ping", package: "iputils-ping" },
    Tool { program: "iperf3", package: "iperf3" },
];

const CLIENT: &str = "10.1.0.2";
const SERVER: &str = "10.2.0.2";
/// What iperf3 listens on; the firewall lets it pass.
pub(super) const OPEN_PORT: u16 = 5201;
/// A server listens here too, but the firewall has no rule for it.
const SILENT_PORT: u16 = 8080;
/// And here, but the firewall has a rule against it.
const REFUSED_PORT: u16 = 9090;
/// How long the client tries a port that does not answer.
const CONNECT_PATIENCE: Duration = Duration::from_millis(1500);
/// Seconds of the transfer in which a function dies.
const LONG_TRANSFER: u64 = 5;
/// Into that transfer, when it has found its speed.
const BEFORE_KILL: Duration = Duration::from_millis(2000);
/// Until the last acknowledgements and closed connections are through.
const REST_PATIENCE: Duration = Duration::from_secs(5);

/// Plays it, and notes what was seen.
///
/// # Errors
/// When anything does not go as it should. Whatever was made is removed then too.
pub(super) fn run(programs: &Programs, seen: &mut Value) -> Result<(), BenchError> {
    println!("\nPackets: three network functions, each in a process of its own, between two hosts\n");
    println!("  client {CLIENT}  ==  left [ firewall -> l3-router -> monitor ] right  ==  {SERVER} server");
    let namespaces = {
        let stage = stage()?;
        play(&stage, programs, seen)?;
        stage.paths()
    };
    left_of(&namespaces)
}

/// The hosts, with their routes.
fn stage() -> Result<Stage, BenchError> {
    let stage = Stage::build(&format!("{CLIENT}/24"), &format!("{SERVER}/24"))?;
    stage.client.exec("ip", ["route", "add", "default", "via", "10.1.0.1"])?;
    stage.server.exec("ip", ["route", "add", "default", "via", "10.2.0.1"])?;
    Ok(stage)
}

fn manifest() -> Value {
    json!({
        "ports": { "left": { "xdp": "left" }, "right": { "xdp": "right" } },
        "chains": { "transit": { "ports": ["left", "right"], "functions": [
            { "firewall": { "default": "drop", "rules": [
                { "proto": "icmp", "allow": true },
                { "proto": ["tcp", "udp"], "dst_port": OPEN_PORT, "allow": true },
                { "proto": "tcp", "dst_port": REFUSED_PORT, "reject": true },
            ] } },
            { "l3-router": { "addresses": [
                { "port": "left", "address": "10.1.0.1/24" },
                { "port": "right", "address": "10.2.0.1/24" },
            ] } },
            "monitor",
        ] } },
    })
}

fn play(stage: &Stage, programs: &Programs, seen: &mut Value) -> Result<(), BenchError> {
    let folder = WorkFolder::new()?;
    heading("start: the runtime shares one memory with three processes and attaches to both cables by XDP");
    let start = Instant::now();
    let mut run = Run::start(programs, &folder, Some(&stage.middle), manifest())?;
    say(format_args!("up in {:.0} ms", start.elapsed().as_secs_f64() * 1e3));
    introduce(&run.status()?);

    seen["ping"] = ping(stage)?;
    seen["transfers"] = transfers(stage)?;
    seen["blocked"] = blocked(stage, &mut run)?;
    seen["killed"] = killed(stage, &mut run)?;

    heading("account: every packet that came in went out, was dropped for a reason, or was made or held by a function");
    let status = run.wait_until("rest after the traffic", REST_PATIENCE, |status| {
        status.data_plane.as_ref().is_some_and(|d| d.conservation.held_pkts == 0 && d.conservation.packets_balance())
    })?;
    let stats = status.data_plane.as_ref().ok_or_else(|| BenchError::Failed("the data plane is down".into()))?;
    print!("{}", account::text(stats));
    seen["ports"] = json!(stats.ports);
    seen["hops"] = json!(stats.hops);
    seen["conservation"] = json!(stats.conservation);

    heading("stop: packets under way leave, the XDP programs are detached, the memory is given back");
    run.stop()?;
    for device in ["left", "right"] {
        let link = stage.middle.exec("ip", ["-details", "link", "show", "dev", device])?.stdout;
        if link.contains("xdp") {
            return Err(BenchError::Failed(format!("an XDP program is still attached to `{device}`: {link}")));
        }
    }
    say("no XDP program is left on either interface, no process runs");
    Ok(())
}

fn introduce(status: &Status) {
    let pid = |pid: Option<u32>| pid.map_or_else(|| "-".into(), |pid| pid.to_string());
    say(format_args!("supervisor {}, nf-manager {}", status.pid, pid(status.manager.pid)));
    for function in &status.functions {
        say(format_args!("{:<10} process {}, cores {:?}", function.name, pid(function.process.pid), function.cores));
    }
    if let Some(stats) = &status.data_plane {
        let ports: Vec<String> = stats.ports.iter().map(|p| format!("{} ({})", p.name, p.kind)).collect();
        say(format_args!("ports: {}", ports.join(", ")));
    }
    status.notes.iter().for_each(|note| say(format_args!("note: {note}")));
}

/// The first packets: the router asks for link addresses and holds them meanwhile.
fn ping(stage: &Stage) -> Result<Value, BenchError> {
    heading("ping: through the firewall, routed, counted; the first one waits until the router knows the server");
    let output = stage.client.exec("ping", ["-n", "-c", "20", "-i", "0.05", "-W", "2", SERVER])?;
    let ping = Ping::parse(&output.stdout)?;
    say(format_args!(
        "{} sent, {} answered; round trip {:.3} ms on average, {:.3} ms at best",
        ping.sent, ping.answered, ping.average_ms, ping.least_ms
    ));
    if ping.answered != ping.sent {
        return Err(BenchError::Failed(format!("{} pings were not answered", ping.sent - ping.answered)));
    }
    Ok(json!(ping))
}

fn transfers(stage: &Stage) -> Result<Value, BenchError> {
    heading("iperf3: through three processes without a copy between them; the kernel copies on entry and on exit");
    let server = iperf_server(stage)?;
    let tcp = Transfer::run(stage, &["-t", "3"])?;
    say(format_args!("TCP  {:.2} Gb/s received, {} segments sent again", tcp.received_bps / 1e9, count(tcp.resent)));
    let udp = Transfer::run(stage, &["-u", "-b", "300M", "-l", "1400", "-t", "2"])?;
    say(format_args!(
        "UDP  {:.2} Gb/s of 0.30 offered, {} of {} datagrams lost ({:.2} %)",
        udp.received_bps / 1e9,
        count(udp.lost),
        count(udp.datagrams),
        100.0 * udp.lost as f64 / udp.datagrams.max(1) as f64
    ));
    drop(server);
    if tcp.received_bps <= 0.0 || udp.received_bps <= 0.0 {
        return Err(BenchError::Failed("nothing arrived".into()));
    }
    Ok(json!({ "tcp": tcp, "udp": udp }))
}

pub(super) fn iperf_server(stage: &Stage) -> Result<Process, BenchError> {
    let mut server = stage.server.spawn("iperf3", ["-s", "-p", &OPEN_PORT.to_string(), "--forceflush"])?;
    server.wait_for_output("Server listening", Duration::from_secs(5))?;
    Ok(server)
}

/// Servers listen on both ports, so only the firewall can be what a client meets.
fn blocked(stage: &Stage, run: &mut Run) -> Result<Value, BenchError> {
    heading("firewall: two ports on which the server listens, but that the rules do not let through");
    let address = |port| SocketAddr::from(([10, 2, 0, 2], port));
    let listen = || [SILENT_PORT, REFUSED_PORT].map(|port| TcpListener::bind(address(port)));
    let listeners = stage.server.enter(listen)?;
    if let Some(error) = listeners.iter().find_map(|l| l.as_ref().err()) {
        return Err(BenchError::Failed(format!("the server cannot listen: {error}")));
    }
    let before = account::dropped_by(&run.stats()?, "firewall");
    let connect = |port| {
        stage.client.enter(|| TcpStream::connect_timeout(&address(port), CONNECT_PATIENCE).err().map(|e| e.kind()))
    };
    let (silent, refused) = (connect(SILENT_PORT)?, connect(REFUSED_PORT)?);
    let dropped = account::dropped_by(&run.stats()?, "firewall") - before;
    let words = |kind: Option<std::io::ErrorKind>| kind.map_or_else(|| "connected".into(), |kind| kind.to_string());
    say(format_args!(
        "port {SILENT_PORT}, no rule:        {} (as it should be: nobody says that there is something)",
        words(silent)
    ));
    say(format_args!(
        "port {REFUSED_PORT}, `reject: true`: {} (as it should be: the firewall answers)",
        words(refused)
    ));
    say(format_args!("the firewall dropped {dropped} packets meanwhile, each under its reason"));
    if silent != Some(std::io::ErrorKind::TimedOut) || refused != Some(std::io::ErrorKind::ConnectionRefused) {
        return Err(BenchError::Failed("a blocked port did not behave as blocked".into()));
    }
    if dropped == 0 {
        return Err(BenchError::Failed("the firewall counts no drops".into()));
    }
    Ok(json!({ "without_rule": words(silent), "reject": words(refused), "dropped_pkts": dropped }))
}

fn killed(stage: &Stage, run: &mut Run) -> Result<Value, BenchError> {
    heading("SIGKILL: the router dies in the middle of a transfer; a new one takes its place, and TCP goes on");
    let server = iperf_server(stage)?;
    let client = Transfer::start(stage, &["-t", &LONG_TRANSFER.to_string(), "-i", "0.1"])?;
    pause(BEFORE_KILL)?;
    let number = |status: &Status| pid_of(status, "l3-router").map_or_else(|| "?".into(), |pid| pid.to_string());
    let victim = number(&run.status()?);
    let gap = gap_after_kill(run, "l3-router")?;
    let status = run.status()?;
    let transfer = Transfer::parse(&client.wait(Duration::from_secs(LONG_TRANSFER + 15))?.stdout)?;
    drop(server);
    let gap_ms = gap.as_secs_f64() * 1e3;
    say(format_args!(
        "process {} killed; packets through its successor {} after {gap_ms:.1} ms",
        victim,
        number(&status)
    ));
    say(format_args!("what the sender saw, 0.1 s each: {}", bars(&transfer.intervals_bps)));
    say(format_args!("{:.2} Gb/s over all {LONG_TRANSFER} s; nobody else was restarted", transfer.received_bps / 1e9));
    let others = status.functions.iter().filter(|f| f.name != "l3-router").any(|f| f.process.restarts > 0);
    if status.manager.restarts > 0 || others {
        return Err(BenchError::Failed("another process was restarted too".into()));
    }
    if transfer.intervals_bps.iter().rev().take(10).all(|bps| *bps <= 0.0) {
        return Err(BenchError::Failed("the transfer did not recover in its last second".into()));
    }
    Ok(json!({ "gap_ms": gap_ms, "transfer": transfer }))
}
