//! What a manifest says under `firewall`, and how it becomes rules.

use super::prefix::AddressRange;
use super::rule::{Action, Rule, TcpFlagTest};
use middlenet_sdk::wire::{TcpFlags, icmpv4, icmpv6, protocol};
use middlenet_sdk::{ConfigError, Init, OneOrMany, PortInfo, Term};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rules at most: the classifier's memory grows with their square (about 70 MB per field at this number).
pub(super) const MAX_RULES: usize = 8192;

/// Configuration of the firewall.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What happens to packets that no rule matches.
    #[serde(default)]
    pub default: Policy,
    /// The rules; the first that matches decides. At most 8192.
    #[serde(default)]
    pub rules: Vec<RuleConfig>,
    /// Whether connections are tracked: the rules then decide about first packets only, and answers pass.
    #[serde(default = "yes")]
    pub stateful: bool,
    /// ARP and IPv6 neighbour discovery.
    #[serde(default = "allow")]
    pub arp: Permission,
    /// Packets that are neither IP nor ARP.
    #[serde(default)]
    pub non_ip: Permission,
    /// Fragments after the first: pass all, drop all, or pass those whose first fragment passed.
    #[serde(default)]
    pub fragments: Fragments,
    /// Whether a TCP connection may be taken up in its middle, without a SYN, where the rules allow its packets.
    #[serde(default)]
    pub tcp_loose: bool,
    /// Connections that can be tracked at once.
    #[serde(default = "connections")]
    pub connections: usize,
    /// Connections not answered yet (TCP handshakes, unanswered UDP and pings) at once; beyond, the oldest is given up.
    #[serde(default = "half_open")]
    pub half_open: usize,
    /// For how long a rule with `steer` sends a flow elsewhere, in seconds.
    #[serde(default = "steer_s")]
    pub steer_s: u64,
    /// How long idle connections are remembered.
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// What happens to packets that no rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// They are dropped.
    #[default]
    #[serde(alias = "deny")]
    Drop,
    /// They pass.
    #[serde(alias = "accept")]
    Allow,
    /// They are dropped and their sender is told.
    Reject,
}

/// Whether a kind of packet passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// It passes.
    Allow,
    /// It is dropped.
    #[default]
    #[serde(alias = "deny")]
    Drop,
}

/// What happens to fragments after the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fragments {
    /// All pass.
    Allow,
    /// Fragments, the first included, are dropped.
    Drop,
    /// Those pass whose first fragment passed within the last 30 seconds.
    #[default]
    Track,
}

/// One rule. What is left out matches everything; of a list any value will do; all that is given must match.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// A name for the report.
    #[serde(default)]
    pub name: Option<String>,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, `gre`, `esp`, `any`, or a protocol number.
    #[serde(default)]
    pub proto: Option<OneOrMany<Term>>,
    /// Source addresses: prefixes, ranges or addresses of either IP version.
    #[serde(default)]
    pub src: Option<OneOrMany<String>>,
    /// Destination addresses.
    #[serde(default)]
    pub dst: Option<OneOrMany<String>>,
    /// Source ports: numbers or ranges like `1000-2000`.
    #[serde(default)]
    pub src_port: Option<OneOrMany<Term>>,
    /// Destination ports.
    #[serde(default)]
    pub dst_port: Option<OneOrMany<Term>>,
    /// Names of the ports of the chain the packet came in by.
    #[serde(default)]
    pub ingress: Option<OneOrMany<String>>,
    /// `forward` (in by the chain's first port) or `reverse` (by another).
    #[serde(default)]
    pub direction: Option<Direction>,
    /// ICMP types: numbers, or names such as `echo-request`.
    #[serde(default)]
    pub icmp_type: Option<OneOrMany<Term>>,
    /// TCP flags that must be set, or with `!` must not be: `syn,!ack`.
    #[serde(default)]
    pub tcp_flags: Option<String>,
    /// Where further packets of the flow, and answers to them, go past this chain: a name under `steer` in the function's
    /// entry.
    #[serde(default)]
    pub steer: Option<String>,
    /// `true`: the packet passes. `false`: it is dropped.
    #[serde(default)]
    pub allow: Option<bool>,
    /// `true`: the packet is dropped, and its sender gets a TCP reset or an ICMP error.
    #[serde(default)]
    pub reject: Option<bool>,
}

