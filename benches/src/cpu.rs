//! Time that processes spend on a processor, or wait for one.

use std::fs;
use std::path::Path;

/// What the scheduler counted for all threads of a process.
///
/// A thread that ended takes its time with it, so this is for processes whose threads stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// On a processor.
    pub busy_ns: u64,
    /// Ready, while another had the processor.
    pub waiting_ns: u64,
}

impl CpuTime {
    /// Of a process until now; nothing once it is gone.
    pub fn of(pid: u32) -> Option<Self> {
        let tasks = Path::new("/proc").join(pid.to_string()).join("task");
        let threads = fs::read_dir(tasks).ok()?.flatten();
        let read = threads.filter_map(|t| Self::parse(&fs::read_to_string(t.path().join("schedstat")).ok()?));
        read.reduce(|a, b| Self { busy_ns: a.busy_ns + b.busy_ns, waiting_ns: a.waiting_ns + b.waiting_ns })
    }

    /// The first two fields.
    fn parse(schedstat: &str) -> Option<Self> {
        let mut fields = schedstat.split_whitespace().map(str::parse);
        Some(Self { busy_ns: fields.next()?.ok()?, waiting_ns: fields.next()?.ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn busy_and_waiting_are_the_first_two_fields() {
        assert_eq!(CpuTime::parse("123456 99 7\n"), Some(CpuTime { busy_ns: 123_456, waiting_ns: 99 }));
        assert_eq!(CpuTime::parse("123456"), None);
    }

    #[test]
    fn work_shows() {
        let pid = std::process::id();
        let before = CpuTime::of(pid).unwrap().busy_ns;
        let until = Instant::now() + Duration::from_millis(50);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        assert!(CpuTime::of(pid).unwrap().busy_ns > before);
        assert_eq!(CpuTime::of(u32::MAX), None);
    }
}
