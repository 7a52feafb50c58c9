//! What flows are looked up by, and the secret hash of it.

use crate::firewall::prefix::{address_of, number};
use middlenet_sdk::fast_path::Flow;
use middlenet_sdk::wire::FlowKey;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;

/// A [`FlowKey`] in six words, cheap to compare and to hash. Two endpoints, of which the first is the lesser one where the
/// function asks for the [canonical](Key::canonical) form, so that both directions of a flow have one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Key {
    /// First address; IPv4 as IPv4-mapped IPv6.
    pub(crate) a: u128,
    /// Second address.
    pub(crate) b: u128,
    /// Ports (first in the highest bits), VLAN, protocol and IP version.
    pub(crate) rest: u64,
}

impl Key {
    /// A key as the packet has it: source first.
    #[inline]
    pub(crate) fn new(a: u128, a_port: u16, b: u128, b_port: u16, small: u32) -> Self {
        Self { a, b, rest: u64::from(a_port) << 48 | u64::from(b_port) << 32 | u64::from(small) }
    }

    /// VLAN, protocol and IP version as [`Key::new`] takes them.
    #[inline]
    pub(crate) fn small(vid: u16, protocol: u8, is_ipv6: bool) -> u32 {
        u32::from(vid) << 16 | u32::from(protocol) << 8 | u32::from(is_ipv6)
    }

    /// First port or ICMP identifier.
    #[inline]
    pub(crate) fn a_port(&self) -> u16 {
        (self.rest >> 48) as u16
    }

    /// Second port or ICMP identifier.
    #[inline]
    pub(crate) fn b_port(&self) -> u16 {
        (self.rest >> 32) as u16
    }

    /// VLAN identifier of the outermost tag; 0 if untagged.
    #[inline]
    pub(crate) fn vid(&self) -> u16 {
        (self.rest >> 16) as u16
    }

    /// Upper-layer protocol.
    #[inline]
    pub(crate) fn protocol(&self) -> u8 {
        (self.rest >> 8) as u8
    }

    /// Whether the packet is IPv6.
    #[inline]
    pub(crate) fn is_ipv6(&self) -> bool {
        self.rest & 1 != 0
    }

    /// The same flow seen from the other side.
    #[inline]
    pub(crate) fn reverse(&self) -> Self {
        Self::new(self.b, self.b_port(), self.a, self.a_port(), self.rest as u32)
    }

    /// The same key for both directions, and whether this one was turned round for it.
    #[inline]
    pub(crate) fn canonical(&self) -> (Self, bool) {
        let turn = if self.a == self.b { self.a_port() > self.b_port() } else { self.a > self.b };
        if turn { (self.reverse(), true) } else { (*self, false) }
    }
}

impl From<&FlowKey> for Key {
    #[inline]
    fn from(flow: &FlowKey) -> Self {
        let (a, b) = (u128::from_be_bytes(flow.src), u128::from_be_bytes(flow.dst));
        Self::new(a, flow.src_port, b, flow.dst_port, Self::small(flow.vid, flow.protocol, flow.is_ipv6))
    }
}

/// A key that is source first, as fast paths know it.
impl From<&Key> for Flow {
    fn from(key: &Key) -> Self {
        let address = |number: u128| if key.is_ipv6() { IpAddr::V6(number.into()) } else { address_of(number) };
        Self {
            vlan: key.vid(),
            src: address(key.a),
            dst: address(key.b),
            protocol: key.protocol(),
            src_port: key.a_port(),
            dst_port: key.b_port(),
        }
    }
}

impl From<&Flow> for Key {
    fn from(flow: &Flow) -> Self {
        let small = Self::small(flow.vlan, flow.protocol, flow.src.is_ipv6());
        Self::new(number(flow.src), flow.src_port, number(flow.dst), flow.dst_port, small)
    }
}

/// A secret from the system's random numbers, so that nobody outside can choose keys that collide.
#[derive(Clone, Debug)]
pub(crate) struct Seed([u64; 5]);

impl Seed {
    /// A new secret.
    pub(crate) fn random() -> Self {
        // The standard library seeds each `RandomState` from the system; SipHash stretches it to the words needed.
        let state = RandomState::new();
        Self(std::array::from_fn(|i| {
            let mut hasher = state.build_hasher();
            hasher.write_usize(i);
            hasher.finish() | 1
        }))
    }

    /// Hashes a key with folded 128-bit products (as wyhash and foldhash do): about three multiplications.
    #[inline]
    pub(crate) fn hash(&self, key: &Key) -> u32 {
        let [s0, s1, s2, s3, s4] = self.0;
        let low = fold(key.a as u64 ^ s0, key.b as u64 ^ s1);
        let high = fold((key.a >> 64) as u64 ^ s2, (key.b >> 64) as u64 ^ s3);
        let hash = fold(low ^ high.rotate_left(17) ^ key.rest, s4 ^ key.rest.rotate_left(32));
        (hash ^ hash >> 32) as u32
    }

    /// A number that looks random, for choices that need not be repeatable.
    pub(crate) fn mix(&self, n: u64) -> u64 {
        fold(n ^ self.0[0], self.0[1]) ^ self.0[2]
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
