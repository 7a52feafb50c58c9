//! What the tests need of the host. A test binary starts the EAL once, so each file here holds one test.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::sync::Arc;

use middlenet_dpdk::{Eal, EalConfig, Memory, Pool, PoolConfig};
use middlenet_shm::{Buffers, Pages, Region};

/// An EAL with one worker lcore and no huge pages, so that no privilege is needed.
pub(crate) fn eal() -> Eal {
    Eal::init(&EalConfig {
        main_cpus: vec![0],
        worker_cpus: vec![0],
        memory: Memory::NoHuge { mib: 256 },
        ..EalConfig::default()
    })
    .expect("EAL without huge pages")
}

/// A pool of `count` buffers of 2 KiB on ordinary pages.
pub(crate) fn pool(eal: &Eal, count: usize) -> Arc<Pool> {
    let region = Arc::new(Region::create("packets", count * 2048, Pages::Small).expect("region"));
    let buffers = Buffers::new(region, 2048).expect("buffers");
    Pool::create(eal, buffers, &PoolConfig::default()).expect("pool")
}
