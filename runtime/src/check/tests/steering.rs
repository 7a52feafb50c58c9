//! Steering rules: what they become, and what is refused.

use super::*;
use middlenet_plan::{Destination, SteeringPlan};
use middlenet_steer::{Action, Head, Match};

const PORTS: &str = "name: edge
ports:
  wan: { xdp: veth-wan }
  lan: { xdp: veth-lan }
  host: { kernel: { interface: mn-host } }
  fast: { dpdk: net_null0 }
chains:
  transit: { ports: [wan, lan], functions: [monitor] }
  front: { ports: [wan, host], functions: [monitor] }
  rest: { ports: [fast], functions: [monitor] }
  web: { layer: l4l7, listen: [\"10.1.0.1:80\", \"[2001:db8::12:3456]:80\"], upstreams: [\"10.2.0.10:80\"] }
steering:
";

fn steering(rules: &str) -> SteeringPlan {
    let plan = planned(&format!("{PORTS}{rules}"));
    plan.manager.unwrap().ports[0].steering.clone().unwrap()
}

fn refusals(rules: &str) -> Vec<String> {
    errors(&format!("{PORTS}{rules}"))
}

#[test]
fn every_field_is_read() {
    let plan = steering(
        "  wan:
    - { name: all, vlan: [untagged, 12], src_mac: 02:00:00:00:00:01, dst_mac: [\"02:00:00:00:00:02\"], ether_type: [ipv4, 0x88b5],
        src: 10.0.0.0/8, dst: [10.1.0.1, 10.2.0.0/16], proto: [tcp, 17], src_port: 1000-2000, dst_port: [80, 443], fragment: false,
        to: transit }
    - { arp: 10.1.0.1, to: kernel }
    - { dst: 10.9.0.0/16, to: lan }
    - { proto: gre, to: drop }
    - { to: front }
",
    );
    let expected = Match {
        vlans: vec![0, 12],
        src_macs: vec![[2, 0, 0, 0, 0, 1]],
        dst_macs: vec![[2, 0, 0, 0, 0, 2]],
        ether_types: vec![0x0800, 0x88b5],
        src: vec!["10.0.0.0/8".parse().unwrap()],
        dst: vec!["10.1.0.1".parse().unwrap(), "10.2.0.0/16".parse().unwrap()],
        arp_targets: Vec::new(),
        protocols: vec![6, 17],
        src_ports: vec![middlenet_steer::PortRange { first: 1000, last: 2000 }],
        dst_ports: vec![80.into(), 443.into()],
        fragments: Some(false),
    };
    assert_eq!((plan.rules[0].name.as_str(), &plan.rules[0].matches), ("all", &expected));
    let actions: Vec<_> = plan.rules.iter().map(|rule| rule.action).collect();
    let tag = |destination: Destination| Action::Tag(destination.tag());
    let (transit, lan) = (tag(Destination::Chain(0)), tag(Destination::Port(1)));
    assert_eq!(actions, [transit, Action::Kernel, lan, Action::Drop]);
    assert_eq!((plan.default, plan.to.join(" ")), (tag(Destination::Chain(1)), "transit kernel lan drop front".into()));
}

#[test]
fn a_chain_of_messages_gets_what_its_listeners_need() {
    let plan = steering("  wan: [{ to: web }, { to: transit }]\n");
    let reaches =
        |head: &Head| plan.rules.iter().any(|rule| rule.matches.matches(head) && rule.action == Action::Kernel);
    let ip = |dst: &str, protocol: u8, port: Option<u16>| {
        let dst: std::net::IpAddr = dst.parse().unwrap();
        Head {
            ether_type: if dst.is_ipv4() { 0x0800 } else { 0x86dd },
            src: Some(dst),
            dst: Some(dst),
            protocol: Some(protocol),
            src_port: port.map(|_| 40_000),
            dst_port: port,
            ..Head::default()
        }
    };
    assert!(reaches(&ip("10.1.0.1", 6, Some(80))) && reaches(&ip("2001:db8::12:3456", 6, Some(80))));
    assert!(
        reaches(&ip("10.1.0.1", 1, None)) && reaches(&ip("2001:db8::12:3456", 58, None)),
        "errors about connections"
    );
    assert!(reaches(&ip("ff02::1:ff12:3456", 58, None)), "the question for its link address");
    let arp = |target: &str| Head { ether_type: 0x0806, arp_target: Some(target.parse().unwrap()), ..Head::default() };
    assert!(reaches(&arp("10.1.0.1")) && !reaches(&arp("10.1.0.2")));
    assert!(!reaches(&ip("10.1.0.1", 6, Some(81))) && !reaches(&ip("10.1.0.2", 6, Some(80))));
    // With conditions of its own a rule means those alone.
    let plan = steering("  wan: [{ src: 10.0.0.0/8, to: web }, { to: transit }]\n");
    assert_eq!((plan.rules.len(), plan.rules[0].matches.dst.len()), (1, 0));
}

#[test]
fn what_cannot_be_steered_is_refused() {
    let cases = [
        ("  wan: [{ to: web }]", "the rules of `wan` do not say what becomes of all other packets"),
        ("  wann: [{ to: kernel }]", "there is no port `wann`|did you mean `wan`?"),
        ("  wan: [{ to: transitt }]", "there is no chain or port `transitt`|did you mean `transit`?"),
        ("  wan: [{ to: rest }]", "the chain `rest` does not have the port `wan`"),
        ("  wan: [{ to: kernel }, { dst: 10.0.0.1, to: transit }]", "rule 2 of `wan` is never reached"),
        (
            "  wan: [{ dst: 10.0.0.1/8, to: kernel }, { to: transit }]",
            "`dst`: `10.0.0.1/8` has address bits beyond its length",
        ),
        (
            "  wan: [{ dst_port: 90-80, to: kernel }, { to: transit }]",
            "`dst_port`: `90-80` is no port or range of ports",
        ),
        ("  wan: [{ proto: quic, to: kernel }, { to: transit }]", "`proto`: `quic` is not known"),
        ("  wan: [{ vlan: 4095, to: kernel }, { to: transit }]", "`vlan`: `4095` is no VLAN"),
        ("  wan: [{ arp: \"::1\", to: kernel }, { to: transit }]", "`arp`: ARP asks for addresses of IPv4"),
        ("  wan: [{ src: [], to: kernel }, { to: transit }]", "`src` is an empty list, which nothing matches"),
        (
            "  wan: [{ dts: 10.0.0.1, to: kernel }, { to: transit }]",
            "unknown key `dts` in `rule 1 of wan`|did you mean `dst`?",
        ),
        ("  wan: [{ dst: 10.0.0.1 }, { to: transit }]", "the key `to` of `rule 1 of wan` is missing"),
        (
            "  wan: [{ name: a, vlan: 1, to: drop }, { name: a, vlan: 2, to: drop }, { to: transit }]",
            "two rules of `wan` are called `a`",
        ),
        (
            "  wan: [{ to: transit }]\n  host: [{ to: kernel }]",
            "`host` is a kernel port: its packets come from the kernel",
        ),
        (
            "  wan: [{ to: transit }]\n  fast: [{ vlan: 3, to: kernel }]",
            "`fast` is a DPDK port: the kernel does not see its packets",
        ),
        ("  wan: { to: transit }", "expected a list"),
    ];
    for (rules, expected) in cases {
        let found = refusals(&format!("{rules}\n"));
        assert!(found.iter().any(|error| error.contains(expected)), "{rules}: {found:#?}");
    }
    let found = refusals("  lan: [{ to: transit }]\n");
    assert!(found[0].contains("the port `wan` is in 2 chains: transit, front|say under `steering"), "{found:?}");
}

#[test]
fn rules_change_while_they_run_but_do_not_come_or_go() {
    let plan = |rules: &str| planned(&format!("{PORTS}{rules}"));
    let before = plan("  wan: [{ to: web }, { to: transit }]\n");
    let after = plan("  wan: [{ vlan: 7, to: drop }, { to: front }]\n");
    let Difference { changes, structural } = Difference::between(&before, &after);
    assert!(structural.is_empty(), "{structural:?}");
    assert_eq!((changes.len(), changes[0].label.as_str()), (1, "steering of wan"));
    assert!(matches!(&changes[0].piece, Piece::Steering { port: 0, steering } if steering.rules.len() == 1));
    let more = plan("  wan: [{ to: transit }]\n  lan: [{ to: transit }]\n");
    assert_eq!(Difference::between(&before, &more).structural, ["port `lan` would be made differently"]);
}

#[test]
fn rules_that_do_nothing_are_told_of() {
    let notes = |rules: &str| planned(&format!("{PORTS}  wan: [{rules}{{ to: transit }}]\n")).runtime.notes;
    let covered = notes(
        "{ name: wide, dst: 10.0.0.0/8, to: drop }, { name: narrow, dst: 10.1.0.0/16, proto: tcp, to: kernel }, ",
    );
    let expected = "steering of `wan`: rule narrow does nothing: rule wide takes all its packets before";
    assert!(covered.iter().any(|note| note == expected), "{covered:#?}");
    let never = notes("{ src: 10.0.0.0/8, ether_type: ipv6, to: drop }, ");
    assert!(
        never.iter().any(|note| note.contains("rule #1 does nothing: what it asks for contradicts itself")),
        "{never:#?}"
    );
    assert!(notes("{ dst: 10.0.0.0/8, to: drop }, ").iter().all(|note| !note.contains("does nothing")));
}

#[test]
fn where_a_function_may_steer_is_no_change_to_a_running_chain() {
    let plan = |to: &str| {
        let source = PORTS.replace(
            "functions: [monitor] }\n  front",
            &format!("functions: [{{ m: {{ use: monitor, steer: {{ out: {to} }} }} }}] }}\n  front"),
        );
        planned(&format!("{source}  wan: [{{ to: transit }}]\n"))
    };
    let (before, after) = (plan("lan"), plan("drop"));
    let hop = &packets(&before).hops[0];
    assert_eq!((hop.steering[0].name.as_str(), hop.steering[0].ports.as_slice()), ("out", [0].as_slice()));
    let structural = Difference::between(&before, &after).structural;
    assert!(structural.iter().any(|line| line == "function `transit/m` would be made differently"), "{structural:?}");
}
