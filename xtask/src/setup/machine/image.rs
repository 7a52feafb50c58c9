//! The system that the virtual machine boots: Debian's own kernel, and a first root with the modules that the test needs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::packages::is_debian_like;
use super::super::{Options, Outcome};
use crate::error::Error;
use crate::process;

/// The package that depends on the current kernel's.
const KERNEL: &str = "linux-image-amd64";
/// A shell and tools in one file.
const BUSYBOX: &str = "busybox-static";

/// What the first root loads to reach the host's files.
const AT_START: &[&str] = &["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// What the test loads: the card's two drivers, what hands a function of it to a program, and what splits an interface by flows.
const LATER: &[&str] = &[
    "igb",
    "igbvf",
    "vfio_pci",
    "vfio_iommu_type1",
    "veth",
    "8021q",
    "cls_bpf",
    "tun",
    "sch_ingress",
    "sch_multiq",
    "cls_flower",
    "act_gact",
    "act_mirred",
    "act_skbedit",
];

const INIT: &str = include_str!("init.sh");

/// What the image is made of: it is made anew when that changes.
fn recipe() -> String {
    format!("{}\n{}\n{INIT}", AT_START.join(" "), LATER.join(" "))
}

/// Whether the image is there, by this recipe.
pub(super) fn is_made(directory: &Path) -> bool {
    let recipe_then = fs::read_to_string(directory.join("recipe")).unwrap_or_default();
    recipe_then == recipe() && ["vmlinuz", "initrd.gz"].iter().all(|name| directory.join(name).is_file())
}

/// Fetches the kernel and makes the image, unless it is there.
pub(super) fn make(options: Options, directory: &Path) -> Outcome {
    if is_made(directory) {
        return Outcome::Ok(format!("{} is made", directory.display()));
    }
    if options.dry_run {
        return Outcome::WouldDo(format!("fetch a kernel (70 MB) and make {}", directory.display()));
    }
    if !is_debian_like() {
        let why = String::from("the kernel for the virtual machine is a Debian package");
        return Outcome::Cannot { why, hint: String::from("run the test of virtual functions on Debian") };
    }
    match make_in(directory) {
        Ok(kernel) => Outcome::Done(format!("made of {kernel}")),
        Err(error) => Outcome::Cannot {
            why: format!("the system for the virtual machine cannot be made: {error}"),
            hint: String::from("`apt-get update`, then repeat; without, the test of virtual functions is skipped"),
        },
    }
}

/// Returns the kernel's package.
fn make_in(directory: &Path) -> Result<String, Error> {
    let work = directory.join("work");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).map_err(Error::file(&work))?;
    let kernel = kernel_package()?;
    process::output(Command::new("apt-get").args(["download", "-q", &kernel, BUSYBOX]).current_dir(&work))?;
    let (system, tools, root) = (work.join("kernel"), work.join("busybox"), work.join("root"));
    unpack(&work, &kernel, &system)?;
    unpack(&work, BUSYBOX, &tools)?;

    let modules = system.join("lib/modules");
    let version = only_entry(&modules)?;
    process::output(Command::new("depmod").arg("-b").arg(&system).arg(&version))?;
    for name in ["bin", "dev", "proc", "sys", "host", "layer", "system"] {
        let path = root.join(name);
        fs::create_dir_all(&path).map_err(Error::file(&path))?;
    }
    for module in AT_START.iter().chain(LATER) {
        copy_module(&system, &version, module, &root)?;
    }
    for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        copy(&modules.join(&version).join(list), &root.join("lib/modules").join(&version).join(list))?;
    }
    process::output(Command::new("depmod").arg("-b").arg(&root).arg(&version))?;
    copy(&tools.join("bin/busybox"), &root.join("bin/busybox"))?;
    let init = root.join("init");
    fs::write(&init, INIT.replace("MODULES_AT_START", &AT_START.join(" "))).map_err(Error::file(&init))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).map_err(Error::file(&init))?;

    let pack = "set -e; find . | bin/busybox cpio -o -H newc 2>/dev/null | gzip -1 >../initrd.gz";
    process::output(Command::new("sh").args(["-c", pack]).current_dir(&root))?;
    copy(&work.join("initrd.gz"), &directory.join("initrd.gz"))?;
    copy(&system.join("boot").join(format!("vmlinuz-{version}")), &directory.join("vmlinuz"))?;
    let path = directory.join("recipe");
    fs::write(&path, recipe()).map_err(Error::file(&path))?;
    fs::remove_dir_all(&work).map_err(Error::file(&work))?;
    Ok(kernel)
}

