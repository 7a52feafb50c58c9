//! Other programs: where the data planes are, and what external functions say of themselves.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use crate::confine::{self, Confinement};
use crate::domain::{self, Ids};
use crate::machine::{Description, Surroundings};
use crate::plan::{Plane, Program};
use middlenet_fast_path::Shape;
use middlenet_sdk::Layer;
use middlenet_sriov::Inventory;

/// The manager's binary, and what names it if it is not beside ours.
const MANAGER: (&str, &str) = ("middlenet-nf-manager", "MIDDLENET_NF_MANAGER");
/// The same for the broker.
const BROKER: (&str, &str) = ("middlenet-message-broker", "MIDDLENET_MESSAGE_BROKER");
/// How long an external function may take to describe itself.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest description in bytes.
const DESCRIPTION_BYTES: u64 = 4 << 20;

/// This binary.
pub(super) fn middlenet() -> PathBuf {
    // The link of our own process works even when the file has been replaced.
    std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into())
}

/// The manager's binary.
pub(super) fn manager() -> PathBuf {
    beside_or_named(MANAGER)
}

/// The broker's binary.
pub(super) fn broker() -> PathBuf {
    beside_or_named(BROKER)
}

/// A data plane's binary.
pub(super) fn of(plane: Plane) -> PathBuf {
    match plane {
        Plane::Packets => manager(),
        Plane::Messages => broker(),
    }
}

/// What names a data plane's binary elsewhere.
pub(super) fn variable(plane: Plane) -> &'static str {
    match plane {
        Plane::Packets => MANAGER.1,
        Plane::Messages => BROKER.1,
    }
}

/// Where the variable says, or beside ours.
fn beside_or_named((name, variable): (&str, &str)) -> PathBuf {
    match std::env::var_os(variable).filter(|p| !p.is_empty()) {
        Some(path) => std::path::absolute(&path).unwrap_or_else(|_| path.into()),
        None => middlenet().parent().map_or_else(|| name.into(), |folder| folder.join(name)),
    }
}

/// This host, with a manifest's folder.
pub(super) struct Here(pub(super) PathBuf);

impl Surroundings for Here {
    fn folder(&self) -> &Path {
        &self.0
    }

    fn user(&self, user: &str) -> Option<Ids> {
        crate::machine::user(user)
    }

    fn describe(&self, program: &Path) -> Result<Description, (String, Option<String>)> {
        let shown = program.display();
        let Ok(metadata) = std::fs::metadata(program) else {
            let hint = match program.strip_prefix(&self.0) {
                Ok(inner) if inner.exists() => {
                    "paths begin at the manifest's folder, not at the working directory".to_owned()
                }
                _ => "build it, or correct the path; paths begin at the manifest's folder".to_owned(),
            };
            return Err((format!("{shown} is not there"), Some(hint)));
        };
        if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
            return Err((format!("{shown} is no program"), Some(format!("name a binary, or `chmod +x {shown}`"))));
        }
        let answer = describe(program).map_err(|reason| {
            let hint = "it must be a function made with `middlenet_sdk::main!`";
            (format!("{shown} does not answer `--describe`: {reason}"), Some(hint.to_owned()))
        })?;
        let name = answer["name"].as_str().unwrap_or_default().to_owned();
        // Functions of packets are older than the word.
        let layer = answer["layer"].as_str().map_or(Some(Layer::L2l3), Layer::named);
        // Functions that have none, or are older than the word, do not say it.
        let fast_path = serde_json::from_value(answer["fast_path"].clone()).unwrap_or(Shape::NONE);
        Ok(Description { name, layer, schema: answer["schema"].clone(), fast_path: Some(fast_path) })
    }

    fn network(&self) -> Option<Inventory> {
        middlenet_sriov::discover(&middlenet_sriov::Linux).ok()
    }
}

fn describe(program: &Path) -> Result<serde_json::Value, String> {
    // What it does then, it does as confined as later.
    let confinement = Confinement { user: domain::of_descriptions(), ..Confinement::default() };
    let mut child = confine::command(&middlenet(), &Program::External(program.into()), &confinement)
        .map_err(|e| e.to_string())?
        .arg("--describe")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|e| e.to_string())?;
    let stdout = child.stdout.take();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stdout.map(|out| out.take(DESCRIPTION_BYTES).read_to_end(&mut bytes));
        let _ = sender.send(read.map(|_| bytes));
    });
    let bytes = receiver.recv_timeout(PATIENCE);
    let _ = child.kill();
    let _ = child.wait();
    let bytes = bytes.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?.unwrap_or_default();
    let answer: serde_json::Value = serde_json::from_slice(&bytes).map_err(|_| "the answer is not JSON".to_owned())?;
    if answer["schema"].is_object() || answer["schema"].is_boolean() {
        Ok(answer)
    } else {
        Err("the answer has no schema".into())
    }
}
