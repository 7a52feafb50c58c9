//! What the manifest says about services and servers, and what it comes to.

use super::feedback::Adjustment;
use super::load::{HttpLoad, SnmpLoad};
use middlenet_sdk::fast_path::Service;
use middlenet_sdk::prelude::*;
use middlenet_sdk::wire::protocol;
use std::collections::HashSet;
use std::net::IpAddr;

/// Services at most.
pub(super) const MAX_SERVICES: usize = 256;
/// Servers of all services at most.
pub(super) const MAX_SERVERS: usize = 1024;
/// Slots of all services at most.
pub(super) const MAX_SLOTS: usize = 1 << 16;
/// Largest weight.
const MAX_WEIGHT: u32 = 65_535;

/// Configuration of `elb`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What clients connect to, and the servers behind. At most 256, with 1024 servers.
    pub services: Vec<ServiceConfig>,
    /// Slots of each service, over which its clients are spread: the unit of weights.
    #[serde(default = "slots")]
    pub slots: u32,
    /// Connections known at a time.
    #[serde(default = "connections")]
    pub connections: usize,
    /// How long connections are remembered.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Where the load of servers is asked for, which changes their weights. Without it, weights stay as configured, and all servers
    /// are taken to be up.
    #[serde(default)]
    pub feedback: Option<Feedback>,
}

/// An address and port behind which there are servers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// A name for the report.
    #[serde(default)]
    pub name: Option<String>,
    /// The address that clients know.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    #[serde(default)]
    pub protocol: Transport,
    /// The servers.
    pub servers: Vec<ServerConfig>,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A server.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Its address, of the service's IP version.
    pub address: IpAddr,
    /// Its port, if not the service's.
    #[serde(default)]
    pub port: Option<u16>,
    /// Its part of new connections, beside the others'. 0: none.
    #[serde(default = "weight")]
    pub weight: u32,
    /// Whether it is on its way out: it gets no new connections, and keeps those it has.
    #[serde(default)]
    pub drain: bool,
    /// Where its load is asked for, if not at its own address: one that this host's kernel reaches, by a network for management, say.
    #[serde(default)]
    pub agent: Option<IpAddr>,
}

/// After how long a connection is forgotten, in seconds.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Of TCP, without a packet.
    pub tcp_s: u32,
    /// Of UDP, without a packet.
    pub udp_s: u32,
    /// Of TCP, once both sides have closed it or one has reset it.
    pub closing_s: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        // Those of IPVS.
        Self { tcp_s: 900, udp_s: 300, closing_s: 120 }
    }
}

impl Timeouts {
    /// After how much silence a connection is over, in nanoseconds: whether its service is still configured or not.
    pub(super) fn idle_ns(&self, protocol: u8, is_closing: bool) -> u64 {
        let idle_s = if protocol == protocol::TCP { self.tcp_s } else { self.udp_s };
        u64::from(if is_closing { idle_s.min(self.closing_s) } else { idle_s }) * 1_000_000_000
    }
}

/// Where the load of servers is asked for: by `snmp` or by `http`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Feedback {
    /// SNMP v2c.
    #[serde(default)]
    pub snmp: Option<SnmpLoad>,
    /// HTTP.
    #[serde(default)]
    pub http: Option<HttpLoad>,
    /// Milliseconds from poll to poll.
    #[serde(default = "interval_ms")]
    pub interval_ms: u32,
    /// Milliseconds until a poll has failed.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u32,
    /// Failed polls in a row after which a server gets no new connections, until it answers again. 0: silence says nothing about the
    /// server.
    #[serde(default = "fails")]
    pub fails: u32,
    /// Seconds for which a silent server keeps its last weight. Then it has the configured one.
    #[serde(default = "silent_s")]
    pub silent_s: u32,
    /// How weights follow the load.
    #[serde(default)]
    pub adjustment: Adjustment,
}

const fn slots() -> u32 {
    256
}

const fn connections() -> usize {
    65_536
}

const fn weight() -> u32 {
    100
}

const fn interval_ms() -> u32 {
    2000
}

const fn timeout_ms() -> u32 {
    1000
}

const fn fails() -> u32 {
    3
}

