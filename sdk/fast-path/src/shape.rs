//! Which matchers a function's fast path has, and in which way it works.

use serde::{Deserialize, Serialize};

use crate::settings::{SETTINGS, SETTINGS_BYTES};
use crate::{Action, COUNT_BYTES, FLOW_BYTES, KEY_BYTES, PREFIX_BYTES, SERVICE_BYTES, SERVICE_KEY_BYTES};

/// Ports of TCP and of UDP.
const PORTS: u32 = 2 << 16;

/// How rules come into the fast path (eVNF, section III-E).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The function installs rules by its configuration, before packets come; what no rule matches goes to the function.
    Proactive,
    /// The function installs rules for flows whose first packets it has seen.
    Reactive,
    /// As `proactive`, but what no rule matches goes to the kernel's own stack, which takes the place of the rest of the chain:
    /// netfilter, or a program that listens there.
    Offloading,
}

impl Mode {
    /// As manifests write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proactive => "proactive",
            Self::Reactive => "reactive",
            Self::Offloading => "offloading",
        }
    }
}

/// The matchers of a function's fast path, and how much each holds. [`Shape::NONE`] for functions without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Shape {
    /// Flows by exact key; the one not used for longest makes room for a new one.
    pub flows: u32,
    /// Prefixes of source addresses: entries of the map, twice what was asked for, since a table of rules is replaced while packets pass
    /// and both lie in the map for a moment.
    pub src_prefixes: u32,
    /// The same of destination addresses.
    pub dst_prefixes: u32,
    /// Whether source ports of TCP and UDP are looked at.
    pub src_ports: bool,
    /// The same of destination ports.
    pub dst_ports: bool,
    /// Numbers of rules that prefixes, ports and slots name: for the same reason twice as many as rules can be in use, and number 0, which
    /// slots name that nobody has written.
    pub rules: u32,
    /// Addresses and ports behind which there are servers.
    pub services: u32,
    /// Slots of all services.
    pub slots: u32,
    /// Classes in which packets of flows and rules are counted.
    pub classes: u32,
    /// In which modes the function can work; bits by [`Mode`].
    modes: u8,
}

impl Shape {
    /// How many entries a map has, or can have.
    pub const fn entries(&self, kind: MapKind) -> u32 {
        match kind {
            MapKind::Settings => SETTINGS,
            MapKind::Flows => self.flows,
            MapKind::SrcPrefixes => self.src_prefixes,
            MapKind::DstPrefixes => self.dst_prefixes,
            MapKind::SrcPorts | MapKind::DstPorts => PORTS,
            MapKind::Rules | MapKind::RuleCounts => self.rules,
            MapKind::Services => self.services,
            MapKind::Slots => self.slots,
            MapKind::Classes => self.classes,
        }
    }

    /// No fast path.
    pub const NONE: Self = Self {
        flows: 0,
        src_prefixes: 0,
        dst_prefixes: 0,
        src_ports: false,
        dst_ports: false,
        rules: 0,
        services: 0,
        slots: 0,
        classes: 0,
        modes: 0,
    };

    /// A fast path that works in these modes, without any matcher yet.
    pub const fn of(modes: &[Mode]) -> Self {
        let mut shape = Self::NONE;
        let mut at = 0;
        while at < modes.len() {
            shape.modes |= 1 << modes[at] as u8;
            at += 1;
        }
        shape
    }

    /// With room for this many flows.
    #[must_use]
    pub const fn flows(mut self, most: u32) -> Self {
        self.flows = most;
        self
    }

    /// With room for this many prefixes of source addresses, and as many of destination addresses.
    #[must_use]
    pub const fn prefixes(mut self, src: u32, dst: u32) -> Self {
        self.src_prefixes = src.saturating_mul(2);
        self.dst_prefixes = dst.saturating_mul(2);
        self
    }

    /// With source ports, destination ports, or both.
    #[must_use]
    pub const fn ports(mut self, src: bool, dst: bool) -> Self {
        self.src_ports = src;
        self.dst_ports = dst;
        self
    }

    /// With room for this many rules.
    #[must_use]
    pub const fn rules(mut self, most: u32) -> Self {
        self.rules = if most == 0 { 0 } else { most.saturating_mul(2).saturating_add(1) };
        self
    }

