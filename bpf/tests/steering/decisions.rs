//! The same packets, decided by the program in the kernel and by a scan of the rules.

use middlenet_bpf::{Trial, Verdict};
use middlenet_steer::testkit::Draw;
use middlenet_steer::{Action, Head, Match, PortRange, Rule, Tables};
use middlenet_tests::require_root;

use super::{rule, run, shown};

/// Frames for each rule set.
const FRAMES: usize = 400;

fn compile(rules: &[Rule], default: Action) -> Tables {
    Tables::compile(rules, default).expect("within the limits")
}

fn scan(rules: &[Rule], frame: &[u8]) -> Option<usize> {
    let head = Head::parse(frame).expect("no frame is shorter than an Ethernet header");
    rules.iter().position(|rule| rule.matches.matches(&head))
}

/// Runs frames through the program, and compares each decision and all counters with a scan.
fn compare(draw: &mut Draw<'_>, rules: &[Rule], default: Action, seed: u64) {
    let mut trial = Trial::steering(&compile(rules, default)).expect("the rules load");
    let mut expected = vec![(0, 0); rules.len() + 1];
    let mut by_verdict = [0; 3];
    for number in 0..FRAMES {
        let frame = draw.frame();
        let found = scan(rules, &frame);
        let action = found.map_or(default, |index| rules[index].action);
        let decided = run(&trial, &frame);
        assert_eq!(decided, shown(action), "seed {seed}, frame {number}: rule {found:?}\n{:?}", Head::parse(&frame));
        let counted = &mut expected[found.unwrap_or(rules.len())];
        *counted = (counted.0 + 1, counted.1 + frame.len() as u64);
        match decided.0 {
            Verdict::Redirect => by_verdict[0] += 1,
            Verdict::Pass => by_verdict[1] += 1,
            _ => by_verdict[2] += 1,
        }
    }
    let counters = trial.steering_mut().expect("it steers").counters().expect("counters");
    let found: Vec<_> = counters.rules.iter().chain([&counters.default]).map(|c| (c.packets, c.bytes)).collect();
    assert_eq!(found, expected, "seed {seed}");
    let totals = counters.totals;
    assert_eq!([totals.redirected_pkts, totals.passed_pkts, totals.dropped_pkts], by_verdict, "seed {seed}");
    assert_eq!((totals.missing_pkts, totals.untagged_pkts), (0, 0), "seed {seed}");
}

#[test]
fn the_kernel_decides_as_the_rules_say() {
    require_root!();
    for seed in 0..48 {
        let mut draw = Draw::from_seed(seed);
        let rules = draw.rules([4, 20, 64, 65, 200, 1000][seed as usize % 6]);
        let default = [Action::Kernel, Action::Drop, Action::Tag(9)][seed as usize % 3];
        compare(&mut draw, &rules, default, seed);
    }
}

/// IPv4 addresses of few rules with one prefix each are looked up byte by byte.
#[test]
fn one_prefix_for_each_of_few_rules() {
    require_root!();
    for seed in 200..216 {
        let mut draw = Draw::from_seed(seed);
        let mut rules = draw.rules([1, 10, 64][seed as usize % 3]);
        for rule in &mut rules {
            rule.matches.src.truncate(1);
            rule.matches.dst.truncate(1);
        }
        compare(&mut draw, &rules, Action::Tag(2), seed);
    }
}

#[test]
fn the_first_of_many_that_match_decides() {
    require_root!();
    for seed in 100..104 {
        let mut draw = Draw::from_seed(seed);
        let rules = draw.alike_rules(600);
        compare(&mut draw, &rules, Action::Kernel, seed);
    }
}

/// One field at a time, so that the program is verified without each of the others.
#[test]
fn any_field_may_be_the_only_one() {
    require_root!();
    type Only = fn(&Match) -> Match;
    let fields: [Only; 11] = [
        |m| Match { vlans: m.vlans.clone(), ..Match::default() },
        |m| Match { src_macs: m.src_macs.clone(), ..Match::default() },
        |m| Match { dst_macs: m.dst_macs.clone(), ..Match::default() },
        |m| Match { ether_types: m.ether_types.clone(), ..Match::default() },
        |m| Match { src: m.src.clone(), ..Match::default() },
        |m| Match { dst: m.dst.clone(), ..Match::default() },
        |m| Match { arp_targets: m.arp_targets.clone(), ..Match::default() },
        |m| Match { protocols: m.protocols.clone(), ..Match::default() },
        |m| Match { src_ports: m.src_ports.clone(), ..Match::default() },
        |m| Match { dst_ports: m.dst_ports.clone(), ..Match::default() },
        |m| Match { fragments: m.fragments, ..Match::default() },
    ];
    for (number, only) in fields.into_iter().enumerate() {
        let mut draw = Draw::from_seed(1000 + number as u64);
        let mut rules: Vec<Rule> = (0..1000).map(|_| draw.rule()).collect();
        rules.iter_mut().for_each(|rule| rule.matches = only(&rule.matches));
        rules.retain(|rule| rule.matches != Match::default());
        assert!(rules.len() > 40, "field {number} is drawn");
        compare(&mut draw, &rules, Action::Tag(65_535), number as u64);
    }
}

#[test]
fn as_many_rules_as_there_may_be() {
    require_root!();
    let mut draw = Draw::from_seed(5000);
    let mut rules = draw.rules(20);
    // Each asks for what no other does, and the last ones are found as well.
    for number in 0..middlenet_steer::MOST_RULES - rules.len() {
        let [high, low] = (number as u16).to_be_bytes();
        let (src, dst) = ([[198, 18, high, low], [0; 4]], [[10, 0, 0, 1], [10, 0, 0, 2]]);
        let matches = Match {
            src: if number % 2 == 0 { vec![std::net::IpAddr::from(src[0]).into()] } else { Vec::new() },
            dst: if number % 2 == 1 { vec![std::net::IpAddr::from(dst[number / 2 % 2]).into()] } else { Vec::new() },
            dst_ports: if number % 2 == 1 { vec![PortRange::from(number as u16)] } else { Vec::new() },
            ..Match::default()
        };
        rules.push(rule(&number.to_string(), matches, Action::Tag(number as u16)));
    }
    assert_eq!(rules.len(), middlenet_steer::MOST_RULES);
    compare(&mut draw, &rules, Action::Kernel, 5000);
    let trial = Trial::steering(&compile(&rules[20..], Action::Kernel)).expect("the rules load");
    for number in [0, 1, 2, 63, 64, 65, 2000, 2001, 4000, 4001] {
        let mut frame = vec![0; 60];
        frame[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
        frame[23] = 17;
        let [high, low] = (number as u16).to_be_bytes();
        frame[26..30].copy_from_slice(&[198, 18, high, low]);
        if number % 2 == 1 {
            frame[26..30].fill(1);
            frame[30..34].copy_from_slice(&[10, 0, 0, 1 + (number / 2 % 2) as u8]);
            frame[36..38].copy_from_slice(&[high, low]);
        }
        let found = scan(&rules[20..], &frame).map(|index| rules[20 + index].action);
        assert_eq!(run(&trial, &frame), shown(found.unwrap_or(Action::Kernel)), "rule {number}");
    }
}

#[test]
fn without_rules_the_default_decides() {
    require_root!();
    for default in [Action::Kernel, Action::Drop, Action::Tag(3)] {
        compare(&mut Draw::from_seed(7), &[], default, 7);
        compare(&mut Draw::from_seed(8), &[rule("all", Match::default(), Action::Tag(1))], default, 8);
    }
}
