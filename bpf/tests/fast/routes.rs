//! Which packets leave by the kernel's tables, and which the kernel gets: other chains' ports, IPv6, and options of IPv4.

use std::net::{Ipv4Addr, Ipv6Addr};

use middlenet_bpf::{KernelReason, Outcome, PortDevice, SourceCheck, Verdict};
use middlenet_fast_path::{Action, Mode, Shape};
use middlenet_tests::require_root;
use middlenet_wire::PacketBuilder;

use super::ends::Middle;
use super::lab::{Chain, DEVICE, LEFT, RIGHT, flow};

const SHAPE: Shape = Shape::of(&[Mode::Offloading]).flows(64);
const NEXT_HOST: &str = "02:00:00:00:07:09";
/// Of an IPv4 header behind the Ethernet header, and the same of IPv6.
const TTL: usize = 14 + 8;
const HOP_LIMIT: usize = 14 + 7;

/// A host that knows its neighbour on the right, by both versions of IP.
fn host() -> Middle {
    let host = Middle::new();
    let run = |program: &str, arguments: &[&str]| {
        host.middle.exec(program, arguments).unwrap_or_else(|error| panic!("{program} {arguments:?}: {error}"));
    };
    for device in ["eth0", "eth1"] {
        run("sysctl", &["-qw", &format!("net.ipv6.conf.{device}.disable_ipv6=0")]);
    }
    run("sysctl", &["-qw", "net.ipv6.conf.all.forwarding=1"]);
    run("ip", &["address", "add", "fd78::fe/64", "dev", "eth0", "nodad"]);
    run("ip", &["address", "add", "fd79::fe/64", "dev", "eth1", "nodad"]);
    for address in ["10.79.0.1", "fd79::1"] {
        run("ip", &["neigh", "replace", address, "lladdr", NEXT_HOST, "dev", "eth1", "nud", "permanent"]);
    }
    host
}

/// A chain whose packets leave by the kernel's tables, between ports that are these interfaces. Packets for others are those for `packet`.
fn chain(host: &Middle, packet: &[u8], right: &[u8]) -> Chain {
    chain_that_asks(host, packet, right, SourceCheck::Off)
}

/// The same, where the kernel asks whence packets come.
fn chain_that_asks(host: &Middle, packet: &[u8], right: &[u8], source_check: SourceCheck) -> Chain {
    let chain = Chain::new(1, SHAPE, |_, plan| {
        (plan.ends_by_kernel, plan.misses_to_kernel) = (true, true);
        plan.right = right.to_vec();
    });
    let mac = packet[..6].try_into().expect("six bytes");
    for (port, name) in [(LEFT, "eth0"), (RIGHT, "eth1")] {
        let direct = PortDevice { ifindex: host.index(name), mac, source_check, ..DEVICE };
        chain.paths.set_port(port, Some(direct)).expect("it is entered");
    }
    chain
}

/// Lets a known packet in at the left.
fn pass(host: &Middle, chain: &Chain, packet: &[u8]) -> Outcome {
    chain.maps[0].set_action(&flow(packet), Action::default());
    chain.left.pass(packet, host.index("eth0")).expect("it runs")
}

fn assert_forwarded(outcome: &Outcome, packet: &[u8], ttl: usize, what: &str) {
    assert_eq!((outcome.verdict, outcome.mark), (Verdict::Redirect, None), "{what}");
    assert_eq!(outcome.packet[..6], [2, 0, 0, 0, 7, 9], "{what}");
    assert_eq!(outcome.packet[ttl], packet[ttl] - 1, "{what}");
    super::model::assert_sums(&outcome.packet, packet);
}

fn assert_left_to_the_kernel(outcome: &Outcome, packet: &[u8], what: &str) {
    assert_eq!((outcome.verdict, outcome.mark), (Verdict::Pass, None), "{what}");
    assert_eq!(outcome.packet, packet, "{what}: as it came");
}

