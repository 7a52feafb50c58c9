//! Steered packets on a cable: their tags arrive in front of them, and rules are exchanged under traffic without a loss.

mod stage;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use middlenet_bpf::{META_BYTES, Mode, SteerCounters, SteeredAttachment, SteeredPort, XdpMode, take_tag};
use middlenet_shm::Descriptor;
use middlenet_steer::testkit::Mix;
use middlenet_steer::{Action, Head, Match, PortRange, Rule, Tables};
use middlenet_tests::{Netns, require_root};
use middlenet_xsk::{Interface, XskConfig, XskQueue};
use stage::{Peer, Pool, cable, packet, until};

fn open(netns: &Netns, mode: Mode, pool: &Pool, tables: &Tables) -> (SteeredAttachment, XskQueue) {
    let opened = netns.enter(|| {
        let ifindex = Interface::lookup("eth0").expect("the device is there").ifindex;
        let attachment =
            SteeredPort::load(ifindex, tables).and_then(|port| port.attach(mode)).expect("the programs attach");
        let queue = XskQueue::bind(&pool.umem, ifindex, 0, &XskConfig::default()).expect("the queue is free");
        attachment.set_socket(0, &queue).expect("the socket enters the map");
        (attachment, queue)
    });
    opened.expect("the namespace can be entered")
}

/// Takes what has arrived: tag and packet of each.
fn take(pool: &mut Pool, queue: &mut XskQueue) -> Vec<(Option<u16>, Vec<u8>)> {
    let mut out = [Descriptor::default(); 64];
    let count = queue.receive(&mut out);
    let mut taken = Vec::with_capacity(count);
    for descriptor in &out[..count] {
        let bytes = pool.umem.buffers().bytes(descriptor).to_vec();
        let mut before =
            Descriptor { offset: descriptor.offset - META_BYTES as u16, length: META_BYTES as u16, ..*descriptor };
        let meta = pool.umem.buffers().bytes_mut(&mut before);
        taken.push((take_tag(meta.try_into().expect("eight bytes")), bytes));
        pool.free.push(descriptor.index);
    }
    pool.fill(queue, 64);
    queue.kick();
    taken
}

fn ports(port: u16) -> Match {
    Match { src_ports: vec![PortRange::from(port)], ..Match::default() }
}

fn seen(counters: &SteerCounters) -> u64 {
    let totals = counters.totals;
    totals.redirected_pkts + totals.passed_pkts + totals.dropped_pkts
}

fn by_rules(counters: &SteerCounters) -> u64 {
    counters.rules.iter().chain([&counters.default, &counters.retired]).map(|rule| rule.packets).sum()
}

#[test]
fn a_tag_arrives_in_front_of_its_packet() {
    require_root!();
    let (near, far) = (Netns::new("near").expect("a namespace"), Netns::new("far").expect("a namespace"));
    cable(&near, "eth0", &far, 1);
    let peer = Peer::new(&far, "eth0");
    let rule = |name: &str, matches, action| Rule { name: name.to_owned(), matches, action };
    let mut rules = vec![rule("kernel", ports(10_000), Action::Kernel), rule("drop", ports(10_001), Action::Drop)];
    rules.extend((2..10).map(|flow| rule("tag", ports(10_000 + flow), Action::Tag(flow * 1000))));
    let tables = Tables::compile(&rules, Action::Tag(u16::MAX)).expect("few rules");
    for (mode, got) in [(Mode::Native, XdpMode::Native), (Mode::Generic, XdpMode::Generic)] {
        let mut pool = Pool::new(256, 2048);
        let (attachment, mut queue) = open(&near, mode, &pool, &tables);
        assert_eq!(attachment.mode(), got);
        pool.fill(&mut queue, 64);
        let count: u32 = 1200;
        let (mut sent, mut arrived) = (0, 0);
        until("the arrival of every packet", || {
            for _ in 0..16.min(count - sent) {
                peer.send(&packet(sent as u16 % 12, sent, 64 + sent as usize % 1000));
                sent += 1;
            }
            for (tag, bytes) in take(&mut pool, &mut queue) {
                let number = u32::from_be_bytes(bytes[42..46].try_into().expect("four bytes"));
                let flow = number as u16 % 12;
                assert_eq!(bytes, packet(flow, number, 64 + number as usize % 1000));
                assert_eq!(tag, Some(if flow < 10 { flow * 1000 } else { u16::MAX }), "packet {number}");
                arrived += 1;
            }
            arrived == count / 12 * 10
        });
        let counters = attachment.steering().counters().expect("counters");
        let each = u64::from(count / 12);
        let totals = counters.totals;
        assert_eq!((totals.redirected_pkts, totals.passed_pkts, totals.dropped_pkts), (each * 10, each, each));
        assert_eq!((totals.missing_pkts, totals.untagged_pkts), (0, 0));
        assert!(counters.rules.iter().all(|rule| rule.packets == each), "{counters:?}");
        assert_eq!(counters.default.packets, each * 2);
        drop(attachment);
        queue.close(&mut pool.free);
        pool.assert_whole();
    }
}

