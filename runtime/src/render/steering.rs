//! Steering rules, before and while they run.

use std::fmt::Write;

use super::Table;
use super::table::grouped;
use middlenet_plan::{PortKind, PortStats, Stats, SteeredFlow};
use middlenet_steer::{Match, Prefix};

use crate::plan::Plan;

/// Rules shown of each port; the others are counted.
const SHOWN: usize = 20;
/// Values shown of each field.
const VALUES: usize = 3;

/// The rules of a plan, and who will carry them out.
pub(super) fn of_plan(plan: &Plan) -> Table {
    let mut table = Table::new(["STEERING", "RULE", "PACKETS", "TO", "BY"]);
    for (id, port) in plan.manager.iter().flat_map(|m| m.ports.iter().enumerate()) {
        let Some(steering) = &port.steering else { continue };
        let placed = plan.runtime.placed.iter().find(|p| usize::from(p.port) == id);
        let by = match port.kind {
            PortKind::Xdp { .. } => "xdp",
            PortKind::Dpdk { .. } | PortKind::Pcap { .. } => "manager",
        };
        let by = |rule: usize| placed.and_then(|p| p.by.get(rule)).map_or(by, String::as_str).to_owned();
        let row = |at, name: &str, what: String, to: &str| [port.name.clone(), name.into(), what, to.into(), by(at)];
        for (at, (rule, to)) in steering.rules.iter().zip(&steering.to).take(SHOWN).enumerate() {
            table.row(row(at, &rule.name, packets(&rule.matches), to));
        }
        if let Some(more) = steering.rules.len().checked_sub(SHOWN).filter(|&more| more > 0) {
            table.row(row(SHOWN, "...", format!("{more} more rules"), ""));
        }
        table.row(row(
            steering.rules.len(),
            "else",
            "all others".into(),
            steering.to.last().map_or("?", String::as_str),
        ));
    }
    table
}

/// `tcp, to 10.1.0.1 ports 80, 443`.
fn packets(matches: &Match) -> String {
    let Match {
        vlans, src_macs, dst_macs, ether_types, src, dst, arp_targets, protocols, src_ports, dst_ports, ..
    } = matches;
    let mut parts = Vec::new();
    let mut part = |word: &str, values: Vec<String>| {
        if !values.is_empty() {
            let more = values.len().saturating_sub(VALUES);
            let mut text = values[..values.len() - more].join("|");
            if more > 0 {
                let _ = write!(text, "|{more} more");
            }
            parts.push(format!("{word}{text}"));
        }
    };
    let mac = |mac: &[u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let prefixes = |list: &[Prefix]| list.iter().map(Prefix::to_string).collect::<Vec<_>>();
    let ports = |list: &[middlenet_steer::PortRange]| {
        let range = |r: &middlenet_steer::PortRange| match r.first == r.last {
            true => r.first.to_string(),
            false => format!("{}-{}", r.first, r.last),
        };
        list.iter().map(range).collect::<Vec<_>>()
    };
    let vlan = |vlan: &u16| if *vlan == 0 { "untagged".to_owned() } else { vlan.to_string() };
    part("vlan ", vlans.iter().map(vlan).collect());
    part("from ", src_macs.iter().map(mac).collect());
    part("to ", dst_macs.iter().map(mac).collect());
    part("type ", ether_types.iter().map(|t| format!("{t:#06x}")).collect());
    part("arp for ", prefixes(arp_targets));
    part("proto ", protocols.iter().map(u8::to_string).collect());
    part("src ", prefixes(src));
    part("src port ", ports(src_ports));
    part("dst ", prefixes(dst));
    part("dst port ", ports(dst_ports));
    match matches.fragments {
        Some(true) => parts.push("fragments".into()),
        Some(false) => parts.push("no fragments".into()),
        None => {}
    }
    if parts.is_empty() { "all".into() } else { parts.join(", ") }
}

/// What the rules have done, with what functions steered.
pub(super) fn of_status(stats: &Stats) -> String {
    let mut out = String::new();
    let mut rules = Table::new(["STEERING", "RULE", "TO", "BY", ">PKTS", ">BYTES"]);
    let mut flows = Table::new(["STEERED FLOW", "PORT", "TO", "FOR", ">LEFT", ">PKTS"]);
    let mut irregular = Vec::new();
    for PortStats { name, steering, .. } in &stats.ports {
        let Some(steering) = steering else { continue };
        // The busiest are shown, in the order of the rules; the default is always among them.
        let mut busiest: Vec<usize> = (0..steering.rules.len().saturating_sub(1)).collect();
        busiest.sort_by_key(|&at| std::cmp::Reverse(steering.rules[at].pkts));
        busiest.truncate(SHOWN);
        busiest.sort_unstable();
        for rule in busiest.iter().map(|&at| &steering.rules[at]).chain(steering.rules.last()) {
            let count = |n| if rule.uncounted { "-".to_owned() } else { grouped(n) };
            let (pkts, bytes) = (count(rule.pkts), count(rule.bytes));
            rules.row([name.clone(), rule.name.clone(), rule.to.clone(), steering.by.clone(), pkts, bytes]);
        }
        for SteeredFlow { flow, to, by, remaining_s, pkts } in steering.flows.iter().take(SHOWN) {
            let left = format!("{remaining_s:.0} s");
            flows.row([flow.clone(), name.clone(), to.clone(), by.clone(), left, grouped(*pkts)]);
        }
        irregular.extend(steering.irregular.iter().map(|(what, n)| format!("{name}: {what} {}", grouped(*n))));
    }
    for table in [rules, flows].iter().filter(|t| !t.is_empty()) {
        let _ = write!(out, "\n{}", table.render());
    }
    if !irregular.is_empty() {
        let _ = writeln!(out, "\nnot as the rules say: {}", irregular.join(", "));
    }
    out
}
