//! Packets between a peer behind a cable and sockets on this end of it; afterwards every buffer is accounted for.

mod stage;

use std::collections::BTreeSet;

use middlenet_bpf::{Mode, XdpMode};
use middlenet_shm::Descriptor;
use middlenet_tests::{Netns, require_root};
use middlenet_xsk::{BusyPoll, Interface, XskConfig, XskQueue};
use stage::{Peer, Pool, cable, open, packet, until};

/// Sends `count` packets of `length` bytes from a peer and checks each that the queues receive, byte by byte. Says how
/// many each queue received.
fn receive_all(peer: &Peer, pool: &mut Pool, queues: &mut [XskQueue], count: u32, length: usize) -> Vec<usize> {
    let mut per_queue = vec![0; queues.len()];
    let mut missing: BTreeSet<u32> = (0..count).collect();
    let mut sent = 0;
    let mut out = [Descriptor::default(); 32];
    for queue in queues.iter_mut() {
        pool.fill(queue, 64);
    }
    until("the arrival of every packet", || {
        for _ in 0..16.min(count - sent) {
            peer.send(&packet(sent as u16 % 64, sent, length));
            sent += 1;
        }
        for (queue, received) in queues.iter_mut().zip(&mut per_queue) {
            let burst = queue.receive(&mut out);
            for descriptor in &out[..burst] {
                let bytes = pool.umem.buffers().bytes(descriptor);
                let number = u32::from_be_bytes(bytes[42..46].try_into().expect("four bytes"));
                assert_eq!(bytes, packet(number as u16 % 64, number, length), "packet {number}");
                assert!(missing.remove(&number), "packet {number} came twice");
                pool.free.push(descriptor.index);
            }
            *received += burst;
            pool.fill(queue, 64);
            queue.kick();
        }
        missing.is_empty()
    });
    per_queue
}

/// Sends `count` packets from a queue and checks each that the peer receives, byte by byte.
fn send_all(peer: &Peer, pool: &mut Pool, queue: &mut XskQueue, count: u32, length: usize) {
    let mut missing: BTreeSet<u32> = (0..count).collect();
    let mut sent = 0;
    until("the arrival of every packet", || {
        let burst = 50.min(count - sent).min(pool.free.len() as u32);
        let descriptors: Vec<Descriptor> =
            (0..burst).map(|position| pool.take(&packet(0, sent + position, length))).collect();
        let taken = queue.send(&descriptors);
        sent += taken as u32;
        pool.free.extend(descriptors[taken..].iter().map(|descriptor| descriptor.index));
        queue.kick();
        pool.collect(queue);
        while let Some(bytes) = peer.receive() {
            let number = u32::from_be_bytes(bytes[42..46].try_into().expect("four bytes"));
            assert_eq!(bytes, packet(0, number, length), "packet {number}");
            assert!(missing.remove(&number), "packet {number} came twice");
        }
        missing.is_empty()
    });
}

fn close_all(pool: &mut Pool, queues: Vec<XskQueue>) {
    for queue in queues {
        let held = queue.held();
        let before = pool.free.len();
        queue.close(&mut pool.free);
        assert_eq!(pool.free.len() - before, held);
    }
    pool.assert_whole();
}

#[test]
fn packets_of_every_size_go_both_ways_byte_by_byte() {
    require_root!();
    let (near, far) = (Netns::new("near").expect("a namespace"), Netns::new("far").expect("a namespace"));
    cable(&near, "eth0", &far, 1);
    let peer = Peer::new(&far, "eth0");
    for buffer_bytes in [2048, 4096] {
        let mut pool = Pool::new(256, buffer_bytes);
        let config = XskConfig::default();
        let (attachment, mut queues) = open(&near, "eth0", Mode::Auto, &pool.umem, 1, &config);
        assert_eq!(attachment.mode(), XdpMode::Native);
        assert!(!queues[0].zero_copy(), "a veth copies");
        // More packets than buffers, so that buffers come round.
        for length in [60, 64, 1514] {
            receive_all(&peer, &mut pool, &mut queues, 500, length);
            send_all(&peer, &mut pool, &mut queues[0], 500, length);
        }
        let counters = attachment.counters().expect("counters");
        assert_eq!(counters.redirected_pkts, 1500);
        assert_eq!(counters.passed_pkts, 0);
        let statistics = queues[0].statistics().expect("statistics");
        assert_eq!((statistics.rx_dropped, statistics.rx_invalid_descs, statistics.tx_invalid_descs), (0, 0, 0));
        close_all(&mut pool, queues);
    }
}

