//! Steering: which of a port's packets go where, and whether that can be done.

use middlenet_plan::{BrokerPlan, Destination, ManagerPlan, PortKind, PortPlan, SteerTargetPlan, SteeringPlan};
use middlenet_sdk::{OneOrMany, Term};
use middlenet_steer::{Action, Dead, Match, PortRange, Prefix, Rule, Tables, dead_rules, ethertype};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Checker, Traffic};
use crate::diagnostic::{did_you_mean, one_of};
use crate::manifest::{SteeredPort, SteeringRule};
use crate::yaml::{Node, Span};

/// Names of protocols (IANA numbers).
const PROTOCOLS: [(&str, u8); 7] =
    [("icmp", 1), ("tcp", 6), ("udp", 17), ("gre", 47), ("esp", 50), ("icmpv6", 58), ("sctp", 132)];
/// Names of ethertypes.
const ETHER_TYPES: [(&str, u16); 3] = [("ipv4", ethertype::IPV4), ("ipv6", ethertype::IPV6), ("arp", ethertype::ARP)];
const TCP: u8 = 6;

/// Where a rule leads.
enum To<'b> {
    Action(Action),
    /// The listeners of a chain of messages.
    Listeners(&'b [SocketAddr]),
}

impl Checker<'_> {
    /// Adds the rules of the manifest to the ports of a plan, and finds ports that need some.
    pub(super) fn steering(&mut self, plan: &mut ManagerPlan, broker: Option<&BrokerPlan>, notes: &mut Vec<String>) {
        let manifest = self.manifest;
        for steered in &manifest.steering {
            let Some(port) = plan.ports.iter().position(|p| p.name == steered.port) else {
                let names = plan.ports.iter().map(|p| p.name.as_str());
                let hint = did_you_mean(&steered.port, names.clone())
                    .unwrap_or_else(|| format!("the ports are {}", one_of(names)));
                self.problem(steered.span.clone(), format!("there is no port `{}`", steered.port), Some(hint));
                continue;
            };
            let steering = self.port_steering(plan, port, steered, broker, notes);
            plan.ports[port].steering = Some(steering);
        }
        self.steer_targets(plan, broker);
        for (id, port) in plan.ports.iter().enumerate().filter(|(_, port)| port.steering.is_none()) {
            let chains: Vec<_> = chains_of(plan, id).map(|(_, name)| name).collect();
            if chains.len() > 1 {
                let message = format!("the port `{}` is in {} chains: {}", port.name, chains.len(), chains.join(", "));
                let hint = format!("say under `steering: {{ {}: [...] }}` which of its packets go to which", port.name);
                self.problem(manifest.span(["ports", port.name.as_str()]), message, Some(hint));
            }
        }
    }

    /// Where functions may steer flows.
    fn steer_targets(&mut self, plan: &mut ManagerPlan, broker: Option<&BrokerPlan>) {
        let entries: Vec<_> = self.manifest.chains.iter().flat_map(|chain| &chain.functions).collect();
        for (id, entry) in entries.into_iter().enumerate() {
            for (name, to) in entry.options.steer.iter().flatten() {
                let span = entry.option_span(&["steer", name]);
                let Some(action) = self.action(plan, to, &span, broker) else { continue };
                let Some(hop) = plan.hops.get(id) else { continue };
                let chain = &plan.chains[usize::from(hop.chain)];
                let of_chain = chain.right.iter().chain([&chain.left]).copied();
                let ports: Vec<u8> = of_chain.filter(|&port| self.can_go(plan, port, action)).collect();
                if ports.is_empty() {
                    let message = format!("no port of the chain `{}` can send packets to `{to}`", chain.name);
                    let hint = "a chain must have the port; the kernel is only behind `xdp` ports";
                    self.problem(span, message, Some(hint.into()));
                }
                for &port in &ports {
                    implicit_steering(plan, port);
                }
                plan.hops[id].steering.push(SteerTargetPlan { name: name.clone(), action, to: to.clone(), ports });
            }
        }
    }

    /// Whether packets of a port can be dealt with so.
    fn can_go(&self, plan: &ManagerPlan, port: u8, action: Action) -> bool {
        match action {
            Action::Drop => true,
            Action::Kernel => self.no_kernel_behind(&plan.ports, usize::from(port)).is_none(),
            Action::Tag(tag) => match Destination::of(tag) {
                Destination::Chain(chain) => chains_of(plan, usize::from(port)).any(|(id, _)| id == chain),
                Destination::Port(other) => other != port,
                // Only fast paths lead into the midst of a chain.
                Destination::Hop(_) => false,
            },
        }
    }

    fn port_steering(
        &mut self,
        plan: &ManagerPlan,
        port: usize,
        steered: &SteeredPort,
        broker: Option<&BrokerPlan>,
        notes: &mut Vec<String>,
    ) -> SteeringPlan {
        let mut rules = Vec::new();
        let mut to = Vec::new();
        let mut default = None;
        for (number, (form, node)) in (1..).zip(&steered.rules) {
            let Some(form) = form else { continue };
            let span = node.get("to").map_or(node.span.clone(), |n| n.span.clone());
            if default.is_some() {
                let message =
                    format!("rule {number} of `{}` is never reached: the one before takes everything", steered.port);
                self.problem(node.span.clone(), message, Some("put it first, or remove it".into()));
                break;
            }
            let Some(target) = self.target(plan, port, &form.to, &span, broker) else { continue };
            let Some(matches) = self.matches(form, node) else { continue };
            let name = form.name.clone().unwrap_or_else(|| format!("#{number}"));
            match target {
                To::Action(action) if matches == Match::default() => {
                    default = Some((action, form.to.clone()));
                }
                To::Action(action) => {
                    rules.push(Rule { name, matches, action });
                    to.push(form.to.clone());
                }
                To::Listeners(_) if matches != Match::default() => {
                    rules.push(Rule { name, matches, action: Action::Kernel });
                    to.push(form.to.clone());
                }
                To::Listeners(listeners) => {
                    for rule in listeners.iter().flat_map(|address| for_listener(&name, *address)) {
                        rules.push(rule);
                        to.push(form.to.clone());
                    }
                }
            }
        }
        self.check_names_of_rules(&rules, steered);
        let (default, last) = default.unwrap_or_else(|| self.default_of(plan, port, steered));
        to.push(last);
        if let Err(e) = Tables::compile(&rules, default) {
            self.problem(steered.span.clone(), e.to_string(), None);
        }
        for (dead, why) in dead_rules(&rules) {
            let why = match why {
                Dead::CoveredBy(by) => format!("rule {} takes all its packets before", rules[by].name),
                Dead::MatchesNothing => "what it asks for contradicts itself, so no packet matches".into(),
            };
            notes.push(format!("steering of `{}`: rule {} does nothing: {why}", steered.port, rules[dead].name));
        }
        SteeringPlan { rules, default, to }
    }

    /// What becomes of packets that no rule matches, where no rule says so.
    fn default_of(&mut self, plan: &ManagerPlan, port: usize, steered: &SteeredPort) -> (Action, String) {
        let chains: Vec<_> = chains_of(plan, port).collect();
        if let [(id, name)] = chains.as_slice() {
            return (Action::Tag(Destination::Chain(*id).tag()), (*name).to_owned());
        }
        let message = format!("the rules of `{}` do not say what becomes of all other packets", steered.port);
        let hint = "end them with a rule that has nothing but `to`, for example `- { to: kernel }`";
        self.problem(steered.span.clone(), message, Some(hint.into()));
        (Action::Drop, "drop".into())
    }

    fn target<'b>(
        &mut self,
        plan: &ManagerPlan,
        port: usize,
        to: &str,
        span: &Span,
        broker: Option<&'b BrokerPlan>,
    ) -> Option<To<'b>> {
        let action = self.action(plan, to, span, broker)?;
        let name = &plan.ports[port].name;
        match action {
            Action::Kernel => {
                if let Some((what, hint)) =
                    self.no_kernel_behind(&plan.ports, port).filter(|_| !self.shares_its_nic(&plan.ports[port].name))
                {
                    self.problem(span.clone(), format!("`{name}` is {what}"), Some(hint.into()));
                    return None;
                }
                let messages = broker.into_iter().flat_map(|b| &b.chains).find(|c| c.name == to);
                Some(messages.map_or(To::Action(action), |chain| To::Listeners(&chain.listen)))
            }
            Action::Tag(tag) if matches!(Destination::of(tag), Destination::Chain(id) if !chains_of(plan, port).any(|(c, _)| c == id)) =>
            {
                let message = format!("the chain `{to}` does not have the port `{name}`");
                let hint = format!("add `{name}` to its ports, or steer to another chain");
                self.problem(span.clone(), message, Some(hint));
                None
            }
            _ => Some(To::Action(action)),
        }
    }

    /// What a name stands for. A chain comes before a port of its name.
    fn action(&mut self, plan: &ManagerPlan, to: &str, span: &Span, broker: Option<&BrokerPlan>) -> Option<Action> {
        let chain = plan.chains.iter().position(|c| c.name == to).and_then(|id| u16::try_from(id).ok());
        let port = plan.ports.iter().position(|p| p.name == to).and_then(|id| u8::try_from(id).ok());
        let of_messages = self.manifest.message_chains.iter().any(|c| c.name == to);
        match (chain, port) {
            (Some(chain), _) => return Some(Action::Tag(Destination::Chain(chain).tag())),
            // Captures do not reach chains of messages; they are left to the kernel as far as that goes.
            _ if of_messages && (broker.is_some() || matches!(self.traffic, Traffic::Captures(_))) => {
                return Some(Action::Kernel);
            }
            (None, Some(port)) => return Some(Action::Tag(Destination::Port(port).tag())),
            (None, None) => {}
        }
        match to {
            "drop" => return Some(Action::Drop),
            "kernel" => return Some(Action::Kernel),
            _ => {}
        }
        let messages = self.manifest.message_chains.iter().map(|c| c.name.as_str());
        let known = plan.chains.iter().map(|c| c.name.as_str()).chain(messages);
        let known: Vec<_> = known.chain(plan.ports.iter().map(|p| p.name.as_str())).chain(["kernel", "drop"]).collect();
        let hint = did_you_mean(to, known.iter().copied())
            .unwrap_or_else(|| format!("packets can go to {}", one_of(known.iter().copied())));
        self.problem(span.clone(), format!("there is no chain or port `{to}`"), Some(hint));
        None
    }

    /// Why packets of a port cannot be left to the kernel's stack, and what to do instead; nothing if they can.
    pub(super) fn no_kernel_behind(&self, ports: &[PortPlan], port: usize) -> Option<(&'static str, &'static str)> {
        if matches!(self.traffic, Traffic::Captures(_)) {
            return None;
        }
        let port = &ports[port];
        let form = self.manifest.ports.iter().find(|p| p.name == port.name).and_then(|p| p.form.as_ref());
        match &port.kind {
            PortKind::Xdp { .. } if form.is_some_and(|f| f.kernel.is_some()) => Some((
                "a kernel port: its packets come from the kernel",
                "steer them to a chain, to a port, or to `drop`",
            )),
            PortKind::Xdp { .. } => None,
            PortKind::Dpdk { .. } => Some((
                "a DPDK port: the kernel does not see its packets",
                "use an `xdp` port; a `vf` port, whose NIC splits by MAC address; a NIC that splits by itself (`middlenet ports`: SPLITS); or a chain that ends in a `kernel` port",
            )),
            PortKind::Pcap { .. } => {
                Some(("a capture: there is no kernel behind it", "steer them to a chain or to `drop`"))
            }
        }
    }

    fn check_names_of_rules(&mut self, rules: &[Rule], steered: &SteeredPort) {
        let mut seen = std::collections::HashSet::new();
        if let Some(twin) = rules.iter().find(|rule| !seen.insert(rule.name.as_str())) {
            let message = format!("two rules of `{}` are called `{}`", steered.port, twin.name);
            self.problem(steered.span.clone(), message, Some("give each a name of its own, or none".into()));
        }
    }

    fn matches(&mut self, form: &SteeringRule, node: &Node) -> Option<Match> {
        let before = self.problems.len();
        let mut read = Reader { checker: self, node };
        let matches = Match {
            vlans: read.list("vlan", form.vlan.as_ref(), vlan),
            src_macs: read.list("src_mac", form.src_mac.as_ref(), mac),
            dst_macs: read.list("dst_mac", form.dst_mac.as_ref(), mac),
            ether_types: read.list("ether_type", form.ether_type.as_ref(), |text| {
                number(text, &ETHER_TYPES, "`ipv4`, `ipv6`, `arp`, or a number such as 0x88b5")
            }),
            src: read.list("src", form.src.as_ref(), prefix),
            dst: read.list("dst", form.dst.as_ref(), prefix),
            arp_targets: read.list("arp", form.arp.as_ref(), |text| match prefix(text)? {
                prefix if prefix.is_ipv4() => Ok(prefix),
                _ => Err("ARP asks for addresses of IPv4; neighbours of IPv6 are found with `proto: icmpv6`".into()),
            }),
            protocols: read.list("proto", form.proto.as_ref(), |text| {
                number(text, &PROTOCOLS, "`tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, `gre`, `esp`, or a number up to 255")
            }),
            src_ports: read.list("src_port", form.src_port.as_ref(), ports),
            dst_ports: read.list("dst_port", form.dst_port.as_ref(), ports),
            fragments: form.fragment,
        };
        (self.problems.len() == before).then_some(matches)
    }
}

