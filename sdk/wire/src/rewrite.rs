//! Changes of an address or a port, as network address translation makes them, with every checksum kept right.
//!
//! All updates are incremental (RFC 1624): a checksum that was wrong before stays wrong, so the receiver still finds out,
//! and the cost does not depend on the payload.

use std::net::IpAddr;

use crate::checksum::{Delta, Sum};
use crate::dissect::{L3, Layers};
use crate::ipv4::Ipv4Mut;
use crate::ipv6::Ipv6Mut;
use crate::{WireError, icmpv4, icmpv6, protocol};

/// Which end of a packet's conversation is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Source address and port.
    Source,
    /// Destination address and port.
    Destination,
}

impl Side {
    /// The other end.
    #[inline]
    pub const fn other(self) -> Side {
        match self {
            Side::Source => Side::Destination,
            Side::Destination => Side::Source,
        }
    }
}

/// Sets the address of one side of a packet, and its port if `port` is given: for ICMP echo the identifier is the port.
///
/// The IPv4 header checksum and that of TCP, UDP and ICMPv6 follow. A UDP checksum of zero over IPv4 stays zero. A later
/// fragment has no port, so that only its address is set.
///
/// Errors, all before any change: [`WireError::Unsupported`] if the address is of the other IP version, if the protocol
/// has no port that can be set (SCTP's needs its CRC, ESP has none), or for UDP-Lite and DCCP;
/// [`WireError::WrongProtocol`] if L3 is not IP; those of the views.
#[inline]
pub fn endpoint(
    frame: &mut [u8],
    layers: &Layers,
    side: Side,
    address: IpAddr,
    port: Option<u16>,
) -> Result<(), WireError> {
    let delta = address_delta(frame, layers, side, address)?;
    if layers.has_l4() {
        let l4 = layers.l4_bytes_mut(frame)?;
        L4 { bytes: l4, protocol: layers.protocol, is_ipv6: layers.is_ipv6(), quoted: false }
            .rewrite(side, delta, port)?;
    }
    match address {
        IpAddr::V4(address) => set_ipv4(&mut layers.ipv4_mut(frame)?, side, address),
        IpAddr::V6(address) => set_ipv6(&mut layers.ipv6_mut(frame)?, side, address),
    }
    Ok(())
}

/// Sets the port of one side, or the identifier of ICMP echo, and leaves the addresses.
///
/// Errors: [`WireError::WrongProtocol`] for a later fragment, else as [`endpoint`].
#[inline]
pub fn port(frame: &mut [u8], layers: &Layers, side: Side, port: u16) -> Result<(), WireError> {
    let l4 = layers.l4_bytes_mut(frame)?;
    L4 { bytes: l4, protocol: layers.protocol, is_ipv6: layers.is_ipv6(), quoted: false }.rewrite(
        side,
        Delta::new(),
        Some(port),
    )
}

/// Sets address and port of one side of the packet that an ICMP error quotes (RFC 5508 section 4.2), so that its receiver
/// recognises what it sent. The quoted checksums follow as far as they are quoted, and so does the ICMP checksum.
///
/// Errors, all before any change: as [`endpoint`]; [`WireError::WrongProtocol`] if the frame is no ICMP error.
pub fn quoted_endpoint(
    frame: &mut [u8],
    layers: &Layers,
    side: Side,
    address: IpAddr,
    port: Option<u16>,
) -> Result<(), WireError> {
    match (layers.l3, address) {
        (L3::Ipv4, IpAddr::V4(address)) => {
            let mut icmp = layers.icmpv4_mut(frame)?;
            let quoted = icmp.view().quoted()?;
            let (l4_at, protocol, is_first) = (quoted.header_len(), quoted.protocol(), quoted.is_first_fragment());
            let old = match side {
                Side::Source => quoted.src(),
                Side::Destination => quoted.dst(),
            };
            let delta = Delta::new().u32(old.to_bits(), address.to_bits());
            let quote = Quote { l4_at, protocol, is_first, is_ipv6: false };
            let outer = quote.rewrite(icmp.payload_mut(), side, delta, port, |bytes| {
                set_ipv4(&mut Ipv4Mut::parse_quoted(bytes)?, side, address);
                Ok(())
            })?;
            icmp.apply(outer);
        }
        (L3::Ipv6, IpAddr::V6(address)) => {
            let mut icmp = layers.icmpv6_mut(frame)?;
            let quoted = icmp.view().quoted()?;
            let upper = quoted.upper_layer()?;
            let old = match side {
                Side::Source => quoted.src(),
                Side::Destination => quoted.dst(),
            };
            let delta = Delta::new().bytes16(&old.octets(), &address.octets());
            let quote = Quote {
                l4_at: crate::ipv6::HEADER_LEN + upper.offset,
                protocol: upper.protocol,
                is_first: upper.fragment.is_none_or(|fragment| fragment.is_first()),
                is_ipv6: true,
            };
            let outer = quote.rewrite(icmp.payload_mut(), side, delta, port, |bytes| {
                set_ipv6(&mut Ipv6Mut::parse_quoted(bytes)?, side, address);
                Ok(())
            })?;
            icmp.apply(outer);
        }
        (L3::Ipv4 | L3::Ipv6, _) => return Err(WireError::Unsupported),
        _ => return Err(WireError::WrongProtocol),
    }
    Ok(())
}

