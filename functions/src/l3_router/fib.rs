//! The forwarding table: prefixes to next hops.

use super::config::{Checked, Interface, broadcast};
use super::lpm4::{LIMIT, Lpm4};
use super::lpm6::Lpm6;
use super::prefix::Prefix;
use middlenet_sdk::ConfigError;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

/// What a packet for a next hop meets. 16 bytes, so that a cache line holds four.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Hop {
    /// The first bytes of the frame: destination, then source address.
    pub(super) macs: [u8; 12],
    /// Largest packet that may go out without further ado; 0 while the hop is not ready.
    pub(super) ready_mtu: u16,
    pub(super) port: u8,
    pub(super) kind: Kind,
}

/// What a next hop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// No route.
    Missing,
    /// The router itself.
    Local,
    /// A network's broadcast or network address.
    Broadcast,
    /// The destination is a neighbour on the port.
    OnLink,
    /// This one neighbour; `ready_mtu` tells whether its link address is known.
    Neighbour,
    /// Any neighbour on the port: nothing is resolved there and the destination link address stays.
    Keep,
}

/// Value of addresses without an IPv4 route; the IPv4 default route, if there is one, takes its place.
const DEFAULT4: u16 = 0;
const MISSING: u16 = 1;
const LOCAL: u16 = 2;
const BROADCAST: u16 = 3;
const FIRST_PORT: u16 = 4;

/// Who a neighbour is: port and address.
pub(super) type Who = (u8, IpAddr);

pub(super) struct Fib {
    pub(super) v4: Lpm4,
    pub(super) v6: Lpm6,
    /// All next hops; place 0 is where IPv4 addresses without a prefix lead.
    pub(super) hops: Vec<Hop>,
    /// The neighbour of each hop that is one.
    who: Vec<Option<Who>>,
    free: Vec<u16>,
    /// Next hop of a prefix with length 0.
    default4: Option<u16>,
    prefixes: usize,
    ports: usize,
    /// How often the way of packets that were being sent on has changed.
    pub(super) changes: u64,
}

impl Fib {
    /// Builds the table; `neighbours` next hops are kept for neighbours to come.
    pub(super) fn new(
        checked: &Checked,
        resolve: bool,
        gateway: Option<[u8; 6]>,
        neighbours: usize,
    ) -> Result<Self, ConfigError> {
        let v4 = Lpm4::new().map_err(|e| ConfigError::new(format!("no memory for the IPv4 table: {e}")))?;
        let plain = |kind| Hop { macs: [0; 12], ready_mtu: 0, port: 0, kind };
        let mut hops = vec![plain(Kind::Missing), plain(Kind::Missing), plain(Kind::Local), plain(Kind::Broadcast)];
        hops.extend(checked.interfaces.iter().map(|interface| on_link(interface, resolve, gateway)));
        let mut fib = Self {
            v4,
            v6: Lpm6::new(MISSING),
            who: vec![None; hops.len()],
            hops,
            free: Vec::new(),
            default4: None,
            prefixes: 0,
            ports: checked.interfaces.len(),
            changes: 0,
        };
        let prefixes = fib.prefixes(checked, resolve, gateway)?;
        fib.prefixes = prefixes.len();
        if fib.hops.len() + neighbours >= LIMIT {
            return Err(ConfigError::new(format!("the routes have {} next hops, which is too many", fib.hops.len()))
                .with_hint(format!("next hops and `max_neighbours` together may be {LIMIT} at most")));
        }
        let first_free = fib.hops.len();
        fib.hops.resize(first_free + neighbours, plain(Kind::Neighbour));
        fib.who.resize(fib.hops.len(), None);
        fib.free = (first_free..fib.hops.len()).rev().map(|hop| hop as u16).collect();
        // In ascending order of length, as both tables want it.
        for ((length, network), hop) in prefixes {
            fib.insert(network, length, hop)?;
        }
        Ok(fib)
    }

