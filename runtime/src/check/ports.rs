//! Ports: what each is, and which chain it belongs to.

use middlenet_plan::{PortKind, PortPlan};
use std::collections::HashMap;
use std::path::Path;

use super::{Captures, Checker, Traffic, Wired};
use crate::diagnostic::{Diagnostic, did_you_mean, one_of};
use crate::machine::resolve;
use crate::manifest::{DpdkForm, Port, PortForm, XdpForm};
use crate::plan::KernelPort;

/// Ports of a run.
const PORT_LIMIT: usize = 32;
/// Characters of an interface's name (IFNAMSIZ less its end).
pub(super) const INTERFACE_CHARACTERS: usize = 15;

impl<'a> Checker<'a> {
    pub(super) fn ports(&mut self, kernel_ports: &mut Vec<KernelPort>) -> Vec<PortPlan> {
        let manifest = self.manifest;
        if manifest.ports.len() > PORT_LIMIT {
            let message = format!("{} ports, but a run has at most {PORT_LIMIT}", manifest.ports.len());
            self.problem(manifest.key_span("ports"), message, None);
        }
        let mut plans = Vec::new();
        let mut devices: HashMap<String, &str> = HashMap::new();
        for (id, port) in manifest.ports.iter().take(PORT_LIMIT).enumerate() {
            let id = u8::try_from(id).unwrap_or(u8::MAX);
            let (device, kind, queues) =
                match port.form.as_ref().and_then(|form| self.port_kind(id, port, form, kernel_ports)) {
                    Some(known) => known,
                    // Something must keep its place, so that what refers to it can be checked.
                    None => (String::new(), PortKind::Pcap { read: None, write: None }, 0),
                };
            if !device.is_empty()
                && let Some(other) = devices.insert(device.clone(), &port.name)
            {
                let message = format!("`{device}` is port `{other}` already");
                self.problem(port.node.span.clone(), message, Some("give each port a device of its own".into()));
            }
            plans.push(PortPlan { name: port.name.clone(), kind, queues, steering: None, isolated: false });
        }
        if let Traffic::Captures(captures) = self.traffic {
            self.replace_by_captures(&mut plans, captures);
        }
        plans
    }

    /// The device's name (to find it twice), the port, and its queues.
    pub(super) fn port_kind(
        &mut self,
        id: u8,
        port: &Port,
        form: &PortForm,
        kernel_ports: &mut Vec<KernelPort>,
    ) -> Option<(String, PortKind, u16)> {
        match form {
            PortForm { dpdk: Some(dpdk), vf: None, xdp: None, kernel: None, pcap: None } => {
                let device = dpdk.device();
                let queues = match dpdk {
                    DpdkForm::Device(_) => 0,
                    DpdkForm::Options(options) => options.queues,
                };
                if device.trim().is_empty() {
                    self.problem(
                        port.node.span.clone(),
                        "the device is empty",
                        Some("write a PCI address, or `net_null0`".into()),
                    );
                }
                Some((
                    device.split(',').next().unwrap_or(device).into(),
                    PortKind::Dpdk { device: device.to_owned() },
                    queues,
                ))
            }
            PortForm { dpdk: None, vf: Some(vf), xdp: None, kernel: None, pcap: None } => self.vf_port(port, vf),
            PortForm { dpdk: None, vf: None, xdp: Some(xdp), kernel: None, pcap: None } => {
                let (interface, mode, queues) = match xdp {
                    XdpForm::Interface(interface) => (interface, Default::default(), 0),
                    XdpForm::Options(options) => (&options.interface, options.mode, options.queues),
                };
                self.check_interface(interface, port);
                let kind = PortKind::Xdp { interface: interface.clone(), mode: mode.into() };
                Some((interface.clone(), kind, queues))
            }
            PortForm { dpdk: None, vf: None, xdp: None, kernel: Some(kernel), pcap: None } => {
                self.check_interface(&kernel.interface, port);
                for address in kernel.address.as_slice() {
                    if !is_cidr(address) {
                        self.problem(
                            port.node.get("kernel").and_then(|k| k.get("address")).unwrap_or(&port.node).span.clone(),
                            format!("`{address}` is no address with a prefix length"),
                            Some("write `10.0.0.1/24` or `fd00::1/64`".into()),
                        );
                    }
                }
                let inner = inner_interface(&kernel.interface);
                kernel_ports.push(KernelPort {
                    port: id,
                    inner: inner.clone(),
                    interface: kernel.interface.clone(),
                    addresses: kernel.address.as_slice().to_vec(),
                });
                Some((kernel.interface.clone(), PortKind::Xdp { interface: inner, mode: Default::default() }, 0))
            }
            PortForm { dpdk: None, vf: None, xdp: None, kernel: None, pcap: Some(pcap) } => {
                if pcap.read.is_none() && pcap.write.is_none() {
                    let hint = "add `read: in.pcap`, `write: out.pcap`, or both";
                    self.problem(
                        port.node.span.clone(),
                        format!("the port `{}` has no file", port.name),
                        Some(hint.into()),
                    );
                }
                let path = |p: &Path| resolve(self.surroundings.folder(), p).to_string_lossy().into_owned();
                let kind =
                    PortKind::Pcap { read: pcap.read.as_deref().map(path), write: pcap.write.as_deref().map(path) };
                Some((String::new(), kind, 1))
            }
            PortForm { dpdk: None, vf: None, xdp: None, kernel: None, pcap: None } => {
                let hint = "write `{ xdp: eth0 }`, `{ dpdk: \"0000:01:00.0\" }`, `{ kernel: { interface: mn0 } }` or `{ pcap: { read: in.pcap } }`";
                self.problem(
                    port.name_span.clone(),
                    format!("the port `{}` does not say what it is", port.name),
                    Some(hint.into()),
                );
                None
            }
            _ => {
                let second = port.node.entries().get(1).map_or(port.name_span.clone(), |e| e.key_span.clone());
                let message = format!("the port `{}` is two things at once", port.name);
                self.problem(second, message, Some("keep one of `dpdk`, `vf`, `xdp`, `kernel` and `pcap`".into()));
                None
            }
        }
    }