/// Reads the fields of a rule; what is wrong goes to the checker.
struct Reader<'r, 'a> {
    checker: &'r mut Checker<'a>,
    node: &'r Node,
}

impl Reader<'_, '_> {
    fn list<T>(
        &mut self,
        field: &str,
        terms: Option<&OneOrMany<Term>>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let mut values = Vec::new();
        let terms = terms.map(OneOrMany::as_slice);
        if terms.is_some_and(<[Term]>::is_empty) {
            let message = format!("`{field}` is an empty list, which nothing matches");
            let span = self.span(field);
            self.checker.problem(span, message, Some("remove it to match everything".into()));
        }
        for term in terms.unwrap_or_default() {
            match read(&term.to_string()) {
                Ok(value) => values.push(value),
                Err(why) => {
                    let span = self.span(field);
                    self.checker.problem(span, format!("`{field}`: {why}"), None);
                }
            }
        }
        values
    }

    fn span(&self, field: &str) -> Span {
        self.node.get(field).map_or(self.node.span.clone(), |n| n.span.clone())
    }
}

/// Gives a port of one chain rules, of which it has none, so that flows can be steered there.
pub(super) fn implicit_steering(plan: &mut ManagerPlan, port: u8) {
    let at = usize::from(port);
    if plan.ports[at].steering.is_some() {
        return;
    }
    let chains: Vec<_> = chains_of(plan, at).collect();
    let [(chain, name)] = chains[..] else { return };
    let (default, to) = (Action::Tag(Destination::Chain(chain).tag()), vec![name.to_owned()]);
    plan.ports[at].steering = Some(SteeringPlan { rules: Vec::new(), default, to });
}

