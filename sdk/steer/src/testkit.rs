//! Rules and frames for tests, drawn from few values so that they meet often, with malformed frames among them.

mod mix;

use crate::{Action, Match, PortRange, Prefix, Rule, ethertype};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use mix::Mix;

/// The longest frame: one that a kernel keeps in one page.
pub const MOST_BYTES: usize = 3000;

/// A source of choices: bytes that are given, then an endless row of numbers that follow from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Draw<'a> {
    bytes: &'a [u8],
    state: u64,
}

impl<'a> Draw<'a> {
    /// Draws what this seed leads to.
    pub fn from_seed(seed: u64) -> Self {
        Self { bytes: &[], state: seed }
    }

    /// Draws these bytes first, as a fuzzer wants it.
    pub fn from_bytes(bytes: &'a [u8]) -> Self {
        Self { bytes, state: 0 }
    }

    fn byte(&mut self) -> u8 {
        match self.bytes.split_first() {
            Some((&first, rest)) => {
                self.bytes = rest;
                first
            }
            None => self.next() as u8,
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// A number below `limit`, which is not zero.
    pub fn below(&mut self, limit: usize) -> usize {
        let drawn = if limit <= 256 { self.byte().into() } else { usize::from(self.word()) };
        drawn % limit
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    fn list<T>(&mut self, one_in: usize, most: usize, draw: fn(&mut Self) -> T) -> Vec<T> {
        if !self.one_in(one_in) {
            return Vec::new();
        }
        (0..=self.below(most)).map(|_| draw(self)).collect()
    }

    fn mac(&mut self) -> [u8; 6] {
        match self.below(8) {
            0 => [0; 6],
            1 => [0xff; 6],
            2 => [0; 6].map(|_| self.byte()),
            last => [2, 0, 0, 0, 0, last as u8],
        }
    }

    fn v4(&mut self) -> Ipv4Addr {
        match self.below(8) {
            0 => Ipv4Addr::new(self.byte(), self.byte(), self.byte(), self.byte()),
            _ => Ipv4Addr::new(10, self.of(&[0, 1, 128]), self.of(&[0, 1, 2, 255]), self.of(&[0, 1, 2, 127, 128, 255])),
        }
    }

    fn v6(&mut self) -> Ipv6Addr {
        match self.below(10) {
            0 => Ipv6Addr::from([0; 16].map(|_| self.byte())),
            1 => self.v4().to_ipv6_mapped(),
            _ => {
                let (site, net, host) =
                    (self.of(&[0, 1, 0x8000]), self.of(&[0, 1, 2, 0xffff]), self.of(&[1, 2, 0x8000]));
                Ipv6Addr::new(0x2001, 0xdb8, site, net, 0, 0, 0, host)
            }
        }
    }

    fn prefix(&mut self) -> Prefix {
        let is_v4 = !self.one_in(3);
        let (address, lengths): (IpAddr, &[u8]) = if is_v4 {
            (self.v4().into(), &[0, 7, 8, 9, 12, 16, 23, 24, 25, 30, 31, 32])
        } else {
            (self.v6().into(), &[0, 1, 16, 32, 33, 48, 49, 63, 64, 65, 112, 127, 128])
        };
        let length = self.of(lengths);
        Prefix::new(address, length).unwrap_or(address.into())
    }

    fn v4_prefix(&mut self) -> Prefix {
        Prefix::new(self.v4().into(), self.of(&[0, 8, 16, 24, 32])).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into())
    }

    fn port(&mut self) -> u16 {
        match self.below(4) {
            0 => self.word(),
            _ => self.of(&[0, 1, 22, 53, 80, 443, 1023, 1024, 65534, 65535]),
        }
    }

    fn port_range(&mut self) -> PortRange {
        let (first, last) = (self.port(), self.port());
        match self.below(8) {
            0 => PortRange { first, last },
            1..4 => PortRange { first: first.min(last), last: first.max(last) },
            _ => first.into(),
        }
    }

    fn protocol(&mut self) -> u8 {
        match self.below(8) {
            0 => self.byte(),
            1..5 => self.of(&[6, 17]),
            _ => self.of(&[0, 1, 43, 44, 50, 51, 58, 60, 132]),
        }
    }

    fn ether_type(&mut self) -> u16 {
        match self.below(16) {
            0 => self.word(),
            1..10 => self.of(&[ethertype::IPV4, ethertype::IPV6]),
            _ => self.of(&[ethertype::ARP, ethertype::VLAN, ethertype::SERVICE_VLAN, 0x88cc]),
        }
    }

    fn vlan(&mut self) -> u16 {
        self.of(&[0, 1, 2, 100, 4095])
    }

    /// A rule; most ask for one or two things.
    pub fn rule(&mut self) -> Rule {
        let matches = Match {
            vlans: self.list(6, 3, Self::vlan),
            src_macs: self.list(12, 3, Self::mac),
            dst_macs: self.list(12, 3, Self::mac),
            ether_types: self.list(8, 2, Self::ether_type),
            src: self.list(3, 3, Self::prefix),
            dst: self.list(3, 3, Self::prefix),
            arp_targets: self.list(16, 2, Self::v4_prefix),
            protocols: self.list(4, 2, Self::protocol),
            src_ports: self.list(6, 3, Self::port_range),
            dst_ports: self.list(4, 3, Self::port_range),
            fragments: if self.one_in(12) { Some(self.one_in(2)) } else { None },
        };
        let action = match self.below(4) {
            0 => Action::Drop,
            1 => Action::Kernel,
            _ => Action::Tag(self.word()),
        };
        Rule { name: format!("rule {}", self.below(1000)), matches, action }
    }

    /// At most this many rules. Those that match every packet are rare, lest nothing behind them is ever reached.
    pub fn rules(&mut self, most: usize) -> Vec<Rule> {
        let count = self.below(most + 1);
        let mut rules: Vec<Rule> = (0..count).map(|_| self.rule()).collect();
        rules.retain(|rule| rule.matches != Match::default() || self.one_in(64));
        rules
    }

    /// So many rules, each of which asks for one or two fields out of three, so that many ask for the same fields and each
    /// packet is for many.
    pub fn alike_rules(&mut self, count: usize) -> Vec<Rule> {
        let rules = (0..count).map(|_| {
            let mut rule = self.rule();
            let (src, dst, ports) = (vec![self.prefix()], vec![self.prefix()], vec![self.port_range()]);
            rule.matches = match self.below(4) {
                0 => Match { src, ..Match::default() },
                1 => Match { dst, ..Match::default() },
                2 => Match { dst_ports: ports, ..Match::default() },
                _ => Match { src, dst_ports: ports, ..Match::default() },
            };
            rule
        });
        rules.collect()
    }

    /// A frame of 14 to [`MOST_BYTES`] bytes, which may end anywhere and have any byte changed.
    pub fn frame(&mut self) -> Vec<u8> {
        let mut frame = [self.mac(), self.mac()].concat();
        for _ in 0..self.of(&[0, 0, 0, 1, 1, 2, 3]) {
            frame.extend(self.of(&[ethertype::VLAN, ethertype::VLAN, ethertype::SERVICE_VLAN]).to_be_bytes());
            let priority = self.of(&[0, 0xe000, 0x1000]);
            frame.extend((self.vlan() | priority).to_be_bytes());
        }
        let ether_type = self.ether_type();
        frame.extend(ether_type.to_be_bytes());
        match ether_type {
            ethertype::IPV4 => self.ipv4(&mut frame),
            ethertype::IPV6 => self.ipv6(&mut frame),
            ethertype::ARP => self.arp(&mut frame),
            _ => {}
        }
        let rest = self.below(64);
        frame.extend((0..rest).map(|_| self.byte()));
        for _ in 0..self.of(&[0, 0, 0, 0, 0, 1, 1, 2, 5]) {
            let at = self.below(frame.len());
            frame[at] = self.byte();
        }
        if self.one_in(4) {
            frame.truncate(14 + self.below(frame.len()));
        }
        frame.resize(frame.len().clamp(14, MOST_BYTES), 0);
        frame
    }

    fn ipv4(&mut self, frame: &mut Vec<u8>) {
        let words = self.of(&[5, 5, 5, 6, 15, 4, 0]);
        let fragment = self.of(&[0_u16, 0, 0, 0, 0x4000, 0x2000, 0x2001, 0x0001, 0x1fff, 0x8000]);
        let protocol = self.protocol();
        let mut header = vec![0x40 | words, 0, 0, 60, 0, 1, 0, 0, 64, protocol, 0, 0];
        header[6..8].copy_from_slice(&fragment.to_be_bytes());
        header.extend(self.v4().octets());
        header.extend(self.v4().octets());
        header.resize(usize::from(words.max(5)) * 4, 1);
        frame.extend(header);
        self.ports(frame);
    }

    fn ipv6(&mut self, frame: &mut Vec<u8>) {
        let extensions: Vec<u8> = match self.below(3) {
            0 => (0..self.of(&[1, 2, 3, 7, 8, 9])).map(|_| self.of(&[0, 43, 44, 60])).collect(),
            _ => Vec::new(),
        };
        let last = self.protocol();
        let mut numbers = extensions.iter().copied().chain([last]);
        frame.extend([0x60, 0, 0, 0, 0, 40, numbers.next().unwrap_or(last), 64]);
        frame.extend(self.v6().octets());
        frame.extend(self.v6().octets());
        for (&this, next) in extensions.iter().zip(numbers) {
            let length = if self.one_in(16) { self.byte() } else { self.of(&[0, 0, 1, 2]) };
            if this == 44 {
                let fragment = self.of(&[0_u16, 0, 1, 8, 9, 6, 0xfff8]);
                frame.extend([next, length]);
                frame.extend(fragment.to_be_bytes());
                frame.extend([0, 0, 0, 1]);
            } else {
                frame.extend([next, length]);
                frame.resize(frame.len() + 6 + 8 * usize::from(length), 0);
            }
        }
        self.ports(frame);
    }

    fn ports(&mut self, frame: &mut Vec<u8>) {
        frame.extend(self.port().to_be_bytes());
        frame.extend(self.port().to_be_bytes());
    }

    fn arp(&mut self, frame: &mut Vec<u8>) {
        frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend([2, 0, 0, 0, 0, 1]);
        frame.extend(self.v4().octets());
        frame.extend([0; 6]);
        frame.extend(self.v4().octets());
    }
}
