//! What the manifest says, and its translation into interfaces, routes and neighbours.

use super::prefix::Prefix;
use crate::LinkAddress;
use middlenet_sdk::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest routes file, in bytes.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Most dynamic neighbours; next hops are 15-bit numbers, and gateways need some of them.
const MAX_NEIGHBOURS: u16 = 16384;

/// Configuration of `l3-router`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The router's own addresses with the networks its ports are on.
    pub addresses: Vec<Address>,
    /// Static routes: objects, or lines as in `routes_file`.
    pub routes: Vec<RouteEntry>,
    /// A file with one route per line: `PREFIX [VIA] [PORT]`; `#` begins a comment.
    pub routes_file: Option<RoutesFile>,
    /// Neighbours whose link address is given. They are never asked for, and never change.
    pub neighbours: Vec<Neighbour>,
    /// Whether link addresses are asked for with ARP and ND. Without, every packet that has no static neighbour gets
    /// `gateway_mac`.
    pub resolve: bool,
    /// With `resolve: false`: destination link address of what has no static neighbour; kept as it is without.
    pub gateway_mac: Option<LinkAddress>,
    /// Also route packets whose destination link address is another station's.
    pub accept_any_mac: bool,
    /// Most neighbours learned at a time.
    pub max_neighbours: u16,
    /// Seconds after which a neighbour is asked again.
    pub neighbour_refresh_s: u32,
    /// Most packets held while link addresses are asked for; at most eight of them per neighbour.
    pub max_held: u16,
    /// ICMP and ICMPv6 errors per second.
    pub icmp_errors_per_s: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            routes: Vec::new(),
            routes_file: None,
            neighbours: Vec::new(),
            resolve: true,
            gateway_mac: None,
            accept_any_mac: false,
            max_neighbours: 1024,
            neighbour_refresh_s: 60,
            max_held: 256,
            icmp_errors_per_s: 100,
        }
    }
}

/// One of the router's addresses.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// The port it is on.
    pub port: String,
    /// Address and prefix length: `10.1.0.1/24`, `2001:db8:1::1/64`.
    pub address: String,
}

/// A static route.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RouteEntry {
    /// `PREFIX [VIA] [PORT]`.
    Line(String),
    /// By field.
    Fields(RouteFields),
}

/// A static route by field.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteFields {
    /// Destination prefix, or `default`, which is 0.0.0.0/0.
    pub to: String,
    /// The next router; without one, destinations are neighbours on the port.
    pub via: Option<IpAddr>,
    /// Egress port; may be left out where `via` lies in a network of `addresses`.
    pub port: Option<String>,
}

/// Where to read routes.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RoutesFile {
    /// The path.
    Path(#[schemars(extend("x-middlenet-file" = "read"))] String),
    /// The path, and what lines that name no `via` or port use.
    WithDefaults(RoutesFileFields),
}

/// A routes file by field.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoutesFileFields {
    /// The path.
    #[schemars(extend("x-middlenet-file" = "read"))]
    pub path: String,
    /// The next router of lines that name none.
    pub via: Option<IpAddr>,
    /// The port of lines that name none.
    pub port: Option<String>,
}

/// A neighbour with a given link address.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// Its address.
    pub ip: IpAddr,
    /// Its link address.
    pub mac: LinkAddress,
    /// Its port; may be left out where `ip` lies in a network of `addresses`.
    pub port: Option<String>,
}

/// A port of the chain as the router uses it.
#[derive(Clone, Debug)]
pub(super) struct Interface {
    pub(super) port: u8,
    pub(super) name: String,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u16,
    /// Own addresses with the prefix length of the network.
    pub(super) addresses: Vec<Prefix>,
    /// Set where the port has an IPv6 address.
    pub(super) link_local: Option<Ipv6Addr>,
}

impl Interface {
    /// The first IPv4 address.
    pub(super) fn ipv4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|prefix| if let IpAddr::V4(v4) = prefix.address { Some(v4) } else { None })
    }

    /// The first global IPv6 address, else the link-local one.
    pub(super) fn ipv6(&self) -> Option<Ipv6Addr> {
        let global = |prefix: &Prefix| match prefix.address {
            IpAddr::V6(v6) if !v6.is_unicast_link_local() => Some(v6),
            _ => None,
        };
        self.addresses.iter().find_map(global).or(self.link_local)
    }

    /// Whether the address is one of this port's own.
    pub(super) fn owns(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.address == address)
            || self.link_local.is_some_and(|own| IpAddr::V6(own) == address)
    }

    /// Whether the address is a neighbour's on this port.
    pub(super) fn is_on_link(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.contains(address))
    }
}

/// A route whose port is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) to: Prefix,
    pub(super) via: Option<IpAddr>,
    pub(super) port: u8,
}

