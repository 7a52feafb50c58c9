//! How far fast paths take the packets of a port.

use middlenet_plan::{ChainPlan, Destination, HopPlan, ManagerPlan, PortKind, Target};

/// Where fast paths may leave packets of a port to the workers: at hops, for the function there, and at ports, to be sent.
pub(crate) fn destinations(plan: &ManagerPlan, port: u8) -> Vec<Destination> {
    let of_kernel = matches!(plan.ports.get(usize::from(port)).map(|port| &port.kind), Some(PortKind::Xdp { .. }));
    let chains = plan.chains.iter().filter(|chain| of_kernel && (chain.left == port || chain.right.contains(&port)));
    let mut found = Vec::new();
    for chain in chains {
        let entry = if port == chain.left { chain.entry_forward } else { chain.entry_reverse };
        if let Target::Hop(hop) = entry
            && has_fast_path(plan, hop)
        {
            of_chain(plan, chain, hop, &mut found);
        }
    }
    found.sort_unstable_by_key(|destination| destination.tag());
    found.dedup();
    found
}

fn has_fast_path(plan: &ManagerPlan, hop: u16) -> bool {
    plan.hops.get(usize::from(hop)).is_some_and(|hop| hop.fast_path.is_some())
}

/// From the first hop on: over every edge that a fast path can take. Rules can turn packets round, so both directions count.
fn of_chain(plan: &ManagerPlan, chain: &ChainPlan, first: u16, found: &mut Vec<Destination>) {
    let mut seen = vec![first];
    let mut at = 0;
    while let Some(&hop) = seen.get(at) {
        at += 1;
        found.push(Destination::Hop(hop));
        let Some(HopPlan { next_forward, next_reverse, outputs, fast_path: Some(_), .. }) =
            plan.hops.get(usize::from(hop))
        else {
            continue;
        };
        for target in outputs.iter().map(|(_, target)| target).chain([next_forward, next_reverse]) {
            match *target {
                Target::Hop(next) if !seen.contains(&next) => seen.push(next),
                Target::Hop(_) | Target::Drop => {}
                Target::Port(port) => found.push(Destination::Port(port)),
                Target::Egress => {
                    found.extend(chain.right.iter().chain([&chain.left]).map(|&port| Destination::Port(port)))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use middlenet_fast_path::{Mode, Shape};
    use middlenet_plan::{FastPathPlan, OnFailure, Placement, PortPlan, Wait, XdpMode};

    /// `left - hop 0 - hop 1 - ... - right, other`; the hops with a true have fast paths.
    fn plan(fast: &[bool]) -> ManagerPlan {
        let last = fast.len() as u16 - 1;
        let hop = |(id, fast): (u16, &bool)| HopPlan {
            name: format!("hop{id}"),
            function: "f".into(),
            config: serde_json::Value::Null,
            placement: Placement::Process,
            replicas: 1,
            on_failure: OnFailure::Drop,
            chain: 0,
            next_forward: if id == last { Target::Egress } else { Target::Hop(id + 1) },
            next_reverse: if id == 0 { Target::Egress } else { Target::Hop(id - 1) },
            outputs: Vec::new(),
            steering: Vec::new(),
            fast_path: fast.then_some(FastPathPlan { mode: Mode::Reactive, shape: Shape::of(&[Mode::Reactive]) }),
            peers: Vec::new(),
        };
        let kind = |name: &str| PortKind::Xdp { interface: name.into(), mode: XdpMode::Auto };
        let port =
            |name: &str| PortPlan { name: name.into(), kind: kind(name), queues: 0, steering: None, isolated: false };
        ManagerPlan {
            name: "test".into(),
            buffers: 1024,
            buffer_bytes: 2048,
            workers: vec![0],
            wait: Wait::Auto,
            shares_core: false,
            ring_slots: 64,
            ports: ["left", "right", "other"].map(port).to_vec(),
            hops: (0..).zip(fast).map(hop).collect(),
            chains: vec![ChainPlan {
                name: "chain".into(),
                left: 0,
                right: vec![1, 2],
                entry_forward: Target::Hop(0),
                entry_reverse: Target::Hop(last),
            }],
            lockstep: false,
            unprivileged: false,
        }
    }

    #[test]
    fn packets_come_from_each_hop_up_to_the_first_without_a_fast_path() {
        use Destination::{Hop, Port};
        let plan = plan(&[true, true, false, true]);
        assert_eq!(destinations(&plan, 0), [Hop(0), Hop(1), Hop(2), Port(0), Port(1), Port(2)]);
        assert_eq!(destinations(&plan, 2), [Hop(2), Hop(3), Port(0), Port(1), Port(2)]);
    }

    #[test]
    fn outputs_lead_further() {
        let mut plan = plan(&[true, false, true]);
        plan.hops[0].outputs = vec![("skip".into(), Target::Hop(2)), ("out".into(), Target::Port(2))];
        assert!(destinations(&plan, 0).contains(&Destination::Hop(2)));
    }

    #[test]
    fn without_a_fast_path_at_the_entry_there_is_none() {
        assert_eq!(destinations(&plan(&[false, true]), 0), []);
        let mut other_kind = plan(&[true, true]);
        other_kind.ports[0].kind = PortKind::Dpdk { device: "net_null0".into() };
        assert_eq!(destinations(&other_kind, 0), []);
    }
}
