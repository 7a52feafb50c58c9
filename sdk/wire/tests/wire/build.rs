//! What is built is what Linux builds, and what the views read.

use middlenet_wire::build::icmp_error::{self, MAX_FRAME_LEN};
use middlenet_wire::icmpv4::unreachable_code;
use middlenet_wire::{
    Fragment, IcmpError, IcmpErrorRefused, Layers, MacAddr, PacketBuilder, TcpFlags, VlanTag, WireError, protocol,
};
use proptest::prelude::*;

use crate::frames::*;

const A: MacAddr = MacAddr::new(2, 0, 0, 0, 0, 0x0a);
const B: MacAddr = MacAddr::new(2, 0, 0, 0, 0, 0x0b);
const IP_A: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 1, 0, 1);
const IP_B: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 1, 0, 2);

#[test]
fn the_same_bytes_as_linux() {
    assert_eq!(PacketBuilder::new().arp_request(A, IP_A, IP_B).build(), hex(ARP_REQUEST));
    assert_eq!(PacketBuilder::new().arp_reply((B, IP_B), (A, IP_A)).build(), hex(ARP_REPLY));
    let a_to_b = PacketBuilder::new().mac(A, B).ipv4(IP_A, IP_B).dont_fragment();
    let b_to_a = PacketBuilder::new().mac(B, A).ipv4(IP_B, IP_A);
    assert_eq!(a_to_b.ip_id(0x74e1).udp(50245, 9).payload(b"hello").build(), hex(UDP4));
    assert_eq!(a_to_b.ip_id(0xc06e).echo_request(0x1234, 1).payload(b"ping").build(), hex(ECHO4));
    assert_eq!(b_to_a.ip_id(0x5137).echo_reply(0x1234, 1).payload(b"ping").build(), hex(ECHO_REPLY4));
    let reset = b_to_a.dont_fragment().tcp(80, 37770, TcpFlags::RST | TcpFlags::ACK);
    assert_eq!(reset.tcp_numbers(0, 0xc88e_a948).tcp_window(0).build(), hex(RST4));
    let syn = a_to_b.ip_id(0x3cf4).tcp(37770, 80, TcpFlags::SYN).tcp_numbers(0xc88e_a947, 0).tcp_window(64240);
    assert_eq!(syn.tcp_options(&hex("020405b40402080acff63e21000000000103030a")).build(), hex(SYN4));
}

/// Linux fills in the IPv6 flow label, the builder does not; nothing covers it.
fn without_flow_label(mut frame: Vec<u8>) -> Vec<u8> {
    frame[15] &= 0xf0;
    frame[16..18].fill(0);
    frame
}

#[test]
fn the_same_bytes_as_linux_over_ipv6() {
    let (a, b) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
    let a_to_b = PacketBuilder::new().mac(A, B).ipv6(a, b);
    assert_eq!(a_to_b.udp(46309, 9).payload(b"hello").build(), without_flow_label(hex(UDP6)));
    assert_eq!(a_to_b.echo_request(0x1234, 1).payload(b"ping").build(), without_flow_label(hex(ECHO6)));
    let reply = PacketBuilder::new().mac(B, A).ipv6(b, a).echo_reply(0x1234, 1).payload(b"ping");
    assert_eq!(reply.build(), without_flow_label(hex(ECHO_REPLY6)));
    // The whole datagram's checksum stands in the first fragment, so the fragments are built from its bytes.
    let datagram = a_to_b.udp(0xc866, 9).payload(&[b'x'; 2000]).build();
    let first = a_to_b
        .protocol(protocol::UDP)
        .fragment(Fragment { id: 0xd97e_bb56, offset_bytes: 0, more: true })
        .payload(&datagram[54..54 + 1448]);
    assert_eq!(first.build(), without_flow_label(filled(FRAGMENT6_FIRST_HEAD, 1510)));
    let last = a_to_b
        .protocol(protocol::UDP)
        .fragment(Fragment { id: 0xd97e_bb56, offset_bytes: 1448, more: false })
        .payload(&datagram[54 + 1448..]);
    assert_eq!(last.build(), without_flow_label(filled(FRAGMENT6_LAST_HEAD, 622)));
}