    fn prefixes(
        &mut self,
        checked: &Checked,
        resolve: bool,
        gateway: Option<[u8; 6]>,
    ) -> Result<BTreeMap<(u8, IpAddr), u16>, ConfigError> {
        let mut prefixes = BTreeMap::new();
        for (hop, interface) in (FIRST_PORT..).zip(&checked.interfaces) {
            for own in &interface.addresses {
                if own.length < Prefix::host(own.address).length {
                    prefixes.insert((own.length, own.network().address), hop);
                }
            }
        }
        for route in &checked.routes {
            let place = checked.interfaces.iter().position(|i| i.port == route.port).unwrap_or(0);
            let hop = match route.via {
                None => FIRST_PORT + place as u16,
                Some(via) => self.gateway(&checked.interfaces[place], via, resolve, gateway)?,
            };
            match prefixes.entry((route.to.length, route.to.address)) {
                Entry::Vacant(vacant) => *vacant.insert(hop) = hop,
                // The same line twice is harmless.
                Entry::Occupied(there) if *there.get() == hop && hop >= FIRST_PORT => {}
                Entry::Occupied(_) => {
                    return Err(ConfigError::new(format!("there are two routes to {}", route.to))
                        .with_hint("a prefix has one next hop; networks of `addresses` are routes too"));
                }
            }
        }
        for own in checked.interfaces.iter().flat_map(|i| &i.addresses) {
            if own.length < 31 && own.address.is_ipv4() {
                let network = own.network().address;
                for address in broadcast(*own).map(IpAddr::V4).into_iter().chain([network]) {
                    prefixes.entry((32, address)).or_insert(BROADCAST);
                }
            }
        }
        for own in checked.interfaces.iter().flat_map(|i| &i.addresses) {
            prefixes.insert((Prefix::host(own.address).length, own.address), LOCAL);
        }
        Ok(prefixes)
    }

    /// The next hop of a gateway, made where it is new.
    fn gateway(
        &mut self,
        interface: &Interface,
        via: IpAddr,
        resolve: bool,
        gateway: Option<[u8; 6]>,
    ) -> Result<u16, ConfigError> {
        if let Some(hop) = self.who.iter().position(|who| *who == Some((interface.port, via))) {
            return Ok(hop as u16);
        }
        let number = u16::try_from(self.hops.len()).ok().filter(|n| usize::from(*n) < LIMIT);
        let number = number.ok_or_else(|| ConfigError::new(format!("the routes have over {LIMIT} next hops")))?;
        let mut hop = on_link(interface, resolve, gateway);
        if hop.kind == Kind::OnLink {
            hop.kind = Kind::Neighbour;
        }
        self.hops.push(hop);
        self.who.push(Some((interface.port, via)));
        Ok(number)
    }

    fn insert(&mut self, network: IpAddr, length: u8, hop: u16) -> Result<(), ConfigError> {
        let full = || {
            ConfigError::new("the routes are too fine-grained for the forwarding table")
                .with_hint("it takes IPv4 prefixes over /24 in 32,768 different /24 networks, and 262,144 IPv6 nodes")
        };
        match network {
            // Kept out of the table, whose memory then stays untouched: 0 means this hop.
            IpAddr::V4(_) if length == 0 => {
                self.default4 = Some(hop);
                self.hops[usize::from(DEFAULT4)] = self.hops[usize::from(hop)];
                Ok(())
            }
            IpAddr::V4(v4) => self.v4.insert(v4.to_bits(), length, hop).map_err(|_| full()),
            IpAddr::V6(v6) => self.v6.insert(v6.to_bits(), length, hop).map_err(|_| full()),
        }
    }

    /// Number and state of the next hop of an address.
    pub(super) fn lookup(&self, address: IpAddr) -> (u16, Hop) {
        let number = match address {
            IpAddr::V4(v4) => self.v4.lookup(v4.to_bits()),
            IpAddr::V6(v6) => self.v6.lookup(v6.to_bits()),
        };
        // The copy at place 0 stands for the hop it was made from.
        let number = if number == DEFAULT4 { self.default4.unwrap_or(MISSING) } else { number };
        self.hops.get(usize::from(number)).map_or((MISSING, self.hops[usize::from(MISSING)]), |hop| (number, *hop))
    }

