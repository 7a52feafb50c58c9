//! Forwards packets between two interfaces by AF_XDP alone, and measures what a cable with nothing else in it carries.
//!
//! ```text
//! forward                     builds two hosts and itself between them, in namespaces, and measures
//! forward A B [SECONDS]       forwards between two interfaces of this namespace
//! ```
//!
//! It is the ceiling for every chain with AF_XDP ports: one thread, both directions, poll(2) when idle, no look at any
//! packet. Both forms need root, the measuring one also `iperf3` and `ethtool`.

use std::env;
use std::error::Error;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use middlenet_bpf::{Mode, XdpAttachment, XdpPort};
use middlenet_shm::{Buffers, Descriptor, Pages, Region};
use middlenet_tests::{End, Netns, Process, Veth};
use middlenet_xsk::{Interface, Promiscuous, Umem, XskConfig, XskQueue};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const BUFFERS: usize = 16_384;
const BUFFER_BYTES: u32 = 2048;
const BURST: usize = 64;
const MEASURED_SECONDS: u64 = 5;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => measure(),
        [a, b] => run(a, b, Duration::MAX),
        [a, b, seconds] => seconds.parse().map_err(Into::into).and_then(|s| run(a, b, Duration::from_secs(s))),
        _ => Err("usage: forward [A B [SECONDS]]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forward: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One interface with the program attached and queue 0 bound; undone from the last field to the first when it goes.
struct Port {
    queue: XskQueue,
    attachment: XdpAttachment,
    _promiscuous: Promiscuous,
}

impl Port {
    fn open(name: &str, umem: &Arc<Umem>) -> Outcome<Self> {
        let interface = Interface::lookup(name)?;
        let attachment = XdpPort::load(interface.ifindex)?.attach(Mode::Auto)?;
        let queue = XskQueue::bind(umem, interface.ifindex, 0, &XskConfig::default())?;
        attachment.set_socket(0, &queue)?;
        let copies = if queue.zero_copy() { "zero-copy" } else { "copy" };
        eprintln!("{name}: {} XDP, {copies}, {} queue(s), {}", attachment.mode(), interface.queues, interface.driver);
        Ok(Self { queue, attachment, _promiscuous: interface.promiscuous()? })
    }
}

/// Sends to `to` what `from` received, where it lies. Says whether anything moved.
fn forward(from: &mut XskQueue, to: &mut XskQueue, free: &mut Vec<u32>, dropped: &mut u64) -> bool {
    let mut burst = [Descriptor::default(); BURST];
    let received = from.receive(&mut burst);
    let sent = to.send(&burst[..received]);
    for descriptor in &burst[sent..received] {
        free.push(descriptor.index);
        *dropped += 1;
    }
    to.kick();

    let mut returned = [0; BURST];
    loop {
        let count = to.completed(&mut returned);
        free.extend_from_slice(&returned[..count]);
        if count < BURST {
            break;
        }
    }
    let count = from.fill_room().min(free.len());
    if count >= BURST {
        let kept = free.len() - count;
        let taken = from.fill(&free[kept..]);
        free.truncate(free.len() - taken);
    }
    from.kick();
    received > 0
}

fn run(a: &str, b: &str, time: Duration) -> Outcome<()> {
    let region = Region::create("forward", BUFFERS * BUFFER_BYTES as usize, Pages::Auto)?;
    let umem = Umem::new(Buffers::new(Arc::new(region), BUFFER_BYTES)?);
    let mut free: Vec<u32> = (0..umem.buffers().count()).collect();
    let (mut a, mut b) = (Port::open(a, &umem)?, Port::open(b, &umem)?);
    eprintln!("forwarding");

    let began = Instant::now();
    let mut dropped = 0;
    while began.elapsed() < time {
        let mut moved = false;
        // The clock is read once for many bursts.
        for _ in 0..64 {
            moved = forward(&mut a.queue, &mut b.queue, &mut free, &mut dropped);
            moved |= forward(&mut b.queue, &mut a.queue, &mut free, &mut dropped);
            if !moved {
                break;
            }
        }
        if !moved {
            // What waits to be completed wakes nobody, hence the short wait while something does.
            let wait_ms = if a.queue.outstanding() + b.queue.outstanding() > 0 { 1_u8 } else { 100 };
            let mut sockets =
                [PollFd::new(a.queue.as_fd(), PollFlags::POLLIN), PollFd::new(b.queue.as_fd(), PollFlags::POLLIN)];
            poll(&mut sockets, wait_ms)?;
        }
    }
    for (name, port) in [("a", a), ("b", b)] {
        println!("{name}: {:?} {:?}", port.attachment.counters()?, port.queue.statistics()?);
        port.queue.close(&mut free);
    }
    println!("dropped for want of room in a transmit ring: {dropped}");
    if free.len() != umem.buffers().count() as usize {
        return Err(format!("{} buffers of {} came back", free.len(), umem.buffers().count()).into());
    }
    Ok(())
}

fn measure() -> Outcome<()> {
    let (left, middle, right) = (Netns::new("left")?, Netns::new("middle")?, Netns::new("right")?);
    let _a = Veth::between(&End::new(&left, "eth0").address("10.80.0.1/24"), &End::new(&middle, "a"))?;
    let _b = Veth::between(&End::new(&right, "eth0").address("10.80.0.2/24"), &End::new(&middle, "b"))?;

    let seconds = (4 * MEASURED_SECONDS + 30).to_string();
    let mut command = middle.command_with_host_mounts(env::current_exe()?);
    let mut forwarder = Process::spawn(command.args(["a", "b", &seconds]))?;
    forwarder.wait_for_output("forwarding", Duration::from_secs(20))?;
    left.wait_for_ping("10.80.0.2", Duration::from_secs(10))?;
    let server = right.spawn("iperf3", ["--server"])?;
    middlenet_tests::wait_until("iperf3's listening", Duration::from_secs(5), || {
        right.exec("ss", ["-Hltn"]).is_ok_and(|output| output.stdout.contains(":5201"))
    })?;

    let length = MEASURED_SECONDS.to_string();
    let client = ["--client", "10.80.0.2", "--time", &length, "--format", "m"];
    for (case, extra) in [
        ("TCP", &[][..]),
        ("TCP, both ways", &["--bidir"][..]),
        ("UDP of 60 bytes", &["-u", "-b", "0", "-l", "18"][..]),
    ] {
        let before = right.statistic("eth0", "rx_packets")?;
        let began = Instant::now();
        let output = left.exec("iperf3", [&client[..], extra].concat())?;
        let taken = began.elapsed().as_secs_f64();
        let packets = right.statistic("eth0", "rx_packets")? - before;
        let rates: Vec<&str> =
            output.stdout.lines().filter(|line| line.ends_with("receiver") || line.ends_with("sender")).collect();
        println!("{case}: {:.3} Mpps delivered\n{}", packets as f64 / taken / 1e6, rates.join("\n"));
    }
    drop(server);
    if forwarder.is_running() {
        forwarder.signal(Signal::SIGTERM);
    }
    Ok(())
}
