//! Steering rules as a NIC's ntuple filters, by the program ethtool: the requests, and whether they were carried out.
//!
//! ethtool prints what the driver refused and exits with success all the same (seen with 6.1). So what counts is what is listed
//! afterwards.

use middlenet_steer::{Head, Match, Prefix, ethertype};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use crate::Mac;

/// Protocols whose filters name ports, as ethtool calls their flows.
const FLOWS: [(u8, &str); 3] = [(6, "tcp4"), (17, "udp4"), (132, "sctp4")];
/// Filters that one rule may become; a NIC has a few thousand.
const FILTER_LIMIT: usize = 64;
/// Bits of a VLAN tag that are not its identifier: priority and DEI. In ethtool's masks a set bit is one that does not count.
const NOT_THE_VLAN: u16 = 0xf000;

/// One filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Protocol: TCP, UDP or SCTP, over IPv4.
    pub protocol: u8,
    /// Source addresses.
    pub src: Option<Prefix>,
    /// Destination addresses.
    pub dst: Option<Prefix>,
    /// Source port.
    pub src_port: Option<u16>,
    /// Destination port.
    pub dst_port: Option<u16>,
    /// VLAN.
    pub vlan: Option<u16>,
    /// Destination MAC address.
    pub dst_mac: Option<Mac>,
    /// Where the packets go.
    pub to: FilterTarget,
}

/// Where a filter sends packets: what its ring cookie says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterTarget {
    /// To a queue of a VF.
    Vf {
        /// The VF.
        vf: u16,
        /// The queue.
        queue: u32,
    },
    /// Nowhere.
    Drop,
}

/// The filters that carry out a rule exactly: they match what the rule matches, neither more nor less.
///
/// # Errors
/// Why no filters do, a sentence.
pub fn filters_for(matches: &Match, to: FilterTarget) -> Result<Vec<Filter>, String> {
    if matches.matches_nothing() {
        return Ok(Vec::new());
    }
    if matches.fragments != Some(false) {
        return Err(
            "the NIC's filters leave IP fragments out: say `fragment: false`, and handle fragments by another rule"
                .into(),
        );
    }
    if matches.possible_ether_types() != [ethertype::IPV4] {
        return Err("the NIC's filters do not look behind the extension headers of IPv6: say `ether_type: ipv4`".into());
    }
    if !matches.src_macs.is_empty() {
        return Err("the NIC's filters by port do not look at source MAC addresses".into());
    }
    if matches.vlans.contains(&0) {
        return Err("the NIC's filters cannot ask for packets without a VLAN tag".into());
    }
    let with_ports: Vec<u8> = FLOWS.iter().map(|(protocol, _)| *protocol).collect();
    let protocols = match matches.protocols.as_slice() {
        [] if matches.needs_ports() => with_ports,
        [] => return Err("the NIC's filters need a protocol: say `proto: tcp`, `udp` or `sctp`".into()),
        some if some.iter().all(|p| with_ports.contains(p)) => some.to_vec(),
        _ => return Err("the NIC's filters know the protocols TCP, UDP and SCTP alone".into()),
    };
    let ports = |ranges: &[middlenet_steer::PortRange]| -> Result<Vec<Option<u16>>, String> {
        let count: usize = ranges.iter().map(|r| usize::from(r.last.saturating_sub(r.first)) + 1).sum();
        if count > FILTER_LIMIT {
            return Err(format!("the NIC's filters know single ports, and the rule names {count}"));
        }
        Ok(any_of(ranges.iter().flat_map(|r| r.first..=r.last)))
    };
    let (src_ports, dst_ports) = (ports(&matches.src_ports)?, ports(&matches.dst_ports)?);
    let prefixes = |prefixes: &[Prefix]| any_of(prefixes.iter().copied().filter(Prefix::is_ipv4));
    let (sources, destinations) = (prefixes(&matches.src), prefixes(&matches.dst));
    let vlans = any_of(matches.vlans.iter().copied());
    let dst_macs = any_of(matches.dst_macs.iter().copied().map(Mac));
    let count = [sources.len(), destinations.len(), src_ports.len(), dst_ports.len(), vlans.len(), dst_macs.len()]
        .iter()
        .fold(protocols.len(), |product, n| product.saturating_mul(*n));
    if count > FILTER_LIMIT {
        return Err(format!(
            "the rule would take {count} of the NIC's filters; {FILTER_LIMIT} are the most for one rule"
        ));
    }
    let mut filters = vec![Filter {
        protocol: 0,
        src: None,
        dst: None,
        src_port: None,
        dst_port: None,
        vlan: None,
        dst_mac: None,
        to,
    }];
    each(&mut filters, &protocols, |f, v| f.protocol = v);
    each(&mut filters, &sources, |f, v| f.src = v);
    each(&mut filters, &destinations, |f, v| f.dst = v);
    each(&mut filters, &src_ports, |f, v| f.src_port = v);
    each(&mut filters, &dst_ports, |f, v| f.dst_port = v);
    each(&mut filters, &vlans, |f, v| f.vlan = v);
    each(&mut filters, &dst_macs, |f, v| f.dst_mac = v);
    Ok(filters)
}

