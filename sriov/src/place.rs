//! Where each steering rule of a NIC that is split in hardware is carried out, or why it cannot be. Pure.
//!
//! A frame that arrives is given to a VF by its address: that is the NIC's switch. What is for nobody else comes to the PF, where
//! ntuple filters may send it to a VF after all, or drop it; else it is the kernel's. Behind all that, whoever got the frame can still
//! sort by rules in software, but cannot hand it to the other side. A rule is placed only where the right packets, and no others,
//! get to the right side. Frames to group addresses go to both sides, each of which does with them as its rules say.
//!
//! A NIC that splits natively does it otherwise: what comes to the device that DPDK drives, PF or VF, is the kernel's but for what DPDK
//! asks for ([`nic::flows`]).

use middlenet_steer::{Action, Match, Prefix, Rule, nic};
use serde::Serialize;

use crate::{Filter, FilterTarget, Mac, filters_for};

/// What a NIC and its host offer to carry out rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The VFs whose addresses are known.
    pub vfs: Vec<VfAddress>,
    /// The PF's ntuple filters, if it has them and they are on.
    pub ntuple: Option<Ntuple>,
    /// What comes to DPDK's device is the kernel's but for what DPDK asks for (rte_flow, isolated). The device is the VF of
    /// [`Side::Packets`]; the PF, if there is none.
    pub native_split: bool,
}

/// What a PF's ntuple filters can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ntuple {
    /// They can send packets to VFs.
    pub to_vfs: bool,
    /// All must ask for the same fields.
    pub one_mask: bool,
}

/// Drivers whose filters send packets to VFs (`ring_cookie`), and whether all filters must ask for the same fields. Others refuse.
const TO_VFS: [(&str, bool); 2] = [("ixgbe", true), ("i40e", false)];

impl Ntuple {
    /// What is known of a PF's driver.
    pub fn of_driver(driver: &str) -> Self {
        let known = TO_VFS.iter().find(|(name, _)| *name == driver);
        Self { to_vfs: known.is_some(), one_mask: known.is_some_and(|(_, one_mask)| *one_mask) }
    }
}

/// A VF, and which frames the NIC's switch gives to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VfAddress {
    /// Its index.
    pub vf: u16,
    /// Its name.
    pub name: String,
    /// Its link address.
    pub mac: Mac,
    /// Its VLAN, if it is in one.
    pub vlan: Option<u16>,
    /// Who has it.
    pub side: Side,
}

/// Who gets packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The data plane of packets, by DPDK, on the port whose rules they are.
    Packets,
    /// Another port of DPDK's.
    Other,
    /// The kernel's stack.
    Kernel,
}

/// Where a rule, or a part of it, is carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// By the NIC's switch, which gives the packets to these VFs by their addresses.
    Switch(Vec<u16>),
    /// By the NIC's filters.
    Filters(Vec<Filter>),
    /// By rte_flow: the data plane asks for these packets, or that they be dropped.
    Flow,
    /// By nobody: the packets come to the kernel because nobody else takes them.
    Left,
    /// By the data plane of packets, among what it has got.
    Manager,
}

impl VfAddress {
    fn region(&self) -> Match {
        Match { dst_macs: vec![self.mac.0], vlans: self.vlan.into_iter().collect(), ..Match::default() }
    }
}

/// Where each rule is carried out, in their order, and last where the default is.
///
/// Each is a list of places, or the reason why it cannot be done, a sentence.
pub fn place(rules: &[Rule], default: Action, capabilities: &Capabilities) -> Vec<Result<Vec<Place>, String>> {
    if capabilities.native_split {
        return by_flows(rules, default, capabilities);
    }
    let mut placing = Placing { capabilities, rules, masks: Vec::new() };
    let mut places: Vec<_> = (0..rules.len()).map(|at| placing.rule(at)).collect();
    places.push(placing.default(default));
    places
}

/// What of the packets of DPDK's device it asks for, the rest being left to the kernel.
fn by_flows(rules: &[Rule], default: Action, device: &Capabilities) -> Vec<Result<Vec<Place>, String>> {
    let place = |(at, flows): (usize, Result<Vec<nic::Flow>, nic::Inexact>)| {
        let rule = rules.get(at);
        rule.map_or(Ok(()), |rule| device.check_vf(rule))?;
        let is_asked_for = rule.is_some_and(|rule| rule.action != Action::Kernel);
        let place = if is_asked_for { Place::Flow } else { Place::Left };
        flows.map(|_| vec![place]).map_err(|why| why.to_string())
    };
    nic::flows(rules, default).into_iter().enumerate().map(place).collect()
}

