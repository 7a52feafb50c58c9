//! `middlenet run`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use middlenet_plan::PortKind;
use middlenet_sriov::PciAddress;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::check::{plan_source, read, report};
use super::{Failure, binaries, devices, print_data};
use crate::api::Status;
use crate::check::{Captures, Traffic};
use crate::doctor::{LOW_PORTS, first_free_port};
use crate::domain;
use crate::kernel_port::{KernelPorts, exists};
use crate::machine::Machine;
use crate::plan::{Plan, Plane};
use crate::render::{Rates, requests_line, status_json, summary_text};
use crate::run_folder::{RunFolder, Traces};
use crate::supervisor::{Setup, Supervisor, Taken, log};

/// Lets the run have as many descriptors as the host allows: the usual 1024 are for programs that ask with select(2).
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Without more, the run has those that it has.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

pub(super) fn run(path: &Path, pcap: &[String], write: &[String], json: bool) -> Result<(), Failure> {
    raise_descriptor_limit();
    let source = read(path)?;
    let manifest = absolute(path).display().to_string();
    let machine = Machine::here();
    let traffic = if pcap.is_empty() {
        Traffic::Ports
    } else {
        Traffic::Captures(Captures { read: by_port(pcap), write: by_port(write) })
    };
    let mut plan = plan_source(&source, &machine, &traffic).map_err(|refusal| report(&refusal))?;
    for plane in plan.planes() {
        let path = binaries::of(plane);
        if !path.is_file() {
            let hint = format!("install it beside `middlenet`, or name it in {}", binaries::variable(plane));
            return Err(Failure::new(format!("the {} is not there: {}", plane.process(), path.display()), Some(hint)));
        }
    }
    let over_captures = traffic != Traffic::Ports;
    // Its user is the run's until this function returns.
    let domain = domain::settle(&mut plan).map_err(|e| Failure::new(e.to_string(), Some(e.hint())))?;
    let taken = if over_captures {
        check_files(&plan)?;
        Taken::default()
    } else {
        check_files(&plan)?;
        check_privileges(&mut plan)?;
        take_host(&plan, &manifest)?
    };
    for note in &plan.runtime.notes {
        log(format_args!("note: {note}"));
    }
    let setup = Setup {
        manifest,
        middlenet: binaries::middlenet(),
        manager: binaries::of(Plane::Packets),
        broker: binaries::of(Plane::Messages),
        machine,
        taken,
        user: domain.user,
    };
    let outcome =
        Supervisor::new(plan, setup).and_then(Supervisor::run).map_err(|e| Failure::new(e.message, e.hint))?;
    if over_captures {
        let text = if json {
            format!("{:#}\n", status_json(&outcome.status, &Rates::default()))
        } else {
            summary_text(&outcome.status)
        };
        print_data(&text);
    } else {
        balance(&outcome.status);
    }
    if outcome.cut_short {
        return Err(Failure { message: "stopped at once, without draining".into(), hint: None, code: 130 });
    }
    Ok(())
}

/// What became of everything that was received.
fn balance(status: &Status) {
    if let Some(stats) = &status.data_plane {
        let c = &stats.conservation;
        log(format_args!(
            "stopped: {} received + {} made = {} sent + {} dropped + {} held",
            c.received_pkts, c.originated_pkts, c.sent_pkts, c.dropped_pkts, c.held_pkts
        ));
    }
    if let Some(messages) = &status.messages {
        log(format_args!("stopped: {}", requests_line(messages)));
    }
}

