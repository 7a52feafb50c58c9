//! A look at all flows, a part at a time.

use middlenet_fast_path::{Action, FLOW_BYTES, FlowState, KEY_BYTES, MapKind, read_flow_key};
use middlenet_steer::Flow;

use super::store::{MOST, Page};
use super::{FastPath, lock};

/// How far [`FastPath::survey`] has come. An instance hands it to the one that replaces it, or begins anew.
#[derive(Debug, Default)]
pub struct Survey(Page);

/// How a round of [`FastPath::survey`] stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// There are more flows.
    GoesOn,
    /// That were all; the next call begins another.
    IsOver,
    /// The fast path cannot be read now: the next call begins anew, and what was told of says nothing about all.
    Broke,
}

impl FastPath {
    /// Tells of up to `most` more flows (4096 at most) that count now, whoever has installed them: those too that the fast path made by
    /// itself for connections to services. From `tick`.
    ///
    /// A flow that comes or goes during a round may be missed, or told of twice: it is for statistics.
    pub fn survey(&self, survey: &mut Survey, most: usize, flow: &mut dyn FnMut(&Flow, &Action, &FlowState)) -> Round {
        let Some(handle) = self.usable().filter(|handle| !handle.is_draft()) else { return Round::Broke };
        let page = &mut survey.0;
        page.keys.clear();
        page.values.clear();
        let (now_ns, generation) = {
            let mut core = lock(&handle.core);
            if core.shape.flows == 0 || most == 0 {
                return Round::IsOver;
            }
            if core.store.read(MapKind::Flows, most.min(MOST), page).is_err() {
                *page = Page::default();
                return Round::Broke;
            }
            let generation = core.generation();
            handle.show(&core);
            if core.is_superseded() {
                return Round::Broke;
            }
            (core.clock.now_ns(), generation)
        };
        for (key, value) in page.keys.as_chunks::<KEY_BYTES>().0.iter().zip(page.values.as_chunks::<FLOW_BYTES>().0) {
            let state = FlowState::decode(value);
            if !state.is_over(now_ns, generation)
                && let (Some(of), Some(action)) = (read_flow_key(key), FlowState::action(value))
            {
                flow(&of, &action, &state);
            }
        }
        if std::mem::take(&mut page.is_last) { Round::IsOver } else { Round::GoesOn }
    }
}
