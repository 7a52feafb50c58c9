//! The emulator: QEMU from version 8 on has a network card with virtual functions (igb, an Intel 82576).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::packages::{self, is_debian_like};
use super::super::privilege::Privilege;
use super::super::{Options, Outcome};
use crate::error::Error;
use crate::process;

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
const OLDEST: u32 = 8;
const SOURCES: &str = "/etc/apt";
const OURS: &str = "/etc/apt/sources.list.d/middlenet-backports";

/// Whether the emulator is there, and new enough.
pub(super) fn is_new_enough() -> bool {
    let mut version = Command::new(PROGRAM);
    let text = version.arg("--version").output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.ok().and_then(|text| major_of_program(&text)).is_some_and(|major| major >= OLDEST)
}

/// Installs it, from the distribution's backports if the release itself has only an older one.
pub(super) fn install(options: Options, privilege: Privilege) -> Result<Outcome, Error> {
    let kmod = super::super::privilege::is_on_path("modprobe");
    if is_new_enough() && kmod {
        return Ok(Outcome::Ok(format!("QEMU {OLDEST} or later is installed")));
    }
    let by_hand = format!("install QEMU {OLDEST} or later ({PACKAGE}) and kmod");
    if !is_debian_like() {
        return Ok(Outcome::Cannot { why: format!("no QEMU {OLDEST} or later"), hint: by_hand });
    }
    if options.dry_run {
        return Ok(Outcome::WouldDo(format!("{by_hand}, from backports if need be")));
    }
    if privilege == Privilege::None {
        return Ok(Outcome::Cannot { why: String::from("neither root nor sudo to install QEMU"), hint: by_hand });
    }
    let updated = packages::run_quietly(privilege, packages::UPDATE);
    let mut words = format!("{PACKAGE} kmod");
    if candidate().ok().flatten().is_none_or(|major| major < OLDEST) {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let Some((path, text)) = codename(&release).and_then(|name| backports(Path::new(SOURCES), name)) else {
            let why = format!("this release has no QEMU {OLDEST}, and no apt source of its own to copy for backports");
            return Ok(Outcome::Cannot { why, hint: by_hand });
        };
        let script = format!("cat >'{}' <<'END'\n{text}END\n{}", path.display(), packages::UPDATE);
        if let Err(error) = packages::run_quietly(privilege, &script) {
            // A source that cannot be read would trouble every later update.
            packages::run_quietly(privilege, &format!("rm -f '{}'", path.display()))?;
            return Ok(Outcome::Cannot { why: error.to_string(), hint: by_hand });
        }
        words = format!("-t {}-backports {words}", codename(&release).unwrap_or_default());
    }
    let installed = updated.and(packages::run_quietly(privilege, &packages::INSTALL.replace("NAMES", &words)));
    Ok(match installed {
        _ if is_new_enough() => Outcome::Done(format!("installed {PACKAGE} and kmod")),
        Ok(()) => Outcome::Cannot { why: format!("still no QEMU {OLDEST} or later"), hint: by_hand },
        Err(error) => Outcome::Cannot { why: error.to_string(), hint: by_hand },
    })
}

/// The version that apt would install.
fn candidate() -> Result<Option<u32>, Error> {
    let policy = process::output(Command::new("apt-cache").args(["policy", PACKAGE]).env("LC_ALL", "C"))?;
    Ok(policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: ")).and_then(major_of_package))
}

/// `QEMU emulator version 10.0.2 (Debian ...)`
fn major_of_program(text: &str) -> Option<u32> {
    text.split_once("version ")?.1.split('.').next()?.parse().ok()
}

/// `1:7.2+dfsg-7+deb12u18`
fn major_of_package(version: &str) -> Option<u32> {
    let upstream = version.split_once(':').map_or(version, |(_, upstream)| upstream);
    upstream.split('.').next()?.parse().ok()
}

fn codename(os_release: &str) -> Option<&str> {
    let name = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(name.trim_matches('"')).filter(|name| !name.is_empty())
}

/// The host's own source of its release, as one of backports: the file to write, and what is to be in it.
fn backports(sources: &Path, codename: &str) -> Option<(PathBuf, String)> {
    let mut files = vec![sources.join("sources.list")];
    files
        .extend(fs::read_dir(sources.join("sources.list.d")).into_iter().flatten().flatten().map(|entry| entry.path()));
    files.sort();
    files.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        match file.extension()?.to_str()? {
            "sources" => Some((PathBuf::from(format!("{OURS}.sources")), of_stanzas(&text, codename)?)),
            "list" => Some((PathBuf::from(format!("{OURS}.list")), of_lines(&text, codename)?)),
            _ => None,
        }
    })
}

/// The stanza of the release, with another suite (sources.list(5), "deb822-style format").
fn of_stanzas(text: &str, codename: &str) -> Option<String> {
    text.split("\n\n").find_map(|stanza| {
        let lines: Vec<&str> = stanza.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
        let field = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name));
        let suites = field("Suites:")?;
        let usable = field("Types:")?.split_whitespace().any(|kind| kind == "deb") && field("Enabled:").is_none();
        if !usable || !suites.split_whitespace().any(|suite| suite == codename) {
            return None;
        }
        let line = |line: &&str| match line.starts_with("Suites:") {
            true => format!("Suites: {codename}-backports\n"),
            false => format!("{line}\n"),
        };
        Some(lines.iter().map(line).collect())
    })
}

/// The line of the release, with another suite ("one-line-style format").
fn of_lines(text: &str, codename: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let suite = words.iter().position(|word| *word == codename)?;
        if words.first() != Some(&"deb") {
            return None;
        }
        let backports = format!("{codename}-backports");
        let mut words = words;
        words[suite] = &backports;
        Some(format!("{}\n", words.join(" ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(major_of_program("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright"), Some(10));
        assert_eq!(major_of_package("1:7.2+dfsg-7+deb12u18+b3"), Some(7));
        assert_eq!(major_of_package("(none)"), None);
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), Some("bookworm"));
    }

    #[test]
    fn the_stanza_of_the_release_becomes_one_of_backports() {
        let text = "Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\n\n\
            # main\nTypes: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\
            Signed-By: /k.gpg\n";
        let wanted = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\nComponents: main\n\
            Signed-By: /k.gpg\n";
        assert_eq!(of_stanzas(text, "bookworm").as_deref(), Some(wanted));
        assert_eq!(of_stanzas(text, "trixie"), None);
    }

    #[test]
    fn the_line_of_the_release_becomes_one_of_backports() {
        let text = "# deb http://x bookworm main\ndeb-src http://x bookworm main\n\
            deb [signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib\n";
        let wanted = "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm-backports main contrib\n";
        assert_eq!(of_lines(text, "bookworm").as_deref(), Some(wanted));
        assert_eq!(of_lines(text, "sid"), None);
    }
}