/// The values asked for, or one that asks for nothing.
fn any_of<T>(values: impl Iterator<Item = T>) -> Vec<Option<T>> {
    let values: Vec<Option<T>> = values.map(Some).collect();
    if values.is_empty() { vec![None] } else { values }
}

fn each<T: Copy>(filters: &mut Vec<Filter>, values: &[T], set: impl Fn(&mut Filter, T)) {
    let all = filters.iter().flat_map(|filter| values.iter().map(move |value| (filter.clone(), *value)));
    let made = all.map(|(mut filter, value)| {
        set(&mut filter, value);
        filter
    });
    *filters = made.collect();
}

impl Filter {
    /// What follows `ethtool -N DEV`.
    pub fn arguments(&self) -> Vec<String> {
        let flow = FLOWS.iter().find(|(protocol, _)| *protocol == self.protocol).map_or("ip4", |(_, flow)| flow);
        let mut words = vec!["flow-type".to_owned(), flow.to_owned()];
        let mut say = |name: &str, value: String, ignored: Option<String>| {
            words.extend([name.to_owned(), value]);
            words.extend(ignored.into_iter().flat_map(|mask| ["m".to_owned(), mask]));
        };
        for (name, prefix) in [("src-ip", self.src), ("dst-ip", self.dst)] {
            if let Some(prefix) = prefix {
                say(name, prefix.address().to_string(), ignored_bits(prefix).map(|mask| mask.to_string()));
            }
        }
        for (name, port) in [("src-port", self.src_port), ("dst-port", self.dst_port)] {
            if let Some(port) = port {
                say(name, port.to_string(), None);
            }
        }
        if let Some(vlan) = self.vlan {
            say("vlan", vlan.to_string(), Some(format!("{NOT_THE_VLAN:#x}")));
        }
        if let Some(mac) = self.dst_mac {
            say("dst-mac", mac.to_string(), None);
        }
        match self.to {
            FilterTarget::Vf { vf, queue } => {
                say("vf", vf.to_string(), None);
                say("queue", queue.to_string(), None);
            }
            FilterTarget::Drop => say("action", "-1".into(), None),
        }
        words
    }

    /// Whether it takes packets with this head.
    pub fn matches(&self, head: &Head) -> bool {
        let within = |prefix: Option<Prefix>, address: Option<IpAddr>| {
            prefix.is_none_or(|prefix| address.is_some_and(|address| prefix.contains(address)))
        };
        head.ether_type == ethertype::IPV4
            && head.protocol == Some(self.protocol)
            && !head.fragment
            && within(self.src, head.src)
            && within(self.dst, head.dst)
            && self.src_port.is_none_or(|port| head.src_port == Some(port))
            && self.dst_port.is_none_or(|port| head.dst_port == Some(port))
            && self.vlan.is_none_or(|vlan| head.vlan == vlan)
            && self.dst_mac.is_none_or(|mac| head.dst_mac == mac.0)
    }
}

