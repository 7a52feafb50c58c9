//! What a rule does with a packet.

use std::net::IpAddr;

use crate::octets;

/// Where a packet goes after a rule: the verdicts of functions, as far as a fast path can carry them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Then {
    /// To the next hop in the packet's direction.
    #[default]
    Next,
    /// Nowhere; counted under this drop reason of the function (below 64).
    Drop(u16),
    /// Back out of the port it came from, through the hops already passed.
    Reply,
    /// Out of this port of the chain, through the hops between.
    Port(u8),
    /// To what the manifest connects with this output.
    Output(u8),
    /// To the function itself.
    SlowPath,
    /// To the kernel's own stack; to the function itself unless the mode is `offloading`.
    Kernel,
}

/// What is written into a packet before it goes on. Checksums follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rewrite {
    /// Destination and source of the Ethernet header.
    pub ethernet: Option<([u8; 6], [u8; 6])>,
    /// Source address, of the packet's own version.
    pub src: Option<IpAddr>,
    /// Destination address, of the packet's own version.
    pub dst: Option<IpAddr>,
    /// Source port.
    pub src_port: Option<u16>,
    /// Destination port.
    pub dst_port: Option<u16>,
    /// TTL or hop limit is lowered by one; a packet with 1 or 0 goes to the slow path.
    pub lower_ttl: bool,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Action {
    /// Where the packet goes.
    pub then: Then,
    /// What is written into it.
    pub rewrite: Rewrite,
    /// The class it is counted in.
    pub class: Option<u16>,
    /// Packets with more bytes behind the Ethernet header and its tags go to the slow path.
    pub mtu: Option<u16>,
}

const ETHERNET: u8 = 1 << 0;
const SRC: u8 = 1 << 1;
const DST: u8 = 1 << 2;
const SRC_PORT: u8 = 1 << 3;
const DST_PORT: u8 = 1 << 4;
const LOWER_TTL: u8 = 1 << 5;
const NO_CLASS: u16 = u16::MAX;

impl Action {
    /// Bytes of `struct fast_action`.
    pub const BYTES: usize = 64;

    /// `struct fast_action`.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let (then, argument, reason) = match self.then {
            Then::Next => (0, 0, 0),
            Then::Drop(reason) => (1, 0, reason),
            Then::Reply => (2, 0, 0),
            Then::Port(port) => (3, port, 0),
            Then::Output(output) => (4, output, 0),
            Then::SlowPath => (5, 0, 0),
            Then::Kernel => (6, 0, 0),
        };
        let Rewrite { ethernet, src, dst, src_port, dst_port, lower_ttl } = self.rewrite;
        let parts = [
            (ethernet.is_some(), ETHERNET),
            (src.is_some(), SRC),
            (dst.is_some(), DST),
            (src_port.is_some(), SRC_PORT),
            (dst_port.is_some(), DST_PORT),
            (lower_ttl, LOWER_TTL),
        ];
        let mut bytes = [0; Self::BYTES];
        bytes[0] = then;
        bytes[1] = argument;
        bytes[2] = parts.iter().filter(|(is_there, _)| *is_there).fold(0, |parts, (_, part)| parts | part);
        bytes[4..6].copy_from_slice(&reason.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.class.unwrap_or(NO_CLASS).to_ne_bytes());
        if let Some((dst, src)) = ethernet {
            bytes[8..14].copy_from_slice(&dst);
            bytes[14..20].copy_from_slice(&src);
        }
        bytes[20..22].copy_from_slice(&src_port.unwrap_or(0).to_ne_bytes());
        bytes[22..24].copy_from_slice(&dst_port.unwrap_or(0).to_ne_bytes());
        if let Some(src) = src {
            bytes[24..40].copy_from_slice(&octets(src));
        }
        if let Some(dst) = dst {
            bytes[40..56].copy_from_slice(&octets(dst));
        }
        bytes[56..58].copy_from_slice(&self.mtu.unwrap_or(0).to_ne_bytes());
        bytes
    }

    /// The action that such bytes stand for; nothing for what no [`encode`](Self::encode) gives.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let then = match bytes[0] {
            0 => Then::Next,
            1 => Then::Drop(word(4)),
            2 => Then::Reply,
            3 => Then::Port(bytes[1]),
            4 => Then::Output(bytes[1]),
            5 => Then::SlowPath,
            6 => Then::Kernel,
            _ => return None,
        };
        let has = |part: u8| bytes[2] & part != 0;
        let mac = |at: usize| -> Option<[u8; 6]> { bytes[at..at + 6].try_into().ok() };
        let ethernet = if has(ETHERNET) { Some((mac(8)?, mac(14)?)) } else { None };
        let rewrite = Rewrite {
            ethernet,
            src: has(SRC).then(|| address(&bytes[24..40])).flatten(),
            dst: has(DST).then(|| address(&bytes[40..56])).flatten(),
            src_port: has(SRC_PORT).then(|| word(20)),
            dst_port: has(DST_PORT).then(|| word(22)),
            lower_ttl: has(LOWER_TTL),
        };
        let class = Some(word(6)).filter(|&class| class != NO_CLASS);
        Some(Self { then, rewrite, class, mtu: Some(word(56)).filter(|&mtu| mtu != 0) })
    }
}

/// An address as it lies in the maps.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.try_into().ok()?;
    Some(std::net::Ipv6Addr::from(octets).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses() -> impl Strategy<Value = Option<IpAddr>> {
        prop::option::of(prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
            (1_u128 << 64..u128::MAX).prop_map(|bits| IpAddr::V6(bits.into())),
        ])
    }

    fn then() -> impl Strategy<Value = Then> {
        prop_oneof![
            Just(Then::Next),
            (0_u16..64).prop_map(Then::Drop),
            Just(Then::Reply),
            any::<u8>().prop_map(Then::Port),
            any::<u8>().prop_map(Then::Output),
            Just(Then::SlowPath),
            Just(Then::Kernel),
        ]
    }

    proptest! {
        #[test]
        fn an_action_survives_the_map(
            then in then(),
            ethernet in any::<Option<([u8; 6], [u8; 6])>>(),
            (src, dst) in (addresses(), addresses()),
            (src_port, dst_port, lower_ttl) in any::<(Option<u16>, Option<u16>, bool)>(),
            class in prop::option::of(0..u16::MAX),
            mtu in prop::option::of(1..=u16::MAX),
        ) {
            let rewrite = Rewrite { ethernet, src, dst, src_port, dst_port, lower_ttl };
            let action = Action { then, rewrite, class, mtu };
            prop_assert_eq!(Action::decode(&action.encode()), Some(action));
        }

        #[test]
        fn any_bytes_can_be_read(bytes in any::<[u8; 64]>()) {
            Action::decode(&bytes);
        }
    }
}
