//! Waiting for a condition, never for a fixed time.

use std::time::{Duration, Instant};

use crate::Error;

const POLL: Duration = Duration::from_millis(10);

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
    fn says_what_did_not_happen() {
        let error = wait_until("the impossible", Duration::ZERO, || false).unwrap_err();
        assert_eq!(error.to_string(), "the impossible did not happen within 0ns");
    }
}
