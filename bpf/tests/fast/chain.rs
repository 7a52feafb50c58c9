//! Which functions deal with a packet in the fast path, and where the others take it up.

use std::net::{IpAddr, Ipv4Addr};

use middlenet_bpf::{Mark, Verdict};
use middlenet_fast_path::{Mode, Rewrite, Shape};
use middlenet_steer::Flow;
use middlenet_tests::require_root;
use middlenet_wire::PacketBuilder;

use super::lab::{Chain, LEFT, RIGHT, flow, hop_tag, port_tag, writes};

const HOPS: u16 = 4;

/// What each hop writes, so that a packet shows which ones it went through.
fn mark_of(hop: u16) -> Rewrite {
    let address = |last| Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)));
    match hop {
        0 => Rewrite { src: address(10), ..Rewrite::default() },
        1 => Rewrite { dst: address(11), ..Rewrite::default() },
        2 => Rewrite { src_port: Some(1012), ..Rewrite::default() },
        _ => Rewrite { dst_port: Some(1013), ..Rewrite::default() },
    }
}

/// The flow behind these hops, by bit.
fn marked(flow: &Flow, hops: u16) -> Flow {
    let mut flow = *flow;
    for hop in (0..HOPS).filter(|hop| hops >> hop & 1 == 1) {
        let Rewrite { src, dst, src_port, dst_port, .. } = mark_of(hop);
        flow.src = src.unwrap_or(flow.src);
        flow.dst = dst.unwrap_or(flow.dst);
        flow.src_port = src_port.unwrap_or(flow.src_port);
        flow.dst_port = dst_port.unwrap_or(flow.dst_port);
    }
    flow
}

/// Each way in which the hops of a chain can know a flow, or not, in both directions: those before the first that does not know it
/// deal with the packet here, once and in order, and the tag names that one. Hops behind would know the packet whatever was done to it.
#[test]
fn a_packet_is_taken_up_at_the_first_hop_that_misses() {
    require_root!();
    let packet =
        PacketBuilder::new().ipv4("10.0.0.1".parse().expect("one"), "10.0.0.2".parse().expect("two")).udp(5, 6).build();
    for hits in 0..1_u16 << HOPS {
        let chain = Chain::new(HOPS, Shape::of(&[Mode::Reactive]).flows(256), |_, _| ());
        let known = |hop: u16| hits >> hop & 1 == 1;
        for hop in (0..HOPS).filter(|&hop| known(hop)) {
            for done in 0..1 << HOPS {
                chain.maps[usize::from(hop)].set_action(&marked(&flow(&packet), done), writes(mark_of(hop)));
            }
        }
        for reverse in [false, true] {
            let mut order: Vec<u16> = (0..HOPS).collect();
            if reverse {
                order.reverse();
            }
            let passed: Vec<u16> = order.iter().copied().take_while(|&hop| known(hop)).collect();
            let end = if reverse { port_tag(LEFT) } else { port_tag(RIGHT) };
            let tag = order.get(passed.len()).map_or(end, |&hop| hop_tag(hop));
            let before: Vec<u64> = (0..HOPS).map(|hop| chain.counters(hop).hit_pkts).collect();

            let outcome = if reverse { chain.reverse(&packet) } else { chain.forward(&packet) };
            let what = format!("known {hits:04b}, reverse {reverse}");
            assert_eq!(outcome.verdict, Verdict::Redirect, "{what}");
            assert_eq!(outcome.mark, Some(Mark { tag, egress: None, reverse }), "{what}");
            let bits = passed.iter().fold(0, |bits, hop| bits | 1 << hop);
            assert_eq!(flow(&outcome.packet), marked(&flow(&packet), bits), "{what}");
            for hop in 0..HOPS {
                let counted = chain.counters(hop).hit_pkts - before[usize::from(hop)];
                assert_eq!(counted, u64::from(passed.contains(&hop)), "{what}, hop {hop}");
            }
        }
        assert_eq!((chain.counters(0).entered_pkts, chain.counters(HOPS - 1).entered_pkts), (1, 1));
        chain.assert_conserved();
    }
}

/// A chain whose second function has no fast path: it and those behind it take packets up there.
#[test]
fn a_hop_without_fast_path_ends_it() {
    require_root!();
    let packet =
        PacketBuilder::new().ipv4("10.0.0.1".parse().expect("one"), "10.0.0.2".parse().expect("two")).udp(5, 6).build();
    let chain = Chain::new(1, Shape::of(&[Mode::Reactive]).flows(256), |_, plan| {
        plan.next_forward = middlenet_bpf::Target::Hop(1);
    });
    chain.maps[0].set_action(&flow(&packet), writes(Rewrite { dst_port: Some(9), ..Rewrite::default() }));
    let outcome = chain.forward(&packet);
    assert_eq!(outcome.mark, Some(Mark { tag: hop_tag(1), egress: None, reverse: false }));
    assert_eq!(flow(&outcome.packet).dst_port, 9);
    let outcome = chain.reverse(&packet);
    assert_eq!(outcome.mark, Some(Mark { tag: port_tag(LEFT), egress: None, reverse: true }));
    chain.assert_conserved();
}
