//! The first step of a steered packet: which chain, or which port, or out of the data plane.

use super::{RECEIVE_BURST, Source, Worker, is_full};
use crate::counters::PortLoss;
use crate::graph::{Entry, Journey, NO_PORT};
use crate::port::Steering;
use crate::steering::Diverted;
use middlenet_bpf::{META_BYTES, Mark, take_mark};
use middlenet_plan::{Destination, Target};
use middlenet_shm::Descriptor;
use middlenet_steer::{Action, Flow, Head};
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
        let packet = self.buffers.bytes(descriptor);
        let mut mark = match &source.steering {
            Steering::Marked(rules) => self.mark(descriptor).filter(|mark| rules.knows(mark.tag)),
            Steering::Rules(_) | Steering::None => None,
        };
        if let Some(made) = mark
            && let Destination::Hop(hop) = Destination::of(made.tag)
        {
            // A mark that no fast path makes is a function's doing: its packet goes by the rules.
            match self.journey(source.port, hop, made) {
                Some(journey) => return Way::On(hop, journey),
                None => mark = None,
            }
        }
        match source.action(self.id, packet, mark.map(|mark| mark.tag)) {
            Some(Action::Tag(tag)) => match Destination::of(tag) {
                Destination::Port(NO_PORT) => Way::Lost(PortLoss::NoDestination),
                destination => Way::Into(destination),
            },
            Some(Action::Drop) => Way::Lost(PortLoss::Rule),
            Some(Action::Kernel) => Way::Lost(PortLoss::ToKernel),
            None => Way::Lost(PortLoss::NoDestination),
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
    /// What becomes of a packet; `tag` is what the XDP program has put in front of it.
    #[inline]
    fn action(&self, worker: u8, packet: &[u8], tag: Option<u16>) -> Option<Action> {
        let rules = match &self.steering {
            Steering::Marked(rules) => match tag.filter(|&tag| rules.knows(tag)) {
                Some(tag) => return Some(Action::Tag(tag)),
                // Flows are known to the program alone.
                None => rules,
            },
            Steering::Rules(rules) => rules,
            // A port of several chains has rules; see `check`.
            Steering::None => return None,
        };
        // As in XDP: what is no Ethernet frame goes nowhere.
        let Some(head) = Head::parse(packet) else { return Some(Action::Drop) };
        Some(self.diversion(&head).unwrap_or_else(|| rules.decide(worker, &head, packet)))
    }

    /// What a function has made of a packet's flow, if anything; looked for only while there are such flows.
    #[inline]
    fn diversion(&self, head: &Head) -> Option<Action> {
        if self.diverted.is_empty() {
            return None;
        }
        let diversion = self.diverted.get(&Flow::of(head)?)?;
        diversion.pkts.fetch_add(1, Ordering::Relaxed);
        Some(diversion.action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steering::{Diversion, RuleSet};
    use middlenet_steer::{Match, PortRange, Rule, Tables};
    use middlenet_wire::{PacketBuilder, TcpFlags};
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::Duration;

    fn packet() -> Vec<u8> {
        let addresses = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        PacketBuilder::new().ipv4(addresses.0, addresses.1).tcp(1000, 80, TcpFlags::SYN).build()
    }

    /// Port 80 goes to tag 5, other packets to tag 6; functions may steer to tag 7, and have done so with that packet's flow.
    fn source(steering: fn(Arc<RuleSet>) -> Steering) -> (Source, Arc<RuleSet>) {
        let matches = Match { dst_ports: vec![PortRange::from(80)], ..Match::default() };
        let rule = Rule { name: "web".into(), matches, action: Action::Tag(5) };
        let tables = Tables::compile(&[rule], Action::Tag(6)).unwrap();
        let rules = Arc::new(RuleSet::new(tables, 1, [Action::Tag(7)].into_iter()));
        let diversion = Diversion {
            action: Action::Tag(7),
            expires: Instant::now() + Duration::from_secs(60),
            pkts: Arc::default(),
        };
        let flow = Flow::of(&Head::parse(&packet()).unwrap()).unwrap();
        let diverted = HashMap::from([(flow, diversion)]);
        let steering = steering(Arc::clone(&rules));
        (Source { port: 0, open: true, bursts: 1, entries: Vec::new(), steering, diverted }, rules)
    }

    /// What lies in front of a packet may have been written by anybody who has the memory.
    #[test]
    fn a_forged_tag_is_refused() {
        let (mut source, _rules) = source(Steering::Marked);
        source.diverted.clear();
        let of = |tag: Option<u16>| source.action(0, &packet(), tag);
        for known in [5, 6, 7] {
            assert_eq!(of(Some(known)), Some(Action::Tag(known)));
        }
        for forged in [0, 1, 4, 8, 0x8000, u16::MAX] {
            assert_eq!(of(Some(forged)), Some(Action::Tag(5)), "by the rules, as one without a tag");
        }
        assert_eq!(of(None), Some(Action::Tag(5)));
        assert_eq!(source.action(0, &packet()[..13], None), Some(Action::Drop));
    }

    #[test]
    fn an_untagged_packet_with_a_flow_goes_by_the_rules() {
        let (mut marked, rules) = source(Steering::Marked);
        marked.diverted.clear();
        assert_eq!(marked.action(0, &packet(), None), Some(Action::Tag(5)));
        assert_eq!(rules.counts()[0].0, 1);
        let (by_worker, rules) = source(Steering::Rules);
        assert_eq!(by_worker.action(0, &packet(), Some(5)), Some(Action::Tag(7)));
        assert_eq!(rules.counts()[0].0, 0);
    }

    #[test]
    fn fragments_of_a_steered_flow_go_by_the_rules() {
        let (source, _rules) = source(Steering::Rules);
        let mut fragment = packet();
        fragment[20] = 0x20;
        assert_eq!(source.action(0, &fragment, None), Some(Action::Tag(5)), "the first shows its ports");
        fragment[21] = 1;
        assert_eq!(source.action(0, &fragment, None), Some(Action::Tag(6)));
    }
}
