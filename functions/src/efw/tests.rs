use super::nesting::Ranges;
use super::*;
use crate::firewall::prefix::number;
use middlenet_fast_path::prefix_key;
use middlenet_sdk::testkit::{Outcome, Testkit};
use middlenet_sdk::wire::{PacketBuilder, TcpFlags};
use middlenet_steer::testkit::Draw;
use proptest::prelude::*;
use std::net::IpAddr;

fn tcp(src: &str, dst: &str, port: u16) -> Vec<u8> {
    PacketBuilder::new()
        .ipv4(src.parse().unwrap(), dst.parse().unwrap())
        .tcp(40000, port, TcpFlags::SYN)
        .payload(b"x")
        .build()
}

fn verdicts(outcomes: &[Outcome]) -> Vec<Verdict> {
    outcomes.iter().map(|outcome| outcome.verdict).collect()
}

const DENIED: Verdict = Verdict::Drop(DropReason::DENIED);

#[test]
fn the_first_rule_that_matches_decides_across_matchers_and_within_prefixes() {
    let mut kit = Testkit::<Efw>::new(json!({"rules": [
        {"dst": "10.1.0.0/16", "allow": true},
        {"dst_port": 22, "allow": false},
        {"dst": "10.0.0.0/8", "allow": false},
        {"dst": "10.1.2.3", "allow": false},
        {"src": "192.0.2.0/24", "allow": true, "name": "friends"},
    ]}));
    let packets = [
        tcp("198.51.100.1", "10.1.2.3", 22), // the prefix around the address comes first
        tcp("192.0.2.1", "10.2.0.1", 80),
        tcp("192.0.2.1", "172.16.0.1", 22),
        tcp("192.0.2.1", "172.16.0.1", 80),
        tcp("198.51.100.1", "172.16.0.1", 80),
    ];
    let outcomes = kit.run("left", &packets);
    assert_eq!(verdicts(&outcomes), [Verdict::Next, DENIED, DENIED, Verdict::Next, Verdict::Next]);
    assert_eq!((kit.counter("allowed"), kit.counter("denied"), kit.counter("unmatched")), (2, 2, 1));
    let report = kit.report();
    let packets: Vec<_> = (0..5).map(|i| report["rules"][i]["packets"].as_u64().unwrap()).collect();
    assert_eq!(packets, [1, 1, 1, 0, 1]);
    assert_eq!(report["rules"][4]["name"], "friends");
    assert!(report["rules"][0]["bytes"].as_u64().unwrap() > 40);
}

#[test]
fn allowed_packets_take_the_output_that_is_connected() {
    let config = json!({"rules": [{"dst_port": 80, "allow": true}, {"dst_port": 81, "allow": false}]});
    let mut kit = Testkit::<Efw>::with_outputs(config, &Testkit::<Efw>::two_ports(), &["other", "allowed"]).unwrap();
    let packets = [80, 81, 82].map(|port| tcp("10.0.0.1", "10.0.0.2", port));
    let outcomes = kit.run("left", &packets);
    assert_eq!(verdicts(&outcomes), [Verdict::Output(Output(1)), DENIED, Verdict::Next]);
}

#[test]
fn fragments_have_addresses_and_no_ports() {
    let mut kit = Testkit::<Efw>::new(json!({"rules": [
        {"dst_port": 80, "allow": false},
        {"src": "10.0.0.9", "allow": false},
    ]}));
    let mut first = tcp("10.0.0.1", "10.0.0.2", 80);
    first[20] = 0x20;
    let mut of_host = tcp("10.0.0.9", "10.0.0.2", 443);
    of_host[20] = 0x20;
    let outcomes = kit.run("left", &[first, of_host, vec![0; 14], vec![]]);
    assert_eq!(verdicts(&outcomes), [Verdict::Next, DENIED, Verdict::Next, Verdict::Next]);
}