const fn silent_s() -> u32 {
    30
}

/// A service, checked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ServicePlan {
    pub(super) name: Option<String>,
    pub(super) service: Service,
    pub(super) servers: Vec<ServerPlan>,
}

/// A server, checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ServerPlan {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) weight: f64,
    pub(super) drain: bool,
    pub(super) agent: IpAddr,
}

impl Config {
    /// The services, or what is wrong with them.
    pub(super) fn services(&self) -> Result<Vec<ServicePlan>, ConfigError> {
        let slots = self.slots as usize;
        if !(8..=4096).contains(&slots) {
            return Err(
                ConfigError::new(format!("`slots` of {slots} is not between 8 and 4096")).with_hint("256 is usual")
            );
        }
        if !(1..=1 << 22).contains(&self.connections) {
            return Err(ConfigError::new(format!(
                "`connections` of {} is not between 1 and {}",
                self.connections,
                1 << 22
            ))
            .with_hint("a connection takes about 250 bytes"));
        }
        let Timeouts { tcp_s, udp_s, closing_s } = self.timeouts;
        for (field, value) in [("tcp_s", tcp_s), ("udp_s", udp_s), ("closing_s", closing_s)] {
            if value == 0 {
                return Err(ConfigError::new(format!("`{field}` is 0, so no connection would be remembered")));
            }
        }
        if self.services.is_empty() || self.services.len() > MAX_SERVICES {
            return Err(ConfigError::new(format!(
                "`services`: {} are not between 1 and {MAX_SERVICES}",
                self.services.len()
            )));
        }
        let servers: usize = self.services.iter().map(|service| service.servers.len()).sum();
        if servers > MAX_SERVERS {
            return Err(ConfigError::new(format!("{servers} servers are more than {MAX_SERVERS}")));
        }
        if self.services.len() * slots > MAX_SLOTS {
            return Err(ConfigError::new(format!(
                "{} services of {slots} slots have more than {MAX_SLOTS}",
                self.services.len()
            ))
            .with_hint("lower `slots`"));
        }
        let mut known = HashSet::new();
        let plans = self.services.iter().map(|config| {
            let plan = config.plan()?;
            if known.insert(plan.service) { Ok(plan) } else { Err(config.wrong("is there twice")) }
        });
        plans.collect()
    }
}

impl ServiceConfig {
    fn wrong(&self, why: &str) -> ConfigError {
        ConfigError::new(format!("the service `{}` port {} {why}", self.address, self.port))
    }

    fn plan(&self) -> Result<ServicePlan, ConfigError> {
        let is_plain =
            |address: IpAddr| !address.is_unspecified() && !address.is_multicast() && address.to_canonical() == address;
        if !is_plain(self.address) || self.port == 0 {
            return Err(self.wrong("is not one that a client can reach"));
        }
        if self.servers.is_empty() {
            return Err(self.wrong("has no `servers`").with_hint("a server on its way out has `drain: true`"));
        }
        let mut known = HashSet::new();
        let servers = self.servers.iter().map(|server| {
            let port = server.port.unwrap_or(self.port);
            let wrong = |why: &str| self.wrong(&format!("has the server `{}` port {port}, {why}", server.address));
            if server.address.is_ipv4() != self.address.is_ipv4() {
                return Err(wrong("which is of another IP version"));
            }
            if !is_plain(server.address) || port == 0 {
                return Err(wrong("which cannot be reached"));
            }
            if !known.insert((server.address, port)) {
                return Err(wrong("twice"));
            }
            if server.weight > MAX_WEIGHT {
                return Err(wrong("whose weight is above 65535"));
            }
            let (weight, drain) = (server.weight.into(), server.drain);
            Ok(ServerPlan {
                address: server.address,
                port,
                weight,
                drain,
                agent: server.agent.unwrap_or(server.address),
            })
        });
        let protocol = match self.protocol {
            Transport::Tcp => protocol::TCP,
            Transport::Udp => protocol::UDP,
        };
        Ok(ServicePlan {
            name: self.name.clone(),
            service: Service { address: self.address, port: self.port, protocol },
            servers: servers.collect::<Result<_, _>>()?,
        })
    }
}
