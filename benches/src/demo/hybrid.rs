//! The fourth act: a flow that a function has recognised moves into the kernel while it runs, and stays there when the function
//! dies.

use std::time::{Duration, Instant};

use middlenet_plan::HopStats;
use middlenet_runtime::api::Status;
use serde_json::{Value, json};

use super::packets::traffic::Transfer;
use super::packets::{OPEN_PORT, iperf_server};
use super::{bars, heading, left_of, say};
use crate::BenchError;
use crate::cpu::CpuTime;
use crate::lifetime::{kill_pid, pid_of};
use crate::programs::Programs;
use crate::run::{Run, pause};
use crate::stage::Stage;
use crate::table::{Table, count};
use crate::work_folder::WorkFolder;

const CLIENT: &str = "10.7.0.2";
const SERVER: &str = "10.7.0.3";
/// What our signature calls the transfer.
const PROTOCOL: &str = "Backup";
/// What makes it an elephant: more than it moves in a second or two.
const ELEPHANT_BYTES: u64 = 400_000_000;
const SECONDS: u64 = 6;
/// Between two looks at the counters.
const STEP: Duration = Duration::from_millis(500);
/// Until the flow has moved so much.
const MOVE_PATIENCE: Duration = Duration::from_secs(4);
/// How long it is watched in the kernel before the function dies, and after.
const WATCHED: u32 = 2;
const PATIENCE: Duration = Duration::from_secs(20);
const REST_PATIENCE: Duration = Duration::from_secs(5);
/// Of 100 packets of the flow so many at least pass in the kernel, once it has moved.
const FAST_PERCENT: f64 = 99.0;

/// Plays it, and notes what was seen.
///
/// # Errors
/// When anything does not go as it should. Whatever was made is removed then too.
pub(super) fn run(programs: &Programs, seen: &mut Value) -> Result<(), BenchError> {
    println!("\n\nFast path and slow path: the same function in the kernel and beside it\n");
    println!("                              efw ------------- edpi            in the kernel, by tail call");
    println!("                                                 |  flows it does not know");
    println!("  client {CLIENT}  ==  left [ efw -> edpi ] right  ==  {SERVER} server");
    let namespaces = {
        let stage = stage()?;
        play(&stage, programs, seen)?;
        stage.paths()
    };
    left_of(&namespaces)
}

/// The box is a wire to the hosts, which are neighbours.
fn stage() -> Result<Stage, BenchError> {
    let stage = Stage::build(&format!("{CLIENT}/24"), &format!("{SERVER}/24"))?;
    for host in [&stage.client, &stage.server] {
        // A veth device takes packets straight from a program if it can join them.
        host.exec("ethtool", ["-K", "eth0", "gro", "on"])?;
    }
    Ok(stage)
}

fn manifest(signatures: &str) -> Value {
    json!({
        "ports": { "left": { "xdp": "left" }, "right": { "xdp": "right" } },
        "chains": { "transit": { "ports": ["left", "right"], "functions": [
            { "efw": { "mode": "proactive", "config": { "rules": [
                { "src": "192.0.2.0/24", "allow": false },
                { "src": "10.7.0.0/24", "allow": true },
            ] } } },
            { "edpi": { "mode": "reactive", "config": {
                "signatures": signatures,
                "elephants": [{ "protocols": [PROTOCOL], "bytes": ELEPHANT_BYTES }],
            } } },
        ] } },
    })
}