fn udp() -> PacketBuilder<'static> {
    PacketBuilder::new().ipv4(Ipv4Addr::new(10, 78, 0, 1), Ipv4Addr::new(10, 79, 0, 1)).udp(1, 2)
}

fn six(src: &str, dst: &str) -> PacketBuilder<'static> {
    let address = |text: &str| -> Ipv6Addr { text.parse().expect("an address") };
    PacketBuilder::new().ipv6(address(src), address(dst)).udp(1, 2)
}

#[test]
fn ports_of_other_chains_are_the_kernels_to_send_by() {
    require_root!();
    let host = host();
    host.middle
        .enter(|| {
            let packet = udp().build();
            let own = chain(&host, &packet, &[RIGHT]);
            assert_forwarded(&pass(&host, &own, &packet), &packet, TTL, "a port of this chain");
            // The same route, neighbour and interface, but a chain that has the left port alone, or another one beside it.
            for right in [&[][..], &[2, 64, 255]] {
                let other = chain(&host, &packet, right);
                assert_left_to_the_kernel(&pass(&host, &other, &packet), &packet, "a port of another chain");
                let counters = other.counters(0);
                assert_eq!((counters.sent_pkts, counters.kernel(KernelReason::NotForwarded)), (0, 1));
                other.assert_conserved();
            }
        })
        .expect("the namespace can be entered");
}

#[test]
fn ipv6_leaves_by_the_kernels_tables_as_well() {
    require_root!();
    let host = host();
    host.middle
        .enter(|| {
            let packet = six("fd78::1", "fd79::1").build();
            let chain = chain(&host, &packet, &[RIGHT]);
            assert_forwarded(&pass(&host, &chain, &packet), &packet, HOP_LIMIT, "IPv6");
            // Extension headers that are for the receiver are none of a router's business.
            let for_receiver = six("fd78::1", "fd79::1").extensions(60, &[17, 0, 1, 4, 0, 0, 0, 0]).build();
            assert_forwarded(&pass(&host, &chain, &for_receiver), &for_receiver, HOP_LIMIT, "destination options");
            let sent = chain.counters(0).sent_pkts;
            let for_each_hop = six("fd78::1", "fd79::1").extensions(0, &[17, 0, 1, 4, 0, 0, 0, 0]).build();
            let over = six("fd78::1", "fd79::1").ttl(1).build();
            let refused = [
                ("options for each hop", for_each_hop),
                ("a hop limit that is over", over),
                ("a source without address", six("::", "fd79::1").build()),
                ("a source of this host alone", six("::1", "fd79::1").build()),
                ("a multicast source", six("ff0e::1", "fd79::1").build()),
                ("a source of this link alone", six("fe80::1", "fd79::1").build()),
                ("a destination of this link alone", six("fd78::1", "fe80::2").build()),
                ("the host itself", six("fd78::1", "fd79::fe").build()),
                ("no route", six("fd78::1", "fd77::1").build()),
            ];
            for (what, packet) in &refused {
                assert_left_to_the_kernel(&pass(&host, &chain, packet), packet, what);
            }
            let unknown = six("fd78::1", "fd79::77").build();
            assert_left_to_the_kernel(&pass(&host, &chain, &unknown), &unknown, "a neighbour nobody knows");
            let counters = chain.counters(0);
            assert_eq!(counters.sent_pkts, sent);
            assert_eq!(counters.kernel(KernelReason::NotForwarded), refused.len() as u64, "{counters:?}");
            assert_eq!(counters.kernel(KernelReason::NoNeighbour), 1);
            chain.assert_conserved();
        })
        .expect("the namespace can be entered");
    // A host that does not route IPv6 is no router of it.
    host.middle.exec("sysctl", ["-qw", "net.ipv6.conf.all.forwarding=0"]).expect("sysctl");
    host.middle
        .enter(|| {
            let packet = six("fd78::1", "fd79::1").build();
            let chain = chain(&host, &packet, &[RIGHT]);
            assert_left_to_the_kernel(&pass(&host, &chain, &packet), &packet, "not forwarding");
            let packet = udp().build();
            assert_forwarded(&pass(&host, &chain, &packet), &packet, TTL, "IPv4 is");
        })
        .expect("the namespace can be entered");
}

