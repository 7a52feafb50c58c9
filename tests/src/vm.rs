//! A virtual machine whose network card has virtual functions, for tests of SR-IOV on a host without such a card.
//!
//! ```text
//!   guest: Debian's kernel on this host's own files        | outside: namespaces of this host
//!                                                          |
//!   igb PF --+-- VF 0   vfio-pci, DPDK                     |   host eth0 ==== relay
//!            +-- VF 1   igbvf, the kernel's stack          |                    |
//!            +----------------- the wire ------------------+--- one datagram a frame
//! ```
//!
//! The guest's root is this host's, read-only below a layer in memory, so every program of the workspace runs there as it
//! was built here. What runs in it is told by the [`agent`](crate::vm::serve) over a serial line.

mod agent;
mod monitor;
mod outside;

pub use agent::serve;
pub use outside::Outside;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::{Error, Process, Scratch, wait_until};
use monitor::Monitor;

/// How long a guest may take to its first word. On a busy host an emulated machine now and then stands still while it
/// boots; it is then started anew.
const BOOT: Duration = Duration::from_secs(40);
/// How often it is started.
const BOOTS: usize = 3;
/// How long an answer may take beyond what the asked-for command may.
const ANSWER: Duration = Duration::from_secs(20);
/// MiB of the guest, 2 MiB pages reserved in it, and its processors.
const MEMORY_MIB: u32 = 1280;
const HUGE_PAGES: u32 = 192;
const PROCESSORS: u32 = 2;

/// The address of the card's physical function.
pub const PF_MAC: &str = "52:54:00:aa:00:00";

/// What a command in the guest left.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its exit status; nothing while it runs, or if a signal ended it.
    pub status: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A running guest. Dropping it ends it.
#[derive(Debug)]
pub struct Vm {
    agent: BufReader<UnixStream>,
    monitor: Monitor,
    qemu: Process,
    scratch: Scratch,
}

impl Vm {
    /// Boots a guest from `vmlinuz` and `initrd.gz` in `image`, as `cargo xtask setup --sriov` makes them, and waits until
    /// `agent`, a program of this host, answers in it. The wire of its card is `outside`'s.
    ///
    /// # Errors
    ///
    /// [`Error::Vm`] with what the guest wrote to its console if it does not come up.
    pub fn boot(image: &Path, agent: &Path, outside: &Outside) -> Result<Self, Error> {
        let mut boots = 1;
        loop {
            match Self::boot_once(image, agent, outside) {
                Err(error) if boots < BOOTS => eprintln!("boot {boots} of {BOOTS}: {error}"),
                result => return result,
            }
            boots += 1;
        }
    }

