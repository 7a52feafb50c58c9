//! Function processes as one worker sees them: they come, give packets back, and go.

use super::{Place, Worker};
use crate::counters::HopDrop;
use crate::graph::{Journey, MADE, NO_PORT};
use crate::lane::{Draining, Lane};
use crossbeam_channel::Sender;
use middlenet_dpdk::tsc;
use middlenet_sdk::BURST;
use middlenet_shm::{ControlRegion, Descriptor, Meta, Reject};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a replaced instance may take to give back what it has.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

impl Worker<'_> {
    /// Takes a burst of what a function gave back and sends it on. Returns the packets.
    #[inline]
    pub(super) fn collect(&mut self, at: usize) -> usize {
        let mut descriptors = [Descriptor::default(); BURST];
        let lane = &mut self.lanes[at];
        let n = lane.from.dequeue(&mut descriptors);
        if n == 0 {
            return 0;
        }
        let (hop, holder) = (lane.hop, lane.holder);
        let counters = &self.counters.hops[usize::from(hop)];
        let (mut kept, mut packets, mut originated) = (0, 0, 0);
        for place in 0..n {
            let descriptor = &mut descriptors[place];
            let fits = self.buffers.fits(descriptor);
            if !fits {
                (descriptor.offset, descriptor.length) = (0, 0);
            }
            let mut meta = match self.shared.ledger.take(descriptor, holder, self.id, &self.buffers) {
                Ok(meta) => meta,
                Err(Reject::Index) => {
                    counters.refused.index.add(1);
                    continue;
                }
                Err(Reject::Holder) => {
                    counters.refused.holder.add(1);
                    continue;
                }
                Err(Reject::Generation | Reject::Bounds) => {
                    counters.refused.generation.add(1);
                    continue;
                }
            };
            if meta.ingress == NO_PORT {
                originated += 1;
                meta.ingress = MADE;
            } else {
                packets += 1;
            }
            if meta.sampled {
                counters.latency.record(tsc::now() - self.given_at[descriptor.index as usize]);
            }
            let journey = Journey::from_meta(meta);
            (descriptor.port, descriptor.source) = (journey.ingress, journey.pack());
            if !fits || descriptor.length == 0 {
                counters.drop(HopDrop::OutOfBounds, 1);
                self.shared.pool.free(self.token, &[descriptor.index]);
                continue;
            }
            descriptors[kept] = descriptors[place];
            kept += 1;
        }
        let lane = &mut self.lanes[at];
        lane.in_flight -= packets;
        lane.lent -= originated;
        counters.originated_pkts.add(u64::from(originated));
        let chain = usize::from(self.hops[usize::from(hop)].chain);
        self.in_flight[chain] -= packets;
        self.supply_due |= originated > 0;
        self.after(hop, &mut descriptors[..kept]);
        n
    }

    /// Lends empty buffers to functions that have used theirs.
    pub(super) fn supply_lanes(&mut self) {
        self.supply_due = false;
        for lane in &mut self.lanes {
            let mut indices = [0; BURST];
            let n = self.shared.pool.allocate(self.token, &mut indices[..lane.wants_supply()]);
            let mut lent = 0;
            for &index in &indices[..n] {
                let meta = Meta { ingress: NO_PORT, egress: NO_PORT, ..Meta::default() };
                let generation = self.shared.ledger.give(index, lane.holder, self.id, meta);
                let descriptor = Descriptor { index, generation, port: NO_PORT, ..Descriptor::default() };
                if lane.supply.enqueue(&[descriptor]) == 1 {
                    lent += 1;
                } else {
                    // Given a moment ago, so the ledger agrees.
                    let _ = self.shared.ledger.take(&descriptor, lane.holder, self.id, &self.buffers);
                    self.shared.pool.free(self.token, &[index]);
                }
            }
            lane.lent += lent;
        }
        for (hop, counters) in (0u16..).zip(&self.counters.hops) {
            if matches!(self.hops[usize::from(hop)].place, Place::Process(_)) {
                let lanes = || self.lanes.iter().filter(|lane| lane.hop == hop);
                counters.held_pkts.set(lanes().map(|lane| u64::from(lane.in_flight)).sum());
                counters.lent.set(lanes().map(|lane| u64::from(lane.lent)).sum());
            }
        }
    }

    /// A new instance takes its replica's flows. An instance that had them is drained.
    pub(super) fn attach(
        &mut self,
        (hop, replica, holder): (u16, u16, u16),
        control: Arc<ControlRegion>,
        event: OwnedFd,
        done: Sender<()>,
    ) {
        // The control thread has checked the geometry; an end that is taken already would be its mistake, and then the
        // hop stays down, visibly.
        let Ok(lane) = Lane::new((hop, replica, holder), u16::from(self.id), control, event) else {
            let _ = done.send(());
            return;
        };
        let replaced = self.active(hop, replica);
        self.lanes.push(lane);
        match replaced {
            Some(old) => {
                let deadline = Instant::now() + DRAIN_LIMIT;
                self.lanes[old].draining = Some(Draining { deadline, done: Some(done) });
            }
            None => {
                let _ = done.send(());
            }
        }
        self.respread(hop);
        self.supply_lanes();
        self.awaited.retain(|awaited| *awaited != (hop, replica));
        self.open_chains();
    }

    /// An instance gets no more packets: it died (what it has is taken back now), or is to go (it may finish).
    pub(super) fn detach(&mut self, hop: u16, replica: u16, drain: bool, done: Option<Sender<()>>) {
        let Some(at) = self.active(hop, replica) else {
            if let Some(done) = done {
                let _ = done.send(());
            }
            return;
        };
        let deadline = Instant::now() + if drain { DRAIN_LIMIT } else { Duration::ZERO };
        self.lanes[at].draining = Some(Draining { deadline, done });
        self.respread(hop);
        if !drain {
            self.end_drained_lanes();
        }
    }

    fn active(&self, hop: u16, replica: u16) -> Option<usize> {
        self.lanes.iter().position(|l| l.hop == hop && l.replica == replica && l.draining.is_none())
    }

    /// Removes lanes that have given everything back, or whose time is over.
    pub(super) fn end_drained_lanes(&mut self) {
        while let Some(at) = self
            .lanes
            .iter()
            .position(|lane| lane.draining.as_ref().is_some_and(|d| lane.is_drained() || Instant::now() >= d.deadline))
        {
            // What it finished before it died is good.
            while self.collect(at) > 0 {}
            let lane = self.lanes.swap_remove(at);
            self.reclaim(&lane, HopDrop::FunctionDied);
            if let Some(done) = lane.draining.as_ref().and_then(|d| d.done.as_ref()) {
                let _ = done.send(());
            }
            // swap_remove moved the last lane.
            for hop in 0..self.hops.len() as u16 {
                self.respread(hop);
            }
        }
    }

    /// Takes back every buffer that a function still has.
    pub(super) fn reclaim(&mut self, lane: &Lane, reason: HopDrop) {
        let mut indices = Vec::new();
        self.shared.ledger.reclaim(lane.holder, self.id, |index| indices.push(index));
        self.shared.pool.free(self.token, &indices);
        let packets = u64::from(lane.in_flight);
        self.counters.hops[usize::from(lane.hop)].drop(reason, packets);
        self.in_flight[usize::from(self.hops[usize::from(lane.hop)].chain)] -= lane.in_flight;
        let counters = &self.counters.hops[usize::from(lane.hop)];
        counters.held_pkts.set(0);
        counters.lent.set(0);
    }

    fn respread(&mut self, hop: u16) {
        let alive: Vec<(u16, usize)> = (0..)
            .zip(&self.lanes)
            .filter(|(_, lane)| lane.hop == hop && lane.draining.is_none())
            .map(|(at, lane)| (lane.replica, at))
            .collect();
        if let Place::Process(spread) = &mut self.hops[usize::from(hop)].place {
            spread.rebuild(&alive);
        }
    }
}
