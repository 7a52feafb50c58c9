//! Drawn packets through drawn rules, in the kernel and by the model.

use std::net::IpAddr;

use middlenet_bpf::{StagePlan, Target, Verdict};
use middlenet_fast_path::{Action, Mode, Rewrite, Shape, Then};
use middlenet_steer::testkit::Draw;
use middlenet_steer::{Flow, Head, Prefix};
use middlenet_tests::require_root;
use middlenet_wire::{Layers, PacketBuilder};

use super::lab::{Chain, LEFT, RIGHT, flow, full_shape};
use super::model::{Fate, Place, Rules, checksum, compare, deal_with, first_port_rule, offset, tag};

const FRAMES: usize = 2000;
const RULES: u32 = 12;

/// A frame; every other one with right checksums, if it has any, some with a TTL that is over, and some of UDP without checksum.
fn frame(draw: &mut Draw<'_>) -> Vec<u8> {
    let mut frame = draw.frame();
    let Some(Head { src: Some(src), protocol: Some(protocol), .. }) = Head::parse(&frame) else { return frame };
    if draw.below(8) == 0 {
        let ttl = offset(&frame) + if src.is_ipv4() { 8 } else { 7 };
        frame[ttl] = draw.below(3) as u8;
    }
    if draw.below(2) == 0 {
        mend(&mut frame);
    }
    if protocol == 17 && draw.below(3) == 0 {
        let at = checksum(&frame, protocol).filter(|at| at + 2 <= frame.len());
        at.into_iter().for_each(|at| frame[at..at + 2].fill(0));
    }
    frame
}

/// Makes what lengths and checksums there are right.
fn mend(frame: &mut [u8]) {
    let Ok(layers) = Layers::parse(frame) else { return };
    if let Ok(mut v4) = layers.ipv4_mut(frame) {
        v4.fill_checksum();
    }
    let Ok(pseudo) = layers.pseudo_header(frame) else { return };
    if let Ok(mut tcp) = layers.tcp_mut(frame) {
        tcp.fill_checksum(pseudo);
    } else if let Ok(mut udp) = layers.udp_mut(frame) {
        udp.fill_checksum(pseudo);
    } else if let Ok(mut icmp) = layers.icmpv6_mut(frame) {
        icmp.fill_checksum(pseudo);
    }
}

fn action(draw: &mut Draw<'_>, addresses: &[IpAddr]) -> Action {
    let then = match draw.below(12) {
        0 => Then::Drop([0, 3, 63, 64][draw.below(4)]),
        1 => Then::Reply,
        2 => Then::Port([LEFT, RIGHT, 2, 3, 255][draw.below(5)]),
        3 => Then::Output([0, 1, 2, 3, 9][draw.below(5)]),
        4 => Then::SlowPath,
        5 => Then::Kernel,
        _ => Then::Next,
    };
    let mut maybe = |one_in| draw.below(one_in) == 0;
    let (ethernet, src, dst) = (maybe(4), maybe(3), maybe(3));
    let (src_port, dst_port, lower_ttl, mtu) = (maybe(4), maybe(4), maybe(3), maybe(6));
    let rewrite = Rewrite {
        ethernet: ethernet.then_some(([6; 6], [8; 6])),
        src: src.then(|| addresses[draw.below(addresses.len())]),
        dst: dst.then(|| addresses[draw.below(addresses.len())]),
        src_port: src_port.then(|| draw.below(65_536) as u16),
        dst_port: dst_port.then(|| draw.below(65_536) as u16),
        lower_ttl,
    };
    let class = [None, Some(0), Some(15), Some(16), Some(60_000)][draw.below(5)];
    Action { then, rewrite, class, mtu: mtu.then(|| 20 + draw.below(100) as u16) }
}

