//! The flow key: which conversation a packet belongs to.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::dissect::{L3, Layers};
use crate::ipv4::Ipv4;
use crate::ipv6::Ipv6;
use crate::vlan::{self, VlanTag};
use crate::{WireError, ethertype, icmpv4, icmpv6, protocol};

/// Addresses, ports, protocol and VLAN of a packet, in 40 bytes.
///
/// IPv4 addresses are held as IPv4-mapped IPv6 ones (RFC 4291 section 2.5.5.2), and [`is_ipv6`](FlowKey::is_ipv6) tells
/// the version. Ports are zero for later fragments and for protocols that have none. For ICMP echo and timestamp both
/// ports are the identifier, so that the key of a reply is the reverse of its request's key; other ICMP has zero ports.
///
/// ```
/// use middlenet_wire::{FlowKey, PacketBuilder};
/// let (a, b) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
/// let there = FlowKey::parse(&PacketBuilder::new().ipv4(a, b).udp(1000, 53).build()).unwrap();
/// let back = FlowKey::parse(&PacketBuilder::new().ipv4(b, a).udp(53, 1000).build()).unwrap();
/// assert_eq!(there.reverse(), back);
/// assert_eq!(there.symmetric_hash(), back.symmetric_hash());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    /// Source address, IPv4-mapped for IPv4.
    pub src: [u8; 16],
    /// Destination address, IPv4-mapped for IPv4.
    pub dst: [u8; 16],
    /// Source port, or the ICMP identifier, or 0.
    pub src_port: u16,
    /// Destination port, or the ICMP identifier, or 0.
    pub dst_port: u16,
    /// VLAN identifier of the outermost tag; 0 if untagged or only priority-tagged.
    pub vid: u16,
    /// Upper-layer protocol.
    pub protocol: u8,
    /// Whether the packet is IPv6.
    pub is_ipv6: bool,
}

