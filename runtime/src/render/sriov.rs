//! Virtual functions of a plan.

use middlenet_sriov::{VfDriver, VfWish};

use super::Table;
use crate::plan::Plan;

/// A VF of a plan with its PF's name.
fn find<'p>(plan: &'p Plan, vf: &str) -> Option<(&'p str, &'p VfWish)> {
    let all = plan.runtime.vfs.iter().flat_map(|pf| pf.vfs.iter().map(move |vf| (pf.pf.as_str(), vf)));
    all.into_iter().find(|(_, of_pf)| of_pf.name == vf)
}

/// The device of a port that is a VF: `fast, number 0 of eth1`.
pub(super) fn device(plan: &Plan, port: usize) -> Option<String> {
    let vf = plan.runtime.vf_ports.iter().find(|p| usize::from(p.port) == port)?;
    let (pf, wish) = find(plan, &vf.vf)?;
    Some(format!("{}, number {} of {pf}", vf.vf, wish.index))
}

/// What is made of which PF.
pub(super) fn of_plan(plan: &Plan) -> Table {
    let mut table = Table::new(["VF", "OF", ">NUMBER", "DRIVEN BY", "MAC", "SETTINGS", "ADDRESSES"]);
    for pf in &plan.runtime.vfs {
        for vf in &pf.vfs {
            let by = match vf.driver {
                VfDriver::Dpdk => "dpdk",
                VfDriver::Kernel => "kernel",
            };
            let addresses: Vec<String> = vf.addresses.iter().map(|(a, prefix)| format!("{a}/{prefix}")).collect();
            table.row([
                vf.name.clone(),
                format!("{} ({} in all)", pf.pf, pf.create),
                vf.index.to_string(),
                by.into(),
                vf.mac.map_or_else(|| "random".into(), |m| m.to_string()),
                settings(vf),
                if addresses.is_empty() { "-".into() } else { addresses.join(" ") },
            ]);
        }
    }
    table
}

fn settings(vf: &VfWish) -> String {
    let on = |what: &str, on: bool| format!("{what} {}", if on { "on" } else { "off" });
    let parts = [
        vf.vlan.map(|vlan| format!("VLAN {vlan}")),
        vf.trust.map(|t| on("trust", t)),
        vf.spoof_check.map(|s| on("spoof check", s)),
        vf.max_rate_mbps.map(|rate| format!("at most {rate} Mb/s")),
    ];
    let text = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    if text.is_empty() { "-".into() } else { text }
}
