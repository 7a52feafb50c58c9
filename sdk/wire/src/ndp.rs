//! IPv6 neighbor discovery (RFC 4861).

use std::net::Ipv6Addr;

use crate::dissect::Layers;
use crate::icmpv6::{Icmpv6, icmpv6_type};
use crate::{MacAddr, WireError};

/// The hop limit of every neighbor discovery packet: one that was forwarded has less, so that it cannot come from afar.
pub const HOP_LIMIT: u8 = 255;

/// Option types.
pub mod option_kind {
    /// Source link-layer address.
    pub const SOURCE_LINK_LAYER: u8 = 1;
    /// Target link-layer address.
    pub const TARGET_LINK_LAYER: u8 = 2;
    /// Prefix information.
    pub const PREFIX: u8 = 3;
    /// Redirected header.
    pub const REDIRECTED: u8 = 4;
    /// MTU.
    pub const MTU: u8 = 5;
}

/// The solicited-node multicast address of a unicast address (RFC 4291 section 2.7.1).
#[inline]
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let o = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | o[13] as u16, ((o[14] as u16) << 8) | o[15] as u16)
}

/// A neighbor discovery message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NdMessage<'a> {
    /// A host asks for routers.
    RouterSolicit {
        /// Options.
        options: NdOptions<'a>,
    },
    /// A router announces itself.
    RouterAdvert {
        /// Hop limit that hosts are to use; 0 if unspecified.
        hop_limit: u8,
        /// Addresses are available by DHCPv6.
        is_managed: bool,
        /// Other configuration is available by DHCPv6.
        has_other_config: bool,
        /// How long it is a default router, in seconds; 0 if it is none.
        lifetime_s: u16,
        /// How long a neighbor counts as reachable, in milliseconds; 0 if unspecified.
        reachable_ms: u32,
        /// Time between solicitations, in milliseconds; 0 if unspecified.
        retransmit_ms: u32,
        /// Options.
        options: NdOptions<'a>,
    },
    /// Who has the target?
    NeighborSolicit {
        /// The address asked for.
        target: Ipv6Addr,
        /// Options.
        options: NdOptions<'a>,
    },
    /// The sender has the target.
    NeighborAdvert {
        /// The address told about.
        target: Ipv6Addr,
        /// The sender is a router.
        is_router: bool,
        /// This answers a solicitation.
        is_solicited: bool,
        /// Receivers replace what they know.
        overrides: bool,
        /// Options.
        options: NdOptions<'a>,
    },
    /// There is a better first hop.
    Redirect {
        /// The better first hop, or the destination itself if it is on the link.
        target: Ipv6Addr,
        /// Where the redirected packets go.
        destination: Ipv6Addr,
        /// Options.
        options: NdOptions<'a>,
    },
}

impl<'a> NdMessage<'a> {
    /// Reads and validates the message in a frame as RFC 4861 demands (sections 6.1, 7.1, 8.1): hop limit 255, code 0,
    /// checksum, lengths, and for neighbor messages that the target is unicast.
    ///
    /// Errors: [`WireError::WrongProtocol`] if it is no neighbor discovery; [`WireError::BadField`];
    /// [`WireError::BadChecksum`]; [`WireError::Truncated`]; [`WireError::BadLength`].
    pub fn of(layers: &Layers, frame: &'a [u8]) -> Result<Self, WireError> {
        let icmp = layers.icmpv6(frame)?;
        let message = Self::parse(&icmp)?;
        let ip = layers.ipv6(frame)?;
        if ip.hop_limit() != HOP_LIMIT || icmp.code() != 0 {
            return Err(WireError::BadField);
        }
        // RFC 6980 section 5: never fragmented, since a checksum over the whole could not be checked.
        if layers.is_fragment() {
            return Err(WireError::BadField);
        }
        icmp.verify_checksum(layers.pseudo_header(frame)?)?;
        message.check_addresses(ip.src(), ip.dst())?;
        Ok(message)
    }

