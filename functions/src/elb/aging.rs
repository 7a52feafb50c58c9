//! Connections of the fast path as pairs of flows: how many there are, and which are over.
//!
//! The fast path knows each direction of a connection as a flow by itself. It lets go of neither for silence alone: a server that is silent
//! while its client goes on, or a client while its server does, would have half a connection. What both have been silent for is found here.

use super::Elb;
use super::connections::Connections;
use crate::flow_table::Key;
use middlenet_sdk::fast_path::{Action, Flow, FlowState};

/// Flows of the fast path that one tick looks at, for those that are over, and to count those that are not.
const VISITS: usize = 2048;

/// The key of what comes back to a packet with this one, once it is written into.
fn other(flow: &Flow, action: &Action) -> Flow {
    let written = &action.rewrite;
    Flow {
        src: written.dst.unwrap_or(flow.dst),
        src_port: written.dst_port.unwrap_or(flow.dst_port),
        dst: written.src.unwrap_or(flow.src),
        dst_port: written.src_port.unwrap_or(flow.src_port),
        ..*flow
    }
}

fn is_known(connections: &Connections, flow: &Flow, now_ns: u64) -> bool {
    let key = Key::from(flow);
    connections.asked(&key, now_ns).or_else(|| connections.answered(&key, now_ns)).is_some()
}

impl Elb {
    /// Removes what is over in the fast path, and counts what is not.
    pub(super) fn look_at_fast_path(&mut self, now_ns: u64) {
        if !self.is_fast {
            return;
        }
        self.fast_path.sweep(VISITS, &mut |_, _| {});
        let fast_now_ns = u64::try_from(self.fast_path.now().as_nanos()).unwrap_or(u64::MAX);
        let (counting, timeouts) = (&mut self.counting, self.timeouts);
        let is_silent = |flow: &Flow, state: &FlowState| {
            fast_now_ns.saturating_sub(state.last_ns) > timeouts.idle_ns(flow.protocol, state.is_closing)
        };
        let mut silent = Vec::new();
        let is_done = self.fast_path.survey(&mut self.survey, VISITS, &mut |flow, action, state| {
            if is_silent(flow, state) {
                silent.push((*flow, *action));
            }
            // Each connection has two flows; this one is its client's.
            if let (Some(_), Some(class), false) = (action.rewrite.dst, action.class, state.is_closing)
                && let Some(count) = counting.get_mut(usize::from(class))
            {
                *count += 1;
            }
        });
        for (flow, action) in silent {
            let back = other(&flow, &action);
            // Its port may be used for another connection since.
            let pair = self.fast_path.query(&back).filter(|(action, _)| other(&back, action) == flow);
            if pair.is_some_and(|(_, state)| !is_silent(&back, &state)) || is_known(&self.connections, &flow, now_ns) {
                continue;
            }
            self.fast_path.remove(&flow);
            if pair.is_some() {
                self.fast_path.remove(&back);
            }
            if let (Some(_), Some(class)) = (action.rewrite.dst, action.class)
                && let Some(count) = self.counting.get_mut(usize::from(class))
            {
                *count = count.saturating_sub(1);
            }
        }
        if is_done {
            std::mem::swap(&mut self.counting, &mut self.counted);
            self.counting.fill(0);
        }
    }
}
