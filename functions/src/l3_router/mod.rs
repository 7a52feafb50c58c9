//! `l3-router`: routes IPv4 and IPv6 between the ports of a chain, as RFC 1812 and RFC 8200 ask of a router.
//!
//! ```yaml
//! - l3-router:
//!     addresses:                                   # own addresses; their networks are routes, and answer ARP, ND, echo
//!       - { port: wan, address: 192.0.2.2/30 }
//!       - { port: lan, address: 10.2.0.1/24 }
//!       - { port: lan, address: "2001:db8:2::1/64" }
//!     routes:
//!       - { to: 0.0.0.0/0, via: 192.0.2.1 }        # the port follows from the address
//!       - { to: 10.3.0.0/16, via: 10.2.0.254, port: lan }
//!       - 10.4.0.0/16 10.2.0.254 lan               # the same as a line: PREFIX [VIA] [PORT]
//!     routes_file: { path: routes.txt, port: lan } # one such line each; `via` and `port` for lines without
//!     neighbours: [{ ip: 10.2.0.9, mac: "02:00:00:00:00:09" }]
//! ```
//!
//! Without neighbours to resolve (a benchmark, a point-to-point link), `resolve: false` sends what has no static neighbour to
//! `gateway_mac`, or leaves its destination link address as it is; the source link address is always the egress port's.
//!
//! **Forwarding.** Longest prefix match by DIR-24-8 for IPv4 and by an 8-bit trie for IPv6. Packets leave by their route's
//! port ([`Verdict::Port`]) with TTL or hop limit one lower. Each burst is passed twice: once to check headers and fetch
//! table entries, once to rewrite; whatever is not a plain IPv4 packet to a ready next hop takes the slow path after that.
//!
//! **Refused**, each under its drop reason: bad version, lengths (`malformed`) or header checksum (`bad-checksum`); martian
//! addresses (`martian`: source loopback, multicast, 0/8 or 240/4, destination loopback, 0/8 or 240/4, IPv6 `::`, `::1`,
//! link-local); another station's frames (`other-host`, unless `accept_any_mac` or the port has no address of its own); groups
//! and broadcasts (`group`); source routes (`source-route`); VLAN-tagged and non-IP frames (`unsupported`).
//!
//! **ICMP errors** go back to the station the packet came from: time exceeded, net unreachable, host unreachable, packet too
//! big (IPv4 with DF, IPv6 always), port unreachable for TCP and UDP to the router itself. They are sent from the
//! ingress port's address and share `icmp_errors_per_s`. IPv4 packets without DF that are too big are fragmented.
//!
//! **Fast path** (`mode: reactive`). From its second packet on, a flow is sent on in the kernel, the way the last packet here went: link
//! addresses, TTL, port. A change of routes or neighbours voids all flows at once. Packets with a TTL that ends, above the
//! egress MTU, ICMP and fragments come here. In the kernel a packet is told by addresses and ports alone: its destination link
//! address, IPv4 options and header checksum are not looked at again.
//!
//! **Neighbours** are asked for with ARP and neighbour discovery, three times with growing pauses; meanwhile up to eight
//! packets each and `max_held` in all wait. Ready ones are asked again after `neighbour_refresh_s`. Only neighbours that
//! packets asked for are ever entered, and one that moves to another link address stays there for a second at least, see
//! `neighbours.rs`. A change of configuration keeps what was learned.
//!
//! Counters: `forwarded`, `local`, `echo-replies`, `icmp-errors`, `icmp-errors-withheld`, `arp-replies`, `nd-replies`,
//! `neighbour-requests`, `neighbour-failures`, `address-conflicts`, `fragments`; gauges `neighbours`, `held`.
//!
//! Limits: no routing protocol, no ECMP, no VLAN interfaces, no multicast routing, no router advertisements or redirects, no
//! reassembly of what is addressed to the router; ICMP errors use no route look-up; a packet that needs fragmenting while
//! its next hop is being resolved is dropped; IPv6 neighbours that are no gateways cost a hash look-up per packet.

mod config;
mod draft;
mod fast;
mod fib;
mod fragment;
mod local;
mod lpm4;
mod lpm6;
mod neighbours;
mod prefix;
mod slow;

pub use config::{Address, Config, Neighbour, RouteEntry, RouteFields, RoutesFile, RoutesFileFields};

use config::Interface;
use draft::{Allowance, Draft};
use fast::Fast;
use fib::Fib;
use lpm4::Near;
use middlenet_sdk::BURST;
use middlenet_sdk::fast_path::Shape;
use middlenet_sdk::prelude::*;
use neighbours::Neighbours;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

