//! How packets leave a chain: directly by an interface, or as the kernel's tables say.

use std::net::Ipv4Addr;
use std::time::Duration;

use middlenet_bpf::{Entry, FastPaths, KernelReason, Mode, PortDevice, SlowReason, SteeredPort, Trial, Verdict};
use middlenet_fast_path::{Action, Mode as Way, Rewrite, Shape, Then};
use middlenet_steer::{Flow, Tables};
use middlenet_tests::{End, Netns, Veth, require_root};
use middlenet_wire::PacketBuilder;
use nix::net::if_::if_nametoindex;

use super::lab::{Chain, DEVICE, LEFT, Maps, RIGHT, flow, port_tag, then};

const SHAPE: Shape = Shape::of(&[Way::Reactive]).flows(64);
const SOON: Duration = Duration::from_secs(10);

fn udp() -> Vec<u8> {
    PacketBuilder::new().ipv4(Ipv4Addr::new(10, 78, 0, 1), Ipv4Addr::new(10, 79, 0, 1)).udp(1, 2).build()
}

#[test]
fn packets_leave_directly_by_ports_that_take_them() {
    require_root!();
    let chain = Chain::new(1, SHAPE, |_, _| ());
    let packet = udp();
    chain.maps[0].set_action(&flow(&packet), Action::default());
    let tag = || chain.forward(&packet).mark.map(|mark| mark.tag);
    assert_eq!(tag(), Some(port_tag(RIGHT)), "by the slow path at first");
    // Nothing is sent: the program's decision is all there is.
    let longest = packet.len() as u32 - 18;
    chain.paths.set_port(RIGHT, Some(PortDevice { mtu: longest, ..DEVICE })).expect("loopback");
    let outcome = chain.forward(&packet);
    assert_eq!((outcome.verdict, outcome.mark), (Verdict::Redirect, None));
    assert_eq!(chain.counters(0).sent_pkts, 1);
    chain.paths.set_port(RIGHT, Some(PortDevice { mtu: longest - 1, ..DEVICE })).expect("loopback");
    assert_eq!(tag(), Some(port_tag(RIGHT)), "too long");
    chain.paths.set_port(RIGHT, None).expect("it is forgotten");
    chain.paths.set_port(RIGHT, None).expect("twice");
    assert_eq!(tag(), Some(port_tag(RIGHT)));
    let counters = chain.counters(0);
    assert_eq!((counters.sent_pkts, counters.slow(SlowReason::End)), (1, 3));
    assert!(chain.paths.set_port(RIGHT, Some(PortDevice { ifindex: 999_999, ..DEVICE })).is_err());
    chain.assert_conserved();
}

/// A host between two others, which runs the chain.
#[derive(Debug)]
pub(crate) struct Middle {
    pub(crate) left: Netns,
    pub(crate) middle: Netns,
    pub(crate) right: Netns,
    _cables: [Veth; 2],
}

