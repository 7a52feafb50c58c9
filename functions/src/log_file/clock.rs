//! The time of day.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Turns the function's clock into the time of day, and asks the system once per tick instead of once per request.
#[derive(Debug, Default)]
pub(crate) struct WallClock {
    /// The time of day when the function's clock was zero.
    zero: Option<Duration>,
}

impl WallClock {
    /// Follows the system's clock, which somebody may have set.
    pub(crate) fn set(&mut self, now: Duration) {
        self.zero = Some(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(now));
    }

    /// Time since 1970.
    #[inline]
    pub(crate) fn at(&mut self, now: Duration) -> Duration {
        if self.zero.is_none() {
            self.set(now);
        }
        self.zero.unwrap_or_default() + now
    }
}

/// A day and a time, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Civil {
    pub(crate) year: u64,
    pub(crate) month: u64,
    pub(crate) day: u64,
    pub(crate) hour: u64,
    pub(crate) minute: u64,
    pub(crate) second: u64,
}

impl Civil {
    /// From the seconds since 1970 (Hinnant, "chrono-compatible low-level date algorithms").
    pub(crate) fn of(seconds: u64) -> Self {
        let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        // The year begins in March, so that the leap day is its last.
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        Self {
            year: year_of_era + era * 400 + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted + 2) / 5 + 1,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }

    /// The month's English name, as the common log format has it.
    pub(crate) fn month_name(&self) -> &'static str {
        const NAMES: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        usize::try_from(self.month).ok().and_then(|month| NAMES.get(month.checked_sub(1)?)).unwrap_or(&"-")
    }
}

#[cfg(test)]
mod tests {
    use super::Civil;

    #[test]
    fn days_follow_one_another() {
        let date = |seconds| {
            let Civil { year, month, day, hour, minute, second } = Civil::of(seconds);
            format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
        };
        assert_eq!(date(0), "1970-01-01 00:00:00");
        assert_eq!(date(951_782_399), "2000-02-28 23:59:59");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(date(4_107_542_400), "2100-03-01 00:00:00");
        let lengths = |year: u64| {
            [
                31,
                28 + u64::from(year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))),
                31,
                30,
                31,
                30,
                31,
                31,
                30,
                31,
                30,
                31,
            ]
        };
        let mut seconds = 0;
        for year in 1970..2420 {
            for (month, days) in (1..).zip(lengths(year)) {
                for day in 1..=days {
                    let civil = Civil::of(seconds);
                    assert_eq!((civil.year, civil.month, civil.day), (year, month, day));
                    seconds += 86_400;
                }
            }
        }
    }
}