fn error_about(error: IcmpError, frame: &[u8], src_ip: &str) -> Result<Vec<u8>, IcmpErrorRefused> {
    let mut out = vec![0xee; MAX_FRAME_LEN];
    let len = icmp_error::emit(error, frame, &Layers::parse(frame)?, B, src_ip.parse().unwrap(), &mut out)?;
    out.truncate(len);
    Ok(out)
}

#[test]
fn errors_are_the_bytes_linux_sends() {
    let mut ours = error_about(IcmpError::PortUnreachable, &hex(UDP4), "10.1.0.2").unwrap();
    // Linux numbers its packets, we do not need to.
    let layers = Layers::parse(&ours).unwrap();
    layers.ipv4_mut(&mut ours).unwrap().set_id(0x5122);
    assert_eq!(ours, hex(UNREACHABLE4));
    let ours = error_about(IcmpError::PortUnreachable, &hex(UDP6), "fd00::2").unwrap();
    assert_eq!(ours, without_flow_label(hex(UNREACHABLE6)));
}

#[test]
fn errors_tell_type_code_and_mtu() {
    for (error, v4, v6) in [
        (IcmpError::TimeExceeded, (11, 0), (3, 0)),
        (IcmpError::NoRoute, (3, 0), (1, 0)),
        (IcmpError::HostUnreachable, (3, 1), (1, 3)),
        (IcmpError::PortUnreachable, (3, 3), (1, 4)),
        (IcmpError::AdminProhibited, (3, 13), (1, 1)),
        (IcmpError::TooBig { mtu_bytes: 1400 }, (3, unreachable_code::FRAG_NEEDED), (2, 0)),
    ] {
        let frame = error_about(error, &hex(UDP4), "10.1.0.254").unwrap();
        let layers = Layers::parse(&frame).unwrap();
        layers.verify_checksums(&frame).unwrap();
        let icmp = layers.icmpv4(&frame).unwrap();
        assert_eq!((icmp.icmp_type(), icmp.code()), v4);
        assert_eq!(icmp.next_hop_mtu_bytes().is_some(), matches!(error, IcmpError::TooBig { .. }));
        assert!(icmp.next_hop_mtu_bytes().is_none_or(|mtu| mtu == 1400));

        let frame = error_about(error, &hex(UDP6), "fd00::254").unwrap();
        let layers = Layers::parse(&frame).unwrap();
        layers.verify_checksums(&frame).unwrap();
        let icmp = layers.icmpv6(&frame).unwrap();
        assert_eq!((icmp.icmp_type(), icmp.code()), v6);
        assert!(icmp.next_hop_mtu_bytes().is_none_or(|mtu| mtu == 1400));
    }
}

#[test]
fn errors_quote_as_much_as_the_limits_allow() {
    let frame = error_about(IcmpError::TimeExceeded, &filled(FRAGMENT4_FIRST_HEAD, 1514), "10.1.0.2").unwrap();
    assert_eq!(frame.len(), 14 + 576);
    Layers::parse(&frame).unwrap().verify_checksums(&frame).unwrap();
    let frame = error_about(IcmpError::TimeExceeded, &filled(FRAGMENT6_FIRST_HEAD, 1510), "fd00::2").unwrap();
    assert_eq!(frame.len(), 14 + 1280);
    Layers::parse(&frame).unwrap().verify_checksums(&frame).unwrap();
    // Ethernet padding is no part of the packet.
    let mut padded = hex(UDP4);
    padded.resize(60, 0xee);
    let frame = error_about(IcmpError::TimeExceeded, &padded, "10.1.0.2").unwrap();
    assert_eq!(frame.len(), 14 + 20 + 8 + 33);
}

#[test]
fn errors_go_back_through_the_tags_they_came_with() {
    let tags = [VlanTag::service(2), VlanTag::customer(3)];
    let frame = PacketBuilder::new().vlan(tags[0]).vlan(tags[1]).ipv4(IP_A, IP_B).udp(1, 2).build();
    let answer = error_about(IcmpError::NoRoute, &frame, "10.1.0.2").unwrap();
    let layers = Layers::parse(&answer).unwrap();
    assert_eq!(layers.vlan.as_slice(), tags);
    assert_eq!(answer[..6], frame[6..12], "to where it came from");
    assert_eq!(answer[6..12], B.octets());
}

