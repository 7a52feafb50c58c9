//! What a function learns and declares when it starts.

use crate::fast_path::{self, FastPath};
use crate::middlebox::Upstream;
use crate::peer::{PEERS, Peer, PeerAddress, PeerKind};
use crate::{Counter, CounterInfo, DropReason, DropReasonInfo, Kind, Output, Port, SteerTarget};
use serde::{Deserialize, Serialize};

/// A port of the chain as a function sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    /// Number that descriptors carry.
    pub id: u8,
    /// Name in the manifest.
    pub name: String,
    /// Link address; zero where the port has none (a capture file).
    pub mac: [u8; 6],
    /// Largest L3 packet in bytes.
    pub mtu: u16,
}

/// A configuration that a function cannot use: one sentence, shown to the operator with the manifest's line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    /// The sentence.
    pub message: String,
    /// The remedy, if one is known.
    pub hint: Option<String>,
}

impl ConfigError {
    /// An error of one sentence.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// Adds the remedy.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<String> for ConfigError {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

impl From<&str> for ConfigError {
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}

/// Handed to `new` of a function of either layer: the ports of the chain, and where counters, drop reasons and outputs are declared.
#[derive(Debug, Default)]
pub struct Init {
    ports: Vec<PortInfo>,
    outputs: Vec<String>,
    outputs_asked: std::cell::RefCell<Vec<String>>,
    steering: Vec<String>,
    counters: Vec<(CounterInfo, Counter)>,
    drop_reasons: Vec<DropReasonInfo>,
    upstreams: Vec<String>,
    upstreams_alike: bool,
    is_trial: bool,
    fast_path: FastPath,
    peers: Vec<Peer>,
    direct_peers: bool,
    is_successor: bool,
}

impl Init {
    /// For a chain with these ports whose manifest connects these named outputs (in the manager's numbering).
    pub fn new(ports: Vec<PortInfo>, outputs: Vec<String>) -> Self {
        Self { ports, outputs, ..Self::default() }
    }

    /// With these names under `steer` in the manifest (in the manager's numbering).
    #[must_use]
    pub fn with_steering(mut self, names: Vec<String>) -> Self {
        self.steering = names;
        self
    }

    /// With this fast path, for hosts: they [begin](Self::begin) it when the instance takes over, and write what the function has
    /// queued after each call of it ([`FastPath::flush`]).
    #[must_use]
    pub fn with_fast_path(mut self, fast_path: FastPath) -> Self {
        self.fast_path = fast_path;
        self
    }

    /// The function's fast path; one that does nothing where the manifest gives it none. Declares the counters `fast_*`.
    pub fn fast_path(&mut self) -> FastPath {
        if self.fast_path.is_active() {
            let counters = fast_path::COUNTERS.map(|(name, kind, help)| self.declare(name, help, kind));
            self.fast_path.count_with(counters);
        }
        self.fast_path.clone()
    }

    /// For hosts: the handle on the fast path, to [renew](FastPath::renewed) it for a replacement that is made otherwise than by
    /// [`Self::renewed`].
    pub fn host_fast_path(&self) -> &FastPath {
        &self.fast_path
    }

    /// For hosts, after each call of the function: what it has queued for its fast path is written. Costs a load if there is nothing.
    #[inline]
    pub fn flush_fast_path(&self) {
        self.fast_path.flush();
    }

    /// For hosts: the first instance works from now on. [`Self::continue_from`] says it of those that replace another.
    pub fn begin(&self) {
        self.fast_path.begin();
    }

    /// Where the function may make sockets, for hosts: it dials its peers by itself.
    #[must_use]
    pub fn with_direct_peers(mut self) -> Self {
        self.direct_peers = true;
        self
    }

