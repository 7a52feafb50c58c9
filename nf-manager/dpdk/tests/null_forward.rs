//! Forwards between two null ports on a worker lcore, and finds every buffer back in the pool.

mod host;

use middlenet_dpdk::{DpdkError, Eal, EalConfig, MAX_BURST, Port, PortConfig};
use middlenet_shm::Descriptor;

const BURSTS: usize = 10_000;

#[test]
fn forwards_and_conserves() {
    let eal = host::eal();
    assert!(matches!(Eal::init(&EalConfig::default()), Err(DpdkError::AlreadyInitialised)));

    let pool = host::pool(&eal, 4096);
    assert_eq!((pool.count(), pool.available(), pool.in_use()), (4096, 4096, 0));

    let config = |number| PortConfig { number, ..PortConfig::default() };
    let mut a = Port::open(&eal, "net_null0", &pool, &config(0)).expect("net_null0");
    let mut b = Port::open(&eal, "net_null1,size=128", &pool, &config(1)).expect("net_null1");
    assert!(matches!(Port::open(&eal, "net_null0", &pool, &config(2)), Err(DpdkError::PortInUse(_))));
    assert_eq!(a.capabilities().driver, "net_null");
    let (mut a_queues, mut b_queues) = (a.start().expect("start"), b.start().expect("start"));
    assert!(matches!(a.stop(), Err(DpdkError::QueuesInUse { queues: 2, .. })));

    let worker_pool = pool.clone();
    let (forwarded, lengths) = eal
        .launch(eal.workers()[0], move |worker| {
            let (mut forwarded, mut lengths) = ([0usize; 2], [0u64; 2]);
            let mut burst = [Descriptor::default(); MAX_BURST];
            for _ in 0..BURSTS {
                for (side, rx, tx) in
                    [(0, &mut a_queues.rx[0], &mut b_queues.tx[0]), (1, &mut b_queues.rx[0], &mut a_queues.tx[0])]
                {
                    let got = rx.receive(worker, &mut burst[..32]);
                    for descriptor in &mut burst[..got] {
                        assert!(worker_pool.buffers().fits(descriptor));
                        assert_eq!(descriptor.port, side as u8);
                        lengths[side] += u64::from(descriptor.length);
                        let packet = worker_pool.buffers().bytes_mut(descriptor);
                        packet[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
                    }
                    let sent = tx.send(worker, &burst[..got]);
                    worker_pool.free_descriptors(worker, &burst[sent..got]);
                    forwarded[side] += sent;
                }
            }
            (forwarded, lengths)
        })
        .expect("launch")
        .join()
        .expect("worker");

    assert_eq!(forwarded, [BURSTS * 32; 2]);
    assert_eq!(lengths, [(BURSTS * 32 * 64) as u64, (BURSTS * 32 * 128) as u64]);
    assert_eq!((pool.available(), pool.in_use(), pool.refused()), (4096, 0, 0), "every buffer is free again");

    let (a_stats, b_stats) = (a.stats().expect("stats"), b.stats().expect("stats"));
    assert_eq!(a_stats.received_pkts, b_stats.sent_pkts);
    assert_eq!(b_stats.received_pkts, a_stats.sent_pkts);
    assert_eq!(a_stats.received_pkts, (BURSTS * 32) as u64);
    assert!(!a.xstats().expect("xstats").is_empty());

    a.stop().expect("stop");
    let queues = a.start().expect("start again");
    drop(queues);
    drop(a);
    // Closed and removed, so the name is free.
    Port::open(&eal, "net_null0", &pool, &config(0)).expect("net_null0 again");
}