#[test]
fn prefixes_of_ipv6_say_nothing_about_ipv4() {
    let mut kit = Testkit::<Efw>::new(json!({"rules": [{"src": "::/0", "allow": false}]}));
    let v6 = PacketBuilder::new().ipv6("2001:db8::1".parse().unwrap(), "::1".parse().unwrap()).udp(1, 2).build();
    let outcomes = kit.run("left", &[tcp("10.0.0.1", "10.0.0.2", 80), v6]);
    assert_eq!(verdicts(&outcomes), [Verdict::Next, DENIED]);
}

#[test]
fn what_cannot_be_one_matcher_is_refused_with_a_hint() {
    let refused = |rule: Value| Testkit::<Efw>::try_new(json!({"rules": [rule]})).err().expect("a refusal");
    let two = refused(json!({"src": "10.0.0.0/8", "dst_port": 80, "allow": true}));
    assert!(two.message.contains("more than one thing") && two.hint.unwrap().contains("firewall"));
    let protocol = refused(json!({"src": "10.0.0.0/8", "proto": "tcp", "allow": true}));
    assert!(protocol.hint.unwrap().contains("nftables"));
    assert!(refused(json!({"dst_port": 80, "proto": "sctp", "allow": true})).message.contains("sctp"));
    assert!(refused(json!({"allow": true})).message.contains("asks for nothing"));
    assert!(refused(json!({"src": [], "allow": true})).message.contains("empty"));
    assert!(refused(json!({"src": "10.0.0.1/8", "allow": true})).message.contains("10.0.0.0/8"));
    assert!(refused(json!({"dst": "::ffff:10.0.0.0/104", "allow": true})).hint.unwrap().contains("10.0.0.0/8"));
    assert!(refused(json!({"dst_port": "20-10", "allow": true})).message.contains("20-10"));
    assert!(refused(json!({"dst_port": 80})).message.contains("allow"));
}

#[test]
fn counts_of_rules_that_stay_go_on() {
    let rule = |port: u16| json!({"dst_port": port, "allow": true});
    let mut kit = Testkit::<Efw>::new(json!({"rules": [rule(80), rule(81)]}));
    kit.run("left", &[tcp("10.0.0.1", "10.0.0.2", 80), tcp("10.0.0.1", "10.0.0.2", 81)]);
    kit.reconfigure(json!({"rules": [rule(82), rule(81), {"dst_port": 80, "allow": false}]})).unwrap();
    kit.run("left", &[tcp("10.0.0.1", "10.0.0.2", 81), tcp("10.0.0.1", "10.0.0.2", 80)]);
    let report = kit.report();
    let packets: Vec<_> = (0..3).map(|i| report["rules"][i]["packets"].as_u64().unwrap()).collect();
    assert_eq!(packets, [0, 2, 1]);
}

/// A rule whose one matcher is drawn from few values.
fn matcher() -> impl Strategy<Value = Matcher> {
    let prefix = any::<u64>().prop_filter_map("a rule without prefixes", |seed| {
        let rule = Draw::from_seed(seed).rule();
        rule.matches.src.into_iter().chain(rule.matches.dst).next()
    });
    let prefixes = prop::collection::vec(prefix, 1..4);
    let ports = prop::collection::vec((0_u16..1100, 0_u16..100), 1..3)
        .prop_map(|ports| ports.iter().map(|&(first, more)| (first, first + more)).collect::<Vec<_>>());
    let protocols = prop::sample::select(vec![vec![6], vec![17], vec![6, 17]]);
    prop_oneof![
        prefixes.clone().prop_map(Matcher::Src),
        prefixes.prop_map(Matcher::Dst),
        (protocols.clone(), ports.clone()).prop_map(|(protocols, ports)| Matcher::SrcPorts(protocols, ports)),
        (protocols, ports).prop_map(|(protocols, ports)| Matcher::DstPorts(protocols, ports)),
    ]
}