    fn boot_once(image: &Path, agent: &Path, outside: &Outside) -> Result<Self, Error> {
        let scratch = Scratch::new()?;
        let [console, serial, monitor] = ["console", "serial", "monitor"].map(|name| scratch.file(name));
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-nodefaults",
            "-no-user-config",
        ]);
        command.args([
            "-display",
            "none",
            "-no-reboot",
            "-smp",
            &PROCESSORS.to_string(),
            "-m",
            &MEMORY_MIB.to_string(),
        ]);
        command.args(["-device", "intel-iommu,intremap=on,caching-mode=on"]);
        command.arg("-kernel").arg(image.join("vmlinuz")).arg("-initrd").arg(image.join("initrd.gz"));
        // A timer of an emulated processor now and then misses its only shot, which leaves that processor asleep for good:
        // periodic ticks come again.
        command.arg("-append").arg(format!(
            "console=ttyS0 panic=-1 loglevel=4 mitigations=off nokaslr audit=0 nohz=off highres=off intel_iommu=on \
             iommu=pt hugepages={HUGE_PAGES} agent={}",
            agent.display()
        ));
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.arg("-serial").arg(format!("unix:{},server=on,wait=off", serial.display()));
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", monitor.display()));
        command.args(["-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"]);
        command.args(["-device", "virtio-9p-pci,fsdev=root,mount_tag=root"]);
        command.args(["-device", "pcie-root-port,id=slot1,bus=pcie.0,chassis=1,slot=1"]);
        command.arg("-netdev").arg(outside.netdev("wire"));
        command.arg("-device").arg(format!("igb,bus=slot1,netdev=wire,mac={PF_MAC},romfile="));
        let mut qemu = Process::spawn(&mut command)?;
        let connect = |qemu: &mut Process, path: &Path| {
            let mut stream = None;
            let waited = wait_until("QEMU's socket", Duration::from_secs(20), || {
                stream = UnixStream::connect(path).ok();
                stream.is_some() || !qemu.is_running()
            });
            match (waited, stream) {
                (Ok(()), Some(stream)) => Ok(stream),
                (Err(error), _) => Err(error),
                (Ok(()), None) => Err(Error::Vm { what: format!("QEMU ended: {}", qemu.stderr()) }),
            }
        };
        let agent = BufReader::new(connect(&mut qemu, &serial)?);
        let monitor = Monitor::new(connect(&mut qemu, &monitor)?)?;
        let mut vm = Self { agent, monitor, qemu, scratch };
        match vm.answer(BOOT) {
            Ok(_) => Ok(vm),
            Err(error) => Err(Error::Vm { what: format!("{error}; its console:\n{}", vm.console()) }),
        }
    }

    /// What the guest's kernel has written.
    #[must_use]
    pub fn console(&self) -> String {
        let text = std::fs::read(self.scratch.file("console")).unwrap_or_default();
        format!("{}{}", self.qemu.stderr(), String::from_utf8_lossy(&text))
    }

    /// Runs a program in the guest to its end.
    ///
    /// # Errors
    ///
    /// [`Error::Vm`] if it cannot be started, has not ended after `deadline`, or the guest does not answer.
    pub fn run(&mut self, command: &[&str], deadline: Duration) -> Result<Ended, Error> {
        let ask = json!({ "run": { "command": command, "seconds": deadline.as_secs() } });
        self.ask(&ask, deadline).and_then(|answer| ended(&answer))
    }

    /// Runs a shell script in the guest, and wants success; returns its output without the last line's end.
    ///
    /// # Errors
    ///
    /// As [`Vm::run`], and with what it wrote to its standard error if it fails.
    pub fn sh(&mut self, script: &str) -> Result<String, Error> {
        let ended = self.run(&["sh", "-ec", script], Duration::from_secs(30))?;
        match ended.status {
            Some(0) => Ok(ended.stdout.trim_end().to_owned()),
            _ => Err(Error::Vm { what: format!("`{script}` fails: {}{}", ended.stdout, ended.stderr) }),
        }
    }

    /// Starts a program in the guest; returns its pid. It ends with the guest at the latest.
    ///
    /// # Errors
    ///
    /// As [`Vm::run`].
    pub fn spawn(&mut self, command: &[&str]) -> Result<u32, Error> {
        let answer = self.ask(&json!({ "spawn": { "command": command } }), Duration::ZERO)?;
        let pid = answer["pid"].as_u64().and_then(|pid| pid.try_into().ok());
        pid.ok_or_else(|| Error::Vm { what: format!("{answer} has no pid") })
    }

    /// What a spawned program has written so far, and whether it has ended.
    ///
    /// # Errors
    ///
    /// As [`Vm::run`].
    pub fn look(&mut self, pid: u32) -> Result<Ended, Error> {
        self.ask(&json!({ "look": { "pid": pid } }), Duration::ZERO).and_then(|answer| ended(&answer))
    }

    /// Plugs the card's wire in, or out.
    ///
    /// # Errors
    ///
    /// [`Error::Vm`] if QEMU does not.
    pub fn set_wire(&mut self, plugged: bool) -> Result<(), Error> {
        self.monitor.ask("set_link", &json!({ "name": "wire", "up": plugged })).map(drop)
    }

    fn ask(&mut self, ask: &Value, time: Duration) -> Result<Value, Error> {
        let line = format!("{ask}\n");
        let sent = self.agent.get_mut().write_all(line.as_bytes());
        sent.map_err(|error| Error::Vm { what: format!("the guest cannot be asked: {error}") })?;
        let answer = self.answer(time + ANSWER);
        let answer = answer.map_err(|error| Error::Vm { what: format!("{ask}: {error}") })?;
        match answer["error"].as_str() {
            None => Ok(answer),
            Some(error) => Err(Error::Vm { what: format!("{ask}: {error}") }),
        }
    }

    fn answer(&mut self, patience: Duration) -> Result<Value, std::io::Error> {
        self.agent.get_ref().set_read_timeout(Some(patience))?;
        let mut line = String::new();
        self.agent.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

fn ended(answer: &Value) -> Result<Ended, Error> {
    let text = |key: &str| answer[key].as_str().map(str::to_owned);
    match (text("stdout"), text("stderr")) {
        (Some(stdout), Some(stderr)) => {
            let status = answer["status"].as_i64().and_then(|status| status.try_into().ok());
            Ok(Ended { status, stdout, stderr })
        }
        _ => Err(Error::Vm { what: format!("{answer} is no account of a program") }),
    }
}
