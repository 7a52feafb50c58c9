//! The third act: packets and requests on one interface, and rules that tell them apart.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use middlenet_plan::{BrokerStats, Stats};
use middlenet_runtime::api::Status;
use serde_json::{Value, json};

use super::packets::traffic::Transfer;
use super::packets::{OPEN_PORT, iperf_server};
use super::requests::account;
use super::requests::backend::Backend;
use super::requests::load::Load;
use super::{bars, heading, left_of, say};
use crate::BenchError;
use crate::lifetime::{gap_after_kill, kill_pid, pid_of};
use crate::programs::Programs;
use crate::run::{Run, pause};
use crate::stage::Stage;
use crate::table::{Table, count};
use crate::work_folder::WorkFolder;

const CLIENT: &str = "10.5.0.2";
const SERVER: &str = "10.6.0.2";
/// The broker's, on the interface that packets come by too.
const LISTEN: &str = "10.5.0.1:80";
/// The box's own address on the other interface, from which the broker connects.
const OWN: &str = "10.6.0.1";
const BACKENDS: [&str; 2] = ["10.6.0.11:80", "10.6.0.12:80"];
/// Each load by itself.
const ALONE: Duration = Duration::from_secs(2);
/// Both.
const TOGETHER: Duration = Duration::from_secs(5);
const ROUTER_DIES: Duration = Duration::from_millis(1_500);
const REWRITER_DIES: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(20);
/// Until the last connections are closed, and until a function is back.
const REST_PATIENCE: Duration = Duration::from_secs(5);

/// Plays it, and notes what was seen.
///
/// # Errors
/// When anything does not go as it should. Whatever was made is removed then too.
pub(super) fn run(programs: &Programs, seen: &mut Value) -> Result<(), BenchError> {
    println!("\n\nBoth on one interface: XDP hands each packet to the layer it needs\n");
    println!("                          +-- AF_XDP [ firewall -> l3-router ] ----------------------+");
    println!("  client {CLIENT} == left +                                                          + right == servers");
    println!("                          +-- kernel, {LISTEN} [ reverse-proxy -> url-rewrite ] --+");
    let namespaces = {
        let stage = stage()?;
        play(&stage, programs, seen)?;
        stage.paths()
    };
    left_of(&namespaces)
}

fn stage() -> Result<Stage, BenchError> {
    let stage = Stage::build(&format!("{CLIENT}/24"), &format!("{SERVER}/24"))?;
    for address in ["10.6.0.11/24", "10.6.0.12/24"] {
        stage.server.exec("ip", ["addr", "add", address, "dev", "eth0"])?;
    }
    stage.middle.exec("ip", ["addr", "add", "10.5.0.1/24", "dev", "left"])?;
    stage.middle.exec("ip", ["addr", "add", &format!("{OWN}/24"), "dev", "right"])?;
    stage.client.exec("ip", ["route", "add", "10.6.0.0/24", "via", "10.5.0.254"])?;
    stage.server.exec("ip", ["route", "add", "10.5.0.0/24", "via", "10.6.0.254"])?;
    Ok(stage)
}

fn manifest() -> Value {
    json!({
        "ports": { "left": { "xdp": "left" }, "right": { "xdp": "right" } },
        "steering": {
            "left": [{ "to": "web" }, { "to": "transit" }],
            "right": [
                { "name": "answers to the broker", "dst": OWN, "to": "kernel" },
                { "name": "its neighbours", "arp": OWN, "to": "kernel" },
                { "to": "transit" },
            ],
        },
        "chains": {
            "transit": { "ports": ["left", "right"], "functions": [
                { "firewall": { "default": "drop", "rules": [
                    { "proto": "icmp", "allow": true },
                    { "proto": "tcp", "dst_port": OPEN_PORT, "allow": true },
                ] } },
                { "l3-router": { "addresses": [
                    { "port": "left", "address": "10.5.0.254/24" },
                    { "port": "right", "address": "10.6.0.254/24" },
                ] } },
            ] },
            "web": { "layer": "l4l7", "listen": LISTEN, "functions": [
                { "reverse-proxy": { "upstreams": BACKENDS } },
                { "url-rewrite": { "rules": [{ "match": "^/old/(.*)$", "to": "/new/$1" }] } },
            ] },
        },
    })
}