/// `PORT=FILE` or `FILE`.
fn by_port(arguments: &[String]) -> Vec<(Option<String>, PathBuf)> {
    let split = |argument: &String| match argument.split_once('=') {
        Some((port, file)) if !port.contains('/') => (Some(port.to_owned()), absolute(Path::new(file))),
        _ => (None, absolute(Path::new(argument))),
    };
    arguments.iter().map(split).collect()
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

/// Whether the files, interfaces and devices that the plan names are there.
fn check_files(plan: &Plan) -> Result<(), Failure> {
    let made = |interface: &str| plan.runtime.kernel_ports.iter().any(|k| k.inner == interface);
    for port in plan.manager.iter().flat_map(|m| &m.ports) {
        let name = &port.name;
        match &port.kind {
            PortKind::Pcap { read: Some(path), .. } => {
                if let Err(e) = std::fs::File::open(path) {
                    let hint = (e.kind() == ErrorKind::NotFound).then(|| "correct the path of the capture".to_owned());
                    return Err(Failure::new(format!("port `{name}`: cannot read {path}: {e}"), hint));
                }
            }
            PortKind::Xdp { interface, .. } if !made(interface) && !exists(interface) => {
                let message = format!("port `{name}`: this host has no interface `{interface}`");
                return Err(Failure::new(message, Some("`middlenet ports` lists those it has".into())));
            }
            PortKind::Dpdk { device } => {
                let missing =
                    |address: &PciAddress| !Path::new("/sys/bus/pci/devices").join(address.to_string()).exists();
                if let Some(address) = devices::pci(device).filter(missing) {
                    let message = format!("port `{name}`: this host has no PCI device {address}");
                    return Err(Failure::new(message, Some("`middlenet ports` lists those it has".into())));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Root may do everything; others run what needs nothing of the kernel.
fn check_privileges(plan: &mut Plan) -> Result<(), Failure> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    check_low_ports(plan)?;
    if !plan.runtime.vfs.is_empty() {
        let hint =
            "run it with sudo, or try its chains on a capture: `middlenet run --pcap in.pcap --write out.pcap ...`";
        return Err(Failure::new("making virtual functions needs root", Some(hint.into())));
    }
    for port in plan.manager.iter().flat_map(|m| &m.ports) {
        let needs = match &port.kind {
            PortKind::Xdp { .. } => "AF_XDP",
            PortKind::Dpdk { device } if devices::pci(device).is_some() => "a PCI device",
            _ => continue,
        };
        let message = format!("port `{}` needs root: it is {needs}", port.name);
        let hint =
            "run it with sudo, or try the chain on a capture: `middlenet run --pcap in.pcap --write out.pcap ...`";
        return Err(Failure::new(message, Some(hint.into())));
    }
    if let Some(manager) = &mut plan.manager {
        manager.unprivileged = true;
    }
    Ok(())
}

/// Whether the kernel lets others than root listen there.
fn check_low_ports(plan: &Plan) -> Result<(), Failure> {
    let first = first_free_port();
    for chain in plan.broker.iter().flat_map(|b| &b.chains) {
        if let Some(address) = chain.listen.iter().find(|a| a.port() != 0 && a.port() < first) {
            let message = format!("chain `{}`: only root may listen on {address}", chain.name);
            let hint =
                format!("run it with sudo, take a port from {first} on, or `sysctl -w {LOW_PORTS}={}`", address.port());
            return Err(Failure::new(message, Some(hint)));
        }
    }
    Ok(())
}

/// Takes the run's name and devices, cleans up after a crash, and makes VFs and interfaces: the first things that change the host.
fn take_host(plan: &Plan, manifest: &str) -> Result<Taken, Failure> {
    let name = &plan.name;
    let (folder, stale) = RunFolder::take(name).map_err(|e| {
        let hint = match &e {
            crate::run_folder::FolderError::Taken { .. } => {
                Some(format!("`middlenet status {name}` shows it, `middlenet stop {name}` ends it"))
            }
            _ => None,
        };
        Failure::new(e.to_string(), hint)
    })?;
    if let Some(stale) = stale.filter(|t| !t.interfaces.is_empty()) {
        log(format_args!("removing what process {} left: {}", stale.pid, stale.interfaces.join(", ")));
        KernelPorts::remove_stale(&stale.interfaces);
    }
    let mut taken = Taken::default();
    taken.folder = Some(folder);
    taken.claims = devices::claim(plan, &devices::record(name))?;
    for port in &plan.runtime.kernel_ports {
        for interface in [&port.interface, &port.inner] {
            if exists(interface) {
                let message = format!("the interface `{interface}` is there already");
                return Err(Failure::new(message, Some("choose another name for the kernel port's interface".into())));
            }
        }
    }
    let interfaces = plan.runtime.kernel_ports.iter().map(|k| k.inner.clone()).collect();
    let traces = Traces { pid: std::process::id(), manifest: manifest.into(), interfaces };
    let recorded = taken.folder.as_ref().map_or(Ok(()), |folder| folder.record(&traces));
    recorded.map_err(|e| Failure::new(format!("cannot record the run: {e}"), None))?;
    taken.vfs = devices::make_vfs(plan, &devices::record(name))?;
    taken.kernel_ports = KernelPorts::create(&plan.runtime.kernel_ports).map_err(|e| {
        let hint = match &e {
            crate::kernel_port::KernelPortError::Missing { package, .. } => Some(format!("apt install {package}")),
            crate::kernel_port::KernelPortError::Refused { .. } => None,
        };
        Failure::new(e.to_string(), hint)
    })?;
    Ok(taken)
}