/// Rules that the frames meet.
fn rules(draw: &mut Draw<'_>, frames: &[Vec<u8>], plan: &StagePlan) -> Rules {
    let heads: Vec<Head> = frames.iter().filter_map(|frame| Head::parse(frame)).collect();
    let is_mapped = |address: &IpAddr| address.to_canonical() != *address;
    let addresses: Vec<IpAddr> =
        heads.iter().flat_map(|head| [head.src, head.dst]).flatten().filter(|address| !is_mapped(address)).collect();
    let mut rules = Rules::default();
    let shape = plan.shape;
    if shape.flows > 0 {
        for head in heads.iter().step_by(2) {
            // The identifier of ICMP is drawn by luck.
            if let Some(flow) = Flow::of(head) {
                rules.flows.insert(flow, action(draw, &addresses));
            }
        }
    }
    let prefix = |draw: &mut Draw<'_>| {
        let address = addresses[draw.below(addresses.len())];
        let most = if address.is_ipv4() { 33 } else { 129 };
        Prefix::new(address, draw.below(most) as u8).unwrap_or(address.into())
    };
    let (src, dst) = (shape.src_prefixes > 0, shape.dst_prefixes > 0);
    for rule in 0..RULES {
        rules.rules.push(action(draw, &addresses));
        // A number beyond the rules leads nowhere.
        let number = if draw.below(40) == 0 { 100_000 } else { rule };
        if src {
            rules.src.push((prefix(draw), number));
        }
        if dst {
            rules.dst.push((prefix(draw), number));
        }
        for _ in 0..8 {
            let head = &heads[draw.below(heads.len())];
            let (Some(protocol @ (6 | 17)), Some(src_port), Some(dst_port)) =
                (head.protocol, head.src_port, head.dst_port)
            else {
                continue;
            };
            if shape.src_ports {
                rules.src_ports.push((protocol, src_port, number));
            }
            if shape.dst_ports {
                rules.dst_ports.push((protocol, dst_port, number));
            }
        }
    }
    // One rule for each key, the last, as in a map.
    for prefixes in [&mut rules.src, &mut rules.dst] {
        prefixes.reverse();
        prefixes.sort_by_key(|(prefix, _)| (prefix.address(), prefix.length()));
        prefixes.dedup_by_key(|(prefix, _)| *prefix);
    }
    for ports in [&mut rules.src_ports, &mut rules.dst_ports] {
        ports.sort_by_key(|(protocol, port, _)| (*protocol, *port));
        ports.dedup_by_key(|(protocol, port, _)| (*protocol, *port));
    }
    rules
}

fn install(chain: &Chain, hop: usize, rules: &Rules) {
    let maps = &chain.maps[hop];
    rules.flows.iter().for_each(|(flow, action)| maps.set_action(flow, *action));
    rules.src.iter().for_each(|(prefix, rule)| maps.set_src(prefix, *rule));
    rules.dst.iter().for_each(|(prefix, rule)| maps.set_dst(prefix, *rule));
    rules.src_ports.iter().for_each(|(protocol, port, rule)| maps.set_src_port(*protocol, *port, *rule));
    rules.dst_ports.iter().for_each(|(protocol, port, rule)| maps.set_dst_port(*protocol, *port, *rule));
    maps.set_ready(first_port_rule(rules), true);
    if maps.0.iter().any(|(kind, _)| kind == middlenet_fast_path::MapKind::Rules) {
        (0..).zip(&rules.rules).for_each(|(number, action)| maps.set_rule(number, action));
    }
}

