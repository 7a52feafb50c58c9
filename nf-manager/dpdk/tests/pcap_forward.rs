//! Forwards one capture file into another, and compares the packets byte for byte.

mod host;

use middlenet_dpdk::{MAX_BURST, Port, PortConfig};
use middlenet_shm::Descriptor;

#[test]
fn forwards_every_byte() {
    let folder = host::Folder::new("pcap");
    let (input, output) = (folder.file("in.pcap"), folder.file("out.pcap"));
    let packet = |length: usize, seed: usize| (0..length).map(|i| (i * 31 + seed * 7) as u8).collect::<Vec<u8>>();
    let packets: Vec<Vec<u8>> = (0..500).map(|i| packet(60 + i * 13 % 1459, i)).collect();
    let mut with_jumbo = packets.clone();
    // Larger than a buffer: arrives as a chain, and is dropped.
    with_jumbo.insert(250, packet(4000, 1));
    host::write_pcap(&input, &with_jumbo);

    let eal = host::eal();
    let pool = host::pool(&eal, 1024);
    let config = PortConfig::default();
    let device = format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let mut port = Port::open(&eal, &device, &pool, &config).expect("net_pcap");
    let mut queues = port.start().expect("start");

    let worker_pool = pool.clone();
    let segmented = eal
        .launch(eal.workers()[0], move |worker| {
            let mut burst = [Descriptor::default(); MAX_BURST];
            let mut empty = 0;
            while empty < 10 {
                let got = queues.rx[0].receive(worker, &mut burst);
                empty = if got == 0 { empty + 1 } else { 0 };
                let mut sent = 0;
                while sent < got {
                    sent += queues.tx[0].send(worker, &burst[sent..got]);
                }
            }
            assert_eq!(worker_pool.refused(), 0);
            queues.rx[0].segmented()
        })
        .expect("launch")
        .join()
        .expect("worker");
    drop(port);

    assert_eq!(segmented, 1);
    assert!(host::read_pcap(&output) == packets, "the packets differ");
    assert_eq!(pool.in_use(), 0);
}
