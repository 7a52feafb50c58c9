//! Where outputs lead: not in circles.

use middlenet_plan::{HopPlan, Target};

use crate::diagnostic::Diagnostic;
use crate::manifest::Chain;

/// Finds circles that a packet from the left could go in, and blames the output that closes each.
pub(super) fn check_cycles(chains: &[&Chain], hops: &[HopPlan], problems: &mut Vec<Diagnostic>) {
    let entries: Vec<_> = chains.iter().flat_map(|c| &c.functions).collect();
    for (id, hop) in hops.iter().enumerate() {
        for (name, target) in &hop.outputs {
            let Target::Hop(to) = *target else { continue };
            // From left to right no edge leads back, so a circle has an output that leads to its own hop or to one before it.
            let to = usize::from(to);
            if to > id {
                continue;
            }
            let way: Vec<&str> = hops[to..=id].iter().map(|h| h.name.as_str()).collect();
            let circle = format!("{} -> {}", way.join(" -> "), hops[to].name);
            let span = entries.get(id).map_or(0..0, |e| e.option_span(&["outputs", name]));
            problems.push(
                Diagnostic::new(span, format!("the output `{name}` of `{}` closes a circle: {circle}", hop.name))
                    .with_hint("let it lead to a later function, to a port, or to `drop`"),
            );
        }
    }
}