#[test]
fn silence_over_ipv4() {
    let udp = |src: [u8; 4], dst: [u8; 4]| PacketBuilder::new().ipv4(src.into(), dst.into()).udp(1, 2);
    let refused = |frame: &[u8]| error_about(IcmpError::TimeExceeded, frame, "10.0.0.254").err();
    let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    assert_eq!(refused(&udp(a, b).build()), None);
    assert_eq!(refused(&hex(ECHO4)), None, "an echo request is no error");
    assert_eq!(refused(&hex(UNREACHABLE4)), Some(IcmpErrorRefused::AboutIcmpError));
    assert_eq!(refused(&filled(FRAGMENT4_LAST_HEAD, 562)), Some(IcmpErrorRefused::LaterFragment));
    for dst in [[224, 0, 0, 1], [239, 1, 2, 3], [255; 4]] {
        assert_eq!(refused(&udp(a, dst).build()), Some(IcmpErrorRefused::GroupDestination));
    }
    for mac in [MacAddr::BROADCAST, MacAddr::new(1, 0, 0x5e, 0, 0, 1)] {
        assert_eq!(refused(&udp(a, b).mac(A, mac).build()), Some(IcmpErrorRefused::GroupDestination));
    }
    for src in [[0; 4], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
        assert_eq!(refused(&udp(src, b).build()), Some(IcmpErrorRefused::BadSource));
    }
    // ICMP whose type is cut off might be an error.
    let headless = PacketBuilder::new().ipv4(IP_A, IP_B).protocol(protocol::ICMPV4).build();
    assert_eq!(refused(&headless), Some(IcmpErrorRefused::Wire(WireError::Truncated)));
    assert_eq!(refused(&hex(ARP_REPLY)), Some(IcmpErrorRefused::Wire(WireError::WrongProtocol)));
}

#[test]
fn silence_over_ipv6() {
    let udp = |src: &str, dst: &str| PacketBuilder::new().ipv6(src.parse().unwrap(), dst.parse().unwrap()).udp(1, 2);
    let refused = |error, frame: &[u8]| error_about(error, frame, "fd00::254").err();
    let too_big = IcmpError::TooBig { mtu_bytes: 1280 };
    assert_eq!(refused(IcmpError::TimeExceeded, &udp("fd00::1", "fd00::2").build()), None);
    assert_eq!(refused(IcmpError::TimeExceeded, &hex(UNREACHABLE6)), Some(IcmpErrorRefused::AboutIcmpError));
    let redirect = PacketBuilder::new().ipv6([1; 16].into(), [2; 16].into()).icmp(137, 0, 0).build();
    assert_eq!(refused(IcmpError::TimeExceeded, &redirect), Some(IcmpErrorRefused::AboutIcmpError));
    let multicast = udp("fd00::1", "ff02::1").build();
    assert_eq!(refused(IcmpError::NoRoute, &multicast), Some(IcmpErrorRefused::GroupDestination));
    assert_eq!(refused(too_big, &multicast), None, "path MTU discovery works for multicast");
    for src in ["::", "ff02::1", "::1"] {
        assert_eq!(refused(too_big, &udp(src, "fd00::2").build()), Some(IcmpErrorRefused::BadSource));
    }
    assert_eq!(refused(too_big, &filled(FRAGMENT6_LAST_HEAD, 622)), None, "RFC 4443 does not except fragments");
}

#[test]
fn an_answer_that_does_not_fit_is_refused() {
    let frame = hex(UDP4);
    let layers = Layers::parse(&frame).unwrap();
    let mut out = [0; 74];
    let emitted = icmp_error::emit(IcmpError::NoRoute, &frame, &layers, B, IP_B.into(), &mut out);
    assert_eq!(emitted, Err(WireError::NoSpace.into()));
    // From an address of the other version.
    let emitted = icmp_error::emit(IcmpError::NoRoute, &frame, &layers, B, [1; 16].into(), &mut out);
    assert_eq!(emitted, Err(WireError::WrongProtocol.into()));
}

