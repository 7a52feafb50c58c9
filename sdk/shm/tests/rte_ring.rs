//! DPDK's `rte_ring`, compiled from its own headers, on the other side of our rings.

#[path = "support/c_peer.rs"]
mod c_peer;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use middlenet_shm::{Descriptor, Pages, Region, RingArea};

fn peer() -> Option<PathBuf> {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{:?}", std::thread::current().id()));
    std::fs::create_dir_all(&out).unwrap();
    c_peer::rte_ring_peer(&out)
}

#[test]
fn our_header_is_the_one_that_rte_ring_init_makes() {
    let Some(peer) = peer() else { return };
    let region = Arc::new(Region::create("ring", RingArea::bytes(256), Pages::Small).unwrap());
    RingArea::new(region.clone(), 0, 256).unwrap().init("a-ring");
    // SAFETY: 384 bytes of a region of at least that, to which nobody writes now.
    let ours = unsafe { std::slice::from_raw_parts(region.as_ptr(), 384) };

    let theirs = Command::new(peer).args(["layout", "256", "a-ring"]).output().unwrap();
    assert!(theirs.status.success());
    assert_eq!(ours, theirs.stdout);
}

/// Our producer to their consumer, their producer to our consumer, small rings that wrap all the time.
#[test]
fn descriptors_pass_through_rte_ring_in_both_directions() {
    const COUNT: u32 = 1_000_000;
    let Some(peer) = peer() else { return };
    for pages in [Pages::Small, Pages::Auto] {
        let slots = if pages == Pages::Auto { 1 << 16 } else { 64 };
        let second = RingArea::bytes(slots).next_multiple_of(64);
        let region = Arc::new(Region::create("rings", second + RingArea::bytes(slots), pages).unwrap());
        let there = RingArea::new(region.clone(), 0, slots).unwrap();
        let back = RingArea::new(region.clone(), second, slots).unwrap();
        there.init("there");
        back.init("back");
        let (mut producer, mut consumer) = (there.producer(), back.consumer());

        let mut child = Command::new(&peer)
            .arg("echo")
            .args([region.length(), 0, second, COUNT as usize].map(|n| n.to_string()))
            .stdin(Stdio::from(region.fd().try_clone_to_owned().unwrap()))
            .spawn()
            .unwrap();
        let (mut sent, mut received, start) = (0, 0, Instant::now());
        let mut burst = [Descriptor::default(); 32];
        while received < COUNT {
            let n = burst.len().min((COUNT - sent) as usize);
            for (i, d) in burst[..n].iter_mut().enumerate() {
                *d = descriptor(sent + i as u32);
            }
            let put = producer.enqueue(&burst[..n]);
            sent += put as u32;
            let got = consumer.dequeue(&mut burst);
            for d in &burst[..got] {
                let mut expected = descriptor(received);
                expected.port = expected.port.wrapping_add(1);
                assert_eq!(*d, expected);
                received += 1;
            }
            if put + got == 0 {
                std::thread::yield_now();
            }
            if start.elapsed() > Duration::from_secs(60) {
                let _ = child.kill();
                panic!("stuck after {sent} sent and {received} received");
            }
        }
        assert!(child.wait().unwrap().success());
        assert!(consumer.is_empty());
        assert_eq!(producer.used(), 0);
        assert_eq!((producer.garbled(), consumer.garbled()), (0, 0));
    }
}

fn descriptor(n: u32) -> Descriptor {
    Descriptor {
        index: n,
        offset: n as u16,
        length: (n >> 1) as u16,
        argument: (n >> 2) as u16,
        source: (n >> 3) as u16,
        generation: (n >> 4) as u16,
        verdict: (n >> 5) as u8,
        port: n as u8,
    }
}
