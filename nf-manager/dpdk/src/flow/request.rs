//! A rule in DPDK's form: lists that end with a mark, of pointers to headers in network byte order.
//!
//! The items of `rte_flow.h` begin with the header as it is on the wire, in every release; their other names for its fields
//! come and go. So headers are written as bytes.

use std::ffi::c_void;
use std::ptr::null;

use dpdk_sys as sys;

use middlenet_steer::nic::{Fate, Flow, Item, Ports};

use crate::port::Spread;

/// Room for any header, and for the flags that follow it in the structure.
const ROOM: usize = 64;
/// Fragment offset and the flag "more fragments" in the IPv4 header (RFC 791); nonzero in fragments, and in them alone.
const FRAGMENT_BITS: u16 = 0x3fff;

const _: () = assert!(size_of::<sys::rte_flow_item_eth>() <= ROOM && size_of::<sys::rte_flow_item_ipv6>() <= ROOM);

/// Bytes aligned for any of the structures.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header([u8; ROOM]);

/// Spec, last and mask of one item.
#[derive(Clone, Copy, Debug)]
struct Fields {
    spec: Header,
    last: Header,
    mask: Header,
}

impl Fields {
    fn new() -> Self {
        let empty = Header([0; ROOM]);
        Self { spec: empty, last: empty, mask: empty }
    }

    /// Asks that the bytes at `at`, as far as the mask goes, lie between two values.
    fn ask(&mut self, at: usize, first: &[u8], last: &[u8], mask: &[u8]) {
        let place = at..at + first.len();
        self.spec.0[place.clone()].copy_from_slice(first);
        self.last.0[place.clone()].copy_from_slice(last);
        self.mask.0[place].copy_from_slice(mask);
    }

    fn exact<const N: usize>(&mut self, at: usize, value: Option<[u8; N]>) {
        if let Some(value) = value {
            self.ask(at, &value, &value, &[0xff; N]);
        }
    }

    fn prefix<const N: usize>(&mut self, at: usize, prefix: Option<([u8; N], u8)>) {
        let Some((address, length)) = prefix else { return };
        let mask: [u8; N] = std::array::from_fn(|byte| {
            let bits = usize::from(length).saturating_sub(byte * 8).min(8);
            (0xff00u16 >> bits) as u8
        });
        let network: [u8; N] = std::array::from_fn(|byte| address[byte] & mask[byte]);
        self.ask(at, &network, &network, &mask);
    }

    fn range(&mut self, at: usize, range: Option<(u16, u16)>) {
        // All ports are no question.
        if let Some((first, last)) = range.filter(|range| *range != (0, u16::MAX)) {
            self.ask(at, &first.to_be_bytes(), &last.to_be_bytes(), &[0xff; 2]);
        }
    }

    fn of(item: &Item) -> (sys::rte_flow_item_type, Self) {
        let mut fields = Self::new();
        let kind = match item {
            Item::Eth { src, dst, ether_type } => {
                fields.exact(0, *dst);
                fields.exact(6, *src);
                fields.exact(12, ether_type.map(u16::to_be_bytes));
                sys::RTE_FLOW_ITEM_TYPE_ETH
            }
            Item::Vlan { id } => {
                let id = (id & 0x0fff).to_be_bytes();
                fields.ask(0, &id, &id, &0x0fffu16.to_be_bytes());
                sys::RTE_FLOW_ITEM_TYPE_VLAN
            }
            Item::Ipv4 { src, dst, protocol, fragment } => {
                let (first, last) = if *fragment == Some(true) { (1, FRAGMENT_BITS) } else { (0, 0) };
                if fragment.is_some() {
                    fields.ask(6, &u16::to_be_bytes(first), &last.to_be_bytes(), &FRAGMENT_BITS.to_be_bytes());
                }
                fields.exact(9, protocol.map(|protocol| [protocol]));
                fields.prefix(12, src.map(|(address, length)| (address.octets(), length)));
                fields.prefix(16, dst.map(|(address, length)| (address.octets(), length)));
                sys::RTE_FLOW_ITEM_TYPE_IPV4
            }
            Item::Ipv6 { src, dst } => {
                fields.prefix(8, src.map(|(address, length)| (address.octets(), length)));
                fields.prefix(24, dst.map(|(address, length)| (address.octets(), length)));
                sys::RTE_FLOW_ITEM_TYPE_IPV6
            }
            Item::Tcp(ports) => fields.ports(*ports, sys::RTE_FLOW_ITEM_TYPE_TCP),
            Item::Udp(ports) => fields.ports(*ports, sys::RTE_FLOW_ITEM_TYPE_UDP),
            Item::Sctp(ports) => fields.ports(*ports, sys::RTE_FLOW_ITEM_TYPE_SCTP),
        };
        (kind, fields)
    }

