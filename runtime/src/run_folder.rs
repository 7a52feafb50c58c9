//! Where a run leaves its traces: the lock on its name, its control socket, and what to clean up after a crash.

use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::lock::{Locked, is_locked};

/// The folder of all runs of this user: `/run/middlenet` for root, else below `$XDG_RUNTIME_DIR` or in `/tmp`.
pub fn path() -> PathBuf {
    let user = nix::unistd::geteuid();
    if user.is_root() {
        return "/run/middlenet".into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()) {
        Some(folder) => Path::new(&folder).join("middlenet"),
        None => format!("/tmp/middlenet-{user}").into(),
    }
}

/// The control socket of a run.
pub fn socket(name: &str) -> PathBuf {
    path().join(format!("{name}.sock"))
}

/// Names of the runs that hold their locks now.
pub fn running() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".lock").map(str::to_owned))
        .filter(|name| {
            let lock = File::open(path().join(format!("{name}.lock")));
            lock.and_then(|file| is_locked(&file)).unwrap_or(false)
        })
        .collect();
    names.sort();
    names
}

/// What a run changed on the host, so that the next one of its name can undo it after a crash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traces {
    /// Process id of the supervisor.
    pub pid: u32,
    /// Path of the manifest.
    pub manifest: String,
    /// Manager's ends of veth pairs.
    pub interfaces: Vec<String>,
}

/// Why a run's name could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It runs.
    #[error("a run called `{name}` is there already{by}")]
    Taken {
        /// The name.
        name: String,
        /// ` (process 12, of /etc/edge.yaml)`, if that is known.
        by: String,
    },
    /// The folder is somebody else's.
    #[error("the folder {0} belongs to another user")]
    Foreign(PathBuf),
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// The name of a run, taken. The lock ends with the process, whatever ends it.
#[derive(Debug)]
pub struct RunFolder {
    _lock: Locked,
    name: String,
    folder: PathBuf,
}

impl RunFolder {
    /// Takes the name; returns what a crashed run of it left behind.
    ///
    /// # Errors
    /// [`FolderError::Taken`] while another holds it; that one notices nothing.
    pub fn take(name: &str) -> Result<(Self, Option<Traces>), FolderError> {
        let folder = path();
        let fail = |path: &Path| {
            let path = path.to_path_buf();
            move |source| FolderError::Io { path, source }
        };
        let mode = if nix::unistd::geteuid().is_root() { 0o755 } else { 0o700 };
        DirBuilder::new().recursive(true).mode(mode).create(&folder).map_err(fail(&folder))?;
        // In /tmp anybody could have made it first.
        let owner = fs::symlink_metadata(&folder).map_err(fail(&folder))?;
        if !owner.is_dir() || owner.uid() != nix::unistd::geteuid().as_raw() {
            return Err(FolderError::Foreign(folder));
        }
        let lock_path = folder.join(format!("{name}.lock"));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o644)
            .open(&lock_path)
            .map_err(fail(&lock_path))?;
        let traces = read_traces(&folder.join(format!("{name}.json")));
        match Locked::take(file).map_err(fail(&lock_path))? {
            Some(lock) => Ok((Self { _lock: lock, name: name.into(), folder }, traces)),
            None => {
                let by = traces.map(|t| format!(" (process {}, of {})", t.pid, t.manifest)).unwrap_or_default();
                Err(FolderError::Taken { name: name.into(), by })
            }
        }
    }

    /// Records what is about to be changed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record(&self, traces: &Traces) -> io::Result<()> {
        fs::write(self.traces_path(), serde_json::to_vec_pretty(traces)?)
    }

    /// Where the control socket belongs.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(format!("{}.sock", self.name))
    }

    fn traces_path(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.name))
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // The lock's file stays: removing it would let two runs lock two files of one name.
        let _ = fs::remove_file(self.socket());
        let _ = fs::remove_file(self.traces_path());
    }
}

fn read_traces(path: &Path) -> Option<Traces> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
