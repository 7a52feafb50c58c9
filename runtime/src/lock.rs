//! Locks on files, which end with their process, and which can be asked about without being taken.
//!
//! They are locks of the open file (`F_OFD_SETLK`, fcntl(2)): flock(2) has no question, and who asks by taking it for a moment
//! makes whoever wants it in that moment believe that it is taken.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};

/// A file that nobody else has locked, as long as this is there.
#[derive(Debug)]
pub(crate) struct Locked(File);

impl Locked {
    /// Locks a file that is open for writing; none if somebody else has it.
    ///
    /// # Errors
    /// What the system said.
    pub(crate) fn take(file: File) -> io::Result<Option<Self>> {
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK))) {
            Ok(_) => Ok(Some(Self(file))),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut File {
        &mut self.0
    }
}

/// Whether somebody has locked this file. Nothing is taken.
///
/// # Errors
/// What the system said.
pub(crate) fn is_locked(file: &File) -> io::Result<bool> {
    let mut answer = whole(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut answer))?;
    Ok(libc::c_int::from(answer.l_type) != libc::F_UNLCK)
}

/// A lock on all of a file.
fn whole(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_seen_by_others_and_ends_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Locked::take(File::create(&path).unwrap()).unwrap().unwrap();
        assert!(is_locked(&File::open(&path).unwrap()).unwrap(), "a reader can ask as well");
        assert!(Locked::take(File::create(&path).unwrap()).unwrap().is_none());
        drop(first);
        assert!(!is_locked(&File::open(&path).unwrap()).unwrap());
        assert!(Locked::take(File::create(&path).unwrap()).unwrap().is_some());
    }
}
