//! The thread that writes, and the file it writes to.

use middlenet_sdk::ConfigError;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

/// How often the file's name is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Stdout,
    Stderr,
    File(PathBuf),
}

/// An open destination.
pub(crate) enum Sink {
    Stdout,
    Stderr,
    File { path: PathBuf, file: File },
}

/// What the writer has counted since it was last asked.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    write_errors: AtomicU64,
    reopened: AtomicU64,
    reopen_failed: AtomicU64,
}

/// What was counted since it was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) write_errors: u64,
    pub(crate) reopened: u64,
    pub(crate) reopen_failed: u64,
}

impl Shared {
    pub(crate) fn take(&self) -> Seen {
        Seen {
            write_errors: self.write_errors.swap(0, Ordering::Relaxed),
            reopened: self.reopened.swap(0, Ordering::Relaxed),
            reopen_failed: self.reopen_failed.swap(0, Ordering::Relaxed),
        }
    }
}

impl Destination {
    pub(crate) fn open(&self) -> Result<Sink, ConfigError> {
        Ok(match self {
            Self::Stdout => Sink::Stdout,
            Self::Stderr => Sink::Stderr,
            Self::File(path) => {
                let file = open(path).map_err(|e| {
                    ConfigError::new(format!("the log {} cannot be opened: {e}", path.display()))
                        .with_hint("its folder must be there, and the function's user needs the right to write in it")
                })?;
                Sink::File { path: path.clone(), file }
            }
        })
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Opening a pipe would wait for its reader.
    let may_open = |kind: std::fs::FileType| kind.is_file() || kind.is_char_device();
    if path.metadata().is_ok_and(|metadata| !may_open(metadata.file_type())) {
        return Err(io::Error::other("it is neither a file nor a device"));
    }
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Writes what comes until the sender is gone, and gives the buffers back.
pub(crate) fn run(mut sink: Sink, lines: &Receiver<Vec<u8>>, returns: &SyncSender<Vec<u8>>, shared: &Shared) {
    let mut looked = Instant::now();
    loop {
        let received = lines.recv_timeout(LOOK);
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            sink.follow(shared);
        }
        match received {
            Ok(mut chunk) => {
                if sink.write(&chunk).is_err() {
                    let count = chunk.iter().filter(|&&b| b == b'\n').count() as u64;
                    shared.write_errors.fetch_add(count, Ordering::Relaxed);
                }
                chunk.clear();
                // Where nobody takes it back, it is freed.
                drop(returns.try_send(chunk));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout().lock().write_all(bytes).and_then(|()| io::stdout().flush()),
            Self::Stderr => io::stderr().lock().write_all(bytes),
            Self::File { file, .. } => file.write_all(bytes),
        }
    }

    /// Opens the file anew if its name means another or none.
    fn follow(&mut self, shared: &Shared) {
        let Self::File { path, file } = self else { return };
        let is_same = |named: &std::fs::Metadata| {
            file.metadata().is_ok_and(|ours| (ours.dev(), ours.ino()) == (named.dev(), named.ino()))
        };
        if path.metadata().is_ok_and(|named| is_same(&named)) {
            return;
        }
        match open(path) {
            Ok(anew) => {
                *file = anew;
                shared.reopened.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => drop(shared.reopen_failed.fetch_add(1, Ordering::Relaxed)),
        }
    }
}