    /// Declares a peer, a host that the function will [dial](Peer::dial). The same address is the same peer.
    ///
    /// # Errors
    /// Where it is no address of one host, and beyond [`PEERS`] peers.
    pub fn peer(&mut self, kind: PeerKind, address: std::net::SocketAddr) -> Result<Peer, ConfigError> {
        let address = PeerAddress { kind, address };
        if let Some(peer) = self.peers.iter().find(|peer| *peer.address() == address) {
            return Ok(peer.clone());
        }
        let ip = address.address.ip();
        if ip.is_unspecified() || ip.is_multicast() || address.address.port() == 0 {
            return Err(ConfigError::new(format!("`{}` is no address and port of one host", address.address)));
        }
        if self.peers.len() >= PEERS {
            return Err(ConfigError::new(format!("a function has at most {PEERS} peers")));
        }
        let peer = Peer::new(address, self.direct_peers);
        self.peers.push(peer.clone());
        Ok(peer)
    }

    /// The peers declared so far.
    pub fn peer_addresses(&self) -> Vec<PeerAddress> {
        self.peers.iter().map(|peer| *peer.address()).collect()
    }

    pub(crate) fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// Whether the instance is to replace another, whose state it [inherits](crate::NetworkFunction::inherit).
    pub fn is_successor(&self) -> bool {
        self.is_successor
    }

    /// Whether the instance is made only to see if the configuration can be used, and is let go at once: then files stay
    /// closed, and no thread is started.
    pub fn is_trial(&self) -> bool {
        self.is_trial
    }

    pub(crate) fn set_trial(&mut self) {
        self.is_trial = true;
    }

    /// The chain's ports.
    pub fn ports(&self) -> &[PortInfo] {
        &self.ports
    }

    /// The port of that name, or an error that lists the names there are.
    pub fn port(&self, name: &str) -> Result<Port, ConfigError> {
        self.ports.iter().find(|p| p.name == name).map(|p| Port(p.id)).ok_or_else(|| {
            let names: Vec<_> = self.ports.iter().map(|p| p.name.as_str()).collect();
            ConfigError::new(format!("the chain has no port `{name}`"))
                .with_hint(format!("its ports are: {}", names.join(", ")))
        })
    }

    /// The named output, if the manifest connects it.
    pub fn output(&self, name: &str) -> Option<Output> {
        self.outputs_asked.borrow_mut().push(name.into());
        self.outputs.iter().position(|o| o == name).and_then(|i| u8::try_from(i).ok()).map(Output)
    }

    /// The outputs that the manifest connects and the function has not asked for.
    pub fn outputs_left(&self) -> Vec<&str> {
        let asked = self.outputs_asked.borrow();
        self.outputs.iter().filter(|output| !asked.contains(output)).map(String::as_str).collect()
    }

    /// The names of outputs that the function has asked for, and the manifest does not connect.
    pub fn outputs_missed(&self) -> Vec<String> {
        let asked = self.outputs_asked.borrow();
        asked.iter().filter(|name| !self.outputs.contains(name)).cloned().collect()
    }

    /// Where the manifest lets this function steer flows under a name, for [`crate::Burst::steer`].
    ///
    /// # Errors
    /// Where the manifest gives the function no such name; the error says how to.
    pub fn steering(&self, name: &str) -> Result<SteerTarget, ConfigError> {
        let at = self.steering.iter().position(|known| known == name).and_then(|at| u8::try_from(at).ok());
        at.map(SteerTarget).ok_or_else(|| {
            ConfigError::new(format!("the manifest does not say where flows go that are steered to `{name}`"))
                .with_hint(format!(
                    "add `steer: {{ {name}: CHAIN }}` beside `config:`; a port, `kernel` or `drop` will do as well"
                ))
        })
    }

    /// Declares a counter. Beyond 256 the counter works but is not shown.
    pub fn counter(&mut self, name: &str, help: &str) -> Counter {
        self.declare(name, help, Kind::Counter)
    }

    /// Declares a gauge, a number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str) -> Counter {
        self.declare(name, help, Kind::Gauge)
    }

