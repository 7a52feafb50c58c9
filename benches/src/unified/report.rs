//! Results for people.

use crate::outcome::{Entry, Host};
use crate::report::lines;

/// Everything but the points of time series, which the charts show.
pub(super) fn text(host: &Host, entries: &[Entry]) -> String {
    lines(host, entries.iter().filter(|entry| super::join::point_of(&entry.case).is_none()))
}