    /// Reads the message, and checks lengths alone.
    ///
    /// Errors: [`WireError::WrongProtocol`], [`WireError::Truncated`]; [`WireError::BadLength`] for an option of length 0.
    pub fn parse(icmp: &Icmpv6<'a>) -> Result<Self, WireError> {
        let body = icmp.payload();
        let rest = icmp.rest_of_header();
        match icmp.icmp_type() {
            icmpv6_type::ROUTER_SOLICIT => Ok(NdMessage::RouterSolicit { options: NdOptions::parse(body)? }),
            icmpv6_type::ROUTER_ADVERT => {
                let (&[a, b, c, d, e, f, g, h], options) = body.split_first_chunk::<8>().ok_or(WireError::Truncated)?;
                Ok(NdMessage::RouterAdvert {
                    hop_limit: (rest >> 24) as u8,
                    is_managed: rest & 0x0080_0000 != 0,
                    has_other_config: rest & 0x0040_0000 != 0,
                    lifetime_s: rest as u16,
                    reachable_ms: u32::from_be_bytes([a, b, c, d]),
                    retransmit_ms: u32::from_be_bytes([e, f, g, h]),
                    options: NdOptions::parse(options)?,
                })
            }
            icmpv6_type::NEIGHBOR_SOLICIT => {
                let (target, options) = address(body)?;
                Ok(NdMessage::NeighborSolicit { target, options: NdOptions::parse(options)? })
            }
            icmpv6_type::NEIGHBOR_ADVERT => {
                let (target, options) = address(body)?;
                Ok(NdMessage::NeighborAdvert {
                    target,
                    is_router: rest & 0x8000_0000 != 0,
                    is_solicited: rest & 0x4000_0000 != 0,
                    overrides: rest & 0x2000_0000 != 0,
                    options: NdOptions::parse(options)?,
                })
            }
            icmpv6_type::REDIRECT => {
                let (target, rest) = address(body)?;
                let (destination, options) = address(rest)?;
                Ok(NdMessage::Redirect { target, destination, options: NdOptions::parse(options)? })
            }
            _ => Err(WireError::WrongProtocol),
        }
    }

    /// The options.
    #[inline]
    pub fn options(&self) -> NdOptions<'a> {
        match self {
            NdMessage::RouterSolicit { options }
            | NdMessage::RouterAdvert { options, .. }
            | NdMessage::NeighborSolicit { options, .. }
            | NdMessage::NeighborAdvert { options, .. }
            | NdMessage::Redirect { options, .. } => options.clone(),
        }
    }

    fn check_addresses(&self, src: Ipv6Addr, dst: Ipv6Addr) -> Result<(), WireError> {
        let is_good = match self {
            NdMessage::RouterSolicit { options } => !src.is_unspecified() || options.clone().source_mac().is_none(),
            NdMessage::RouterAdvert { .. } => src.is_unicast_link_local(),
            NdMessage::NeighborSolicit { target, options } => {
                // From nobody, for duplicate address detection: to the group, and without the sender's MAC.
                let from_nobody = dst == solicited_node(*target) && options.clone().source_mac().is_none();
                !target.is_multicast() && (!src.is_unspecified() || from_nobody)
            }
            NdMessage::NeighborAdvert { target, is_solicited, .. } => {
                !(target.is_multicast() || *is_solicited && dst.is_multicast())
            }
            NdMessage::Redirect { target, destination, .. } => {
                src.is_unicast_link_local()
                    && !destination.is_multicast()
                    && (target.is_unicast_link_local() || target == destination)
            }
        };
        if is_good { Ok(()) } else { Err(WireError::BadField) }
    }
}

