//! Neighbor solicitations and advertisements (RFC 4861).

use std::net::Ipv6Addr;

use crate::build::PacketBuilder;
use crate::icmpv6::icmpv6_type;
use crate::ndp::{HOP_LIMIT, option_kind, solicited_node};
use crate::vlan::VlanTags;
use crate::{MacAddr, WireError};

/// Length of the target address and one link-layer option, in bytes.
const BODY_LEN: usize = 16 + 8;

/// Asks who has an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighborSolicit {
    /// Who asks: the Ethernet source and the source link-layer address option.
    pub src_mac: MacAddr,
    /// The address that asks; unspecified for duplicate address detection, and then without the option.
    pub src: Ipv6Addr,
    /// The address asked for.
    pub target: Ipv6Addr,
    /// The neighbor to ask, to find out whether it is still there; none to ask the target's solicited-node group.
    pub to: Option<MacAddr>,
    /// VLAN tags.
    pub tags: VlanTags,
}

impl NeighborSolicit {
    /// Writes the frame and returns its length in bytes. Errors: [`WireError::NoSpace`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let (dst_mac, dst) = match self.to {
            Some(mac) => (mac, self.target),
            None => {
                let group = solicited_node(self.target);
                (MacAddr::of_ipv6_multicast(group), group)
            }
        };
        let mut body = [0; BODY_LEN];
        let body = put_body(
            &mut body,
            self.target,
            (!self.src.is_unspecified()).then_some((option_kind::SOURCE_LINK_LAYER, self.src_mac)),
        );
        PacketBuilder::new()
            .mac(self.src_mac, dst_mac)
            .vlans(self.tags)
            .ipv6(self.src, dst)
            .ttl(HOP_LIMIT)
            .icmp(icmpv6_type::NEIGHBOR_SOLICIT, 0, 0)
            .payload(body)
            .emit(out)
    }
}

/// Tells who has an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighborAdvert {
    /// Who has it: the Ethernet source and the target link-layer address option.
    pub src_mac: MacAddr,
    /// The address that speaks, as a rule the target.
    pub src: Ipv6Addr,
    /// The Ethernet destination.
    pub dst_mac: MacAddr,
    /// Who asked, or the all-nodes group if nobody did.
    pub dst: Ipv6Addr,
    /// The address told about.
    pub target: Ipv6Addr,
    /// Whether the sender is a router.
    pub is_router: bool,
    /// Whether this answers a solicitation.
    pub is_solicited: bool,
    /// Whether receivers replace what they know.
    pub overrides: bool,
    /// VLAN tags.
    pub tags: VlanTags,
}

impl NeighborAdvert {
    /// Writes the frame and returns its length in bytes. Errors: [`WireError::NoSpace`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let flags = (u32::from(self.is_router) << 31)
            | (u32::from(self.is_solicited) << 30)
            | (u32::from(self.overrides) << 29);
        let mut body = [0; BODY_LEN];
        let body = put_body(&mut body, self.target, Some((option_kind::TARGET_LINK_LAYER, self.src_mac)));
        PacketBuilder::new()
            .mac(self.src_mac, self.dst_mac)
            .vlans(self.tags)
            .ipv6(self.src, self.dst)
            .ttl(HOP_LIMIT)
            .icmp(icmpv6_type::NEIGHBOR_ADVERT, 0, flags)
            .payload(body)
            .emit(out)
    }
}

/// Target address, then a link-layer address option if one is given.
fn put_body(body: &mut [u8; BODY_LEN], target: Ipv6Addr, option: Option<(u8, MacAddr)>) -> &[u8] {
    body[..16].copy_from_slice(&target.octets());
    let Some((kind, mac)) = option else { return &body[..16] };
    body[16..18].copy_from_slice(&[kind, 1]);
    body[18..].copy_from_slice(&mac.octets());
    body
}
