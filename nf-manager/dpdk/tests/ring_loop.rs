//! Packets made here go round a ring device and come back; whatever is not out is refused.

mod host;

use middlenet_dpdk::{MAX_BURST, Port, PortConfig};
use middlenet_shm::Descriptor;

#[test]
fn what_is_sent_comes_back() {
    let eal = host::eal();
    let pool = host::pool(&eal, 1024);
    let mut port = Port::open(&eal, "net_ring0", &pool, &PortConfig::default()).expect("net_ring");
    let mut queues = port.start().expect("start");
    let (rx, tx) = (&mut queues.rx[0], &mut queues.tx[0]);
    let worker = eal.main_worker();

    let mut indices = [0; 48];
    assert_eq!(pool.allocate(&worker, &mut indices), 48);
    assert_eq!(pool.in_use(), 48);
    let mut out = indices.map(|index| Descriptor {
        index,
        // From the buffer's first byte, where the header has to be moved down, to behind the headroom.
        offset: (index % 5 * 64) as u16,
        length: 60 + (index % 100) as u16,
        ..Descriptor::default()
    });
    for descriptor in &mut out {
        let index = descriptor.index as u8;
        pool.buffers().bytes_mut(descriptor).fill(index);
    }
    assert_eq!(tx.send(&worker, &out), 48);
    // The buffers are the port's now.
    assert_eq!(tx.send(&worker, &out), 0);
    pool.free(&worker, &indices[..2]);
    assert_eq!((pool.refused(), pool.in_use()), (3, 48));

    let mut back = [Descriptor::default(); MAX_BURST];
    assert_eq!(rx.receive(&worker, &mut back), 48);
    for (sent, received) in out.iter().zip(&back) {
        assert_eq!((sent.index, sent.offset, sent.length), (received.index, received.offset, received.length));
        assert!(pool.buffers().bytes(received).iter().all(|&byte| byte == received.index as u8));
    }
    assert_eq!(rx.receive(&worker, &mut back[48..]), 0);

    let bad = [
        Descriptor { length: 0, ..back[0] },
        Descriptor { offset: 2000, length: 100, ..back[0] },
        Descriptor { offset: u16::MAX, length: u16::MAX, ..back[0] },
        Descriptor { index: 1024, ..back[0] },
        Descriptor { index: u32::MAX, ..back[0] },
    ];
    for descriptor in bad {
        // The good one before it is sent.
        let pair = [back[1], descriptor];
        assert_eq!(tx.send(&worker, &pair), 1, "{descriptor:?}");
        assert_eq!(rx.receive(&worker, &mut back[1..2]), 1);
    }
    pool.free(&worker, &[1024, u32::MAX]);
    assert_eq!(pool.refused(), 3 + 5 + 2);

    pool.free_descriptors(&worker, &back[..48]);
    pool.free_descriptors(&worker, &back[..48]);
    assert_eq!(pool.refused(), 3 + 5 + 2 + 48, "given back twice");
    assert_eq!(pool.in_use(), 0);

    // The pool gives what is left, and no buffer twice.
    let mut all = vec![0; 2000];
    let got = pool.allocate(&worker, &mut all);
    let mut seen = all[..got].to_vec();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!((got, seen.len(), pool.available()), (1024, 1024, 0));
    pool.free(&worker, &all[..got]);

    // A ring that is full takes what fits; the rest stays the caller's.
    let got = pool.allocate(&worker, &mut all);
    let many: Vec<Descriptor> = all[..got]
        .iter()
        .map(|&index| Descriptor { index, offset: 128, length: 64, ..Descriptor::default() })
        .collect();
    let mut sent = 0;
    loop {
        match tx.send(&worker, &many[sent..]) {
            0 => break,
            n => sent += n,
        }
    }
    assert!(sent > 0);
    pool.free_descriptors(&worker, &many[sent..]);
    assert_eq!(pool.in_use() as usize, sent);
    loop {
        match rx.receive(&worker, &mut back) {
            0 => break,
            n => pool.free_descriptors(&worker, &back[..n]),
        }
    }
    assert_eq!(pool.in_use(), 0);
    drop((queues, port));
    assert_eq!(pool.available(), 1024);
}
