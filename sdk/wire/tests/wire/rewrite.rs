//! Address translation: whatever is rewritten, a full recomputation finds every checksum right.

use std::net::IpAddr;

use middlenet_wire::build::icmp_error;
use middlenet_wire::rewrite::{self, Side};
use middlenet_wire::{FlowKey, IcmpError, Layers, MacAddr, PacketBuilder, TcpFlags, WireError, protocol};
use proptest::prelude::*;

use crate::frames::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn linux_frames_stay_right_and_lead_to_the_new_flow() {
    for text in [UDP4, SYN4, RST4, ECHO4, UDP6, SYN6, ECHO6] {
        for side in [Side::Source, Side::Destination] {
            let mut frame = hex(text);
            let layers = Layers::parse(&frame).unwrap();
            let address = ip(if layers.is_ipv6() { "2001:db8:ffff::7" } else { "198.51.100.7" });
            rewrite::endpoint(&mut frame, &layers, side, address, Some(4242)).unwrap();
            layers.verify_checksums(&frame).unwrap();
            let key = FlowKey::parse(&frame).unwrap();
            let (found, port) = match side {
                Side::Source => (key.src_ip(), key.src_port),
                Side::Destination => (key.dst_ip(), key.dst_port),
            };
            assert_eq!((found, port), (address, 4242));
        }
    }
}

#[test]
fn there_and_back_restores_every_byte() {
    for text in [UDP4, SYN4, ECHO4, UDP6, SYN6, ECHO6] {
        let original = hex(text);
        let mut frame = original.clone();
        let layers = Layers::parse(&frame).unwrap();
        let key = FlowKey::parse(&frame).unwrap();
        let address = ip(if layers.is_ipv6() { "2001:db8::1" } else { "203.0.113.9" });
        rewrite::endpoint(&mut frame, &layers, Side::Source, address, Some(1)).unwrap();
        assert_ne!(frame, original);
        rewrite::endpoint(&mut frame, &layers, Side::Source, key.src_ip(), Some(key.src_port)).unwrap();
        assert_eq!(frame, original);
    }
}

/// What the reference implementation got wrong: only the low half of the address went into the checksum.
#[test]
fn both_halves_of_an_address_count() {
    for address in ["10.9.0.1", "11.1.0.1", "10.1.9.1", "10.1.0.9"] {
        let mut frame = hex(SYN4);
        let layers = Layers::parse(&frame).unwrap();
        rewrite::endpoint(&mut frame, &layers, Side::Source, ip(address), None).unwrap();
        layers.verify_checksums(&frame).unwrap();
    }
}

#[test]
fn a_udp_checksum_of_zero_stays_zero() {
    let mut frame =
        PacketBuilder::new().ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into()).udp_without_checksum(1, 2).build();
    let layers = Layers::parse(&frame).unwrap();
    rewrite::endpoint(&mut frame, &layers, Side::Source, ip("1.2.3.4"), Some(9)).unwrap();
    assert_eq!(layers.udp(&frame).unwrap().checksum(), 0);
    assert_eq!(layers.udp(&frame).unwrap().src_port(), 9);
}

/// Found by fuzzing: RFC 1624's equation 3 gives checksum 0 for a message that becomes all zeros, whose sum gives 0xffff.
#[test]
fn an_echo_reply_may_become_all_zeros() {
    let builder = PacketBuilder::new().ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into()).payload(&[0; 32]);
    let zeros = builder.echo_reply(0, 0).build();
    assert_eq!(zeros[36..38], [0xff, 0xff]);
    let (mut by_rewrite, mut by_view, mut by_type) =
        (builder.echo_reply(1, 0).build(), builder.echo_reply(1, 0).build(), builder.echo_request(0, 0).build());
    let layers = Layers::parse(&zeros).unwrap();
    rewrite::port(&mut by_rewrite, &layers, Side::Source, 0).unwrap();
    layers.icmpv4_mut(&mut by_view).unwrap().set_id(0).unwrap();
    layers.icmpv4_mut(&mut by_type).unwrap().set_type(0);
    for frame in [by_rewrite, by_view, by_type] {
        assert_eq!(frame, zeros);
        layers.verify_checksums(&frame).unwrap();
    }
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    let mut frame = hex(SYN4);
    frame[50] ^= 0x55;
    let layers = Layers::parse(&frame).unwrap();
    rewrite::endpoint(&mut frame, &layers, Side::Source, ip("1.2.3.4"), Some(9)).unwrap();
    assert_eq!(layers.verify_checksums(&frame), Err(WireError::BadChecksum));
}