#[test]
fn a_queue_without_a_socket_passes_its_packets() {
    require_root!();
    let (near, far) = (Netns::new("near").expect("a namespace"), Netns::new("far").expect("a namespace"));
    cable(&near, "eth0", &far, 1);
    let peer = Peer::new(&far, "eth0");
    let mut pool = Pool::new(256, 2048);
    let tables = Tables::compile(&[], Action::Tag(1)).expect("no rules");
    let (attachment, queue) = open(&near, Mode::Auto, &pool, &tables);
    attachment.clear_socket(0).expect("there is one");
    for number in 0..50 {
        peer.send(&packet(0, number, 100));
    }
    until("the count of every packet", || attachment.steering().counters().expect("counters").totals.passed_pkts == 50);
    let totals = attachment.steering().counters().expect("counters").totals;
    assert_eq!((totals.missing_pkts, totals.redirected_pkts), (50, 0));
    queue.close(&mut pool.free);
}

/// Two rule sets take turns. Each packet meets one of them, none is lost, and no counter goes backwards.
#[test]
fn a_thousand_rules_are_replaced_under_traffic() {
    require_root!();
    const RULES: usize = 1000;
    const REPLACEMENTS: usize = 25;
    let (near, far) = (Netns::new("near").expect("a namespace"), Netns::new("far").expect("a namespace"));
    cable(&near, "eth0", &far, 1);
    let peer = Peer::new(&far, "eth0");
    let mut pool = Pool::new(1024, 2048);

    let mix = Mix::new(RULES);
    let with = |actions: [Action; 3]| {
        let mut rules = mix.rules().to_vec();
        for (number, rule) in rules.iter_mut().enumerate() {
            // One in four is the same in both sets.
            if let Some(kind) = (number % 4).checked_sub(1) {
                rule.action = actions[kind];
            }
        }
        // One rule in ten is another one in each set.
        let first = matches!(actions[0], Action::Drop);
        rules.iter_mut().step_by(10).for_each(|rule| rule.name = format!("{} {first}", rule.name));
        Tables::compile(&rules, Action::Drop).expect("within the limits")
    };
    let sets = [
        with([Action::Drop, Action::Kernel, Action::Tag(5000)]),
        with([Action::Tag(6000), Action::Drop, Action::Kernel]),
    ];
    let (mut attachment, mut queue) = open(&near, Mode::Auto, &pool, &sets[0]);
    pool.fill(&mut queue, 64);

    let stop = AtomicBool::new(false);
    let (mut sent, mut tagged, mut kept_tags) = (0_u64, 0_u64, 0_u64);
    let attachment = thread::scope(|scope| {
        let replacer = scope.spawn(|| {
            let mut before = SteerCounters::default();
            for round in 1..=REPLACEMENTS {
                attachment.steering_mut().replace(&sets[round % 2]).expect("the kernel takes it");
                let now = attachment.steering().counters().expect("counters");
                assert!(by_rules(&now) >= by_rules(&before) && seen(&now) >= seen(&before), "round {round}");
                assert!(now.retired.packets >= before.retired.packets, "round {round}");
                before = now;
            }
            stop.store(true, Ordering::Relaxed);
            attachment
        });
        let mut drain = |pool: &mut Pool, queue: &mut XskQueue, tagged: &mut u64| {
            for (tag, bytes) in take(pool, queue) {
                let head = Head::parse(&bytes).expect("a whole packet");
                let rules = sets.each_ref().map(|set| set.first_match(&head).expect("each packet has a rule"));
                let expected = [0, 1].map(|set| sets[set].rules()[rules[set]].action);
                let tag = Action::Tag(tag.expect("a tag"));
                assert!(expected.contains(&tag), "{tag:?} is of neither set: {expected:?}");
                *tagged += 1;
                kept_tags += u64::from(expected[0] == expected[1]);
            }
        };
        while !stop.load(Ordering::Relaxed) && !replacer.is_finished() {
            for _ in 0..32 {
                peer.send(&Mix::frame(sent as usize % RULES, (sent % 200) as u8));
                sent += 1;
            }
            drain(&mut pool, &mut queue, &mut tagged);
        }
        let attachment = replacer.join().expect("the replacements went well");
        until("the count of every packet", || {
            drain(&mut pool, &mut queue, &mut tagged);
            let counters = attachment.steering().counters().expect("counters");
            seen(&counters) == sent && counters.totals.redirected_pkts == tagged
        });
        attachment
    });

    let counters = attachment.steering().counters().expect("counters");
    assert_eq!((by_rules(&counters), seen(&counters)), (sent, sent));
    assert_eq!((counters.totals.missing_pkts, counters.totals.untagged_pkts), (0, 0));
    assert_eq!(counters.default.packets, 0);
    assert!(counters.retired.packets > 0, "some rules were in one set alone");
    let kept: u64 = counters.rules.iter().step_by(4).map(|rule| rule.packets).sum();
    assert!(kept > 0 && kept_tags >= kept, "{kept} {kept_tags}");
    let statistics = queue.statistics().expect("statistics");
    assert_eq!((statistics.rx_dropped, statistics.rx_ring_full, statistics.rx_fill_ring_empty_descs), (0, 0, 0));
    assert!(sent > 1000, "{sent} packets went by");
    drop(attachment);
    queue.close(&mut pool.free);
    pool.assert_whole();
}
