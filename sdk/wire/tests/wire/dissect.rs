//! One walk over a frame.

use middlenet_wire::{Fragment, L3, Layers, PacketBuilder, VlanTag, WireError, ethertype, protocol};

use crate::frames::*;

#[test]
fn what_linux_sends_is_found_and_its_checksums_hold() {
    for frame in all() {
        let layers = Layers::parse(&frame).unwrap();
        layers.verify_checksums(&frame).unwrap();
        assert_eq!(layers.end, frame.len());
        assert_eq!(layers.l3_offset, 14);
    }
}

#[test]
fn a_flipped_bit_is_seen_in_every_covered_byte() {
    for text in [UDP4, UNREACHABLE4, UDP6, UNREACHABLE6, SYN4, RST4, SYN6, ECHO4, ECHO6, NEIGHBOR_SOLICIT] {
        let frame = hex(text);
        for at in 14..frame.len() {
            let mut bad = frame.clone();
            bad[at] ^= 0x04;
            let verdict = Layers::parse(&bad).and_then(|layers| layers.verify_checksums(&bad));
            // What IPv6 does not cover: traffic class, flow label and hop limit.
            let is_covered = frame[12] == 0x08 || !(matches!(at, 14..=17) || at == 21);
            // A changed protocol makes the payload unknown; its checksum is no longer looked for.
            let is_protocol = frame[12] == 0x86 && at == 20;
            assert!(verdict.is_err() || !is_covered || is_protocol, "byte {at} of {text}");
        }
    }
}

#[test]
fn fields() {
    let frame = hex(SYN6);
    let layers = Layers::parse(&frame).unwrap();
    assert_eq!((layers.l3, layers.ethertype, layers.protocol), (L3::Ipv6, ethertype::IPV6, protocol::TCP));
    assert_eq!((layers.l3_offset, layers.l4_offset, layers.end), (14, 54, 94));
    assert!(layers.is_ipv6() && layers.is_ip() && layers.has_l4() && !layers.is_fragment());
    let arp = hex(ARP_REPLY);
    let layers = Layers::parse(&arp).unwrap();
    assert_eq!(layers.l3, L3::Arp);
    assert!(!layers.is_ip() && !layers.has_l4());
    assert_eq!(layers.arp(&arp).unwrap().target_ip().to_string(), "10.1.0.1");
}

#[test]
fn tags_move_the_offsets() {
    let frame = PacketBuilder::new()
        .vlan(VlanTag::service(2))
        .vlan(VlanTag::customer(3))
        .ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into())
        .udp(1, 2)
        .padded()
        .build();
    assert_eq!(frame.len(), 60);
    let layers = Layers::parse(&frame).unwrap();
    assert_eq!((layers.l3_offset, layers.l4_offset, layers.end), (22, 42, 50));
    assert_eq!(layers.vid(), Some(2));
    assert_eq!(layers.udp(&frame).unwrap().dst_port(), 2);
    let priority = PacketBuilder::new().vlan(VlanTag::customer(0).with_pcp(6)).build();
    assert_eq!(Layers::parse(&priority).unwrap().vid(), None);
}

#[test]
fn a_view_of_another_protocol_is_refused() {
    let frame = hex(UDP4);
    let layers = Layers::parse(&frame).unwrap();
    assert_eq!(layers.tcp(&frame).err(), Some(WireError::WrongProtocol));
    assert_eq!(layers.ipv6(&frame).err(), Some(WireError::WrongProtocol));
    assert_eq!(layers.icmpv4(&frame).err(), Some(WireError::WrongProtocol));
    assert_eq!(layers.arp(&frame).err(), Some(WireError::WrongProtocol));
    // ICMPv6 over IPv4 is no ICMPv6.
    let odd = PacketBuilder::new()
        .ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into())
        .protocol(protocol::ICMPV6)
        .payload(&[128; 16])
        .build();
    assert_eq!(Layers::parse(&odd).unwrap().icmpv6(&odd).err(), Some(WireError::WrongProtocol));
}

#[test]
fn fragments_have_an_upper_layer_only_at_their_start() {
    for (head, len, id) in [(FRAGMENT4_FIRST_HEAD, 1514, 0x750e), (FRAGMENT6_FIRST_HEAD, 1510, 0xd97e_bb56)] {
        let frame = filled(head, len);
        let layers = Layers::parse(&frame).unwrap();
        assert_eq!(layers.fragment, Some(Fragment { id, offset_bytes: 0, more: true }));
        assert_eq!(layers.protocol, protocol::UDP);
        // The datagram's length, 2008, is beyond this fragment.
        assert_eq!(layers.udp(&frame).unwrap().length(), 2008);
    }
    for (head, len, offset_bytes) in [(FRAGMENT4_LAST_HEAD, 562, 1480), (FRAGMENT6_LAST_HEAD, 622, 1448)] {
        let frame = filled(head, len);
        let layers = Layers::parse(&frame).unwrap();
        assert_eq!(layers.fragment.map(|f| (f.offset_bytes, f.more)), Some((offset_bytes, false)));
        assert_eq!(layers.protocol, protocol::UDP);
        assert!(!layers.has_l4());
        assert_eq!(layers.udp(&frame).err(), Some(WireError::WrongProtocol));
    }
}

#[test]
fn packets_without_ethernet() {
    for frame in all().iter().filter(|frame| frame[12..14] != [0x08, 0x06]) {
        let with = Layers::parse(frame).unwrap();
        let without = Layers::parse_ip(&frame[14..]).unwrap();
        assert_eq!((without.l3, without.protocol), (with.l3, with.protocol));
        assert_eq!((without.l4_offset + 14, without.end + 14), (with.l4_offset, with.end));
        without.verify_checksums(&frame[14..]).unwrap();
    }
    assert_eq!(Layers::parse_ip(&[]), Err(WireError::Truncated));
    assert_eq!(Layers::parse_ip(&[0x50; 40]), Err(WireError::BadVersion));
}

#[test]
fn an_ethertype_that_lies_about_the_version_is_refused() {
    let mut frame = hex(UDP4);
    frame[12..14].copy_from_slice(&ethertype::IPV6.to_be_bytes());
    frame.resize(80, 0);
    assert_eq!(Layers::parse(&frame), Err(WireError::BadVersion));
}

#[test]
fn reasons_are_distinct_and_indexed() {
    let reasons: std::collections::BTreeSet<_> = WireError::ALL.iter().map(|error| error.reason()).collect();
    assert_eq!(reasons.len(), WireError::ALL.len());
    for (index, error) in WireError::ALL.iter().enumerate() {
        assert_eq!(error.index(), index);
    }
}