/// The one package of the release's current kernel.
fn kernel_package() -> Result<String, Error> {
    let mut depends = Command::new("apt-cache");
    let text = process::output(depends.args(["depends", KERNEL]).env("LC_ALL", "C"))?;
    let name = kernel_of(&text).map(str::to_owned);
    name.ok_or_else(|| Error::Answer { command: process::line(&depends), reason: String::from("it names no kernel") })
}

fn kernel_of(depends: &str) -> Option<&str> {
    depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).find(|name| {
        name.strip_prefix("linux-image-").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    })
}

fn unpack(from: &Path, package: &str, to: &Path) -> Result<(), Error> {
    let prefix = format!("{package}_");
    let entries = fs::read_dir(from).map_err(Error::file(from))?.flatten();
    let file = entries
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)));
    let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
    let file = file.ok_or_else(missing).map_err(Error::file(&from.join(package)))?;
    process::output(Command::new("dpkg").arg("-x").arg(file).arg(to)).map(drop)
}

fn only_entry(directory: &Path) -> Result<String, Error> {
    let mut entries = fs::read_dir(directory).map_err(Error::file(directory))?.flatten();
    let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
    let entry = entries.next().ok_or_else(missing).map_err(Error::file(directory))?;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

/// Copies a module and those it needs, unpacked. One that is part of the kernel needs no copy.
fn copy_module(system: &Path, version: &str, module: &str, root: &Path) -> Result<(), Error> {
    let mut query = Command::new("modprobe");
    let text = process::output(query.arg("-d").arg(system).args(["-S", version, "--show-depends", module]))?;
    for file in text.lines().filter_map(|line| line.strip_prefix("insmod ")).map(|line| PathBuf::from(line.trim())) {
        let to = root.join(file.strip_prefix(system).unwrap_or(&file));
        if to.extension().is_some_and(|extension| extension == "xz") {
            let to = to.with_extension("");
            copy(&file, &to.with_extension("ko.xz"))?;
            process::output(Command::new("xz").args(["-d", "-f"]).arg(to.with_extension("ko.xz")))?;
        } else {
            copy(&file, &to)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(Error::file(parent))?;
    }
    fs::copy(from, to).map(drop).map_err(Error::file(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_one_package_by_its_full_name() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-9-amd64\n    linux-image-6.1.0-9-amd64-unsigned\n";
        assert_eq!(kernel_of(text), Some("linux-image-6.1.0-9-amd64"));
        assert_eq!(kernel_of("linux-image-amd64\n  Depends: linux-base\n"), None);
    }

    #[test]
    fn another_recipe_makes_another_image() {
        let directory = std::env::temp_dir().join(format!("middlenet-image-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        for name in ["vmlinuz", "initrd.gz"] {
            fs::write(directory.join(name), "x").unwrap();
        }
        assert!(!is_made(&directory));
        fs::write(directory.join("recipe"), recipe()).unwrap();
        assert!(is_made(&directory));
        fs::write(directory.join("recipe"), "other").unwrap();
        assert!(!is_made(&directory));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn the_first_program_is_a_shell_script() {
        assert!(INIT.contains("MODULES_AT_START"));
        assert!(process::says_yes(Command::new("sh").args(["-n", "-c", INIT])));
    }
}
