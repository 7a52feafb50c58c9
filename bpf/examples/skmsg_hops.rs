//! What the check of a group costs: descriptors go round broker -> A -> B -> broker, each a process of its own, with the
//! filter and without it in turn.
//!
//! ```console
//! # cargo run --release -p middlenet-bpf --example skmsg_hops -- [SECONDS]
//! ```

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::Release;
use std::time::{Duration, Instant};
use std::{env, io};

use middlenet_bpf::{Filter, KeySet, Skmsg, entry, socket_pair};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::time::TimeValLike;

/// Set for the functions: the key that they pass everything on to.
const NEXT: &str = "MIDDLENET_HOP_NEXT";
/// With and without the filter in turn.
const ROUNDS: u32 = 15;
const CELL: usize = 16;
const MAX_GROUP: usize = 64;
const BROKER: u8 = 1;
const A: u8 = 2;
const B: u8 = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(next) = env::var(NEXT).ok().and_then(|key| key.parse().ok()) {
        return Ok(serve(next)?);
    }
    let seconds: f64 = env::args().nth(1).map_or(Ok(10.0), |text| text.parse())?;
    let slice = Duration::from_secs_f64(seconds / f64::from(ROUNDS) / 2.0);
    println!("in flight  filter    hops/s  p50 ns  p99 ns  CPU ns/hop");
    for in_flight in [1, 16, 128] {
        let (mut checked, mut plain) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            // The one that goes first differs, lest it be first on a host that is still busy with something.
            let turns = [(Filter::Checked, &mut checked), (Filter::Plain, &mut plain)];
            let mut turns = turns.into_iter();
            let order: [_; 2] = std::array::from_fn(|_| if round % 2 == 0 { turns.next() } else { turns.next_back() });
            for (filter, runs) in order.into_iter().flatten() {
                runs.push(run(filter, in_flight, slice)?);
            }
        }
        for (name, runs) in [("checked", &checked), ("plain", &plain)] {
            let of = |figure: fn(&Run) -> f64| median(runs.iter().map(figure));
            let (rate, cpu) = (of(|run| run.rate), of(|run| run.cpu_ns));
            let (p50, p99) = (of(|run| run.p50_ns), of(|run| run.p99_ns));
            println!("{in_flight:>9}  {name:<7} {rate:>9.0} {p50:>7.0} {p99:>7.0} {cpu:>11.1}");
        }
        // Of neighbours in time: the host is not the same from one second to the next.
        let pairs = || checked.iter().zip(&plain);
        let rate = median(pairs().map(|(with, without)| with.rate / without.rate));
        let cpu = median(pairs().map(|(with, without)| without.cpu_ns / with.cpu_ns));
        println!("{in_flight:>9}  ratio   {rate:>9.3} {:>7} {:>7} {cpu:>11.3}", "", "");
    }
    Ok(())
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

struct Run {
    /// Hops per second.
    rate: f64,
    p50_ns: f64,
    p99_ns: f64,
    /// Of all three processes, per hop.
    cpu_ns: f64,
}

