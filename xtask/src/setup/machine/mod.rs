//! What the test of virtual functions needs: an emulator with a network card that has them, and a small system to boot.
//!
//! Optional: nothing else needs it, and where it cannot be had, that test is skipped.

mod image;
mod qemu;

use std::path::PathBuf;

use super::privilege::Privilege;
use super::{Options, Outcome};
use crate::error::Error;
use crate::workspace::Metadata;

/// Where the system for the virtual machine is kept: below the target directory, so that `cargo clean` removes it.
pub(crate) fn image_directory() -> Result<PathBuf, Error> {
    Ok(Metadata::load()?.target_directory.join("sriov-vm"))
}

/// Whether the test can run: nothing is missing any more.
pub(crate) fn is_ready() -> Result<bool, Error> {
    Ok(qemu::is_new_enough() && image::is_made(&image_directory()?))
}

/// Installs the emulator and makes the system, as far as they are missing.
pub(super) fn prepare(options: Options, privilege: Privilege) -> Result<[(&'static str, Outcome); 2], Error> {
    let emulator = qemu::install(options, privilege)?;
    let directory = image_directory()?;
    let image = if options.dry_run || qemu::is_new_enough() {
        image::make(options, &directory)
    } else {
        Outcome::Cannot { why: String::from("of no use without the emulator"), hint: String::from("see above") }
    };
    Ok([("emulator", emulator), ("vm image", image)])
}
