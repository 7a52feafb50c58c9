//! Forwards between two ports with a MAC rewrite and prints the rate: what the port layer costs, with no function.
//!
//! ```text
//! forward [SECONDS] [BURST] [CACHE] [DEVICE DEVICE]
//! forward 3 32 512 net_null0 net_null1
//! forward 3 32 512 net_pcap0,rx_pcap=in.pcap,infinite_rx=1 net_null1
//! ```

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use middlenet_dpdk::{
    Eal, EalConfig, MAX_BURST, Memory, Pool, PoolConfig, Port, PortConfig, Queues, RxQueue, TxQueue, Worker, tsc,
};
use middlenet_shm::{Buffers, Descriptor, HUGE_PAGE_BYTES, Pages, Region};

const BUFFERS: usize = 8192;
const DESTINATION: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const SOURCE: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u32| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let (seconds, burst, cache) = (number(0, 3)?, number(1, 32)? as usize, number(2, 512)?);
    let device = |at: usize, default: &str| arguments.get(at).cloned().unwrap_or_else(|| default.into());

    let region = Arc::new(Region::create("packets", BUFFERS * 2048, Pages::Auto)?);
    let huge = region.page_bytes() == HUGE_PAGE_BYTES;
    let eal = Eal::init(&EalConfig {
        main_cpus: vec![0],
        worker_cpus: vec![1],
        memory: if huge { Memory::HugePages { limit_mib: Some(128) } } else { Memory::NoHuge { mib: 256 } },
        ..EalConfig::default()
    })?;
    let pool = Pool::create(&eal, Buffers::new(region, 2048)?, &PoolConfig { cache, ..PoolConfig::default() })?;
    let mut a = Port::open(&eal, &device(3, "net_null0"), &pool, &PortConfig::default())?;
    let mut b = Port::open(&eal, &device(4, "net_null1"), &pool, &PortConfig { number: 1, ..PortConfig::default() })?;
    let queues = (a.start()?, b.start()?);
    let held_by_ports = pool.in_use();

    let stop = Arc::new(AtomicBool::new(false));
    let running = {
        let (stop, pool) = (Arc::clone(&stop), Arc::clone(&pool));
        eal.launch(eal.workers()[0], move |worker| forward(worker, &pool, queues, burst, &stop))?
    };
    for _ in 0..seconds {
        std::thread::sleep(Duration::from_secs(1));
    }
    stop.store(true, Ordering::Relaxed);
    let mut slices = running.join().map_err(|_| "the worker panicked")?;

    slices.retain(|slice| slice.packets > 0);
    let (packets, cycles) = slices.iter().fold((0, 0), |(p, c), slice| (p + slice.packets, c + slice.cycles));
    let mut costs: Vec<f64> = slices.iter().map(|slice| slice.cycles as f64 / slice.packets as f64).collect();
    costs.sort_by(f64::total_cmp);
    // A busy host steals time from some slices; the lower percentiles show what the code costs.
    let cost = |percent: usize| costs.get(costs.len() * percent / 100).copied().unwrap_or(f64::NAN);
    println!(
        "{:.1} Mpps; cycles per packet: p5 {:.1}, median {:.1}, p95 {:.1}; burst {burst}, cache {cache}, {} pages",
        packets as f64 * tsc::hz(&eal) as f64 / cycles as f64 / 1e6,
        cost(5),
        cost(50),
        cost(95),
        if huge { "2 MiB" } else { "4 KiB" },
    );
    if pool.in_use() != held_by_ports || pool.refused() != 0 {
        return Err(format!("{} buffers in use before, {} after", held_by_ports, pool.in_use()).into());
    }
    Ok(())
}

/// What some thousand bursts carried and took.
struct Slice {
    packets: u64,
    cycles: u64,
}

/// Forwards both ways until told to stop.
fn forward(
    worker: &Worker,
    pool: &Pool,
    (mut a, mut b): (Queues, Queues),
    burst: usize,
    stop: &AtomicBool,
) -> Vec<Slice> {
    let mut descriptors = [Descriptor::default(); MAX_BURST];
    let burst = &mut descriptors[..burst];
    let mut slices = Vec::with_capacity(100_000);
    while !stop.load(Ordering::Relaxed) {
        let started = tsc::now();
        let mut packets = 0;
        for _ in 0..1024 {
            packets += one_way(worker, pool, &mut a.rx[0], &mut b.tx[0], burst);
            packets += one_way(worker, pool, &mut b.rx[0], &mut a.tx[0], burst);
        }
        slices.push(Slice { packets, cycles: tsc::now() - started });
    }
    slices
}

fn one_way(worker: &Worker, pool: &Pool, rx: &mut RxQueue, tx: &mut TxQueue, burst: &mut [Descriptor]) -> u64 {
    let got = rx.receive(worker, burst);
    for descriptor in &mut burst[..got] {
        if let Some(ethernet) = pool.buffers().bytes_mut(descriptor).first_chunk_mut::<12>() {
            ethernet[..6].copy_from_slice(&DESTINATION);
            ethernet[6..].copy_from_slice(&SOURCE);
        }
    }
    let sent = tx.send(worker, &burst[..got]);
    if sent < got {
        pool.free_descriptors(worker, &burst[sent..got]);
    }
    sent as u64
}
