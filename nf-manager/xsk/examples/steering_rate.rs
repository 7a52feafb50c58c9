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

use middlenet_bpf::{META_BYTES, Mode, SteeredAttachment, XdpHook, XdpPort, take_tag};
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
    let (mut bare, _attachment) = End::new(&near, "bare", |ifindex| XdpPort::attach(ifindex, Mode::Native));
    let none = Tables::compile(&[], Action::Drop).expect("no rules");
    let (mut steered, mut attachment): (End, SteeredAttachment) =
        End::new(&near, "steered", |ifindex| XdpPort::attach_steered(ifindex, Mode::Native, &none));
    println!("{:>6} {:>10} {:>10} {:>6}", "rules", "bare", "steered", "ratio");
    for count in [1, 10, 100, 1000, 4000] {
        let mix = Mix::new(count);
        let tables = Tables::compile(mix.rules(), Action::Kernel).expect("within the limits");
        attachment.steering_mut().replace(&tables).expect("the kernel takes the rules");
        // In no order that a processor could learn.
        let packets: Vec<Vec<u8>> =
            (0..BURST * BURSTS).map(|n| Mix::frame(n * 7919 % count, (n * 31 % 200) as u8)).collect();
        let rounds: Vec<(f64, f64)> =
            (0..ROUNDS).map(|_| (bare.round(&packets, false), steered.round(&packets, true))).collect();
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
    _far: Netns,
}

impl End {
    fn new<A: AsRef<XdpHook> + Send>(
        near: &Netns,
        device: &str,
        attach: impl FnOnce(u32) -> middlenet_bpf::Result<A> + Send,
    ) -> (Self, A) {
        let far = Netns::new("peer").expect("a namespace");
        cable(near, device, &far, 1);
        let mut pool = Pool::new(4096, 2048);
        let opened = near.enter(|| {
            let ifindex = Interface::lookup(device).expect("the device is there").ifindex;
            let attachment = attach(ifindex).expect("it attaches");
            let queue = XskQueue::bind(&pool.umem, ifindex, 0, &XskConfig::default()).expect("the queue is free");
            attachment.as_ref().set_socket(0, &queue).expect("the socket enters the map");
            (attachment, queue)
        });
        let (attachment, mut queue) = opened.expect("the namespace can be entered");
        while queue.fill_room() > 0 && pool.free.len() > BURST {
            pool.fill(&mut queue, BURST);
        }
        (Self { peer: Peer::new(&far, "eth0"), pool, queue, _far: far }, attachment)
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