/// Runs drawn frames through two hops and compares all of it with the model.
fn run(shape: Shape, seed: u64, change: impl Fn(&mut StagePlan)) {
    let mut draw = Draw::from_seed(seed);
    let frames: Vec<Vec<u8>> = (0..FRAMES).map(|_| frame(&mut draw)).collect();
    let mut plans = Vec::new();
    let plan_of = |hop: u16, plan: &mut StagePlan| {
        plan.outputs = vec![Target::Port(2), Target::Drop, Target::Egress, Target::Hop(hop ^ 1)];
        change(plan);
    };
    let chain = Chain::new(2, shape, plan_of);
    for hop in 0..2_u16 {
        let (next_forward, next_reverse) =
            if hop == 0 { (Target::Hop(1), Target::Egress) } else { (Target::Egress, Target::Hop(0)) };
        let mut plan = StagePlan {
            shape,
            misses_to_kernel: false,
            ends_by_kernel: false,
            next_forward,
            next_reverse,
            outputs: Vec::new(),
            left: LEFT,
            right: vec![RIGHT],
        };
        plan_of(hop, &mut plan);
        plans.push(plan);
    }
    let all: Vec<Rules> = plans.iter().map(|plan| rules(&mut draw, &frames, plan)).collect();
    (0..).zip(&all).for_each(|(hop, rules)| install(&chain, hop, rules));

    let mut acted = 0;
    let mut slow = [[0; 8]; 2];
    for (number, before) in frames.iter().enumerate() {
        let reverse = draw.below(2) == 1;
        let ingress = if reverse { RIGHT } else { LEFT };
        let mut place = Place { ingress, egress: None, reverse };
        let (mut hop, mut packet, mut calls) = (u16::from(reverse), before.clone(), 0);

        let fate = loop {
            let at = usize::from(hop);
            let (fate, by) = deal_with(&plans[at], &all[at], &mut packet, &mut place);
            acted += u32::from(by.is_some());
            calls += 1;
            match fate {
                Fate::Hop(next) if calls < 33 => hop = next,
                Fate::Slow(reason) => {
                    slow[at][reason as usize] += 1;
                    break fate;
                }
                Fate::Port(_) | Fate::Hop(_) => {
                    slow[at][middlenet_bpf::SlowReason::End as usize] += 1;
                    break fate;
                }
                _ => break fate,
            }
        };
        let outcome = if reverse { chain.reverse(before) } else { chain.forward(before) };
        let what = format!("seed {seed}, frame {number}: {fate:?}\n{:?}\n{before:02x?}", Head::parse(before));
        let (tag, verdict) = match (tag(hop, fate), fate) {
            (Some(tag), _) => (Some(tag), Verdict::Redirect),
            (None, Fate::Kernel) => (None, Verdict::Pass),
            (None, _) => (None, Verdict::Drop),
        };
        assert_eq!((outcome.verdict, outcome.mark.map(|mark| mark.tag)), (verdict, tag), "{what}");
        if let Some(mark) = outcome.mark {
            assert_eq!((mark.egress, mark.reverse), (place.egress, place.reverse), "{what}");
        }
        compare(&outcome.packet, before, &packet, &what);
    }
    assert!(acted > 5, "seed {seed}: {acted} acts");
    for hop in 0..2 {
        assert_eq!(chain.counters(hop).slow_pkts, slow[usize::from(hop)], "seed {seed}, hop {hop}");
    }
    chain.assert_conserved();
}

#[test]
fn the_kernel_does_what_the_rules_say() {
    require_root!();
    for seed in 0..12 {
        run(full_shape(), seed, |_| ());
    }
}

/// The program is verified without what a shape leaves out.
#[test]
fn any_matcher_may_be_the_only_one() {
    require_root!();
    let of = Shape::of(&[Mode::Proactive]);
    let shapes = [
        of.flows(4096),
        of.prefixes(100, 0).rules(64),
        of.prefixes(0, 100).rules(64),
        of.ports(true, false).rules(64),
        of.ports(false, true).rules(64).classes(16),
        of.flows(4096).prefixes(100, 100).rules(64),
    ];
    for (seed, shape) in (100..).zip(shapes) {
        run(shape, seed, |_| ());
    }
}

#[test]
fn ports_and_misses_may_lead_elsewhere() {
    require_root!();
    run(full_shape(), 200, |plan| plan.misses_to_kernel = true);
    run(full_shape(), 201, |plan| plan.right = vec![RIGHT, 2, 3]);
    run(full_shape(), 202, |plan| plan.right = Vec::new());
    run(full_shape(), 203, |plan| {
        plan.next_forward = Target::Port(3);
        plan.next_reverse = Target::Drop;
    });
}

/// A sum of zero is written as all ones, since zero says that there is none.
#[test]
fn no_checksum_of_udp_becomes_none() {
    require_root!();
    let of = |src_port| {
        let addresses = ("10.0.0.1".parse().expect("one"), "10.0.0.2".parse().expect("two"));
        PacketBuilder::new().ipv4(addresses.0, addresses.1).udp(src_port, 80).payload(b"some").build()
    };
    let sum = |packet: &[u8]| [packet[40], packet[41]];
    let port = (1..=u16::MAX).find(|&port| sum(&of(port)) == [0xff, 0xff]).expect("each sum has its port");
    let chain = Chain::new(1, Shape::of(&[Mode::Reactive]).flows(64), |_, _| ());
    let before = of(port ^ 1);
    let rewrite = Rewrite { src_port: Some(port), ..Rewrite::default() };
    chain.maps[0].set_action(&flow(&before), Action { rewrite, ..Action::default() });
    assert_eq!(chain.forward(&before).packet, of(port));
}
