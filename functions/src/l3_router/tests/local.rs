//! ARP, neighbour discovery, echo, and what else is sent to the router.

use super::*;
use middlenet_sdk::wire::build::{NeighborAdvert, NeighborSolicit};
use middlenet_sdk::wire::ndp::solicited_node;
use middlenet_sdk::wire::vlan::VlanTags;
use middlenet_sdk::wire::{ArpOperation, NdMessage, TcpFlags, protocol};

#[test]
fn arp_for_an_own_address_is_answered_on_its_port_alone() {
    let mut kit = Kit::new(config());
    let ask = |target| PacketBuilder::new().arp_request(HOST, v4("10.1.0.5"), v4(target)).build();
    let (reply, emitted) = send(&mut kit, "left", &ask("10.1.0.1"));
    assert!(emitted.is_empty());
    assert_eq!(reply.verdict, Verdict::Reply);
    let arp = Layers::parse(&reply.bytes)
        .unwrap()
        .arp(&reply.bytes)
        .map(|a| (a.operation(), a.sender_mac(), a.sender_ip(), a.target_mac(), a.target_ip()));
    assert_eq!(arp.unwrap(), (ArpOperation::Reply, LEFT, v4("10.1.0.1"), HOST, v4("10.1.0.5")));
    assert_eq!((&reply.bytes[..6], &reply.bytes[6..12]), (&HOST.octets()[..], &LEFT.octets()[..]));
    for other in ["10.1.0.2", "10.2.0.1"] {
        let (outcome, emitted) = send(&mut kit, "left", &ask(other));
        assert_eq!((dropped(&kit, &outcome).as_str(), emitted.len()), ("consumed", 0), "{other}");
    }
    assert_eq!(kit.counter("arp-replies"), 1);
}

#[test]
fn echo_is_answered_in_both_versions() {
    let mut kit = Kit::new(config());
    let requests = [
        to_left().ipv4(v4("10.1.0.5"), v4("10.1.0.1")).echo_request(7, 9).payload(b"ping").ttl(1).build(),
        to_left().ipv4(v4("10.1.0.5"), v4("10.2.0.1")).echo_request(7, 9).payload(b"ping").build(),
        to_left().ipv6(v6("2001:db8:1::5"), v6("2001:db8:1::1")).echo_request(7, 9).payload(b"ping").build(),
        to_left().ipv6(v6("fe80::5"), v6("fe80::ff:fe00:1")).echo_request(7, 9).payload(b"ping").build(),
    ];
    for request in &requests {
        let (reply, emitted) = send(&mut kit, "left", request);
        assert!(emitted.is_empty());
        assert_eq!(reply.verdict, Verdict::Reply);
        let (layers, asked) = (Layers::parse(&reply.bytes).unwrap(), Layers::parse(request).unwrap());
        layers.verify_checksums(&reply.bytes).unwrap();
        let [l4, old] = [layers.l4_bytes(&reply.bytes).unwrap(), asked.l4_bytes(request).unwrap()];
        assert_eq!((l4[0], &l4[4..]), (if layers.is_ipv4() { 0 } else { 129 }, &old[4..]));
        let there = middlenet_sdk::wire::FlowKey::parse(request).unwrap();
        assert_eq!(middlenet_sdk::wire::FlowKey::parse(&reply.bytes).unwrap(), there.reverse());
        assert_eq!((&reply.bytes[..6], &reply.bytes[6..12]), (&HOST.octets()[..], &LEFT.octets()[..]));
    }
    assert_eq!([kit.counter("echo-replies"), kit.counter("local")], [4, 4]);
    let mut broken = requests[0].clone();
    *broken.last_mut().unwrap() ^= 1;
    let (outcome, _) = send(&mut kit, "left", &broken);
    assert_eq!(dropped(&kit, &outcome), "bad-checksum");
}

#[test]
fn tcp_and_udp_learn_that_nobody_listens() {
    let mut kit = Kit::new(config());
    assert_eq!(refused(&mut kit, &udp4("10.1.0.5", "10.1.0.1").build(), "consumed"), (3, 3, 0));
    assert_eq!(refused(&mut kit, &udp6("2001:db8:1::5", "2001:db8:2::1").build(), "consumed"), (1, 4, 0));
    let tcp = to_left().ipv4(v4("10.1.0.5"), v4("10.1.0.1")).tcp(1, 22, TcpFlags::SYN).build();
    assert_eq!(refused(&mut kit, &tcp, "consumed"), (3, 3, 0));
    let gre = to_left().ipv4(v4("10.1.0.5"), v4("10.1.0.1")).protocol(protocol::GRE).build();
    let (outcome, emitted) = send(&mut kit, "left", &gre);
    assert_eq!((dropped(&kit, &outcome).as_str(), emitted.len()), ("consumed", 0));
}