/// A static neighbour whose port is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct StaticNeighbour {
    pub(super) ip: IpAddr,
    pub(super) mac: [u8; 6],
    pub(super) port: u8,
}

/// A configuration that holds together.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    pub(super) interfaces: Vec<Interface>,
    pub(super) routes: Vec<Route>,
    pub(super) neighbours: Vec<StaticNeighbour>,
}

impl Config {
    pub(super) fn check(&self, init: &Init) -> Result<Checked, ConfigError> {
        if self.gateway_mac.is_some() && self.resolve {
            return Err(ConfigError::new("`gateway_mac` is used with `resolve: false` alone")
                .with_hint("for one gateway's address, write it under `neighbours`"));
        }
        if let Some(mac) = self.gateway_mac.filter(|mac| !mac.0.is_unicast()) {
            return Err(ConfigError::new(format!("`gateway_mac` {} is no single station's address", mac.0)));
        }
        if self.max_neighbours > MAX_NEIGHBOURS {
            return Err(ConfigError::new(format!("`max_neighbours` may be {MAX_NEIGHBOURS} at most")));
        }
        if self.neighbour_refresh_s == 0 {
            return Err(ConfigError::new("`neighbour_refresh_s` must be at least 1").with_hint("60 is usual"));
        }
        let interfaces = self.interfaces(init)?;
        let mut routes = Vec::with_capacity(self.routes.len());
        for entry in &self.routes {
            let fields = match entry {
                RouteEntry::Line(line) => {
                    parse_line(line).map_err(|e| ConfigError::new(format!("route `{line}`: {e}")))?
                }
                RouteEntry::Fields(fields) => Some(fields.clone()),
            };
            routes.extend(fields.map(|fields| resolve_route(&fields, &interfaces, init)).transpose()?);
        }
        if let Some(file) = &self.routes_file {
            read_routes(file, &interfaces, init, &mut routes)?;
        }
        let mut neighbours = Vec::new();
        for neighbour in &self.neighbours {
            if !neighbour.mac.0.is_unicast() {
                let message = format!("neighbour {}: {} is no single station's address", neighbour.ip, neighbour.mac.0);
                return Err(ConfigError::new(message));
            }
            let port = port_of(neighbour.port.as_deref(), neighbour.ip, &interfaces, init)
                .map_err(|e| ConfigError { message: format!("neighbour {}: {}", neighbour.ip, e.message), ..e })?;
            neighbours.push(StaticNeighbour { ip: neighbour.ip, mac: neighbour.mac.octets(), port });
        }
        Ok(Checked { interfaces, routes, neighbours })
    }

