//! Neighbor discovery.

use middlenet_wire::build::{NeighborAdvert, NeighborSolicit};
use middlenet_wire::ndp::solicited_node;
use middlenet_wire::{Layers, MacAddr, NdMessage, NdOption, NdOptions, PacketBuilder, VlanTags, WireError};

use crate::frames::*;

const A: MacAddr = MacAddr::new(2, 0, 0, 0, 0, 0x0a);
const B: MacAddr = MacAddr::new(2, 0, 0, 0, 0, 0x0b);

fn read(frame: &[u8]) -> Result<NdMessage<'_>, WireError> {
    NdMessage::of(&Layers::parse(frame)?, frame)
}

fn solicit() -> NeighborSolicit {
    let (src, target) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
    NeighborSolicit { src_mac: A, src, target, to: None, tags: VlanTags::EMPTY }
}

fn built(emit: impl FnOnce(&mut [u8]) -> Result<usize, WireError>) -> Vec<u8> {
    let mut out = vec![0; 128];
    let len = emit(&mut out).unwrap();
    out.truncate(len);
    out
}

#[test]
fn solicitation_as_linux_sends_it() {
    let frame = hex(NEIGHBOR_SOLICIT);
    let NdMessage::NeighborSolicit { target, options } = read(&frame).unwrap() else { panic!("another message") };
    assert_eq!(target.to_string(), "fd00::2");
    assert_eq!(options.source_mac(), Some(A));
    assert_eq!(built(|out| solicit().emit(out)), frame);
    assert_eq!(solicited_node(target).to_string(), "ff02::1:ff00:2");
}

#[test]
fn solicitation_to_a_known_neighbor_and_from_nobody() {
    let probe = built(|out| NeighborSolicit { to: Some(B), ..solicit() }.emit(out));
    assert_eq!(probe[..6], B.octets());
    assert!(read(&probe).is_ok());
    let layers = Layers::parse(&probe).unwrap();
    assert_eq!(layers.ipv6(&probe).unwrap().dst().to_string(), "fd00::2");
    let detection = built(|out| NeighborSolicit { src: "::".parse().unwrap(), ..solicit() }.emit(out));
    assert_eq!(read(&detection).unwrap().options().source_mac(), None);
}

#[test]
fn advertisement_as_linux_sends_it() {
    let frame = hex(NEIGHBOR_ADVERT);
    let message = read(&frame).unwrap();
    assert_eq!(message.options().target_mac(), Some(B));
    let NdMessage::NeighborAdvert { target, is_router, is_solicited, overrides, .. } = message else {
        panic!("another message")
    };
    assert_eq!((target.to_string(), is_router, is_solicited, overrides), ("fd00::2".into(), false, true, true));
    let ours = NeighborAdvert {
        src_mac: B,
        src: target,
        dst_mac: A,
        dst: "fd00::1".parse().unwrap(),
        target,
        is_router: false,
        is_solicited: true,
        overrides: true,
        tags: VlanTags::EMPTY,
    };
    assert_eq!(built(|out| ours.emit(out)), frame);
}

#[test]
fn other_messages_of_linux() {
    let dad = hex(NEIGHBOR_SOLICIT_DAD);
    let options: Vec<_> = read(&dad).unwrap().options().collect();
    assert_eq!(options, [NdOption::Other { kind: 14, data: &[0x65, 0xe2, 0x1d, 0xcd, 0xcd, 0x76] }]);
    let solicit = hex(ROUTER_SOLICIT);
    assert_eq!(read(&solicit).unwrap().options().source_mac(), Some(A));
    assert!(matches!(read(&solicit), Ok(NdMessage::RouterSolicit { .. })));
    assert_eq!(read(&hex(ECHO6)).err(), Some(WireError::WrongProtocol));
}