fn solicit(src: &str, target: &str, to: Option<MacAddr>) -> Vec<u8> {
    let mut room = [0; 128];
    let message = NeighborSolicit { src_mac: HOST, src: v6(src), target: v6(target), to, tags: VlanTags::EMPTY };
    let length = message.emit(&mut room).unwrap();
    room[..length].to_vec()
}

#[track_caller]
fn assert_advert(outcome: &Outcome, about: &str, to: (MacAddr, Ipv6Addr), solicited: bool) {
    let bytes = &outcome.bytes;
    let layers = Layers::parse(bytes).unwrap();
    let ip = layers.ipv6(bytes).unwrap();
    assert_eq!((ip.dst(), &bytes[..6]), (to.1, &to.0.octets()[..]));
    match NdMessage::of(&layers, bytes).unwrap() {
        NdMessage::NeighborAdvert { target, is_router, is_solicited, overrides, options } => {
            assert_eq!((target, is_router, is_solicited, overrides), (v6(about), true, solicited, true));
            assert_eq!(options.target_mac(), Some(LEFT));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn solicitations_for_own_addresses_are_answered() {
    let mut kit = Kit::new(config());
    for (target, to) in [("2001:db8:1::1", None), ("2001:db8:1::1", Some(LEFT)), ("fe80::ff:fe00:1", None)] {
        let (outcome, emitted) = send(&mut kit, "left", &solicit("2001:db8:1::5", target, to));
        assert_eq!((dropped(&kit, &outcome).as_str(), emitted.len()), ("consumed", 1), "{target}");
        assert_advert(&emitted[0], target, (HOST, v6("2001:db8:1::5")), true);
    }
    // A probe for an address of ours, from a station that has no address yet.
    let (_, emitted) = send(&mut kit, "left", &solicit("::", "2001:db8:1::1", None));
    assert_advert(&emitted[0], "2001:db8:1::1", (MacAddr([0x33, 0x33, 0, 0, 0, 1]), v6("ff02::1")), false);
    assert_eq!([kit.counter("nd-replies"), kit.counter("address-conflicts")], [4, 1]);
    let (outcome, emitted) = send(&mut kit, "left", &solicit("2001:db8:1::5", "2001:db8:1::2", None));
    assert_eq!((dropped(&kit, &outcome).as_str(), emitted.len()), ("group", 0), "another group");
}

#[test]
fn discovery_from_afar_is_refused() {
    let mut kit = Kit::new(config());
    let mut forwarded = solicit("2001:db8:1::5", "2001:db8:1::1", None);
    forwarded[21] = 254;
    let (outcome, emitted) = send(&mut kit, "left", &forwarded);
    assert_eq!((dropped(&kit, &outcome).as_str(), emitted.len()), ("malformed", 0));
    let mut broken = solicit("2001:db8:1::5", "2001:db8:1::1", None);
    *broken.last_mut().unwrap() ^= 1;
    let (outcome, _) = send(&mut kit, "left", &broken);
    assert_eq!(dropped(&kit, &outcome), "bad-checksum");
}

#[test]
fn a_station_that_claims_our_address_is_noticed_and_not_believed() {
    let mut kit = Kit::new(config());
    let gratuitous = PacketBuilder::new().arp_request(HOST, v4("10.1.0.1"), v4("10.1.0.1")).build();
    let (outcome, _) = send(&mut kit, "left", &gratuitous);
    assert_eq!(dropped(&kit, &outcome), "consumed");
    let advert = NeighborAdvert {
        src_mac: HOST,
        src: v6("2001:db8:1::1"),
        dst_mac: MacAddr([0x33, 0x33, 0, 0, 0, 1]),
        dst: v6("ff02::1"),
        target: v6("2001:db8:1::1"),
        is_router: false,
        is_solicited: false,
        overrides: true,
        tags: VlanTags::EMPTY,
    };
    let mut room = [0; 128];
    let length = advert.emit(&mut room).unwrap();
    send(&mut kit, "left", &room[..length]);
    assert_eq!(kit.counter("address-conflicts"), 2);
    assert_eq!(solicited_node(v6("2001:db8:1::1")), v6("ff02::1:ff00:1"));
}
