//! Devices that a run has taken: a locked file each, so that two runs do not share one by mistake. A lock ends with its process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use middlenet_sriov::PciAddress;

use crate::lock::{Locked, is_locked};

/// How often a claim that others have is tried for.
const LOOK: Duration = Duration::from_millis(20);

/// A device as runs know it: two names of one device are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedDevice {
    /// File name of its claim.
    key: String,
    /// What people call it.
    shown: String,
}

impl ClaimedDevice {
    /// A PCI function.
    pub fn pci(address: PciAddress) -> Self {
        Self { key: format!("pci-{address}"), shown: format!("the PCI device {address}") }
    }

    /// An interface of this network namespace; one of a NIC is its PCI function.
    pub fn interface(name: &str) -> Self {
        let shown = format!("the interface `{name}`");
        if let Some(address) = middlenet_sriov::pci_of(Path::new("/"), name) {
            return Self { shown, ..Self::pci(address) };
        }
        // Names are of a namespace.
        let namespace = fs::metadata("/proc/self/ns/net").map_or(0, |m| m.ino());
        Self { key: format!("net-{namespace}-{name}"), shown }
    }

    /// A user that functions run under.
    pub fn user(uid: u32) -> Self {
        Self { key: format!("user-{uid}"), shown: format!("the user {uid}") }
    }

    /// The right to make VFs of this PF, to set them up and to take them away, which is apart from the use of the PF itself.
    pub fn changes_of_vfs(pf: PciAddress) -> Self {
        Self { key: format!("pci-{pf}-vfs"), shown: format!("what is changed of the virtual functions of {pf}") }
    }

    /// Calls it by another name.
    #[must_use]
    pub fn called(self, shown: String) -> Self {
        Self { shown, ..self }
    }
}

/// Why a device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another run has it.
    #[error("{device} belongs to the run {by}")]
    Taken {
        /// The device.
        device: String,
        /// `edge (process 12)`.
        by: String,
    },
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// The devices of a run.
#[derive(Debug, Default)]
pub struct Claims(Vec<Claim>);

#[derive(Debug)]
struct Claim {
    path: PathBuf,
    _lock: Locked,
}

impl Claims {
    /// Takes all devices for the run `name`, or none. `folder` is that of all runs.
    ///
    /// # Errors
    /// [`ClaimError::Taken`] for the first that another run has.
    pub fn take(folder: &Path, name: &str, devices: &[ClaimedDevice]) -> Result<Self, ClaimError> {
        let folder = folder.join("claims");
        fs::create_dir_all(&folder).map_err(|source| ClaimError::Io { path: folder.clone(), source })?;
        let mut claims = Self::default();
        for (at, device) in devices.iter().enumerate() {
            // A port may be named twice within a run: that is for `check` to judge.
            if !devices[..at].iter().any(|earlier| earlier.key == device.key) {
                claims.0.push(Claim::take(&folder.join(&device.key), name, device)?);
            }
        }
        Ok(claims)
    }

    /// Who has a device now: `edge (process 12)`.
    pub fn holder(folder: &Path, device: &ClaimedDevice) -> Option<String> {
        let path = folder.join("claims").join(&device.key);
        let file = File::open(&path).ok()?;
        is_locked(&file).is_ok_and(|locked| locked).then(|| claimant(&path))
    }

    /// The same, unless it is this process for the run `name`.
    pub fn other_holder(folder: &Path, name: &str, device: &ClaimedDevice) -> Option<String> {
        Self::holder(folder, device).filter(|by| *by != own_words(name))
    }

    /// Takes all devices for the run `name`, and waits for those that another run has for a moment; `waiting` is called once, with
    /// that run, if there is one.
    ///
    /// # Errors
    /// [`ClaimError::Taken`] when the limit is over.
    pub fn wait(
        folder: &Path,
        name: &str,
        devices: &[ClaimedDevice],
        limit: Duration,
        waiting: impl FnOnce(&str),
    ) -> Result<Self, ClaimError> {
        let began = Instant::now();
        let mut waiting = Some(waiting);
        loop {
            match Self::take(folder, name, devices) {
                Err(ClaimError::Taken { by, .. }) if began.elapsed() < limit => {
                    if let Some(waiting) = waiting.take() {
                        waiting(&by);
                    }
                    std::thread::sleep(LOOK);
                }
                outcome => return outcome,
            }
        }
    }
}

