//! `l2-bridge`: a learning Ethernet bridge (IEEE 802.1D clause 7) between the ports of a chain.
//!
//! The source address and VLAN of each frame teach where a station is; frames to a known station leave by its port, all
//! others (unknown, broadcast, multicast) by every port but the one they came in by. A station that moves is followed by its
//! first frame on the new port.
//!
//! ```yaml
//! - l2-bridge: { ageing_s: 300, max_stations: 16384 }
//! ```
//!
//! **Bounds.** The table's memory is fixed at start. When the few places a station may take are all in use by stations that
//! have not aged, it is not learned and its traffic is flooded: a flood of made-up addresses can neither grow the table nor
//! push known stations out. Where a station's places are depends on a seed drawn at start.
//!
//! Counters: `learned`, `moved`, `not-learned`, `aged`, `known-unicast`, `flooded`; gauge `stations`.
//! Drop reasons: `same-port` (the station is where the frame came from), `reserved-address` (01:80:c2:00:00:00 to 0f, which
//! no bridge forwards), `bad-source` (a group or zero source address), `malformed`.
//!
//! Limits: no spanning tree, so the ports must not form a loop; no multicast snooping; only the outermost VLAN tag counts, and
//! every port carries every VLAN.

mod stations;

use middlenet_sdk::prelude::*;
use middlenet_sdk::wire::ethertype;
use serde_json::{Value, json};
use stations::{Learned, Stations};
use std::time::Duration;

/// Stations looked over per tick, so that a full round takes a few seconds and one tick some microseconds.
const SWEEP_PER_TICK: usize = 2048;
/// Largest table in stations, 16 bytes each.
const MAX_STATIONS: u32 = 1 << 22;

/// Configuration of `l2-bridge`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// After how many seconds without a frame a station is forgotten.
    pub ageing_s: u32,
    /// Most stations known at a time; rounded up to a power of two.
    pub max_stations: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { ageing_s: 300, max_stations: 16384 }
    }
}

/// The function; see the module's documentation.
pub struct L2Bridge {
    stations: Stations,
    reasons: Reasons,
    learned: Counter,
    moved: Counter,
    not_learned: Counter,
    aged: Counter,
    known_unicast: Counter,
    flooded: Counter,
    size: Counter,
    ports: Vec<(u8, String)>,
    ageing: Duration,
}

struct Reasons {
    same_port: DropReason,
    reserved: DropReason,
    bad_source: DropReason,
}

impl NetworkFunction for L2Bridge {
    type Config = Config;

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        if init.ports().len() < 2 {
            return Err(ConfigError::new("a bridge needs two ports").with_hint("add a port to the chain"));
        }
        if config.ageing_s == 0 {
            return Err(ConfigError::new("`ageing_s` is 0, so nothing would be learned").with_hint("300 is usual"));
        }
        if !(1..=MAX_STATIONS).contains(&config.max_stations) {
            return Err(ConfigError::new(format!("`max_stations` must be from 1 to {MAX_STATIONS}")));
        }
        Ok(Self {
            stations: Stations::new(config.max_stations as usize, config.ageing_s),
            reasons: Reasons {
                same_port: init.drop_reason("same-port", "the station is on the port the frame came in by"),
                reserved: init.drop_reason("reserved-address", "to a link-local group that bridges do not forward"),
                bad_source: init.drop_reason("bad-source", "from a group or zero link address"),
            },
            learned: init.counter("learned", "stations learned"),
            moved: init.counter("moved", "stations seen on another port than before"),
            not_learned: init.counter("not-learned", "stations for which the table had no room"),
            aged: init.counter("aged", "stations forgotten after silence"),
            known_unicast: init.counter("known-unicast", "frames sent to a known station's port"),
            flooded: init.counter("flooded", "frames sent to every other port"),
            size: init.gauge("stations", "stations known"),
            ports: init.ports().iter().map(|p| (p.id, p.name.clone())).collect(),
            ageing: Duration::from_secs(config.ageing_s.into()),
        })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        let now_s = u32::try_from(burst.now().as_secs()).unwrap_or(u32::MAX);
        for packet in burst.iter_mut() {
            let Some(head) = packet.data().first_chunk::<14>().copied() else {
                packet.drop(DropReason::MALFORMED);
                continue;
            };
            let vid = vid(&head, packet.data());
            let [dst, src] = [mac48(&head, 0), mac48(&head, 6)];
            if src & GROUP != 0 || src == 0 {
                packet.drop(self.reasons.bad_source);
                continue;
            }
            let ingress = packet.ingress();
            match self.stations.learn(src | vid, ingress.0, now_s) {
                Learned::Known => {}
                Learned::New => self.learned.inc(),
                Learned::Moved => self.moved.inc(),
                Learned::NoRoom => self.not_learned.inc(),
            }
            if dst & !0xf == RESERVED {
                packet.drop(self.reasons.reserved);
                continue;
            }
            let known = if dst & GROUP == 0 { self.stations.find(dst | vid, now_s) } else { None };
            match known {
                Some(port) if port == ingress.0 => packet.drop(self.reasons.same_port),
                Some(port) => {
                    self.known_unicast.inc();
                    packet.to_port(Port(port));
                }
                None => {
                    self.flooded.inc();
                    packet.flood();
                }
            }
        }
    }

    fn tick(&mut self, burst: &mut Burst<'_>) {
        let now_s = u32::try_from(burst.now().as_secs()).unwrap_or(u32::MAX);
        self.aged.add(self.stations.sweep(SWEEP_PER_TICK, now_s));
        self.size.set(self.stations.len() as u64);
    }

    fn inherit(&mut self, previous: Self) {
        let kept = |port: u8| {
            let name = previous.ports.iter().find(|(id, _)| *id == port).map(|(_, name)| name);
            self.ports.iter().find(|(_, now)| Some(now) == name).map(|(id, _)| *id)
        };
        for (key, port, seen_s) in previous.stations.iter() {
            if let Some(port) = kept(port) {
                self.stations.learn(key, port, seen_s);
            }
        }
        self.size.set(self.stations.len() as u64);
    }

    fn report(&self) -> Value {
        let per_port: serde_json::Map<String, Value> = self
            .ports
            .iter()
            .map(|(id, name)| (name.clone(), self.stations.iter().filter(|(_, port, _)| port == id).count().into()))
            .collect();
        json!({
            "stations": self.stations.len(),
            "capacity": self.stations.capacity(),
            "ageing_s": self.ageing.as_secs(),
            "stations_by_port": per_port,
        })
    }
}

/// The group bit of a link address read as a big-endian number.
const GROUP: u64 = 1 << 40;
/// The first of the sixteen addresses that IEEE 802.1D table 7-10 reserves.
const RESERVED: u64 = 0x0180_c200_0000;

fn mac48(head: &[u8; 14], at: usize) -> u64 {
    head[at..at + 6].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The VLAN of the outermost tag in bits 48 to 59; 0 without one.
fn vid(head: &[u8; 14], frame: &[u8]) -> u64 {
    match u16::from_be_bytes([head[12], head[13]]) {
        ethertype::VLAN | ethertype::QINQ | ethertype::QINQ_OLD => {
            frame.get(14..16).map_or(0, |tci| u64::from(u16::from_be_bytes([tci[0], tci[1]]) & 0xfff) << 48)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
