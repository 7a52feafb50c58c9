//! Prints how fast packets come over a cable to an AF_XDP socket, steered by rules and by a bare redirect.
//!
//! ```console
//! # cargo run --profile fast -p middlenet-xsk --example steering_rate
//! ```
//!
//! One thread sends bursts and takes what arrives; the kernel runs the program meanwhile, on the same processor. What is
//! measured is the processor time of the thread, so that other work on the host counts little. Short rounds with and without
//! rules take turns; each figure is a median, and so is the ratio of neighbours.

#[path = "../tests/stage/mod.rs"]
mod stage;

use std::hint::black_box;
use std::time::Duration;

use middlenet_bpf::{META_BYTES, Mode, SteeredPort, XdpHook, XdpPort, take_tag};
use middlenet_shm::Descriptor;
use middlenet_steer::testkit::Mix;
use middlenet_steer::{Action, Tables};
use middlenet_tests::Netns;
use middlenet_xsk::{Interface, XskConfig, XskQueue};
use nix::time::{ClockId, clock_gettime};
use stage::{Peer, Pool, cable};

const BURST: usize = 64;
const BURSTS: usize = 128;
const ROUNDS: usize = 101;

fn main() {
    let near = Netns::new("near").expect("a namespace");
    let mut end = End::new(&near);
    println!("{:>6} {:>10} {:>10} {:>6}", "rules", "bare", "steered", "ratio");
    for count in [0, 1, 10, 100, 1000, 4000] {
        let mix = Mix::new(count);
        let tables = Tables::compile(mix.rules(), Action::Tag(0)).expect("within the limits");
        // In no order that a processor could learn.
        let packets: Vec<Vec<u8>> =
            (0..BURST * BURSTS).map(|n| Mix::frame(n * 7919 % count.max(1), (n * 31 % 200) as u8)).collect();
        let mut rounds = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let bare = end.attached(&near, |ifindex| XdpPort::load(ifindex)?.attach(Mode::Native), &packets, false);
            let steer = |ifindex| SteeredPort::load(ifindex, &tables)?.attach(Mode::Native);
            rounds.push((bare, end.attached(&near, steer, &packets, true)));
        }
        let median = |of: fn(&(f64, f64)) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[ROUNDS / 2]
        };
        let (bare_ns, steered_ns, ratio) = (median(|r| r.0), median(|r| r.1), median(|r| r.0 / r.1));
        println!("{count:>6} {bare_ns:>7.0} ns {steered_ns:>7.0} ns {ratio:>6.3}");
    }
}

/// A cable with a peer at one end and a socket at the other.
struct End {
    peer: Peer,
    pool: Pool,
    queue: XskQueue,
    ifindex: u32,
    _far: Netns,
}

impl End {
    fn new(near: &Netns) -> Self {
        let far = Netns::new("far").expect("a namespace");
        cable(near, "eth0", &far, 1);
        let mut pool = Pool::new(4096, 2048);
        let opened = near.enter(|| {
            let ifindex = Interface::lookup("eth0").expect("the device is there").ifindex;
            (ifindex, XskQueue::bind(&pool.umem, ifindex, 0, &XskConfig::default()).expect("the queue is free"))
        });
        let (ifindex, mut queue) = opened.expect("the namespace can be entered");
        while queue.fill_room() > 0 && pool.free.len() > BURST {
            pool.fill(&mut queue, BURST);
        }
        Self { peer: Peer::new(&far, "eth0"), pool, queue, ifindex, _far: far }
    }

    /// A round with a program on the interface; the first packets, which warm it up, do not count.
    fn attached<A: AsRef<XdpHook> + Send>(
        &mut self,
        near: &Netns,
        attach: impl FnOnce(u32) -> middlenet_bpf::Result<A> + Send,
        packets: &[Vec<u8>],
        tagged: bool,
    ) -> f64 {
        let ifindex = self.ifindex;
        let attachment = near.enter(|| attach(ifindex).expect("it attaches")).expect("the namespace can be entered");
        attachment.as_ref().set_socket(0, &self.queue).expect("the socket enters the map");
        self.round(&packets[..packets.len() / 8], tagged);
        self.round(packets, tagged)
    }

    /// Nanoseconds of the processor for each packet, from the peer's call to the buffer that is given back.
    fn round(&mut self, packets: &[Vec<u8>], tagged: bool) -> f64 {
        let began = processor_time();
        let mut received = 0;
        for burst in packets.chunks(BURST) {
            self.peer.send_burst(burst);
            received += self.take(tagged);
        }
        while received < packets.len() {
            received += self.take(tagged);
        }
        (processor_time() - began).as_nanos() as f64 / packets.len() as f64
    }

    /// Receives a burst, reads the tags if there are any, and gives the buffers back.
    fn take(&mut self, tagged: bool) -> usize {
        let mut out = [Descriptor::default(); BURST];
        let count = self.queue.receive(&mut out);
        for descriptor in &out[..count] {
            if tagged {
                let offset = descriptor.offset - META_BYTES as u16;
                let mut before = Descriptor { offset, length: META_BYTES as u16, ..*descriptor };
                let meta = self.pool.umem.buffers().bytes_mut(&mut before);
                black_box(take_tag(meta.try_into().expect("eight bytes")).expect("a tag"));
            }
            self.pool.free.push(descriptor.index);
        }
        self.pool.fill(&mut self.queue, BURST);
        self.queue.kick();
        count
    }
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has this clock").into()
}
