//! The path of a burst: from hop to hop along the graph, to a port or to its end.

use super::{INLINE_SPARE, Place, SAMPLE_TURNS, Worker};
use crate::counters::HopDrop;
use crate::graph::{Journey, MADE, NO_PORT, Step};
use middlenet_dpdk::tsc;
use middlenet_plan::{OnFailure, Target};
use middlenet_sdk::{BURST, Burst, DropReason, Verdict};
use middlenet_shm::{Descriptor, Meta};
use std::panic::{AssertUnwindSafe, catch_unwind};

impl Worker<'_> {
    /// Moves a burst to a target. All packets have the same target and the verdict `Next`; the worker holds them.
    /// `alike`: their journeys are the same too.
    #[inline]
    pub(super) fn go(&mut self, target: Target, chain: u16, burst: &mut [Descriptor], alike: bool) {
        match target {
            Target::Hop(hop) => match self.hops[usize::from(hop)].place {
                Place::Inline(_) => self.call(hop, burst),
                Place::Process(_) => self.hand_over(hop, burst),
            },
            Target::Egress => self.leave(chain, burst, alike),
            Target::Port(port) => self.transmit(port, burst),
            // Only a function's output leads here, and the step from its hop has counted the drop.
            Target::Drop => self.free(burst),
        }
    }

    /// Calls an inline function.
    #[inline]
    fn call(&mut self, hop: u16, burst: &mut [Descriptor]) {
        let counters = &self.counters.hops[usize::from(hop)];
        let Place::Inline(inline) = &mut self.hops[usize::from(hop)].place else { return };
        let Some(function) = &mut inline.function else { return self.missing(hop, burst) };
        counters.in_pkts.add(burst.len() as u64);
        let sampled = self.turns.is_multiple_of(SAMPLE_TURNS);
        let began = if sampled { tsc::now() } else { 0 };
        inline.state.begin();
        let mut view = Burst::new(&self.buffers, burst, &mut inline.state);
        // A function that panics is taken out of service; it must not take the other chains with it.
        let outcome = catch_unwind(AssertUnwindSafe(|| function.process(&mut view)));
        if outcome.is_err() {
            inline.function = None;
            counters.failed.set(1);
            self.drop_abandoned(hop);
            return self.drop_all(hop, HopDrop::FunctionDied, burst);
        }
        inline.init.flush_fast_path();
        if sampled {
            counters.latency.record(tsc::now() - began);
        }
        let emitted = !inline.state.emitted.is_empty();
        if !inline.state.steered.is_empty() {
            let flows = std::mem::take(&mut inline.state.steered);
            let mut unheard = std::mem::take(&mut inline.state.unheard);
            // The control thread is there to take it; while it is busy, flows stay where they are.
            if let Err(e) = self.steered.try_send((hop, flows)) {
                unheard += e.into_inner().1.len() as u64;
            }
            counters.unheard.add(unheard);
        }
        if inline.state.spare.len() < INLINE_SPARE / 2 {
            self.top_up(hop);
        }
        self.after(hop, burst);
        if emitted {
            self.after_emission(hop);
        }
    }

    /// Takes packets on from a hop by their verdicts.
    #[inline]
    pub(super) fn after(&mut self, hop: u16, burst: &mut [Descriptor]) {
        let Some(&first) = burst.first() else { return };
        let fate = Journey::fate(&first);
        if burst.iter().fold(0, |odd, descriptor| odd | (Journey::fate(descriptor) ^ fate)) != 0 {
            return self.scatter(hop, burst);
        }
        let mut journey = Journey::of(&first);
        let verdict = Verdict::decode(first.verdict, first.argument);
        match self.shared.graph.step(hop, verdict, &mut journey) {
            Step::To(target) if target != Target::Drop && journey.turns <= Meta::MAX_HOPS => {
                if first.verdict != 0 || first.port == MADE {
                    burst.iter_mut().for_each(|descriptor| journey.write(descriptor));
                }
                self.counters.hops[usize::from(hop)].out_pkts.add(burst.len() as u64);
                let chain = self.hops[usize::from(hop)].chain;
                self.go(target, chain, burst, true);
            }
            _ => self.scatter(hop, burst),
        }
    }

    /// [`Worker::after`] for packets that do not all go on alike: works out each one's step, then moves those with the same
    /// target together, in order.
    fn scatter(&mut self, hop: u16, burst: &mut [Descriptor]) {
        let mut targets = [Target::Drop; BURST];
        let mut kept = 0;
        for at in 0..burst.len() {
            if let Some(target) = self.step(hop, &mut burst[at]) {
                burst[kept] = burst[at];
                targets[kept] = target;
                kept += 1;
            }
        }
        self.counters.hops[usize::from(hop)].out_pkts.add(kept as u64);
        let chain = self.hops[usize::from(hop)].chain;
        for_each_group(&mut burst[..kept], &mut targets[..kept], |target, group| {
            self.go(target, chain, group, false);
        });
    }

    /// One packet's verdict. `None` when the packet ends here or stays with its function.
    fn step(&mut self, hop: u16, descriptor: &mut Descriptor) -> Option<Target> {
        let mut journey = Journey::of(descriptor);
        let verdict = Verdict::decode(descriptor.verdict, descriptor.argument);
        let counters = &self.counters.hops[usize::from(hop)];
        match self.shared.graph.step(hop, verdict, &mut journey) {
            Step::To(_) if journey.turns > Meta::MAX_HOPS => counters.drop(HopDrop::HopLimit, 1),
            Step::To(Target::Drop) => counters.drop(HopDrop::Output, 1),
            Step::To(target) => {
                journey.write(descriptor);
                return Some(target);
            }
            Step::Drop(reason) => counters.drop_by_function(reason),
            Step::Hold if matches!(self.hops[usize::from(hop)].place, Place::Inline(_)) => {
                counters.held_pkts.add(1);
                return None;
            }
            Step::Hold | Step::Refuse => counters.drop(HopDrop::BadVerdict, 1),
            Step::Flood if journey.turns >= Meta::MAX_HOPS => counters.drop(HopDrop::HopLimit, 1),
            Step::Flood => return self.flood(hop, descriptor, journey),
        }
        self.free(std::slice::from_ref(descriptor));
        None
    }

    /// Sends copies to all ports but the last of those a flooded packet goes to; the packet itself goes to the last.
    fn flood(&mut self, hop: u16, descriptor: &mut Descriptor, journey: Journey) -> Option<Target> {
        let mut ports = [NO_PORT; 256];
        let mut n = 0;
        for port in self.shared.graph.flood_ports(hop, journey.ingress) {
            ports[n] = port;
            n += 1;
        }
        let Some((last, others)) = ports[..n].split_last() else {
            self.drop_all(hop, HopDrop::NoEgress, std::slice::from_ref(descriptor));
            return None;
        };
        for &port in others {
            let mut index = [0];
            if self.shared.pool.allocate(self.token, &mut index) == 0 {
                // A copy that was not made was no packet: there is nothing to balance, but somebody missed it.
                self.counters.hops[usize::from(hop)].originated_pkts.add(1);
                self.counters.hops[usize::from(hop)].drop(HopDrop::NoBuffer, 1);
                continue;
            }
            let mut copy = Descriptor { index: index[0], ..*descriptor };
            self.buffers.bytes_mut(&mut copy).copy_from_slice(self.buffers.bytes(descriptor));
            let mut way = journey;
            let step = self.shared.graph.towards(hop, port, &mut way);
            way.write(&mut copy);
            let counters = &self.counters.hops[usize::from(hop)];
            counters.originated_pkts.add(1);
            counters.out_pkts.add(1);
            let chain = self.hops[usize::from(hop)].chain;
            if let Step::To(target) = step {
                self.go(target, chain, std::slice::from_mut(&mut copy), true);
            }
        }
        let mut way = journey;
        let step = self.shared.graph.towards(hop, *last, &mut way);
        way.write(descriptor);
        match step {
            Step::To(target) => Some(target),
            _ => None,
        }
    }

    /// The end of a chain: out of the port a function chose, else the only one at that end.
    #[inline]
    fn leave(&mut self, chain: u16, burst: &mut [Descriptor], alike: bool) {
        let Some(first) = burst.first() else { return };
        if alike {
            match self.shared.graph.egress(chain, Journey::of(first)) {
                Some(port) => self.transmit(port, burst),
                None => self.no_egress(burst),
            }
            return;
        }
        let mut rest = burst;
        while let Some(first) = rest.first() {
            let egress = self.shared.graph.egress(chain, Journey::of(first));
            let same = |d: &Descriptor| self.shared.graph.egress(chain, Journey::of(d)) == egress;
            let run = rest.iter().take_while(|d| same(d)).count();
            let (now, later) = rest.split_at_mut(run);
            match egress {
                Some(port) => self.transmit(port, now),
                None => self.no_egress(now),
            }
            rest = later;
        }
    }

    #[cold]
    fn no_egress(&mut self, burst: &mut [Descriptor]) {
        if let Some(first) = burst.first() {
            // What a function made came in by no port.
            let port = if first.port == MADE { 0 } else { first.port };
            self.counters.ports[usize::from(port)].no_egress.add(burst.len() as u64);
        }
        self.free(burst);
    }

    /// Hands packets to a port; what it does not take is dropped.
    #[inline]
    pub(super) fn transmit(&mut self, port: u8, burst: &mut [Descriptor]) {
        let Some(counters) = self.counters.ports.get(usize::from(port)) else {
            return self.no_egress(burst);
        };
        let Some(Some(queue)) = self.queues.get_mut(usize::from(port)) else {
            // It is being restarted.
            counters.tx_down.add(burst.len() as u64);
            return self.free(burst);
        };
        let bytes: u64 = burst.iter().map(|d| u64::from(d.length)).sum();
        let sent = queue.send(self.token, &self.shared.pool, burst);
        counters.sent_pkts.add(sent as u64);
        counters.sent_bytes.add(bytes);
        if sent < burst.len() {
            let rest = &burst[sent..];
            counters.sent_bytes.add(0u64.wrapping_sub(rest.iter().map(|d| u64::from(d.length)).sum()));
            counters.tx_full.add(rest.len() as u64);
            self.shared.pool.free_descriptors(self.token, rest);
        }
    }

    /// Gives packets to a function process.
    #[inline]
    fn hand_over(&mut self, hop: u16, burst: &mut [Descriptor]) {
        let Place::Process(spread) = &self.hops[usize::from(hop)].place else { return };
        if let Some(lane) = spread.only() {
            return self.give(hop, lane, burst);
        }
        let mut lanes = [None; BURST];
        for (lane, descriptor) in lanes.iter_mut().zip(burst.iter()) {
            let key = middlenet_wire::FlowKey::parse(self.buffers.bytes(descriptor));
            // What has no flow goes with the first bucket, always to the same replica.
            *lane = spread.of(key.map_or(0, |key| key.symmetric_hash()));
        }
        let n = burst.len();
        for_each_group(burst, &mut lanes[..n], |lane, group| match lane {
            Some(lane) => self.give(hop, lane, group),
            None => self.missing(hop, group),
        });
    }

    #[inline]
    fn give(&mut self, hop: u16, lane_at: usize, burst: &mut [Descriptor]) {
        let lane = &mut self.lanes[lane_at];
        let mut sampled = self.turns.is_multiple_of(SAMPLE_TURNS);
        for descriptor in burst.iter_mut() {
            let meta = Journey::of(descriptor).to_meta(sampled);
            if sampled {
                self.given_at[descriptor.index as usize] = tsc::now();
                sampled = false;
            }
            descriptor.generation = self.shared.ledger.give(descriptor.index, lane.holder, self.id, meta);
        }
        let n = lane.give(burst);
        self.in_flight[usize::from(self.hops[usize::from(hop)].chain)] += n as u32;
        self.counters.hops[usize::from(hop)].in_pkts.add(n as u64);
        if n < burst.len() {
            let holder = lane.holder;
            for descriptor in &burst[n..] {
                // Given a moment ago, so the ledger agrees; the result says nothing new.
                let _ = self.shared.ledger.take(descriptor, holder, self.id, &self.buffers);
            }
            self.drop_all(hop, HopDrop::RingFull, &burst[n..]);
        }
    }

    /// The hop has no function now.
    #[cold]
    fn missing(&mut self, hop: u16, burst: &mut [Descriptor]) {
        match self.hops[usize::from(hop)].on_failure {
            OnFailure::Drop => self.drop_all(hop, HopDrop::FunctionDown, burst),
            OnFailure::Bypass => {
                self.counters.hops[usize::from(hop)].bypassed_pkts.add(burst.len() as u64);
                let chain = self.hops[usize::from(hop)].chain;
                for at in 0..burst.len() {
                    let one = &mut burst[at..=at];
                    let target = self.shared.graph.next(hop, Journey::of(&one[0]).reverse);
                    self.go(target, chain, one, true);
                }
            }
        }
    }

    /// Sends on what an inline function made or resumed.
    pub(super) fn after_emission(&mut self, hop: u16) {
        let Place::Inline(inline) = &mut self.hops[usize::from(hop)].place else { return };
        let mut emitted = std::mem::take(&mut inline.state.emitted);
        let counters = &self.counters.hops[usize::from(hop)];
        for descriptor in &mut emitted {
            if descriptor.port == NO_PORT {
                descriptor.port = MADE;
                counters.originated_pkts.add(1);
                counters.lent.add(u64::MAX);
            } else {
                counters.held_pkts.add(u64::MAX);
            }
        }
        for burst in emitted.chunks_mut(BURST) {
            self.scatter(hop, burst);
        }
        emitted.clear();
        if let Place::Inline(inline) = &mut self.hops[usize::from(hop)].place {
            inline.state.emitted = emitted;
        }
    }

    /// Gives an inline function empty buffers for packets of its own.
    pub(super) fn top_up(&mut self, hop: u16) {
        let Place::Inline(inline) = &mut self.hops[usize::from(hop)].place else { return };
        let mut indices = [0; INLINE_SPARE];
        let missing = INLINE_SPARE.saturating_sub(inline.state.spare.len());
        let n = self.shared.pool.allocate(self.token, &mut indices[..missing]);
        self.counters.hops[usize::from(hop)].lent.add(n as u64);
        let journey = Journey { ingress: NO_PORT, egress: NO_PORT, reverse: false, turns: 0 };
        inline.state.spare.extend(indices[..n].iter().map(|&index| {
            let mut descriptor = Descriptor { index, ..Descriptor::default() };
            journey.write(&mut descriptor);
            descriptor
        }));
    }

    /// Frees packets that a function held and then forgot.
    pub(super) fn drop_abandoned(&mut self, hop: u16) {
        let abandoned = middlenet_sdk::take_abandoned();
        if !abandoned.is_empty() {
            self.counters.hops[usize::from(hop)].held_pkts.add(0u64.wrapping_sub(abandoned.len() as u64));
            let counters = &self.counters.hops[usize::from(hop)];
            abandoned.iter().for_each(|_| counters.drop_by_function(DropReason::ABANDONED));
            self.free(&abandoned);
        }
    }

    pub(super) fn drop_all(&mut self, hop: u16, reason: HopDrop, burst: &[Descriptor]) {
        self.counters.hops[usize::from(hop)].drop(reason, burst.len() as u64);
        self.free(burst);
    }

    pub(super) fn free(&mut self, burst: &[Descriptor]) {
        self.shared.pool.free_descriptors(self.token, burst);
    }
}

