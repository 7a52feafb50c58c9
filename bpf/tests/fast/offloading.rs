//! In mode `offloading` the kernel's own stack is the slow path, also of packets that a rule matches but that it cannot be followed for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use middlenet_bpf::{KernelReason, SlowReason, Verdict};
use middlenet_fast_path::{Action, Rewrite, Service, ServiceRule, Then};
use middlenet_tests::require_root;
use middlenet_wire::{PacketBuilder, TcpFlags};

use super::lab::{Chain, flow, full_shape, hop_tag, then, writes};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Of an IPv4 header that begins right behind the Ethernet header, and the same of IPv6.
const TTL: usize = 14 + 8;
const HOP_LIMIT: usize = 14 + 7;

fn offloading() -> Chain {
    Chain::new(1, full_shape(), |_, plan| (plan.misses_to_kernel, plan.ends_by_kernel) = (true, true))
}

fn udp(src_port: u16) -> Vec<u8> {
    PacketBuilder::new().ipv4(CLIENT, HOST).udp(src_port, 80).payload(&[7; 100]).build()
}

/// Lets a packet in that is known, and asserts that the kernel gets it as it came, for this reason.
fn assert_left_to_the_kernel(chain: &Chain, packet: &[u8], reason: KernelReason) {
    let before = chain.counters(0);
    let outcome = chain.forward(packet);
    let after = chain.counters(0);
    assert_eq!((outcome.verdict, outcome.mark), (Verdict::Pass, None), "{reason:?}");
    assert_eq!(outcome.packet, packet, "{reason:?}: as it came");
    assert_eq!(after.kernel(reason), before.kernel(reason) + 1, "{after:?}");
    assert_eq!((after.hit_pkts, after.slow_pkts), (before.hit_pkts, before.slow_pkts), "{reason:?}");
    chain.assert_conserved();
}