/// A router advertisement of RFC 4861 section 4.2 with MTU, prefix and source address.
fn router_advert() -> Vec<u8> {
    let body = hex("00007530 000003e8 0101 02000000000a 0501 0000 000005dc
        0304 40c0 00015180 00003840 00000000 20010db8000100000000000000000000");
    PacketBuilder::new()
        .ipv6("fe80::1".parse().unwrap(), "ff02::1".parse().unwrap())
        .ttl(255)
        .icmp(134, 0, 0x40c0_0708)
        .payload(&body)
        .build()
}

#[test]
fn router_advertisement() {
    let frame = router_advert();
    let message = read(&frame).unwrap();
    let options: Vec<_> = message.options().collect();
    assert_eq!(
        options,
        [
            NdOption::SourceLinkLayer(A),
            NdOption::Mtu(1500),
            NdOption::Prefix {
                prefix: "2001:db8:1::".parse().unwrap(),
                prefix_len: 64,
                is_on_link: true,
                is_autonomous: true,
                valid_s: 86400,
                preferred_s: 14400,
            },
        ]
    );
    let NdMessage::RouterAdvert {
        hop_limit,
        is_managed,
        has_other_config,
        lifetime_s,
        reachable_ms,
        retransmit_ms,
        ..
    } = message
    else {
        panic!("another message")
    };
    assert_eq!((hop_limit, is_managed, has_other_config, lifetime_s), (64, true, true, 1800));
    assert_eq!((reachable_ms, retransmit_ms), (30000, 1000));
}

#[test]
fn redirect() {
    let body = hex("fe800000000000000000000000000002 20010db8000000000000000000000001 0201 02000000000b
        0402 000000000000 6000000000000000");
    let frame = PacketBuilder::new()
        .ipv6("fe80::1".parse().unwrap(), "fd00::1".parse().unwrap())
        .ttl(255)
        .icmp(137, 0, 0)
        .payload(&body)
        .build();
    let NdMessage::Redirect { target, destination, options } = read(&frame).unwrap() else { panic!("another message") };
    assert_eq!((target.to_string(), destination.to_string()), ("fe80::2".into(), "2001:db8::1".into()));
    assert_eq!(
        options.collect::<Vec<_>>(),
        [NdOption::TargetLinkLayer(B), NdOption::Redirected(&[0x60, 0, 0, 0, 0, 0, 0, 0])]
    );
}

#[test]
fn what_rfc_4861_forbids_is_refused() {
    let from = |src: &str, dst: &str, icmp_type, ttl, code, body: &[u8]| {
        let frame = PacketBuilder::new()
            .ipv6(src.parse().unwrap(), dst.parse().unwrap())
            .ttl(ttl)
            .icmp(icmp_type, code, 0)
            .payload(body)
            .build();
        read(&frame).err()
    };
    let target = hex("fd000000000000000000000000000002");
    let group = hex("ff020000000000000000000000000001");
    let with_mac = [&target[..], &hex("010102000000000a")].concat();
    let bad = Some(WireError::BadField);
    assert_eq!(from("fd00::1", "fd00::2", 135, 255, 0, &with_mac), None);
    assert_eq!(from("fd00::1", "fd00::2", 135, 254, 0, &with_mac), bad, "it was forwarded");
    assert_eq!(from("fd00::1", "fd00::2", 135, 255, 1, &with_mac), bad, "code");
    assert_eq!(from("fd00::1", "fd00::2", 135, 255, 0, &group), bad, "target is a group");
    assert_eq!(from("::", "ff02::1:ff00:2", 135, 255, 0, &target), None);
    assert_eq!(from("::", "ff02::1:ff00:2", 135, 255, 0, &with_mac), bad, "from nobody, with an address");
    assert_eq!(from("::", "fd00::2", 135, 255, 0, &target), bad, "from nobody, not to the group");
    assert_eq!(from("fd00::1", "ff02::1", 134, 255, 0, &[0; 8]), bad, "router that is not link-local");
    assert_eq!(from("::", "ff02::2", 133, 255, 0, &hex("010102000000000a")), bad, "from nobody, with an address");
    assert_eq!(from("fd00::1", "fd00::2", 135, 255, 0, &target[..15]), Some(WireError::Truncated));
    let zero_length = [&target[..], &[1, 0, 0, 0, 0, 0, 0, 0]].concat();
    assert_eq!(from("fd00::1", "fd00::2", 135, 255, 0, &zero_length), Some(WireError::BadLength));
    let mut solicited_to_all =
        PacketBuilder::new().ipv6("fd00::2".parse().unwrap(), "ff02::1".parse().unwrap()).ttl(255);
    solicited_to_all = solicited_to_all.icmp(136, 0, 0x4000_0000).payload(&target);
    assert_eq!(read(&solicited_to_all.build()).err(), bad, "solicited, yet to all nodes");
    let mut corrupt = hex(NEIGHBOR_SOLICIT);
    corrupt[85] ^= 1;
    assert_eq!(read(&corrupt).err(), Some(WireError::BadChecksum));
}

#[test]
fn options_are_checked_as_a_whole() {
    let good = hex("010102000000000a 0501 0000 000005dc");
    assert_eq!(NdOptions::parse(&good).unwrap().count(), 2);
    for len in 1..good.len() {
        let parsed = NdOptions::parse(&good[..len]);
        assert_eq!(parsed.is_ok(), len == 8, "{len}");
    }
    assert_eq!(NdOptions::parse(&[0, 0]).err(), Some(WireError::BadLength));
    // A prefix longer than an address, and a link-layer address of another link.
    let odd =
        hex("0304 81c0 00015180 00003840 00000000 20010db8000100000000000000000000 0102 0000000000000000000000000000");
    assert!(NdOptions::parse(&odd).unwrap().all(|option| matches!(option, NdOption::Other { .. })));
}
