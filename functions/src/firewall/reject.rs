//! Answers to packets that are refused aloud.

use crate::flow_table::Probe;
use middlenet_sdk::Packet;
use middlenet_sdk::wire::checksum::{Sum, internet_checksum};
use middlenet_sdk::wire::icmpv4::{self, icmpv4_type};
use middlenet_sdk::wire::icmpv6::{self, icmpv6_type};
use middlenet_sdk::wire::{Layers, MacAddr, PacketBuilder, TcpFlags, VlanTag, WireError, ethernet, protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Answers per second at most, so that a flood is not answered with a flood (RFC 1812 section 4.3.2.8).
const PER_SECOND: u64 = 1000;
/// ICMP over IPv4 quotes up to this many bytes, so that the whole answer fits 576 (RFC 1812 section 4.3.2.3).
const QUOTED_V4_BYTES: usize = 576 - 20 - 8;
/// ICMPv6 quotes up to this many, so that the whole answer fits the least MTU (RFC 4443 section 2.4 (c)).
const QUOTED_V6_BYTES: usize = 1280 - 40 - 8;
const SCRATCH_BYTES: usize = 2048;

/// Writes answers, not too many of them.
#[derive(Debug)]
pub(super) struct Rejecter {
    scratch: Box<[u8; SCRATCH_BYTES]>,
    quote: Box<[u8; SCRATCH_BYTES]>,
    second: u64,
    sent: u64,
}

impl Rejecter {
    pub(super) fn new() -> Self {
        Self { scratch: Box::new([0; SCRATCH_BYTES]), quote: Box::new([0; SCRATCH_BYTES]), second: 0, sent: 0 }
    }

    /// Turns the packet into the answer to itself: a TCP reset (RFC 9293 section 3.10.7.1) or an ICMP error "administratively
    /// prohibited". False when it must not be answered, or too many were.
    pub(super) fn answer(&mut self, packet: &mut Packet<'_>, probe: &Probe, now_ns: u64) -> bool {
        let second = now_ns / 1_000_000_000;
        if second != self.second {
            (self.second, self.sent) = (second, 0);
        }
        if self.sent >= PER_SECOND {
            return false;
        }
        let Ok(layers) = Layers::parse(packet.data()) else { return false };
        let Ok(length) = self.write(packet.data(), &layers, probe) else { return false };
        let done = self.scratch.get(..length).is_some_and(|answer| packet.fill(answer));
        self.sent += u64::from(done);
        done
    }

    fn write(&mut self, packet: &[u8], layers: &Layers, probe: &Probe) -> Result<usize, WireError> {
        let head = packet.first_chunk::<12>().ok_or(WireError::Truncated)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *head;
        let (dst_mac, src_mac) = (MacAddr::new(d0, d1, d2, d3, d4, d5), MacAddr::new(s0, s1, s2, s3, s4, s5));
        let (src, dst) = (super::prefix::address_of(probe.key.a), super::prefix::address_of(probe.key.b));
        if dst_mac.is_multicast() || !layers.has_l4() || !one_host(src) || !one_host(dst) {
            return Err(WireError::Unsupported);
        }
        let mut builder = PacketBuilder::new().mac(dst_mac, src_mac);
        for tag in layers.vlan.as_slice() {
            builder = builder.vlan(VlanTag { ..*tag });
        }
        builder = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(dst, src),
            (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(dst, src),
            _ => return Err(WireError::Unsupported),
        };
        if layers.protocol == protocol::TCP {
            let tcp = layers.tcp(packet)?;
            if tcp.flags().rst() {
                return Err(WireError::Unsupported);
            }
            let (flags, seq, ack) = if tcp.flags().ack() {
                (TcpFlags::RST, tcp.ack(), 0)
            } else {
                (TcpFlags::RST.union(TcpFlags::ACK), 0, tcp.seq().wrapping_add(tcp.seq_len()))
            };
            let reset = builder.tcp(tcp.dst_port(), tcp.src_port(), flags).tcp_numbers(seq, ack).tcp_window(0);
            return reset.emit(&mut self.scratch[..]);
        }
        self.icmp_error(builder, packet, layers, dst, src)
    }

    fn icmp_error(
        &mut self,
        builder: PacketBuilder<'_>,
        packet: &[u8],
        layers: &Layers,
        from: IpAddr,
        to: IpAddr,
    ) -> Result<usize, WireError> {
        let v6 = layers.is_ipv6();
        let icmp_type = *layers.l4_bytes(packet)?.first().ok_or(WireError::Truncated)?;
        // Never an error about an error (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)).
        let of_error = match layers.protocol {
            protocol::ICMPV4 if !v6 => icmpv4::is_error(icmp_type),
            protocol::ICMPV6 if v6 => icmpv6::is_error(icmp_type) || icmp_type == icmpv6_type::REDIRECT,
            _ => false,
        };
        if of_error {
            return Err(WireError::Unsupported);
        }
        let quoted = layers.l3_bytes(packet)?;
        let quoted = &quoted[..quoted.len().min(if v6 { QUOTED_V6_BYTES } else { QUOTED_V4_BYTES })];
        let length = 8 + quoted.len();
        let message = self.quote.get_mut(..length).ok_or(WireError::NoSpace)?;
        let (kind, code) = if v6 {
            (icmpv6_type::DEST_UNREACHABLE, icmpv6::unreachable_code::ADMIN_PROHIBITED)
        } else {
            (icmpv4_type::DEST_UNREACHABLE, icmpv4::unreachable_code::ADMIN_PROHIBITED)
        };
        message[..8].copy_from_slice(&[kind, code, 0, 0, 0, 0, 0, 0]);
        message[8..].copy_from_slice(quoted);
        let checksum = match (from, to) {
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                Sum::pseudo_ipv6(from, to, protocol::ICMPV6, length).bytes(message).checksum()
            }
            _ => internet_checksum(message),
        };
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        let protocol = if v6 { protocol::ICMPV6 } else { protocol::ICMPV4 };
        builder.protocol(protocol).payload(message).emit(&mut self.scratch[..])
    }
}

/// Whether an address is of one host, so that it may be answered (RFC 1122 section 3.2.2).
fn one_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !(a.is_multicast() || a.is_broadcast() || a == Ipv4Addr::UNSPECIFIED || a.is_loopback()),
        IpAddr::V6(a) => !(a.is_multicast() || a == Ipv6Addr::UNSPECIFIED || a.is_loopback()),
    }
}

const _: () = assert!(ethernet::HEADER_LEN + 8 + 1280 <= SCRATCH_BYTES);
