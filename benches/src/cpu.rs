//! Time that processes spend on a processor.

use std::fs;
use std::path::Path;

/// Nanoseconds that all threads of a process have run, as the scheduler counted; nothing once it is gone.
///
/// A thread that ended takes its time with it, so this is for processes whose threads stay.
pub fn busy_ns(pid: u32) -> Option<u64> {
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    let threads = fs::read_dir(tasks).ok()?.flatten();
    let ns: Vec<u64> = threads.filter_map(|t| parse(&fs::read_to_string(t.path().join("schedstat")).ok()?)).collect();
    (!ns.is_empty()).then(|| ns.iter().sum())
}

/// The first field: nanoseconds on a processor.
fn parse(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn the_first_field_is_the_time_on_a_processor() {
        assert_eq!(parse("123456 99 7\n"), Some(123_456));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn work_shows() {
        let pid = std::process::id();
        let before = busy_ns(pid).unwrap();
        let until = Instant::now() + Duration::from_millis(50);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        assert!(busy_ns(pid).unwrap() > before);
        assert_eq!(busy_ns(u32::MAX), None);
    }
}