    /// How many rules a function can have in use.
    pub const fn most_rules(&self) -> u32 {
        self.rules / 2
    }

    /// How many prefixes of sources and of destinations a function can have in use.
    pub const fn most_prefixes(&self) -> (u32, u32) {
        (self.src_prefixes / 2, self.dst_prefixes / 2)
    }

    /// With room for this many services that have this many slots together. Connections to them are remembered among the flows.
    #[must_use]
    pub const fn services(mut self, most: u32, slots: u32) -> Self {
        self.services = most;
        self.slots = slots;
        self
    }

    /// With this many classes.
    #[must_use]
    pub const fn classes(mut self, most: u32) -> Self {
        self.classes = most;
        self
    }

    /// A part of which there is none, though another part cannot do without: what asks for it, and what is missing.
    pub fn lacks(&self) -> Option<(&'static str, &'static str)> {
        let prefixes = self.src_prefixes > 0 || self.dst_prefixes > 0;
        let ports = self.src_ports || self.dst_ports;
        let parts = [
            ("prefixes", prefixes, "rules", self.rules),
            ("ports", ports, "rules", self.rules),
            ("services", self.services > 0, "rules", self.rules),
            ("services", self.services > 0, "slots", self.slots),
            ("services", self.services > 0, "flows", self.flows),
            ("slots", self.slots > 0, "services", self.services),
        ];
        parts.into_iter().find(|&(_, asks, _, most)| asks && most == 0).map(|(what, _, missing, _)| (what, missing))
    }

    /// How much memory the kernel takes for its maps at most, about, on a host that can have this many processors, in bytes. All of it is taken at
    /// once, but for prefixes.
    pub fn memory_bytes(&self, processors: u64) -> u64 {
        self.maps().fold(0, |sum, kind| {
            sum.saturating_add(kind.entry_bytes(processors).saturating_mul(self.entries(kind).into()))
        })
    }

    /// Whether there is a fast path.
    pub const fn exists(&self) -> bool {
        self.modes != 0
    }

    /// Whether it works in a mode.
    pub const fn works(&self, mode: Mode) -> bool {
        self.modes & 1 << mode as u8 != 0
    }

    /// The modes it works in.
    pub fn modes(&self) -> impl Iterator<Item = Mode> + use<> {
        let shape = *self;
        [Mode::Proactive, Mode::Reactive, Mode::Offloading].into_iter().filter(move |&mode| shape.works(mode))
    }

    /// The maps that the function and its fast path share.
    pub fn maps(&self) -> impl Iterator<Item = MapKind> + use<> {
        let shape = *self;
        MapKind::ALL.into_iter().filter(move |kind| match kind {
            MapKind::Settings => shape.exists(),
            MapKind::Flows => shape.flows > 0,
            MapKind::SrcPrefixes => shape.src_prefixes > 0,
            MapKind::DstPrefixes => shape.dst_prefixes > 0,
            MapKind::SrcPorts => shape.src_ports,
            MapKind::DstPorts => shape.dst_ports,
            MapKind::Rules | MapKind::RuleCounts => shape.rules > 0,
            MapKind::Services => shape.services > 0,
            MapKind::Slots => shape.slots > 0,
            MapKind::Classes => shape.classes > 0,
        })
    }
}

/// A map that a function and its fast path share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapKind {
    /// [`Settings`](crate::Settings), by who writes them.
    Settings,
    /// [`flow_key`](crate::flow_key) to [`FlowRule`](crate::FlowRule) and [`FlowState`](crate::FlowState).
    Flows,
    /// [`prefix_key`](crate::prefix_key) to a rule's number (u32); [`NO_RULE`](crate::NO_RULE) for none.
    SrcPrefixes,
    /// The same.
    DstPrefixes,
    /// [`port_slot`](crate::port_slot) to a rule's number and one (u32), 0 for none.
    SrcPorts,
    /// The same.
    DstPorts,
    /// A number to an [`Action`](crate::Action).
    Rules,
    /// By rule, and by processor: [`Counted`](crate::Counted).
    RuleCounts,
    /// [`Service`](crate::Service) to [`ServiceRule`](crate::ServiceRule).
    Services,
    /// A slot's number to that of a rule (u32).
    Slots,
    /// By class, and by processor: [`Counted`](crate::Counted).
    Classes,
}