/// Neighbours a report shows.
const SHOWN_NEIGHBOURS: usize = 100;

/// The function; see the module's documentation.
pub struct L3Router {
    fib: Fib,
    fast: Fast,
    neighbours: Neighbours,
    interfaces: Vec<Interface>,
    /// For each port the destination link address it takes, as the first 8 bytes of a frame under a mask.
    stations: Box<[Station; 256]>,
    allowance: Allowance,
    draft: Draft,
    /// Packets whose neighbour was lost in a change of configuration; they are dropped at the next tick.
    orphans: Vec<Held>,
    /// Payload of a packet that is being fragmented.
    spare_bytes: Vec<u8>,
    counters: Counters,
    reasons: Reasons,
}

#[derive(Clone, Copy)]
struct Station {
    want: u64,
    mask: u64,
}

struct Counters {
    forwarded: Counter,
    local: Counter,
    echo_replies: Counter,
    icmp_errors: Counter,
    icmp_withheld: Counter,
    arp_replies: Counter,
    nd_replies: Counter,
    requests: Counter,
    failures: Counter,
    conflicts: Counter,
    fragments: Counter,
    neighbours: Counter,
    held: Counter,
}

struct Reasons {
    other_host: DropReason,
    martian: DropReason,
    group: DropReason,
    source_route: DropReason,
}

/// What the first pass found out about a packet.
#[derive(Clone, Copy, Default)]
struct Plain {
    /// The entry of the IPv4 table's first level, or the IPv6 next hop.
    entry: u16,
    /// Of the L3 packet, in bytes; 0 sends it to the slow path.
    length: u16,
    /// The destination's last byte, which the second level of the IPv4 table needs.
    last: u8,
    is_ipv6: bool,
}

/// Frame bytes that the fast path reads: Ethernet and an IPv4 header without options.
const PLAIN_BYTES: usize = 34;
/// The same for IPv6.
const PLAIN_IPV6_BYTES: usize = 54;

impl NetworkFunction for L3Router {
    type Config = Config;
    const FAST_PATH: Shape = fast::SHAPE;

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        let checked = config.check(init)?;
        let gateway = config.gateway_mac.map(|mac| mac.octets());
        let room = usize::from(config.max_neighbours) + checked.neighbours.len();
        let mut fib = Fib::new(&checked, config.resolve, gateway, room)?;
        let refresh = Duration::from_secs(config.neighbour_refresh_s.into());
        let max = usize::from(config.max_neighbours);
        let neighbours = Neighbours::new(&checked, &mut fib, max, config.max_held.into(), refresh)
            .ok_or_else(|| ConfigError::new("there are more static neighbours than next hops"))?;
        let mut stations = Box::new([Station { want: 0, mask: GROUP }; 256]);
        for interface in &checked.interfaces {
            if !config.accept_any_mac && interface.mac != [0; 6] {
                let want = u64_of(&interface.mac);
                stations[usize::from(interface.port)] = Station { want, mask: ADDRESS };
            }
        }
        Ok(Self {
            fib,
            fast: Fast::new(init.fast_path()),
            neighbours,
            interfaces: checked.interfaces,
            stations,
            allowance: Allowance::new(config.icmp_errors_per_s),
            draft: Draft::default(),
            orphans: Vec::new(),
            spare_bytes: Vec::with_capacity(4096),
            counters: Counters::new(init),
            reasons: Reasons::new(init),
        })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        let mut start = 0;
        while start < burst.len() {
            let count = (burst.len() - start).min(BURST);
            self.process_some(burst, start, count);
            start += count;
        }
        self.fast.follow(burst, self.fib.changes, &self.interfaces);
    }

    fn tick(&mut self, burst: &mut Burst<'_>) {
        let now = burst.now();
        for orphan in self.orphans.drain(..) {
            burst.resume(orphan).drop(DropReason::NO_NEIGHBOUR);
        }
        self.advance_neighbours(burst, now);
        self.fast.follow(burst, self.fib.changes, &self.interfaces);
        self.fast.sweep();
        self.counters.neighbours.set(self.neighbours.known().count() as u64);
        self.counters.held.set(self.neighbours.held() as u64);
    }

    fn inherit(&mut self, previous: Self) {
        // It went on with its work after this one was made.
        self.fast.clear();
        let (old, now) = (previous.interfaces, &self.interfaces);
        let keep = |(port, address)| {
            let name = &old.iter().find(|interface| interface.port == port)?.name;
            let interface = now.iter().find(|interface| interface.name == *name)?;
            let gateway = self.fib.neighbours().any(|(_, who)| who == (interface.port, address));
            (gateway || interface.is_on_link(address)).then(|| interface.clone())
        };
        let kept: HashMap<_, _> = previous.neighbours.names().filter_map(|who| Some((who, keep(who)?))).collect();
        self.orphans = previous.orphans;
        self.orphans.extend(self.neighbours.inherit(previous.neighbours, &mut self.fib, &kept));
        self.allowance.continue_from(&previous.allowance);
    }

    fn report(&self) -> Value {
        let name = |port: u8| self.interfaces.iter().find(|i| i.port == port).map_or("", |i| i.name.as_str());
        let shown: Vec<Value> = self
            .neighbours
            .known()
            .take(SHOWN_NEIGHBOURS)
            .map(|((port, ip), mac)| {
                json!({ "ip": ip, "port": name(port), "mac": middlenet_sdk::wire::MacAddr(mac).to_string() })
            })
            .collect();
        let [prefixes, far_bytes, trie_bytes] = self.fib.size();
        json!({
            "prefixes": prefixes,
            "ipv4_group_bytes": far_bytes,
            "ipv6_trie_bytes": trie_bytes,
            "neighbours": shown,
            "neighbours_known": self.neighbours.known().count(),
            "neighbours_unknown": self.neighbours.len() - self.neighbours.known().count(),
            "held": self.neighbours.held(),
        })
    }
}