    fn interfaces(&self, init: &Init) -> Result<Vec<Interface>, ConfigError> {
        let interface = |port: &PortInfo| Interface {
            port: port.id,
            name: port.name.clone(),
            mac: port.mac,
            // A port that states no MTU gets Ethernet's.
            mtu: if port.mtu == 0 { 1500 } else { port.mtu },
            addresses: Vec::new(),
            link_local: None,
        };
        let mut interfaces: Vec<Interface> = init.ports().iter().map(interface).collect();
        let mut networks: Vec<(Prefix, String)> = Vec::new();
        for Address { port, address } in &self.addresses {
            let own: Prefix = address.parse().map_err(|e: String| {
                ConfigError::new(format!("address on `{port}`: {e}"))
                    .with_hint("an address needs its prefix length, as in 10.1.0.1/24")
            })?;
            check_own(own)?;
            let id = init.port(port)?.0;
            let Some(interface) = interfaces.iter_mut().find(|i| i.port == id) else { continue };
            let scoped = matches!(own.address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            if let Some((other, name)) =
                networks.iter().find(|(p, _)| !scoped && (p.contains(own.address) || own.contains(p.address)))
            {
                let message = format!("address {own} on `{port}` and {other} on `{name}` share a network");
                return Err(ConfigError::new(message).with_hint("give each port a network of its own"));
            }
            if scoped {
                interface.link_local = if let IpAddr::V6(v6) = own.address { Some(v6) } else { None };
            } else {
                networks.push((own, port.clone()));
                interface.addresses.push(own);
            }
        }
        for interface in &mut interfaces {
            if interface.link_local.is_none() && interface.addresses.iter().any(|own| own.address.is_ipv6()) {
                interface.link_local = Some(link_local(interface.mac));
            }
        }
        Ok(interfaces)
    }
}

/// The link-local address with the interface identifier of RFC 4291 appendix A.
pub(super) fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

fn check_own(own: Prefix) -> Result<(), ConfigError> {
    let wrong = match own.address {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_multicast()
                || v4.octets()[0] == 0
                || v4.octets()[0] >= 240
                || own.length < 31 && (own.network().address == own.address || broadcast(own) == Some(v4))
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_multicast() || v6.is_unspecified(),
    };
    if wrong {
        return Err(ConfigError::new(format!("{own} cannot be a router's own address"))
            .with_hint("use a host address of the network, such as its first"));
    }
    Ok(())
}

/// The broadcast address of an IPv4 network that has one.
pub(super) fn broadcast(own: Prefix) -> Option<Ipv4Addr> {
    match own.address {
        IpAddr::V4(v4) if own.length < 31 => Some((v4.to_bits() | !super::prefix::mask32(own.length)).into()),
        _ => None,
    }
}

/// One line of a routes file; `None` for an empty one.
fn parse_line(line: &str) -> Result<Option<RouteFields>, String> {
    let line = line.split('#').next().unwrap_or_default();
    let mut words = line.split_whitespace();
    let Some(to) = words.next() else { return Ok(None) };
    let mut fields = RouteFields { to: to.into(), via: None, port: None };
    for word in words {
        match word.parse() {
            Ok(address) if fields.via.is_none() && fields.port.is_none() => fields.via = Some(address),
            Err(_) if fields.port.is_none() => fields.port = Some(word.into()),
            _ => return Err(format!("`{word}` is one word too many; a line is PREFIX [VIA] [PORT]")),
        }
    }
    Ok(Some(fields))
}

fn read_routes(
    file: &RoutesFile,
    interfaces: &[Interface],
    init: &Init,
    routes: &mut Vec<Route>,
) -> Result<(), ConfigError> {
    let none = (None, None);
    let (path, (via, port)) = match file {
        RoutesFile::Path(path) => (path, none),
        RoutesFile::WithDefaults(fields) => (&fields.path, (fields.via, fields.port.clone())),
    };
    let unreadable = |e: std::io::Error| {
        ConfigError::new(format!("the routes file {path} cannot be read: {e}"))
            .with_hint("the run's user needs the right to read it, and to enter its folder")
    };
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE_BYTES {
        return Err(ConfigError::new(format!("the routes file {path} is over {} MiB", MAX_FILE_BYTES >> 20)));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    for (number, line) in (1..).zip(text.lines()) {
        let place = |message: String| ConfigError::new(format!("{path}, line {number}: {message}"));
        let Some(mut fields) = parse_line(line).map_err(place)? else { continue };
        if fields.via.is_none() && fields.port.is_none() {
            fields.via = via;
        }
        fields.port = fields.port.or_else(|| port.clone());
        let route = resolve_route(&fields, interfaces, init);
        routes.push(route.map_err(|e| ConfigError { message: place(e.message).message, hint: e.hint })?);
    }
    Ok(())
}

fn resolve_route(fields: &RouteFields, interfaces: &[Interface], init: &Init) -> Result<Route, ConfigError> {
    let to = if fields.to == "default" { "0.0.0.0/0" } else { fields.to.as_str() };
    let to: Prefix = to.parse().map_err(|e: String| ConfigError::new(e))?;
    if to.network() != to {
        return Err(ConfigError::new(format!("route {to} has bits set beyond its prefix length"))
            .with_hint(format!("did you mean {}?", to.network())));
    }
    let Some(via) = fields.via else {
        let Some(port) = &fields.port else {
            return Err(ConfigError::new(format!("route {to} has neither `via` nor `port`")).with_hint(
                "name the next router or the egress port; for a whole file: `routes_file: { path: ..., port: ... }`",
            ));
        };
        return Ok(Route { to, via: None, port: init.port(port)?.0 });
    };
    if via.is_ipv4() != to.address.is_ipv4() {
        return Err(ConfigError::new(format!("route {to} is via {via}, which is of the other IP version")));
    }
    if interfaces.iter().any(|interface| interface.owns(via)) {
        return Err(ConfigError::new(format!("route {to} is via {via}, which is the router's own address"))
            .with_hint("`via` names the next router"));
    }
    let port = port_of(fields.port.as_deref(), via, interfaces, init)
        .map_err(|e| ConfigError { message: format!("route {to} via {via}: {}", e.message), ..e })?;
    Ok(Route { to, via: Some(via), port })
}

/// The named port, else the port whose network the address lies in.
fn port_of(name: Option<&str>, address: IpAddr, interfaces: &[Interface], init: &Init) -> Result<u8, ConfigError> {
    match name {
        Some(name) => Ok(init.port(name)?.0),
        None => interfaces.iter().find(|i| i.is_on_link(address)).map(|i| i.port).ok_or_else(|| {
            ConfigError::new("no port is on the network of that address")
                .with_hint("name the `port`, or give the router an address on that network")
        }),
    }
}
