//! Fast paths of functions, before and while they run.

use middlenet_fast_path::Shape;
use middlenet_plan::{FastPathStats, Stats};

use super::Table;
use super::table::grouped;
use crate::plan::Plan;

/// The fast paths of a plan.
pub(super) fn of_plan(plan: &Plan) -> Table {
    let mut table = Table::new(["FAST PATH", "MODE", "LOOKS AT", "ALL ELSE"]);
    for (manager, hop) in plan.manager.iter().flat_map(|m| m.hops.iter().map(move |hop| (m, hop))) {
        let Some(fast_path) = &hop.fast_path else { continue };
        let chain = manager.chains.get(usize::from(hop.chain)).map_or("?", |c| &c.name);
        let rest = match fast_path.mode {
            middlenet_fast_path::Mode::Offloading => "to the kernel's stack",
            middlenet_fast_path::Mode::Proactive | middlenet_fast_path::Mode::Reactive => "to the function",
        };
        let (mode, shape) = (fast_path.mode.name(), matchers(&fast_path.shape));
        table.row([format!("{chain}/{}", hop.name), mode.into(), shape, rest.into()]);
    }
    table
}

/// `65,536 flows, ports of destinations, 1,024 rules`.
pub(crate) fn matchers(shape: &Shape) -> String {
    let some = |count: u32, what: &str| (count > 0).then(|| format!("{} {what}", grouped(count.into())));
    let (src_prefixes, dst_prefixes) = shape.most_prefixes();
    let both = shape.src_ports && shape.dst_ports;
    let parts = [
        some(shape.flows, "flows"),
        some(shape.services, "services"),
        some(shape.slots, "slots"),
        some(src_prefixes, "source prefixes"),
        some(dst_prefixes, "destination prefixes"),
        both.then(|| "ports".into()),
        (shape.src_ports && !both).then(|| "source ports".into()),
        (shape.dst_ports && !both).then(|| "destination ports".into()),
        some(shape.most_rules(), "rules"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// What the fast paths did.
pub(super) fn of_status(stats: &Stats) -> String {
    let columns = ["FAST PATH", "MODE", ">ENTERED", ">HITS", ">SENT", ">DROPS", ">SLOW", ">KERNEL", "BECAUSE"];
    let mut table = Table::new(columns);
    for hop in &stats.hops {
        let Some(fast_path) = &hop.fast_path else { continue };
        let FastPathStats { mode, entered, hits, sent, dropped, slow, kernel, .. } = fast_path;
        let sum = |counts: &[(String, u64)]| grouped(counts.iter().map(|(_, n)| n).sum());
        let mut reasons: Vec<_> = slow.iter().chain(kernel).filter(|(_, n)| *n > 0).collect();
        reasons.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let reasons: Vec<_> = reasons.iter().map(|(reason, n)| format!("{reason} {}", grouped(*n))).collect();
        table.row([
            format!("{}/{}", hop.chain, hop.name),
            mode.clone(),
            grouped(*entered),
            grouped(*hits),
            grouped(*sent),
            grouped(*dropped),
            sum(slow),
            sum(kernel),
            reasons.join(", "),
        ]);
    }
    if table.is_empty() {
        return String::new();
    }
    let closed: Vec<_> = stats.ports.iter().filter(|port| port.takes_redirects == Some(false)).collect();
    let names: Vec<_> = closed.iter().map(|port| format!("`{}`", port.name)).collect();
    let note = if names.is_empty() {
        String::new()
    } else {
        format!(
            "no fast path sends by {}: the driver takes no packets from XDP programs of other interfaces (a veth does \
             after `ethtool -K PEER gro off` and `ethtool -K PEER gro on tx off`, both while PEER is up), or the kernel, before \
             Linux 6.3, does not say whether it does\n",
            names.join(", ")
        )
    };
    format!("\n{}{note}", table.render())
}

#[cfg(test)]
mod tests {
    use super::*;
    use middlenet_plan::{HopStats, PortStats};

    #[test]
    fn reasons_of_both_kinds_are_told_and_ports_that_take_nothing() {
        let fast_path = FastPathStats {
            mode: "offloading".into(),
            entered: 12,
            slow: vec![("miss".into(), 3)],
            kernel: vec![("asked".into(), 0), ("not-forwarded".into(), 9)],
            ..FastPathStats::default()
        };
        let port =
            |name: &str, takes_redirects| PortStats { name: name.into(), takes_redirects, ..PortStats::default() };
        let hop = HopStats { name: "a".into(), chain: "t".into(), fast_path: Some(fast_path), ..HopStats::default() };
        let ports = vec![port("wan", Some(false)), port("lan", Some(true)), port("file", None)];
        let mut stats = Stats { ports, hops: vec![hop], ..Stats::default() };
        let text = of_status(&stats);
        assert!(text.contains("3       9  not-forwarded 9, miss 3\n"), "{text}");
        assert!(text.contains("no fast path sends by `wan`: the driver"), "{text}");
        stats.ports.remove(0);
        assert!(!of_status(&stats).contains("no fast path sends by"));
        stats.hops.clear();
        assert_eq!(of_status(&stats), "");
    }
}