fn play(stage: &Stage, programs: &Programs, seen: &mut Value) -> Result<(), BenchError> {
    let folder = WorkFolder::new()?;
    let signatures = folder.write("signatures", format!("tcp:{OPEN_PORT}@{PROTOCOL}\n").as_bytes())?;
    heading("start: the fast paths of both functions are programs on both interfaces, tail-called one after the other");
    let mut run = Run::start(programs, &folder, Some(&stage.middle), manifest(&signatures.display().to_string()))?;
    let status = run.status()?;
    status.notes.iter().for_each(|note| say(format_args!("note: {note}")));
    for name in ["efw", "edpi"] {
        let mode = hop(&status, name)?.fast_path.as_ref().map(|fast| fast.mode.clone());
        let mode = mode.ok_or_else(|| BenchError::Failed(format!("`{name}` has no fast path: {:?}", status.notes)))?;
        say(format_args!("{name:<5} mode {mode}"));
    }

    heading(&format!(
        "iperf3: nDPI recognises the flow by its first packets; at {} MB it is an elephant and leaves the function",
        ELEPHANT_BYTES / 1_000_000
    ));
    let server = iperf_server(stage)?;
    let transfer = Transfer::start_to(stage, SERVER, &["-t", &SECONDS.to_string(), "-i", "0.1"])?;
    let watch = watch(&mut run)?;
    let transfer = Transfer::parse(&transfer.wait(PATIENCE)?.stdout)?;
    drop(server);
    print!("{}", watch.table().render(2));
    say(format_args!("TCP, 0.1 s each: {}", bars(&transfer.intervals_bps)));
    say(format_args!(
        "{:.2} Gb/s over all; from {:.1} s on in the kernel; edpi killed after {:.1} s, back after {:.1} ms, and nobody noticed",
        transfer.received_bps / 1e9,
        watch.moved_after.as_secs_f64(),
        watch.killed_after.as_secs_f64(),
        watch.back_after.as_secs_f64() * 1e3
    ));
    // The transfer began a moment after the watch at most, so these are within the time in the kernel.
    let last = &transfer.intervals_bps[transfer.intervals_bps.len().saturating_sub(10)..];
    if last.iter().any(|bps| *bps <= 0.0) {
        return Err(BenchError::Failed("the flow did not go on while the function was away".into()));
    }

    heading("counters: what each of the two paths did");
    let status = run.wait_until("rest after the transfer", REST_PATIENCE, |status| {
        let sums = status.data_plane.as_ref().map(|stats| &stats.conservation);
        sums.is_some_and(|sums| sums.held_pkts == 0 && sums.packets_balance())
    })?;
    print!("{}", paths(&status)?.render(2));
    seen["transfer"] = json!(transfer);
    seen["steps"] = json!(watch.steps);
    seen["moved_after_s"] = json!(watch.moved_after.as_secs_f64());
    seen["edpi_back_ms"] = json!(watch.back_after.as_secs_f64() * 1e3);
    seen["hops"] = json!(status.data_plane.as_ref().map(|stats| &stats.hops));
    run.stop()?;
    Ok(())
}

/// A time between two looks.
#[derive(Debug, Clone, serde::Serialize)]
struct Step {
    /// Its end, in seconds since the first look.
    until_s: f64,
    /// Packets that went through the function.
    slow_pps: f64,
    /// Packets that its fast path decided about.
    fast_pps: f64,
    /// Cores that the function's process had; nothing where it is not the same one as before.
    cpu: Option<f64>,
}

impl Step {
    fn is_fast(&self) -> bool {
        self.fast_pps > 0.0 && self.fast_pps / (self.fast_pps + self.slow_pps) * 100.0 >= FAST_PERCENT
    }
}

#[derive(Debug)]
struct Watch {
    steps: Vec<Step>,
    moved_after: Duration,
    killed_after: Duration,
    back_after: Duration,
}

impl Watch {
    fn table(&self) -> Table {
        let mut table = Table::new(["until", "packets/s in edpi", "packets/s in its fast path", "cores of edpi"]);
        for step in &self.steps {
            table.row([
                format!("{:.1} s", step.until_s),
                count(step.slow_pps as u64),
                count(step.fast_pps as u64),
                step.cpu.map_or_else(|| "(killed)".into(), |cpu| format!("{cpu:.2}")),
            ]);
        }
        table
    }
}

/// The counters of one look.
struct Look {
    at: Instant,
    slow: u64,
    fast: u64,
    pid: Option<u32>,
    busy_ns: Option<u64>,
}

impl Look {
    fn now(run: &mut Run) -> Result<Self, BenchError> {
        let status = run.status()?;
        let hop = hop(&status, "edpi")?;
        let fast = hop.fast_path.as_ref().map_or(0, |fast| fast.hits);
        let pid = pid_of(&status, "edpi");
        let busy_ns = pid.and_then(CpuTime::of).map(|time| time.busy_ns);
        Ok(Self { at: Instant::now(), slow: hop.in_pkts, fast, pid, busy_ns })
    }

