//! Every accessor against frames whose fields are known.

use middlenet_wire::tcp::TcpFlags;
use middlenet_wire::vlan::{self, VlanTag};
use middlenet_wire::{
    Arp, ArpOperation, Ethernet, EthernetMut, Fragment, Icmpv4, Ipv4, Ipv4Mut, Layers, MacAddr, PacketBuilder, Tcp,
    TcpMut, TcpOption, Udp, WireError, ethertype, icmpv4, protocol,
};

use crate::frames::*;

const A: MacAddr = MacAddr::new(2, 0, 0, 0, 0, 0x0a);
const B: MacAddr = MacAddr::new(2, 0, 0, 0, 0, 0x0b);

#[test]
fn ethernet() {
    let mut frame = hex(UDP4);
    let eth = Ethernet::parse(&frame).unwrap();
    assert_eq!((eth.dst(), eth.src(), eth.ethertype()), (B, A, ethertype::IPV4));
    assert_eq!(eth.payload(), &frame[14..]);
    let mut eth = EthernetMut::parse(&mut frame).unwrap();
    eth.swap_addresses();
    assert_eq!((eth.view().dst(), eth.view().src()), (A, B));
    assert_eq!(Ethernet::parse(&frame[..13]).err(), Some(WireError::Truncated));
}

#[test]
fn mac_addresses() {
    assert!(MacAddr::BROADCAST.is_multicast() && MacAddr::BROADCAST.is_broadcast());
    assert!(A.is_unicast() && !MacAddr::ZERO.is_unicast());
    for bad in ["", "02:00:00:00:00", "02:00:00:00:00:00:01", "02:00:00:00:00:0", "+2:00:00:00:00:00", "0200.0000.0001"]
    {
        assert!(bad.parse::<MacAddr>().is_err(), "{bad:?}");
    }
    // RFC 1112 section 6.4 keeps 23 bits of the group.
    assert_eq!(MacAddr::of_ipv4_multicast("224.129.1.2".parse().unwrap()).to_string(), "01:00:5e:01:01:02");
    assert_eq!(MacAddr::of_ipv6_multicast("ff02::1:ff00:a".parse().unwrap()).to_string(), "33:33:ff:00:00:0a");
}

#[test]
fn tags() {
    let tags = [VlanTag::service(100).with_pcp(5), VlanTag::customer(4095)];
    let frame = PacketBuilder::new().vlan(tags[0]).vlan(tags[1]).ethertype(0x0842).build();
    let found = vlan::walk(&frame).unwrap();
    assert_eq!(found.tags.as_slice(), tags);
    assert_eq!((found.ethertype, found.l3_offset), (0x0842, 22));
    let outer = found.tags.outer().unwrap();
    assert_eq!((outer.vid(), outer.pcp(), outer.dei()), (100, 5, false));
    for len in 0..frame.len() {
        assert_eq!(vlan::walk(&frame[..len]).err(), Some(WireError::Truncated), "{len}");
    }
    // A third tag.
    let mut deep = vec![0; 4];
    deep.extend(&frame);
    vlan::push(&mut deep, VlanTag::service(1)).unwrap();
    assert_eq!(vlan::walk(&deep).err(), Some(WireError::TooManyTags));
}

#[test]
fn push_then_pop_restores_the_frame() {
    let frame = hex(UDP4);
    let mut tagged = [&[0xee; 4][..], &frame].concat();
    vlan::push(&mut tagged, VlanTag::customer(7).with_pcp(3)).unwrap();
    let layers = Layers::parse(&tagged).unwrap();
    assert_eq!((layers.vid(), layers.l3_offset), (Some(7), 18));
    layers.verify_checksums(&tagged).unwrap();
    vlan::set_vid(&mut tagged, 9).unwrap();
    assert_eq!(vlan::pop(&mut tagged), Some(VlanTag::customer(9).with_pcp(3)));
    assert_eq!(tagged[4..], frame);
    assert_eq!(vlan::pop(&mut frame.clone()), None);
    assert_eq!(vlan::set_vid(&mut frame.clone(), 1), Err(WireError::WrongProtocol));
    assert_eq!(vlan::push(&mut [0; 17], VlanTag::customer(1)), Err(WireError::NoSpace));
}

