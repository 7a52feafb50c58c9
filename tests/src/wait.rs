//! Waiting for a condition, never for a fixed time.

use std::time::{Duration, Instant};

use crate::Error;

const POLL: Duration = Duration::from_millis(10);
const STILL: Duration = Duration::from_millis(500);

/// Asks `condition` every 10 ms until it holds.
///
/// `what` completes the sentence "... did not happen". The condition is asked at least once, also with a zero deadline.
///
/// # Errors
///
/// [`Error::TimedOut`] if it does not hold within `deadline`.
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) -> Result<(), Error> {
    let start = Instant::now();
    loop {
        if condition() {
            return Ok(());
        }
        if start.elapsed() >= deadline {
            return Err(Error::TimedOut { what: what.to_owned(), after: deadline });
        }
        std::thread::sleep(POLL);
    }
}

/// Asks for a count every 10 ms until it has been the same for half a second, and returns it.
///
/// `what` completes the sentence "... did not happen".
///
/// # Errors
///
/// [`Error::TimedOut`] if it does not stand still within `deadline`, or those of `count`.
pub fn wait_until_still(
    what: &str,
    deadline: Duration,
    mut count: impl FnMut() -> Result<u64, Error>,
) -> Result<u64, Error> {
    let (mut last, mut since) = (count()?, Instant::now());
    let mut result = Ok(());
    wait_until(what, deadline, || match count() {
        Ok(now) if now == last => since.elapsed() >= STILL,
        Ok(now) => {
            (last, since) = (now, Instant::now());
            false
        }
        Err(error) => {
            result = Err(error);
            true
        }
    })?;
    result.map(|()| last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_as_soon_as_the_condition_holds() {
        let mut asked = 0;
        wait_until("three questions", Duration::from_secs(5), || {
            asked += 1;
            asked == 3
        })
        .unwrap();
        assert_eq!(asked, 3);
    }

    #[test]
    fn a_count_that_moves_is_waited_for() {
        let mut asked = 0;
        let count = || {
            asked += 1;
            Ok(u64::min(asked, 5))
        };
        assert_eq!(wait_until_still("rest", Duration::from_secs(10), count).unwrap(), 5);
        let mut asked = 0;
        let count = || {
            asked += 1;
            Ok(asked)
        };
        assert!(wait_until_still("rest", Duration::from_millis(700), count).is_err());
    }

    #[test]
    fn says_what_did_not_happen() {
        let error = wait_until("the impossible", Duration::ZERO, || false).unwrap_err();
        assert_eq!(error.to_string(), "the impossible did not happen within 0ns");
    }
}