    fn declare(&mut self, name: &str, help: &str, kind: Kind) -> Counter {
        if let Some((_, counter)) = self.counters.iter().find(|(info, _)| info.name == name) {
            return counter.clone();
        }
        let counter = Counter::new();
        self.counters.push((CounterInfo { name: name.into(), help: help.into(), kind }, counter.clone()));
        counter
    }

    /// Declares a drop reason of the function's own. At most 32; beyond that the reason is shown as `unspecified`.
    pub fn drop_reason(&mut self, name: &str, help: &str) -> DropReason {
        let index = self.drop_reasons.iter().position(|r| r.name == name).unwrap_or_else(|| {
            self.drop_reasons.push(DropReasonInfo { name: name.into(), help: help.into() });
            self.drop_reasons.len() - 1
        });
        u16::try_from(index)
            .ok()
            .map(|i| DropReason::FIRST_OWN + i)
            .filter(|&n| n < DropReason::LIMIT)
            .map_or(DropReason::UNSPECIFIED, DropReason)
    }

    /// Declares an upstream, a server that the function may route requests to: `10.0.0.1:80` or `[2001:db8::1]:80`. The same
    /// address is the same upstream.
    ///
    /// # Errors
    /// Where it is no address and port, and beyond 128 upstreams.
    pub fn upstream(&mut self, address: &str) -> Result<Upstream, ConfigError> {
        let parsed: std::net::SocketAddr = address.parse().map_err(|_| {
            ConfigError::new(format!("`{address}` is not an address and port"))
                .with_hint("write `10.0.0.1:80` or `[2001:db8::1]:80`; names are not looked up")
        })?;
        let address = parsed.to_string();
        let at = self.upstreams.iter().position(|u| *u == address).unwrap_or_else(|| {
            self.upstreams.push(address);
            self.upstreams.len() - 1
        });
        match u16::try_from(at) {
            Ok(at) if usize::from(at) < middlenet_shm::BOARD => Ok(Upstream(at)),
            _ => Err(ConfigError::new(format!("a function has at most {} upstreams", middlenet_shm::BOARD))),
        }
    }

    /// Says that all upstreams are servers of one service, so that a request that one cannot take may go to another. Without it, a
    /// request is tried again at the same one only: the others may be services that it does not concern.
    pub fn upstreams_are_alike(&mut self) {
        self.upstreams_alike = true;
    }

    /// Whether all upstreams are servers of one service.
    pub fn are_upstreams_alike(&self) -> bool {
        self.upstreams_alike
    }

    /// The upstreams declared so far, in the order of their numbers.
    pub fn upstreams(&self) -> &[String] {
        &self.upstreams
    }

    /// The counters declared so far, with their handles.
    pub fn counters(&self) -> &[(CounterInfo, Counter)] {
        &self.counters
    }

    /// The function's own drop reasons, the first being number [`DropReason::FIRST_OWN`].
    pub fn drop_reasons(&self) -> &[DropReasonInfo] {
        &self.drop_reasons
    }

    /// An empty one for the instance that replaces this one's.
    pub fn renewed(&self) -> Self {
        let successor = Self { direct_peers: self.direct_peers, is_successor: true, ..Self::default() };
        Self { ports: self.ports.clone(), outputs: self.outputs.clone(), ..successor }
            .with_steering(self.steering.clone())
            .with_fast_path(self.fast_path.renewed())
    }

    /// The same for one that starts anew, as in another process.
    #[cfg(feature = "testkit")]
    pub(crate) fn restarted(&self) -> Self {
        Self { is_successor: false, ..self.renewed() }
    }

    /// For hosts: the instance takes over. Counters of the same name go on from the replaced instance's values, and the fast path
    /// is this one's.
    pub fn continue_from(&self, previous: &Self) {
        for (info, counter) in &self.counters {
            if let Some((_, old)) = previous.counters.iter().find(|(old, _)| old == info) {
                counter.add(old.get());
            }
        }
        previous.fast_path.flush();
        previous.fast_path.end();
        self.fast_path.begin();
    }
}