#[test]
fn each_queue_has_its_own_socket_and_all_share_the_region() {
    require_root!();
    let (near, far) = (Netns::new("near").expect("a namespace"), Netns::new("far").expect("a namespace"));
    cable(&near, "eth0", &far, 2);
    let peer = Peer::new(&far, "eth0");
    let mut pool = Pool::new(512, 2048);
    let (attachment, mut queues) = open(&near, "eth0", Mode::Auto, &pool.umem, 2, &XskConfig::default());
    let per_queue = receive_all(&peer, &mut pool, &mut queues, 2000, 100);
    assert_eq!(per_queue.iter().sum::<usize>(), 2000);
    assert!(per_queue.iter().all(|&received| received > 100), "64 flows spread over both queues: {per_queue:?}");
    for queue in &mut queues {
        send_all(&peer, &mut pool, queue, 300, 100);
    }
    assert_eq!(attachment.counters().expect("counters").redirected_pkts, 2000);
    close_all(&mut pool, queues);
}

#[test]
fn an_interface_without_native_xdp_works_in_generic_mode() {
    require_root!();
    let (near, far) = (Netns::new("near").expect("a namespace"), Netns::new("far").expect("a namespace"));
    cable(&near, "eth0", &far, 1);
    let script = "ip link add br0 type bridge mcast_snooping 0 \
                  && echo 1 > /proc/sys/net/ipv6/conf/br0/disable_ipv6 \
                  && ip link set eth0 master br0 && ip link set br0 up";
    near.exec("sh", ["-c", script]).expect("a bridge");
    until("the bridge port's forwarding", || {
        let state = near.exec("cat", ["/sys/class/net/eth0/brport/state", "/sys/class/net/br0/operstate"]);
        state.is_ok_and(|output| output.stdout == "3\nup\n")
    });
    // The peer's packets are for another address than the bridge's.
    let promiscuous = near.enter(|| Interface::lookup("br0")?.promiscuous()).expect("the namespace can be entered");
    let _promiscuous = promiscuous.expect("promiscuous mode");
    let peer = Peer::new(&far, "eth0");
    let mut pool = Pool::new(256, 2048);
    let (attachment, mut queues) = open(&near, "br0", Mode::Auto, &pool.umem, 1, &XskConfig::default());
    assert_eq!(attachment.mode(), XdpMode::Generic);
    receive_all(&peer, &mut pool, &mut queues, 500, 300);
    send_all(&peer, &mut pool, &mut queues[0], 500, 300);
    close_all(&mut pool, queues);
}

#[test]
fn busy_polling_receives_and_sends() {
    require_root!();
    let (near, far) = (Netns::new("near").expect("a namespace"), Netns::new("far").expect("a namespace"));
    cable(&near, "eth0", &far, 1);
    let peer = Peer::new(&far, "eth0");
    let mut pool = Pool::new(256, 2048);
    let busy_poll = Some(BusyPoll { interval_us: 20, budget_pkts: 64 });
    let config = XskConfig { busy_poll, ..XskConfig::default() };
    let (_attachment, mut queues) = open(&near, "eth0", Mode::Auto, &pool.umem, 1, &config);
    receive_all(&peer, &mut pool, &mut queues, 500, 64);
    send_all(&peer, &mut pool, &mut queues[0], 500, 64);
    close_all(&mut pool, queues);
}

/// Moves what one queue received to the other, as a function without work would.
fn forward(pool: &mut Pool, from: &mut XskQueue, to: &mut XskQueue) -> usize {
    let mut out = [Descriptor::default(); 32];
    let received = from.receive(&mut out);
    let sent = to.send(&out[..received]);
    pool.free.extend(out[sent..received].iter().map(|descriptor| descriptor.index));
    to.kick();
    pool.collect(to);
    pool.fill(from, 64);
    from.kick();
    sent
}

