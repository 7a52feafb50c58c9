//! ICMP and ICMPv6 errors about a packet that cannot be delivered, and when to keep silent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::build::PacketBuilder;
use crate::dissect::{L3, Layers};
use crate::ethernet::Ethernet;
use crate::fragment::Fragment;
use crate::icmpv4::{self, icmpv4_type};
use crate::icmpv6::{self, icmpv6_type};
use crate::{MacAddr, WireError, protocol};

/// Longest ICMP error, with its IPv4 header, in bytes (RFC 1812 section 4.3.2.3).
pub const MAX_ICMPV4_ERROR_LEN: usize = 576;
/// Longest ICMPv6 error, with its IPv6 header, in bytes: the least MTU of IPv6 (RFC 4443 section 2.4(c)).
pub const MAX_ICMPV6_ERROR_LEN: usize = 1280;
/// Precedence "internetwork control", for ICMP errors (RFC 1812 section 4.3.2.5).
const TOS_INTERNETWORK_CONTROL: u8 = 0xc0;

/// Why a packet cannot be delivered. Each becomes the matching ICMP or ICMPv6 message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IcmpError {
    /// The time to live or hop limit ran out on the way.
    TimeExceeded,
    /// There is no route.
    NoRoute,
    /// The last hop does not answer ARP or neighbor discovery.
    HostUnreachable,
    /// A filter forbids it.
    AdminProhibited,
    /// Nobody listens on the port.
    PortUnreachable,
    /// The packet is larger than the next hop takes, and must not be fragmented on the way.
    TooBig {
        /// The largest packet the next hop takes, in bytes; at most 65535 for IPv4, whose field is narrower.
        mtu_bytes: u32,
    },
}

/// Why no error is sent; the packet is dropped in silence then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IcmpErrorRefused {
    /// The packet is an ICMP error itself, or an ICMPv6 redirect.
    #[error("the packet is an ICMP error itself")]
    AboutIcmpError,
    /// The packet is a later fragment (IPv4 only).
    #[error("the packet is a later fragment")]
    LaterFragment,
    /// The packet went to a group or to everybody, at L2 or L3.
    #[error("the packet went to a group or to everybody")]
    GroupDestination,
    /// The source names no single host.
    #[error("the source names no single host")]
    BadSource,
    /// The packet cannot be read, or the answer does not fit the buffer, or the answer's source is of the other version.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Writes the Ethernet frame that tells the sender of `frame` why it is not delivered.
///
/// It goes back where the frame came from: to its source MAC, with its VLAN tags. `src_mac` and `src_ip` are those of the
/// port or function that speaks. As much of the packet is quoted as the limits allow. The caller limits the rate
/// (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4(f)); directed broadcasts, which only the owner of the route knows, are
/// the caller's to refuse too.
///
/// `out` needs room for [`MAX_FRAME_LEN`] at most. Errors: [`IcmpErrorRefused`].
pub fn emit(
    error: IcmpError,
    frame: &[u8],
    layers: &Layers,
    src_mac: MacAddr,
    src_ip: IpAddr,
    out: &mut [u8],
) -> Result<usize, IcmpErrorRefused> {
    permitted(error, frame, layers)?;
    let link = Ethernet::parse(frame)?;
    let packet = layers.l3_bytes(frame)?;
    let answer = PacketBuilder::new().mac(src_mac, link.src()).vlans(layers.vlan);
    let emitted = match src_ip {
        IpAddr::V4(src) => {
            let (icmp_type, code, rest) = icmpv4_parts(error);
            let room = MAX_ICMPV4_ERROR_LEN - crate::ipv4::HEADER_LEN - icmpv4::HEADER_LEN;
            answer
                .ipv4(src, layers.ipv4(frame)?.src())
                .tos(TOS_INTERNETWORK_CONTROL)
                .icmp(icmp_type, code, rest)
                .payload(packet.get(..room).unwrap_or(packet))
                .emit(out)
        }
        IpAddr::V6(src) => {
            let (icmp_type, code, rest) = icmpv6_parts(error);
            let room = MAX_ICMPV6_ERROR_LEN - crate::ipv6::HEADER_LEN - icmpv6::HEADER_LEN;
            answer
                .ipv6(src, layers.ipv6(frame)?.src())
                .icmp(icmp_type, code, rest)
                .payload(packet.get(..room).unwrap_or(packet))
                .emit(out)
        }
    };
    Ok(emitted?)
}

