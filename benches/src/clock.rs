//! A clock that all processes of the host share.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since the host started; nothing on a host without that clock, of which there is none.
pub fn now_ns() -> Option<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
    let (seconds, ns) = (u64::try_from(time.tv_sec()).ok()?, u64::try_from(time.tv_nsec()).ok()?);
    Some(seconds * 1_000_000_000 + ns)
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_goes_on() {
        let first = super::now_ns().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(super::now_ns().unwrap() - first >= 2_000_000);
    }
}