/// Chains that a port belongs to.
fn chains_of(plan: &ManagerPlan, port: usize) -> impl Iterator<Item = (u16, &str)> {
    let has = move |p: u8| usize::from(p) == port;
    let chains = (0..).zip(&plan.chains);
    chains.filter(move |(_, c)| has(c.left) || c.right.iter().any(|&p| has(p))).map(|(id, c)| (id, c.name.as_str()))
}

/// What the kernel needs for a listener to be reached: connections, errors about them (ICMP), and questions for its link
/// address (ARP; neighbour discovery, RFC 4861).
fn for_listener(name: &str, listener: SocketAddr) -> Vec<Rule> {
    let rule =
        |what: &str, matches| Rule { name: format!("{name} {what} {listener}"), matches, action: Action::Kernel };
    let here = |address: IpAddr| if address.is_unspecified() { Vec::new() } else { vec![Prefix::from(address)] };
    let to = here(listener.ip());
    let v4 = listener.is_ipv4();
    let ether_types = vec![if v4 { ethertype::IPV4 } else { ethertype::IPV6 }];
    let dst_ports = vec![PortRange::from(listener.port())];
    let protocol = |protocol: u8| Match {
        ether_types: ether_types.clone(),
        dst: to.clone(),
        protocols: vec![protocol],
        ..Match::default()
    };
    let connections = rule("tcp", Match { dst_ports, ..protocol(TCP) });
    let (errors, neighbours) = match listener.ip() {
        IpAddr::V4(_) => {
            let arp = Match { ether_types: vec![ethertype::ARP], arp_targets: to.clone(), ..Match::default() };
            (rule("icmp", protocol(1)), rule("arp", arp))
        }
        IpAddr::V6(address) => {
            let dst = if address.is_unspecified() { Vec::new() } else { vec![solicited_node(address).into()] };
            (rule("icmpv6", protocol(58)), rule("neighbours", Match { dst, ..protocol(58) }))
        }
    };
    vec![connections, errors, neighbours]
}

