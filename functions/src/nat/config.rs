//! What a manifest says under `nat`.

use crate::firewall::prefix::{AddressRange, address_of, number};
use middlenet_sdk::wire::protocol;
use middlenet_sdk::{ConfigError, Init, Port};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Pool addresses at most: each has three port maps of 8 KiB.
const MAX_POOL: usize = 256;

/// Configuration of the address translator.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The chain's ports behind which the inside hosts are; all others are outside.
    pub inside: Names,
    /// Outside addresses to translate to: addresses, prefixes or ranges of either IP version, 256 addresses at most. IPv6
    /// is translated only if there are IPv6 addresses here; else it passes untouched.
    pub pool: Names,
    /// Inside addresses to translate: addresses, prefixes or ranges. Packets between two of them are not translated, and those
    /// from outside straight to one are dropped; so where hosts outside have private addresses as well, name the networks that are
    /// inside. Default: the private IPv4 ranges (RFC 1918), shared address space (RFC 6598) and unique local IPv6 addresses
    /// (RFC 4193).
    #[serde(default = "sources")]
    pub sources: Vec<String>,
    /// Outside TCP and UDP ports to use, as `first-last`.
    #[serde(default = "ports")]
    pub ports: String,
    /// Which packets from outside may use a mapping.
    #[serde(default)]
    pub filtering: Filtering,
    /// Outside endpoints that lead to inside ones.
    #[serde(default)]
    pub forwards: Vec<Forward>,
    /// Whether inside hosts reach each other by their outside addresses.
    #[serde(default = "yes")]
    pub hairpin: bool,
    /// Whether ARP and neighbour solicitations for pool addresses are answered on outside ports.
    #[serde(default)]
    pub proxy_arp: bool,
    /// What happens to packets to a pool address that no mapping wants.
    #[serde(default)]
    pub unsolicited: Unsolicited,
    /// Sessions at most.
    #[serde(default = "sessions")]
    pub sessions: usize,
    /// Outside ports that one inside host may have at once.
    #[serde(default = "ports_per_host")]
    pub ports_per_host: u32,
    /// Sessions that one inside host may have at once.
    #[serde(default = "sessions_per_host")]
    pub sessions_per_host: u32,
    /// How long idle sessions are remembered.
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// One name or a list.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Names {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Names {
    pub(super) fn as_slice(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

/// Which packets from outside may use a mapping (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Any: best for peer-to-peer programs.
    EndpointIndependent,
    /// Those from an address and port the inside host has sent to.
    #[default]
    AddressAndPortDependent,
}

/// What happens to packets to a pool address that no mapping wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unsolicited {
    /// They are dropped.
    #[default]
    Drop,
    /// They go on untranslated, to a router that owns the address.
    Pass,
}

/// An outside endpoint that leads to an inside one.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// `tcp` or `udp`.
    pub proto: Transport,
    /// Pool address and port, like `203.0.113.1:8080`.
    pub outside: String,
    /// Inside address and port, like `10.0.0.5:80`.
    pub inside: String,
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Seconds after which idle sessions are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// TCP after the handshake (RFC 5382 REQ-5: two hours and four minutes at least).
    pub tcp_established_s: u64,
    /// TCP that opens or closes (RFC 5382 REQ-5: four minutes at least).
    pub tcp_transitory_s: u64,
    /// UDP (RFC 4787 REQ-5: five minutes recommended).
    pub udp_s: u64,
    /// ICMP queries (RFC 5508 REQ-2: a minute at least).
    pub icmp_s: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { tcp_established_s: 7440, tcp_transitory_s: 240, udp_s: 300, icmp_s: 60 }
    }
}

fn sources() -> Vec<String> {
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"].map(String::from).to_vec()
}

fn ports() -> String {
    "1024-65535".into()
}

const fn yes() -> bool {
    true
}

const fn sessions() -> usize {
    262_144
}

const fn ports_per_host() -> u32 {
    2048
}

const fn sessions_per_host() -> u32 {
    16_384
}

/// What decides how packets are translated: state may be inherited only between instances that agree on it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scheme {
    pub(super) inside: Vec<Port>,
    pub(super) pool: Vec<u128>,
    pub(super) sources: Vec<AddressRange>,
    pub(super) ports: (u16, u16),
    pub(super) forwards: Vec<(u8, u128, u16, u128, u16)>,
    pub(super) sessions: usize,
    pub(super) ports_per_host: u32,
    pub(super) sessions_per_host: u32,
}