/// Address bits that do not count, as ethtool wants them; nothing where all count.
fn ignored_bits(prefix: Prefix) -> Option<Ipv4Addr> {
    let ignored = u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
    (ignored != 0).then(|| ignored.into())
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.arguments().join(" "))
    }
}

/// The filters that `ethtool -n DEV` lists, with their numbers. Those that this crate would not make are left out.
pub fn listed(output: &str) -> Vec<(u32, Filter)> {
    let mut found = Vec::new();
    let mut blocks = output.split("Filter: ");
    // What stands before the first one counts rings and rules.
    blocks.next();
    for block in blocks {
        let mut lines = block.lines();
        let number = lines.next().and_then(|n| n.trim().parse().ok());
        if let Some((number, filter)) = number.zip(read_filter(lines)) {
            found.push((number, filter));
        }
    }
    found
}

fn read_filter<'l>(lines: impl Iterator<Item = &'l str>) -> Option<Filter> {
    let (mut protocol, mut to) = (None, None);
    let (mut src, mut dst, mut src_port, mut dst_port, mut vlan, mut dst_mac) = (None, None, None, None, None, None);
    for line in lines {
        let Some((name, value)) = line.trim().split_once(": ") else { continue };
        let (value, mask) = value.split_once(" mask: ").unwrap_or((value, ""));
        match name {
            "Rule Type" => {
                protocol = match value {
                    "TCP over IPv4" => Some(6),
                    "UDP over IPv4" => Some(17),
                    "SCTP over IPv4" => Some(132),
                    _ => return None,
                }
            }
            "Src IP addr" => src = read_prefix(value, mask)?,
            "Dest IP addr" => dst = read_prefix(value, mask)?,
            "Src port" => src_port = read_whole(value, mask, "0x0", "0xffff")?,
            "Dest port" => dst_port = read_whole(value, mask, "0x0", "0xffff")?,
            "TOS" if mask != "0xff" => return None,
            "VLAN EtherType" if mask != "0xffff" => return None,
            "User-defined" if mask != "0xffffffffffffffff" => return None,
            "VLAN" => {
                vlan = match mask {
                    "0xffff" => None,
                    "0xf000" => Some(u16::from_str_radix(value.trim_start_matches("0x"), 16).ok()? & !NOT_THE_VLAN),
                    _ => return None,
                }
            }
            "Dest MAC addr" => {
                dst_mac = match mask {
                    "00:00:00:00:00:00" => Some(value.parse().ok()?),
                    "FF:FF:FF:FF:FF:FF" => None,
                    _ => return None,
                }
            }
            "RSS Context ID" => return None,
            "Action" => to = Some(read_target(value)?),
            _ => {}
        }
    }
    Some(Filter { protocol: protocol?, src, dst, src_port, dst_port, vlan, dst_mac, to: to? })
}

fn read_prefix(address: &str, ignored: &str) -> Option<Option<Prefix>> {
    let (address, ignored): (Ipv4Addr, Ipv4Addr) = (address.parse().ok()?, ignored.parse().ok()?);
    let length = ignored.to_bits().leading_zeros();
    let contiguous = u32::MAX.checked_shr(length).unwrap_or(0) == ignored.to_bits();
    let prefix = Prefix::new(address.into(), u8::try_from(length).ok()?).filter(|_| contiguous)?;
    Some((length > 0).then_some(prefix))
}

fn read_whole(value: &str, mask: &str, all: &str, none: &str) -> Option<Option<u16>> {
    match mask {
        m if m == all => Some(Some(value.parse().ok()?)),
        m if m == none => Some(None),
        _ => None,
    }
}

fn read_target(text: &str) -> Option<FilterTarget> {
    if text == "Drop" {
        return Some(FilterTarget::Drop);
    }
    let (vf, queue) = text.strip_prefix("Direct to VF ")?.split_once(" queue ")?;
    Some(FilterTarget::Vf { vf: vf.parse().ok()?, queue: queue.trim().parse().ok()? })
}

#[cfg(test)]
mod tests;