/// The way a packet travels through the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// In by the chain's first port.
    Forward,
    /// In by another port.
    Reverse,
}

/// Seconds after which an idle connection is forgotten, by its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// A SYN was seen.
    pub tcp_syn_sent_s: u64,
    /// The SYN was answered.
    pub tcp_syn_received_s: u64,
    /// The handshake is done (RFC 5382 REQ-5: at least two hours and four minutes).
    pub tcp_established_s: u64,
    /// One side has closed.
    pub tcp_fin_wait_s: u64,
    /// Both sides have closed.
    pub tcp_time_wait_s: u64,
    /// The connection was reset.
    pub tcp_closed_s: u64,
    /// UDP in one direction so far.
    pub udp_unreplied_s: u64,
    /// UDP in both directions (RFC 4787 REQ-5 asks two minutes at least).
    pub udp_replied_s: u64,
    /// ICMP queries.
    pub icmp_s: u64,
    /// Other protocols.
    pub other_s: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_syn_sent_s: 30,
            tcp_syn_received_s: 60,
            tcp_established_s: 7440,
            tcp_fin_wait_s: 120,
            tcp_time_wait_s: 60,
            tcp_closed_s: 10,
            udp_unreplied_s: 30,
            udp_replied_s: 180,
            icmp_s: 30,
            other_s: 600,
        }
    }
}

const fn yes() -> bool {
    true
}

const fn allow() -> Permission {
    Permission::Allow
}

const fn steer_s() -> u64 {
    60
}

const fn connections() -> usize {
    262_144
}

const fn half_open() -> usize {
    65_536
}

impl RuleConfig {
    /// The rule in the form packets are compared with. `number` counts from 1 and is for messages.
    pub(super) fn compile(&self, number: usize, init: &Init) -> Result<Rule, ConfigError> {
        let at = |field: &str| format!("rule {number}: `{field}`");
        let mut rule = Rule {
            action: self.action(number)?,
            protocols: parse_protocols(&self.proto, &at("proto"))?,
            src: list(&self.src, |text| AddressRange::parse(text, &at("src")))?.concat(),
            dst: list(&self.dst, |text| AddressRange::parse(text, &at("dst")))?.concat(),
            src_ports: list(&self.src_port, |term| parse_ports(term, &at("src_port")))?,
            dst_ports: list(&self.dst_port, |term| parse_ports(term, &at("dst_port")))?,
            ingress: list(&self.ingress, |name| init.port(name).map(|port| port.0))?,
            icmp_types: list(&self.icmp_type, |term| parse_icmp_type(term, &at("icmp_type")))?
                .into_iter()
                .flatten()
                .collect(),
            tcp_flags: self.tcp_flags.as_deref().map(|text| parse_flags(text, &at("tcp_flags"))).transpose()?,
        };
        if let Some(direction) = self.direction {
            let first = init.ports().first().map(|port| port.id);
            let on_side = |port: &PortInfo| (Some(port.id) == first) == (direction == Direction::Forward);
            let ports = init.ports().iter().filter(|port| on_side(port)).map(|port| port.id);
            rule.ingress = ports.filter(|id| rule.ingress.is_empty() || rule.ingress.contains(id)).collect();
            if rule.ingress.is_empty() {
                return Err(ConfigError::new(format!(
                    "rule {number}: no port is both of its `ingress` and its `direction`"
                ))
                .with_hint("name ports by one of the two"));
            }
        }
        self.check_sense(&rule, number)?;
        Ok(rule)
    }

