//! Steering between the virtual functions of a NIC: a rule of a VF's port that leads to the kernel is the NIC's affair, since
//! what has come to the port has left the kernel behind.

use middlenet_plan::{ManagerPlan, SteeringPlan};
use middlenet_sriov::{Capabilities, Feature, Ntuple, PfWish, Place, Side, VfAddress, VfDriver, place};
use middlenet_steer::Action;

use super::Checker;
use crate::plan::{PlacedPort, VfPort};

impl Checker<'_> {
    /// Whether a port's packets can be split with the kernel by its NIC.
    pub(super) fn is_vf(&self, port: &str) -> bool {
        let form = self.manifest.ports.iter().find(|p| p.name == port).and_then(|p| p.form.as_ref());
        form.is_some_and(|f| f.vf.is_some())
    }

    /// Finds who carries out the rules of ports that are VFs and share their NIC with the kernel, and adds the NIC's filters to
    /// what is wanted of it.
    pub(super) fn place_rules(
        &mut self,
        manager: &ManagerPlan,
        ports: &[VfPort],
        wishes: &mut [PfWish],
    ) -> Vec<PlacedPort> {
        let mut placed = Vec::new();
        for VfPort { port, vf } in ports {
            let plan = manager.ports.get(usize::from(*port));
            let Some((name, steering)) = plan.and_then(|p| Some((p.name.as_str(), p.steering.as_ref()?))) else {
                continue;
            };
            let to_kernel = |action: &Action| *action == Action::Kernel;
            if !steering.rules.iter().map(|rule| &rule.action).chain([&steering.default]).any(to_kernel) {
                continue;
            }
            let Some(wish) = wishes.iter_mut().find(|w| w.vfs.iter().any(|v| v.name == *vf)) else { continue };
            let mut places = place(&steering.rules, steering.default, &self.capabilities(wish));
            for place in &mut places {
                if let Some(why) = unsure(wish, place) {
                    *place = Err(why);
                }
            }
            let filters = places.iter().flatten().flatten().filter_map(|p| match p {
                Place::Filters(filters) => Some(filters.clone()),
                _ => None,
            });
            wish.filters.extend(filters.flatten());
            for (rule, why) in places.iter().enumerate().filter_map(|(rule, place)| Some((rule, place.as_ref().err()?)))
            {
                self.not_placed(name, steering, rule, why);
            }
            let by = places.iter().flatten().map(|places| by(places)).collect();
            placed.push(PlacedPort { port: *port, by });
        }
        placed
    }

    fn not_placed(&mut self, port: &str, steering: &SteeringPlan, rule: usize, why: &str) {
        let which = match steering.rules.get(rule) {
            Some(rule) => format!("the rule `{}`", rule.name),
            None => "what happens to all other packets".into(),
        };
        let span = self.manifest.steering.iter().find(|s| s.port == port).map(|s| s.span.clone()).unwrap_or_default();
        self.problem(span, format!("{which} of `{port}` cannot be carried out by the NIC: {why}"), None);
    }

    /// What a PF can do, as far as the manifest and this host tell. Nobody runs XDP on it or asks it for flows.
    fn capabilities(&self, wish: &PfWish) -> Capabilities {
        let side = |driver: VfDriver| match driver {
            VfDriver::Dpdk => Side::Packets,
            VfDriver::Kernel => Side::Kernel,
        };
        let address = |vf: &middlenet_sriov::VfWish| {
            Some(VfAddress { vf: vf.index, name: vf.name.clone(), mac: vf.mac?, vlan: vf.vlan, side: side(vf.driver) })
        };
        let inventory = self.surroundings.network();
        let nic = inventory.as_ref().and_then(|i| i.find(&wish.pf)).filter(|nic| nic.filters.ntuple == Feature::On);
        Capabilities {
            vfs: wish.vfs.iter().filter_map(address).collect(),
            ntuple: nic.and_then(|nic| nic.driver.as_deref()).map(Ntuple::of_driver),
            native_split: false,
            xdp: false,
        }
    }
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
        Place::Filters(_) | Place::Flow => "nic filters",
        Place::Manager => "manager",
        Place::Xdp => "xdp",
    };
    let mut words: Vec<&str> = places.iter().map(word).collect();
    words.dedup();
    words.join(" + ")
}
