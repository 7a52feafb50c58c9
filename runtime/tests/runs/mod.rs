//! Runs of `middlenet` in folders of their own, with data planes that only speak the protocol.

#![allow(dead_code, reason = "not every test binary uses all of it")]

use middlenet_runtime::api::{Client, Request, Response, Status};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Set in the environment of a test binary when it is to be a data plane; the value says how it behaves.
pub(crate) const FAKE: &str = "MIDDLENET_TEST_MANAGER";
/// Where it writes what it is asked.
pub(crate) const JOURNAL: &str = "MIDDLENET_TEST_JOURNAL";

/// A run in a folder of its own. Dropping it ends it.
pub(crate) struct Run {
    pub(crate) folder: PathBuf,
    pub(crate) child: Child,
    pub(crate) name: String,
}

/// Writes a program.
pub(crate) fn write_script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Puts a program where the user of a run finds it: the folders on the way to where it was built may be closed to others.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    // A copy onto a link would write into what is linked.
    assert!(!to.exists(), "{} is there", to.display());
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).unwrap();
    }
}

pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_middlenet"));
    // Root's runs are in /run, others' below this folder.
    command
        .env("XDG_RUNTIME_DIR", folder)
        .env("MIDDLENET_NF_MANAGER", folder.join("manager"))
        .env("MIDDLENET_MESSAGE_BROKER", folder.join("broker"))
        .current_dir(folder);
    command
}

impl Run {
    /// Starts `middlenet run` on this manifest, whose `NAME` is replaced by the run's; `behaviour` is for its data planes.
    pub(crate) fn launch(test: &str, behaviour: &str, manifest: &str) -> Self {
        let name = format!("t{}-{test}", std::process::id());
        let folder = std::env::temp_dir().join(format!("middlenet-{name}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let own = std::env::current_exe().unwrap();
        for (script, main) in [("manager", "fake_manager_main"), ("broker", "fake_broker_main")] {
            let text = format!(
                "#!/bin/sh\n{FAKE}='{behaviour}' {JOURNAL}='{}' exec '{}' --exact {main} --nocapture --quiet\n",
                folder.join("journal").display(),
                own.display()
            );
            write_script(&folder.join(script), &text);
        }
        let describe = r#"{"name":"tag","layer":"l4l7","schema":{"type":"object"}}"#;
        let text = format!(
            "#!/bin/sh\nif [ \"$1\" = --describe ]; then echo '{describe}'; exit 0; fi\n\
             exec ./program --exact message_function_main --nocapture --quiet\n"
        );
        if manifest.contains("./tag") {
            copy_program(&own, &folder.join("program"));
        }
        write_script(&folder.join("tag"), &text);
        fs::write(folder.join("m.yaml"), manifest.replace("NAME", &name)).unwrap();
        let log = fs::File::create(folder.join("log")).unwrap();
        let child =
            command(&folder).args(["run", "m.yaml"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        Self { folder, child: child.unwrap(), name }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        match nix::unistd::geteuid().is_root() {
            true => format!("/run/middlenet/{}.sock", self.name).into(),
            false => self.folder.join(format!("middlenet/{}.sock", self.name)),
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub(crate) fn journal(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join("journal")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn try_status(&self) -> Option<Status> {
        match Client::connect(&self.socket()).ok()?.ask(&Request::Status { reports: true }).ok()? {
            Response::Status(status) => Some(*status),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the status is as wanted.
    pub(crate) fn wait(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.try_status().filter(&wanted) {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "never {what}; the log:\n{}\nstatus: {:#?}",
                self.log(),
                self.try_status()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn running(&self) -> Status {
        self.wait("running", |s| s.state == "running");
        // That answer may have been begun before everybody ran and could be asked.
        self.wait("running", |s| s.state == "running")
    }

    pub(crate) fn ask(&self, request: &Request) -> Response {
        Client::connect(&self.socket()).unwrap().ask(request).unwrap()
    }

    pub(crate) fn apply(&self, manifest: &str) -> Response {
        let manifest = manifest.replace("NAME", &self.name);
        self.ask(&Request::Apply { manifest, folder: self.folder.display().to_string() })
    }

    /// Waits for the end of `middlenet run`.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end; the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
        let socket = self.socket();
        let _ = fs::remove_file(&socket);
        let _ = fs::remove_file(socket.with_extension("lock"));
        let _ = fs::remove_file(socket.with_extension("json"));
    }
}

pub(crate) fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

pub(crate) fn is_alive(pid: u32) -> bool {
    // A process that ended but was not reaped by whoever inherited it counts as gone.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next()).is_some_and(|state| state != 'Z')
}

pub(crate) fn pids(status: &Status) -> Vec<u32> {
    status.functions.iter().filter_map(|f| f.process.pid).collect()
}

/// For how many milliseconds a function that was killed as hung had been silent: at least what the manifest allows; a busy host
/// looks later.
pub(crate) fn silence_told(reason: &str) -> u64 {
    let told = reason.strip_prefix("hung: no sign of life for ").and_then(|rest| rest.strip_suffix(" ms"));
    told.and_then(|ms| ms.parse().ok()).unwrap_or_else(|| panic!("{reason}"))
}
