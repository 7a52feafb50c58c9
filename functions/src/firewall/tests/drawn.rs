//! What must hold for any rules and any packets.

use super::super::rule::{self, Rule};
use super::*;
use proptest::prelude::*;

/// The model: rules one by one.
fn linear(rules: &[Rule], subject: &Subject) -> Option<usize> {
    rules.iter().position(|rule| rule.matches(subject))
}

fn any_address() -> impl Strategy<Value = u128> {
    prop_oneof![
        (0u32..64).prop_map(|n| prefix::number(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n)))),
        (0u128..64).prop_map(|n| (0x2001_0db8u128 << 96) + n),
        Just(0),
        Just(u128::MAX),
    ]
}

fn any_range() -> impl Strategy<Value = prefix::AddressRange> {
    (any_address(), any_address()).prop_map(|(a, b)| prefix::AddressRange { first: a.min(b), last: a.max(b) })
}

fn any_port() -> impl Strategy<Value = u16> {
    prop_oneof![0u16..20, Just(65535)]
}

fn any_ports() -> impl Strategy<Value = Vec<(u16, u16)>> {
    proptest::collection::vec((any_port(), any_port()).prop_map(|(a, b)| (a.min(b), a.max(b))), 0..3)
}

prop_compose! {
    fn any_rule()(
        protocols in proptest::collection::vec(prop_oneof![Just(6u8), Just(17), Just(1)], 0..3),
        src in proptest::collection::vec(any_range(), 0..3),
        dst in proptest::collection::vec(any_range(), 0..2),
        src_ports in any_ports(),
        dst_ports in any_ports(),
        ingress in proptest::collection::vec(0u8..3, 0..2),
        icmp_types in proptest::collection::vec(0u8..4, 0..2),
        flags in proptest::option::of((0u8..8, 0u8..8)),
    ) -> Rule {
        let tcp_flags = flags.map(|(mask, value)| rule::TcpFlagTest { mask, value: value & mask });
        Rule { action: Action::Allow, protocols, src, dst, src_ports, dst_ports, ingress, icmp_types, tcp_flags }
    }
}

prop_compose! {
    fn any_subject()(
        src in any_address(),
        dst in any_address(),
        kind in 0u8..4,
        ports in (any_port(), any_port()),
        icmp_type in 0u8..4,
        flags in 0u8..8,
        ingress in 0u8..4,
    ) -> Subject {
        let protocol = [6, 17, 1, 47][usize::from(kind)];
        Subject {
            src, dst, protocol, ingress,
            ports: (kind < 2).then_some(ports),
            icmp_type: (kind == 2).then_some(icmp_type),
            tcp_flags: (kind == 0).then_some(flags),
        }
    }
}

proptest! {
    /// The bit vectors find what comparing one by one finds.
    #[test]
    fn bit_vectors_agree_with_the_linear_model(
        rules in proptest::collection::vec(any_rule(), 9..200),
        subjects in proptest::collection::vec(any_subject(), 50),
    ) {
        let classifier = Classifier::new(rules.clone());
        prop_assert!(matches!(classifier, Classifier::BitVectors(_)));
        for subject in &subjects {
            prop_assert_eq!(classifier.first_match(subject), linear(&rules, subject));
        }
    }

    /// No bytes make the firewall panic, and every packet has a fate.
    #[test]
    fn random_bytes_are_harmless(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 1..80),
        ethertype in prop_oneof![Just([8u8, 0]), Just([0x86, 0xdd]), Just([0x81, 0]), Just([8, 6])],
        reject in any::<bool>(),
    ) {
        let mut kit = kit(json!({"connections": 8, "rules": [{"proto": "any", "allow": !reject, "reject": reject}]}));
        let packets: Vec<_> = packets.into_iter().map(|mut packet| {
            if let Some(place) = packet.get_mut(12..14) { place.copy_from_slice(&ethertype); }
            // Half of them with a right first byte, so that they get further.
            if packet.len() > 14 && packet[0] & 1 == 0 { packet[14] = if ethertype[0] == 8 { 0x45 } else { 0x60 }; }
            packet
        }).collect();
        prop_assert_eq!(kit.run("left", &packets).len(), packets.len());
        prop_assert_eq!(kit.run("right", &packets).len(), packets.len());
        kit.tick();
        prop_assert_eq!(kit.held(), 0);
    }

    /// Damaged copies of real packets are harmless too.
    #[test]
    fn damaged_packets_are_harmless(which in 0usize..5, at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut kit = kit(json!({"default": "reject", "rules": [{"proto": "udp", "allow": true}]}));
        let quoted: Vec<u8> = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &udp(true)[14..]].concat();
        let mut packet = match which {
            0 => tcp(true, TcpFlags::SYN, 1, 0),
            1 => udp(true),
            2 => PacketBuilder::new().ipv4(B, A).protocol(1).payload(&quoted).build(),
            3 => PacketBuilder::new().ipv6(A6, B6).extensions(0, &[6, 0, 1, 4, 0, 0, 0, 0]).tcp(1, 2, TcpFlags::SYN).build(),
            _ => PacketBuilder::new().ipv4(A, B).udp(1, 2).fragment(Fragment { id: 1, offset_bytes: 0, more: true }).build(),
        };
        let at = at.index(packet.len());
        packet[at] = byte;
        packet.truncate(cut.index(packet.len() + 1));
        kit.run("left", &[udp(true), packet]);
    }
}
