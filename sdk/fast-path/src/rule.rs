//! Matchers that name rules by number.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use middlenet_steer::Prefix;

use crate::octets;

/// Bytes of a prefix's key.
pub const PREFIX_BYTES: usize = 24;
/// Bytes of `struct fast_service_key`.
pub const SERVICE_KEY_BYTES: usize = 24;
/// Bytes of `struct fast_service`.
pub const SERVICE_BYTES: usize = 24;
/// Bytes of `struct fast_count`.
pub const COUNT_BYTES: usize = 16;

/// The number of no rule: what a prefix names that matches nothing itself and hides a shorter one.
pub const NO_RULE: u32 = u32::MAX;

/// The key of a prefix: bits that count (u32) of what follows, which is the version, 4 or 6, as a byte before three zeros, and the
/// address as one of IPv6. So no prefix of one version matches an address of the other.
pub fn prefix_key(prefix: &Prefix) -> [u8; PREFIX_BYTES] {
    let (version, mapped) = if prefix.address().is_ipv4() { (4, 96) } else { (6, 0) };
    let mut bytes = [0; PREFIX_BYTES];
    bytes[..4].copy_from_slice(&(32 + u32::from(prefix.length()) + mapped).to_ne_bytes());
    bytes[4] = version;
    bytes[8..].copy_from_slice(&octets(prefix.address()));
    bytes
}

/// The number of a port of TCP or UDP in the maps of ports; nothing for other protocols.
pub fn port_slot(protocol: u8, port: u16) -> Option<u32> {
    match protocol {
        6 => Some(u32::from(port)),
        17 => Some(1 << 16 | u32::from(port)),
        _ => None,
    }
}

/// An address and port behind which there are servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service {
    /// The address that clients know.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol: 6 (TCP) or 17 (UDP).
    pub protocol: u8,
}

impl Service {
    /// `struct fast_service_key`.
    pub fn encode(&self) -> [u8; SERVICE_KEY_BYTES] {
        let mut bytes = [0; SERVICE_KEY_BYTES];
        bytes[..16].copy_from_slice(&octets(self.address));
        bytes[16..18].copy_from_slice(&self.port.to_ne_bytes());
        bytes[18] = self.protocol;
        bytes
    }
}

/// Where new connections to a service go. The slot that [`slot_of`](crate::slot_of) selects names a rule, whose rewriting of the
/// destination makes the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceRule {
    /// Its first slot.
    pub first: u32,
    /// How many it has; none: its packets go to the slow path.
    pub count: u32,
    /// How long a connection may be without a packet.
    pub idle: Duration,
    /// How long it is remembered when it is closing.
    pub closing: Duration,
}

impl ServiceRule {
    /// `struct fast_service`.
    pub fn encode(&self) -> [u8; SERVICE_BYTES] {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).to_ne_bytes();
        let mut bytes = [0; SERVICE_BYTES];
        bytes[..4].copy_from_slice(&self.first.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.count.to_ne_bytes());
        bytes[8..16].copy_from_slice(&ns(self.idle));
        bytes[16..].copy_from_slice(&ns(self.closing));
        bytes
    }
}

/// What a rule or class counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// Packets.
    pub packets: u64,
    /// Their bytes, as they arrived.
    pub bytes: u64,
}

impl Counted {
    /// The sum over the processors, from the values that the kernel gives of a map that has one for each.
    pub fn sum(values: &[u8]) -> Self {
        let (values, _) = values.as_chunks::<COUNT_BYTES>();
        let word = |value: &[u8; COUNT_BYTES], at: usize| u64::from_ne_bytes(std::array::from_fn(|i| value[at + i]));
        values.iter().fold(Self::default(), |sum, value| Self {
            packets: sum.packets.wrapping_add(word(value, 0)),
            bytes: sum.bytes.wrapping_add(word(value, 8)),
        })
    }
}

impl Service {
    /// The service of a key; nothing for bytes that are none.
    pub fn decode(bytes: &[u8; SERVICE_KEY_BYTES]) -> Option<Self> {
        let address = Ipv6Addr::from(*bytes.first_chunk::<16>()?).to_canonical();
        Some(Self { address, port: u16::from_ne_bytes([bytes[16], bytes[17]]), protocol: bytes[18] })
    }
}

impl ServiceRule {
    /// What such bytes say.
    pub fn decode(bytes: &[u8; SERVICE_BYTES]) -> Self {
        let slots = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
        let time = |at: usize| Duration::from_nanos(u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i])));
        Self { first: slots(0), count: slots(4), idle: time(8), closing: time(16) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_prefixes_lie_in_ipv6() {
        let key = prefix_key(&"10.1.0.0/16".parse().unwrap());
        assert_eq!((&key[..4], key[4]), (144_u32.to_ne_bytes().as_slice(), 4));
        assert_eq!(key[18..], [0xff, 0xff, 10, 1, 0, 0]);
        let key = prefix_key(&"2001:db8::/32".parse().unwrap());
        assert_eq!((&key[..4], key[4]), (64_u32.to_ne_bytes().as_slice(), 6));
    }

    #[test]
    fn a_service_survives_the_map() {
        for address in ["10.0.0.1", "2001:db8::1"] {
            let service = Service { address: address.parse().unwrap(), port: 443, protocol: 6 };
            assert_eq!(Service::decode(&service.encode()), Some(service));
        }
        let rule = ServiceRule { first: 3, count: 7, idle: Duration::from_secs(5), closing: Duration::from_millis(9) };
        assert_eq!(ServiceRule::decode(&rule.encode()), rule);
    }

    #[test]
    fn counts_are_sums_over_processors() {
        let values: Vec<u8> = [1_u64, 100, 2, 200].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(Counted::sum(&values), Counted { packets: 3, bytes: 300 });
    }
}
