//! One interface that DPDK and the kernel share by flows, as on NICs that split natively: `net_tap` takes what it is asked for (`rte_flow`)
//! from the physical function's interface by `tc`, and leaves the rest there.

use std::time::Duration;

use middlenet_tests::vm::{Outside, Vm};
use middlenet_tests::{Error, RunStatus};

use crate::run::Run;
use crate::scenario::{arrive, requests, send};
use crate::site::{self, BACKEND, Card, TRANSIT_BY_WHOLE, TRANSIT_MAC, WHOLE};
use crate::{Failure, Report, fail};

/// Packets of a round.
const ROUND: u64 = 50;
/// A station whose packets the device is told to drop.
const NOISE: &str = "10.6.0.66";
const DROP: &str = "{ name: noise, to: drop, vlan: untagged, dst: 10.6.0.66 }";
const TAKE: &str = "{ name: mine, to: transit, vlan: untagged, dst: 10.6.0.0/16 }";
/// `tc` has no word for it.
const TOO_MUCH: &str = "{ name: whole, to: transit, vlan: untagged, dst: 10.5.0.0/16, fragment: false }";

pub(crate) fn play(vm: &mut Vm, outside: &Outside, card: &Card, report: &mut Report) -> Result<(), Failure> {
    let address = format!("{WHOLE}:80");
    let run = report.step("DPDK and the kernel share an interface by flows", || {
        vm.sh(&format!("ip addr add {WHOLE}/24 dev {0}; ip link set {0} up", card.device))?;
        let run = Run::start(vm, &manifest(card, &[DROP, TAKE]))?;
        let both = |status: &RunStatus| status.is_running() && status.serves_requests();
        let status = run.wait_for(vm, "both data planes", Duration::from_secs(20), both)?;
        let by = status.port("whole")["steering"]["by"].clone();
        if by != "nic flows" {
            return fail(format!("the rules are carried out by {by}"));
        }
        requests(outside, &address, 20, 20)?;
        send(outside, (NOISE, 9), ROUND)?;
        arrive(outside, TRANSIT_BY_WHOLE, ROUND)?;
        taken(vm, &run, ROUND)?;
        Ok((run, format!("{ROUND} packets taken, {ROUND} dropped before, 20 of 20 requests answered")))
    })?;
    report.step("flows are replaced, or stay as they were", || {
        let (taken_it, said) = run.apply(vm, &manifest(card, &[TAKE]))?;
        if !taken_it {
            return fail(format!("other rules are refused: {said}"));
        }
        send(outside, (NOISE, 9), ROUND)?;
        arrive(outside, TRANSIT_BY_WHOLE, ROUND)?;
        taken(vm, &run, 3 * ROUND)?;
        let before = filters(vm, card)?;
        let (taken_it, said) = run.apply(vm, &manifest(card, &[TAKE, TOO_MUCH]))?;
        if taken_it || !said.contains("rule `whole`") || filters(vm, card)? != before {
            return fail(format!("flows that the device cannot do: {said}"));
        }
        arrive(outside, TRANSIT_BY_WHOLE, ROUND)?;
        requests(outside, &address, 5, 20)?;
        taken(vm, &run, 4 * ROUND)?;
        Ok(((), format!("refused with: {}", said.lines().next().unwrap_or_default())))
    })?;
    report.step("the interface is the kernel's alone again", || {
        run.stop(vm)?;
        let left = filters(vm, card)?;
        if !left.is_empty() {
            return fail(format!("filters stay: {left}"));
        }
        let said = Run::refused(vm, &manifest(card, &[TOO_MUCH]))?;
        let left = filters(vm, card)?;
        if !said.contains("rule `whole`") || !left.is_empty() {
            return fail(format!("a start that fails leaves {left:?}: {said}"));
        }
        Ok(((), "no filters, after a run and after a start that failed".into()))
    })
}

fn manifest(card: &Card, rules: &[&str]) -> String {
    let rules: String = rules.iter().map(|rule| format!("    - {rule}\n")).collect();
    format!(
        "ports:
  whole: {{ dpdk: 'net_tap0,iface=mn-tap0,remote={device}' }}
placement: inline
memory: {{ buffers: 4096 }}
chains:
  transit:
    ports: [whole]
    functions:
      - l3-router:
          addresses: [{{ port: whole, address: 10.9.0.21/24 }}]
          routes: ['10.6.0.0/16 whole']
          neighbours: [{{ ip: {TRANSIT_BY_WHOLE}, mac: '{transit}', port: whole }}]
  web:
    layer: l4l7
    listen: '{WHOLE}:80'
    functions:
      - reverse-proxy: {{ upstreams: ['{BACKEND}'] }}
      - url-rewrite: {{ rules: [{{ match: '^/old/(.*)$', to: '/new/$1' }}] }}
steering:
  whole:
    - {{ to: web }}
{rules}    - {{ to: kernel }}
",
        device = card.device,
        transit = site::text(TRANSIT_MAC),
    )
}

/// Waits until the rule has decided about so many packets, and wants no others to have come to the port.
fn taken(vm: &mut Vm, run: &Run, packets: u64) -> Result<(), Error> {
    let mine = |status: &RunStatus| status.decided("whole", "mine");
    let status = run.wait_for(vm, "the rule's count", Duration::from_secs(20), |status| mine(status) >= packets)?;
    let counts = (mine(&status), status.port_count("whole", "received_pkts"));
    if counts == (packets, packets) { Ok(()) } else { fail(format!("{counts:?} packets of {packets}")) }
}

/// The filters of the physical function's interface.
fn filters(vm: &mut Vm, card: &Card) -> Result<String, Error> {
    vm.sh(&format!("tc filter show dev {} ingress", card.device))
}
