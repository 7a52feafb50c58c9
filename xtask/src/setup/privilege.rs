//! Who may change the host: root, a user with sudo, or neither.

use std::fs;
use std::io::IsTerminal;
use std::path::Path;
use std::process::Command;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privilege {
    Root,
    Sudo,
    None,
}

impl Privilege {
    pub(crate) fn detect() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        if is_root(&status) {
            Self::Root
        } else if is_on_path("sudo") {
            Self::Sudo
        } else {
            Self::None
        }
    }

    /// A command that runs a shell script with privileges; `None` if there are none to be had.
    ///
    /// Without a terminal nobody can type a password, so sudo is then told not to ask.
    pub(crate) fn shell(self, script: &str) -> Option<Command> {
        let mut command = match self {
            Self::Root => Command::new("sh"),
            Self::Sudo => {
                let mut sudo = Command::new("sudo");
                if !std::io::stdin().is_terminal() {
                    sudo.arg("-n");
                }
                sudo.arg("sh");
                sudo
            }
            Self::None => return None,
        };
        command.arg("-c").arg(script);
        Some(command)
    }
}

fn is_root(status: &str) -> bool {
    // Uid: real, effective, saved, file system
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|uids| uids.split_whitespace().nth(1)) == Some("0")
}

/// Whether a program of this name is in one of the directories of `PATH`, or where Debian keeps those for root.
pub(crate) fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(|name| Path::new(name).to_owned()));
    directories.into_iter().any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_uid_decides() {
        assert!(is_root("Name:\tx\nUid:\t1000\t0\t1000\t1000\n"));
        assert!(!is_root("Uid:\t0\t1000\t0\t0\n"));
        assert!(!is_root(""));
    }

    #[test]
    fn without_privileges_there_is_no_command() {
        assert!(Privilege::None.shell("true").is_none());
        let command = Privilege::Root.shell("true").unwrap();
        assert_eq!(crate::process::line(&command), "sh -c true");
    }

    #[test]
    fn programs_are_found() {
        assert!(is_on_path("sh"));
        assert!(!is_on_path("middlenet-no-such-program"));
    }
}
