//! Traffic at a set rate, from a namespace, whether anybody takes it or not.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use middlenet_tests::Netns;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};
use nix::unistd::Pid;

use crate::BenchError;

/// Datagrams per system call at most.
const GROUP: usize = 32;
/// Datagrams that a sender which was kept from its core may make up for; more would be a burst of its own making.
const CATCH_UP: u64 = 256;
/// Waits longer than this are slept, shorter ones spun.
const SLEEP_FROM: Duration = Duration::from_micros(150);
/// The smallest Ethernet frame without its FCS, which sockets do not see.
const SMALLEST_BYTES: usize = 60;
/// Of Ethernet, IPv4 and UDP.
const HEADERS_BYTES: usize = 42;

/// A thread that sends UDP datagrams in the smallest Ethernet frames. Dropping it ends it.
#[derive(Debug)]
pub struct Sender {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    /// Sends from `netns` to `to` on core `core`: `rate_pps` datagrams per second, or as many as it can.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the address not be reached.
    pub fn start(netns: &Netns, to: SocketAddr, core: usize, rate_pps: Option<f64>) -> Result<Self, BenchError> {
        Self::start_with(netns, to, core, rate_pps, SMALLEST_BYTES)
    }

    /// The same with frames of so many bytes, their FCS not included.
    ///
    /// # Errors
    /// Likewise.
    pub fn start_with(
        netns: &Netns,
        to: SocketAddr,
        core: usize,
        rate_pps: Option<f64>,
        frame_bytes: usize,
    ) -> Result<Self, BenchError> {
        let open = || {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.connect(to)?;
            Ok(socket)
        };
        let opened: std::io::Result<UdpSocket> = netns.enter(open)?;
        let socket = opened.map_err(|e| BenchError::Failed(format!("cannot send to {to}: {e}")))?;
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end) = (Arc::clone(&sent), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            // Without its core it is slower, and its own count of what it sent says so.
            let mut set = CpuSet::new();
            let _ = set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
            send(&socket, rate_pps, &vec![0; frame_bytes.saturating_sub(HEADERS_BYTES)], &count, &end);
        });
        Ok(Self { sent, stop, thread: Some(thread) })
    }

    /// Datagrams that the kernel has taken.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Sender {
    /// Ends it; returns how many datagrams the kernel has taken in all.
    pub fn end(mut self) -> u64 {
        self.join();
        self.sent()
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.join();
    }
}

fn send(socket: &UdpSocket, rate_pps: Option<f64>, payload: &[u8], sent: &AtomicU64, stop: &AtomicBool) {
    let datagrams = [[IoSlice::new(payload)]; GROUP];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(GROUP, None);
    let mut schedule = Schedule::new(rate_pps);
    let start = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let due = match schedule.due(start.elapsed()) {
            Due::Now(n) => n.min(GROUP),
            Due::In(wait) if wait >= SLEEP_FROM => {
                std::thread::sleep(wait.min(Duration::from_millis(50)));
                continue;
            }
            Due::In(_) => {
                std::hint::spin_loop();
                continue;
            }
        };
        let addresses = [None; GROUP];
        let group = datagrams[..due].iter();
        let result = sendmmsg(socket.as_raw_fd(), &mut headers, group, &addresses[..due], [], MsgFlags::empty());
        // A full queue or an ICMP error takes this group only.
        let taken = result.map_or(0, |sent| sent.count());
        schedule.took(due);
        sent.fetch_add(taken as u64, Ordering::Relaxed);
    }
}

/// What is to be sent when.
#[derive(Debug)]
struct Schedule {
    rate_pps: Option<f64>,
    done: u64,
}

#[derive(Debug, PartialEq)]
enum Due {
    Now(usize),
    In(Duration),
}

impl Schedule {
    fn new(rate_pps: Option<f64>) -> Self {
        Self { rate_pps, done: 0 }
    }

    fn due(&mut self, elapsed: Duration) -> Due {
        let Some(rate) = self.rate_pps else { return Due::Now(GROUP) };
        let planned = (elapsed.as_secs_f64() * rate) as u64;
        self.done = self.done.max(planned.saturating_sub(CATCH_UP));
        match planned.saturating_sub(self.done) {
            0 => Due::In(Duration::from_secs_f64((self.done + 1) as f64 / rate).saturating_sub(elapsed)),
            n => Due::Now(n as usize),
        }
    }

    fn took(&mut self, datagrams: usize) {
        self.done += datagrams as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_keeps_its_rate() {
        let mut schedule = Schedule::new(Some(1000.0));
        assert_eq!(schedule.due(Duration::ZERO), Due::In(Duration::from_millis(1)));
        assert_eq!(schedule.due(Duration::from_micros(2500)), Due::Now(2));
        schedule.took(2);
        assert_eq!(schedule.due(Duration::from_micros(2500)), Due::In(Duration::from_micros(500)));
    }

    #[test]
    fn what_was_missed_for_long_is_not_made_up_for() {
        let mut schedule = Schedule::new(Some(1_000_000.0));
        assert_eq!(schedule.due(Duration::from_secs(1)), Due::Now(CATCH_UP as usize));
    }

    #[test]
    fn without_a_rate_it_is_always_time() {
        let mut schedule = Schedule::new(None);
        assert_eq!(schedule.due(Duration::ZERO), Due::Now(GROUP));
        schedule.took(GROUP);
        assert_eq!(schedule.due(Duration::ZERO), Due::Now(GROUP));
    }
}