    /// The neighbour that a hop is.
    pub(super) fn who(&self, hop: u16) -> Option<Who> {
        self.who.get(usize::from(hop)).copied().flatten()
    }

    /// Hops that are neighbours.
    pub(super) fn neighbours(&self) -> impl Iterator<Item = (u16, Who)> + '_ {
        (0..).zip(&self.who).filter_map(|(hop, who)| who.map(|who| (hop, who)))
    }

    /// A next hop for a neighbour that is no gateway; `None` when all are in use.
    pub(super) fn claim(&mut self, who: Who) -> Option<u16> {
        let hop = self.free.pop()?;
        self.hops[usize::from(hop)] = Hop { macs: [0; 12], ready_mtu: 0, port: who.0, kind: Kind::Neighbour };
        self.who[usize::from(hop)] = Some(who);
        Some(hop)
    }

    /// Gives back what [`Fib::claim`] gave. Packets for the neighbour find the network's own hop again.
    pub(super) fn release(&mut self, hop: u16) {
        if let Some((port, IpAddr::V4(v4))) = self.who[usize::from(hop)].take()
            && self.v4.lookup(v4.to_bits()) == hop
            && let Some(on_link) = self.on_link_of(port)
        {
            // The address stood in the table, so its group exists and this cannot fail.
            let _ = self.v4.set_host(v4.to_bits(), on_link);
        }
        self.free.push(hop);
    }

    /// The neighbour's link address is known: packets may go out at once. Where the neighbour's address led to its network
    /// before, it now leads straight to this hop.
    pub(super) fn ready(&mut self, hop: u16, dst: [u8; 6], interface: &Interface) {
        let entry = &mut self.hops[usize::from(hop)];
        self.changes += u64::from(entry.ready_mtu != 0 && entry.macs[..6] != dst);
        entry.macs[..6].copy_from_slice(&dst);
        entry.macs[6..].copy_from_slice(&interface.mac);
        (entry.ready_mtu, entry.port, entry.kind) = (interface.mtu, interface.port, Kind::Neighbour);
        self.copy_default(hop);
        if let Some((port, address @ IpAddr::V4(v4))) = self.who(hop)
            && self.on_link_of(port) == Some(self.lookup(address).0)
        {
            // Without a free group its packets take the slow path, which finds the hop by the neighbour's address.
            let _ = self.v4.set_host(v4.to_bits(), hop);
        }
    }

    /// The hop of destinations that are neighbours on the port.
    fn on_link_of(&self, port: u8) -> Option<u16> {
        let first = usize::from(FIRST_PORT);
        let place = self.hops[first..first + self.ports].iter().position(|hop| hop.port == port)?;
        Some(FIRST_PORT + place as u16)
    }

    /// The neighbour's link address is no longer known.
    pub(super) fn unready(&mut self, hop: u16) {
        self.changes += 1;
        self.hops[usize::from(hop)].ready_mtu = 0;
        self.copy_default(hop);
    }

    fn copy_default(&mut self, hop: u16) {
        if self.default4 == Some(hop) {
            self.hops[usize::from(DEFAULT4)] = self.hops[usize::from(hop)];
        }
    }

    /// Prefixes, bytes of the IPv4 groups, bytes of the IPv6 trie.
    pub(super) fn size(&self) -> [usize; 3] {
        [self.prefixes, self.v4.far_bytes(), self.v6.bytes()]
    }
}

/// The hop of destinations that are neighbours on the port.
fn on_link(interface: &Interface, resolve: bool, gateway: Option<[u8; 6]>) -> Hop {
    let mut hop = Hop { macs: [0; 12], ready_mtu: 0, port: interface.port, kind: Kind::OnLink };
    hop.macs[6..].copy_from_slice(&interface.mac);
    match gateway {
        _ if resolve => {}
        None => hop.kind = Kind::Keep,
        Some(mac) => {
            hop.macs[..6].copy_from_slice(&mac);
            (hop.ready_mtu, hop.kind) = (interface.mtu, Kind::Neighbour);
        }
    }
    hop
}