/// Longest frame that [`emit`] writes, in bytes: Ethernet, two tags and the longest ICMPv6 error.
pub const MAX_FRAME_LEN: usize = 14 + 2 * 4 + MAX_ICMPV6_ERROR_LEN;

/// Whether an error may be sent about this frame (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4(e)).
///
/// Errors: [`IcmpErrorRefused`] says why not.
pub fn permitted(error: IcmpError, frame: &[u8], layers: &Layers) -> Result<(), IcmpErrorRefused> {
    let to_group_l2 = Ethernet::parse(frame)?.dst().is_multicast();
    match layers.l3 {
        L3::Ipv4 => {
            let ip = layers.ipv4(frame)?;
            if !ip.is_first_fragment() {
                return Err(IcmpErrorRefused::LaterFragment);
            }
            // A type that is not there cannot be told from an error.
            if ip.protocol() == protocol::ICMPV4 && layers.icmpv4(frame)?.is_error() {
                return Err(IcmpErrorRefused::AboutIcmpError);
            }
            if to_group_l2 || ip.dst().is_multicast() || ip.dst().is_broadcast() {
                return Err(IcmpErrorRefused::GroupDestination);
            }
            if !is_single_host_v4(ip.src()) { Err(IcmpErrorRefused::BadSource) } else { Ok(()) }
        }
        L3::Ipv6 => {
            let ip = layers.ipv6(frame)?;
            if layers.protocol == protocol::ICMPV6 && layers.fragment.is_none_or(Fragment::is_first) {
                let icmp = layers.icmpv6(frame)?;
                if icmp.is_error() || icmp.icmp_type() == icmpv6_type::REDIRECT {
                    return Err(IcmpErrorRefused::AboutIcmpError);
                }
            }
            // Path MTU discovery must work for multicast too (RFC 4443 section 2.4(e.3)).
            let to_group = to_group_l2 || ip.dst().is_multicast();
            if to_group && !matches!(error, IcmpError::TooBig { .. }) {
                return Err(IcmpErrorRefused::GroupDestination);
            }
            if !is_single_host_v6(ip.src()) { Err(IcmpErrorRefused::BadSource) } else { Ok(()) }
        }
        _ => Err(WireError::WrongProtocol.into()),
    }
}

fn is_single_host_v4(address: Ipv4Addr) -> bool {
    let is_reserved = address.octets()[0] >= 240;
    let is_this_net = address.octets()[0] == 0;
    !(is_this_net || is_reserved || address.is_loopback() || address.is_multicast())
}

fn is_single_host_v6(address: Ipv6Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

/// Type, code and rest of the header.
fn icmpv4_parts(error: IcmpError) -> (u8, u8, u32) {
    use icmpv4::unreachable_code as code;
    match error {
        IcmpError::TimeExceeded => (icmpv4_type::TIME_EXCEEDED, 0, 0),
        IcmpError::NoRoute => (icmpv4_type::DEST_UNREACHABLE, code::NET, 0),
        IcmpError::HostUnreachable => (icmpv4_type::DEST_UNREACHABLE, code::HOST, 0),
        IcmpError::AdminProhibited => (icmpv4_type::DEST_UNREACHABLE, code::ADMIN_PROHIBITED, 0),
        IcmpError::PortUnreachable => (icmpv4_type::DEST_UNREACHABLE, code::PORT, 0),
        IcmpError::TooBig { mtu_bytes } => {
            (icmpv4_type::DEST_UNREACHABLE, code::FRAG_NEEDED, mtu_bytes.min(u32::from(u16::MAX)))
        }
    }
}

/// Type, code and rest of the header.
fn icmpv6_parts(error: IcmpError) -> (u8, u8, u32) {
    use icmpv6::unreachable_code as code;
    match error {
        IcmpError::TimeExceeded => (icmpv6_type::TIME_EXCEEDED, 0, 0),
        IcmpError::NoRoute => (icmpv6_type::DEST_UNREACHABLE, code::NO_ROUTE, 0),
        IcmpError::HostUnreachable => (icmpv6_type::DEST_UNREACHABLE, code::ADDRESS, 0),
        IcmpError::AdminProhibited => (icmpv6_type::DEST_UNREACHABLE, code::ADMIN_PROHIBITED, 0),
        IcmpError::PortUnreachable => (icmpv6_type::DEST_UNREACHABLE, code::PORT, 0),
        IcmpError::TooBig { mtu_bytes } => (icmpv6_type::PACKET_TOO_BIG, 0, mtu_bytes),
    }
}