impl Middle {
    pub(crate) fn new() -> Self {
        let [left, middle, right] = ["left", "middle", "right"].map(|name| Netns::new(name).expect("a namespace"));
        let cable = |other: &Netns, at: &str, net: u8| {
            Veth::between(
                &End::new(&middle, at).address(&format!("10.{net}.0.254/24")).without_ipv6(),
                &End::new(other, "eth0").address(&format!("10.{net}.0.1/24")).without_ipv6(),
            )
            .expect("a cable")
        };
        let cables = [cable(&left, "eth0", 78), cable(&right, "eth1", 79)];
        let run = |netns: &Netns, program: &str, arguments: &[&str]| {
            netns.exec(program, arguments).unwrap_or_else(|error| panic!("{program} {arguments:?}: {error}"));
        };
        for (netns, gateway) in [(&left, "10.78.0.254"), (&right, "10.79.0.254")] {
            run(netns, "ip", &["route", "add", "default", "via", gateway]);
            // A veth takes packets from programs while its peer has this.
            run(netns, "ethtool", &["-K", "eth0", "gro", "on", "tx", "off"]);
        }
        run(&middle, "sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
        Self { left, middle, right, _cables: cables }
    }

    pub(crate) fn index(&self, name: &str) -> u32 {
        self.middle.enter(|| if_nametoindex(name).expect("it is there")).expect("the namespace can be entered")
    }
}

fn echo(src: Ipv4Addr, dst: Ipv4Addr, id: u16) -> Flow {
    Flow { vlan: 0, src: src.into(), dst: dst.into(), protocol: 1, src_port: id, dst_port: id }
}

/// Pings pass two interfaces in the kernel alone: no socket is there that could take them.
#[test]
fn packets_on_the_wire_leave_by_the_kernels_tables() {
    require_root!();
    let host = Middle::new();
    let ports = [("eth0", LEFT), ("eth1", RIGHT)].map(|(name, port)| (host.index(name), port));
    host.middle
        .enter(|| {
            let paths = FastPaths::new(1, 2).expect("maps");
            let plan = middlenet_bpf::StagePlan {
                shape: Shape::of(&[Way::Offloading]).prefixes(4, 0).rules(1),
                misses_to_kernel: true,
                ends_by_kernel: true,
                next_forward: middlenet_bpf::Target::Egress,
                next_reverse: middlenet_bpf::Target::Egress,
                outputs: Vec::new(),
                left: LEFT,
                right: vec![RIGHT],
            };
            let maps = Maps(paths.load_stage(0, &plan).unwrap_or_else(|error| panic!("{error}")));
            let tables = Tables::compile(&[], middlenet_steer::Action::Tag(0)).expect("no rule");
            let attached = ports.map(|(ifindex, port)| {
                let entry = [Entry { chain: 0, hop: 0, reverse: port == RIGHT }];
                let fast = paths.port(port, &entry).expect("a map");
                let steered = SteeredPort::load_fast(ifindex, &tables, fast).expect("it loads");
                steered.attach(Mode::Native).expect("it attaches")
            });
            for (ifindex, port) in ports {
                let device = PortDevice::find(ifindex).expect("an answer");
                assert!(device.takes_redirects && device.ifindex == ifindex && device.mtu == 1500, "{device:?}");
                assert_ne!(device.mac, [0; 6]);
                paths.set_port(port, Some(device)).expect("it is entered");
            }
            // Nothing matches: the kernel forwards, and gets to know its neighbours.
            host.left.wait_for_ping("10.79.0.1", SOON).expect("by the kernel");
            let before = paths.counters(0).expect("counters");
            assert_eq!(before.sent_pkts, 0);
            assert!(before.kernel(KernelReason::Miss) >= 2);

            maps.set_rule(0, &Action::default());
            maps.set_src(&"0.0.0.0/0".parse().expect("a prefix"), 0);
            let said = host.left.exec("ping", ["-c", "20", "-i", "0.02", "-W", "2", "10.79.0.1"]).expect("ping").stdout;
            assert!(said.contains("20 received") && said.contains("ttl=63"), "{said}");
            let after = paths.counters(0).expect("counters");
            assert_eq!(after.sent_pkts, 40, "there and back: {after:?}");
            // What is for the host itself stays there.
            host.left.wait_for_ping("10.78.0.254", SOON).expect("an answer");
            assert!(paths.counters(0).expect("counters").kernel(KernelReason::NotForwarded) >= 1);
            // A neighbour that is not known: the kernel asks, and there is nobody.
            let _ = host.left.exec("ping", ["-c", "1", "-W", "1", "10.79.0.77"]);
            assert!(paths.counters(0).expect("counters").kernel(KernelReason::NoNeighbour) >= 1);
            // TTL that is over: the kernel says so.
            let ping = "ping -c 1 -t 1 -W 2 10.79.0.1 || true";
            let said = host.left.exec("sh", ["-c", ping]).expect("a shell").stdout;
            assert!(said.contains("Time to live exceeded"), "{said}");
            // Also where a rule was to lower it, and what is too large for its rule the kernel forwards.
            let rewrite = Rewrite { lower_ttl: true, ..Rewrite::default() };
            maps.set_rule(0, &Action { rewrite, mtu: Some(600), ..Action::default() });
            let said = host.left.exec("sh", ["-c", ping]).expect("a shell").stdout;
            assert!(said.contains("Time to live exceeded"), "{said}");
            let said = host.left.exec("ping", ["-c", "1", "-s", "1000", "-W", "2", "10.79.0.1"]).expect("ping").stdout;
            assert!(said.contains("1 received"), "{said}");
            let counters = paths.counters(0).expect("counters");
            assert_eq!(
                (counters.kernel(KernelReason::Ttl), counters.kernel(KernelReason::Mtu)),
                (1, 2),
                "{counters:?}"
            );
            drop(attached);
        })
        .expect("the namespace can be entered");
    host.right.wait_for_ping("10.78.0.1", SOON).expect("by the kernel alone");
}

/// A chain of two ports without an address: pings pass by their flows, out of the port that the chain has on the other side.
#[test]
fn packets_on_the_wire_leave_by_the_ports_of_the_chain() {
    require_root!();
    let [left, middle, right] = ["left", "middle", "right"].map(|name| Netns::new(name).expect("a namespace"));
    let cable = |other: &Netns, at: &str, address: &str| {
        Veth::between(&End::new(&middle, at).without_ipv6(), &End::new(other, "eth0").address(address).without_ipv6())
            .expect("a cable")
    };
    let _cables = [cable(&left, "eth0", "10.78.0.1/24"), cable(&right, "eth1", "10.78.0.2/24")];
    let macs = [&left, &right].map(|netns| netns.mac("eth0").expect("an address"));
    for (netns, peer, mac) in [(&left, "10.78.0.2", &macs[1]), (&right, "10.78.0.1", &macs[0])] {
        netns.exec("ip", ["neigh", "replace", peer, "lladdr", mac, "dev", "eth0", "nud", "permanent"]).expect("ip");
        netns.exec("ethtool", ["-K", "eth0", "gro", "on", "tx", "off"]).expect("ethtool");
    }
    let ports = [("eth0", LEFT), ("eth1", RIGHT)].map(|(name, port)| {
        (middle.enter(|| if_nametoindex(name).expect("it is there")).expect("the namespace can be entered"), port)
    });
    middle
        .enter(|| {
            let chain = Chain::new(2, SHAPE, |_, _| ());
            let tables = Tables::compile(&[], middlenet_steer::Action::Tag(0)).expect("no rule");
            let _attached = ports.map(|(ifindex, port)| {
                let (hop, reverse) = if port == LEFT { (0, false) } else { (1, true) };
                let fast = chain.paths.port(port, &[Entry { chain: 0, hop, reverse }]).expect("a map");
                SteeredPort::load_fast(ifindex, &tables, fast)
                    .expect("it loads")
                    .attach(Mode::Native)
                    .expect("it attaches")
            });
            for (ifindex, port) in ports {
                let device = PortDevice::find(ifindex).expect("an answer");
                chain.paths.set_port(port, Some(device)).expect("it is entered");
            }
            let (one, two) = (Ipv4Addr::new(10, 78, 0, 1), Ipv4Addr::new(10, 78, 0, 2));
            for maps in &chain.maps {
                maps.set_action(&echo(one, two, 4242), Action::default());
                maps.set_action(&echo(two, one, 4242), then(Then::Port(LEFT)));
            }
            let said =
                left.exec("ping", ["-c", "20", "-i", "0.02", "-W", "2", "-e", "4242", "10.78.0.2"]).expect("ping");
            assert!(said.stdout.contains("20 received"), "{}", said.stdout);
            assert_eq!((chain.counters(0).sent_pkts, chain.counters(1).sent_pkts), (20, 20));
            assert_eq!((chain.counters(0).entered_pkts, chain.counters(1).entered_pkts), (20, 20));
            chain.assert_conserved();
        })
        .expect("the namespace can be entered");
}

/// What the kernel's tables say of a packet, without a wire.
#[test]
fn the_kernels_tables_write_the_ethernet_header() {
    require_root!();
    let host = Middle::new();
    let left = host.index("eth0");
    let right = host.index("eth1");
    host.middle
        .exec("ip", ["neigh", "replace", "10.79.0.1", "lladdr", "02:00:00:00:07:09", "dev", "eth1", "nud", "permanent"])
        .expect("ip");
    host.middle
        .enter(|| {
            let chain = Chain::new(1, SHAPE, |_, plan| plan.ends_by_kernel = true);
            let packet = udp();
            chain.maps[0].set_action(&flow(&packet), Action::default());
            let pass = |trial: &Trial| trial.pass(&packet, left).expect("it runs");
            assert_eq!(pass(&chain.left).verdict, Verdict::Pass, "the interface is no port of the run");
            chain.paths.set_port(RIGHT, Some(PortDevice { ifindex: right, ..DEVICE })).expect("it is entered");
            assert_eq!(pass(&chain.left).verdict, Verdict::Pass, "the packet is for another host");
            // What takes no packets from programs of other interfaces has an address all the same.
            let mac = packet[..6].try_into().expect("six bytes");
            let device = PortDevice { ifindex: left, mac, takes_redirects: false, ..DEVICE };
            chain.paths.set_port(LEFT, Some(device)).expect("it is entered");
            for source in [[0, 0, 0, 1], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255]] {
                let packet = PacketBuilder::new().ipv4(source.into(), Ipv4Addr::new(10, 79, 0, 1)).udp(1, 2).build();
                chain.maps[0].set_action(&flow(&packet), Action::default());
                assert_eq!(chain.left.pass(&packet, left).expect("it runs").verdict, Verdict::Pass, "{source:?}");
            }
            let outcome = pass(&chain.left);
            assert_eq!((outcome.verdict, outcome.mark), (Verdict::Redirect, None));
            assert_eq!(outcome.packet[..6], [2, 0, 0, 0, 7, 9]);
            assert_eq!(outcome.packet[14 + 8], packet[14 + 8] - 1, "the TTL");
            super::model::assert_sums(&outcome.packet, &packet);
            // A function that has chosen a port is obeyed.
            chain.maps[0].set_action(&flow(&packet), then(Then::Port(LEFT)));
            assert_eq!(pass(&chain.left).mark.map(|mark| mark.tag), Some(port_tag(LEFT)));
            chain.assert_conserved();
        })
        .expect("the namespace can be entered");
}
