//! Where a packet goes next: the plan's edges, compiled for look-up.

use middlenet_plan::{ChainPlan, ManagerPlan, Target};
use middlenet_sdk::{DropReason, Port, Verdict};
use middlenet_shm::{Descriptor, Meta};

/// No egress port has been chosen.
pub(crate) const NO_PORT: u8 = u8::MAX;

/// Ingress of a packet that a function made, until its first verdict says which way it travels.
pub(crate) const MADE: u8 = NO_PORT - 1;

/// What the manager knows of a packet between hops. While a function process holds the packet it is in the ledger; else it
/// travels in the descriptor's `port` and `source` fields, which are the manager's while the manager has the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Journey {
    /// Port it came in by; of a packet that a function made: a port at whose side it might have, or [`MADE`] at first.
    pub(crate) ingress: u8,
    /// Port that a function chose, or [`NO_PORT`].
    pub(crate) egress: u8,
    /// From right to left.
    pub(crate) reverse: bool,
    /// Times that a function sent it elsewhere than to the next hop. Going on to the next hop ends by itself.
    pub(crate) turns: u8,
}

impl Journey {
    const REVERSE: u16 = 1 << 8;
    const TURNS_SHIFT: u32 = 9;

    /// What decides where a packet goes on: ingress, journey and verdict in one word. Packets with the same go together.
    #[inline]
    pub(crate) fn fate(descriptor: &Descriptor) -> u64 {
        /// Where the generation is in the descriptor's second half.
        const GENERATION: u64 = 0xffff << 32;
        let [_, fate]: [u64; 2] = zerocopy::transmute!(*descriptor);
        fate & !GENERATION
    }

    /// The word that descriptors carry in `source`.
    #[inline]
    pub(crate) fn pack(self) -> u16 {
        u16::from(self.egress)
            | if self.reverse { Self::REVERSE } else { 0 }
            | u16::from(self.turns) << Self::TURNS_SHIFT
    }

    #[inline]
    pub(crate) fn of(descriptor: &Descriptor) -> Self {
        Self {
            ingress: descriptor.port,
            egress: descriptor.source as u8,
            reverse: descriptor.source & Self::REVERSE != 0,
            turns: (descriptor.source >> Self::TURNS_SHIFT) as u8,
        }
    }

    /// Writes it into a descriptor that goes on; the verdict has been carried out.
    #[inline]
    pub(crate) fn write(self, descriptor: &mut Descriptor) {
        descriptor.port = self.ingress;
        descriptor.source = self.pack();
        (descriptor.verdict, descriptor.argument) = (0, 0);
    }

    #[inline]
    pub(crate) fn from_meta(meta: Meta) -> Self {
        Self { ingress: meta.ingress, egress: meta.egress, reverse: meta.reverse, turns: meta.hops }
    }

    #[inline]
    pub(crate) fn to_meta(self, sampled: bool) -> Meta {
        Meta { ingress: self.ingress, egress: self.egress, reverse: self.reverse, sampled, hops: self.turns }
    }
}

/// What a verdict comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Go on there.
    To(Target),
    /// The function's own decision.
    Drop(DropReason),
    /// The function keeps it.
    Hold,
    /// A copy to each port but the ingress.
    Flood,
    /// The function asked for what the manifest does not give it.
    Refuse,
}

/// Where packets of a port enter a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The chain.
    pub(crate) chain: u16,
    /// Where they go first.
    pub(crate) target: Target,
    /// Their journey at the start.
    pub(crate) journey: Journey,
}

/// The edges of all chains.
#[derive(Debug)]
pub(crate) struct Graph {
    hops: Vec<Edges>,
    chains: Vec<ChainPlan>,
}

#[derive(Debug)]
struct Edges {
    chain: u16,
    next_forward: Target,
    next_reverse: Target,
    outputs: Vec<Target>,
}

impl Graph {
    pub(crate) fn new(plan: &ManagerPlan) -> Self {
        let hops = plan.hops.iter().map(|hop| Edges {
            chain: hop.chain,
            next_forward: hop.next_forward,
            next_reverse: hop.next_reverse,
            outputs: hop.outputs.iter().map(|(_, target)| *target).collect(),
        });
        Self { hops: hops.collect(), chains: plan.chains.clone() }
    }