#[inline]
fn address_delta(frame: &[u8], layers: &Layers, side: Side, address: IpAddr) -> Result<Delta, WireError> {
    match (layers.l3, address) {
        (L3::Ipv4, IpAddr::V4(new)) => {
            let ip = layers.ipv4(frame)?;
            let old = if side == Side::Source { ip.src() } else { ip.dst() };
            Ok(Delta::new().u32(old.to_bits(), new.to_bits()))
        }
        (L3::Ipv6, IpAddr::V6(new)) => {
            let ip = layers.ipv6(frame)?;
            let old = if side == Side::Source { ip.src() } else { ip.dst() };
            Ok(Delta::new().bytes16(&old.octets(), &new.octets()))
        }
        (L3::Ipv4 | L3::Ipv6, _) => Err(WireError::Unsupported),
        _ => Err(WireError::WrongProtocol),
    }
}

#[inline]
fn set_ipv4(ip: &mut Ipv4Mut<'_>, side: Side, address: std::net::Ipv4Addr) {
    match side {
        Side::Source => ip.set_src(address),
        Side::Destination => ip.set_dst(address),
    }
}

#[inline]
fn set_ipv6(ip: &mut Ipv6Mut<'_>, side: Side, address: std::net::Ipv6Addr) {
    match side {
        Side::Source => ip.set_src(address),
        Side::Destination => ip.set_dst(address),
    }
}

/// The upper layer of a packet, or as much of it as an ICMP error quotes.
struct L4<'a> {
    bytes: &'a mut [u8],
    protocol: u8,
    is_ipv6: bool,
    quoted: bool,
}

impl L4<'_> {
    /// Sets the port and updates the checksum for it and for `address`. Nothing changes on error.
    #[inline]
    fn rewrite(self, side: Side, address: Delta, port: Option<u16>) -> Result<(), WireError> {
        let port_at = if side == Side::Source { 0 } else { 2 };
        match (self.protocol, self.is_ipv6) {
            (protocol::TCP, _) => self.patch(port_at, 16, address, port),
            (protocol::UDP, _) => self.patch(port_at, 6, address, port),
            (protocol::ICMPV4, false) => {
                self.require_id(port, icmpv4::has_id)?;
                // The ICMPv4 checksum does not cover the addresses.
                self.patch(4, 2, Delta::new(), port)
            }
            (protocol::ICMPV6, true) => {
                self.require_id(port, icmpv6::has_id)?;
                self.patch(4, 2, address, port)
            }
            // Their checksums cover addresses and ports as UDP's does, but with rules of their own.
            (protocol::UDP_LITE | protocol::DCCP, _) => Err(WireError::Unsupported),
            _ if port.is_some() => Err(WireError::Unsupported),
            _ => Ok(()),
        }
    }

    #[inline]
    fn require_id(&self, port: Option<u16>, has_id: fn(u8) -> bool) -> Result<(), WireError> {
        let icmp_type = *self.bytes.first().ok_or(WireError::Truncated)?;
        if port.is_some() && !has_id(icmp_type) { Err(WireError::Unsupported) } else { Ok(()) }
    }

    #[inline]
    fn patch(self, port_at: usize, checksum_at: usize, address: Delta, port: Option<u16>) -> Result<(), WireError> {
        let mut delta = address;
        let old_checksum = read(self.bytes, checksum_at);
        if old_checksum.is_none() && !self.quoted {
            return Err(WireError::Truncated);
        }
        if let Some(port) = port {
            delta = delta.u16(read(self.bytes, port_at).ok_or(WireError::Truncated)?, port);
            write(self.bytes, port_at, port);
        }
        if let Some(old) = old_checksum {
            let new = if self.protocol == protocol::UDP { delta.apply_udp(old) } else { delta.apply(old) };
            write(self.bytes, checksum_at, new);
            if new == 0 && self.protocol == protocol::ICMPV4 && icmpv4::is_all_zeros(self.bytes) {
                write(self.bytes, checksum_at, icmpv4::ALL_ZEROS_CHECKSUM);
            }
        }
        Ok(())
    }
}

/// Where the upper layer of a quoted packet is.
struct Quote {
    l4_at: usize,
    protocol: u8,
    is_first: bool,
    is_ipv6: bool,
}

impl Quote {
    /// Rewrites the quoted packet and returns what that does to the checksum over it.
    fn rewrite(
        &self,
        bytes: &mut [u8],
        side: Side,
        address: Delta,
        port: Option<u16>,
        set_address: impl FnOnce(&mut [u8]) -> Result<(), WireError>,
    ) -> Result<Delta, WireError> {
        // Nothing beyond the TCP checksum changes; sums of an even-aligned region stand for all of its words.
        let touched = bytes.len().min(self.l4_at + 18);
        let region = bytes.get_mut(..touched).ok_or(WireError::Truncated)?;
        let before = Sum::new().bytes(region).folded();
        if self.is_first {
            let l4 = region.get_mut(self.l4_at..).ok_or(WireError::Truncated)?;
            L4 { bytes: l4, protocol: self.protocol, is_ipv6: self.is_ipv6, quoted: true }
                .rewrite(side, address, port)?;
        }
        set_address(region)?;
        Ok(Delta::new().u16(before, Sum::new().bytes(region).folded()))
    }
}

#[inline]
fn read(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk::<2>().map(|word| u16::from_be_bytes(*word))
}

#[inline]
fn write(bytes: &mut [u8], at: usize, word: u16) {
    if let Some(to) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) {
        *to = word.to_be_bytes();
    }
}