impl Capabilities {
    /// VFs of a side that a match can have packets of.
    fn touched(&self, matches: &Match, side: Side) -> Vec<&VfAddress> {
        let of_side = self.vfs.iter().filter(|vf| vf.side == side);
        of_side.filter(|vf| !matches.is_disjoint(&vf.region())).collect()
    }

    /// Refuses a rule that can have packets which the NIC's switch gives to one of these sides.
    fn check_foreign(&self, matches: &Match, sides: &[Side]) -> Result<(), String> {
        let foreign = sides.iter().flat_map(|side| self.touched(matches, *side)).next();
        foreign.map_or(Ok(()), |vf| Err(belongs(vf, "say which others are meant by `dst_mac`")))
    }

    /// Refuses a rule for packets that do not come to DPDK's VF as the rule speaks of them.
    fn check_vf(&self, Rule { matches, action, .. }: &Rule) -> Result<(), String> {
        let Some(own) = self.vfs.iter().find(|vf| vf.side == Side::Packets) else { return Ok(()) };
        if *action == Action::Kernel {
            return self.check_foreign(matches, &[Side::Other]);
        }
        self.check_foreign(matches, &[Side::Kernel, Side::Other])?;
        let comes = |mac: &[u8; 6]| *mac == own.mac.0 || mac[0] & 1 == 1;
        if matches.dst_macs.is_empty() || !matches.dst_macs.iter().all(comes) {
            return Err(format!("only what is for {} comes to `{}`: match it by `dst_mac`", own.mac, own.name));
        }
        match own.vlan {
            None => Ok(()),
            Some(_) => Err(format!(
                "`{}` is in a VLAN, whose tag is off before flows are looked for: take its `vlan` out, and match the number here",
                own.name
            )),
        }
    }
}

struct Placing<'a> {
    capabilities: &'a Capabilities,
    rules: &'a [Rule],
    /// Which fields the filters so far ask for.
    masks: Vec<Vec<String>>,
}

impl<'a> Placing<'a> {
    fn rule(&mut self, at: usize) -> Result<Vec<Place>, String> {
        let rules = self.rules;
        let Rule { matches, action, .. } = &rules[at];
        if matches.matches_nothing() {
            return Ok(vec![Place::Manager]);
        }
        match action {
            Action::Tag(_) => self.for_packets(at, matches),
            Action::Kernel => self.for_kernel(matches),
            Action::Drop => self.dropped(at, matches),
        }
    }