#[test]
fn emit_checks_room_and_lengths() {
    let packet = PacketBuilder::new().ipv4(IP_A, IP_B).udp(1, 2).payload(b"abc");
    let mut buffer = [0xee; 64];
    for len in 0..packet.len() {
        assert_eq!(packet.emit(&mut buffer[..len]), Err(WireError::NoSpace));
    }
    assert_eq!(packet.emit(&mut buffer), Ok(45));
    assert_eq!(buffer[..45], packet.build());
    assert_eq!(buffer[45..], [0xee; 19], "nothing beyond is touched");
    let huge = vec![0; 65536];
    let mut room = vec![0; 70000];
    assert_eq!(packet.payload(&huge).emit(&mut room), Err(WireError::BadLength));
    assert_eq!(packet.ip_options(&[0; 41]).emit(&mut room), Err(WireError::BadLength));
    assert_eq!(packet.tcp(1, 2, TcpFlags::ACK).tcp_options(&[0; 41]).emit(&mut room), Err(WireError::BadLength));
    let tag = VlanTag::customer(1);
    assert_eq!(packet.vlan(tag).vlan(tag).vlan(tag).emit(&mut room), Err(WireError::TooManyTags));
}

proptest! {
    #[test]
    fn what_is_built_is_read(
        src: [u8; 16], dst: [u8; 16], ports: (u16, u16), numbers: (u32, u32), flags: u8, ttl: u8, tos: u8, ip_id: u16,
        vids in prop::collection::vec(0u16..4096, 0..3), options in prop::collection::vec(any::<u8>(), 0..40),
        payload in prop::collection::vec(any::<u8>(), 0..300), is_v6: bool, is_tcp: bool, pad: bool,
    ) {
        let mut builder = PacketBuilder::new().ttl(ttl).tos(tos).ip_id(ip_id).payload(&payload);
        for vid in &vids {
            builder = builder.vlan(VlanTag::customer(*vid));
        }
        let v4 = |address: [u8; 16]| std::net::Ipv4Addr::new(address[0], address[1], address[2], address[3]);
        builder = if is_v6 { builder.ipv6(src.into(), dst.into()) } else { builder.ipv4(v4(src), v4(dst)) };
        builder = if is_tcp {
            builder.tcp(ports.0, ports.1, TcpFlags(flags)).tcp_numbers(numbers.0, numbers.1).tcp_options(&options)
        } else {
            builder.udp(ports.0, ports.1)
        };
        if pad {
            builder = builder.padded();
        }
        let frame = builder.build();
        let layers = Layers::parse(&frame).unwrap();
        layers.verify_checksums(&frame).unwrap();
        prop_assert_eq!(layers.vlan.as_slice().iter().map(|tag| tag.vid()).collect::<Vec<_>>(), vids);
        if is_v6 {
            let ip = layers.ipv6(&frame).unwrap();
            prop_assert_eq!((ip.src().octets(), ip.dst().octets()), (src, dst));
            prop_assert_eq!((ip.hop_limit(), ip.traffic_class()), (ttl, tos));
        } else {
            let ip = layers.ipv4(&frame).unwrap();
            prop_assert_eq!((ip.src(), ip.dst(), ip.ttl(), ip.tos(), ip.id()), (v4(src), v4(dst), ttl, tos, ip_id));
        }
        if is_tcp {
            let tcp = layers.tcp(&frame).unwrap();
            prop_assert_eq!((tcp.src_port(), tcp.dst_port(), tcp.seq(), tcp.ack()), (ports.0, ports.1, numbers.0, numbers.1));
            prop_assert_eq!((tcp.flags().0, tcp.payload()), (flags, &payload[..]));
            prop_assert_eq!(&tcp.options().as_bytes()[..options.len()], &options[..]);
        } else {
            let udp = layers.udp(&frame).unwrap();
            prop_assert_eq!((udp.src_port(), udp.dst_port(), udp.payload()), (ports.0, ports.1, &payload[..]));
        }
    }
}