#[test]
fn a_ttl_that_is_over_is_the_kernels_to_answer() {
    require_root!();
    let chain = offloading();
    let lowers = writes(Rewrite { lower_ttl: true, dst_port: Some(9), ..Rewrite::default() });
    for ttl in [0, 1] {
        let mut packet = udp(1);
        packet[TTL] = ttl;
        chain.maps[0].set_action(&flow(&packet), lowers);
        assert_left_to_the_kernel(&chain, &packet, KernelReason::Ttl);
    }
    let (src, dst) = (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
    let mut packet = PacketBuilder::new().ipv6(src, dst).udp(1, 80).build();
    packet[HOP_LIMIT] = 1;
    chain.maps[0].set_action(&flow(&packet), lowers);
    assert_left_to_the_kernel(&chain, &packet, KernelReason::Ttl);
}

#[test]
fn a_packet_larger_than_its_rule_lets_pass_is_the_kernels_to_answer() {
    require_root!();
    let chain = offloading();
    let packet = udp(1);
    let rewrite = Rewrite { dst: Some(IpAddr::from(Ipv4Addr::new(10, 0, 0, 3))), ..Rewrite::default() };
    let mtu = (packet.len() - 14 - 1) as u16;
    chain.maps[0].set_action(&flow(&packet), Action { mtu: Some(mtu), ..writes(rewrite) });
    assert_left_to_the_kernel(&chain, &packet, KernelReason::Mtu);
}

#[test]
fn what_a_rule_cannot_do_to_a_packet_the_kernel_does_in_its_way() {
    require_root!();
    let chain = offloading();
    let packet = udp(1);
    // Rules that do not fit the packet, that lead nowhere, or that there are not.
    let six = Some(IpAddr::from(Ipv6Addr::LOCALHOST));
    for action in [
        writes(Rewrite { src: six, ..Rewrite::default() }),
        writes(Rewrite { dst: six, ..Rewrite::default() }),
        then(Then::Port(77)),
        then(Then::Output(0)),
        then(Then::Drop(64)),
    ] {
        chain.maps[0].set_action(&flow(&packet), action);
        assert_left_to_the_kernel(&chain, &packet, KernelReason::Unfit);
    }
    chain.maps[0].set_dst_port(17, 81, 100_000);
    let ruled = PacketBuilder::new().ipv4(CLIENT, HOST).udp(1, 81).build();
    assert_left_to_the_kernel(&chain, &ruled, KernelReason::Unfit);
    // Whoever lowers the TTL has options to read.
    let mut with_options = udp(2);
    with_options.splice(34..34, [1; 4]);
    with_options[14] = 0x46;
    chain.maps[0].set_action(&flow(&with_options), writes(Rewrite { lower_ttl: true, ..Rewrite::default() }));
    assert_left_to_the_kernel(&chain, &with_options, KernelReason::Unfit);
}

#[test]
fn a_connection_for_which_there_is_no_room_is_left_to_the_kernel() {
    require_root!();
    let chain = offloading();
    let maps = &chain.maps[0];
    let to =
        Rewrite { dst: Some(IpAddr::from(Ipv4Addr::new(192, 168, 0, 1))), dst_port: Some(8080), ..Rewrite::default() };
    maps.set_rule(0, &writes(to));
    maps.set_slot(0, 0);
    let addresses = [1, 2].map(|last| Ipv4Addr::new(198, 51, 100, last));
    let [first, second] = addresses.map(|address| {
        let service = Service { address: address.into(), port: 80, protocol: 6 };
        let long = Duration::from_secs(100);
        maps.set_service(&service, &ServiceRule { first: 0, count: 1, idle: long, closing: long });
        PacketBuilder::new().ipv4(CLIENT, address).tcp(1000, 80, TcpFlags::SYN).build()
    });
    chain.forward(&first);
    assert_eq!((chain.counters(0).learned, chain.counters(0).no_room), (1, 0));
    // It would look the same to the server.
    let before = chain.counters(0);
    let outcome = chain.forward(&second);
    let after = chain.counters(0);
    assert_eq!((outcome.verdict, outcome.mark), (Verdict::Pass, None));
    assert_eq!(outcome.packet, second, "as it came");
    assert_eq!((after.kernel(KernelReason::Room), after.no_room, after.slow_pkts), (1, 1, [0; 8]));
    assert_eq!(after.hit_pkts, before.hit_pkts);
    chain.assert_conserved();
}

/// A function that has written nothing yet would let everything pass. So its packets wait for it, or take the way that the manifest says.
#[test]
fn nothing_is_left_to_the_kernel_until_the_function_has_written_its_rules() {
    require_root!();
    let chain = offloading();
    let maps = &chain.maps[0];
    let mut fragment = udp(1);
    fragment[20] = 0x20;
    let six = PacketBuilder::new().ipv6(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST).udp(1, 80).build();
    let arp = [&[0xff; 12][..], &[8, 6], &[0; 40]].concat();
    let with_tag = |packet: &[u8]| chain.forward(packet).mark.map(|mark| mark.tag);
    maps.set_ready(None, false);
    for packet in [&udp(1), &fragment, &six] {
        assert_eq!(with_tag(packet), Some(hop_tag(0)));
    }
    let counters = chain.counters(0);
    assert_eq!((counters.slow(SlowReason::Miss), counters.slow(SlowReason::Fragment)), (2, 1));
    // What filters of IP have no say in goes on.
    assert_left_to_the_kernel(&chain, &arp, KernelReason::Miss);
    // A rule that is there is a rule.
    maps.set_action(&flow(&udp(2)), then(Then::Drop(1)));
    assert_eq!(chain.forward(&udp(2)).verdict, Verdict::Drop);
    maps.set_ready(None, true);
    for packet in [&udp(1), &fragment, &six] {
        assert_eq!(chain.forward(packet).verdict, Verdict::Pass);
    }
    chain.assert_conserved();
}

/// A rule that asks for the function is obeyed in any mode.
#[test]
fn what_is_asked_for_goes_to_the_function() {
    require_root!();
    let chain = offloading();
    chain.maps[0].set_action(&flow(&udp(1)), then(Then::SlowPath));
    let outcome = chain.forward(&udp(1));
    assert_eq!(outcome.mark.map(|mark| mark.tag), Some(hop_tag(0)));
    assert_eq!(chain.counters(0).slow(SlowReason::Asked), 1);
    chain.assert_conserved();
}