/// One option of a neighbor discovery message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NdOption<'a> {
    /// The MAC address of the message's sender.
    SourceLinkLayer(MacAddr),
    /// The MAC address of the target.
    TargetLinkLayer(MacAddr),
    /// A prefix of the link.
    Prefix {
        /// The prefix.
        prefix: Ipv6Addr,
        /// How many leading bits of it count, 0 to 128.
        prefix_len: u8,
        /// The prefix is on the link.
        is_on_link: bool,
        /// Hosts make addresses from it.
        is_autonomous: bool,
        /// How long it is on the link, in seconds; all ones for ever.
        valid_s: u32,
        /// How long addresses made from it are preferred, in seconds; all ones for ever.
        preferred_s: u32,
    },
    /// As much of the redirected packet as fits.
    Redirected(&'a [u8]),
    /// The MTU of the link, in bytes.
    Mtu(u32),
    /// Any other option, or a known one of another length than its own.
    Other {
        /// The type.
        kind: u8,
        /// What follows type and length.
        data: &'a [u8],
    },
}

/// Walks the options of a message, whose lengths were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NdOptions<'a> {
    rest: &'a [u8],
}

impl<'a> NdOptions<'a> {
    /// Checks the lengths of all options.
    ///
    /// Errors: [`WireError::BadLength`] for an option of length 0, when RFC 4861 section 4.6 has the packet dropped;
    /// [`WireError::Truncated`] for one that reaches beyond the message.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let &[_, units, ..] = rest else { return Err(WireError::Truncated) };
            if units == 0 {
                return Err(WireError::BadLength);
            }
            rest = rest.get(usize::from(units) * 8..).ok_or(WireError::Truncated)?;
        }
        Ok(NdOptions { rest: bytes })
    }

    /// The source link-layer address, if it is there.
    #[inline]
    pub fn source_mac(mut self) -> Option<MacAddr> {
        self.find_map(|option| match option {
            NdOption::SourceLinkLayer(mac) => Some(mac),
            _ => None,
        })
    }

    /// The target link-layer address, if it is there.
    #[inline]
    pub fn target_mac(mut self) -> Option<MacAddr> {
        self.find_map(|option| match option {
            NdOption::TargetLinkLayer(mac) => Some(mac),
            _ => None,
        })
    }
}

impl<'a> Iterator for NdOptions<'a> {
    type Item = NdOption<'a>;

    #[inline]
    fn next(&mut self) -> Option<NdOption<'a>> {
        let &[kind, units, ..] = self.rest else { return None };
        // Both lengths were checked by `parse`; a wrong one would end the walk.
        let (option, rest) = self.rest.split_at_checked(usize::from(units) * 8)?;
        self.rest = rest;
        Some(known(kind, option.get(2..)?))
    }
}

fn known(kind: u8, data: &[u8]) -> NdOption<'_> {
    match (kind, data) {
        (option_kind::SOURCE_LINK_LAYER, &[a, b, c, d, e, f]) => NdOption::SourceLinkLayer(MacAddr([a, b, c, d, e, f])),
        (option_kind::TARGET_LINK_LAYER, &[a, b, c, d, e, f]) => NdOption::TargetLinkLayer(MacAddr([a, b, c, d, e, f])),
        (
            option_kind::PREFIX,
            &[prefix_len @ 0..=128, flags, v0, v1, v2, v3, p0, p1, p2, p3, _, _, _, _, ref prefix @ ..],
        ) => match prefix.first_chunk::<16>() {
            Some(octets) if prefix.len() == 16 => NdOption::Prefix {
                prefix: Ipv6Addr::from(*octets),
                prefix_len,
                is_on_link: flags & 0x80 != 0,
                is_autonomous: flags & 0x40 != 0,
                valid_s: u32::from_be_bytes([v0, v1, v2, v3]),
                preferred_s: u32::from_be_bytes([p0, p1, p2, p3]),
            },
            _ => NdOption::Other { kind, data },
        },
        (option_kind::REDIRECTED, &[_, _, _, _, _, _, ref packet @ ..]) => NdOption::Redirected(packet),
        (option_kind::MTU, &[_, _, a, b, c, d]) => NdOption::Mtu(u32::from_be_bytes([a, b, c, d])),
        _ => NdOption::Other { kind, data },
    }
}

fn address(bytes: &[u8]) -> Result<(Ipv6Addr, &[u8]), WireError> {
    let (octets, rest) = bytes.split_first_chunk::<16>().ok_or(WireError::Truncated)?;
    Ok((Ipv6Addr::from(*octets), rest))
}
