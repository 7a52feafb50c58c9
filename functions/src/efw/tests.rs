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

/// A first fragment, a later one, one that ends before its ports, and, of IPv6, one of them behind nine headers of options.
fn hidden() -> [Vec<u8>; 4] {
    let fragment = |flags: u8, offset: u8| {
        let mut packet = tcp("10.0.0.1", "10.0.0.2", 23);
        packet[20..22].copy_from_slice(&[flags, offset]);
        packet
    };
    let mut short = tcp("10.0.0.1", "10.0.0.2", 23);
    short.truncate(36);
    let (src, dst) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
    let mut long = PacketBuilder::new().ipv6(src, dst).tcp(1, 23, TcpFlags::SYN).build();
    (0..9).for_each(|at| drop(long.splice(54..54, [if at == 0 { 6 } else { 60 }, 0, 0, 0, 0, 0, 0, 0])));
    long[20] = 60;
    [fragment(0x20, 0), fragment(0, 3), short, long]
}

#[test]
fn what_hides_its_ports_is_left_to_the_filter_behind_where_a_rule_of_ports_comes_first() {
    let telnet = json!({"dst_port": 23, "allow": false});
    let sources = |allow| json!({"src": ["10.0.0.0/8", "2001:db8::/32"], "allow": allow});
    for (rules, verdict) in [
        ([telnet.clone(), sources(true)], Verdict::Next),
        ([telnet.clone(), sources(false)], DENIED),
        ([sources(true), telnet.clone()], Verdict::Output(Output(0))),
        ([json!({"src_port": 7, "allow": true}), sources(true)], Verdict::Next),
    ] {
        let ports = Testkit::<Efw>::two_ports();
        let mut kit = Testkit::<Efw>::with_outputs(json!({"rules": rules}), &ports, &["allowed"]).unwrap();
        assert_eq!(verdicts(&kit.run("left", &hidden())), [verdict; 4], "{rules:?}");
    }
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

/// The first rule that matches. But one that allows addresses says nothing about a packet for which one of ports might have come first: of
/// TCP or UDP, or with headers beyond those that are read, and without ports that count.
fn expected(matchers: &[Matcher], allows: &[bool], head: &Head) -> Option<usize> {
    let rule = matchers.iter().position(|matcher| matches(matcher, head))?;
    let is_of_ports = |matcher: &Matcher| matches!(matcher, Matcher::SrcPorts(..) | Matcher::DstPorts(..));
    let hides = match head.protocol? {
        6 | 17 => head.fragment || head.src_port.is_none(),
        protocol => [0, 43, 44, 60].contains(&protocol),
    };
    let is_left = allows[rule] && hides && matchers[..rule].iter().any(is_of_ports);
    (!is_left).then_some(rule)
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
    let then = table.rules[rule as usize].then;
    let first = table.src_ports.iter().chain(&table.dst_ports).map(|&(.., rule)| rule).min();
    let is_left = head.hides_ports() && first.is_some_and(|first| first < rule) && !matches!(then, Then::Drop(_));
    (!is_left).then_some(then)
}

/// A frame; one in four is made a fragment, or gets headers of options before what it carries.
fn frame(seed: u64) -> Vec<u8> {
    let mut draw = Draw::from_seed(seed);
    let mut frame = draw.frame();
    let (is_ipv4, is_ipv6) = (frame[12..14] == [0x08, 0x00], frame[12..14] == [0x86, 0xdd]);
    if !(is_ipv4 && frame.len() >= 34 || is_ipv6 && frame.len() >= 54) || draw.below(4) > 0 {
        return frame;
    }
    let ip = 14;
    if is_ipv4 {
        let flags = [[0x20, 0], [0x20, 9], [0, 9]][draw.below(3)];
        frame[ip + 6..ip + 8].copy_from_slice(&flags);
    } else {
        let header = [60, 60, 0, 44][draw.below(4)];
        for _ in 0..[1, 8, 9][draw.below(3)] {
            let next = std::mem::replace(&mut frame[ip + 6], header);
            frame.splice(ip + 40..ip + 40, [next, 0, 0, [0, 9][draw.below(2)], 0, 0, 0, 0]);
        }
    }
    frame
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
            let Some(head) = Head::parse(&frame(seed)) else { continue };
            let expected = expected(&matchers, &allows, &head);
            let decided = table.decide(&head, |rule| !allows[rule as usize]);
            prop_assert_eq!(decided, expected.map(|rule| rule as u32));
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
