//! Flows that are steered and are not to be any more.

use super::Edpi;
use super::flow::Tracked;
use crate::flow_table::{FlowTable, Key};
use middlenet_sdk::Burst;
use middlenet_sdk::fast_path::Flow;
use middlenet_sdk::wire::FlowKey;

impl Edpi {
    /// Notes which of an earlier instance's steered flows are to come back: all of them, or those about which it is decided otherwise now.
    pub(super) fn note_unwanted(&mut self, flows: &FlowTable<Tracked>, all: bool) {
        let policy = &self.policy;
        let is_unwanted = |tracked: &Tracked| all || policy.decide(&tracked.found) != tracked.decision;
        let steered = flows.entries().filter(|(_, entry)| entry.value.steered_ns != 0 && is_unwanted(&entry.value));
        self.unwanted.extend(steered.map(|(_, entry)| (*entry.key(), entry.value.steered_ns)));
    }

    /// Lets them go by the manifest's rules again, as many as there is room for; the others wait for the next call.
    pub(super) fn take_back(&mut self, burst: &mut Burst<'_>, now_ns: u64) {
        while let Some((key, steered_ns)) = self.unwanted.front() {
            // What has ended by itself needs nothing, and what has been steered once more since then is wanted.
            let is_steered = *steered_ns > now_ns && !self.is_steered(key);
            if is_steered && let Some(flow) = flow_key(key) {
                if burst.room_to_steer() < 2 {
                    return;
                }
                burst.unsteer(&flow);
                burst.unsteer(&flow.reverse());
                self.counters.taken_back.inc();
            }
            self.unwanted.pop_front();
        }
    }

    fn is_steered(&self, key: &Key) -> bool {
        let slot = self.flows.seek(self.flows.seed().hash(key), key);
        self.flows.get(slot).is_some_and(|entry| entry.value.steered_ns != 0)
    }
}

fn flow_key(key: &Key) -> Option<FlowKey> {
    let Flow { vlan, src, dst, protocol, src_port, dst_port } = Flow::from(key);
    let flow = FlowKey::new(src, src_port, dst, dst_port, protocol).ok()?;
    Some(FlowKey { vid: vlan, ..flow })
}