    fn ports(&mut self, Ports { src, dst }: Ports, kind: sys::rte_flow_item_type) -> sys::rte_flow_item_type {
        self.range(0, src);
        self.range(2, dst);
        kind
    }
}

/// What the action needs to know: of it, DPDK's structure points at the rest.
#[derive(Debug)]
enum Conf {
    None,
    Queue(Box<sys::rte_flow_action_queue>),
    Rss(Box<sys::rte_flow_action_rss>, #[expect(dead_code, reason = "pointed at")] Spread),
}

impl Conf {
    fn of(fate: Fate, spread: &Spread) -> (sys::rte_flow_action_type, Self) {
        match (fate, spread.queues.as_slice()) {
            (Fate::Drop, _) => (sys::RTE_FLOW_ACTION_TYPE_DROP, Self::None),
            (Fate::Take, &[index]) => {
                (sys::RTE_FLOW_ACTION_TYPE_QUEUE, Self::Queue(Box::new(sys::rte_flow_action_queue { index })))
            }
            (Fate::Take, _) => {
                let spread = spread.clone();
                let rss = sys::rte_flow_action_rss {
                    func: sys::RTE_ETH_HASH_FUNCTION_DEFAULT,
                    level: 0,
                    types: spread.types,
                    key_len: spread.key.len() as u32,
                    queue_num: spread.queues.len() as u32,
                    key: if spread.key.is_empty() { null() } else { spread.key.as_ptr() },
                    queue: spread.queues.as_ptr(),
                };
                (sys::RTE_FLOW_ACTION_TYPE_RSS, Self::Rss(Box::new(rss), spread))
            }
        }
    }

    fn pointer(&self) -> *const c_void {
        match self {
            Self::None => null(),
            Self::Queue(conf) => (&raw const **conf).cast(),
            Self::Rss(conf, _) => (&raw const **conf).cast(),
        }
    }
}

/// A flow as DPDK reads it. What the lists point at lives as long as this.
#[derive(Debug)]
pub(super) struct Request {
    attributes: sys::rte_flow_attr,
    items: Vec<sys::rte_flow_item>,
    actions: [sys::rte_flow_action; 2],
    _fields: Vec<(sys::rte_flow_item_type, Fields)>,
    _conf: Conf,
}

impl Request {
    /// `spread`: how the port spreads what it takes over its queues.
    pub(super) fn new(flow: &Flow, spread: &Spread) -> Self {
        let mut attributes = sys::rte_flow_attr::default();
        // SAFETY: writes the structure's fields.
        unsafe { sys::dpdk_sys_flow_attr(&mut attributes, flow.priority) };
        // Built before the list that points into it, and not changed afterwards.
        let fields: Vec<_> = flow.pattern.iter().map(Fields::of).collect();
        let mut items: Vec<_> = fields.iter().map(|(kind, asked)| item_of(*kind, asked)).collect();
        items.push(sys::rte_flow_item { type_: sys::RTE_FLOW_ITEM_TYPE_END, spec: null(), last: null(), mask: null() });
        let (type_, conf) = Conf::of(flow.fate, spread);
        let actions = [
            sys::rte_flow_action { type_, conf: conf.pointer() },
            sys::rte_flow_action { type_: sys::RTE_FLOW_ACTION_TYPE_END, conf: null() },
        ];
        Self { attributes, items, actions, _fields: fields, _conf: conf }
    }

    pub(super) fn attributes(&self) -> *const sys::rte_flow_attr {
        &self.attributes
    }

    pub(super) fn items(&self) -> *const sys::rte_flow_item {
        self.items.as_ptr()
    }

    pub(super) fn actions(&self) -> *const sys::rte_flow_action {
        self.actions.as_ptr()
    }
}

/// Points at what is asked; a header of which nothing is asked is asked for by its presence alone, and `last` is given only
/// where there is a range, since few drivers know ranges.
fn item_of(type_: sys::rte_flow_item_type, fields: &Fields) -> sys::rte_flow_item {
    let pointer = |header: &Header, given: bool| if given { header.0.as_ptr().cast() } else { null() };
    let asked = fields.mask.0.iter().any(|byte| *byte != 0);
    sys::rte_flow_item {
        type_,
        spec: pointer(&fields.spec, asked),
        last: pointer(&fields.last, fields.last != fields.spec),
        mask: pointer(&fields.mask, asked),
    }
}

#[cfg(test)]
mod tests;
