//! Cores: who runs where, and whether the host has them.

use super::Checker;
use crate::diagnostic::Diagnostic;
use crate::manifest::FunctionEntry;
use crate::plan::Plane;

/// Workers of a data plane. A message to a function carries sixteen descriptors: one eventfd per worker travels beside two
/// regions, and beside a socket where there are messages.
const fn worker_limit(plane: Plane) -> usize {
    match plane {
        Plane::Packets => 14,
        Plane::Messages => 13,
    }
}

/// Which cores do what.
pub(super) struct CorePlan {
    /// One per worker of the manager; none when it does not run.
    pub(super) manager: Vec<usize>,
    /// One per worker of the broker; none when it does not run.
    pub(super) broker: Vec<usize>,
    /// Given to function processes in turn; never empty.
    pub(super) functions: Vec<usize>,
}

impl Checker<'_> {
    /// Which cores the data planes that run and the functions get.
    pub(super) fn cores(&mut self, of_packets: bool, of_messages: bool) -> CorePlan {
        let asked = &self.manifest.cores;
        let first = vec![self.machine.cores[0]];
        self.check_workers(&asked.manager, "manager", worker_limit(Plane::Packets));
        self.check_workers(&asked.broker, "broker", worker_limit(Plane::Messages));
        let or = |asked: &Vec<usize>, default: &Vec<usize>| if asked.is_empty() { default } else { asked }.clone();
        let manager = match self.traffic {
            // Several workers would make the order of packets a matter of luck.
            super::Traffic::Captures(_) => first,
            super::Traffic::Ports => or(&asked.manager, &first),
        };
        let mut broker = or(&asked.broker, &manager);
        broker.truncate(worker_limit(Plane::Messages));
        let manager = if of_packets { manager } else { Vec::new() };
        let broker = if of_messages { broker } else { Vec::new() };
        let functions = self.function_cores(|core| manager.contains(&core) || broker.contains(&core));
        CorePlan { manager, broker, functions }
    }

    fn check_workers(&mut self, asked: &[usize], whose: &str, limit: usize) {
        let span = self.manifest.span(["cores", whose]);
        let mut seen = Vec::new();
        for &core in asked {
            if seen.contains(&core) {
                self.problem(span.clone(), format!("core {core} has two workers"), Some("name each core once".into()));
            }
            seen.push(core);
        }
        if asked.len() > limit {
            let message = format!("{} workers, but a {whose} has at most {limit}", asked.len());
            self.problem(span.clone(), message, None);
        }
        self.check_cores(asked, span);
    }

    fn function_cores(&mut self, is_taken: impl Fn(usize) -> bool) -> Vec<usize> {
        let asked = &self.manifest.cores.functions;
        self.check_cores(asked, self.manifest.span(["cores", "functions"]));
        if !asked.is_empty() {
            return asked.clone();
        }
        let free: Vec<usize> = self.machine.cores.iter().copied().filter(|&c| !is_taken(c)).collect();
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