/// What a rule means, one packet at a time.
fn matches(matcher: &Matcher, head: &Head) -> bool {
    let (Some(src), Some(dst), Some(protocol)) = (head.src, head.dst, head.protocol) else { return false };
    let holds = |prefixes: &[Prefix], address| prefixes.iter().any(|prefix| prefix.contains(address));
    let in_ports = |protocols: &[u8], ports: &[(u16, u16)], port: Option<u16>| {
        let fits = |port: u16| ports.iter().any(|&(first, last)| (first..=last).contains(&port));
        protocols.contains(&protocol) && !head.fragment && port.is_some_and(fits)
    };
    match matcher {
        Matcher::Src(prefixes) => holds(prefixes, src),
        Matcher::Dst(prefixes) => holds(prefixes, dst),
        Matcher::SrcPorts(protocols, ports) => in_ports(protocols, ports, head.src_port),
        Matcher::DstPorts(protocols, ports) => in_ports(protocols, ports, head.dst_port),
    }
}

/// What the fast path does with a rule table: the longest prefixes and the ports each name a rule, the lowest of them decides.
fn fast(table: &RuleTable, head: &Head) -> Option<Then> {
    let (Some(src), Some(dst), Some(protocol)) = (head.src, head.dst, head.protocol) else { return None };
    let longest = |prefixes: &[(Prefix, u32)], address: IpAddr| {
        // As `by_prefix` in the kernel's program looks an address up in a map of these keys.
        let asked = prefix_key(&Prefix::from(address));
        let bits = |key: &[u8]| u32::from_ne_bytes(key[..4].try_into().unwrap());
        let holds = |key: &[u8]| {
            (0..bits(key) as usize).all(|bit| (key[4 + bit / 8] ^ asked[4 + bit / 8]) & (0x80 >> (bit % 8)) == 0)
        };
        let keys = prefixes.iter().map(|(prefix, rule)| (prefix_key(prefix), *rule));
        let found = keys.filter(|(key, _)| holds(key)).max_by_key(|(key, _)| bits(key));
        found.map(|(_, rule)| rule)
    };
    let named = |ports: &[(u8, u16, u32)], port: Option<u16>| {
        let port = port.filter(|_| !head.fragment)?;
        ports.iter().find(|&&(of, number, _)| (of, number) == (protocol, port)).map(|&(.., rule)| rule)
    };
    let rules = [
        longest(&table.src, src),
        longest(&table.dst, dst),
        named(&table.src_ports, head.src_port),
        named(&table.dst_ports, head.dst_port),
    ];
    let rule = rules.into_iter().flatten().min()?;
    Some(table.rules[rule as usize].then)
}

proptest! {
    /// Both paths do what the rules say, with any packet.
    #[test]
    fn both_paths_decide_as_the_rules_say(
        matchers in prop::collection::vec((matcher(), any::<bool>()), 0..24),
        seeds in prop::collection::vec(any::<u64>(), 1..24),
    ) {
        let (matchers, allows): (Vec<Matcher>, Vec<bool>) = matchers.into_iter().unzip();
        let table = Table::new(&matchers);
        let rules: Vec<Rule> = matchers.iter().zip(&allows).map(|(matcher, &allow)| Rule {
            name: None, matcher: matcher.clone(), allow, counted: Counted::default(),
        }).collect();
        let for_kernel = rule_table(&rules, &table, Some(Output(3)));
        for seed in seeds {
            let frame = Draw::from_seed(seed).frame();
            let Some(head) = Head::parse(&frame) else { continue };
            let expected = matchers.iter().position(|matcher| matches(matcher, &head));
            prop_assert_eq!(table.decide(&head), expected.map(|rule| rule as u32));
            let then = match expected {
                Some(rule) if allows[rule] => Some(Then::Output(3)),
                Some(_) => Some(Then::Drop(DropReason::DENIED.0)),
                None => None,
            };
            prop_assert_eq!(fast(&for_kernel, &head), then);
        }
    }

    /// The ranges hold what the prefixes say, at their edges and anywhere.
    #[test]
    fn ranges_name_the_lowest_rule_around(
        prefixes in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..30),
        addresses in prop::collection::vec(any::<u32>(), 1..30),
    ) {
        let prefixes: Vec<(Prefix, u32)> = (0..).zip(prefixes).map(|(rule, (bits, length))| {
            (Prefix::new(IpAddr::V4((bits & 0xc0c0_00ff).into()), length).unwrap(), rule)
        }).collect();
        let (_, ranges) = Ranges::nest(prefixes.clone());
        let edges = prefixes.iter().flat_map(|(prefix, _)| {
            let first = number(prefix.address()) as u32;
            [first, first.wrapping_sub(1), first | u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0)]
        });
        for bits in edges.collect::<Vec<_>>().into_iter().chain(addresses) {
            let address = IpAddr::V4(bits.into());
            let expected = prefixes.iter().filter(|(prefix, _)| prefix.contains(address)).map(|&(_, rule)| rule).min();
            prop_assert_eq!(ranges.find(number(address)), expected);
        }
    }
}