#[test]
fn fragments_reassemble_to_a_right_datagram() {
    let mut fragments = [filled(FRAGMENT4_FIRST_HEAD, 1514), filled(FRAGMENT4_LAST_HEAD, 562)];
    let mut datagram: Vec<u8> = Vec::new();
    for frame in &mut fragments {
        let layers = Layers::parse(frame).unwrap();
        rewrite::endpoint(frame, &layers, Side::Source, ip("198.51.100.7"), Some(4242)).unwrap();
        layers.ipv4(frame).unwrap().verify_checksum().unwrap();
        datagram.extend(&frame[layers.l4_offset..]);
    }
    let whole = PacketBuilder::new()
        .ipv4([198, 51, 100, 7].into(), [10, 1, 0, 2].into())
        .udp(4242, 9)
        .payload(&[b'x'; 2000])
        .build();
    assert_eq!(datagram, whole[34..]);
    let layers = Layers::parse(&fragments[1]).unwrap();
    assert_eq!(rewrite::port(&mut fragments[1], &layers, Side::Source, 1), Err(WireError::WrongProtocol));
}

#[test]
fn what_cannot_be_done_changes_nothing() {
    let v4 = |protocol, payload| {
        PacketBuilder::new()
            .ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into())
            .protocol(protocol)
            .payload(payload)
            .build()
    };
    for (frame, address, port, error) in [
        (hex(UDP4), "fd00::9", Some(1), WireError::Unsupported),
        (hex(UDP6), "10.0.0.9", Some(1), WireError::Unsupported),
        (hex(UNREACHABLE4), "10.0.0.9", Some(1), WireError::Unsupported),
        (hex(ARP_REPLY), "10.0.0.9", None, WireError::WrongProtocol),
        (v4(protocol::ESP, &[0; 16]), "10.0.0.9", Some(1), WireError::Unsupported),
        (v4(protocol::SCTP, &[0; 16]), "10.0.0.9", Some(1), WireError::Unsupported),
        (v4(protocol::UDP_LITE, &[0; 16]), "10.0.0.9", None, WireError::Unsupported),
        (v4(protocol::TCP, &[0; 17]), "10.0.0.9", Some(1), WireError::Truncated),
        (v4(protocol::UDP, &[0; 7]), "10.0.0.9", Some(1), WireError::Truncated),
        (v4(protocol::ICMPV4, &[]), "10.0.0.9", None, WireError::Truncated),
    ] {
        let layers = Layers::parse(&frame).unwrap();
        let mut changed = frame.clone();
        assert_eq!(rewrite::endpoint(&mut changed, &layers, Side::Source, ip(address), port), Err(error));
        assert_eq!(changed, frame);
    }
    // Without a port, what has no checksum over addresses can be translated.
    for protocol in [protocol::ESP, protocol::SCTP, protocol::GRE] {
        let mut frame = v4(protocol, &[0; 16]);
        let layers = Layers::parse(&frame).unwrap();
        rewrite::endpoint(&mut frame, &layers, Side::Source, ip("10.0.0.9"), None).unwrap();
        layers.verify_checksums(&frame).unwrap();
    }
}

