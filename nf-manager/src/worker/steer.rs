//! The first step of a steered packet: which chain, or which port, or out of the data plane.

use super::{RECEIVE_BURST, Source, Worker, is_full};
use crate::counters::PortLoss;
use crate::graph::{Entry, Journey, NO_PORT};
use crate::port::Steering;
use crate::steering::Diverted;
use middlenet_bpf::{META_BYTES, Mark, take_mark};
use middlenet_plan::{Destination, Target};
use middlenet_shm::Descriptor;
use middlenet_steer::Action;
use middlenet_wire::FlowKey;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Into(Destination),
    /// To a hop in the midst of its chain, as far on its journey as fast paths have brought it.
    On(u16, Journey),
    Lost(PortLoss),
}

impl Worker<'_> {
    /// Takes packets of a steered port each its way; those that go the same way go together.
    pub(super) fn steer(&mut self, at: usize, burst: &mut [Descriptor]) {
        let mut ways = [Way::Lost(PortLoss::NoDestination); RECEIVE_BURST];
        for (way, descriptor) in ways.iter_mut().zip(burst.iter()) {
            *way = self.way(at, descriptor);
        }
        let n = burst.len();
        super::route::for_each_group(burst, &mut ways[..n], |way, group| match way {
            Way::Into(Destination::Chain(chain)) => match self.sources[at].entry(chain) {
                Some(entry) if !is_full(&self.in_flight, chain, self.shared.budget) => self.enter(entry, group),
                Some(_) => self.lose(at, PortLoss::ChainFull, group),
                None => self.lose(at, PortLoss::NoDestination, group),
            },
            Way::On(hop, journey) => {
                let chain = self.shared.graph.chain_of_hop(hop);
                if is_full(&self.in_flight, chain, self.shared.budget) {
                    return self.lose(at, PortLoss::ChainFull, group);
                }
                self.enter(Entry { chain, target: Target::Hop(hop), journey }, group);
            }
            // Only fast paths lead there, and they say more.
            Way::Into(Destination::Hop(_)) => self.lose(at, PortLoss::NoDestination, group),
            Way::Into(Destination::Port(port)) => {
                let ingress = self.sources[at].port;
                let journey = Journey { ingress, egress: port, reverse: false, turns: 0 };
                group.iter_mut().for_each(|descriptor| journey.write(descriptor));
                self.transmit(port, group);
            }
            Way::Lost(loss) => self.lose(at, loss, group),
        });
    }

    /// Starts the journey of packets at an end of a chain.
    #[inline]
    pub(super) fn enter(&mut self, entry: Entry, burst: &mut [Descriptor]) {
        let word = entry.journey.pack();
        for descriptor in burst.iter_mut() {
            descriptor.port = entry.journey.ingress;
            descriptor.source = word;
        }
        self.go(entry.target, entry.chain, burst, true);
    }

    fn way(&self, at: usize, descriptor: &Descriptor) -> Way {
        let source = &self.sources[at];
        let action = match &source.steering {
            Steering::Marked(rules) => match self.mark(descriptor).filter(|mark| rules.knows(mark.tag)) {
                Some(mark) => match Destination::of(mark.tag) {
                    // A mark that no fast path makes is a function's doing: its packet goes by the rules.
                    Destination::Hop(hop) => match self.journey(source.port, hop, mark) {
                        Some(journey) => return Way::On(hop, journey),
                        None => rules.decide(self.id, self.buffers.bytes(descriptor)),
                    },
                    _ => Action::Tag(mark.tag),
                },
                None => rules.decide(self.id, self.buffers.bytes(descriptor)),
            },
            Steering::Rules(rules) => match source.diversion(self.buffers.bytes(descriptor)) {
                Some(action) => action,
                None => rules.decide(self.id, self.buffers.bytes(descriptor)),
            },
            // A port of several chains has rules; see `check`.
            Steering::None => return Way::Lost(PortLoss::NoDestination),
        };
        match action {
            Action::Tag(tag) => match Destination::of(tag) {
                Destination::Port(NO_PORT) => Way::Lost(PortLoss::NoDestination),
                destination => Way::Into(destination),
            },
            Action::Drop => Way::Lost(PortLoss::Rule),
            Action::Kernel => Way::Lost(PortLoss::ToKernel),
        }
    }

    /// What the XDP program put in front of a packet.
    #[inline]
    fn mark(&self, descriptor: &Descriptor) -> Option<Mark> {
        let length = META_BYTES as u16;
        let mut before = Descriptor { offset: descriptor.offset.checked_sub(length)?, length, ..*descriptor };
        take_mark(self.buffers.bytes_mut(&mut before).try_into().ok()?)
    }

    /// The journey of a packet that fast paths have brought to a hop; nothing if its chain has no such port.
    fn journey(&self, ingress: u8, hop: u16, mark: Mark) -> Option<Journey> {
        let chain = self.shared.graph.chain_of_hop(hop);
        let egress = mark.egress.unwrap_or(NO_PORT);
        let fits = egress == NO_PORT || self.shared.graph.has_port(chain, egress);
        fits.then_some(Journey { ingress, egress, reverse: mark.reverse, turns: 0 })
    }

    /// Takes flows that functions have steered.
    #[cold]
    pub(super) fn divert(&mut self, flows: &[(u8, Diverted)]) {
        for (port, (key, diversion)) in flows {
            let Some(source) = self.sources.iter_mut().find(|source| source.port == *port) else { continue };
            match diversion {
                Some(diversion) => drop(source.diverted.insert(*key, diversion.clone())),
                None => drop(source.diverted.remove(key)),
            }
        }
    }

    /// Forgets flows whose time is over.
    pub(super) fn forget_diverted(&mut self) {
        for source in self.sources.iter_mut().filter(|source| !source.diverted.is_empty()) {
            let now = Instant::now();
            source.diverted.retain(|_, diversion| diversion.expires > now);
        }
    }

    #[cold]
    fn lose(&mut self, at: usize, loss: PortLoss, burst: &mut [Descriptor]) {
        let port = usize::from(self.sources[at].port);
        self.counters.ports[port].lost[loss as usize].add(burst.len() as u64);
        self.free(burst);
    }
}

impl Source {
    /// What a function has made of a packet's flow, if anything; looked for only while there are such flows.
    #[inline]
    fn diversion(&self, packet: &[u8]) -> Option<Action> {
        if self.diverted.is_empty() {
            return None;
        }
        let diversion = self.diverted.get(&FlowKey::parse(packet)?)?;
        diversion.pkts.fetch_add(1, Ordering::Relaxed);
        Some(diversion.action)
    }
}
