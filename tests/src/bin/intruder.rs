//! A function that tries to reach what is not its own, and reports how each attempt ended. As a program of its own, `intruder
//! TARGETS` tries the same without being confined, so that a test sees that the attempts are real.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use libbpf_rs::libbpf_sys::bpf_map_create_opts;
use libbpf_rs::{MapCore, MapHandle, MapType, ProgramType};
use middlenet_sdk::fast_path::Flow;
use middlenet_sdk::prelude::*;
use middlenet_sdk::serde_json::{self, Value, json};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::sys::{ptrace, wait::WaitStatus};
use nix::unistd::{Gid, Pid, Uid, chroot, ftruncate, setgroups, setuid};
use rustix::net::{AddressFamily, Protocol, SocketType, ipproto, socket};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// What to reach for. Nothing at first: processes are known only when they run.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Processes by what they are.
    processes: BTreeMap<String, i32>,
    /// Sockets with a path.
    sockets: Vec<PathBuf>,
    /// Sockets with a name that is in no file system.
    abstract_sockets: Vec<String>,
    /// Files to read, and folders to list.
    files: Vec<PathBuf>,
    /// BPF maps.
    maps: Vec<u32>,
    /// A folder that all may write to.
    scratch: Option<PathBuf>,
}

struct Intruder {
    report: Value,
    fast_path: FastPath,
}

impl NetworkFunction for Intruder {
    type Config = Config;

    const FAST_PATH: Shape = Shape::of(&[Mode::Reactive]).flows(16);

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        // Long work in `new` is harmless: packets go on through the instance before.
        let report = if config.processes.is_empty() { Value::Null } else { attempts(&config) };
        Ok(Self { report, fast_path: init.fast_path() })
    }

    fn process(&mut self, _: &mut Burst<'_>) {}

    /// What it may do: a rule goes into its own fast path, and is found there.
    fn tick(&mut self, _: &mut Burst<'_>) {
        let address = |last| std::net::IpAddr::from([192, 0, 2, last]);
        let flow = Flow { vlan: 0, src: address(1), dst: address(2), protocol: 6, src_port: 1, dst_port: 2 };
        if !self.fast_path.is_active() || self.report.is_null() {
            return;
        }
        let found = self.fast_path.query(&flow).is_some();
        self.report["use its own maps"] = json!(if found { "done" } else { "waits" });
        let (action, lifetime) = (Action::default(), Duration::from_secs(60));
        self.fast_path.install(&flow, &FlowRule { action, lifetime, idle: None, ends: Ends::Ignored });
    }

    fn report(&self) -> Value {
        self.report.clone()
    }
}

fn main() -> ExitCode {
    match std::env::args().nth(1).filter(|a| a.starts_with('{')) {
        Some(targets) => match serde_json::from_str(&targets) {
            Ok(config) => {
                println!("{}", attempts(&config));
                ExitCode::SUCCESS
            }
            Err(e) => {
                eprintln!("{e}");
                ExitCode::FAILURE
            }
        },
        None => middlenet_sdk::host::main(&middlenet_sdk::registration_of::<Intruder, _>()),
    }
}

/// Tries everything. Each attempt is `done`, `refused` (EPERM or EACCES), or says what else came in its way.
fn attempts(config: &Config) -> Value {
    let mut tried = Tried::default();
    for (who, &pid) in &config.processes {
        on_process(&mut tried, who, pid);
    }
    for path in &config.sockets {
        tried.attempt(format!("connect to {}", path.display()), || UnixStream::connect(path));
    }
    for name in &config.abstract_sockets {
        tried.attempt(format!("connect to @{name}"), || {
            UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)
        });
    }
    for path in &config.files {
        tried.attempt(format!("read {}", path.display()), || match fs::metadata(path)?.is_dir() {
            true => fs::read_dir(path).map(drop),
            false => fs::read(path).map(drop),
        });
    }
    for &id in &config.maps {
        tried.attempt(format!("open map {id}"), || {
            let map = MapHandle::from_map_id(id).map_err(|e| io::Error::new(kind(&e), e.to_string()))?;
            // Its name shows that it is one.
            Ok(map.name().to_owned())
        });
    }
    if let Some(scratch) = &config.scratch {
        tried.attempt("make a file", || File::create_new(scratch.join("made")));
    }
    on_system(&mut tried);
    json!(tried.0)
}

fn kind(error: &libbpf_rs::Error) -> io::ErrorKind {
    match error.kind() {
        libbpf_rs::ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    }
}

#[derive(Default)]
struct Tried(BTreeMap<String, String>);

impl Tried {
    fn attempt<T>(&mut self, what: impl Into<String>, attempt: impl FnOnce() -> io::Result<T>) {
        let outcome = match attempt() {
            Ok(_) => "done".to_owned(),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => "refused".to_owned(),
            Err(e) => format!("failed: {e}"),
        };
        self.0.insert(what.into(), outcome);
    }
}