/// The multicast address that asks for a neighbour (RFC 4291 section 2.7.1).
fn solicited_node(address: Ipv6Addr) -> IpAddr {
    let low = address.to_bits() & 0xff_ffff;
    let base = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).to_bits();
    Ipv6Addr::from_bits(base | low).into()
}

fn prefix(text: &str) -> Result<Prefix, String> {
    Prefix::from_str(text).map_err(|e| e.to_string())
}

fn vlan(text: &str) -> Result<u16, String> {
    match text {
        "untagged" => Ok(0),
        _ => match text.parse() {
            Ok(vlan @ 1..=4094) => Ok(vlan),
            _ => Err(format!("`{text}` is no VLAN: write a number from 1 to 4094, or `untagged`")),
        },
    }
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let address: Result<middlenet_sdk::wire::MacAddr, _> = text.parse();
    address.map(|mac| mac.octets()).map_err(|_| format!("`{text}` is no MAC address: write it like 02:00:00:00:00:01"))
}

/// A number, decimal or hexadecimal, or its name.
fn number<T: Copy + TryFrom<u64>>(text: &str, names: &[(&str, T)], known: &str) -> Result<T, String> {
    if let Some((_, number)) = names.iter().find(|(name, _)| *name == text) {
        return Ok(*number);
    }
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.ok().and_then(|n| T::try_from(n).ok()).ok_or_else(|| format!("`{text}` is not known: write {known}"))
}

fn ports(text: &str) -> Result<PortRange, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok(PortRange { first, last }),
        _ => Err(format!("`{text}` is no port or range of ports: write 80 or 1000-2000")),
    }
}
