//! What happens, in order.

use std::path::Path;
use std::time::{Duration, Instant};

use middlenet_tests::vm::{Outside, Vm};
use middlenet_tests::{Backend, Error, RunStatus, binary, wait_until};

use crate::run::Run;
use crate::site::{
    self, BACKEND, Card, DIRECT, KERNEL, KERNEL_MAC, ROUTED, ROUTER, ROUTER_MAC, SERVICE, TAGGED_MAC, TRANSIT,
    TRANSIT_MAC, VLAN,
};
use crate::{Failure, Report, fail};

/// Packets of one round of transit.
const ROUND: u64 = 200;
/// A port that a rule drops.
const REFUSED: u16 = 667;
/// Seconds that a request may take.
const PATIENCE: u32 = 20;
/// How long a mended path may take.
const MENDED: Duration = Duration::from_secs(60);

pub(crate) fn play(image: &Path, report: &mut Report) -> Result<(), Failure> {
    let outside = report.step("a host outside", || Ok((site::outside()?, "one end of the wire".into())))?;
    let backend = report.step("a backend outside", || Ok((Backend::start(&outside.host, BACKEND)?, BACKEND.into())))?;
    let mut vm = report.step("boot", || {
        let mut vm = Vm::boot(image, &binary("middlenet-test-guest")?, &outside)?;
        let kernel = vm.sh("uname -r")?;
        Ok((vm, format!("Linux {kernel}")))
    })?;
    let vm = &mut vm;
    let card = report.step("a card with a physical function", || {
        let card = site::find_card(vm)?;
        let functions = site::functions(vm, &card)?;
        if functions != "0" {
            return fail(format!("there are virtual functions already: {functions}"));
        }
        let seen = format!("{} at {}", card.device, card.address);
        Ok((card, seen))
    })?;
    let run = report.step("middlenet makes virtual functions and runs", || {
        let run = Run::start(vm, &manifest(&card))?;
        let status = run.wait_for(vm, "both data planes", Duration::from_secs(20), |status| {
            status.is_running() && status.serves_requests()
        })?;
        let kernel = site::kernel_function(vm, &card)?;
        let kind = status.port("vf0")["kind"].as_str().unwrap_or_default().to_owned();
        Ok((run, format!("VF 0: {kind}; VF 1: {kernel}")))
    })?;
    report.step("requests by VF 1", || requests(&outside, DIRECT, 20, PATIENCE))?;
    report.step("transit by VF 0", || transit(vm, &outside, &run))?;
    report.step("requests by VF 0, the card's switch and VF 1", || requests(&outside, ROUTED, 20, PATIENCE))?;
    report.step("rules by address and VLAN", || rules(vm, &outside, &run))?;
    report.step("accounts", || accounts(vm, &run, &backend))?;
    report.step("the wire is pulled, and plugged in again", || {
        let before = restarts(vm, &run)?;
        vm.set_wire(false)?;
        wire_is(vm, &card, false)?;
        let none = outside.frames_to(TRANSIT_MAC);
        send(&outside, (TRANSIT, 9), ROUND / 10)?;
        run.wait_for(vm, "the port's notice", MENDED, |status| status.port("vf0")["link_up"] == false)?;
        if outside.frames_to(TRANSIT_MAC) != none {
            return fail("packets pass without a wire");
        }
        vm.set_wire(true)?;
        wire_is(vm, &card, true)?;
        restarted(vm, &run, before)?;
        both_paths(vm, &outside, &run)
    })?;
    report.step("the physical function goes down and up", || {
        let before = restarts(vm, &run)?;
        vm.sh(&format!("ip link set {0} down; sleep 1; ip link set {0} up", card.device))?;
        wire_is(vm, &card, true)?;
        let why = restarted(vm, &run, before)?;
        let ((), seen) = both_paths(vm, &outside, &run)?;
        let times = restarts(vm, &run)? - before;
        Ok(((), format!("restarted {times} times because {why}; {seen}")))
    })?;
    report.step("accounts after it", || accounts(vm, &run, &backend))?;
    report.step("the end, and no virtual function left", || {
        let log = run.stop(vm)?;
        let functions = site::functions(vm, &card)?;
        if functions != "0" {
            return fail(format!("virtual functions stay: {functions}; log: {log}"));
        }
        Ok(((), log.lines().last().unwrap_or_default().to_owned()))
    })?;
    crate::flows::play(vm, &outside, &card, report)
}