    /// The chain a hop belongs to.
    #[inline]
    pub(crate) fn chain_of_hop(&self, hop: u16) -> u16 {
        self.hops[usize::from(hop)].chain
    }

    /// Where packets of a port may enter: one place for each chain that has the port.
    pub(crate) fn entries(&self, port: u8) -> impl Iterator<Item = Entry> + '_ {
        let chains = (0..).zip(&self.chains).filter(move |(_, chain)| has_port(chain, port));
        chains.map(move |(id, chain)| {
            let reverse = port != chain.left;
            let target = if reverse { chain.entry_reverse } else { chain.entry_forward };
            Entry { chain: id, target, journey: Journey { ingress: port, egress: NO_PORT, reverse, turns: 0 } }
        })
    }

    /// Whether a chain has a port.
    #[inline]
    pub(crate) fn has_port(&self, chain: u16, port: u8) -> bool {
        has_port(&self.chains[usize::from(chain)], port)
    }

    /// Where a packet without another verdict goes on from a hop.
    #[inline]
    pub(crate) fn next(&self, hop: u16, reverse: bool) -> Target {
        let edges = &self.hops[usize::from(hop)];
        if reverse { edges.next_reverse } else { edges.next_forward }
    }

    /// Works out a verdict; the journey is changed where the verdict turns the packet or chooses its egress.
    #[inline]
    pub(crate) fn step(&self, hop: u16, verdict: Option<Verdict>, journey: &mut Journey) -> Step {
        let edges = &self.hops[usize::from(hop)];
        match verdict {
            Some(Verdict::Next) => {
                self.settle(hop, journey);
                Step::To(self.next(hop, journey.reverse))
            }
            Some(Verdict::Drop(reason)) => Step::Drop(reason),
            Some(Verdict::Hold) => Step::Hold,
            Some(Verdict::Flood) => Step::Flood,
            Some(Verdict::Reply) => self.towards(hop, journey.ingress, journey),
            Some(Verdict::Port(Port(port))) => self.towards(hop, port, journey),
            Some(Verdict::Output(output)) => {
                journey.turns += 1;
                self.settle(hop, journey);
                edges.outputs.get(usize::from(output.0)).map_or(Step::Refuse, |target| Step::To(*target))
            }
            None => Step::Refuse,
        }
    }

    /// Gives a packet that a function made the ingress of one that travels as it does: later functions tell directions by
    /// that.
    #[inline]
    fn settle(&self, hop: u16, journey: &mut Journey) {
        if journey.ingress != MADE {
            return;
        }
        let chain = &self.chains[usize::from(self.chain_of_hop(hop))];
        journey.ingress = if journey.reverse { chain.right.first().copied().unwrap_or(chain.left) } else { chain.left };
    }

    /// Heads a packet for a port of the hop's chain.
    pub(crate) fn towards(&self, hop: u16, port: u8, journey: &mut Journey) -> Step {
        let chain_id = self.hops[usize::from(hop)].chain;
        let chain = &self.chains[usize::from(chain_id)];
        if !has_port(chain, port) {
            return Step::Refuse;
        }
        // A chain of one port has both its ends there; its packets run forward only.
        journey.reverse = port == chain.left && !chain.right.is_empty();
        journey.egress = port;
        journey.turns += 1;
        self.settle(hop, journey);
        Step::To(self.next(hop, journey.reverse))
    }

    /// The port by which a packet at the end of its chain leaves.
    #[inline]
    pub(crate) fn egress(&self, chain: u16, journey: Journey) -> Option<u8> {
        let chain = &self.chains[usize::from(chain)];
        if journey.egress != NO_PORT {
            return Some(journey.egress);
        }
        match (journey.reverse, chain.right.as_slice()) {
            (true, _) | (false, []) => Some(chain.left),
            (false, [only]) => Some(*only),
            (false, _) => None,
        }
    }

    /// The ports a flooded packet goes to.
    pub(crate) fn flood_ports(&self, hop: u16, ingress: u8) -> impl Iterator<Item = u8> + '_ {
        let chain = &self.chains[usize::from(self.chain_of_hop(hop))];
        std::iter::once(chain.left).chain(chain.right.iter().copied()).filter(move |&port| port != ingress)
    }
}

fn has_port(chain: &ChainPlan, port: u8) -> bool {
    chain.left == port || chain.right.contains(&port)
}

#[cfg(test)]
mod tests;
