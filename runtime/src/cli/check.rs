//! `middlenet check`, and the reading of manifests for all commands.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::binaries::Here;
use super::{Failure, print_data, stderr_is_terminal};
use crate::check::{Traffic, plan};
use crate::diagnostic::Refusal;
use crate::machine::Machine;
use crate::manifest::Manifest;
use crate::plan::Plan;
use crate::render::{plan_json, plan_text};

/// Widest report on a terminal.
const WIDTH: usize = 100;

/// A manifest's text with its place.
pub(super) struct Source {
    /// As given.
    pub(super) shown: String,
    /// Folder that relative paths begin at.
    pub(super) folder: PathBuf,
    /// The text.
    pub(super) text: String,
}

pub(super) fn read(path: &Path) -> Result<Source, Failure> {
    let fail = |reason: String| {
        let hint = "name a manifest: `middlenet check edge.yaml`".to_owned();
        Failure { message: format!("cannot read {}: {reason}", path.display()), hint: Some(hint), code: 2 }
    };
    let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| fail("it is not UTF-8 text".into()))?;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let folder = absolute.parent().map_or_else(|| "/".into(), Path::to_path_buf);
    Ok(Source { shown: path.display().to_string(), folder, text })
}

/// Plans a manifest for this host. From here on the working directory is the manifest's folder, so that files named in
/// configurations of functions are found from there as well, by this process and by its children.
pub(super) fn plan_source(source: &Source, machine: &Machine, traffic: &Traffic) -> Result<Plan, Refusal> {
    let _ = std::env::set_current_dir(&source.folder);
    let refuse = |problems| Refusal::new(&source.shown, &source.text, problems);
    let manifest = Manifest::parse(&source.text).map_err(|d| refuse(vec![d]))?;
    plan(&manifest, middlenet_functions::registry(), machine, &Here(source.folder.clone()), traffic).map_err(refuse)
}

/// Prints what is wrong.
pub(super) fn report(refusal: &Refusal) -> Failure {
    let text = if stderr_is_terminal() { refusal.graphical(WIDTH) } else { refusal.plain() };
    let _ = writeln!(std::io::stderr(), "{text}middlenet: {} in the manifest", refusal.summary());
    Failure::reported()
}

pub(super) fn check(path: &Path, json: bool) -> Result<(), Failure> {
    let source = read(path)?;
    let machine = Machine::here();
    match plan_source(&source, &machine, &Traffic::Ports) {
        Ok(plan) if json => print_data(&format!("{:#}\n", plan_json(&plan, &machine))),
        Ok(plan) => print_data(&plan_text(&plan, &machine)),
        Err(refusal) if json => {
            print_data(&format!("{:#}\n", serde_json::json!({ "ok": false, "errors": refusal.placed() })));
            return Err(Failure::reported());
        }
        Err(refusal) => return Err(report(&refusal)),
    }
    Ok(())
}
