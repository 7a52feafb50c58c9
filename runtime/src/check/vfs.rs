//! Virtual functions: whether what is written of them fits together, and this host.

use middlenet_plan::PortKind;
use middlenet_sriov::{Mac, PfWish, SriovError, VfDriver, VfWish};
use std::collections::HashMap;
use std::net::IpAddr;

use super::ports::is_cidr;
use super::{Checker, Traffic};
use crate::diagnostic::{did_you_mean, one_of};
use crate::manifest::{Pf, Port, VfForm, VfPortForm, VfUse};
use crate::plan::VfPort;
use crate::yaml::{Node, Span};

/// The device of a port whose VF has no address yet.
fn placeholder(vf: &str) -> String {
    format!("vf:{vf}")
}

impl Checker<'_> {
    /// What is wanted of the PFs; nothing for a run over captures.
    pub(super) fn vfs(&mut self, notes: &mut Vec<String>, obstacles: &mut Vec<String>) -> Vec<PfWish> {
        let manifest = self.manifest;
        let mut names: HashMap<&str, &str> = HashMap::new();
        let mut macs: HashMap<Mac, &str> = HashMap::new();
        let mut wishes = Vec::new();
        for pf in &manifest.sriov {
            let Some(form) = &pf.form else { continue };
            if form.vfs.is_empty() {
                let hint = "list them: `vfs: [{ name: fast, use: dpdk }]`";
                self.problem(pf.name_span.clone(), format!("`{}` has no virtual function", pf.name), Some(hint.into()));
            }
            let mut vfs: Vec<VfWish> = Vec::new();
            for (at, vf) in form.vfs.iter().enumerate() {
                let node = pf.vf_node(at);
                self.check_vf_name(vf, node);
                if let Some(other) = names.insert(&vf.name, &pf.name) {
                    let message = format!("there is a virtual function `{}` already, of `{other}`", vf.name);
                    self.problem(node.span.clone(), message, Some("give each a name of its own".into()));
                }
                let wish = self.vf(at, vf, node);
                if let Some(other) = wish.mac.and_then(|mac| macs.insert(mac, &vf.name)) {
                    let message = format!("`{}` has the MAC address of `{other}`", vf.name);
                    self.problem(
                        field(node, "mac"),
                        message,
                        Some("the NIC finds them by it: give each its own".into()),
                    );
                }
                if let Some(other) = vfs.iter().find(|v| v.index == wish.index) {
                    let message =
                        format!("`{}` and `{}` are both virtual function {}", other.name, vf.name, wish.index);
                    self.problem(field(node, "index"), message, Some("give each its own `index`".into()));
                }
                vfs.push(wish);
            }
            let needed = vfs.iter().map(|v| v.index.saturating_add(1)).max().unwrap_or(0);
            let create = form.create.unwrap_or(needed);
            if create < needed {
                let message =
                    format!("`create: {create}` makes fewer than the {needed} that are used of `{}`", pf.name);
                let span = field(&pf.node, "create");
                self.problem(span, message, Some("remove it, or raise it".into()));
            }
            wishes.push(PfWish { pf: pf.name.clone(), create, vfs, filters: Vec::new() });
        }
        if !matches!(self.traffic, Traffic::Ports) {
            return Vec::new();
        }
        self.note_unused_vfs(&wishes, notes);
        self.compare_with_host(&wishes, obstacles);
        wishes
    }

    fn check_vf_name(&mut self, vf: &VfForm, node: &Node) {
        let plain = vf.name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !plain || vf.name.is_empty() || vf.name.len() > 64 {
            let message = format!("`{}` cannot be a name", vf.name);
            self.problem(field(node, "name"), message, Some("use letters, digits, `-`, `_` and `.`".into()));
        }
    }

    fn vf(&mut self, at: usize, form: &VfForm, node: &Node) -> VfWish {
        let driver = match form.driver {
            VfUse::Dpdk => VfDriver::Dpdk,
            VfUse::Kernel => VfDriver::Kernel,
        };
        let mac: Option<Mac> = form.mac.as_ref().and_then(|text| {
            let mac = text.parse().ok().filter(|mac: &Mac| mac.is_of_a_device());
            if mac.is_none() {
                let hint = "write it like 02:00:00:00:00:01; the first byte is even";
                self.problem(field(node, "mac"), format!("`{text}` is no MAC address of a device"), Some(hint.into()));
            }
            mac
        });
        let addresses = form.address.as_slice();
        if driver == VfDriver::Dpdk && !addresses.is_empty() {
            let message = format!("`{}` is driven by DPDK, which has no addresses", form.name);
            let hint = "remove `address`, or say `use: kernel`";
            self.problem(field(node, "address"), message, Some(hint.into()));
        }
        for address in addresses.iter().filter(|a| !is_cidr(a)) {
            let message = format!("`{address}` is no address with a prefix length");
            self.problem(field(node, "address"), message, Some("write `10.0.0.11/24` or `fd00::11/64`".into()));
        }
        VfWish {
            name: form.name.clone(),
            index: form.index.unwrap_or_else(|| u16::try_from(at).unwrap_or(u16::MAX)),
            driver,
            mac,
            vlan: form.vlan,
            trust: form.trust,
            spoof_check: form.spoof_check,
            max_rate_mbps: form.max_rate_mbps,
            addresses: addresses.iter().filter_map(|a| cidr(a)).collect(),
        }
    }

    fn note_unused_vfs(&self, wishes: &[PfWish], notes: &mut Vec<String>) {
        let ports = &self.manifest.ports;
        let used = |vf: &str| {
            ports
                .iter()
                .any(|p| p.form.as_ref().and_then(|f| f.vf.as_ref()).is_some_and(|of_port| of_port.name() == vf))
        };
        for vf in wishes.iter().flat_map(|w| &w.vfs) {
            if vf.driver == VfDriver::Dpdk && !used(&vf.name) {
                notes.push(format!(
                    "the virtual function `{}` is made, but no port uses it: `{{ vf: {} }}`",
                    vf.name, vf.name
                ));
            }
            if vf.driver == VfDriver::Kernel && vf.addresses.is_empty() {
                notes.push(format!("the virtual function `{}` has no address: it is up, and nothing more", vf.name));
            }
        }
    }

    /// What a NIC can never do is wrong; what stands in the way now may not when the run starts.
    fn compare_with_host(&mut self, wishes: &[PfWish], obstacles: &mut Vec<String>) {
        if wishes.is_empty() {
            return;
        }
        let Some(inventory) = self.network().cloned() else { return };
        for wish in wishes {
            let Err(error) = middlenet_sriov::check(&inventory, std::slice::from_ref(wish)) else { continue };
            let span = self.manifest.sriov.iter().find(|pf| pf.name == wish.pf).map(|pf| pf.name_span.clone());
            match error {
                SriovError::Twice { .. } => {}
                SriovError::TooMany { .. } | SriovError::NoSriov { .. } | SriovError::IsVf { .. } => {
                    self.problem(span.unwrap_or_default(), error.to_string(), error.hint());
                }
                _ => {
                    let hint = error.hint().map(|h| format!(" ({h})")).unwrap_or_default();
                    obstacles.push(format!("{error}{hint}"));
                }
            }
        }
    }

    /// A port that is a VF.
    pub(super) fn vf_port(&mut self, port: &Port, form: &VfPortForm) -> Option<(String, PortKind, u16)> {
        let name = form.name();
        let all = || self.manifest.sriov.iter().flat_map(|pf| pf.form.iter().flat_map(|f| &f.vfs));
        let span = port.node.get("vf").unwrap_or(&port.node).span.clone();
        let Some(vf) = all().find(|vf| vf.name == name) else {
            let known = all().map(|vf| vf.name.as_str());
            let hint = did_you_mean(name, known.clone()).unwrap_or_else(|| match known.clone().count() {
                0 => format!("define it: `sriov: {{ eth0: {{ vfs: [{{ name: {name}, use: dpdk }}] }} }}`"),
                _ => format!("defined under `sriov:` are {}", one_of(known)),
            });
            self.problem(span, format!("there is no virtual function `{name}`"), Some(hint));
            return None;
        };
        if vf.driver == VfUse::Kernel {
            let message = format!("the virtual function `{name}` is the kernel's: it cannot be a port");
            let hint = "say `use: dpdk`, or name its interface: `{ xdp: INTERFACE }`";
            self.problem(span, message, Some(hint.into()));
            return None;
        }
        let device = placeholder(name);
        Some((device.clone(), PortKind::Dpdk { device }, form.queues()))
    }

    /// Which ports are VFs.
    pub(super) fn vf_ports(&self) -> Vec<VfPort> {
        let ports = (0..=u8::MAX).zip(&self.manifest.ports);
        let named = ports.filter_map(|(port, p)| Some((port, p.form.as_ref()?.vf.as_ref()?.name().to_owned())));
        named.map(|(port, vf)| VfPort { port, vf }).collect()
    }
}

impl Pf {
    /// A VF's part of the file.
    fn vf_node(&self, at: usize) -> &Node {
        self.node.get("vfs").and_then(|vfs| vfs.items().get(at)).unwrap_or(&self.node)
    }
}

fn field(node: &Node, name: &str) -> Span {
    node.get(name).unwrap_or(node).span.clone()
}

fn cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/').filter(|_| is_cidr(text))?;
    Some((address.parse().ok()?, prefix.parse().ok()?))
}
