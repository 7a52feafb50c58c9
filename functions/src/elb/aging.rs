//! Connections of the fast path as pairs of flows: how many there are, and which are over.
//!
//! The fast path knows each direction of a connection as a flow by itself. It lets go of neither for silence alone: a server that is silent
//! while its client goes on, or a client while its server does, would have half a connection. What both have been silent for is found here.

use super::Elb;
use super::connections::Connections;
use super::pool::Pool;
use super::translating::endpoint;
use crate::flow_table::Key;
use middlenet_sdk::fast_path::{Action, Flow, FlowState, Round};

/// Flows of the fast path that one tick looks at, for those that are over, and to count those that are not.
const VISITS: usize = 2048;
/// System calls of one tick for those that are silent.
const QUERIES: usize = 256;

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
    /// Removes connections that are over, and counts those that are not, some in each tick: all are in the fast path where there is one.
    pub(super) fn look_at_connections(&mut self, now_ns: u64) {
        let (pool, is_fast) = (&mut self.pool, self.is_fast);
        let is_round_over = self.connections.sweep(now_ns, |connection| {
            if !is_fast && !connection.progress.is_closed() {
                let (address, port) = connection.service();
                pool.meet((address, port, connection.asked.protocol()), connection.server());
            }
        });
        if is_fast {
            self.look_at_fast_path(now_ns);
        } else if is_round_over {
            self.pool.end_round();
        }
    }

    fn look_at_fast_path(&mut self, now_ns: u64) {
        self.fast_path.sweep(VISITS, &mut |_, _| {});
        let fast_now_ns = u64::try_from(self.fast_path.now().as_nanos()).unwrap_or(u64::MAX);
        let timeouts = self.timeouts;
        let is_silent = |flow: &Flow, state: &FlowState| {
            fast_now_ns.saturating_sub(state.last_ns) > timeouts.idle_ns(flow.protocol, state.is_closing)
        };
        // Those that the last tick left come first.
        if self.silent.is_empty() {
            let (pool, silent) = (&mut self.pool, &mut self.silent);
            let round = self.fast_path.survey(&mut self.survey, VISITS, &mut |flow, action, state| {
                if is_silent(flow, state) {
                    silent.push(*flow);
                } else {
                    meet(pool, flow, action, state);
                }
            });
            self.is_round_over = round == Round::IsOver;
            if round == Round::Broke {
                self.pool.begin_round();
            }
        }
        for flow in self.silent.split_off(self.silent.len().saturating_sub(QUERIES / 2)) {
            // It may have been removed with its other direction, or have gone on.
            let Some((action, state)) = self.fast_path.query(&flow) else { continue };
            let back = other(&flow, &action);
            // Its port may be used for another connection since.
            let pair = self.fast_path.query(&back).filter(|(action, _)| other(&back, action) == flow);
            let goes_on = !is_silent(&flow, &state)
                || pair.as_ref().is_some_and(|(_, state)| !is_silent(&back, state))
                || is_known(&self.connections, &flow, now_ns);
            if goes_on {
                meet(&mut self.pool, &flow, &action, &state);
                continue;
            }
            self.fast_path.remove(&flow);
            if pair.is_some() {
                self.fast_path.remove(&back);
            }
        }
        if self.silent.is_empty() && std::mem::take(&mut self.is_round_over) {
            self.pool.end_round();
        }
    }
}

/// Counts a connection that is not closed. Each has two flows; its client's is the one that counts.
fn meet(pool: &mut Pool, flow: &Flow, action: &Action, state: &FlowState) {
    if let (Some(address), Some(port), false) = (action.rewrite.dst, action.rewrite.dst_port, state.is_closing) {
        let (service, service_port) = endpoint(flow.dst, flow.dst_port);
        pool.meet((service, service_port, flow.protocol), endpoint(address, port));
    }
}
