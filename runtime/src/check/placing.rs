//! Steering between DPDK and the kernel by a NIC that both share: a rule of such a port that leads to the kernel is the NIC's affair, since
//! what has come to the port has left the kernel behind.

use middlenet_plan::{ManagerPlan, PortKind, SteeringPlan};
use middlenet_sriov::{Capabilities, Feature, Ntuple, PfWish, Place, Side, VfAddress, VfDriver, place};
use middlenet_steer::Action;

use super::Checker;
use crate::plan::{PlacedPort, VfPort};

/// A number that no tag has.
const NO_VLAN: u16 = 1 << 12;

impl Checker<'_> {
    /// Whether a port's packets can be split with the kernel by its NIC.
    pub(super) fn shares_its_nic(&self, port: &str) -> bool {
        let form = self.manifest.ports.iter().find(|p| p.name == port).and_then(|p| p.form.as_ref());
        form.is_some_and(|f| f.vf.is_some() || f.dpdk.as_ref().is_some_and(|dpdk| self.splits_by_flows(dpdk.device())))
    }

    /// Whether the kernel keeps what DPDK does not ask of this device for: a NIC that splits natively, by PCI address or name, or a
    /// `net_tap` that takes packets from another interface.
    fn splits_by_flows(&self, device: &str) -> bool {
        let name = device.split(',').next().unwrap_or_default();
        tap_remote(device).is_some()
            || self.network().and_then(|network| network.find(name)).is_some_and(|nic| nic.splits_by_flows())
    }

    /// Finds who carries out the rules of ports that share their NIC with the kernel, and adds the NIC's filters to what is wanted of
    /// it.
    pub(super) fn place_rules(
        &mut self,
        manager: &mut ManagerPlan,
        vf_ports: &[VfPort],
        wishes: &mut [PfWish],
        notes: &mut Vec<String>,
    ) -> Vec<PlacedPort> {
        let mut placed = Vec::new();
        for (id, port) in (0..).zip(&mut manager.ports) {
            let PortKind::Dpdk { device } = &port.kind else { continue };
            let Some(steering) = &mut port.steering else { continue };
            let to_kernel = |action: &Action| *action == Action::Kernel;
            if !steering.rules.iter().map(|rule| &rule.action).chain([&steering.default]).any(to_kernel) {
                continue;
            }
            let vf = vf_ports.iter().find(|p| p.port == id).map(|p| p.vf.as_str());
            let (places, isolated) = match vf {
                None => (place(&steering.rules, steering.default, &by_flows(Vec::new())), self.splits_by_flows(device)),
                Some(vf) => {
                    let Some(wish) = wishes.iter_mut().find(|w| w.vfs.iter().any(|v| v.name == vf)) else { continue };
                    self.place_vf(steering, vf, wish)
                }
            };
            port.isolated = isolated;
            if isolated && steering.rules.iter().any(|rule| rule.matches.vlans.contains(&0)) {
                notes.push(format!(
                    "steering of `{}`: to its NIC, a priority tag (VLAN 0) is a tag: packets that have one are left to the kernel",
                    port.name
                ));
            }
            let refused = places.iter().enumerate().filter_map(|(rule, place)| Some((rule, place.as_ref().err()?)));
            for (rule, why) in refused {
                self.not_placed(&port.name, steering, rule, why);
            }
            let vlan = wishes.iter().flat_map(|w| &w.vfs).find(|v| Some(v.name.as_str()) == vf).and_then(|v| v.vlan);
            if let Some(vlan) = vlan {
                take_tag_off(steering, vlan);
            }
            placed.push(PlacedPort { port: id, by: places.iter().flatten().map(|places| by(places)).collect() });
        }
        placed
    }

    /// The places of a VF's rules, and whether they need flows. Addresses split on any NIC, and leave to DPDK what is for all.
    fn place_vf(
        &self,
        steering: &SteeringPlan,
        vf: &str,
        wish: &mut PfWish,
    ) -> (Vec<Result<Vec<Place>, String>>, bool) {
        let capabilities = self.capabilities(wish, vf);
        let all = |capabilities: &Capabilities| {
            let places = place(&steering.rules, steering.default, capabilities).into_iter();
            places.map(|place| unsure(wish, &place).map_or(place, Err)).collect::<Vec<_>>()
        };
        let by_address = all(&capabilities);
        if by_address.iter().any(Result::is_err) && self.splits_by_flows(&wish.pf) {
            return (all(&by_flows(capabilities.vfs)), true);
        }
        let filters = by_address.iter().flatten().flatten().filter_map(|place| match place {
            Place::Filters(filters) => Some(filters.clone()),
            _ => None,
        });
        wish.filters.extend(filters.flatten());
        (by_address, false)
    }

    fn not_placed(&mut self, port: &str, steering: &SteeringPlan, rule: usize, why: &str) {
        let which = match steering.rules.get(rule) {
            Some(rule) => format!("the rule `{}`", rule.name),
            None => "what happens to all other packets".into(),
        };
        let span = self.manifest.steering.iter().find(|s| s.port == port).map(|s| s.span.clone()).unwrap_or_default();
        self.problem(span, format!("{which} of `{port}` cannot be carried out by the NIC: {why}"), None);
    }

    /// What a PF can do for the port that is one of its VFs, as far as the manifest and this host tell.
    fn capabilities(&self, wish: &PfWish, of_port: &str) -> Capabilities {
        let side = |vf: &middlenet_sriov::VfWish| match vf.driver {
            VfDriver::Dpdk if vf.name == of_port => Side::Packets,
            VfDriver::Dpdk => Side::Other,
            VfDriver::Kernel => Side::Kernel,
        };
        let address = |vf: &middlenet_sriov::VfWish| {
            Some(VfAddress { vf: vf.index, name: vf.name.clone(), mac: vf.mac?, vlan: vf.vlan, side: side(vf) })
        };
        let nic = self.network().and_then(|i| i.find(&wish.pf)).filter(|nic| nic.filters.ntuple == Feature::On);
        Capabilities {
            vfs: wish.vfs.iter().filter_map(address).collect(),
            ntuple: nic.and_then(|nic| nic.driver.as_deref()).map(Ntuple::of_driver),
            native_split: false,
        }
    }
}

