//! No bytes make anything panic, and nothing reads beyond what is there.

use std::net::IpAddr;

use middlenet_wire::build::icmp_error;
use middlenet_wire::rewrite::{self, Side};
use middlenet_wire::{FlowKey, IcmpError, Layers, MacAddr, NdMessage, vlan};
use proptest::prelude::*;

use crate::frames::*;

/// Uses everything there is on a frame, with the headers of `layers`, whether they fit the frame or not.
fn exercise(frame: &[u8], layers: &Layers) {
    let _ = layers.verify_checksums(frame);
    let _ = layers.l3_bytes(frame);
    let _ = FlowKey::of(layers, frame).map(|key| (key.symmetric_hash(), key.directional_hash(), key.to_string()));
    let _ = FlowKey::of_quoted(layers, frame);
    let _ = layers.tcp(frame).map(|tcp| (tcp.options().count(), tcp.seq_len()));
    let _ = layers.icmpv4(frame).map(|icmp| (icmp.id(), icmp.quoted().is_ok()));
    let _ = layers.icmpv6(frame).map(|icmp| (icmp.id(), icmp.quoted().is_ok()));
    let _ = layers.arp(frame).map(|arp| arp.operation());
    let _ = NdMessage::of(layers, frame).map(|message| message.options().count());
    let mut out = [0; icmp_error::MAX_FRAME_LEN];
    for src in [IpAddr::from([10, 0, 0, 1]), IpAddr::from([1; 16])] {
        if let Ok(len) = icmp_error::emit(IcmpError::TimeExceeded, frame, layers, MacAddr::ZERO, src, &mut out) {
            let answer = &out[..len];
            // Whatever we answer must be right itself.
            Layers::parse(answer).unwrap().verify_checksums(answer).unwrap();
        }
        for side in [Side::Source, Side::Destination] {
            let mut changed = frame.to_vec();
            let _ = rewrite::endpoint(&mut changed, layers, side, src, Some(1));
            let _ = rewrite::quoted_endpoint(&mut changed, layers, side, src, Some(1));
        }
    }
    let mut changed = frame.to_vec();
    let _ = layers.ipv4_mut(&mut changed).map(|mut ip| ip.dec_ttl());
    let _ = layers.ipv6_mut(&mut changed).map(|mut ip| ip.dec_hop_limit());
    let _ = layers.tcp_mut(&mut changed).map(|mut tcp| tcp.clamp_mss(1000));
    let _ = vlan::pop(&mut changed);
    let _ = vlan::push(&mut changed, vlan::VlanTag::customer(1));
}

fn check(frame: &[u8]) {
    let Ok(layers) = Layers::parse(frame) else {
        assert_eq!(FlowKey::parse(frame), None);
        return;
    };
    assert!(layers.l3_offset <= layers.l4_offset && layers.l4_offset <= layers.end && layers.end <= frame.len());
    assert_eq!(FlowKey::parse(frame), FlowKey::of(&layers, frame).ok(), "both ways lead to the same key");
    exercise(frame, &layers);
}

#[test]
fn every_frame_cut_at_every_length() {
    for frame in all() {
        for len in 0..frame.len().min(200) {
            check(&frame[..len]);
            // Headers found in the whole frame, used on the cut one.
            exercise(&frame[..len], &Layers::parse(&frame).unwrap());
        }
    }
}

#[test]
fn a_cut_ip_packet_is_always_noticed() {
    for frame in all().iter().filter(|frame| frame[12..14] != [0x08, 0x06]) {
        for len in 14..frame.len() {
            assert!(Layers::parse(&frame[..len]).is_err(), "{len} of {}", frame.len());
        }
    }
}

#[test]
fn every_byte_set_to_every_value() {
    for frame in [UDP4, SYN4, UNREACHABLE4, UNREACHABLE6, LISTENER_REPORT, NEIGHBOR_SOLICIT].map(hex) {
        for at in 0..frame.len() {
            for value in 0..=255 {
                let mut frame = frame.clone();
                frame[at] = value;
                check(&frame);
            }
        }
    }
}

/// A right frame that is rewritten or answered stays right, whatever it quotes.
#[test]
fn checksums_survive_a_rewritten_quote() {
    for frame in [UNREACHABLE4, UNREACHABLE6].map(hex) {
        let layers = Layers::parse(&frame).unwrap();
        let address = if layers.is_ipv6() { IpAddr::from([7; 16]) } else { IpAddr::from([7; 4]) };
        for side in [Side::Source, Side::Destination] {
            let mut changed = frame.clone();
            rewrite::quoted_endpoint(&mut changed, &layers, side, address, Some(1)).unwrap();
            layers.verify_checksums(&changed).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes(frame in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&frame);
    }

    #[test]
    fn random_bytes_behind_a_right_ethertype(
        mut frame in prop::collection::vec(any::<u8>(), 14..200),
        ethertype in prop::sample::select(vec![0x0800u16, 0x86dd, 0x0806, 0x8100, 0x88a8]),
    ) {
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        if let Some(version) = frame.get_mut(14) {
            *version = if ethertype == 0x0800 { 0x45 } else { 0x60 };
        }
        check(&frame);
    }

    #[test]
    fn nearly_right_frames(frame in mutated()) {
        check(&frame);
    }

    #[test]
    fn headers_of_one_frame_used_on_another(a in mutated(), b in mutated()) {
        if let Ok(layers) = Layers::parse(&a) {
            exercise(&b, &layers);
        }
    }
}
