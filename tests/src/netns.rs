//! Network namespaces as hosts.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::run;
use crate::{Error, Output, Process, name};

const NAMED: &str = "/run/netns";

/// The longest that one configuring command, or one [`Netns::exec`], may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// A network namespace with its loopback up. Dropping it kills what runs inside and removes it with its interfaces.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace named `mn-PREFIX-PID-N`, which no other test has.
    ///
    /// The first call in a process also removes what tests that no longer run left behind.
    ///
    /// # Errors
    ///
    /// If `ip netns` fails, which it does without `CAP_SYS_ADMIN`: see [`crate::require_root!`].
    pub fn new(prefix: &str) -> Result<Self, Error> {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(remove_stale);
        let name = format!("mn-{prefix}-{}-{}", std::process::id(), name::next());
        ip(["netns", "add", &name])?;
        let netns = Self { name };
        netns.exec("ip", ["link", "set", "dev", "lo", "up"])?;
        Ok(netns)
    }

    /// The name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NAMED).join(&self.name)
    }

    /// A command that will run inside, as `ip netns exec` runs it.
    ///
    /// The program sees a `/sys` of its own, with this namespace's devices; nothing is mounted below it, so `/sys/fs/bpf`
    /// and `/sys/fs/cgroup` are empty. A program that needs those is run by [`Netns::command_with_host_mounts`].
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// A command that will run inside but with the mounts of the host: `/sys/fs/bpf` is there, `/sys/class/net` shows the
    /// host's devices.
    pub fn command_with_host_mounts(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a program inside to its end, at most a minute, and wants success.
    ///
    /// # Errors
    ///
    /// [`Error::Start`], [`Error::TimedOut`], or [`Error::Failed`] with what it wrote to its standard error.
    pub fn exec<I, S>(&self, program: &str, arguments: I) -> Result<Output, Error>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        run(self.command(program).args(arguments), COMMAND_DEADLINE)
    }

    /// Starts a program inside; the guard kills and reaps it when dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if it cannot be started.
    pub fn spawn<I, S>(&self, program: impl AsRef<OsStr>, arguments: I) -> Result<Process, Error>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Process::spawn(self.command(program).args(arguments))
    }

    /// Calls `work` on a new thread that is inside the namespace: sockets it opens belong there, wherever they are used.
    ///
    /// A panic of `work` goes on in the caller.
    ///
    /// # Errors
    ///
    /// [`Error::File`] or [`Error::Enter`] if the namespace cannot be entered; `work` is then not called.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let path = self.path();
        let namespace = File::open(&path).map_err(|source| Error::File { path, source })?;
        let result = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&namespace, CloneFlags::CLONE_NEWNET)
                        .map_err(|errno| Error::Enter { name: self.name.clone(), source: errno.into() })?;
                    Ok(work())
                })
                .join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The hardware address of a device inside, such as `02:00:00:00:00:01`.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] if there is no such device.
    pub fn mac(&self, device: &str) -> Result<String, Error> {
        Ok(self.exec("cat", [format!("/sys/class/net/{device}/address")])?.stdout.trim().to_owned())
    }

    /// One of the kernel's counters of a device inside, such as `rx_packets` or `tx_dropped`.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] if there is no such device or counter.
    pub fn statistic(&self, device: &str, counter: &str) -> Result<u64, Error> {
        let path = format!("/sys/class/net/{device}/statistics/{counter}");
        let text = self.exec("cat", [&path])?.stdout;
        text.trim().parse().map_err(|error| Error::File {
            path: PathBuf::from(path),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
        })
    }

    /// Sends one packet at a time to `address` until one is answered, at most for `deadline`.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] if none is.
    pub fn wait_for_ping(&self, address: &str, deadline: Duration) -> Result<(), Error> {
        let what = format!("an answer from {address} to {}", self.name);
        crate::wait_until(&what, deadline, || self.exec("ping", ["-n", "-c", "1", "-W", "1", address]).is_ok())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("network namespace {} stays: {error}", self.name);
        }
    }
}

/// Runs `ip` on the host.
pub(crate) fn ip<I, S>(arguments: I) -> Result<Output, Error>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    run(Command::new("ip").args(arguments), COMMAND_DEADLINE)
}

/// Kills by pid what runs in the namespace, which is all ours, and removes it.
fn remove(name: &str) -> Result<(), Error> {
    for pid in ip(["netns", "pids", name])?.stdout.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        // A test that entered the namespace with a thread of its own must not kill itself.
        if pid != std::process::id().cast_signed() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    ip(["netns", "del", name]).map(drop)
}

/// Removes namespaces and devices whose owner is dead. Another test may do the same at this moment, so failure is no news.
fn remove_stale() {
    let is_stale = |pid: Option<u32>| pid.is_some_and(|pid| !name::is_alive(pid));
    for name in names_in(Path::new(NAMED)).filter(|name| is_stale(name::namespace_owner(name))) {
        let _ = remove(&name);
    }
    for name in names_in(Path::new("/sys/class/net")).filter(|name| is_stale(name::device_owner(name))) {
        let _ = ip(["link", "del", "dev", &name]);
    }
}

fn names_in(directory: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(directory).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}
