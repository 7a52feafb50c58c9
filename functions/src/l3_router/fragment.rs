//! IPv4 fragmentation (RFC 791 section 3.2).

use super::L3Router;
use super::fib::Hop;
use super::slow::set_link;
use middlenet_sdk::prelude::*;
use middlenet_sdk::wire::checksum::internet_checksum;
use middlenet_sdk::wire::{Layers, ethertype};

const ETHERNET: usize = 14;
const LONGEST_HEADER: usize = 60;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

impl L3Router {
    /// Sends a packet in pieces of at most `mtu` bytes. The packet itself becomes the first; when buffers run out, the rest
    /// is missing and the receiver gives up, as after any loss.
    pub(super) fn fragment(&mut self, burst: &mut Burst<'_>, index: usize, hop: Hop, mtu: u16) {
        let Some(mut packet) = burst.get_mut(index) else { return };
        let Some(first) = plan(packet.data(), mtu) else { return packet.drop(DropReason::TOO_BIG) };
        self.spare_bytes.clear();
        self.spare_bytes.extend_from_slice(&packet.data()[first.payload_at + first.step..first.end]);
        let mut header = first.header;
        let mut frame = Head { bytes: &mut header, length: first.header_length };
        frame.stamp(first.step, first.offset_units, true);
        let bytes = first.payload_at + first.step;
        packet.data_mut()[ETHERNET..first.payload_at].copy_from_slice(&frame.bytes[..first.header_length]);
        if packet.resize(bytes).is_none() {
            return packet.drop(DropReason::TOO_BIG);
        }
        set_link(packet.data_mut(), &hop.macs);
        packet.to_port(Port(hop.port));
        self.counters.forwarded.inc();
        self.counters.fragments.inc();

        let (mut later, later_length) = first.later_header();
        let step = (usize::from(mtu) - later_length) & !7;
        let mut offset_units = first.offset_units + (first.step / 8) as u16;
        let mut rest = self.spare_bytes.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(step));
            let more = !after.is_empty() || first.more;
            Head { bytes: &mut later, length: later_length }.stamp(piece.len(), offset_units, more);
            let Some(mut packet) = burst.allocate() else { return };
            let Some(frame) = packet.resize(ETHERNET + later_length + piece.len()) else {
                return packet.drop(DropReason::NO_BUFFER);
            };
            set_link(frame, &hop.macs);
            frame[12..ETHERNET].copy_from_slice(&ethertype::IPV4.to_be_bytes());
            frame[ETHERNET..ETHERNET + later_length].copy_from_slice(&later[..later_length]);
            frame[ETHERNET + later_length..].copy_from_slice(piece);
            packet.to_port(Port(hop.port));
            self.counters.fragments.inc();
            offset_units += (step / 8) as u16;
            rest = after;
        }
    }
}

/// How a packet is cut.
struct Plan {
    header: [u8; LONGEST_HEADER],
    header_length: usize,
    /// Where the payload begins and ends in the frame.
    payload_at: usize,
    end: usize,
    /// Payload bytes of the first piece.
    step: usize,
    /// Of the packet, which may be a fragment already.
    offset_units: u16,
    more: bool,
}

fn plan(frame: &[u8], mtu: u16) -> Option<Plan> {
    let layers = Layers::parse(frame).ok()?;
    let ip = layers.ipv4(frame).ok()?;
    let header_length = ip.header_len();
    let mut header = [0; LONGEST_HEADER];
    header[..header_length].copy_from_slice(frame.get(ETHERNET..ETHERNET + header_length)?);
    let step = usize::from(mtu).checked_sub(header_length)? & !7;
    let payload_at = layers.l4_offset;
    let fits = layers.l3_offset == ETHERNET && step > 0 && payload_at + step < layers.end;
    fits.then_some(Plan {
        header,
        header_length,
        payload_at,
        end: layers.end,
        step,
        offset_units: ip.fragment_offset_bytes() / 8,
        more: ip.more_fragments(),
    })
}

impl Plan {
    /// The header of all pieces but the first: of the options only those that say they are copied.
    fn later_header(&self) -> ([u8; LONGEST_HEADER], usize) {
        let mut header = [0; LONGEST_HEADER];
        header[..20].copy_from_slice(&self.header[..20]);
        let mut length = 20;
        let mut options = &self.header[20..self.header_length];
        loop {
            options = match *options {
                [1, ref rest @ ..] => rest,
                [kind, option_length, ..] if kind != 0 && option_length >= 2 => {
                    let Some((option, rest)) = options.split_at_checked(option_length.into()) else { break };
                    if kind & 0x80 != 0 {
                        header[length..length + option.len()].copy_from_slice(option);
                        length += option.len();
                    }
                    rest
                }
                _ => break,
            };
        }
        // End-of-options bytes, which are zero, fill the last word.
        length = length.next_multiple_of(4);
        header[0] = 0x40 | (length / 4) as u8;
        (header, length)
    }
}

struct Head<'a> {
    bytes: &'a mut [u8; LONGEST_HEADER],
    length: usize,
}

impl Head<'_> {
    /// Sets what differs between fragments.
    fn stamp(&mut self, payload: usize, offset_units: u16, more: bool) {
        let total = (self.length + payload) as u16;
        self.bytes[2..4].copy_from_slice(&total.to_be_bytes());
        let flags = if more { MORE_FRAGMENTS } else { 0 };
        self.bytes[6..8].copy_from_slice(&(flags | offset_units & OFFSET).to_be_bytes());
        self.bytes[10..12].fill(0);
        let checksum = internet_checksum(&self.bytes[..self.length]);
        self.bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}
