//! What the tests need of the host. A test binary starts the EAL once, so each file here holds one test.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::{Path, PathBuf};
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

/// Writes an Ethernet capture file.
pub(crate) fn write_pcap(path: &Path, packets: &[Vec<u8>]) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1] {
        file.extend(word.to_le_bytes());
    }
    for packet in packets {
        let length = packet.len() as u32;
        for word in [0, 0, length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend(packet);
    }
    std::fs::write(path, file).expect("capture file");
}

/// The packets of an Ethernet capture file.
pub(crate) fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let file = std::fs::read(path).expect("capture file");
    let mut rest = &file[24..];
    let mut packets = Vec::new();
    while let Some((header, data)) = rest.split_at_checked(16) {
        let length = u32::from_le_bytes(header[8..12].try_into().expect("four bytes")) as usize;
        packets.push(data[..length].to_vec());
        rest = &data[length..];
    }
    packets
}

/// A folder that is removed again.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("middlenet-dpdk-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("folder");
        Folder(path)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