#[test]
fn arp() {
    let frame = hex(ARP_REQUEST);
    let arp = Arp::parse(&frame[14..]).unwrap();
    assert_eq!(arp.operation(), ArpOperation::Request);
    assert_eq!((arp.sender_mac(), arp.sender_ip().to_string()), (A, "10.1.0.1".into()));
    assert_eq!((arp.target_mac(), arp.target_ip().to_string()), (MacAddr::ZERO, "10.1.0.2".into()));
    assert!(!arp.is_gratuitous());
    for (at, byte, error) in [
        (15, 6, WireError::BadVersion), // token ring
        (16, 9, WireError::BadVersion), // not IPv4
        (18, 8, WireError::BadLength),  // eight-byte hardware addresses
        (19, 16, WireError::BadLength), // sixteen-byte protocol addresses
    ] {
        let mut bad = frame.clone();
        bad[at] = byte;
        assert_eq!(Arp::parse(&bad[14..]).err(), Some(error), "byte {at}");
    }
}

#[test]
fn ipv4() {
    let frame = hex(UNREACHABLE4);
    let ip = Ipv4::parse(&frame[14..]).unwrap();
    assert_eq!((ip.header_len(), ip.total_len(), ip.payload().len()), (20, 61, 41));
    assert_eq!((ip.tos(), ip.dscp(), ip.ecn()), (0xc0, 48, 0));
    assert_eq!((ip.id(), ip.dont_fragment(), ip.fragment()), (0x5122, false, None));
    assert_eq!((ip.ttl(), ip.protocol(), ip.checksum()), (64, protocol::ICMPV4, 0x14da));
    assert_eq!((ip.src().to_string(), ip.dst().to_string()), ("10.1.0.2".into(), "10.1.0.1".into()));
    ip.verify_checksum().unwrap();
    assert!(Ipv4::parse(&hex(UDP4)[14..]).unwrap().dont_fragment());
}

#[test]
fn ipv4_fragments() {
    let first = filled(FRAGMENT4_FIRST_HEAD, 1514);
    let ip = Ipv4::parse(&first[14..]).unwrap();
    assert_eq!(ip.fragment(), Some(Fragment { id: 0x750e, offset_bytes: 0, more: true }));
    assert!(ip.is_first_fragment() && ip.more_fragments());
    let last = filled(FRAGMENT4_LAST_HEAD, 562);
    let ip = Ipv4::parse(&last[14..]).unwrap();
    // The first one carried 1480 bytes.
    assert_eq!(ip.fragment(), Some(Fragment { id: 0x750e, offset_bytes: 1480, more: false }));
    assert!(!ip.is_first_fragment() && ip.fragment().unwrap().is_last());
}

#[test]
fn ipv4_refuses_contradictory_lengths() {
    let packet = hex(UDP4).split_off(14);
    let with = |at: usize, bytes: &[u8]| {
        let mut packet = packet.clone();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        Ipv4::parse(&packet).map(|ip| ip.payload().len())
    };
    assert_eq!(with(0, &[0x65]), Err(WireError::BadVersion));
    assert_eq!(with(0, &[0x44]), Err(WireError::BadLength)); // a header of 16 bytes
    assert_eq!(with(0, &[0x4f]), Err(WireError::BadLength)); // a header of 60 bytes in a packet of 33
    assert_eq!(with(2, &[0, 19]), Err(WireError::BadLength));
    assert_eq!(with(2, &[0, 20]), Ok(0));
    assert_eq!(with(2, &[0, 34]), Err(WireError::Truncated));
    for len in 0..packet.len() {
        assert_eq!(Ipv4::parse(&packet[..len]).err(), Some(WireError::Truncated), "{len}");
    }
}

#[test]
fn ipv4_leaves_padding_out() {
    let mut frame = hex(RST4);
    let whole = Layers::parse(&frame).unwrap();
    frame.resize(60, 0xee);
    let padded = Layers::parse(&frame).unwrap();
    assert_eq!(padded, whole);
    assert_eq!(padded.tcp(&frame).unwrap().payload(), b"");
    padded.verify_checksums(&frame).unwrap();
}