#[test]
fn options_of_ipv4_are_the_kernels_to_read() {
    require_root!();
    let host = host();
    host.middle
        .enter(|| {
            let plain = udp().build();
            let chain = chain(&host, &plain, &[RIGHT]);
            // No operation, a route to be recorded, and one that it is to take.
            let options: [(&str, &[u8]); 3] = [
                ("no operation", &[1, 1, 1, 1]),
                ("record route", &[7, 7, 4, 0, 0, 0, 0, 0]),
                ("loose source route", &[131, 7, 4, 10, 79, 0, 9, 0]),
            ];
            for (what, options) in options {
                let packet = udp().ip_options(options).build();
                assert_left_to_the_kernel(&pass(&host, &chain, &packet), &packet, what);
            }
            let counters = chain.counters(0);
            assert_eq!((counters.sent_pkts, counters.kernel(KernelReason::NotForwarded)), (0, 3), "{counters:?}");
            assert_forwarded(&pass(&host, &chain, &plain), &plain, TTL, "without");
            chain.assert_conserved();
        })
        .expect("the namespace can be entered");
}

/// As `rp_filter` has it: what comes by the left port must be answered there, or anywhere.
#[test]
fn packets_that_come_from_elsewhere_are_the_kernels_to_refuse() {
    require_root!();
    let host = host();
    for device in ["eth0", "eth1"] {
        host.middle.exec("sysctl", ["-qw", &format!("net.ipv4.conf.{device}.rp_filter=0")]).expect("sysctl");
    }
    host.middle.exec("sysctl", ["-qw", "net.ipv4.conf.all.rp_filter=2"]).expect("sysctl");
    // The metric of the way there is nothing that the way back has to do with.
    for command in
        ["route del 10.79.0.0/24 dev eth1", "route add 10.79.0.0/24 dev eth1 metric 8", "rule add tos 8 blackhole"]
    {
        host.middle.exec("ip", command.split(' ')).expect(command);
    }
    host.middle
        .enter(|| {
            let left = host.index("eth0");
            assert_eq!(PortDevice::find(left).expect("an answer").source_check, SourceCheck::Loose, "the stricter one");
            let from = |source: [u8; 4]| {
                PacketBuilder::new().ipv4(source.into(), Ipv4Addr::new(10, 79, 0, 1)).udp(1, 2).build()
            };
            // The left network, which nobody has asked about; the right one; the host itself; and where no route leads.
            let sources = [[10, 78, 0, 77], [10, 79, 0, 7], [10, 78, 0, 254], [192, 0, 2, 1]];
            let passing = [
                (SourceCheck::Off, [true; 4]),
                (SourceCheck::Loose, [true, true, false, false]),
                (SourceCheck::Strict, [true, false, false, false]),
            ];
            for (check, expected) in passing {
                let chain = chain_that_asks(&host, &udp().build(), &[RIGHT], check);
                for (source, passes) in sources.into_iter().zip(expected) {
                    let (packet, what) = (from(source), format!("{check:?}, {source:?}"));
                    let outcome = pass(&host, &chain, &packet);
                    if passes {
                        assert_forwarded(&outcome, &packet, TTL, &what);
                    } else {
                        assert_left_to_the_kernel(&outcome, &packet, &what);
                    }
                }
                chain.assert_conserved();
            }
        })
        .expect("the namespace can be entered");
    host.middle.exec("sysctl", ["-qw", "net.ipv4.conf.eth0.rp_filter=1"]).expect("sysctl");
    host.middle.exec("sysctl", ["-qw", "net.ipv4.conf.all.rp_filter=0"]).expect("sysctl");
    let device = host.middle.enter(|| PortDevice::find(host.index("eth0")).expect("an answer"));
    assert_eq!(device.expect("the namespace can be entered").source_check, SourceCheck::Strict);
}
