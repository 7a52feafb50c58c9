//! Devices that a run has taken: a locked file each, so that two runs do not share one by mistake. A lock ends with its process.

use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use middlenet_sriov::PciAddress;

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

    /// The right to make VFs of this PF, which is apart from the use of the PF itself.
    #[must_use]
    pub fn making_vfs(self, pf: &str) -> Self {
        Self { key: format!("{}-vfs", self.key), shown: format!("the making of virtual functions of `{pf}`") }
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
    _lock: Flock<File>,
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
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Some(claimant(&path)),
            _ => None,
        }
    }
}

impl Claim {
    fn take(path: &Path, name: &str, device: &ClaimedDevice) -> Result<Self, ClaimError> {
        let fail = |source| ClaimError::Io { path: path.into(), source };
        loop {
            let file =
                OpenOptions::new().create(true).truncate(false).write(true).mode(0o644).open(path).map_err(fail)?;
            let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                    return Err(ClaimError::Taken { device: device.shown.clone(), by: claimant(path) });
                }
                Err((_, e)) => return Err(fail(e.into())),
            };
            // Whoever let go removed the file: a lock on it is a lock on nothing.
            let inode = lock.metadata().map_err(fail)?.ino();
            if fs::metadata(path).is_ok_and(|m| m.ino() == inode) {
                lock.set_len(0).map_err(fail)?;
                lock.write_all(format!("`{name}` (process {})\n", std::process::id()).as_bytes()).map_err(fail)?;
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

    #[test]
    fn interfaces_of_other_namespaces_are_others() {
        let lo = ClaimedDevice::interface("lo");
        assert!(lo.key.starts_with("net-") && lo.key.ends_with("-lo") && lo.key != "net-0-lo", "{lo:?}");
    }
}