mod with_a_fast_path {
    use super::*;
    use middlenet_sdk::fast_path::flow_of;
    use middlenet_sdk::wire::FlowKey;

    fn kit(config: Value, mode: Mode) -> Testkit<Efw> {
        let ports = Testkit::<Efw>::two_ports();
        Testkit::with_fast_path_on(config, mode, ports, &["allowed"]).unwrap()
    }

    fn flow(packet: &[u8]) -> middlenet_sdk::fast_path::Flow {
        flow_of(&FlowKey::parse(packet).unwrap())
    }

    #[test]
    fn rules_are_in_the_fast_path_before_any_packet() {
        let kit = kit(
            json!({"rules": [
                {"dst": "10.1.0.0/16", "allow": true},
                {"dst_port": 22, "allow": false},
                {"dst": "10.0.0.0/8", "allow": false},
                {"src": "::/0", "allow": false},
            ]}),
            Mode::Offloading,
        );
        let then = |packet: &[u8]| kit.fast_path().decide(&flow(packet)).map(|action| action.then);
        assert_eq!(then(&tcp("192.0.2.1", "10.1.0.1", 22)), Some(Then::Output(0)));
        assert_eq!(then(&tcp("192.0.2.1", "10.2.0.1", 80)), Some(Then::Drop(DropReason::DENIED.0)));
        // The prefix of IPv6 says nothing about it.
        assert_eq!(then(&tcp("192.0.2.1", "172.16.0.1", 80)), None);
        let v6 = PacketBuilder::new().ipv6("2001:db8::1".parse().unwrap(), "::1".parse().unwrap()).udp(1, 2).build();
        assert_eq!(then(&v6), Some(Then::Drop(DropReason::DENIED.0)));
    }

    #[test]
    fn counts_of_both_paths_are_added_up_and_survive_a_change() {
        let rules = |more: Option<Value>| {
            let rules = [json!({"dst_port": 80, "allow": true}), json!({"dst_port": 81, "allow": false})];
            json!({"rules": more.into_iter().chain(rules).collect::<Vec<_>>()})
        };
        let mut kit = kit(rules(None), Mode::Proactive);
        let packet = tcp("10.0.0.1", "10.0.0.2", 80);
        kit.run("left", std::slice::from_ref(&packet));
        kit.fast_path().pass(&flow(&packet), 60).unwrap();
        let bytes = packet.len() as u64 + 60;
        let report = kit.report();
        assert_eq!((&report["rules"][0]["packets"], &report["rules"][0]["bytes"]), (&json!(2), &json!(bytes)));
        assert_eq!(report["rules"][0]["fast_packets"], 1);
        kit.reconfigure(rules(Some(json!({"src": "192.0.2.0/24", "allow": false})))).unwrap();
        kit.fast_path().pass(&flow(&packet), 60).unwrap();
        let report = kit.report();
        assert_eq!((&report["rules"][0]["packets"], &report["rules"][1]["packets"]), (&json!(0), &json!(3)));
    }
}