    fn action(&self, number: usize) -> Result<Action, ConfigError> {
        match (self.allow, self.reject) {
            (Some(true), None | Some(false)) => Ok(Action::Allow),
            (Some(false), None | Some(false)) => Ok(Action::Drop),
            (None | Some(false), Some(true)) => Ok(Action::Reject),
            (None, None | Some(false)) => Err(ConfigError::new(format!("rule {number} does not say what to do"))
                .with_hint("add `allow: true`, `allow: false` or `reject: true`")),
            (Some(true), Some(true)) => Err(ConfigError::new(format!("rule {number} both allows and rejects"))
                .with_hint("keep one of `allow: true` and `reject: true`")),
        }
    }

    /// Refuses rules that can never match: they are mistakes.
    fn check_sense(&self, rule: &Rule, number: usize) -> Result<(), ConfigError> {
        let only = |fits: fn(u8) -> bool| rule.protocols.is_empty() || rule.protocols.iter().all(|&p| fits(p));
        let never = |why: String, hint: &str| Err(ConfigError::new(format!("rule {number} {why}")).with_hint(hint));
        if (!rule.src_ports.is_empty() || !rule.dst_ports.is_empty()) && !only(protocol::has_ports) {
            return never("asks for ports of a protocol that has none".into(), "use `proto: tcp`, `udp` or both");
        }
        if !rule.icmp_types.is_empty() && !only(|p| p == protocol::ICMPV4 || p == protocol::ICMPV6) {
            return never("asks for an ICMP type of another protocol".into(), "use `proto: icmp` or `proto: icmpv6`");
        }
        if rule.tcp_flags.is_some() && !only(|p| p == protocol::TCP) {
            return never("asks for TCP flags of another protocol".into(), "use `proto: tcp`");
        }
        let one_version = |v4: bool| {
            let has = |ranges: &[AddressRange]| ranges.is_empty() || ranges.iter().any(|range| range.is_ipv4() == v4);
            has(&rule.src) && has(&rule.dst)
        };
        if !one_version(true) && !one_version(false) {
            let why = "can never match: its `src` and `dst` are of different IP versions".into();
            return never(why, "split it into one rule for IPv4 and one for IPv6");
        }
        Ok(())
    }
}

fn list<T, U>(
    values: &Option<OneOrMany<T>>,
    parse: impl Fn(&T) -> Result<U, ConfigError>,
) -> Result<Vec<U>, ConfigError> {
    values.as_ref().map_or(&[][..], OneOrMany::as_slice).iter().map(parse).collect()
}

/// None for any.
fn parse_protocols(terms: &Option<OneOrMany<Term>>, at: &str) -> Result<Vec<u8>, ConfigError> {
    let protocols: Vec<Option<u8>> = list(terms, |term| parse_protocol(term, at))?;
    // `any` in a list makes the list any.
    Ok(protocols.into_iter().collect::<Option<Vec<u8>>>().unwrap_or_default())
}

fn parse_protocol(term: &Term, at: &str) -> Result<Option<u8>, ConfigError> {
    let wrong = || {
        ConfigError::new(format!("{at} {term} is no protocol"))
            .with_hint("use tcp, udp, icmp, icmpv6, sctp, dccp, gre, esp, ah, any, or a number from 0 to 255")
    };
    let text = match term {
        Term::Number(number) => return Ok(Some(u8::try_from(*number).map_err(|_| wrong())?)),
        Term::Text(text) => text,
    };
    Ok(Some(match text.as_str() {
        "any" => return Ok(None),
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        "icmp" => protocol::ICMPV4,
        "icmpv6" => protocol::ICMPV6,
        "sctp" => protocol::SCTP,
        "dccp" => protocol::DCCP,
        "gre" => protocol::GRE,
        "esp" => protocol::ESP,
        "ah" => protocol::AH,
        number => number.parse().map_err(|_| wrong())?,
    }))
}