fn run(filter: Filter, in_flight: u32, time: Duration) -> Result<Run, Box<dyn std::error::Error>> {
    let skmsg = Skmsg::load(in_flight, filter)?;
    skmsg.ledger().words().iter().for_each(|word| word.store(entry(BROKER.into(), 7), Release));
    let (socket, _peer) = socket_pair()?;
    skmsg.enter(BROKER, socket.as_fd())?;
    skmsg.set_edges(BROKER, &KeySet::from_iter([A]))?;
    let functions = [start(&skmsg, A, B)?, start(&skmsg, B, BROKER)?];

    let mut stream = Stream::new(socket);
    stream.cells.extend((0..in_flight).map(|index| {
        let mut cell = [0; CELL];
        cell[..4].copy_from_slice(&index.to_le_bytes());
        cell[12] = 7;
        cell
    }));
    // Once around, until when the functions are there.
    let mut waiting = in_flight as usize;
    while waiting > 0 {
        stream.pass(A)?;
        stream.receive()?;
        waiting = waiting.saturating_sub(stream.cells.len());
    }

    let mut sent_at = vec![Instant::now(); in_flight as usize];
    let mut latencies = Vec::with_capacity(1 << 20);
    let (begin, cpu_before, mut hops) = (Instant::now(), cpu_time()?, 0);
    while begin.elapsed() < time {
        stream.pass(A)?;
        if stream.receive()? == 0 {
            return Err("the broker's connection was closed".into());
        }
        let now = Instant::now();
        hops += 3 * stream.cells.len();
        for cell in &stream.cells {
            let index = u32::from_le_bytes([cell[0], cell[1], cell[2], cell[3]]) as usize;
            latencies.push((now - sent_at[index]).as_nanos() as u64 / 3);
            sent_at[index] = now;
        }
    }
    let rate = hops as f64 / begin.elapsed().as_secs_f64();
    for (mut function, peer) in functions {
        drop(peer);
        function.wait()?;
    }
    let cpu_ns = (cpu_time()? - cpu_before).as_nanos() as f64 / hops as f64;
    latencies.sort_unstable();
    let at = |part: f64| latencies[(latencies.len() as f64 * part) as usize] as f64;
    Ok(Run { rate, p50_ns: at(0.5), p99_ns: at(0.99), cpu_ns })
}

/// Of this process and of those that it has waited for.
fn cpu_time() -> nix::Result<Duration> {
    let mut sum = Duration::ZERO;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who)?;
        for time in [usage.user_time(), usage.system_time()] {
            sum += Duration::from_micros(time.num_microseconds() as u64);
        }
    }
    Ok(sum)
}

/// A process with its socket as standard input, and the end that stays here.
fn start(skmsg: &Skmsg, key: u8, next: u8) -> Result<(Child, OwnedFd), Box<dyn std::error::Error>> {
    let (socket, peer) = socket_pair()?;
    skmsg.enter(key, socket.as_fd())?;
    skmsg.set_edges(key, &KeySet::from_iter([next]))?;
    let child = Command::new(env::current_exe()?).env(NEXT, next.to_string()).stdin(Stdio::from(socket)).spawn()?;
    Ok((child, peer))
}

/// A function that passes on what comes, until its connection is closed.
fn serve(next: u8) -> io::Result<()> {
    let mut stream = Stream::new(io::stdin().as_fd().try_clone_to_owned()?);
    while stream.receive()? > 0 {
        // When the others have gone, so does this one.
        if stream.pass(next).is_err() {
            break;
        }
    }
    Ok(())
}

/// A party's socket, and the descriptors that it has.
struct Stream {
    socket: OwnedFd,
    input: Vec<u8>,
    filled: usize,
    left: usize,
    cells: Vec<[u8; CELL]>,
}

impl Stream {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, input: vec![0; 8 * (1 + MAX_GROUP) * CELL], filled: 0, left: 0, cells: Vec::new() }
    }

    /// Waits for bytes, and takes the descriptors that are there; 0 is the end.
    fn receive(&mut self) -> io::Result<usize> {
        let n = recv(self.socket.as_raw_fd(), &mut self.input[self.filled..], MsgFlags::empty())?;
        self.filled += n;
        let whole = self.filled / CELL * CELL;
        for cell in self.input[..whole].as_chunks::<CELL>().0 {
            if self.left == 0 {
                self.left = u32::from_le_bytes([cell[0], cell[1], cell[2], cell[3]]) as usize;
            } else {
                self.left -= 1;
                self.cells.push(*cell);
            }
        }
        self.input.copy_within(whole..self.filled, 0);
        self.filled -= whole;
        Ok(n)
    }

    /// Passes on all descriptors.
    fn pass(&mut self, to: u8) -> nix::Result<()> {
        let mut group = [0; (1 + MAX_GROUP) * CELL];
        for cells in self.cells.chunks(MAX_GROUP) {
            group[..4].copy_from_slice(&(cells.len() as u32).to_le_bytes());
            group[4] = to;
            let length = CELL * (1 + cells.len());
            group[CELL..length].copy_from_slice(cells.as_flattened());
            send(self.socket.as_raw_fd(), &group[..length], MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)?;
        }
        self.cells.clear();
        Ok(())
    }
}