fn play(stage: &Stage, programs: &Programs, seen: &mut Value) -> Result<(), BenchError> {
    let folder = WorkFolder::new()?;
    let mut backends = Vec::new();
    for (at, text) in BACKENDS.into_iter().enumerate() {
        let listen: SocketAddr = text.parse().map_err(|_| BenchError::Failed(format!("`{text}` is no address")))?;
        backends.push(Backend::start(&stage.server, &folder, at + 1, listen)?);
    }
    heading("start: one run, both data planes; the same interfaces for both");
    let start = Instant::now();
    let mut run = Run::start(programs, &folder, Some(&stage.middle), manifest())?;
    say(format_args!("up in {:.0} ms", start.elapsed().as_secs_f64() * 1e3));

    heading("iperf3 and ab: each by itself, then both at once; with both, a function of each layer is killed");
    seen["loads"] = loads(stage, &folder, &mut run)?;

    heading("steering: what XDP handed to whom");
    let status = run.wait_until("rest after the loads", REST_PATIENCE, is_at_rest)?;
    let (packets, requests) = planes(&status)?;
    print!("{}", steering(packets)?.render(2));
    let handed: u64 = packets.ports.iter().flat_map(|port| &port.steering).map(|s| chosen(s, "web")).sum();
    if handed == 0 {
        return Err(BenchError::Failed("no packet was handed to the broker's chain".into()));
    }
    let sums = &packets.conservation;
    say(format_args!(
        "{} received + {} made = {} sent + {} dropped + {} held: the account of packets is even",
        count(sums.received_pkts),
        count(sums.originated_pkts),
        count(sums.sent_pkts),
        count(sums.dropped_pkts),
        count(sums.held_pkts)
    ));
    say(format_args!("{} requests answered: the account of requests is even", count(account::answered(requests))));
    seen["ports"] = json!(packets.ports);
    seen["conservation"] = json!(packets.conservation);
    seen["chains"] = json!(requests.chains);
    run.stop()?;
    drop(backends);
    Ok(())
}

fn planes(status: &Status) -> Result<(&Stats, &BrokerStats), BenchError> {
    let both = status.data_plane.as_ref().zip(status.messages.as_ref());
    both.ok_or_else(|| BenchError::Failed("a data plane is down".into()))
}

fn is_at_rest(status: &Status) -> bool {
    planes(status).is_ok_and(|(packets, requests)| {
        packets.conservation.held_pkts == 0
            && packets.conservation.packets_balance()
            && account::is_even(requests)
            && requests.buffers_free == requests.buffers
    })
}

fn loads(stage: &Stage, folder: &WorkFolder, run: &mut Run) -> Result<Value, BenchError> {
    let server = iperf_server(stage)?;
    let seconds = |time: Duration| time.as_secs().to_string();
    let transfer = Transfer::start_to(stage, SERVER, &["-t", &seconds(ALONE)])?;
    let packets_alone = Transfer::parse(&transfer.wait(PATIENCE)?.stdout)?;
    let requests_alone = Load::start(stage, folder, LISTEN, ALONE)?.wait()?;

    let start = Instant::now();
    let transfer = Transfer::start_to(stage, SERVER, &["-t", &seconds(TOGETHER), "-i", "0.1"])?;
    let load = Load::start(stage, folder, LISTEN, TOGETHER)?;
    pause(ROUTER_DIES.saturating_sub(start.elapsed()))?;
    let router_gap = gap_after_kill(run, "l3-router")?;
    pause(REWRITER_DIES.saturating_sub(start.elapsed()))?;
    let rewriter_gap = rewriter_dies(run)?;
    let packets = Transfer::parse(&transfer.wait(PATIENCE)?.stdout)?;
    let requests = load.wait()?;
    drop(server);

    let mut table = Table::new(["", "TCP through transit", "requests through web", "99 of 100 within"]);
    let gbps = |transfer: &Transfer| format!("{:.2} Gb/s", transfer.received_bps / 1e9);
    let rps = |rate: f64| format!("{}/s", count(rate as u64));
    let ms = |ms: f64| format!("{ms:.2} ms");
    table.row(["alone".into(), gbps(&packets_alone), rps(requests_alone.rate_rps), ms(requests_alone.p99_ms)]);
    table.row(["together".into(), gbps(&packets), rps(requests.rate_rps), ms(requests.p99_ms)]);
    print!("{}", table.render(2));
    say(format_args!("TCP, 0.1 s each: {}", bars(&packets.intervals_bps)));
    let milliseconds = |gap: Duration| gap.as_secs_f64() * 1e3;
    say(format_args!(
        "l3-router killed after {:.1} s, packets through its successor {:.1} ms later; url-rewrite after {:.1} s, {:.1} ms",
        ROUTER_DIES.as_secs_f64(),
        milliseconds(router_gap),
        REWRITER_DIES.as_secs_f64(),
        milliseconds(rewriter_gap)
    ));
    say(format_args!("{} requests in all, {} of them failed", count(requests.complete), count(requests.bad())));
    if packets.received_bps <= 0.0 || requests.bad() > requests.complete / 100 {
        return Err(BenchError::Failed("one load did not get through beside the other".into()));
    }
    Ok(json!({
        "alone": { "packets": packets_alone, "requests": requests_alone },
        "together": { "packets": packets, "requests": requests },
        "router_back_ms": milliseconds(router_gap),
        "rewriter_back_ms": milliseconds(rewriter_gap),
    }))
}

