//! Processor time of a middlebox, of its load, and of everybody else.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::BenchError;
use crate::cpu::CpuTime;

/// What the kernel counts processor time in where programs read it: a hundredth of a second on every architecture.
const TICK_NS: u64 = 10_000_000;

/// Processes with all their descendants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pids(Vec<u32>);

impl Pids {
    /// These, and what is below them now.
    pub(crate) fn below(roots: impl IntoIterator<Item = u32>) -> Self {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let parents = processes.filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            Some((pid, parent(&fs::read_to_string(process.path().join("stat")).ok()?)?))
        });
        Self(with_descendants(roots, &parents.collect()))
    }

    /// Time on a processor until now.
    ///
    /// # Errors
    /// When one of them has ended.
    pub(crate) fn busy_ns(&self) -> Result<u64, BenchError> {
        let times = self.0.iter().map(|&pid| CpuTime::of(pid).map(|time| time.busy_ns));
        times.sum::<Option<u64>>().ok_or_else(|| BenchError::Failed("a process ended while it was measured".into()))
    }
}

/// The fourth field of `/proc/PID/stat`; the second is a name in parentheses, which may hold anything.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn with_descendants(roots: impl IntoIterator<Item = u32>, parents: &BTreeMap<u32, u32>) -> Vec<u32> {
    let mut found: Vec<u32> = roots.into_iter().collect();
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        let children: Vec<u32> =
            parents.iter().filter(|(_, parent)| **parent == pid).map(|(&child, _)| child).collect();
        found.extend(children);
        next += 1;
    }
    found
}

/// In cores: 1 is a whole one for the whole time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Usage {
    /// By the middlebox.
    pub(crate) middlebox: f64,
    /// By the servers behind it and the load generator.
    pub(crate) load: f64,
    /// By whatever else ran on the host.
    pub(crate) others: f64,
}

/// Between two points in time.
#[derive(Debug)]
pub(crate) struct Meter<'p> {
    middlebox: &'p Pids,
    load: &'p Pids,
    start: Instant,
    before: Reading,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    middlebox_ns: u64,
    servers_ns: u64,
    /// Children that ended: the load generator, once it has.
    children_ns: u64,
    own_ns: u64,
    host_ns: u64,
}

impl<'p> Meter<'p> {
    /// From now on.
    ///
    /// # Errors
    /// When a process has ended.
    pub(crate) fn start(middlebox: &'p Pids, load: &'p Pids) -> Result<Self, BenchError> {
        let before = Reading::now(middlebox, load)?;
        Ok(Self { middlebox, load, start: Instant::now(), before })
    }

    /// Until now.
    ///
    /// # Errors
    /// When a process has ended since.
    pub(crate) fn stop(self) -> Result<Usage, BenchError> {
        let elapsed_ns = self.start.elapsed().as_nanos() as f64;
        let (before, after) = (self.before, Reading::now(self.middlebox, self.load)?);
        let cores = |of: fn(&Reading) -> u64| of(&after).saturating_sub(of(&before)) as f64 / elapsed_ns;
        let middlebox = cores(|r| r.middlebox_ns);
        let load = cores(|r| r.servers_ns + r.children_ns);
        let others = cores(|r| r.host_ns) - middlebox - load - cores(|r| r.own_ns);
        Ok(Usage { middlebox, load, others: others.max(0.0) })
    }
}

impl Reading {
    fn now(middlebox: &Pids, load: &Pids) -> Result<Self, BenchError> {
        let used = |who| {
            let usage = getrusage(who).map_err(|e| BenchError::Failed(format!("no account of processor time: {e}")))?;
            let ns = usage.user_time().num_nanoseconds() + usage.system_time().num_nanoseconds();
            Ok::<u64, BenchError>(ns.unsigned_abs())
        };
        let path = Path::new("/proc/stat");
        let stat = fs::read_to_string(path).map_err(BenchError::file(path))?;
        Ok(Self {
            middlebox_ns: middlebox.busy_ns()?,
            servers_ns: load.busy_ns()?,
            children_ns: used(UsageWho::RUSAGE_CHILDREN)?,
            own_ns: used(UsageWho::RUSAGE_SELF)?,
            host_ns: host_busy_ns(&stat).ok_or_else(|| BenchError::Failed("/proc/stat is not as known".into()))?,
        })
    }
}

/// All processors: user, nice, system, irq and softirq; not idle, iowait and what the hypervisor took.
fn host_busy_ns(stat: &str) -> Option<u64> {
    let fields = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = fields.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let busy = [0, 1, 2, 5, 6].into_iter().map(|at| ticks.get(at).copied());
    Some(busy.sum::<Option<u64>>()? * TICK_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_found_behind_any_name() {
        assert_eq!(parent("12 (nginx) S 7 12 12 0 -1"), Some(7));
        assert_eq!(parent("12 (a) b (c)) S 8 12 12 0 -1"), Some(8));
        assert_eq!(parent("12"), None);
    }

    #[test]
    fn descendants_of_descendants_belong_to_it() {
        let parents = BTreeMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (6, 5)]);
        assert_eq!(with_descendants([2], &parents), [2, 3, 4]);
        assert_eq!(with_descendants([9, 5], &parents), [9, 5, 6]);
    }

    #[test]
    fn the_host_is_busy_with_what_is_not_idle() {
        let stat = "cpu  1 2 4 1000 2000 8 16 4000 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(host_busy_ns(stat), Some(31 * TICK_NS));
        assert_eq!(host_busy_ns("cpu  1 2"), None);
    }

    #[test]
    fn a_process_that_ended_is_told() {
        assert!(Pids(vec![u32::MAX]).busy_ns().is_err());
        assert!(Pids::below([std::process::id()]).busy_ns().unwrap() > 0);
    }
}
