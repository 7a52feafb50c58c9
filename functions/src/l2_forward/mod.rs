//! `l2-forward`: passes packets between two ports and rewrites their link addresses, like a router whose answer is always
//! "the other port".
//!
//! What came in by one port leaves by the other. The source address becomes that of the egress port and the destination
//! address what `dst` says, so that stations on either side see frames of their own link only.
//!
//! ```yaml
//! - l2-forward:
//!     src: port                              # the egress port's own address (default), or keep, or an address
//!     dst: { lan: "02:00:00:00:02:01" }      # per egress port; or one address for both; or keep (default)
//!     ports: [wan, lan]                      # needed only where the chain has more than two
//! ```
//!
//! Counters: `forwarded`, `runts` (shorter than an Ethernet header; dropped as `malformed`), `other-ports` (came in by a
//! port outside the pair, passed on as they are).
//!
//! Limits: two ports; no look-up of stations (see [`crate::l2_bridge`]); VLAN tags are left as they are.

use crate::LinkAddress;
use middlenet_sdk::prelude::*;
use std::collections::BTreeMap;

/// Configuration of `l2-forward`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The two ports; may be left out where the chain has exactly two.
    pub ports: Option<[String; 2]>,
    /// Source address of what leaves.
    #[serde(default)]
    pub src: Source,
    /// Destination address of what leaves.
    #[serde(default)]
    pub dst: Destination,
}

/// What becomes of the source address.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Source {
    /// A word.
    Word(SourceWord),
    /// This address, on either port.
    Address(LinkAddress),
}

/// Sources that have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceWord {
    /// The egress port's own address; kept where the port has none.
    Port,
    /// Left as it is.
    Keep,
}

impl Default for Source {
    fn default() -> Self {
        Self::Word(SourceWord::Port)
    }
}

/// What becomes of the destination address.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Destination {
    /// A word.
    Word(DestinationWord),
    /// This address, on either port.
    Address(LinkAddress),
    /// By egress port; kept for a port that is not named.
    PerPort(BTreeMap<String, LinkAddress>),
}

/// Destinations that have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DestinationWord {
    /// Left as it is.
    Keep,
}

impl Default for Destination {
    fn default() -> Self {
        Self::Word(DestinationWord::Keep)
    }
}

/// What happens to packets of one ingress port: 16 bytes of frame, `bytes & keep | set`.
#[derive(Clone, Copy, Debug)]
struct Rewrite {
    keep: u128,
    set: u128,
    /// Whether the ingress port is one of the pair.
    ours: bool,
    /// Where to, if that is not where the chain leads anyway.
    port: Option<Port>,
}

const UNTOUCHED: Rewrite = Rewrite { keep: u128::MAX, set: 0, ours: false, port: None };

/// The function; see the module's documentation.
pub struct L2Forward {
    by_ingress: Box<[Rewrite; 256]>,
    forwarded: Counter,
    runts: Counter,
    other_ports: Counter,
}

impl NetworkFunction for L2Forward {
    type Config = Config;

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        let pair = pair(&config, init)?;
        if let Destination::PerPort(by_name) = &config.dst {
            for name in by_name.keys() {
                if !pair.iter().any(|port| port.name == *name) {
                    return Err(ConfigError::new(format!("`dst` names `{name}`, which is not one of the two ports"))
                        .with_hint(format!("the ports are: {}, {}", pair[0].name, pair[1].name)));
                }
            }
        }
        let mut by_ingress = Box::new([UNTOUCHED; 256]);
        let explicit = init.ports().len() > 2;
        for (ingress, egress) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
            let src = match config.src {
                Source::Word(SourceWord::Port) => Some(egress.mac).filter(|mac| *mac != [0; 6]),
                Source::Word(SourceWord::Keep) => None,
                Source::Address(address) => Some(address.octets()),
            };
            let dst = match &config.dst {
                Destination::Word(DestinationWord::Keep) => None,
                Destination::Address(address) => Some(address.octets()),
                Destination::PerPort(by_name) => by_name.get(&egress.name).map(|address| address.octets()),
            };
            by_ingress[usize::from(ingress.id)] =
                Rewrite { port: explicit.then_some(Port(egress.id)), ..Rewrite::new(dst, src) };
        }
        Ok(Self {
            by_ingress,
            forwarded: init.counter("forwarded", "packets passed to the other port"),
            runts: init.counter("runts", "packets shorter than an Ethernet header"),
            other_ports: init.counter("other-ports", "packets of ports outside the pair, passed on untouched"),
        })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        let packets = burst.len() as u64;
        let (mut runts, mut others) = (0, 0);
        for mut packet in burst.iter_mut() {
            let rewrite = &self.by_ingress[usize::from(packet.ingress().0)];
            others += u64::from(!rewrite.ours);
            let data = packet.data_mut();
            if let Some(start) = data.first_chunk_mut::<16>() {
                *start = (u128::from_ne_bytes(*start) & rewrite.keep | rewrite.set).to_ne_bytes();
            } else if let Some(start) = data.first_chunk_mut::<14>() {
                let mut padded = [0; 16];
                padded[..14].copy_from_slice(start);
                padded = (u128::from_ne_bytes(padded) & rewrite.keep | rewrite.set).to_ne_bytes();
                start.copy_from_slice(&padded[..14]);
            } else {
                runts += 1;
                packet.drop(DropReason::MALFORMED);
                continue;
            }
            if let Some(port) = rewrite.port {
                packet.to_port(port);
            }
        }
        self.forwarded.add(packets.saturating_sub(runts + others));
        if runts + others > 0 {
            self.runts.add(runts);
            self.other_ports.add(others);
        }
    }
}

impl Rewrite {
    fn new(dst: Option<[u8; 6]>, src: Option<[u8; 6]>) -> Self {
        let (mut keep, mut set) = ([0xff; 16], [0; 16]);
        for (place, address) in [(0, dst), (6, src)] {
            if let Some(address) = address {
                keep[place..place + 6].fill(0);
                set[place..place + 6].copy_from_slice(&address);
            }
        }
        Self { keep: u128::from_ne_bytes(keep), set: u128::from_ne_bytes(set), ours: true, port: None }
    }
}

fn pair(config: &Config, init: &Init) -> Result<[PortInfo; 2], ConfigError> {
    let Some([a, b]) = &config.ports else {
        return <[PortInfo; 2]>::try_from(init.ports().to_vec()).map_err(|ports| {
            ConfigError::new(format!("l2-forward works between two ports and the chain has {}", ports.len()))
                .with_hint("name the pair, as in `ports: [wan, lan]`")
        });
    };
    if a == b {
        return Err(ConfigError::new(format!("`ports` names `{a}` twice")).with_hint("l2-forward needs two ports"));
    }
    let (a, b) = (init.port(a)?, init.port(b)?);
    let info = |port: Port| init.ports().iter().find(|p| p.id == port.0).cloned();
    match (info(a), info(b)) {
        (Some(a), Some(b)) => Ok([a, b]),
        _ => Err(ConfigError::new("the chain's ports changed while they were read")),
    }
}

#[cfg(test)]
mod tests;