/// Kills the function of requests; returns the time until requests pass its successor.
fn rewriter_dies(run: &mut Run) -> Result<Duration, BenchError> {
    let name = "url-rewrite";
    let old = pid_of(&run.status()?, name)
        .ok_or_else(|| BenchError::Failed(format!("`{name}` does not run before it is killed")))?;
    let killed = Instant::now();
    kill_pid(old)?;
    let mut before = None;
    run.wait_until("requests through the function's successor", REST_PATIENCE, |status| {
        let hops = status.messages.iter().flat_map(|stats| &stats.hops);
        let passed: u64 = hops.filter(|hop| hop.name == name).map(|hop| hop.messages).sum();
        pid_of(status, name).is_some_and(|pid| pid != old) && *before.get_or_insert(passed) < passed
    })?;
    Ok(killed.elapsed())
}

/// Packets that rules of a port handed to a target.
fn chosen(steering: &middlenet_plan::SteeringStats, to: &str) -> u64 {
    steering.rules.iter().filter(|rule| rule.to == to).map(|rule| rule.pkts).sum()
}

fn steering(stats: &Stats) -> Result<Table, BenchError> {
    let mut table = Table::new(["steering", "rule", "to", "by", "packets", "MB"]);
    for port in &stats.ports {
        let rules = port.steering.as_ref().ok_or_else(|| BenchError::Failed(format!("{} has no rules", port.name)))?;
        for rule in &rules.rules {
            table.row([
                port.name.clone(),
                rule.name.clone(),
                rule.to.clone(),
                rules.by.clone(),
                count(rule.pkts),
                count(rule.bytes / 1_000_000),
            ]);
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use middlenet_plan::{PortStats, SteeredStats, SteeringStats};

    #[test]
    fn every_rule_has_a_line_with_what_it_handed_over() {
        let rule = |name: &str, to: &str, pkts| SteeredStats {
            name: name.into(),
            to: to.into(),
            pkts,
            bytes: 3_000_000,
            uncounted: false,
        };
        let rules = vec![rule("#1 tcp", "web", 1234), rule("#1 arp", "web", 1), rule("else", "transit", 9)];
        let steering_stats = SteeringStats { by: "xdp".into(), rules, ..SteeringStats::default() };
        assert_eq!(chosen(&steering_stats, "web"), 1235);
        let port = PortStats { name: "left".into(), steering: Some(steering_stats), ..PortStats::default() };
        let text = steering(&Stats { ports: vec![port], ..Stats::default() }).unwrap().render(0);
        let line = text.lines().find(|line| line.contains("#1 tcp")).unwrap();
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["left", "#1", "tcp", "web", "xdp", "1", "234", "3"]);
        assert!(steering(&Stats { ports: vec![PortStats::default()], ..Stats::default() }).is_err());
    }
}
