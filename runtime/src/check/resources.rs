//! Cores and memory: whether the host has what the manifest asks for.

use middlenet_plan::{ManagerPlan, PortKind, PortPlan};

use super::Checker;
use crate::diagnostic::Diagnostic;
use crate::manifest::{FunctionEntry, Hugepages};
use crate::plan::ProcessPlan;
use crate::supervisor::count;

/// Workers of a manager: one eventfd each travels beside two regions, and a message carries sixteen descriptors.
const WORKER_LIMIT: usize = 14;
/// Buffers that a queue of a DPDK port holds: descriptors posted for receiving, and on their way out.
const BUFFERS_PER_DPDK_QUEUE: u64 = 1024;
/// The same for a queue of an AF_XDP socket, whose fill ring is longer.
const BUFFERS_PER_XDP_QUEUE: u64 = 2048;
/// Buffers that a worker keeps at hand.
const BUFFERS_PER_WORKER: u64 = 512;
/// Buffers lent to a function process, per worker: empty ones, and one burst.
const BUFFERS_PER_PROCESS: u64 = 128;
/// Buffers there can be; a thousand times what a host of today needs.
const BUFFER_LIMIT: u32 = 1 << 24;

impl Checker<'_> {
    /// The cores of the workers.
    pub(super) fn worker_cores(&mut self) -> Vec<usize> {
        let asked = &self.manifest.cores.manager;
        if matches!(self.traffic, super::Traffic::Captures(_)) {
            // Several workers would make the order of packets a matter of luck.
            return vec![self.machine.cores[0]];
        }
        if asked.is_empty() {
            return vec![self.machine.cores[0]];
        }
        let span = self.manifest.span(["cores", "manager"]);
        let mut seen = Vec::new();
        for &core in asked {
            if seen.contains(&core) {
                self.problem(span.clone(), format!("core {core} has two workers"), Some("name each core once".into()));
            }
            seen.push(core);
        }
        if asked.len() > WORKER_LIMIT {
            let message = format!("{} workers, but a manager has at most {WORKER_LIMIT}", asked.len());
            self.problem(span, message, None);
        }
        self.check_cores(asked, self.manifest.span(["cores", "manager"]));
        asked.clone()
    }

    /// The cores given to function processes in turn; never empty.
    pub(super) fn function_cores(&mut self, workers: &[usize]) -> Vec<usize> {
        let asked = &self.manifest.cores.functions;
        self.check_cores(asked, self.manifest.span(["cores", "functions"]));
        if !asked.is_empty() {
            return asked.clone();
        }
        let free: Vec<usize> = self.machine.cores.iter().copied().filter(|c| !workers.contains(c)).collect();
        if free.is_empty() { self.machine.cores.clone() } else { free }
    }

    /// The cores that a function asks for.
    pub(super) fn entry_cores(&mut self, entry: &FunctionEntry) -> Option<Vec<usize>> {
        let cores = entry.options.cores.clone().filter(|c| !c.is_empty())?;
        self.check_cores(&cores, entry.option_span(&["cores"]));
        Some(cores)
    }

    fn check_cores(&mut self, cores: &[usize], span: std::ops::Range<usize>) {
        for &core in cores.iter().filter(|c| !self.machine.cores.contains(c)) {
            self.problems.push(
                Diagnostic::new(span.clone(), format!("core {core} is not there"))
                    .with_hint(format!("this host has {}", ranges(&self.machine.cores))),
            );
        }
    }

    pub(super) fn check_memory(&mut self, plan: &ManagerPlan, processes: &[ProcessPlan]) {
        let manifest = self.manifest;
        let buffers = manifest.span(["memory", "buffers"]);
        if !matches!(plan.buffer_bytes, 2048 | 4096) {
            let message = format!("buffers of {} bytes are not supported", plan.buffer_bytes);
            let hint = "use 2048, or 4096 for an MTU above 1500";
            self.problem(manifest.span(["memory", "buffer_bytes"]), message, Some(hint.into()));
        }
        if !plan.ring_slots.is_power_of_two() || !(64..=65536).contains(&plan.ring_slots) {
            let near = plan.ring_slots.clamp(64, 65536).next_power_of_two().min(65536);
            let message = format!("a ring of {} slots is not supported", plan.ring_slots);
            self.problem(
                manifest.span(["ring_slots"]),
                message,
                Some(format!("use a power of two from 64 to 65536, such as {near}")),
            );
        }
        let workers = plan.workers.len() as u64;
        let of_port = |port: &PortPlan| {
            let queues = if port.queues == 0 { workers } else { u64::from(port.queues) };
            match &port.kind {
                PortKind::Pcap { .. } => (0, 0),
                PortKind::Dpdk { .. } => (queues, queues * BUFFERS_PER_DPDK_QUEUE),
                PortKind::Xdp { .. } => (queues, queues * BUFFERS_PER_XDP_QUEUE),
            }
        };
        let (queues, posted) = plan.ports.iter().map(of_port).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let processes = processes.len() as u64;
        let least = posted + workers * BUFFERS_PER_WORKER + processes * workers * BUFFERS_PER_PROCESS;
        if u64::from(plan.buffers) < least {
            let message = format!("{} buffers are too few", plan.buffers);
            let hint = format!(
                "{}, {} and {} need at least {least}: write `buffers: {}`",
                count(queues as usize, "receive queue"),
                count(workers as usize, "worker"),
                count(processes as usize, "function instance"),
                least.next_power_of_two()
            );
            self.problem(buffers, message, Some(hint));
            return;
        }
        if plan.buffers > BUFFER_LIMIT {
            self.problem(buffers, format!("more than {BUFFER_LIMIT} buffers are not supported"), None);
            return;
        }
        let bytes = u64::from(plan.buffers) * u64::from(plan.buffer_bytes);
        let huge_bytes = self.machine.huge_pages << 21;
        let required = manifest.memory.hugepages == Hugepages::Require && !plan.unprivileged;
        if required && bytes > huge_bytes {
            let pages = bytes.div_ceil(2 << 20);
            let message =
                format!("the buffers need {pages} pages of 2 MiB, but the host has {} free", self.machine.huge_pages);
            let hint = format!(
                "`echo {} > /proc/sys/vm/nr_hugepages`, or write `hugepages: auto`",
                pages.next_multiple_of(64)
            );
            self.problem(manifest.span(["memory", "hugepages"]), message, Some(hint));
        } else if bytes > self.machine.memory_bytes.max(huge_bytes) {
            let message =
                format!("{} of buffers, but the host has {} free", mib(bytes), mib(self.machine.memory_bytes));
            self.problem(buffers, message, Some("ask for fewer: `buffers: 16384` is enough for most".into()));
        }
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// `cores 0-3 and 8`.
pub(crate) fn ranges(cores: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &core in cores {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == core => *last = core,
            _ => parts.push((core, core)),
        }
    }
    let parts: Vec<String> =
        parts.iter().map(|&(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect();
    match cores {
        [one] => format!("core {one}"),
        _ => format!("cores {}", parts.join(", ")),
    }
}