/// The interface that a `net_tap` takes packets from.
pub(crate) fn tap_remote(device: &str) -> Option<&str> {
    let mut parts = device.split(',');
    parts.next().filter(|name| name.starts_with("net_tap"))?;
    parts.find_map(|part| part.strip_prefix("remote="))
}

/// The rules speak of packets on the wire. To a VF in a VLAN they come without its tag: what asks for the tag asks for nothing more, and
/// what asks for another matches none.
fn take_tag_off(steering: &mut SteeringPlan, vlan: u16) {
    for asked in steering.rules.iter_mut().map(|rule| &mut rule.matches.vlans).filter(|asked| !asked.is_empty()) {
        *asked = if asked.contains(&vlan) { Vec::new() } else { vec![NO_VLAN] };
    }
}

/// A device that leaves to the kernel what it is not asked for.
fn by_flows(vfs: Vec<VfAddress>) -> Capabilities {
    Capabilities { vfs, native_split: true, ..Capabilities::default() }
}

/// Why the NIC may do another thing with a rule's packets than it seems, if so.
fn unsure(wish: &PfWish, place: &Result<Vec<Place>, String>) -> Option<String> {
    let of_dpdk = || wish.vfs.iter().filter(|vf| vf.driver == VfDriver::Dpdk);
    if let Some(vf) = of_dpdk().find(|vf| vf.mac.is_none()) {
        return Some(format!(
            "the address of `{}` is not known, so nobody knows what the NIC sends there: give it a `mac`",
            vf.name
        ));
    }
    let by_filters = place.iter().flatten().any(|place| matches!(place, Place::Filters(_)));
    (by_filters && of_dpdk().count() > 1).then(|| {
        "several virtual functions of the PF are DPDK's, and a filter is not bound to one port's rules".to_owned()
    })
}

/// Who carries a rule out, in a word or two.
fn by(places: &[Place]) -> String {
    let word = |place: &Place| match place {
        Place::Switch(_) | Place::Left => "nic",
        Place::Filters(_) => "nic filters",
        Place::Flow => "nic flows",
        Place::Manager => "manager",
    };
    let mut words: Vec<&str> = places.iter().map(word).collect();
    words.dedup();
    words.join(" + ")
}