fn manifest(card: &Card) -> String {
    format!(
        "sriov:
  {device}:
    vfs:
      - {{ name: packets, use: dpdk, mac: '{ROUTER_MAC}' }}
      - {{ name: requests, use: kernel, mac: '{KERNEL_MAC}', address: ['{KERNEL}/24', '{SERVICE}/32'] }}
      - {{ name: tagged, use: dpdk, mac: '{tagged}', vlan: {VLAN} }}
ports:
  vf0: {{ vf: packets }}
  vf2: {{ vf: tagged }}
placement: inline
memory: {{ buffers: 4096 }}
chains:
  transit:
    layer: l2l3
    ports: [vf0]
    functions:
      - firewall: {{ default: allow, rules: [{{ proto: udp, dst_port: 666, allow: false }}] }}
      - l3-router:
          addresses: [{{ port: vf0, address: {ROUTER}/24 }}]
          routes: ['10.8.0.0/16 vf0', '10.7.0.0/16 {KERNEL} vf0']
          neighbours: [{{ ip: {TRANSIT}, mac: '{transit}', port: vf0 }}]
  sink: {{ ports: [vf2], functions: [firewall: {{ default: drop }}] }}
  web:
    layer: l4l7
    listen: ['{DIRECT}', '{ROUTED}']
    functions:
      - reverse-proxy: {{ upstreams: ['{BACKEND}'] }}
      - url-rewrite: {{ rules: [{{ match: '^/old/(.*)$', to: '/new/$1' }}] }}
steering:
  vf0:
    - {{ name: refused, to: drop, dst_mac: '{ROUTER_MAC}', proto: udp, dst_port: {REFUSED} }}
    - {{ name: mine, to: transit, dst_mac: ['{ROUTER_MAC}', 'ff:ff:ff:ff:ff:ff'] }}
    - {{ name: own, to: kernel, dst_mac: '{KERNEL_MAC}' }}
    - {{ to: kernel }}
  vf2:
    - {{ name: vlan, to: sink, dst_mac: '{tagged}', vlan: {VLAN} }}
    - {{ to: kernel }}
",
        device = card.device,
        transit = site::text(TRANSIT_MAC),
        tagged = site::text(TAGGED_MAC),
    )
}

/// Each packet gets to its side by its address and VLAN, and the rules behind that count it.
fn rules(vm: &mut Vm, outside: &Outside, run: &Run) -> Result<((), String), Error> {
    let before = run.status(vm)?;
    send(outside, (TRANSIT, REFUSED), ROUND / 10)?;
    let header = [TAGGED_MAC.as_slice(), &[0x52, 0x54, 0, 0xbb, 0, 1, 0x81, 0, 0, VLAN, 0x88, 0xb5]].concat();
    let frame: Vec<u8> = header.into_iter().chain([0x5a; 60]).collect();
    for _ in 0..ROUND / 10 {
        if !outside.send_frame(&frame) {
            return fail("the wire loses a frame");
        }
    }
    transit(vm, outside, run)?;
    let more = |status: &RunStatus, port: &str, rule: &str| status.decided(port, rule) - before.decided(port, rule);
    let status = run.wait_for(vm, "the rules' counts", Duration::from_secs(20), |status| {
        more(status, "vf2", "vlan") >= ROUND / 10 && more(status, "vf0", "mine") >= ROUND
    })?;
    let counts = ["refused", "mine", "own"].map(|rule| more(&status, "vf0", rule));
    let vlan = more(&status, "vf2", "vlan");
    // Who asks for an address meanwhile is counted as well.
    if counts[0] != ROUND / 10 || counts[1] > ROUND + 5 || counts[2] != 0 || vlan != ROUND / 10 {
        return fail(format!("VF 0: {counts:?}; VF 2: {vlan}; {:#}", status.port("vf2")));
    }
    Ok(((), format!("VF 0: {} dropped, {} taken; VF 2: {vlan} by VLAN", counts[0], counts[1])))
}

/// Asks the broker at `address`, one request at a time.
pub(crate) fn requests(outside: &Outside, address: &str, count: usize, seconds: u32) -> Result<((), String), Error> {
    for at in 0..count {
        let target = format!("http://{address}/old/{at}");
        let answer = outside.host.exec("curl", ["-sS", "--fail", "--max-time", &seconds.to_string(), &target])?.stdout;
        if answer.trim() != format!("GET /new/{at}") {
            return fail(format!("{target} is answered with {answer:?}"));
        }
    }
    Ok(((), format!("{count} of {count} answered")))
}