/// Calls `act` once for each distinct key with the descriptors of that key, in order. Uses up both slices, which are at most
/// a burst long.
pub(super) fn for_each_group<K: Copy + PartialEq>(
    burst: &mut [Descriptor],
    keys: &mut [K],
    mut act: impl FnMut(K, &mut [Descriptor]),
) {
    let mut rest = burst.len().min(keys.len()).min(BURST);
    while rest > 0 {
        let key = keys[0];
        let mut group = [Descriptor::default(); BURST];
        let (mut taken, mut left) = (0, 0);
        for at in 0..rest {
            if keys[at] == key {
                group[taken] = burst[at];
                taken += 1;
            } else {
                burst[left] = burst[at];
                keys[left] = keys[at];
                left += 1;
            }
        }
        rest = left;
        act(key, &mut group[..taken]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_their_order_and_lose_nobody() {
        let mut burst: Vec<_> = (0..BURST as u32).map(|index| Descriptor { index, ..Descriptor::default() }).collect();
        let mut keys: Vec<_> = burst.iter().map(|d| d.index % 5).collect();
        let mut seen = Vec::new();
        for_each_group(&mut burst, &mut keys, |key, group| {
            assert!(group.iter().all(|d| d.index % 5 == key) && group.is_sorted_by_key(|d| d.index));
            seen.extend(group.iter().map(|d| d.index));
        });
        assert_eq!(seen.len(), BURST);
        seen.sort_unstable();
        assert!(seen.iter().enumerate().all(|(at, &index)| at as u32 == index));
    }
}