/// The six bytes of a link address in the low bits of a little-endian word.
const ADDRESS: u64 = 0xffff_ffff_ffff;
/// The group bit of a link address, likewise.
const GROUP: u64 = 1;

fn u64_of(mac: &[u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = *mac;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

impl L3Router {
    /// At most [`BURST`] packets: the two fast passes, then what they left.
    fn process_some(&mut self, burst: &mut Burst<'_>, start: usize, count: usize) {
        let mut slow = [0; BURST];
        let slow_count = self.fast(burst, start, count, &mut slow);
        self.counters.forwarded.add((count - slow_count) as u64);
        for index in &slow[..slow_count] {
            self.slow(burst, start + usize::from(*index));
        }
    }

    /// Forwards plain packets to ready next hops; the places of all others are listed in `slow`, and their number returned.
    // A function of its own, so that the slow path's many variables do not take its registers.
    #[inline(never)]
    fn fast(&self, burst: &mut Burst<'_>, start: usize, count: usize, slow: &mut [u8; BURST]) -> usize {
        let mut plain = [Plain::default(); BURST];
        let plain = &mut plain[..count];
        let Some(near) = self.fib.v4.view() else { return 0 };
        let stations = &*self.stations;
        // The look-ups of different packets do not wait for each other: the processor overlaps their memory accesses.
        for (packet, plain) in burst.iter_mut().skip(start).zip(&mut *plain) {
            let frame = packet.data();
            if let Some(head) = frame.first_chunk::<PLAIN_BYTES>()
                && stations[usize::from(packet.ingress().0)].takes(head)
            {
                // Ethertype, version and header length in one comparison.
                if head[12..15] == [0x08, 0x00, 0x45] {
                    examine_ipv4(head, frame.len(), near, plain);
                } else {
                    self.examine_ipv6(frame, plain);
                }
            }
        }
        let (hops, mut slow_count) = (self.fib.hops.as_slice(), 0);
        for (index, (mut packet, plain)) in burst.iter_mut().skip(start).zip(&*plain).enumerate() {
            let hop = self.fib.v4.resolve(plain.entry, plain.last);
            if let Some(hop) = hops.get(usize::from(hop))
                && plain.length.wrapping_sub(1) < hop.ready_mtu
                && let Some(head) = packet.data_mut().first_chunk_mut::<PLAIN_BYTES>()
            {
                head[..12].copy_from_slice(&hop.macs);
                if plain.is_ipv6 {
                    head[21] = head[21].wrapping_sub(1);
                } else {
                    lower_ttl(head);
                }
                packet.to_port(Port(hop.port));
            } else {
                slow[slow_count % BURST] = index as u8;
                slow_count += 1;
            }
        }
        slow_count
    }

    #[inline(never)]
    fn examine_ipv6(&self, frame: &[u8], plain: &mut Plain) {
        let Some(head) = frame.first_chunk::<PLAIN_IPV6_BYTES>() else { return };
        let payload = u16::from_be_bytes([head[18], head[19]]);
        let is_ipv6 = (head[12] == 0x86) & (head[13] == 0xdd) & (head[14] >> 4 == 6);
        let fits = usize::from(payload) <= frame.len() - PLAIN_IPV6_BYTES;
        let lives = head[21] > 1;
        // Global and unique local unicast: 2000::/3 and fc00::/7.
        let ordinary = |first: u8| (first & 0xe0 == 0x20) | (first & 0xfe == 0xfc);
        if is_ipv6 & fits & lives & ordinary(head[22]) & ordinary(head[38])
            && let Some(dst) = head.last_chunk::<16>()
        {
            let entry = self.fib.v6.lookup(u128::from_be_bytes(*dst));
            *plain = Plain { entry, length: payload.saturating_add(40), last: 0, is_ipv6: true };
        }
    }

    /// The interface of a port.
    fn interface(&self, port: u8) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.port == port)
    }
}