impl FlowKey {
    /// A key made of its parts, for example to look up or to pin a flow. The addresses' versions must agree.
    ///
    /// Errors: [`WireError::BadVersion`] if they do not.
    pub fn new(src: IpAddr, src_port: u16, dst: IpAddr, dst_port: u16, protocol: u8) -> Result<Self, WireError> {
        let (src, dst, is_ipv6) = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => (mapped(src), mapped(dst), false),
            (IpAddr::V6(src), IpAddr::V6(dst)) => (src.octets(), dst.octets(), true),
            _ => return Err(WireError::BadVersion),
        };
        Ok(FlowKey { src, dst, src_port, dst_port, vid: 0, protocol, is_ipv6 })
    }

    /// The key of a frame; none if it is not IP, or malformed, or ends within the ports.
    #[inline]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        // Not by way of `Layers`, of which the key needs the least part.
        let tagged = vlan::walk(frame).ok()?;
        let l3 = frame.get(tagged.l3_offset..)?;
        let vid = tagged.tags.outer().map_or(0, VlanTag::vid);
        match tagged.ethertype {
            ethertype::IPV4 => Self::of_ipv4(&Ipv4::parse(l3).ok()?, vid).ok(),
            ethertype::IPV6 => Self::of_ipv6(&Ipv6::parse(l3).ok()?, vid).ok(),
            _ => None,
        }
    }

    /// The key of a frame whose headers are known.
    ///
    /// Errors: [`WireError::WrongProtocol`] if L3 is not IP; [`WireError::Truncated`] if the packet ends within the ports
    /// or the ICMP header.
    #[inline]
    pub fn of(layers: &Layers, frame: &[u8]) -> Result<Self, WireError> {
        let (src, dst, is_ipv6) = match layers.l3 {
            L3::Ipv4 => {
                let ip = layers.ipv4(frame)?;
                (mapped(ip.src()), mapped(ip.dst()), false)
            }
            L3::Ipv6 => {
                let ip = layers.ipv6(frame)?;
                (ip.src().octets(), ip.dst().octets(), true)
            }
            _ => return Err(WireError::WrongProtocol),
        };
        let (src_port, dst_port) =
            if layers.has_l4() { ports(layers.protocol, is_ipv6, layers.l4_bytes(frame)?)? } else { (0, 0) };
        let vid = layers.vid().unwrap_or(0);
        Ok(FlowKey { src, dst, src_port, dst_port, vid, protocol: layers.protocol, is_ipv6 })
    }

    /// The key of the packet that an ICMP error quotes: that of the flow the error is about, as its sender sent it.
    ///
    /// The VLAN is that of the frame. Errors: [`WireError::WrongProtocol`] if the frame is no ICMP error;
    /// [`WireError::Truncated`] and others if the quoted packet is cut too short or malformed.
    pub fn of_quoted(layers: &Layers, frame: &[u8]) -> Result<Self, WireError> {
        let vid = layers.vid().unwrap_or(0);
        match layers.l3 {
            L3::Ipv4 => Self::of_ipv4(&layers.icmpv4(frame)?.quoted()?, vid),
            _ => Self::of_ipv6(&layers.icmpv6(frame)?.quoted()?, vid),
        }
    }

    #[inline]
    fn of_ipv4(ip: &Ipv4<'_>, vid: u16) -> Result<Self, WireError> {
        let (src_port, dst_port) =
            if ip.is_first_fragment() { ports(ip.protocol(), false, ip.payload())? } else { (0, 0) };
        let (src, dst) = (mapped(ip.src()), mapped(ip.dst()));
        Ok(FlowKey { src, dst, src_port, dst_port, vid, protocol: ip.protocol(), is_ipv6: false })
    }

    #[inline]
    fn of_ipv6(ip: &Ipv6<'_>, vid: u16) -> Result<Self, WireError> {
        let upper = ip.upper_layer()?;
        let (src_port, dst_port) = if upper.fragment.is_none_or(|fragment| fragment.is_first()) {
            ports(upper.protocol, true, ip.payload().get(upper.offset..).ok_or(WireError::Truncated)?)?
        } else {
            (0, 0)
        };
        let (src, dst) = (ip.src().octets(), ip.dst().octets());
        Ok(FlowKey { src, dst, src_port, dst_port, vid, protocol: upper.protocol, is_ipv6: true })
    }

    /// The key of the same flow's packets in the other direction.
    #[inline]
    #[must_use]
    pub fn reverse(&self) -> Self {
        FlowKey { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port, ..*self }
    }

    /// The same key whichever direction it is of: the lesser of it and its reverse, and whether it was reversed.
    #[inline]
    pub fn canonical(&self) -> (Self, bool) {
        let reverse = self.reverse();
        if reverse < *self { (reverse, true) } else { (*self, false) }
    }

    /// Source address.
    #[inline]
    pub fn src_ip(&self) -> IpAddr {
        unmapped(self.src, self.is_ipv6)
    }

    /// Destination address.
    #[inline]
    pub fn dst_ip(&self) -> IpAddr {
        unmapped(self.dst, self.is_ipv6)
    }

    /// A hash that is the same for both directions, to spread flows over workers or chain replicas.
    #[inline]
    pub fn symmetric_hash(&self) -> u32 {
        self.symmetric_hash_with(0)
    }

    /// [`symmetric_hash`](FlowKey::symmetric_hash) with a seed. Give tables a random seed, or a sender can aim at one slot.
    #[inline]
    pub fn symmetric_hash_with(&self, seed: u64) -> u32 {
        let seed = seed ^ SEED;
        let src = mix_endpoint(&self.src, self.src_port, seed);
        let dst = mix_endpoint(&self.dst, self.dst_port, seed);
        // The sum does not tell the directions apart and, other than an exclusive or, keeps equal endpoints.
        self.finish(src.wrapping_add(dst), seed)
    }

    /// A hash that differs between the directions.
    #[inline]
    pub fn directional_hash(&self) -> u32 {
        self.directional_hash_with(0)
    }

    /// [`directional_hash`](FlowKey::directional_hash) with a seed.
    #[inline]
    pub fn directional_hash_with(&self, seed: u64) -> u32 {
        let seed = seed ^ SEED;
        let src = mix_endpoint(&self.src, self.src_port, seed);
        let dst = mix_endpoint(&self.dst, self.dst_port, seed);
        self.finish(src.wrapping_add(dst.rotate_left(23)), seed)
    }

    #[inline]
    fn finish(&self, endpoints: u64, seed: u64) -> u32 {
        let hash = fold_mul(endpoints ^ self.small_fields(), seed ^ MUL_B);
        (hash ^ hash >> 32) as u32
    }

    /// VLAN, protocol and version as one number.
    #[inline]
    fn small_fields(&self) -> u64 {
        u64::from(self.vid) << 16 | u64::from(self.protocol) << 8 | u64::from(self.is_ipv6)
    }
}