    pub(super) fn check_interface(&mut self, interface: &str, port: &Port) {
        let plain = !interface.is_empty()
            && interface.len() <= INTERFACE_CHARACTERS
            && !interface.starts_with('.')
            && interface.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':'));
        if !plain {
            let message = format!("`{interface}` cannot be the name of an interface");
            self.problem(
                port.node.span.clone(),
                message,
                Some(format!("at most {INTERFACE_CHARACTERS} characters, no `/`, `:` or space")),
            );
        }
    }

    pub(super) fn replace_by_captures(&mut self, plans: &mut [PortPlan], captures: &Captures) {
        for plan in plans.iter_mut() {
            plan.kind = PortKind::Pcap { read: None, write: None };
            plan.queues = 1;
        }
        let first = self.manifest.chains.first().and_then(|c| c.form.as_ref()).and_then(|f| f.ports.first()).cloned();
        let absolute =
            |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into()).to_string_lossy().into_owned();
        let names: Vec<String> = plans.iter().map(|p| p.name.clone()).collect();
        let find = |plans: &mut [PortPlan], port: &str, option: &str| -> Result<usize, Diagnostic> {
            plans.iter().position(|p| p.name == port).ok_or_else(|| {
                let names = names.iter().map(String::as_str);
                let hint =
                    did_you_mean(port, names.clone()).unwrap_or_else(|| format!("its ports are {}", one_of(names)));
                Diagnostic::new(self.manifest.key_span("ports"), format!("{option}: the manifest has no port `{port}`"))
                    .with_hint(hint)
            })
        };
        for (port, path) in &captures.read {
            let Some(port) = port.as_deref().or(first.as_deref()) else { continue };
            match find(plans, port, "--pcap") {
                Ok(at) => {
                    if let PortKind::Pcap { read, .. } = &mut plans[at].kind {
                        *read = Some(absolute(path));
                    }
                }
                Err(problem) => self.problems.push(problem),
            }
        }
        let mut named = Vec::new();
        for (port, path) in &captures.write {
            let targets: Vec<usize> = match port {
                Some(port) => match find(plans, port, "--write") {
                    Ok(at) => {
                        named.push(at);
                        vec![at]
                    }
                    Err(problem) => {
                        self.problems.push(problem);
                        continue;
                    }
                },
                None => (0..plans.len()).filter(|at| !named.contains(at)).collect(),
            };
            for at in targets {
                if let PortKind::Pcap { write, .. } = &mut plans[at].kind {
                    *write = Some(absolute(path));
                }
            }
        }
    }

    /// Finds each chain's ports.
    pub(super) fn wire(&mut self, ports: &[PortPlan]) -> Vec<Wired<'a>> {
        let manifest = self.manifest;
        let mut wired = Vec::new();
        for chain in &manifest.chains {
            let mut ids = Vec::new();
            let names = chain.form.as_ref().map(|f| f.ports.as_slice()).unwrap_or_default();
            let nodes = chain.node.get("ports").map(|n| n.items()).unwrap_or_default();
            if chain.form.is_some() && names.is_empty() {
                let span = chain.node.get("ports").map_or(chain.name_span.clone(), |n| n.span.clone());
                let hint = "name at least its left side: `ports: [wan, lan]`";
                self.problem(span, format!("the chain `{}` has no ports", chain.name), Some(hint.into()));
            }
            for (name, node) in names.iter().zip(nodes) {
                let Some(id) = ports.iter().position(|p| &p.name == name).and_then(|id| u8::try_from(id).ok()) else {
                    let known = ports.iter().map(|p| p.name.as_str());
                    let hint = did_you_mean(name, known.clone()).unwrap_or_else(|| match ports.len() {
                        0 => "define it under `ports:`".into(),
                        _ => format!("defined under `ports:` are {}", one_of(known)),
                    });
                    self.problem(node.span.clone(), format!("there is no port `{name}`"), Some(hint));
                    continue;
                };
                if ids.contains(&id) {
                    let message = format!("the port `{name}` is in this chain twice");
                    self.problem(node.span.clone(), message, Some("name it once".into()));
                    continue;
                }
                ids.push(id);
            }
            wired.push(Wired { chain, ports: ids });
        }
        wired
    }

    pub(super) fn leave_out_unused(&self, ports: &[PortPlan], wired: &[Wired<'a>]) -> Vec<String> {
        let used = |id: usize| wired.iter().any(|w| w.ports.iter().any(|&p| usize::from(p) == id));
        let unused = ports.iter().enumerate().filter(|(id, _)| !used(*id));
        unused.map(|(_, p)| format!("the port `{}` is in no chain: what it receives is dropped", p.name)).collect()
    }
}

/// The manager's end of a veth pair.
fn inner_interface(interface: &str) -> String {
    let whole = format!("mn-{interface}");
    if whole.len() <= INTERFACE_CHARACTERS {
        return whole;
    }
    // FNV-1a: short, and the same in every run, so that leftovers are recognised.
    let hash =
        interface.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("mn-{:012x}", hash & 0xffff_ffff_ffff)
}

pub(super) fn is_cidr(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else { return false };
    let Ok(prefix) = prefix.parse::<u8>() else { return false };
    match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(_)) => prefix <= 32,
        Ok(std::net::IpAddr::V6(_)) => prefix <= 128,
        Err(_) => false,
    }
}