impl MapKind {
    /// Bytes of a key.
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::Flows => KEY_BYTES,
            Self::SrcPrefixes | Self::DstPrefixes => PREFIX_BYTES,
            Self::Services => SERVICE_KEY_BYTES,
            _ => 4,
        }
    }

    /// Bytes of a value, of one processor where each has its own.
    pub const fn value_bytes(self) -> usize {
        match self {
            Self::Settings => SETTINGS_BYTES,
            Self::Flows => FLOW_BYTES,
            Self::Rules => Action::BYTES,
            Self::Services => SERVICE_BYTES,
            Self::RuleCounts | Self::Classes => COUNT_BYTES,
            _ => 4,
        }
    }

    /// Whether each processor has a value of its own.
    pub const fn is_per_processor(self) -> bool {
        matches!(self, Self::RuleCounts | Self::Classes)
    }

    /// What an entry takes of the kernel's memory, about: a hash table has a head and a bucket for each, a tree up to another node.
    fn entry_bytes(self, processors: u64) -> u64 {
        let (key, value) = (self.key_bytes() as u64, self.value_bytes() as u64);
        match self {
            Self::SrcPrefixes | Self::DstPrefixes => 192,
            Self::Flows | Self::Services => 64 + key + value,
            Self::RuleCounts | Self::Classes => 8_u64.saturating_add(value.saturating_mul(processors)),
            _ => value.next_multiple_of(8),
        }
    }

    /// Whether its keys are the numbers from 0 on, which are all there always.
    pub const fn is_array(self) -> bool {
        !matches!(self, Self::Flows | Self::SrcPrefixes | Self::DstPrefixes | Self::Services)
    }

    /// All kinds, in the order in which they are handed over.
    pub const ALL: [Self; 11] = [
        Self::Settings,
        Self::Flows,
        Self::SrcPrefixes,
        Self::DstPrefixes,
        Self::SrcPorts,
        Self::DstPorts,
        Self::Rules,
        Self::RuleCounts,
        Self::Services,
        Self::Slots,
        Self::Classes,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_a_table_and_its_successor() {
        let shape = Shape::of(&[Mode::Proactive]).rules(100).prefixes(1000, 0);
        assert_eq!((shape.most_rules(), shape.most_prefixes()), (100, (1000, 0)));
        assert_eq!((shape.entries(MapKind::Rules), shape.entries(MapKind::SrcPrefixes)), (201, 2000));
        assert_eq!(Shape::of(&[Mode::Reactive]).rules(0).maps().count(), 1);
    }

    #[test]
    fn memory_grows_with_processors_where_each_has_its_own() {
        let shape = Shape::of(&[Mode::Reactive]);
        let mib = |shape: Shape, processors| shape.memory_bytes(processors) >> 20;
        assert_eq!([1, 64].map(|processors| mib(shape.flows(1 << 22), processors)), [864, 864]);
        assert_eq!([1, 64].map(|processors| mib(shape.classes(1 << 20), processors)), [24, 1032]);
        assert!(mib(shape.rules(1 << 19), 64) > 1024 + 64);
        assert_eq!(shape.classes(u32::MAX).memory_bytes(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_part_that_another_cannot_do_without_is_named() {
        let shape = Shape::of(&[Mode::Proactive]);
        assert_eq!(shape.lacks(), None);
        assert_eq!(shape.prefixes(0, 1).lacks(), Some(("prefixes", "rules")));
        assert_eq!(shape.ports(true, false).lacks(), Some(("ports", "rules")));
        let services = shape.services(1, 1);
        assert_eq!(services.lacks(), Some(("services", "rules")));
        assert_eq!(services.rules(1).lacks(), Some(("services", "flows")));
        assert_eq!(shape.services(1, 0).rules(1).flows(1).lacks(), Some(("services", "slots")));
        assert_eq!(shape.services(0, 1).lacks(), Some(("slots", "services")));
        assert_eq!(services.rules(1).flows(1).prefixes(1, 1).ports(true, true).classes(1).lacks(), None);
    }
}
