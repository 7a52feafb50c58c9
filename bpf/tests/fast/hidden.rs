//! Packets that may have ports of TCP or UDP and do not show them: rules of ports say nothing about them, so what comes after such rules
//! must not decide in their place.

use std::net::{Ipv4Addr, Ipv6Addr};

use middlenet_bpf::{KernelReason, SlowReason, Verdict};
use middlenet_fast_path::{Mode, Shape, Then};
use middlenet_steer::Prefix;
use middlenet_tests::require_root;
use middlenet_wire::{PacketBuilder, TcpFlags};

use super::lab::{Chain, RIGHT, hop_tag, port_tag, then};

const SHAPE: Shape = Shape::of(&[Mode::Proactive, Mode::Offloading]).prefixes(10, 10).ports(true, true).rules(100);
const TELNET: u16 = 23;

fn six(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
}

fn v4() -> Vec<u8> {
    PacketBuilder::new()
        .ipv4(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2))
        .tcp(1000, TELNET, TcpFlags::SYN)
        .build()
}

fn v6() -> Vec<u8> {
    PacketBuilder::new().ipv6(six(1), six(2)).tcp(1000, TELNET, TcpFlags::SYN).build()
}

/// A fragment with these flags and this offset.
fn fragment(flags: u8, offset: u8) -> Vec<u8> {
    let mut packet = v4();
    packet[20..22].copy_from_slice(&[flags, offset]);
    packet
}

/// With these extension headers, of eight bytes each.
fn extended(headers: &[u8]) -> Vec<u8> {
    let mut packet = v6();
    let mut next = packet[20];
    for &header in headers.iter().rev() {
        packet.splice(54..54, [next, 0, 0, 0, 0, 0, 0, 0]);
        next = header;
    }
    packet[20] = next;
    packet
}

/// Each with why it goes to the slow path.
fn hidden() -> Vec<(&'static str, Vec<u8>, SlowReason)> {
    let cut = |mut packet: Vec<u8>, bytes: usize| {
        packet.truncate(bytes);
        packet
    };
    let mut of_udp = fragment(0x20, 0);
    of_udp[23] = 17;
    let mut later = extended(&[44]);
    later[56..58].copy_from_slice(&[0, 0xb8]);
    vec![
        ("a first fragment", fragment(0x20, 0), SlowReason::Fragment),
        ("a first fragment of UDP", of_udp, SlowReason::Fragment),
        ("a later fragment", fragment(0, 3), SlowReason::Fragment),
        ("ports cut off", cut(v4(), 36), SlowReason::Miss),
        ("a first fragment of IPv6", extended(&[44]), SlowReason::Fragment),
        ("a later fragment of IPv6", later, SlowReason::Fragment),
        ("nine headers of options", extended(&[60; 9]), SlowReason::Miss),
        ("a routing header behind eight others", extended(&[60, 60, 60, 60, 60, 60, 60, 60, 43]), SlowReason::Miss),
        ("a header cut off", cut(extended(&[0]), 58), SlowReason::Miss),
    ]
}

/// Rule 3 drops what goes to the port, if there is one; rules 5 and 9 are of sources.
fn rules(chain: &Chain, port_rule: Option<u32>, sources: Then) {
    let maps = &chain.maps[0];
    if let Some(rule) = port_rule {
        maps.set_rule(rule, &then(Then::Drop(1)));
        maps.set_dst_port(6, TELNET, rule);
    }
    maps.set_ready(port_rule, true);
    let any: [Prefix; 2] = ["10.0.0.0/8", "2001:db8::/32"].map(|prefix| prefix.parse().expect("a prefix"));
    for (rule, prefix) in [5, 9].into_iter().zip(&any) {
        maps.set_rule(rule, &then(sources));
        maps.set_src(prefix, rule);
    }
}

#[test]
fn rules_behind_those_of_ports_do_not_allow_what_hides_its_ports() {
    require_root!();
    let chain = Chain::new(1, SHAPE, |_, _| ());
    rules(&chain, Some(3), Then::Next);
    for packet in [v4(), v6(), extended(&[60; 8])] {
        assert_eq!(chain.forward(&packet).verdict, Verdict::Drop, "it shows its port");
    }
    for (what, packet, reason) in hidden() {
        let before = chain.counters(0).slow(reason);
        let outcome = chain.forward(&packet);
        assert_eq!(outcome.mark.map(|mark| mark.tag), Some(hop_tag(0)), "{what}");
        assert_eq!(chain.counters(0).slow(reason), before + 1, "{what}");
    }
    // What has none of these ports is decided about as ever.
    let mut of_icmp = fragment(0x20, 0);
    of_icmp[23] = 1;
    assert_eq!(chain.forward(&of_icmp).mark.map(|mark| mark.tag), Some(port_tag(RIGHT)));
    chain.assert_conserved();
}

#[test]
fn rules_behind_those_of_ports_drop_what_hides_its_ports() {
    require_root!();
    let chain = Chain::new(1, SHAPE, |_, _| ());
    rules(&chain, Some(3), Then::Drop(2));
    for (what, packet, _) in hidden() {
        assert_eq!(chain.forward(&packet).verdict, Verdict::Drop, "{what}");
    }
    chain.assert_conserved();
}

/// So they do without rules of ports, and where they are the rules of ports themselves.
#[test]
fn rules_before_those_of_ports_decide() {
    require_root!();
    for first in [None, Some(9), Some(50)] {
        let chain = Chain::new(1, SHAPE, |_, _| ());
        rules(&chain, first, Then::Next);
        if first == Some(9) {
            chain.maps[0].set_rule(9, &then(Then::Next));
        }
        for (what, packet, _) in hidden() {
            let outcome = chain.forward(&packet);
            assert_eq!(outcome.mark.map(|mark| mark.tag), Some(port_tag(RIGHT)), "{what}, first {first:?}");
        }
        chain.assert_conserved();
    }
}

#[test]
fn the_kernel_gets_what_hides_its_ports_when_offloading() {
    require_root!();
    let chain = Chain::new(1, SHAPE, |_, plan| plan.misses_to_kernel = true);
    rules(&chain, Some(3), Then::Next);
    for (what, packet, _) in hidden() {
        let outcome = chain.forward(&packet);
        assert_eq!((outcome.verdict, outcome.mark), (Verdict::Pass, None), "{what}");
    }
    assert_eq!(chain.counters(0).kernel(KernelReason::Miss), hidden().len() as u64);
    chain.assert_conserved();
}
