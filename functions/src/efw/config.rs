//! Rules as configurations write them.

use super::table::Matcher;
use middlenet_sdk::prelude::*;
use middlenet_sdk::wire::protocol;
use middlenet_sdk::{OneOrMany, Term};
use middlenet_steer::Prefix;

/// Rules at most: those of `firewall`.
pub(super) const MAX_RULES: usize = 8192;
/// What to do with a rule that asks for more than one thing.
const ELSEWHERE: &str =
    "efw looks at one thing in a rule; put this one into the `firewall` behind it (the same keys), or into nftables";

/// Configuration of `efw`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The rules; the first that matches decides. At most 8192, with 65,536 prefixes of sources and as many of destinations.
    #[serde(default)]
    pub rules: Vec<RuleConfig>,
}

/// One rule. It asks for exactly one of `src`, `dst`, `src_port` and `dst_port`; of a list any value will do.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// A name for the report.
    #[serde(default)]
    pub name: Option<String>,
    /// Source addresses: prefixes or addresses of either IP version.
    #[serde(default)]
    pub src: Option<OneOrMany<String>>,
    /// Destination addresses.
    #[serde(default)]
    pub dst: Option<OneOrMany<String>>,
    /// Source ports of TCP and UDP: numbers or ranges like `1000-2000`.
    #[serde(default)]
    pub src_port: Option<OneOrMany<Term>>,
    /// Destination ports of TCP and UDP.
    #[serde(default)]
    pub dst_port: Option<OneOrMany<Term>>,
    /// With ports: `tcp`, `udp`, or both, as without.
    #[serde(default)]
    pub proto: Option<OneOrMany<String>>,
    /// `true`: the packet passes. `false`: it is dropped.
    pub allow: bool,
}

impl RuleConfig {
    /// What the rule asks for. `number` counts from 1 and is for messages.
    pub(super) fn matcher(&self, number: usize) -> Result<Matcher, ConfigError> {
        let refuse = |why: &str, hint: &str| Err(ConfigError::new(format!("rule {number} {why}")).with_hint(hint));
        let asks = [self.src.is_some(), self.dst.is_some(), self.src_port.is_some(), self.dst_port.is_some()];
        match asks.iter().filter(|&&asks| asks).count() {
            1 => {}
            0 => return refuse("asks for nothing", "add one of `src`, `dst`, `src_port` and `dst_port`"),
            _ => return refuse("asks for more than one thing", ELSEWHERE),
        }
        let has_ports = self.src_port.is_some() || self.dst_port.is_some();
        if self.proto.is_some() && !has_ports {
            return refuse("asks for addresses and a protocol, which are two things", ELSEWHERE);
        }
        let protocols = self.protocols(number)?;
        if let Some(ports) = &self.src_port {
            return Ok(Matcher::SrcPorts(protocols, ports_of(ports, number, "src_port")?));
        }
        if let Some(ports) = &self.dst_port {
            return Ok(Matcher::DstPorts(protocols, ports_of(ports, number, "dst_port")?));
        }
        let is_src = self.src.is_some();
        let (texts, field) = if is_src { (&self.src, "src") } else { (&self.dst, "dst") };
        let texts = texts.as_ref().map_or(&[][..], OneOrMany::as_slice);
        let prefixes = texts.iter().map(|text| prefix_of(text, number, field)).collect::<Result<Vec<_>, _>>()?;
        if prefixes.is_empty() {
            return refuse(&format!("has an empty `{field}`"), "name a prefix, or take the rule out");
        }
        Ok(if is_src { Matcher::Src(prefixes) } else { Matcher::Dst(prefixes) })
    }

    fn protocols(&self, number: usize) -> Result<Vec<u8>, ConfigError> {
        let Some(names) = &self.proto else { return Ok(vec![protocol::TCP, protocol::UDP]) };
        let protocols = names.as_slice().iter().map(|name| match name.as_str() {
            "tcp" => Ok(protocol::TCP),
            "udp" => Ok(protocol::UDP),
            other => {
                Err(ConfigError::new(format!("rule {number}: efw has no ports of `{other}`")).with_hint(ELSEWHERE))
            }
        });
        protocols.collect()
    }
}

fn prefix_of(text: &str, number: usize, field: &str) -> Result<Prefix, ConfigError> {
    let wrong = |why: String| ConfigError::new(format!("rule {number}: `{field}`: {why}"));
    let prefix: Prefix = text.parse().map_err(|e: middlenet_steer::BadPrefix| wrong(e.to_string()))?;
    let mapped: Option<std::net::Ipv4Addr> = match prefix.address() {
        std::net::IpAddr::V6(address) if prefix.length() >= 96 => address.to_ipv4_mapped(),
        _ => None,
    };
    match mapped {
        None => Ok(prefix),
        Some(address) => Err(wrong(format!("`{text}` is a prefix of IPv4 in the form of IPv6"))
            .with_hint(format!("write {address}/{}", prefix.length() - 96))),
    }
}

fn ports_of(terms: &OneOrMany<Term>, number: usize, field: &str) -> Result<Vec<(u16, u16)>, ConfigError> {
    let ports = terms.as_slice().iter().map(|term| {
        let text = term.to_string();
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
            _ => Err(ConfigError::new(format!("rule {number}: `{field}` {term} is no port or range of ports"))
                .with_hint("write a port from 0 to 65535, or a range like 1000-2000")),
        }
    });
    let ports = ports.collect::<Result<Vec<(u16, u16)>, ConfigError>>()?;
    if ports.is_empty() {
        return Err(ConfigError::new(format!("rule {number} has an empty `{field}`"))
            .with_hint("name a port, or take the rule out"));
    }
    Ok(ports)
}
