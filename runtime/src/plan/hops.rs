//! What hops of both data planes have in common.

use middlenet_plan::{FastPathPlan, ManagerPlan, Placement, SteeringPlan, Transport};
use middlenet_sdk::middlebox::MESSAGE_BYTES;
use middlenet_sdk::peer::PeerAddress;
use serde_json::Value;

use super::{HopId, Plan, Plane};

/// A function in its chain.
#[derive(Debug, Clone)]
pub struct Hop<'a> {
    /// Its chain.
    pub chain: &'a str,
    /// Its name in the chain.
    pub name: &'a str,
    /// The registered name, or the path of a binary.
    pub function: &'a str,
    /// Its part of the manifest.
    pub config: &'a Value,
    /// Whether the data plane calls it; else it has processes.
    pub inline: bool,
    /// Whether messages reach it over an SK_MSG socket.
    pub skmsg: bool,
    /// Its named outputs.
    pub outputs: Vec<&'a str>,
    /// Names under which it may steer flows.
    pub steering: Vec<&'a str>,
    /// Hosts that it may dial.
    pub peers: &'a [PeerAddress],
}

impl Hop<'_> {
    /// `chain/function`.
    pub fn label(&self) -> String {
        format!("{}/{}", self.chain, self.name)
    }
}

impl Plan {
    /// The data planes there are, in the order in which they start.
    pub fn planes(&self) -> impl Iterator<Item = Plane> + '_ {
        Plane::ALL.into_iter().filter(|plane| match plane {
            Plane::Packets => self.manager.is_some(),
            Plane::Messages => self.broker.is_some(),
        })
    }

    /// All hops.
    pub fn hops(&self) -> Vec<HopId> {
        let packets = self.manager.as_ref().map_or(0, |m| m.hops.len());
        let messages = self.broker.as_ref().map_or(0, |b| b.hops.len());
        let of = |plane, count| (0..count).map(move |i| HopId::new(plane, i));
        of(Plane::Packets, packets).chain(of(Plane::Messages, messages)).collect()
    }

    /// A hop.
    pub fn hop(&self, id: HopId) -> Option<Hop<'_>> {
        let at = usize::from(id.hop);
        match id.plane {
            Plane::Packets => {
                let plan = self.manager.as_ref()?;
                let hop = plan.hops.get(at)?;
                Some(Hop {
                    chain: plan.chains.get(usize::from(hop.chain)).map_or("?", |c| &c.name),
                    name: &hop.name,
                    function: &hop.function,
                    config: &hop.config,
                    inline: hop.placement == Placement::Inline,
                    skmsg: false,
                    outputs: hop.outputs.iter().map(|(name, _)| name.as_str()).collect(),
                    steering: hop.steering.iter().map(|target| target.name.as_str()).collect(),
                    peers: &hop.peers,
                })
            }
            Plane::Messages => {
                let plan = self.broker.as_ref()?;
                let hop = plan.hops.get(at)?;
                Some(Hop {
                    chain: plan.chains.get(usize::from(hop.chain)).map_or("?", |c| &c.name),
                    name: &hop.name,
                    function: &hop.function,
                    config: &hop.config,
                    inline: hop.transport == Transport::Inline,
                    skmsg: hop.transport == Transport::Skmsg,
                    outputs: hop.outputs.iter().map(|(name, _)| name.as_str()).collect(),
                    steering: Vec::new(),
                    peers: &[],
                })
            }
        }
    }

    /// The fast path of a hop, if it is to have one.
    pub fn fast_path(&self, id: HopId) -> Option<&FastPathPlan> {
        let manager = self.manager.as_ref().filter(|_| id.plane == Plane::Packets)?;
        manager.hops.get(usize::from(id.hop))?.fast_path.as_ref()
    }

    /// The hop of a function, by the names of its chain and of its own.
    pub fn find_hop(&self, chain: &str, function: &str) -> Option<HopId> {
        self.hops().into_iter().find(|&id| self.hop(id).is_some_and(|h| h.chain == chain && h.name == function))
    }

    /// Replaces the configuration of a hop.
    pub fn set_config(&mut self, id: HopId, config: &Value) {
        let at = usize::from(id.hop);
        let place = match id.plane {
            Plane::Packets => self.manager.as_mut().and_then(|m| m.hops.get_mut(at)).map(|h| &mut h.config),
            Plane::Messages => self.broker.as_mut().and_then(|b| b.hops.get_mut(at)).map(|h| &mut h.config),
        };
        if let Some(place) = place {
            place.clone_from(config);
        }
    }

    /// Replaces the hosts that the function of a hop may dial.
    pub fn set_peers(&mut self, id: HopId, peers: &[PeerAddress]) {
        let manager = self.manager.as_mut().filter(|_| id.plane == Plane::Packets);
        if let Some(hop) = manager.and_then(|manager| manager.hops.get_mut(usize::from(id.hop))) {
            hop.peers = peers.to_vec();
        }
    }

    /// The steering rules of a port.
    pub fn steering(&self, port: u8) -> Option<&SteeringPlan> {
        self.manager.as_ref()?.ports.get(usize::from(port))?.steering.as_ref()
    }

    /// Replaces the steering rules of a port.
    pub fn set_steering(&mut self, port: u8, steering: &SteeringPlan) {
        if let Some(port) = self.manager.as_mut().and_then(|m| m.ports.get_mut(usize::from(port))) {
            port.steering = Some(steering.clone());
        }
    }

    /// Cores of a data plane's workers.
    pub fn workers(&self, plane: Plane) -> &[usize] {
        match plane {
            Plane::Packets => self.manager.as_ref().map_or(&[], |m| &m.workers),
            Plane::Messages => self.broker.as_ref().map_or(&[], |b| &b.workers),
        }
    }

    /// Slots of a data plane's rings.
    pub fn ring_slots(&self, plane: Plane) -> u32 {
        match plane {
            Plane::Packets => self.manager.as_ref().map_or(0, |m| m.ring_slots),
            Plane::Messages => self.broker.as_ref().map_or(0, |b| b.ring_slots),
        }
    }

    /// Bytes of a data plane's buffers, each.
    pub fn buffer_bytes(&self, plane: Plane) -> u32 {
        match plane {
            Plane::Packets => self.manager.as_ref().map_or(0, |m| m.buffer_bytes),
            Plane::Messages => MESSAGE_BYTES as u32,
        }
    }

    /// How many buffers a data plane has.
    pub fn buffers(&self, plane: Plane) -> u32 {
        match plane {
            Plane::Packets => self.manager.as_ref().map_or(0, |m| m.buffers),
            Plane::Messages => self.broker.as_ref().map_or(0, |b| b.buffers),
        }
    }

    /// Bytes of a data plane's region.
    pub fn region_bytes(&self, plane: Plane) -> u64 {
        u64::from(self.buffers(plane)) * u64::from(self.buffer_bytes(plane))
    }

    /// Whether time is that of the packets in the capture files.
    pub fn is_lockstep(&self) -> bool {
        self.manager.as_ref().is_some_and(|m| m.lockstep)
    }
}

/// Name of a port by id.
pub(crate) fn port_name(plan: &ManagerPlan, port: u8) -> &str {
    plan.ports.get(usize::from(port)).map_or("?", |p| &p.name)
}