impl Config {
    pub(super) fn scheme(&self, init: &Init) -> Result<Scheme, ConfigError> {
        let inside: Vec<Port> = self.inside.as_slice().iter().map(|name| init.port(name)).collect::<Result<_, _>>()?;
        if inside.is_empty() || init.ports().iter().all(|port| inside.contains(&Port(port.id))) {
            return Err(ConfigError::new("`inside` must leave a port outside, and name one")
                .with_hint("name the port that leads to the inside hosts: `inside: lan`"));
        }
        if !(1..=1 << 24).contains(&self.sessions) {
            return Err(ConfigError::new(format!("`sessions` of {} is not between 1 and {}", self.sessions, 1 << 24))
                .with_hint("a session takes about 200 bytes"));
        }
        if self.ports_per_host == 0 || self.sessions_per_host == 0 {
            return Err(ConfigError::new("`ports_per_host` and `sessions_per_host` of 0 let no host out")
                .with_hint("leave them out for 2048 ports and 16384 sessions"));
        }
        let pool = pool(self.pool.as_slice())?;
        let sources: Result<Vec<_>, _> = self.sources.iter().map(|s| AddressRange::parse(s, "`sources`")).collect();
        let sources = sources?.concat();
        if let Some(&address) = pool.iter().find(|&&address| sources.iter().any(|range| range.contains(address))) {
            // What is a source is inside: whoever sits beside this address would get packets untranslated.
            let sources = self.sources.join(", ");
            return Err(ConfigError::new(format!(
                "{} of `pool` is also one of `sources` ({sources}), which are inside",
                address_of(address)
            ))
            .with_hint("name the networks that are inside: `sources: [192.168.1.0/24]`"));
        }
        let forwards = self.forwards.iter().map(|forward| forward.parse(&pool)).collect::<Result<Vec<_>, _>>()?;
        for (i, forward) in forwards.iter().enumerate() {
            if forwards[..i].iter().any(|f| (f.0, f.1, f.2) == (forward.0, forward.1, forward.2)) {
                return Err(ConfigError::new(format!("two forwards use {}", self.forwards[i].outside))
                    .with_hint("give each forward an outside port of its own"));
            }
            if forwards[..i].iter().any(|f| (f.0, f.3, f.4) == (forward.0, forward.3, forward.4)) {
                return Err(ConfigError::new(format!("two forwards lead to {}", self.forwards[i].inside))
                    .with_hint("an inside endpoint has one outside endpoint (endpoint-independent mapping)"));
            }
        }
        Ok(Scheme {
            inside,
            pool,
            sources,
            ports: port_range(&self.ports)?,
            forwards,
            sessions: self.sessions,
            ports_per_host: self.ports_per_host,
            sessions_per_host: self.sessions_per_host,
        })
    }
}

fn pool(texts: &[String]) -> Result<Vec<u128>, ConfigError> {
    let mut pool = Vec::new();
    for text in texts {
        for range in AddressRange::parse(text, "`pool`")? {
            if range.last - range.first >= MAX_POOL as u128 {
                return Err(ConfigError::new(format!("`pool` {text} has more than {MAX_POOL} addresses"))
                    .with_hint("one address serves about 64000 ports per protocol: a few are enough"));
            }
            pool.extend(range.first..=range.last);
        }
    }
    pool.sort_unstable();
    pool.dedup();
    match pool.len() {
        0 => Err(ConfigError::new("`pool` is empty").with_hint("name an outside address: `pool: 203.0.113.1`")),
        n if n > MAX_POOL => Err(ConfigError::new(format!("`pool` has {n} addresses, more than {MAX_POOL}"))
            .with_hint("one address serves about 64000 ports per protocol: a few are enough")),
        _ => Ok(pool),
    }
}

fn port_range(text: &str) -> Result<(u16, u16), ConfigError> {
    let parsed =
        text.split_once('-').and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    parsed.filter(|&(first, last): &(u16, u16)| 0 < first && first <= last).ok_or_else(|| {
        ConfigError::new(format!("`ports` `{text}` is no range of ports")).with_hint("write it like 1024-65535")
    })
}

impl Forward {
    fn parse(&self, pool: &[u128]) -> Result<(u8, u128, u16, u128, u16), ConfigError> {
        let endpoint = |text: &str| {
            text.parse::<SocketAddr>().ok().filter(|endpoint| endpoint.port() != 0).ok_or_else(|| {
                ConfigError::new(format!("`forwards`: `{text}` is no address with a port"))
                    .with_hint("write it like 203.0.113.1:8080 or [2001:db8::1]:8080")
            })
        };
        let (outside, inside) = (endpoint(&self.outside)?, endpoint(&self.inside)?);
        if outside.is_ipv4() != inside.is_ipv4() {
            return Err(ConfigError::new(format!("`forwards`: {outside} and {inside} are of different IP versions"))
                .with_hint("nat does not translate between IPv4 and IPv6"));
        }
        if !pool.contains(&number(outside.ip())) {
            return Err(ConfigError::new(format!("`forwards`: {} is not in the pool", outside.ip()))
                .with_hint("add the address to `pool`"));
        }
        let protocol = if self.proto == Transport::Tcp { protocol::TCP } else { protocol::UDP };
        Ok((protocol, number(outside.ip()), outside.port(), number(inside.ip()), inside.port()))
    }
}