/// Feeds five words rather than 40 single bytes, which general hashers take much faster.
impl Hash for FlowKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        for address in [&self.src, &self.dst] {
            let (high, low) = halves(address);
            state.write_u64(high);
            state.write_u64(low);
        }
        let ports = u64::from(self.src_port) << 48 | u64::from(self.dst_port) << 32;
        state.write_u64(ports | self.small_fields());
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (src, dst) = (self.src_ip(), self.dst_ip());
        let (src_port, dst_port) = (self.src_port, self.dst_port);
        write!(f, "proto {} ", self.protocol)?;
        match self.is_ipv6 {
            false => write!(f, "{src}:{src_port} > {dst}:{dst_port}")?,
            true => write!(f, "[{src}]:{src_port} > [{dst}]:{dst_port}")?,
        }
        if self.vid == 0 { Ok(()) } else { write!(f, " vlan {}", self.vid) }
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Ports, or the ICMP identifier twice, of an upper-layer header.
#[inline]
fn ports(protocol: u8, is_ipv6: bool, l4: &[u8]) -> Result<(u16, u16), WireError> {
    if protocol::has_ports(protocol) {
        let [a, b, c, d] = *l4.first_chunk::<4>().ok_or(WireError::Truncated)?;
        return Ok((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])));
    }
    let is_icmp = protocol == if is_ipv6 { protocol::ICMPV6 } else { protocol::ICMPV4 };
    if !is_icmp {
        return Ok((0, 0));
    }
    let [icmp_type, _, _, _, a, b, _, _] = *l4.first_chunk::<8>().ok_or(WireError::Truncated)?;
    let has_id = if is_ipv6 { icmpv6::has_id(icmp_type) } else { icmpv4::has_id(icmp_type) };
    let id = if has_id { u16::from_be_bytes([a, b]) } else { 0 };
    Ok((id, id))
}

#[inline]
fn mapped(address: Ipv4Addr) -> [u8; 16] {
    // As one number, so that it is stored in whole words, which a hash then loads without a stall.
    (0xffff_0000_0000 | u128::from(address.to_bits())).to_be_bytes()
}

#[inline]
fn unmapped(address: [u8; 16], is_ipv6: bool) -> IpAddr {
    if is_ipv6 {
        Ipv6Addr::from(address).into()
    } else {
        let [.., a, b, c, d] = address;
        Ipv4Addr::new(a, b, c, d).into()
    }
}

// Odd constants with evenly spread bits, from the golden ratio and wyhash.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const MUL_A: u64 = 0xa076_1d64_78bd_642f;
const MUL_B: u64 = 0xe703_7ed1_a0b4_28db;

/// The two halves of the 128-bit product, folded: each bit of either factor reaches about half of the result's bits.
#[inline]
fn fold_mul(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[inline]
fn halves(address: &[u8; 16]) -> (u64, u64) {
    let whole = u128::from_be_bytes(*address);
    ((whole >> 64) as u64, whole as u64)
}

#[inline]
fn mix_endpoint(address: &[u8; 16], port: u16, seed: u64) -> u64 {
    let (high, low) = halves(address);
    let high = fold_mul(high ^ seed, MUL_A);
    fold_mul(low ^ high, MUL_B ^ u64::from(port).wrapping_mul(SEED))
}