    fn touched(&self, matches: &Match, side: Side) -> Vec<&'a VfAddress> {
        self.capabilities.touched(matches, side)
    }

    /// Whether every packet of a match is given to these VFs by its address.
    fn is_within(matches: &Match, vfs: &[&VfAddress]) -> bool {
        let holds =
            |mac: &[u8; 6]| vfs.iter().any(|vf| vf.mac.0 == *mac && vf.vlan.is_none_or(|vlan| matches.vlans == [vlan]));
        !matches.dst_macs.is_empty() && matches.dst_macs.iter().all(holds)
    }

    fn for_packets(&mut self, at: usize, matches: &Match) -> Result<Vec<Place>, String> {
        self.capabilities.check_foreign(matches, &[Side::Kernel, Side::Other])?;
        let own = self.touched(matches, Side::Packets);
        let switch = Place::Switch(own.iter().map(|vf| vf.vf).collect());
        // Of what is for all, DPDK's VF gets a copy.
        let to_one = Match {
            dst_macs: matches.dst_macs.iter().copied().filter(|mac| mac[0] & 1 == 0).collect(),
            ..matches.clone()
        };
        if Self::is_within(&to_one, &own) {
            return Ok(vec![switch]);
        }
        let first = self.capabilities.vfs.iter().find(|vf| vf.side == Side::Packets);
        let Some(vf) = first.map(|vf| vf.vf) else {
            return Err("no virtual function is DPDK's: nothing could be sent there".into());
        };
        if !self.capabilities.ntuple.is_some_and(|n| n.to_vfs) {
            return Err(
                "the NIC's filters cannot send packets to virtual functions: match the `dst_mac` of one that DPDK has"
                    .into(),
            );
        }
        self.check_order(at, matches, |other| matches!(other, Action::Tag(_)))?;
        let filters = self.filters(matches, FilterTarget::Vf { vf, queue: 0 })?;
        let switch = (!own.is_empty()).then_some(switch);
        Ok(switch.into_iter().chain([filters]).collect())
    }

    fn for_kernel(&self, matches: &Match) -> Result<Vec<Place>, String> {
        self.capabilities.check_foreign(matches, &[Side::Packets, Side::Other])?;
        let own = self.touched(matches, Side::Kernel);
        let switch = Place::Switch(own.iter().map(|vf| vf.vf).collect());
        Ok(match (Self::is_within(matches, &own), own.is_empty()) {
            (true, _) => vec![switch],
            (false, true) => vec![Place::Left],
            (false, false) => vec![switch, Place::Left],
        })
    }

    fn dropped(&mut self, at: usize, matches: &Match) -> Result<Vec<Place>, String> {
        let of_packets = self.touched(matches, Side::Packets);
        if Self::is_within(matches, &of_packets) {
            return Ok(vec![Place::Manager]);
        }
        let manager = (!of_packets.is_empty()).then_some(Place::Manager);
        // A filter acts where the switch has left packets to the PF: before it, nothing of them is anybody's.
        self.capabilities.check_foreign(matches, &[Side::Kernel, Side::Other])?;
        if self.capabilities.ntuple.is_none() {
            return Err("the NIC has no filters: match the `dst_mac` of a virtual function that DPDK has".into());
        }
        self.check_order(at, matches, |other| *other == Action::Drop)?;
        let filters = self.filters(matches, FilterTarget::Drop)?;
        Ok(manager.into_iter().chain([filters]).collect())
    }

    /// Filters know no order: an earlier rule with another aim must have no packet in common with this one.
    fn check_order(&self, at: usize, matches: &Match, same: impl Fn(&Action) -> bool) -> Result<(), String> {
        let earlier = self.rules[..at].iter().filter(|rule| !same(&rule.action));
        match earlier.into_iter().find(|rule| !rule.matches.is_disjoint(matches)) {
            Some(rule) => Err(format!(
                "it overlaps `{}`, which comes before it, and the NIC's filters know no order: narrow one of them",
                rule.name
            )),
            None => Ok(()),
        }
    }

    fn filters(&mut self, matches: &Match, to: FilterTarget) -> Result<Place, String> {
        let filters = filters_for(matches, to)?;
        if self.capabilities.ntuple.is_some_and(|n| n.one_mask) {
            let masks: Vec<_> = filters.iter().map(mask).collect();
            let known = self.masks.first().or(masks.first()).cloned();
            if masks.iter().any(|mask| Some(mask) != known.as_ref()) {
                return Err(
                    "all filters of this NIC must ask for the same fields, and another rule asks for others".into()
                );
            }
            self.masks.extend(masks);
        }
        Ok(Place::Filters(filters))
    }

    fn default(&self, default: Action) -> Result<Vec<Place>, String> {
        let capabilities = self.capabilities;
        // Who gets every packet to a VF by a rule leaves none to the default.
        let is_decided = |vf: &&VfAddress| self.rules.iter().any(|rule| rule.matches.covers(&vf.region()));
        let open = |side: Side| capabilities.vfs.iter().filter(move |vf| vf.side == side).find(|vf| !is_decided(vf));
        match default {
            Action::Kernel => match open(Side::Packets) {
                Some(vf) => Err(belongs(vf, "end with a rule for what comes to its `dst_mac`")),
                None => Ok(vec![Place::Left]),
            },
            Action::Tag(_) | Action::Drop => {
                Err("what no rule names comes to the kernel: name what is not the kernel's by rules, and end with `to: kernel`"
                    .into())
            }
        }
    }
}

fn belongs(vf: &VfAddress, what_to_do: &str) -> String {
    let whom = match vf.side {
        Side::Packets => "DPDK",
        Side::Other => "another port",
        Side::Kernel => "the kernel",
    };
    format!(
        "packets to {}, the virtual function `{}`, are given to {whom} by the NIC's switch: {what_to_do}",
        vf.mac, vf.name
    )
}

/// Which fields a filter asks for, and with which masks.
fn mask(filter: &Filter) -> Vec<String> {
    let length = |prefix: Option<Prefix>| prefix.map(|p| p.length());
    let fields = [
        ("src", length(filter.src).map(u32::from)),
        ("dst", length(filter.dst).map(u32::from)),
        ("src_port", filter.src_port.map(|_| 0)),
        ("dst_port", filter.dst_port.map(|_| 0)),
        ("vlan", filter.vlan.map(|_| 0)),
        ("dst_mac", filter.dst_mac.map(|_| 0)),
    ];
    fields.iter().filter_map(|(name, bits)| bits.map(|bits| format!("{name}/{bits}"))).collect()
}

#[cfg(test)]
mod tests;
