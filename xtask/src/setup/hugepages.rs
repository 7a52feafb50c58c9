//! Hugepages of 2 MiB, for the packet and message regions. Without them the runtime uses 4 KiB pages, and is slower.

use std::fs;
use std::path::Path;

use super::privilege::Privilege;
use super::{Options, Outcome};
use crate::process;

/// What the demo, the tests and the benchmarks use at most.
const WANTED: u64 = 512;
const PAGE_KIB: u64 = 2048;
const NR_HUGEPAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// Raises the number of hugepages to 512, or to what a quarter of the free memory holds; never lowers it.
pub(super) fn reserve(options: Options, privilege: Privilege) -> Outcome {
    let Some(present) = count() else {
        return Outcome::Cannot {
            why: String::from("this kernel has no hugepages of 2 MiB"),
            hint: String::from("the runtime works with 4 KiB pages, slower; CONFIG_HUGETLBFS gives hugepages"),
        };
    };
    let goal = goal(present, &fs::read_to_string("/proc/meminfo").unwrap_or_default());
    if present >= goal {
        let memory = if present < WANTED { "; this host has too little memory for more" } else { "" };
        return Outcome::Ok(format!("{present} of 2 MiB{memory}"));
    }
    let script = format!("echo {goal} >{NR_HUGEPAGES}");
    if options.dry_run {
        return Outcome::WouldDo(format!("reserve {goal} of 2 MiB, now {present}: {script}"));
    }
    let ran = privilege.shell(&script).is_some_and(|mut command| process::says_yes(&mut command));
    // The kernel gives what it finds, without an error.
    let got = count().unwrap_or(0);
    if got >= goal {
        Outcome::Done(format!("reserved {got} of 2 MiB, before {present}"))
    } else if ran {
        Outcome::Cannot {
            why: format!("the kernel found room for {got} of {goal}: memory is fragmented"),
            hint: String::from(
                "repeat after a reboot, or boot with hugepages=512; with fewer, the runtime uses 4 KiB pages",
            ),
        }
    } else {
        Outcome::Cannot {
            why: format!("{got} of 2 MiB are there, {goal} wanted, and this user may not reserve them"),
            hint: format!("as root: {script}; without, the runtime uses 4 KiB pages, slower"),
        }
    }
}

fn count() -> Option<u64> {
    fs::read_to_string(Path::new(NR_HUGEPAGES)).ok()?.trim().parse().ok()
}

/// How many there should be: all that are wanted, unless they would take more than a quarter of what is free, on top of
/// those that are there.
fn goal(present: u64, meminfo: &str) -> u64 {
    let available_kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0);
    WANTED.min(present + available_kib / 4 / PAGE_KIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_with_memory_gets_all() {
        assert_eq!(goal(0, "MemTotal: 9 kB\nMemAvailable:   20000000 kB\n"), WANTED);
        assert_eq!(goal(300, "MemAvailable:   20000000 kB\n"), WANTED);
    }

    #[test]
    fn a_small_host_keeps_three_quarters_of_its_memory() {
        assert_eq!(goal(0, "MemAvailable: 1048576 kB\n"), 128);
        assert_eq!(goal(10, "MemAvailable: 1048576 kB\n"), 138);
        assert_eq!(goal(0, ""), 0);
    }
}