fn on_process(tried: &mut Tried, who: &str, number: i32) {
    let pid = Pid::from_raw(number);
    let proc = |file: &str| format!("/proc/{number}/{file}");
    tried.attempt(format!("{who}: open memory"), || File::options().read(true).write(true).open(proc("mem")));
    tried.attempt(format!("{who}: read maps"), || fs::read_to_string(proc("maps")));
    tried.attempt(format!("{who}: read environment"), || fs::read(proc("environ")));
    tried.attempt(format!("{who}: open descriptors"), || {
        let mut last = io::ErrorKind::NotFound.into();
        for entry in fs::read_dir(proc("fd"))? {
            match File::open(entry?.path()) {
                Ok(file) => return Ok(file),
                Err(e) => last = e,
            }
        }
        Err(last)
    });
    let open = || pidfd_open(rustix::process::Pid::from_raw(number).expect("a process id"), PidfdFlags::empty());
    tried.attempt(format!("{who}: pidfd"), || Ok(open()?));
    tried.attempt(format!("{who}: take descriptor"), || Ok(pidfd_getfd(&open()?, 0, PidfdGetfdFlags::empty())?));
    tried.attempt(format!("{who}: read its memory"), || {
        let maps = fs::read_to_string(proc("maps")).unwrap_or_default();
        let first = maps.split('-').next().and_then(|a| usize::from_str_radix(a, 16).ok());
        let mut bytes = [0; 8];
        let remote = RemoteIoVec { base: first.unwrap_or(0x40_0000), len: bytes.len() };
        Ok(process_vm_readv(pid, &mut [IoSliceMut::new(&mut bytes)], &[remote])?)
    });
    tried.attempt(format!("{who}: signal"), || Ok(kill(pid, Signal::SIGCONT)?));
    tried.attempt(format!("{who}: trace"), || {
        ptrace::attach(pid)?;
        let stopped = waitpid(pid, Some(WaitPidFlag::__WALL))?;
        assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
        Ok(ptrace::detach(pid, None)?)
    });
}

fn on_system(tried: &mut Tried) {
    let raw = Some(ipproto::ICMP);
    let sockets: [(&str, AddressFamily, SocketType, Option<Protocol>); 8] = [
        ("TCP", AddressFamily::INET, SocketType::STREAM, None),
        ("UDP", AddressFamily::INET6, SocketType::DGRAM, None),
        ("raw", AddressFamily::INET, SocketType::RAW, raw),
        ("packet", AddressFamily::PACKET, SocketType::RAW, None),
        ("netlink", AddressFamily::NETLINK, SocketType::RAW, None),
        ("AF_XDP", AddressFamily::XDP, SocketType::RAW, None),
        ("local stream", AddressFamily::UNIX, SocketType::STREAM, None),
        ("local datagram", AddressFamily::UNIX, SocketType::DGRAM, None),
    ];
    for (what, family, kind, protocol) in sockets {
        tried.attempt(format!("{what} socket"), || Ok(socket(family, kind, protocol)?));
    }
    tried.attempt("punch a hole", || {
        let memory = memfd_create("hole", MFdFlags::MFD_CLOEXEC)?;
        ftruncate(&memory, 1 << 20)?;
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(memory.as_fd(), hole, 0, 4096)?)
    });
    tried.attempt("make a BPF map", || {
        let options = bpf_map_create_opts { sz: size_of::<bpf_map_create_opts>() as u64, ..Default::default() };
        MapHandle::create(MapType::Array, Some("intruder"), 4, 4, 1, &options)
            .map_err(|e| io::Error::new(kind(&e), e.to_string()))
    });
    tried.attempt("load a BPF program", || match ProgramType::SocketFilter.is_supported() {
        Ok(true) => Ok(()),
        // The library tells of a refusal as of a kind that is not supported.
        Ok(false) => Err(io::ErrorKind::PermissionDenied.into()),
        Err(e) => Err(io::Error::new(kind(&e), e.to_string())),
    });
    tried.attempt("run a program", || Command::new("/bin/true").status());
    tried.attempt("read /etc/passwd", || fs::read("/etc/passwd"));
    tried.attempt("become root", || Ok(setuid(Uid::from_raw(0))?));
    tried.attempt("join groups", || Ok(setgroups(&[Gid::from_raw(0)])?));
    tried.attempt("enter a namespace", || {
        let own = File::open("/proc/self/ns/net")?;
        Ok(setns(own, CloneFlags::CLONE_NEWNET)?)
    });
    // From here on the process is elsewhere, where it succeeds.
    tried.attempt("make a mount namespace", || Ok(unshare(CloneFlags::CLONE_NEWNS)?));
    tried.attempt("mount", || {
        let nothing = None::<&str>;
        Ok(mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?)
    });
    tried.attempt("make a network namespace", || Ok(unshare(CloneFlags::CLONE_NEWNET)?));
    tried.attempt("change root", || Ok(chroot("/")?));
    tried.attempt("make a user namespace", || Ok(unshare(CloneFlags::CLONE_NEWUSER)?));
}