/// Sends packets to the router, and waits until all have come back out.
fn transit(vm: &mut Vm, outside: &Outside, run: &Run) -> Result<((), String), Error> {
    match arrive(outside, TRANSIT, ROUND) {
        Ok(()) => Ok(((), format!("{ROUND} of {ROUND} packets"))),
        Err(error) => fail(format!("{error}; {:#}", run.status(vm)?.0["data_plane"])),
    }
}

/// Sends packets to a station behind a router, and waits until all have come to it.
pub(crate) fn arrive(outside: &Outside, station: &str, packets: u64) -> Result<(), Error> {
    let before = outside.frames_to(TRANSIT_MAC);
    send(outside, (station, 9), packets)?;
    let arrived = || outside.frames_to(TRANSIT_MAC) - before;
    let waited = wait_until("the last packet of a round", Duration::from_secs(20), || arrived() >= packets);
    match waited {
        Ok(()) if arrived() == packets => Ok(()),
        _ => fail(format!("{} of {packets} packets came", arrived())),
    }
}

/// Waits until the kernel's view of the wire is this.
fn wire_is(vm: &mut Vm, card: &Card, plugged: bool) -> Result<(), Error> {
    let (wanted, script) = (u8::from(plugged).to_string(), format!("cat /sys/class/net/{}/carrier", card.device));
    wait_until("the change of the carrier", MENDED, || vm.sh(&script).is_ok_and(|text| text == wanted))
}

/// How often the port of VF 0 was restarted.
fn restarts(vm: &mut Vm, run: &Run) -> Result<u64, Error> {
    Ok(run.status(vm)?.port_count("vf0", "restarts"))
}

/// Waits until the port of VF 0 was restarted more often than `before`; returns why it was.
fn restarted(vm: &mut Vm, run: &Run, before: u64) -> Result<String, Error> {
    let more = |status: &RunStatus| status.port_count("vf0", "restarts") > before;
    let status = run.wait_for(vm, "a restart of the port", MENDED, more)?;
    Ok(status.port("vf0")["trouble"].as_str().unwrap_or_default().to_owned())
}

/// Waits until both layers work again, and looks closely then.
fn both_paths(vm: &mut Vm, outside: &Outside, run: &Run) -> Result<((), String), Error> {
    let began = Instant::now();
    let packets = wait_until("packets by VF 0", MENDED, || {
        let before = outside.frames_to(TRANSIT_MAC);
        send(outside, (TRANSIT, 9), 1).is_ok()
            && wait_until("it", Duration::from_millis(300), || outside.frames_to(TRANSIT_MAC) > before).is_ok()
    });
    let requested = wait_until("requests by VF 1", MENDED, || requests(outside, DIRECT, 1, 2).is_ok());
    if let Err(error) = packets.and(requested) {
        let status = run.status(vm)?;
        return fail(format!("{error}; {:#}; {}", status.port("vf0"), run.log(vm)?));
    }
    let mended = began.elapsed();
    std::thread::sleep(Duration::from_millis(500));
    transit(vm, outside, run)?;
    requests(outside, DIRECT, 10, PATIENCE)?;
    requests(outside, ROUTED, 10, PATIENCE)?;
    Ok(((), format!("both layers work again after {:.1} s", mended.as_secs_f64())))
}

/// Sends datagrams to a station behind a router.
pub(crate) fn send(outside: &Outside, station: (&str, u16), count: u64) -> Result<(), Error> {
    let fail = |source| Error::Socket { what: format!("send to {station:?}"), source };
    outside
        .host
        .enter(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            for at in 0..count {
                socket.send_to(&at.to_be_bytes(), station)?;
                // What the emulated card carries without loss.
                std::thread::sleep(Duration::from_micros(200));
            }
            Ok(())
        })?
        .map_err(fail)
}

fn accounts(vm: &mut Vm, run: &Run, backend: &Backend) -> Result<((), String), Error> {
    let status = run.rest(vm)?;
    let (packets, requests) = (status.conservation(), status.account("web"));
    if requests.answered != backend.requests() {
        return fail(format!("{requests:?}, but the backend saw {} requests", backend.requests()));
    }
    let seen = format!(
        "packets {} + {} = {} + {}; requests {} = {} answered",
        packets.received, packets.made, packets.sent, packets.dropped, requests.received, requests.answered
    );
    Ok(((), seen))
}
