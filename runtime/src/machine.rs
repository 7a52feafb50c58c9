//! What a plan must know of the host, as values, so that planning is pure.

use std::fs;
use std::path::{Path, PathBuf};

use crate::domain::Ids;
use middlenet_fast_path::Shape;
use middlenet_sdk::Layer;
use middlenet_sriov::Inventory;
use serde_json::Value;

/// The host's means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Cores this process may use, ascending; at least one.
    pub cores: Vec<usize>,
    /// Processors that the host can have, for each of which the kernel keeps counts.
    pub processors: u64,
    /// Memory that can be had without swapping, in bytes.
    pub memory_bytes: u64,
    /// Free 2 MiB pages.
    pub huge_pages: u64,
}

impl Machine {
    /// This host, now.
    pub fn here() -> Self {
        Self {
            cores: allowed_cores(),
            processors: possible_processors(),
            memory_bytes: available_memory_bytes(),
            huge_pages: free_huge_pages(),
        }
    }
}

fn allowed_cores() -> Vec<usize> {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0));
    let cores: Vec<usize> = match set {
        Ok(set) => (0..nix::sched::CpuSet::count()).filter(|&c| set.is_set(c).unwrap_or(false)).collect(),
        Err(_) => Vec::new(),
    };
    if cores.is_empty() { vec![0] } else { cores }
}

/// The kernel's list has them from 0 on: `0-63`.
fn possible_processors() -> u64 {
    let list = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let last = list.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<u64>().ok());
    last.map_or(1, |last| last + 1)
}

fn available_memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:")).unwrap_or("");
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).map_or(u64::MAX, |kib| kib * 1024)
}

fn free_huge_pages() -> u64 {
    let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    free.ok().and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// Where relative paths of a manifest begin, and how to ask a binary what it is.
pub trait Surroundings {
    /// The folder of the manifest.
    fn folder(&self) -> &Path;
    /// A user by name or number, with its group; nothing if this host has none.
    fn user(&self, user: &str) -> Option<Ids>;
    /// What an external function says of itself.
    ///
    /// # Errors
    /// Why it cannot be asked: a sentence and a remedy.
    fn describe(&self, program: &Path) -> Result<Description, (String, Option<String>)>;
    /// The host's network devices, if they may be looked at.
    fn network(&self) -> Option<Inventory> {
        None
    }
}

/// What an external function answers to `--describe`.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// Its own name.
    pub name: String,
    /// What it handles; nothing where that is not known.
    pub layer: Option<Layer>,
    /// JSON schema of its configuration.
    pub schema: Value,
    /// What its fast path can hold, [`Shape::NONE`] without one; nothing where that is not known.
    pub fast_path: Option<Shape>,
}

/// A user of this host, by name or number.
pub fn user(user: &str) -> Option<Ids> {
    use nix::unistd::{Uid, User};
    let found = match user.parse() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)),
        Err(_) => User::from_name(user),
    };
    found.ok().flatten().map(|u| Ids { uid: u.uid.as_raw(), gid: u.gid.as_raw() })
}

/// Absolute path of a file that a manifest names.
pub fn resolve(folder: &Path, path: &Path) -> PathBuf {
    let joined = folder.join(path);
    std::path::absolute(&joined).unwrap_or(joined)
}
