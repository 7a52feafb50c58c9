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
    let columns = ["FAST PATH", "MODE", ">ENTERED", ">HITS", ">SENT", ">DROPS", ">SLOW", ">KERNEL", "SLOW BECAUSE"];
    let mut table = Table::new(columns);
    for hop in &stats.hops {
        let Some(fast_path) = &hop.fast_path else { continue };
        let FastPathStats { mode, entered, hits, sent, dropped, slow, kernel, .. } = fast_path;
        let sum = |counts: &[(String, u64)]| grouped(counts.iter().map(|(_, n)| n).sum());
        let mut reasons: Vec<_> = slow.iter().filter(|(_, n)| *n > 0).collect();
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
    if table.is_empty() { String::new() } else { format!("\n{}", table.render()) }
}