#[test]
fn an_error_about_a_translated_flow_is_translated_back() {
    for text in [UDP4, SYN4, ECHO4, UDP6, SYN6, ECHO6] {
        let inside = hex(text);
        let layers = Layers::parse(&inside).unwrap();
        let is_v6 = layers.is_ipv6();
        let (outside_ip, router) =
            if is_v6 { (ip("2001:db8::99"), ip("2001:db8::1")) } else { (ip("198.51.100.99"), ip("198.51.100.1")) };
        let key = FlowKey::parse(&inside).unwrap();

        // Out: source translation. A router far away finds its time exceeded and quotes what it got.
        let mut outside = inside.clone();
        rewrite::endpoint(&mut outside, &layers, Side::Source, outside_ip, Some(61000)).unwrap();
        let mut error = vec![0; icmp_error::MAX_FRAME_LEN];
        let len =
            icmp_error::emit(IcmpError::TimeExceeded, &outside, &layers, MacAddr::ZERO, router, &mut error).unwrap();
        error.truncate(len);

        // Back: the quoted source and the error's destination become the inside's.
        let layers = Layers::parse(&error).unwrap();
        assert_eq!(FlowKey::of_quoted(&layers, &error).unwrap().src_port, 61000);
        rewrite::quoted_endpoint(&mut error, &layers, Side::Source, key.src_ip(), Some(key.src_port)).unwrap();
        rewrite::endpoint(&mut error, &layers, Side::Destination, key.src_ip(), None).unwrap();
        layers.verify_checksums(&error).unwrap();
        // What is quoted is byte for byte what the inside sent.
        assert_eq!(error[layers.l4_offset + 8..], inside[14..], "{text}");
    }
}

#[test]
fn a_quote_cut_short_is_translated_as_far_as_it_goes() {
    // RFC 792 quotes 8 bytes of the segment: ports and sequence number, no checksum.
    let inside = hex(SYN4);
    let frame = PacketBuilder::new()
        .ipv4([198, 51, 100, 1].into(), [10, 1, 0, 1].into())
        .icmp(11, 0, 0)
        .payload(&inside[14..14 + 28])
        .build();
    let layers = Layers::parse(&frame).unwrap();
    let mut changed = frame.clone();
    rewrite::quoted_endpoint(&mut changed, &layers, Side::Source, ip("192.0.2.1"), Some(7)).unwrap();
    layers.verify_checksums(&changed).unwrap();
    let key = FlowKey::of_quoted(&layers, &changed).unwrap();
    assert_eq!((key.src_ip(), key.src_port), (ip("192.0.2.1"), 7));
    layers.icmpv4(&changed).unwrap().quoted().unwrap().verify_checksum().unwrap();
    // Not even the ports: nothing changes.
    let frame = PacketBuilder::new()
        .ipv4([198, 51, 100, 1].into(), [10, 1, 0, 1].into())
        .icmp(11, 0, 0)
        .payload(&inside[14..14 + 21])
        .build();
    let layers = Layers::parse(&frame).unwrap();
    let mut changed = frame.clone();
    let result = rewrite::quoted_endpoint(&mut changed, &layers, Side::Source, ip("192.0.2.1"), Some(7));
    assert_eq!((result, changed), (Err(WireError::Truncated), frame));
}

proptest! {
    #[test]
    fn incremental_equals_built_anew(
        src: [u8; 16], dst: [u8; 16], new: [u8; 16], ports: [u16; 3], payload in prop::collection::vec(any::<u8>(), 0..100),
        kind in 0..3u8, is_v6: bool, source: bool,
    ) {
        let v4 = |address: [u8; 16]| <[u8; 4]>::try_from(&address[..4]).unwrap();
        let build = |src: [u8; 16], dst: [u8; 16], src_port, dst_port| {
            let builder = PacketBuilder::new().payload(&payload);
            let builder = if is_v6 { builder.ipv6(src.into(), dst.into()) } else { builder.ipv4(v4(src).into(), v4(dst).into()) };
            match kind {
                0 => builder.udp(src_port, dst_port),
                1 => builder.tcp(src_port, dst_port, TcpFlags::ACK),
                _ => builder.echo_request(if source { src_port } else { dst_port }, 1),
            }.build()
        };
        let mut frame = build(src, dst, ports[0], ports[1]);
        let layers = Layers::parse(&frame).unwrap();
        let address = if is_v6 { IpAddr::from(new) } else { IpAddr::from(v4(new)) };
        let (side, expected) = if source {
            (Side::Source, build(new, dst, ports[2], ports[1]))
        } else {
            (Side::Destination, build(src, new, ports[0], ports[2]))
        };
        rewrite::endpoint(&mut frame, &layers, side, address, Some(ports[2])).unwrap();
        prop_assert_eq!(frame, expected);
    }
}