    fn step(&self, before: &Self, start: Instant) -> Step {
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let busy = self.busy_ns.zip(before.busy_ns).filter(|_| self.pid == before.pid);
        Step {
            until_s: self.at.duration_since(start).as_secs_f64(),
            slow_pps: rate(self.slow, before.slow),
            fast_pps: rate(self.fast, before.fast),
            cpu: busy.map(|(now, before)| rate(now, before) / 1e9),
        }
    }
}

/// Looks on until the flow is in the kernel; kills the function, and looks on.
fn watch(run: &mut Run) -> Result<Watch, BenchError> {
    let mut last = Look::now(run)?;
    let start = last.at;
    let mut steps: Vec<Step> = Vec::new();
    let mut step = |run: &mut Run| -> Result<Step, BenchError> {
        pause(STEP)?;
        let now = Look::now(run)?;
        let step = now.step(&last, start);
        last = now;
        steps.push(step.clone());
        Ok(step)
    };
    let mut slow_before = 0.0_f64;
    let moved_after = loop {
        let step = step(run)?;
        if step.is_fast() {
            break start.elapsed();
        }
        slow_before = slow_before.max(step.slow_pps);
        if start.elapsed() > MOVE_PATIENCE {
            return Err(BenchError::Failed("the flow did not move into the kernel".into()));
        }
    };
    if slow_before <= 0.0 {
        return Err(BenchError::Failed("no packet of the flow passed through the function before".into()));
    }
    for _ in 0..WATCHED {
        step(run)?;
    }
    let old = pid_of(&run.status()?, "edpi")
        .ok_or_else(|| BenchError::Failed("`edpi` does not run before it is killed".into()))?;
    let (killed, killed_after) = (Instant::now(), start.elapsed());
    kill_pid(old)?;
    run.wait_until("the function's successor", REST_PATIENCE, |status| {
        pid_of(status, "edpi").is_some_and(|pid| pid != old)
    })?;
    let back_after = killed.elapsed();
    for _ in 0..WATCHED {
        if !step(run)?.is_fast() {
            return Err(BenchError::Failed("the flow left the kernel when the function died".into()));
        }
    }
    Ok(Watch { steps, moved_after, killed_after, back_after })
}

fn hop<'s>(status: &'s Status, name: &str) -> Result<&'s HopStats, BenchError> {
    let hops = status.data_plane.iter().flat_map(|stats| &stats.hops);
    let mut named = hops.filter(|hop| hop.name == name);
    named.next().ok_or_else(|| BenchError::Failed(format!("the data plane tells nothing of `{name}`")))
}

fn paths(status: &Status) -> Result<Table, BenchError> {
    let mut table = Table::new(["function", "entered", "decided in the kernel", "sent from there", "to the function"]);
    for name in ["efw", "edpi"] {
        let hop = hop(status, name)?;
        let fast = hop.fast_path.clone().unwrap_or_default();
        table.row([name.to_owned(), count(fast.entered), count(fast.hits), count(fast.sent), count(hop.in_pkts)]);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_fast_when_next_to_nothing_passes_the_function() {
        let start = Instant::now();
        let look = |ms, slow, fast, pid| Look {
            at: start + Duration::from_millis(ms),
            slow,
            fast,
            pid: Some(pid),
            busy_ns: Some(ms * 500_000),
        };
        let step = look(500, 10, 100_000, 1).step(&look(0, 0, 0, 1), start);
        assert_eq!((step.slow_pps, step.fast_pps, step.cpu), (20.0, 200_000.0, Some(0.5)));
        assert!(step.is_fast());
        assert!(!look(500, 10_000, 100_000, 1).step(&look(0, 0, 0, 1), start).is_fast());
        assert!(!look(500, 0, 0, 1).step(&look(0, 0, 0, 1), start).is_fast());
        assert_eq!(look(500, 0, 0, 2).step(&look(0, 0, 0, 1), start).cpu, None);
    }
}
