use super::*;
use middlenet_sdk::testkit::{Outcome, Testkit};
use middlenet_sdk::wire::{FlowKey, Fragment, MacAddr, PacketBuilder, TcpFlags, VlanTag};
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

pub(super) const IN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
pub(super) const IN2: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 6);
pub(super) const OUT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub(super) const POOL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub(super) const ACK: TcpFlags = TcpFlags::ACK;
pub(super) const SYN: TcpFlags = TcpFlags::SYN;

pub(super) fn with(more: Value) -> Value {
    let mut config = json!({"inside": "left", "pool": "203.0.113.1"});
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn kit(more: Value) -> Testkit<Nat> {
    Testkit::new(with(more))
}

fn one(kit: &mut Testkit<Nat>, port: &str, packet: &[u8]) -> Outcome {
    let out = kit.run(port, &[packet]).remove(0);
    if matches!(out.verdict, Verdict::Next | Verdict::Reply)
        && let Ok(layers) = Layers::parse(&out.bytes)
    {
        layers.verify_checksums(&out.bytes).expect("checksums that fit");
    }
    out
}

/// The packet's flow after a pass.
fn flow(kit: &mut Testkit<Nat>, port: &str, packet: &[u8]) -> FlowKey {
    let out = one(kit, port, packet);
    assert_eq!(out.verdict, Verdict::Next, "{}", fate(kit, port, packet));
    FlowKey::parse(&out.bytes).unwrap()
}

fn fate(kit: &mut Testkit<Nat>, port: &str, packet: &[u8]) -> String {
    match one(kit, port, packet).verdict {
        Verdict::Drop(reason) => kit.reason(reason),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn key(src: impl Into<IpAddr>, src_port: u16, dst: impl Into<IpAddr>, dst_port: u16, protocol: u8) -> FlowKey {
    FlowKey::new(src.into(), src_port, dst.into(), dst_port, protocol).unwrap()
}

pub(super) fn udp(src: Ipv4Addr, src_port: u16, dst: Ipv4Addr, dst_port: u16) -> Vec<u8> {
    PacketBuilder::new().ipv4(src, dst).udp(src_port, dst_port).payload(b"seven b").build()
}

pub(super) fn tcp(src: Ipv4Addr, src_port: u16, dst: Ipv4Addr, dst_port: u16, flags: TcpFlags) -> Vec<u8> {
    PacketBuilder::new().ipv4(src, dst).tcp(src_port, dst_port, flags).payload(b"odd").build()
}

#[test]
fn udp_goes_out_by_the_pool_and_its_answer_comes_back() {
    let mut kit = kit(json!({}));
    assert_eq!(flow(&mut kit, "left", &udp(IN, 5000, OUT, 53)), key(POOL, 5000, OUT, 53, 17));
    assert_eq!(flow(&mut kit, "right", &udp(OUT, 53, POOL, 5000)), key(OUT, 53, IN, 5000, 17));
    // Another remote uses the same mapping; another host with the same port gets another one.
    let other = Ipv4Addr::new(198, 51, 100, 8);
    assert_eq!(flow(&mut kit, "left", &udp(IN, 5000, other, 99)).src_port, 5000);
    let second = flow(&mut kit, "left", &udp(IN2, 5000, OUT, 53)).src_port;
    assert!(second != 5000 && second >= 1024);
    assert_eq!(flow(&mut kit, "right", &udp(OUT, 53, POOL, second)), key(OUT, 53, IN2, 5000, 17));
    kit.tick();
    assert_eq!((kit.counter("sessions"), kit.counter("mappings"), kit.counter("hosts")), (3, 2, 2));
    kit.advance(Duration::from_secs(301));
    assert_eq!(fate(&mut kit, "right", &udp(OUT, 53, POOL, 5000)), "unsolicited");
    kit.tick();
    assert_eq!((kit.counter("sessions"), kit.counter("mappings"), kit.counter("hosts")), (0, 0, 0));
}

#[test]
fn filtering_decides_who_may_use_a_mapping() {
    let stranger = Ipv4Addr::new(198, 51, 100, 66);
    let mut strict = kit(json!({}));
    flow(&mut strict, "left", &udp(IN, 5000, OUT, 53));
    assert_eq!(fate(&mut strict, "right", &udp(stranger, 1, POOL, 5000)), "unsolicited");
    assert_eq!(fate(&mut strict, "right", &udp(OUT, 54, POOL, 5000)), "unsolicited");
    assert_eq!(strict.counter("unsolicited"), 2);
    let mut open = kit(json!({"filtering": "endpoint-independent"}));
    flow(&mut open, "left", &udp(IN, 5000, OUT, 53));
    assert_eq!(flow(&mut open, "right", &udp(stranger, 1, POOL, 5000)), key(stranger, 1, IN, 5000, 17));
    open.advance(Duration::from_secs(200));
    flow(&mut open, "right", &udp(stranger, 1, POOL, 5000));
    open.advance(Duration::from_secs(101));
    open.tick();
    assert_eq!(fate(&mut open, "right", &udp(stranger, 1, POOL, 5000)), "unsolicited", "strangers hold nothing open");
}

#[test]
fn tcp_begins_with_a_syn_and_its_state_sets_its_time() {
    let mut kit = kit(json!({}));
    assert_eq!(fate(&mut kit, "left", &tcp(IN, 4000, OUT, 80, ACK)), "no-session");
    let (there, back) = (|flags| tcp(IN, 4000, OUT, 80, flags), |flags| tcp(OUT, 80, POOL, 4000, flags));
    assert_eq!(flow(&mut kit, "left", &there(SYN)), key(POOL, 4000, OUT, 80, 6));
    assert_eq!(flow(&mut kit, "right", &back(SYN.union(ACK))), key(OUT, 80, IN, 4000, 6));
    flow(&mut kit, "left", &there(ACK));
    kit.advance(Duration::from_secs(7439));
    flow(&mut kit, "right", &back(ACK));
    flow(&mut kit, "left", &there(ACK.union(TcpFlags::FIN)));
    kit.advance(Duration::from_secs(1000));
    flow(&mut kit, "right", &back(ACK.union(TcpFlags::FIN)));
    kit.advance(Duration::from_secs(239));
    flow(&mut kit, "left", &there(ACK));
    kit.advance(Duration::from_secs(2));
    assert_eq!(fate(&mut kit, "left", &there(ACK)), "no-session");
    // A half-open one lives four minutes.
    flow(&mut kit, "left", &there(SYN));
    kit.advance(Duration::from_secs(241));
    assert_eq!(fate(&mut kit, "right", &back(SYN.union(ACK))), "unsolicited");
}

#[test]
fn pings_are_translated_by_their_identifier() {
    let mut kit = kit(json!({}));
    let ping = |src| PacketBuilder::new().ipv4(src, OUT).echo_request(77, 1).payload(b"abc").build();
    assert_eq!(flow(&mut kit, "left", &ping(IN)), key(POOL, 77, OUT, 77, 1));
    let second = flow(&mut kit, "left", &ping(IN2)).src_port;
    assert_ne!(second, 77);
    let pong = |id| PacketBuilder::new().ipv4(OUT, POOL).echo_reply(id, 1).payload(b"abc").build();
    assert_eq!(flow(&mut kit, "right", &pong(second)), key(OUT, 77, IN2, 77, 1));
    assert_eq!(flow(&mut kit, "right", &pong(77)), key(OUT, 77, IN, 77, 1));
    let question = PacketBuilder::new().ipv4(OUT, POOL).echo_request(77, 1).build();
    assert_eq!(fate(&mut kit, "right", &question), "unsolicited");
    kit.advance(Duration::from_secs(61));
    assert_eq!(fate(&mut kit, "right", &pong(77)), "unsolicited");
}

fn icmp_error(from: Ipv4Addr, to: Ipv4Addr, quoted: &[u8]) -> Vec<u8> {
    let mut message = vec![3, 4, 0, 0, 0, 0, 5, 0];
    message.extend_from_slice(&quoted[14..]);
    let checksum = middlenet_sdk::wire::checksum::internet_checksum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    PacketBuilder::new().ipv4(from, to).protocol(1).payload(&message).build()
}

fn quoted(packet: &[u8]) -> FlowKey {
    FlowKey::of_quoted(&Layers::parse(packet).unwrap(), packet).unwrap()
}

/// The quoted packet's own checksums are right, too.
fn check_quoted(packet: &[u8]) {
    let layers = Layers::parse(packet).unwrap();
    let ip = &packet[layers.l4_offset + 8..];
    Layers::parse_ip(ip).unwrap().verify_checksums(ip).unwrap();
}

#[test]
fn icmp_errors_are_translated_with_what_they_quote() {
    let router = Ipv4Addr::new(192, 0, 2, 254);
    let mut kit = kit(json!({"forwards": [{"proto": "udp", "outside": "203.0.113.1:53", "inside": "10.0.0.6:5353"}]}));
    for packet in [udp(IN, 5000, OUT, 53), tcp(IN, 5000, OUT, 80, SYN)] {
        let sent = one(&mut kit, "left", &packet).bytes;
        let out = one(&mut kit, "right", &icmp_error(router, POOL, &sent));
        assert_eq!(out.verdict, Verdict::Next);
        assert_eq!(quoted(&out.bytes), FlowKey::parse(&packet).unwrap());
        assert_eq!(Layers::parse(&out.bytes).unwrap().ipv4(&out.bytes).unwrap().dst(), IN);
        check_quoted(&out.bytes);
        // Cut to the eight bytes that every router quotes.
        let out = one(&mut kit, "right", &icmp_error(router, POOL, &sent[..14 + 28]));
        assert_eq!(quoted(&out.bytes), FlowKey::parse(&packet).unwrap());
    }
    assert_eq!(fate(&mut kit, "right", &icmp_error(router, POOL, &udp(POOL, 6000, OUT, 53))), "unsolicited");
    // The other way: an inside host refuses what a forward brought it.
    let came = one(&mut kit, "right", &udp(OUT, 1234, POOL, 53)).bytes;
    assert_eq!(FlowKey::parse(&came).unwrap(), key(OUT, 1234, IN2, 5353, 17));
    let out = one(&mut kit, "left", &icmp_error(IN2, OUT, &came));
    assert_eq!(out.verdict, Verdict::Next);
    assert_eq!(quoted(&out.bytes), key(OUT, 1234, POOL, 53, 17));
    assert_eq!(Layers::parse(&out.bytes).unwrap().ipv4(&out.bytes).unwrap().src(), POOL);
    check_quoted(&out.bytes);
    assert_eq!(kit.counter("icmp-errors"), 5);
}

#[test]
fn forwards_lead_inside_and_their_answers_out() {
    let forward = json!({"forwards": [{"proto": "tcp", "outside": "203.0.113.1:80", "inside": "10.0.0.6:8080"}]});
    let mut kit = kit(forward);
    assert_eq!(flow(&mut kit, "right", &tcp(OUT, 999, POOL, 80, SYN)), key(OUT, 999, IN2, 8080, 6));
    assert_eq!(flow(&mut kit, "left", &tcp(IN2, 8080, OUT, 999, SYN.union(ACK))), key(POOL, 80, OUT, 999, 6));
    assert_eq!(flow(&mut kit, "right", &tcp(OUT, 999, POOL, 80, ACK)), key(OUT, 999, IN2, 8080, 6));
    assert_eq!(fate(&mut kit, "right", &tcp(OUT, 999, POOL, 81, SYN)), "unsolicited");
    // The forward's port is never given to another host, and stays after its sessions end.
    assert_ne!(flow(&mut kit, "left", &tcp(IN, 80, OUT, 1, SYN)).src_port, 80);
    kit.advance(Duration::from_secs(9000));
    kit.tick();
    assert_eq!(flow(&mut kit, "right", &tcp(OUT, 999, POOL, 80, SYN)).dst_ip(), IpAddr::from(IN2));
}

#[test]
fn a_zero_udp_checksum_stays_zero() {
    let mut kit = kit(json!({}));
    let packet = PacketBuilder::new().ipv4(IN, OUT).udp_without_checksum(5000, 53).payload(b"x").build();
    let out = one(&mut kit, "left", &packet);
    assert_eq!(Layers::parse(&out.bytes).unwrap().udp(&out.bytes).unwrap().checksum(), 0);
}

#[test]
fn vlans_options_and_padding_survive() {
    let mut kit = kit(json!({}));
    let builder = PacketBuilder::new().vlan(VlanTag::customer(7)).ipv4(IN, OUT).ip_options(&[1, 1, 1, 0]).udp(5000, 53);
    let out = one(&mut kit, "left", &builder.padded().build());
    let layers = Layers::parse(&out.bytes).unwrap();
    assert_eq!((layers.vid(), out.bytes.len()), (Some(7), 60));
    assert_eq!(layers.ipv4(&out.bytes).unwrap().src(), POOL);
    assert_eq!(flow(&mut kit, "right", &udp(OUT, 53, POOL, 5000)).dst_ip(), IpAddr::from(IN));
}

#[test]
fn what_is_not_to_be_translated_goes_on_untouched() {
    let mut kit = kit(json!({}));
    let mac = MacAddr::new(2, 0, 0, 0, 0, 9);
    let untouched = [
        ("left", udp(Ipv4Addr::new(192, 0, 2, 9), 1, OUT, 2)),
        ("left", udp(IN, 1, Ipv4Addr::new(10, 9, 9, 9), 2)),
        ("left", udp(IN, 1, Ipv4Addr::new(224, 0, 0, 251), 5353)),
        ("left", PacketBuilder::new().arp_request(mac, IN, OUT).build()),
        ("left", PacketBuilder::new().ethertype(0x88cc).payload(&[0; 46]).build()),
        (
            "left",
            PacketBuilder::new()
                .ipv6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::LOCALHOST)
                .udp(1, 2)
                .build(),
        ),
        ("right", udp(OUT, 1, Ipv4Addr::new(192, 0, 2, 9), 2)),
        ("right", udp(OUT, 1, Ipv4Addr::new(224, 0, 0, 5), 2)),
        ("right", PacketBuilder::new().arp_request(mac, OUT, POOL).build()),
    ];
    for (port, packet) in untouched {
        let out = one(&mut kit, port, &packet);
        assert_eq!((out.verdict, &out.bytes), (Verdict::Next, &packet), "{port}");
    }
    assert_eq!(fate(&mut kit, "right", &udp(OUT, 1, IN, 2)), "unsolicited", "inside addresses are not for outsiders");
    assert_eq!(
        fate(&mut kit, "left", &PacketBuilder::new().ipv4(IN, OUT).protocol(47).payload(&[0; 8]).build()),
        "unsupported"
    );
    let mut passing = self::kit(json!({"unsolicited": "pass"}));
    assert_eq!(fate(&mut passing, "right", &udp(OUT, 1, POOL, 2)), "next");
}

#[test]
fn ports_run_out_and_come_back() {
    let mut kit = kit(json!({"ports": "2000-2009"}));
    let mut ports: Vec<u16> =
        (0..10).map(|n| flow(&mut kit, "left", &udp(Ipv4Addr::new(10, 0, 1, n), 5000, OUT, 53)).src_port).collect();
    ports.sort_unstable();
    assert_eq!(ports, (2000..2010).collect::<Vec<_>>());
    assert_eq!(fate(&mut kit, "left", &udp(IN, 5000, OUT, 53)), "ports-exhausted");
    assert_eq!(flow(&mut kit, "left", &tcp(IN, 2003, OUT, 53, SYN)).src_port, 2003, "TCP has ports of its own");
    assert_eq!(kit.counter("exhausted"), 1);
    kit.advance(Duration::from_secs(301));
    kit.tick();
    assert_eq!(flow(&mut kit, "left", &udp(IN, 2005, OUT, 53)).src_port, 2005);
}

#[test]
fn one_host_cannot_take_everything() {
    let mut kit = kit(json!({"ports_per_host": 3, "sessions_per_host": 5}));
    let fates: Vec<_> = (0..5).map(|n| fate(&mut kit, "left", &udp(IN, 5000 + n, OUT, 53))).collect();
    assert_eq!(fates, ["next", "next", "next", "host-limit", "host-limit"]);
    let fates: Vec<_> = (0..4).map(|n| fate(&mut kit, "left", &udp(IN, 5000, OUT, 100 + n))).collect();
    assert_eq!(fates, ["next", "next", "host-limit", "host-limit"]);
    assert_eq!(fate(&mut kit, "left", &udp(IN2, 5000, OUT, 53)), "next");
    let mut small = self::kit(json!({"sessions": 2}));
    let fates: Vec<_> = (0..3).map(|n| fate(&mut small, "left", &udp(IN, 5000 + n, OUT, 53))).collect();
    assert_eq!(fates, ["next", "next", "table-full"]);
    small.advance(Duration::from_secs(301));
    assert_eq!(fate(&mut small, "left", &udp(IN2, 5000, OUT, 53)), "next", "ended sessions make room at once");
}

#[test]
fn a_host_keeps_its_pool_address() {
    let mut kit = kit(json!({"pool": ["203.0.113.0/30"]}));
    let mut used = std::collections::HashSet::new();
    for host in 0..16 {
        let inside = Ipv4Addr::new(10, 0, 0, host);
        let first = flow(&mut kit, "left", &udp(inside, 1, OUT, 2)).src;
        assert_eq!(flow(&mut kit, "left", &udp(inside, 3, OUT, 4)).src, first);
        used.insert(first);
    }
    assert_eq!(used.len(), 4, "and hosts spread over the pool");
}

#[test]
fn inside_hosts_reach_each_other_by_outside_addresses() {
    let forward = json!({"forwards": [{"proto": "udp", "outside": "203.0.113.1:53", "inside": "10.0.0.6:5353"}]});
    let gateway = MacAddr::new(2, 0, 0, 0, 0, 0xaa);
    let (mac, mac2) = (MacAddr::new(2, 0, 0, 0, 0, 5), MacAddr::new(2, 0, 0, 0, 0, 6));
    let from = |mac, src, src_port, dst, dst_port| {
        PacketBuilder::new().mac(mac, gateway).ipv4(src, dst).udp(src_port, dst_port).payload(b"hi").build()
    };
    let mut kit = kit(forward.clone());
    assert_eq!(fate(&mut kit, "left", &from(mac, IN, 5000, POOL, 53)), "no-neighbour", "it has not been heard of yet");
    flow(&mut kit, "left", &from(mac2, IN2, 9, OUT, 9));
    for _ in 0..2 {
        let there = one(&mut kit, "left", &from(mac, IN, 5000, POOL, 53));
        assert_eq!(there.verdict, Verdict::Reply);
        assert_eq!(FlowKey::parse(&there.bytes).unwrap(), key(POOL, 5000, IN2, 5353, 17));
        assert_eq!(there.bytes[..12], [mac2.octets(), gateway.octets()].concat());
        let back = one(&mut kit, "left", &from(mac2, IN2, 5353, POOL, 5000));
        assert_eq!(back.verdict, Verdict::Reply);
        assert_eq!(FlowKey::parse(&back.bytes).unwrap(), key(POOL, 53, IN, 5000, 17));
        assert_eq!(back.bytes[..6], mac.octets());
    }
    assert_eq!(kit.counter("hairpinned"), 4);
    let mut off = self::kit(json!({"hairpin": false}));
    assert_eq!(fate(&mut off, "left", &from(mac, IN, 5000, POOL, 53)), "unsolicited");
}

#[test]
fn fragments_are_translated_in_order() {
    let mut kit = kit(json!({}));
    let fragment = |src, dst, id, offset_bytes: u16| {
        let place = Fragment { id, offset_bytes, more: offset_bytes == 0 };
        PacketBuilder::new().ipv4(src, dst).udp(5000, 53).payload(&[9; 24]).fragment(place).build()
    };
    let src = |bytes: &[u8]| FlowKey::parse(bytes).unwrap().src_ip();
    assert_eq!(fate(&mut kit, "left", &fragment(IN, OUT, 1, 32)), "fragment-unknown");
    let out = one(&mut kit, "left", &fragment(IN, OUT, 1, 0));
    assert_eq!((out.verdict, src(&out.bytes)), (Verdict::Next, POOL.into()));
    let out = one(&mut kit, "left", &fragment(IN, OUT, 1, 32));
    assert_eq!((out.verdict, src(&out.bytes)), (Verdict::Next, POOL.into()));
    // Back, as one packet that was cut on the way.
    let place = |offset_bytes: u16| Fragment { id: 9, offset_bytes, more: offset_bytes == 0 };
    let reply = PacketBuilder::new().ipv4(OUT, POOL).udp(53, 5000).payload(&[9; 24]);
    for offset in [0, 32] {
        assert_eq!(flow(&mut kit, "right", &reply.fragment(place(offset)).build()).dst_ip(), IpAddr::from(IN));
    }
}

#[test]
fn ipv6_is_translated_when_the_pool_has_it() {
    let inside = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
    let (pool, out) = (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9));
    let mut kit = kit(json!({"pool": ["203.0.113.1", "2001:db8::1"]}));
    let builder = PacketBuilder::new();
    assert_eq!(flow(&mut kit, "left", &builder.ipv6(inside, out).udp(5, 53).build()).src_ip(), IpAddr::from(pool));
    let tcp = builder.ipv6(inside, out).extensions(0, &[6, 0, 1, 4, 0, 0, 0, 0]).tcp(2000, 80, SYN).build();
    assert_eq!(flow(&mut kit, "left", &tcp), key(pool, 2000, out, 80, 6));
    let back = builder.ipv6(out, pool).tcp(80, 2000, SYN.union(ACK)).build();
    assert_eq!(flow(&mut kit, "right", &back), key(out, 80, inside, 2000, 6));
    assert_eq!(flow(&mut kit, "left", &builder.ipv6(inside, out).echo_request(8, 1).build()), key(pool, 8, out, 8, 58));
    assert_eq!(flow(&mut kit, "right", &builder.ipv6(out, pool).echo_reply(8, 1).build()), key(out, 8, inside, 8, 58));
    assert_eq!(flow(&mut kit, "left", &udp(IN, 5000, OUT, 53)).src_ip(), IpAddr::from(POOL));
    let mapped = builder.ipv6(IN.to_ipv6_mapped(), out).udp(1, 2).build();
    assert_eq!(fate(&mut kit, "left", &mapped), "malformed");
}

#[test]
fn questions_for_pool_addresses_are_answered_on_the_outside() {
    let mut kit = kit(json!({"proxy_arp": true, "pool": ["203.0.113.1", "2001:db8::1"]}));
    let asker = MacAddr::new(2, 0, 0, 0, 0, 0x99);
    let request = PacketBuilder::new().vlan(VlanTag::customer(5)).arp_request(asker, OUT, POOL).build();
    let out = one(&mut kit, "right", &request);
    let layers = Layers::parse(&out.bytes).unwrap();
    let arp = layers.arp(&out.bytes).unwrap();
    assert_eq!((out.verdict, layers.vid()), (Verdict::Reply, Some(5)));
    assert_eq!((arp.sender_ip(), arp.sender_mac()), (POOL, MacAddr::new(2, 0, 0, 0, 0, 2)));
    assert_eq!((arp.target_ip(), arp.target_mac()), (OUT, asker));
    assert_eq!(fate(&mut kit, "left", &request), "next", "not inside");
    assert_eq!(fate(&mut kit, "right", &PacketBuilder::new().arp_request(asker, OUT, IN).build()), "next");
    assert_eq!(fate(&mut kit, "right", &PacketBuilder::new().arp_request(asker, POOL, POOL).build()), "next");

    let (from, target) = (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&target.octets());
    let pseudo = middlenet_sdk::wire::checksum::Sum::pseudo_ipv6(from, group, 58, message.len());
    let checksum = pseudo.bytes(&message).checksum();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let solicit = PacketBuilder::new().ipv6(from, group).ttl(255).protocol(58).payload(&message).build();
    let out = one(&mut kit, "right", &solicit);
    let layers = Layers::parse(&out.bytes).unwrap();
    let ip = layers.ipv6(&out.bytes).unwrap();
    assert_eq!((out.verdict, ip.src(), ip.dst(), ip.hop_limit()), (Verdict::Reply, target, from, 255));
    assert_eq!(layers.icmpv6(&out.bytes).unwrap().icmp_type(), 136);
    assert_eq!(out.bytes[out.bytes.len() - 6..], [2, 0, 0, 0, 0, 2]);
}

#[test]
fn sessions_outlive_a_change_of_what_does_not_matter_to_them() {
    let mut kit = kit(json!({}));
    flow(&mut kit, "left", &udp(IN, 5000, OUT, 53));
    kit.reconfigure(with(json!({"timeouts": {"udp_s": 120}}))).unwrap();
    flow(&mut kit, "right", &udp(OUT, 53, POOL, 5000));
    kit.reconfigure(with(json!({"pool": "203.0.113.2"}))).unwrap();
    assert_eq!(fate(&mut kit, "right", &udp(OUT, 53, POOL, 5000)), "next", "no longer its address");
}

#[test]
fn configuration_errors_name_the_value_and_the_remedy() {
    let forward =
        |outside: &str, inside: &str| json!({"forwards": [{"proto": "tcp", "outside": outside, "inside": inside}]});
    let twice = json!({"forwards": [
        {"proto": "tcp", "outside": "203.0.113.1:80", "inside": "10.0.0.1:80"},
        {"proto": "tcp", "outside": "203.0.113.1:80", "inside": "10.0.0.2:80"}]});
    let cases = [
        (json!({"inside": "lan"}), "no port `lan`", "left, right"),
        (json!({"inside": ["left", "right"]}), "must leave a port outside", "inside: lan"),
        (json!({"pool": []}), "`pool` is empty", "203.0.113.1"),
        (json!({"pool": "10.0.0.0/8"}), "more than 256", "few are enough"),
        (
            json!({"pool": ["203.0.113.1", "192.168.7.1"]}),
            "192.168.7.1 of `pool` is also one of `sources`",
            "that are inside",
        ),
        (json!({"ports": "9"}), "no range of ports", "1024-65535"),
        (json!({"ports": "0-9"}), "no range of ports", "1024-65535"),
        (forward("203.0.113.1", "10.0.0.1:80"), "no address with a port", "8080"),
        (forward("203.0.113.9:80", "10.0.0.1:80"), "not in the pool", "`pool`"),
        (forward("203.0.113.1:80", "[fd00::1]:80"), "different IP versions", "between IPv4 and IPv6"),
        (twice, "two forwards use", "of its own"),
        (json!({"sessions": 0}), "`sessions` of 0", "bytes"),
        (json!({"ports_per_host": 0}), "let no host out", "2048"),
    ];
    for (config, message, hint) in cases {
        let error = Testkit::<Nat>::try_new(with(config.clone())).err().unwrap_or_else(|| panic!("accepted: {config}"));
        assert!(error.message.contains(message), "{}", error.message);
        assert!(error.hint.as_deref().is_some_and(|h| h.contains(hint)), "{:?} lacks {hint}", error.hint);
    }
}

#[test]
fn port_maps_give_each_port_once() {
    let mut ports = ports::Ports::new(1000, 1199);
    let mut got: Vec<u16> = (0..200).filter_map(|n| ports.take(5, n * 977)).collect();
    got.sort_unstable();
    assert_eq!(got, (1000..1200).collect::<Vec<_>>());
    assert_eq!(ports.take(1000, 1), None);
    ports.release(1100);
    assert_eq!(ports.take(1000, u64::MAX), Some(1100));
}

proptest! {
    /// The quick way to translate gives the same bytes as the general one, also where checksums wrap.
    #[test]
    fn quick_translation_equals_the_general_one(
        src in any::<u32>(), dst in any::<u32>(), ports in any::<(u16, u16)>(), to in any::<(u32, u16)>(),
        payload in proptest::collection::vec(any::<u8>(), 0..40), is_tcp in any::<bool>(), source in any::<bool>(),
    ) {
        let builder = PacketBuilder::new().ipv4(src.into(), dst.into());
        let packet = if is_tcp { builder.tcp(ports.0, ports.1, ACK) } else { builder.udp(ports.0, ports.1) }.payload(&payload).build();
        let side = if source { Side::Source } else { Side::Destination };
        let (mut quick, mut general) = (packet.clone(), packet.clone());
        let address = 0xffff_0000_0000 | u128::from(to.0);
        prop_assert!(translate(&mut quick, &Probe::of(&packet), side, address, to.1));
        let layers = Layers::parse(&general).unwrap();
        rewrite::endpoint(&mut general, &layers, side, address_of(address), Some(to.1)).unwrap();
        prop_assert_eq!(&quick, &general);
        prop_assert!(layers.verify_checksums(&quick).is_ok());
    }

    /// Whatever hosts send in whatever order: no two inside endpoints share an outside one, and every answer comes back.
    #[test]
    fn mappings_never_collide(steps in proptest::collection::vec((0u8..20, 0u16..30, 0u16..4, 0u64..200), 1..120)) {
        let mut kit = kit(json!({"pool": ["203.0.113.0/31"], "ports": "1-50", "sessions": 64}));
        let mut model = std::collections::HashMap::new();
        for (host, port, remote_port, wait) in steps {
            kit.advance(Duration::from_secs(wait));
            kit.tick();
            let inside = Ipv4Addr::new(10, 0, 0, host);
            let packet = udp(inside, port, OUT, 53 + remote_port);
            let out = one(&mut kit, "left", &packet);
            if out.verdict != Verdict::Next { continue; }
            let seen = FlowKey::parse(&out.bytes).unwrap();
            let back = PacketBuilder::new().ipv4(OUT, match seen.src_ip() { IpAddr::V4(a) => a, IpAddr::V6(_) => unreachable!() })
                .udp(seen.dst_port, seen.src_port).build();
            prop_assert_eq!(flow(&mut kit, "right", &back), FlowKey::parse(&packet).unwrap().reverse());
            model.insert((seen.src, seen.src_port), (inside, port));
        }
        kit.advance(Duration::from_secs(400));
        kit.tick();
        prop_assert_eq!((kit.counter("sessions"), kit.counter("mappings"), kit.counter("hosts")), (0, 0, 0));
    }

    /// No bytes make the translator panic.
    #[test]
    fn random_bytes_are_harmless(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 1..70),
        ethertype in prop_oneof![Just([8u8, 0]), Just([0x86, 0xdd]), Just([0x81, 0]), Just([8, 6])],
    ) {
        let mut kit = kit(json!({"sources": ["0.0.0.0/1", "::/3"], "pool": ["203.0.113.1", "2001:db8::1"], "proxy_arp": true, "sessions": 16}));
        let packets: Vec<_> = packets.into_iter().map(|mut packet| {
            if let Some(place) = packet.get_mut(12..14) { place.copy_from_slice(&ethertype); }
            if packet.len() > 14 && packet[0] & 1 == 0 { packet[14] = if ethertype[0] == 8 { 0x45 } else { 0x60 }; }
            packet
        }).collect();
        prop_assert_eq!(kit.run("left", &packets).len(), packets.len());
        prop_assert_eq!(kit.run("right", &packets).len(), packets.len());
        kit.tick();
    }

    /// Damaged and cut copies of packets that matter are harmless, too.
    #[test]
    fn damaged_packets_are_harmless(which in 0usize..4, at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut kit = kit(json!({}));
        let sent = one(&mut kit, "left", &udp(IN, 5000, OUT, 53)).bytes;
        let mut packet = match which {
            0 => udp(OUT, 53, POOL, 5000),
            1 => icmp_error(OUT, POOL, &sent),
            2 => PacketBuilder::new().ipv4(OUT, POOL).ip_options(&[1; 8]).tcp(1, 5000, SYN).build(),
            _ => PacketBuilder::new().vlan(VlanTag::customer(1)).ipv4(OUT, POOL).echo_reply(1, 1).build(),
        };
        let at = at.index(packet.len());
        packet[at] = byte;
        packet.truncate(cut.index(packet.len() + 1));
        kit.run("right", &[&packet]);
        kit.run("left", &[&packet]);
    }
}