impl Station {
    /// Whether a frame that begins so is for this station.
    #[inline(always)]
    fn takes(&self, head: &[u8; PLAIN_BYTES]) -> bool {
        let first = u64::from_le_bytes([head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7]]);
        (first ^ self.want) & self.mask == 0
    }
}

/// Fetches the table entry of an IPv4 packet that nothing speaks against. Whatever looks unusual is left to the slow path.
#[inline(always)]
fn examine_ipv4(head: &[u8; PLAIN_BYTES], frame_bytes: usize, near: Near<'_>, plain: &mut Plain) {
    let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let length = u16::from_be_bytes([head[16], head[17]]);
    let fits = usize::from(length).wrapping_sub(20) <= frame_bytes - PLAIN_BYTES;
    let lives = head[22] > 1;
    let ordinary = is_ordinary(head[26]) & is_ordinary(head[30]);
    let sum: u64 = [word(14), word(18), word(22), word(26), word(30)].into_iter().map(u64::from).sum();
    if fits & lives & ordinary & is_multiple_of_65535(sum) {
        let dst = u32::from_be(word(30));
        *plain = Plain { entry: near.entry(dst), length, last: dst as u8, is_ipv6: false };
    }
}

/// Whether a one's complement sum says that the header is intact: in either byte order the sum of its words is then a multiple
/// of 2^16 - 1 (and not 0, which it cannot be). By the inverse modulo 2^64, which takes one multiplication.
#[inline(always)]
fn is_multiple_of_65535(sum: u64) -> bool {
    sum.wrapping_mul(0xfffe_fffe_fffe_ffff) <= u64::MAX / 0xffff
}

/// Whether an IPv4 address that begins with this byte may be a unicast source or destination on a link: not in 0/8, 127/8,
/// 224/4 or 240/4.
#[inline(always)]
fn is_ordinary(first: u8) -> bool {
    (first.wrapping_sub(1) < 223) & (first != 127)
}

/// TTL one lower, the checksum with it (RFC 1624): the word falls by 0x0100, so its complement rises by as much.
#[inline(always)]
fn lower_ttl(head: &mut [u8; PLAIN_BYTES]) {
    head[22] = head[22].wrapping_sub(1);
    let sum = u32::from(u16::from_be_bytes([head[24], head[25]])) + 0x0100;
    let checksum = (sum + u32::from(sum >= 0xffff)) as u16;
    head[24..26].copy_from_slice(&checksum.to_be_bytes());
}

impl Counters {
    fn new(init: &mut Init) -> Self {
        Self {
            forwarded: init.counter("forwarded", "packets sent on by a route"),
            local: init.counter("local", "packets addressed to the router"),
            echo_replies: init.counter("echo-replies", "answers to ping"),
            icmp_errors: init.counter("icmp-errors", "ICMP and ICMPv6 errors sent"),
            icmp_withheld: init
                .counter("icmp-errors-withheld", "errors not sent: over the rate, not allowed, or no buffer"),
            arp_replies: init.counter("arp-replies", "ARP requests answered"),
            nd_replies: init.counter("nd-replies", "neighbour solicitations answered"),
            requests: init.counter("neighbour-requests", "ARP requests and neighbour solicitations sent"),
            failures: init.counter("neighbour-failures", "neighbours that did not answer while packets waited"),
            conflicts: init
                .counter("address-conflicts", "ARP or ND in which another station claims an address of ours"),
            fragments: init.counter("fragments", "IPv4 fragments made"),
            neighbours: init.gauge("neighbours", "neighbours whose link address is known"),
            held: init.gauge("held", "packets waiting for a link address"),
        }
    }
}

impl Reasons {
    fn new(init: &mut Init) -> Self {
        Self {
            other_host: init.drop_reason("other-host", "the link address is another station's"),
            martian: init.drop_reason("martian", "an address that must not appear on a link"),
            group: init.drop_reason("group", "to a multicast or broadcast address, which are not routed"),
            source_route: init.drop_reason("source-route", "IPv4 packets that name their own route"),
        }
    }
}

#[cfg(test)]
mod lpm_tests;
#[cfg(test)]
mod tests;
