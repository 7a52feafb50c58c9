//! Results for people: a line per figure, the reference beside it.

use crate::outcome::{Entry, Host};
use crate::table::{Table, number};

/// These, below a line about the host.
pub(crate) fn lines<'e>(host: &Host, entries: impl IntoIterator<Item = &'e Entry>) -> String {
    format!("{}\n{}", host_line(host), table(entries).render(0))
}

/// What the host is.
pub(crate) fn host_line(host: &Host) -> String {
    let kind = if host.virtualised { "virtual, " } else { "" };
    format!("{} cores, {kind}{}, Linux {}\n", host.cores, host.cpu, host.kernel)
}

/// These as a table.
pub(crate) fn table<'e>(entries: impl IntoIterator<Item = &'e Entry>) -> Table {
    let mut table = Table::new(["case", "metric", "value", "spread", "unit", "reference", "value", "ratio"]);
    for entry in entries {
        table.row([
            entry.case.clone(),
            entry.metric.clone(),
            number(entry.value),
            number(entry.spread),
            entry.unit.clone(),
            entry.reference.clone().unwrap_or_default(),
            entry.reference_value.map(number).unwrap_or_default(),
            entry.ratio.map(number).unwrap_or_default(),
        ]);
    }
    table
}
