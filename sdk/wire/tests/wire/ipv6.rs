//! IPv6 and its extension headers.

use middlenet_wire::ipv6::{UpperLayer, walk_extensions};
use middlenet_wire::{Fragment, Ipv6, Ipv6Mut, Layers, PacketBuilder, WireError, protocol};

use crate::frames::*;

#[test]
fn fixed_header() {
    let frame = hex(UDP6);
    let ip = Ipv6::parse(&frame[14..]).unwrap();
    assert_eq!((ip.traffic_class(), ip.flow_label()), (0, 0x9db85));
    assert_eq!((ip.payload_len(), ip.next_header(), ip.hop_limit()), (13, protocol::UDP, 64));
    assert_eq!((ip.src().to_string(), ip.dst().to_string()), ("fd00::1".into(), "fd00::2".into()));
    for len in 0..frame.len() - 14 {
        assert_eq!(Ipv6::parse(&frame[14..14 + len]).err(), Some(WireError::Truncated), "{len}");
    }
}

#[test]
fn setters() {
    let mut frame = hex(UDP6);
    let mut ip = Ipv6Mut::parse(&mut frame[14..]).unwrap();
    ip.set_traffic_class(0xb9);
    assert_eq!((ip.view().traffic_class(), ip.view().dscp(), ip.view().ecn()), (0xb9, 46, 1));
    assert_eq!((ip.view().flow_label(), ip.view().payload().len()), (0x9db85, 13));
    assert_eq!(ip.dec_hop_limit(), Some(63));
    ip.set_hop_limit(1);
    assert_eq!((ip.dec_hop_limit(), ip.view().hop_limit()), (None, 1));
}

#[test]
fn hop_by_hop_of_a_listener_report() {
    let frame = hex(LISTENER_REPORT);
    let layers = Layers::parse(&frame).unwrap();
    assert_eq!((layers.protocol, layers.l4_offset), (protocol::ICMPV6, 14 + 40 + 8));
    assert_eq!(layers.icmpv6(&frame).unwrap().icmp_type(), 143);
}

#[test]
fn every_kind_is_stepped_over_by_its_own_length() {
    // Hop-by-hop of 16 bytes, destination options, routing, AH of 24 bytes in 4-byte units, atomic fragment, then UDP.
    let headers = [
        &[protocol::DESTINATION_OPTIONS, 1][..],
        &[0; 14],
        &[protocol::ROUTING, 0, 1, 4, 0, 0, 0, 0],
        &[protocol::AH, 0, 4, 0, 0, 0, 0, 0],
        &[protocol::FRAGMENT, 4],
        &[0; 22],
        &[protocol::UDP, 0, 0, 0, 0, 0, 0, 9],
    ]
    .concat();
    let frame = PacketBuilder::new()
        .ipv6([1; 16].into(), [2; 16].into())
        .extensions(protocol::HOP_BY_HOP, &headers)
        .udp(7, 8)
        .build();
    let layers = Layers::parse(&frame).unwrap();
    assert_eq!((layers.protocol, layers.l4_offset), (protocol::UDP, 14 + 40 + 16 + 8 + 8 + 24 + 8));
    assert_eq!(layers.fragment, None, "an atomic fragment is a whole packet");
    assert_eq!(layers.udp(&frame).unwrap().src_port(), 7);
    layers.verify_checksums(&frame).unwrap();
    for len in 54..54 + headers.len() {
        let payload = &frame[54..len];
        assert_eq!(walk_extensions(protocol::HOP_BY_HOP, payload), Err(WireError::Truncated), "{len}");
    }
}

#[test]
fn the_count_is_bounded() {
    let chain = |count: usize| {
        let mut headers = [protocol::DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0].repeat(count);
        headers[(count - 1) * 8] = protocol::TCP;
        headers
    };
    let found = walk_extensions(protocol::DESTINATION_OPTIONS, &chain(8)).unwrap();
    assert_eq!(found, UpperLayer { protocol: protocol::TCP, offset: 64, fragment: None });
    let too_many = walk_extensions(protocol::DESTINATION_OPTIONS, &chain(9));
    assert_eq!(too_many, Err(WireError::TooManyExtensions));
}

#[test]
fn hop_by_hop_must_be_first() {
    let headers = [protocol::HOP_BY_HOP, 0, 0, 0, 0, 0, 0, 0, protocol::UDP, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(walk_extensions(protocol::DESTINATION_OPTIONS, &headers), Err(WireError::BadExtension));
}

#[test]
fn esp_and_no_next_header_end_the_walk() {
    for last in [protocol::ESP, protocol::NO_NEXT_HEADER] {
        let headers = [last, 0, 1, 4, 0, 0, 0, 0, 0xff, 0xff];
        let found = walk_extensions(protocol::DESTINATION_OPTIONS, &headers).unwrap();
        assert_eq!((found.protocol, found.offset), (last, 8));
    }
}

#[test]
fn a_later_fragment_ends_the_walk_even_if_it_names_an_extension() {
    let fragment = Fragment { id: 5, offset_bytes: 8, more: true };
    let frame = PacketBuilder::new()
        .ipv6([1; 16].into(), [2; 16].into())
        .protocol(protocol::DESTINATION_OPTIONS)
        .fragment(fragment)
        .payload(&[0xff; 8])
        .build();
    let layers = Layers::parse(&frame).unwrap();
    assert_eq!((layers.protocol, layers.fragment), (protocol::DESTINATION_OPTIONS, Some(fragment)));
    assert_eq!(layers.l4_offset, 14 + 40 + 8);
}

/// Nested, they would let a later fragment pass for a first one, whose bytes a filter takes for ports.
#[test]
fn a_second_fragment_header_is_refused() {
    for inner_offset in [0, 9] {
        let headers =
            [protocol::FRAGMENT, 0, 0, 1, 0, 0, 0, 1, protocol::UDP, 0, 0, inner_offset, 0, 0, 0, 2, 0, 0, 0, 0];
        assert_eq!(walk_extensions(protocol::FRAGMENT, &headers), Err(WireError::BadExtension));
    }
}