impl Claim {
    fn take(path: &Path, name: &str, device: &ClaimedDevice) -> Result<Self, ClaimError> {
        let fail = |source| ClaimError::Io { path: path.into(), source };
        loop {
            let file =
                OpenOptions::new().create(true).truncate(false).write(true).mode(0o644).open(path).map_err(fail)?;
            let Some(mut lock) = Locked::take(file).map_err(fail)? else {
                return Err(ClaimError::Taken { device: device.shown.clone(), by: claimant(path) });
            };
            // Whoever let go removed the file: a lock on it is a lock on nothing.
            let inode = lock.metadata().map_err(fail)?.ino();
            if fs::metadata(path).is_ok_and(|m| m.ino() == inode) {
                lock.set_len(0).map_err(fail)?;
                lock.write_all(format!("{}\n", own_words(name)).as_bytes()).map_err(fail)?;
                return Ok(Self { path: path.into(), _lock: lock });
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Still locked: nobody else can have taken it.
        let _ = fs::remove_file(&self.path);
    }
}

/// What this process writes into its claims for the run `name`.
fn own_words(name: &str) -> String {
    format!("`{name}` (process {})", std::process::id())
}

fn claimant(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    match text.trim() {
        "" => "that is starting now".into(),
        by => by.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str) -> ClaimedDevice {
        ClaimedDevice { key: name.into(), shown: format!("the interface `{name}`") }
    }

    #[test]
    fn a_device_belongs_to_one_run() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b, c) = (device("a"), device("b"), device("c"));
        let edge = Claims::take(folder.path(), "edge", &[a.clone(), b.clone()]).unwrap();
        let refusal = Claims::take(folder.path(), "core", &[c.clone(), b.clone()]).unwrap_err();
        let me = std::process::id();
        assert_eq!(refusal.to_string(), format!("the interface `b` belongs to the run `edge` (process {me})"));
        assert_eq!(Claims::holder(folder.path(), &a), Some(format!("`edge` (process {me})")));
        // What the refused one had taken on the way is free again.
        assert_eq!(Claims::holder(folder.path(), &c), None);
        drop(edge);
        assert_eq!(Claims::holder(folder.path(), &a), None);
        let core = Claims::take(folder.path(), "core", &[c, b.clone(), b.clone()]).unwrap();
        assert_eq!(Claims::holder(folder.path(), &b), Some(format!("`core` (process {me})")));
        drop(core);
        assert_eq!(fs::read_dir(folder.path().join("claims")).unwrap().count(), 0);
    }

    /// A file that a crashed run left is no claim.
    #[test]
    fn a_crash_frees_its_devices() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("claims")).unwrap();
        fs::write(folder.path().join("claims/a"), "`edge` (process 1)\n").unwrap();
        assert_eq!(Claims::holder(folder.path(), &device("a")), None);
        Claims::take(folder.path(), "core", &[device("a")]).unwrap();
    }

    /// Those who look, however many, keep nobody from taking.
    #[test]
    fn asking_takes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        Claims::holder(folder.path(), &device("a"));
                    }
                });
            }
            let taken = (0..20_000).find_map(|_| Claims::take(folder.path(), "edge", &[device("a")]).err());
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(taken.is_none(), "{taken:?}");
        });
    }

    #[test]
    fn what_others_have_for_a_moment_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let a = device("a");
        let edge = Claims::take(folder.path(), "edge", std::slice::from_ref(&a)).unwrap();
        assert_eq!(Claims::other_holder(folder.path(), "edge", &a), None);
        let by = Claims::other_holder(folder.path(), "core", &a).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let wait = |limit, tell: std::sync::mpsc::Sender<String>| {
                let tell = move |by: &str| tell.send(by.to_owned()).unwrap();
                Claims::wait(folder.path(), "core", std::slice::from_ref(&a), limit, tell)
            };
            let refusal = wait(Duration::ZERO, tell.clone()).unwrap_err();
            assert!(matches!(refusal, ClaimError::Taken { .. }), "{refusal}");
            let core = scope.spawn(move || wait(Duration::from_secs(60), tell).map(drop));
            assert_eq!(told.recv().unwrap(), by);
            drop(edge);
            core.join().unwrap().unwrap();
        });
    }

    #[test]
    fn interfaces_of_other_namespaces_are_others() {
        let lo = ClaimedDevice::interface("lo");
        assert!(lo.key.starts_with("net-") && lo.key.ends_with("-lo") && lo.key != "net-0-lo", "{lo:?}");
    }
}