#[test]
fn two_interfaces_share_the_region_and_a_packet_is_forwarded_where_it_lies() {
    require_root!();
    let names = ["left", "middle", "right"];
    let [left, middle, right] = names.map(|name| Netns::new(name).expect("a namespace"));
    cable(&middle, "a", &left, 1);
    cable(&middle, "b", &right, 1);
    let (left, right) = (Peer::new(&left, "eth0"), Peer::new(&right, "eth0"));
    let mut pool = Pool::new(512, 2048);
    let config = XskConfig { fill_slots: 128, ..XskConfig::default() };
    let (_a, a) = open(&middle, "a", Mode::Auto, &pool.umem, 1, &config);
    let (_b, b) = open(&middle, "b", Mode::Auto, &pool.umem, 1, &config);
    let [mut a, mut b] = [a, b].map(|queues| queues.into_iter().next().expect("one queue"));
    for queue in [&mut a, &mut b] {
        pool.fill(queue, 0);
    }

    // One way first: buffers of one port end at the other and must come back to the first.
    for (from, to, step) in [(&left, &right, 0), (&right, &left, 1), (&left, &right, 2)] {
        let count = 3000;
        let (mut sent, mut arrived) = (0, 0);
        until("the arrival of every packet", || {
            for _ in 0..16.min(count - sent) {
                from.send(&packet(0, sent, 200));
                sent += 1;
            }
            forward(&mut pool, &mut a, &mut b);
            forward(&mut pool, &mut b, &mut a);
            while let Some(bytes) = to.receive() {
                assert_eq!(bytes, packet(0, arrived, 200), "packet {arrived} of step {step}, in order");
                arrived += 1;
            }
            arrived == count
        });
    }

    // Closed under load: some packets lie received, some wait to be sent.
    for number in 0..100 {
        left.send(&packet(0, number, 200));
    }
    let mut out = [Descriptor::default(); 32];
    let received = a.receive(&mut out);
    assert!(received > 0);
    let sent = b.send(&out[..received]);
    pool.free.extend(out[sent..received].iter().map(|descriptor| descriptor.index));
    assert!(pool.free.len() < 512);
    close_all(&mut pool, vec![a, b]);
}

#[test]
fn without_buffers_packets_are_dropped_and_counted_and_refilling_mends_it() {
    require_root!();
    let (near, far) = (Netns::new("near").expect("a namespace"), Netns::new("far").expect("a namespace"));
    cable(&near, "eth0", &far, 1);
    let peer = Peer::new(&far, "eth0");
    let mut pool = Pool::new(128, 2048);
    let (_attachment, mut queues) = open(&near, "eth0", Mode::Auto, &pool.umem, 1, &XskConfig::default());
    for number in 0..20 {
        peer.send(&packet(0, number, 64));
    }
    until("the count of every drop", || queues[0].statistics().expect("statistics").rx_fill_ring_empty_descs == 20);
    receive_all(&peer, &mut pool, &mut queues, 200, 64);
    close_all(&mut pool, queues);
}

#[test]
fn a_descriptor_that_names_no_packet_is_refused_and_its_buffer_comes_back() {
    require_root!();
    let (near, far) = (Netns::new("near").expect("a namespace"), Netns::new("far").expect("a namespace"));
    cable(&near, "eth0", &far, 1);
    let peer = Peer::new(&far, "eth0");
    let mut pool = Pool::new(64, 2048);
    let (_attachment, mut queues) = open(&near, "eth0", Mode::Auto, &pool.umem, 1, &XskConfig::default());
    let good = pool.take(&packet(0, 7, 64));
    let [empty, short, outside] = [(0, 0), (0, 13), (2000, 49)].map(|(offset, length)| {
        let index = pool.free.pop().expect("a free buffer");
        Descriptor { index, offset, length, ..Descriptor::default() }
    });
    assert_eq!(queues[0].send(&[empty, short, good, outside]), 4);
    assert_eq!(queues[0].refused_pkts(), 3);
    assert_eq!(queues[0].outstanding(), 1);
    until("the return of four buffers", || {
        queues[0].kick();
        pool.collect(&mut queues[0]);
        pool.free.len() == 64
    });
    pool.assert_whole();
    let mut arrived = None;
    until("the arrival of the good one", || {
        arrived = peer.receive();
        arrived.is_some()
    });
    assert_eq!(arrived, Some(packet(0, 7, 64)));
    assert!(peer.receive().is_none());
    assert_eq!(queues[0].statistics().expect("statistics").tx_invalid_descs, 0, "the kernel never saw them");
    close_all(&mut pool, queues);
}