#[test]
fn ipv4_options_stay_in_the_checksum() {
    // Router alert (RFC 2113), and an odd-sized one to be padded.
    let mut frame = PacketBuilder::new()
        .ipv4("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())
        .ip_options(&[0x94, 4, 0, 0, 1])
        .udp(1, 2)
        .build();
    let layers = Layers::parse(&frame).unwrap();
    assert_eq!(layers.l4_offset - layers.l3_offset, 28);
    layers.verify_checksums(&frame).unwrap();
    let mut ip = layers.ipv4_mut(&mut frame).unwrap();
    assert_eq!(ip.view().options(), [0x94, 4, 0, 0, 1, 0, 0, 0]);
    ip.set_tos(0xff);
    ip.set_dscp(10);
    ip.set_ecn(1);
    assert_eq!((ip.view().dscp(), ip.view().ecn()), (10, 1));
    ip.view().verify_checksum().unwrap();
    frame[layers.l3_offset + 22] ^= 1;
    assert_eq!(layers.verify_checksums(&frame), Err(WireError::BadChecksum));
}

#[test]
fn tcp() {
    let frame = hex(SYN4);
    let layers = Layers::parse(&frame).unwrap();
    let tcp = layers.tcp(&frame).unwrap();
    assert_eq!((tcp.src_port(), tcp.dst_port()), (37770, 80));
    assert_eq!((tcp.seq(), tcp.ack(), tcp.window(), tcp.urgent()), (0xc88e_a947, 0, 64240, 0));
    assert!(tcp.flags().opens() && tcp.flags().syn() && !tcp.flags().ack());
    assert_eq!((tcp.header_len(), tcp.payload().len(), tcp.seq_len()), (40, 0, 1));
    assert_eq!(
        tcp.options().collect::<Vec<_>>(),
        [
            TcpOption::MaxSegmentSize(1460),
            TcpOption::SackPermitted,
            TcpOption::Timestamps { value: 0xcff6_3e21, echo: 0 },
            TcpOption::WindowScale(10),
        ]
    );
    assert_eq!(tcp.options().mss(), Some(1460));
    tcp.verify_checksum(layers.pseudo_header(&frame).unwrap()).unwrap();
    let reset = hex(RST4);
    let flags = Layers::parse(&reset).unwrap().tcp(&reset).unwrap().flags();
    assert_eq!(format!("{flags:?}"), "RST|ACK");
    assert_eq!(format!("{:?}", TcpFlags::default()), "none");
}

#[test]
fn tcp_refuses_a_short_data_offset() {
    let mut segment = hex(SYN4).split_off(34);
    segment[12] = 0x40;
    assert_eq!(Tcp::parse(&segment).err(), Some(WireError::BadLength));
    segment[12] = 0xf0;
    assert_eq!(Tcp::parse(&segment).err(), Some(WireError::Truncated));
}

#[test]
fn tcp_setters_keep_the_checksum() {
    let mut frame = hex(SYN4);
    let layers = Layers::parse(&frame).unwrap();
    let mut tcp = layers.tcp_mut(&mut frame).unwrap();
    tcp.set_seq(0xffff_0000);
    tcp.set_ack(1);
    tcp.set_window(0xffff);
    tcp.set_flags(TcpFlags::SYN | TcpFlags::ACK);
    assert_eq!(tcp.clamp_mss(1380), Some(1460));
    assert_eq!(tcp.clamp_mss(1380), None);
    assert_eq!(tcp.view().options().mss(), Some(1380));
    layers.verify_checksums(&frame).unwrap();
}

#[test]
fn mss_at_an_odd_offset_keeps_the_checksum() {
    // One or two paddings before the option move its value to an odd and an even offset.
    for options in [&[1u8, 2, 4, 0x05, 0xb4, 1][..], &[1, 1, 2, 4, 0x05, 0xb4]] {
        let mut frame = PacketBuilder::new()
            .ipv4("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())
            .tcp(1, 2, TcpFlags::SYN)
            .tcp_options(options)
            .build();
        let layers = Layers::parse(&frame).unwrap();
        assert_eq!(layers.tcp_mut(&mut frame).unwrap().clamp_mss(0x0123), Some(0x05b4));
        layers.verify_checksums(&frame).unwrap();
    }
}

#[test]
fn tcp_option_walk_ends_at_nonsense() {
    let walk = |bytes| middlenet_wire::TcpOptions::new(bytes).collect::<Vec<_>>();
    assert_eq!(walk(&[2, 0, 5, 5]), []); // a length of 0 would never end
    assert_eq!(walk(&[2, 1]), []);
    assert_eq!(walk(&[2]), []);
    assert_eq!(walk(&[2, 5, 1, 1]), []); // beyond the end
    assert_eq!(walk(&[0, 2, 4, 5, 5]), []); // after the end of list
    assert_eq!(walk(&[1, 1, 4, 2]), [TcpOption::SackPermitted]);
    assert_eq!(walk(&[2, 3, 1]), [TcpOption::Other { kind: 2, data: &[1] }]);
    assert_eq!(walk(&[5, 10, 0, 0, 0, 1, 0, 0, 0, 2]), [TcpOption::Sack(&[0, 0, 0, 1, 0, 0, 0, 2])]);
    assert_eq!(walk(&[5, 2]), [TcpOption::Other { kind: 5, data: &[] }]);
}

#[test]
fn udp() {
    let frame = hex(UDP4);
    let layers = Layers::parse(&frame).unwrap();
    let udp = layers.udp(&frame).unwrap();
    assert_eq!((udp.src_port(), udp.dst_port(), udp.length()), (50245, 9, 13));
    assert_eq!(udp.payload(), b"hello");
    layers.verify_checksums(&frame).unwrap();
    let mut datagram = frame[34..].to_vec();
    datagram[5] = 7;
    assert_eq!(Udp::parse(&datagram).err(), Some(WireError::BadLength));
    datagram[5] = 14;
    assert_eq!(Udp::parse(&datagram).err(), Some(WireError::Truncated));
}

#[test]
fn udp_shorter_than_its_ip_payload_verifies() {
    let packet = [&hex(UDP4)[..], b"tail"].concat();
    let mut frame = packet;
    let layers = Layers::parse(&frame).unwrap();
    let total = layers.ipv4(&frame).unwrap().total_len() as u16 + 4;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    layers.ipv4_mut(&mut frame).unwrap().fill_checksum();
    let layers = Layers::parse(&frame).unwrap();
    assert_eq!(layers.l4_bytes(&frame).unwrap().len(), 17);
    assert_eq!(layers.udp(&frame).unwrap().payload(), b"hello");
    layers.verify_checksums(&frame).unwrap();
}

#[test]
fn udp_without_checksum_is_right_over_ipv4_only() {
    let v4 = PacketBuilder::new().ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into()).udp_without_checksum(1, 2).build();
    Layers::parse(&v4).unwrap().verify_checksums(&v4).unwrap();
    let v6 = PacketBuilder::new().ipv6([1; 16].into(), [2; 16].into()).udp_without_checksum(1, 2).build();
    assert_eq!(Layers::parse(&v6).unwrap().verify_checksums(&v6), Err(WireError::BadChecksum));
}

#[test]
fn icmpv4_echo_and_error() {
    let mut frame = hex(ECHO4);
    let layers = Layers::parse(&frame).unwrap();
    let icmp = layers.icmpv4(&frame).unwrap();
    assert_eq!((icmp.icmp_type(), icmp.code(), icmp.id(), icmp.seq()), (8, 0, Some(0x1234), Some(1)));
    assert_eq!(icmp.payload(), b"ping");
    assert_eq!(icmp.quoted().err(), Some(WireError::WrongProtocol));
    icmp.verify_checksum().unwrap();
    // An echo becomes its reply as Linux makes it.
    layers.icmpv4_mut(&mut frame).unwrap().set_type(icmpv4::icmpv4_type::ECHO_REPLY);
    assert_eq!(frame[34..], hex(ECHO_REPLY4)[34..]);

    let frame = hex(UNREACHABLE4);
    let layers = Layers::parse(&frame).unwrap();
    let icmp = layers.icmpv4(&frame).unwrap();
    assert!(icmp.is_error());
    assert_eq!((icmp.id(), icmp.next_hop_mtu_bytes()), (None, None));
    let quoted = icmp.quoted().unwrap();
    assert_eq!(quoted.payload(), &hex(UDP4)[34..]);
    layers.verify_checksums(&frame).unwrap();
}

#[test]
fn a_quoted_packet_may_be_cut_short() {
    let frame = hex(UNREACHABLE4);
    // RFC 792 quotes the IP header and 8 bytes.
    let cut = &frame[34..frame.len() - 5];
    let quoted = Icmpv4::parse(cut).unwrap().quoted().unwrap();
    assert_eq!(quoted.payload().len(), 8);
    assert_eq!(Udp::parse_header(quoted.payload()).unwrap().dst_port(), 9);
    assert_eq!(Udp::parse(quoted.payload()).err(), Some(WireError::Truncated));
    assert_eq!(Icmpv4::parse(&cut[..27]).unwrap().quoted().err(), Some(WireError::Truncated));
}

#[test]
fn payloads_can_be_written() {
    let mut frame = hex(UDP4);
    let layers = Layers::parse(&frame).unwrap();
    let pseudo = layers.pseudo_header(&frame).unwrap();
    let mut udp = layers.udp_mut(&mut frame).unwrap();
    udp.payload_mut().copy_from_slice(b"HELLO");
    assert_eq!(udp.view().verify_checksum(pseudo, false), Err(WireError::BadChecksum));
    udp.fill_checksum(pseudo);
    layers.verify_checksums(&frame).unwrap();

    let mut frame = hex(SYN4);
    let mut ip = Ipv4Mut::parse(&mut frame[14..]).unwrap();
    let pseudo = ip.view().pseudo_header();
    let mut tcp = TcpMut::parse(ip.payload_mut()).unwrap();
    tcp.set_dst_port(8080);
    let incremental = tcp.view().checksum();
    tcp.fill_checksum(pseudo);
    assert_eq!(tcp.view().checksum(), incremental);
}
