//! The landlock domain of a function: files, TCP, abstract sockets and signals.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Files;

/// What this was written for; older kernels do what they can.
const VERSION: ABI = ABI::V6;
/// What programs are loaded from, and what they look up on the way.
const LIBRARIES: [&str; 9] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/usr/share/zoneinfo",
];
/// Longest first line of a script that the kernel reads, in bytes.
const FIRST_LINE_BYTES: u64 = 256;

/// A program that is executed inside.
pub(super) struct Executable<'a> {
    pub(super) program: &'a File,
    /// What reads it, if it is a script.
    pub(super) interpreter: Option<&'a Path>,
}

/// What reads a script; nothing for a binary.
pub(super) fn interpreter(program: &File) -> io::Result<Option<PathBuf>> {
    let mut line = Vec::new();
    program.take(FIRST_LINE_BYTES).read_to_end(&mut line)?;
    let Some(line) = line.strip_prefix(b"#!") else { return Ok(None) };
    let line = line.split(|&b| b == b'\n').next().unwrap_or_default().trim_ascii();
    let name = line.split(|b| b.is_ascii_whitespace()).next().unwrap_or_default();
    Ok(Some(std::ffi::OsStr::from_bytes(name).into()))
}

/// A domain, made but not entered. Its files are open by then, so that whoever enters needs no right to find them.
#[derive(Debug)]
pub(super) struct Domain(RulesetCreated);

impl Domain {
    pub(super) fn new(files: &Files, executable: Option<Executable<'_>>) -> Result<Self, RulesetError> {
        let reading = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute;
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(VERSION))?
            .handle_access(AccessNet::from_all(VERSION))?
            .scope(Scope::from_all(VERSION))?
            .create()?
            .add_rules(path_beneath_rules(files.reads.iter().map(|path| place(path)), reading))?;
        for path in &files.writes {
            rules = rules.add_rules(path_beneath_rules([place(path)], writing(path)))?;
        }
        if let Some(Executable { program, interpreter }) = executable {
            rules = rules
                .add_rule(PathBeneath::new(program, AccessFs::ReadFile | AccessFs::Execute))?
                .add_rules(path_beneath_rules(interpreter, AccessFs::ReadFile | AccessFs::Execute))?
                .add_rules(path_beneath_rules(LIBRARIES, reading))?;
            if let Ok(null) = PathFd::new("/dev/null") {
                rules = rules.add_rule(PathBeneath::new(null, AccessFs::ReadFile | AccessFs::WriteFile))?;
            }
        }
        Ok(Self(rules))
    }

    /// Confines this thread, and all that come of it.
    pub(super) fn enter(self) -> Result<RestrictionStatus, RulesetError> {
        self.0.restrict_self()
    }
}

/// What is done to a folder that is written to, or for the sake of one file in it.
fn writing(path: &Path) -> BitFlags<AccessFs> {
    let file = AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg;
    let folder =
        AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::MakeDir | AccessFs::RemoveFile | AccessFs::RemoveDir;
    if path.is_dir() { file | folder | AccessFs::Refer } else { file }
}

/// The folder of a file, in which it may be replaced; the file alone if that folder is the host's, not one for such files.
fn place(path: &Path) -> &Path {
    let is_replaced = path.is_file() || !path.exists();
    match path.parent() {
        Some(folder) if is_replaced && folder.ancestors().count() > 2 => folder,
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_stands_for_its_folder_unless_that_is_the_hosts() {
        assert_eq!(place(Path::new("/var/no-such-folder/access.log")), Path::new("/var/no-such-folder"));
        for alone in ["/etc/hostname", "/no-such-file", "/dev/null", "/usr/lib", "/"] {
            assert_eq!(place(Path::new(alone)), Path::new(alone));
        }
    }

    #[test]
    fn interpreters_are_those_of_scripts() {
        let folder = std::env::temp_dir().join(format!("middlenet-interpreter-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("script");
        for (text, expected) in [
            ("#!/bin/sh\nexit", Some("/bin/sh")),
            ("#! /usr/bin/env -S x\n", Some("/usr/bin/env")),
            ("#!", Some("")),
            ("\x7fELF", None),
            ("", None),
        ] {
            std::fs::write(&path, text).unwrap();
            let found = interpreter(&File::open(&path).unwrap()).unwrap();
            assert_eq!(found.as_deref(), expected.map(Path::new), "{text:?}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