fn parse_ports(term: &Term, at: &str) -> Result<(u16, u16), ConfigError> {
    let hint = "write a port from 0 to 65535, or a range like 1000-2000";
    let number = |text: &str| {
        text.trim().parse::<u16>().map_err(|_| ConfigError::new(format!("{at} {term} is no port")).with_hint(hint))
    };
    let text = term.to_string();
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(ConfigError::new(format!("{at} {term} ends before it begins")).with_hint(hint));
    }
    Ok((first, last))
}

fn parse_icmp_type(term: &Term, at: &str) -> Result<Vec<u8>, ConfigError> {
    let number = |n: u64| {
        u8::try_from(n).map(|n| vec![n]).map_err(|_| {
            ConfigError::new(format!("{at} {n} is no ICMP type")).with_hint("types are numbers from 0 to 255")
        })
    };
    let text = match term {
        Term::Number(n) => return number(*n),
        Term::Text(text) => text,
    };
    // A name stands for its number in ICMP and in ICMPv6; `proto` tells them apart.
    let (v4, v6) = (icmpv4::icmpv4_type::ECHO_REQUEST, icmpv6::icmpv6_type::ECHO_REQUEST);
    Ok(match text.as_str() {
        "echo-request" => vec![v4, v6],
        "echo-reply" => vec![icmpv4::icmpv4_type::ECHO_REPLY, icmpv6::icmpv6_type::ECHO_REPLY],
        "unreachable" => vec![icmpv4::icmpv4_type::DEST_UNREACHABLE, icmpv6::icmpv6_type::DEST_UNREACHABLE],
        "time-exceeded" => vec![icmpv4::icmpv4_type::TIME_EXCEEDED, icmpv6::icmpv6_type::TIME_EXCEEDED],
        "parameter-problem" => vec![icmpv4::icmpv4_type::PARAMETER_PROBLEM, icmpv6::icmpv6_type::PARAMETER_PROBLEM],
        "packet-too-big" => vec![icmpv6::icmpv6_type::PACKET_TOO_BIG],
        "redirect" => vec![icmpv4::icmpv4_type::REDIRECT, icmpv6::icmpv6_type::REDIRECT],
        other => match other.parse() {
            Ok(n) => number(n)?,
            Err(_) => {
                return Err(ConfigError::new(format!("{at} {other} is no ICMP type")).with_hint(
                    "use a number, echo-request, echo-reply, unreachable, time-exceeded, parameter-problem, packet-too-big or redirect",
                ));
            }
        },
    })
}

fn parse_flags(text: &str, at: &str) -> Result<TcpFlagTest, ConfigError> {
    let mut test = TcpFlagTest { mask: 0, value: 0 };
    for word in text.split(',').map(str::trim) {
        let (name, set) = word.strip_prefix('!').map_or((word, true), |name| (name, false));
        let flag = match name.to_ascii_lowercase().as_str() {
            "fin" => TcpFlags::FIN,
            "syn" => TcpFlags::SYN,
            "rst" => TcpFlags::RST,
            "psh" => TcpFlags::PSH,
            "ack" => TcpFlags::ACK,
            "urg" => TcpFlags::URG,
            "ece" => TcpFlags::ECE,
            "cwr" => TcpFlags::CWR,
            _ => {
                return Err(ConfigError::new(format!("{at} `{word}` is no TCP flag")).with_hint(
                    "use fin, syn, rst, psh, ack, urg, ece and cwr, with `!` for flags that must be clear: `syn,!ack`",
                ));
            }
        };
        if test.mask & flag.0 != 0 {
            return Err(ConfigError::new(format!("{at} names {name} twice")).with_hint("name each flag once"));
        }
        test.mask |= flag.0;
        test.value |= if set { flag.0 } else { 0 };
    }
    Ok(test)
}
