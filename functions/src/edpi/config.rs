//! The configuration, and what it makes of a protocol.

use middlenet_ndpi::{Classification, Detector, Options};
use middlenet_sdk::prelude::*;
use middlenet_sdk::{Output, SteerTarget};
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::time::Duration;

/// Configuration of `edpi`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A file of signatures beside nDPI's own, in the format of its option `-p`: `tcp:81@HTTP`, `host:"example.org"@Example`,
    /// `ip:192.0.2.0/24@Example`.
    #[schemars(extend("x-middlenet-file" = "read"))]
    pub signatures: Option<String>,
    /// Packets of a flow that are inspected at most, both directions together.
    pub packets: u32,
    /// Whether flows whose packets do not tell are classified by their ports and addresses.
    pub guess: bool,
    /// Which flows go to the fast path once nothing more is to be learned of them: those that meet one of these conditions. A
    /// condition without any field is met by all.
    pub elephants: Vec<Elephants>,
    /// What becomes of the packets of some protocols; the first that fits decides. All others go on.
    pub actions: Vec<Act>,
    /// Flows known at a time.
    pub flows: usize,
    /// After how many seconds without a packet a TCP flow is forgotten.
    pub tcp_idle_s: u64,
    /// The same for all other flows.
    pub idle_s: u64,
    /// For how many seconds a flow is steered at a time.
    pub steer_s: u64,
    /// Protocols shown in the report.
    pub top: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            signatures: None,
            packets: 16,
            guess: true,
            elephants: vec![Elephants::default()],
            actions: Vec::new(),
            flows: 65_536,
            tcp_idle_s: 300,
            idle_s: 60,
            steer_s: 60,
            top: 20,
        }
    }
}

/// A condition for the fast path: all fields that are given must be met.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Elephants {
    /// The flow is of one of these protocols, by nDPI's names, as `YouTube` or `BitTorrent`; case does not matter.
    pub protocols: Vec<String>,
    /// The flow is of one of these categories of nDPI's, as `Streaming`.
    pub categories: Vec<String>,
    /// The flow has had so many packets.
    pub packets: u64,
    /// The flow has had so many bytes.
    pub bytes: u64,
}

/// What becomes of some protocols.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Act {
    /// Protocols, by nDPI's names.
    #[serde(default)]
    pub protocols: Vec<String>,
    /// Categories, by nDPI's names.
    #[serde(default)]
    pub categories: Vec<String>,
    /// What becomes of their packets.
    pub then: ActThen,
}

/// What becomes of packets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ActThen {
    /// They go on.
    Pass,
    /// They are dropped.
    Drop,
    /// They go where the manifest connects this output.
    Output(String),
    /// The flow is steered where the manifest says under this name; what is in the chain already goes on.
    Steer(String),
}

/// Protocols and categories; all where both lists are empty.
#[derive(Clone, Debug, Hash)]
struct Kinds {
    protocols: Vec<u16>,
    categories: Vec<u16>,
}

/// What becomes of a flow's packets, as the chain knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Decision {
    Pass,
    Drop,
    Output(Output),
    Steer(SteerTarget),
}

/// Configuration that fits the chain.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) inspect_packets: u32,
    pub(super) guess: bool,
    pub(super) tcp_idle: Duration,
    pub(super) idle: Duration,
    pub(super) steer: Duration,
    pub(super) top: usize,
    elephants: Vec<(Kinds, u64, u64)>,
    actions: Vec<(Kinds, Decision)>,
}

/// Largest table in flows.
const MAX_FLOWS: usize = 1 << 20;

impl Config {
    pub(super) fn detector(&self) -> Result<Detector, ConfigError> {
        Detector::new(&Options::default(), self.signatures.as_deref().map(Path::new)).map_err(|error| {
            let hint = "a line is `tcp:81@HTTP`, `host:\"example.org\"@Example` or `ip:192.0.2.0/24@Example`";
            ConfigError::new(error.to_string()).with_hint(match error {
                middlenet_ndpi::Error::Signature { .. } => hint,
                _ => "`signatures` names a file that the function's user can read",
            })
        })
    }

    pub(super) fn policy(&self, detector: &Detector, init: &Init) -> Result<Policy, ConfigError> {
        if !(1..=MAX_FLOWS).contains(&self.flows) {
            return Err(ConfigError::new(format!("`flows` of {} is not between 1 and {MAX_FLOWS}", self.flows))
                .with_hint("a flow takes about 200 bytes, and 700 more while it is inspected"));
        }
        if !(1..=255).contains(&self.packets) {
            return Err(ConfigError::new(format!("`packets` of {} is not between 1 and 255", self.packets))
                .with_hint("most protocols show in the first eight, the handshake of TCP included"));
        }
        let times = [("tcp_idle_s", self.tcp_idle_s), ("idle_s", self.idle_s), ("steer_s", self.steer_s)];
        if let Some((name, seconds)) = times.into_iter().find(|(_, seconds)| !(1..=1_000_000).contains(seconds)) {
            return Err(ConfigError::new(format!("`{name}` of {seconds} is not between 1 and 1000000")));
        }
        let elephants = self.elephants.iter().map(|elephants| {
            Ok((Kinds::of(detector, &elephants.protocols, &elephants.categories)?, elephants.packets, elephants.bytes))
        });
        let actions = self.actions.iter().map(|act| {
            if act.protocols.is_empty() && act.categories.is_empty() {
                return Err(ConfigError::new("an action names neither protocols nor categories")
                    .with_hint("write `protocols: [BitTorrent]` beside `then`"));
            }
            Ok((Kinds::of(detector, &act.protocols, &act.categories)?, act.then.decision(init)?))
        });
        Ok(Policy {
            inspect_packets: self.packets,
            guess: self.guess,
            tcp_idle: Duration::from_secs(self.tcp_idle_s),
            idle: Duration::from_secs(self.idle_s),
            steer: Duration::from_secs(self.steer_s),
            top: self.top,
            elephants: elephants.collect::<Result<_, ConfigError>>()?,
            actions: actions.collect::<Result<_, ConfigError>>()?,
        })
    }
}

impl ActThen {
    fn decision(&self, init: &Init) -> Result<Decision, ConfigError> {
        Ok(match self {
            Self::Pass => Decision::Pass,
            Self::Drop => Decision::Drop,
            Self::Output(name) => Decision::Output(init.output(name).ok_or_else(|| {
                ConfigError::new(format!("the manifest connects no output `{name}`"))
                    .with_hint(format!("add `outputs: {{ {name}: TARGET }}` beside `config:`"))
            })?),
            Self::Steer(name) => Decision::Steer(init.steering(name)?),
        })
    }
}

impl Kinds {
    fn of(detector: &Detector, protocols: &[String], categories: &[String]) -> Result<Self, ConfigError> {
        Ok(Self {
            protocols: protocols
                .iter()
                .map(|name| number(detector.protocols(), name, "protocol"))
                .collect::<Result<_, _>>()?,
            categories: categories
                .iter()
                .map(|name| number(detector.categories(), name, "category"))
                .collect::<Result<_, _>>()?,
        })
    }

    fn has(&self, found: &Classification) -> bool {
        let is_any = self.protocols.is_empty() && self.categories.is_empty();
        is_any
            || self.protocols.contains(&found.app)
            || (found.master != 0 && self.protocols.contains(&found.master))
            || self.categories.contains(&found.category)
    }
}

fn number(names: &[String], wanted: &str, what: &str) -> Result<u16, ConfigError> {
    let found = names.iter().position(|name| name.eq_ignore_ascii_case(wanted)).and_then(|at| u16::try_from(at).ok());
    found.ok_or_else(|| {
        let lower = wanted.to_lowercase();
        let near: Vec<&str> =
            names.iter().map(String::as_str).filter(|name| name.to_lowercase().contains(&lower)).take(5).collect();
        let error = ConfigError::new(format!("nDPI knows no {what} `{wanted}`"));
        match near.as_slice() {
            [] if what == "protocol" => error.with_hint("`signatures` can add protocols of your own"),
            [] => {
                let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
                error.with_hint(format!("it knows: {}", names.join(", ")))
            }
            near => error.with_hint(format!("did you mean {}?", near.join(", "))),
        }
    })
}

impl Policy {
    /// What becomes of the packets of a flow.
    pub(super) fn decide(&self, found: &Classification) -> Decision {
        self.actions.iter().find(|(kinds, _)| kinds.has(found)).map_or(Decision::Pass, |(_, decision)| *decision)
    }

    /// A number that is the same where flows are decided about alike, and their packets counted under the same numbers: for
    /// [`clear_unless`](middlenet_sdk::fast_path::FastPath::clear_unless).
    pub(super) fn number(&self, detector: &Detector, signatures: &[u8], blocked: DropReason) -> u32 {
        let Self { inspect_packets, guess, tcp_idle, idle, steer: _, top: _, elephants, actions } = self;
        // Without a key: another process comes to the same.
        let mut hasher = std::hash::DefaultHasher::new();
        (inspect_packets, guess, tcp_idle, idle, elephants, actions).hash(&mut hasher);
        (detector.protocols(), signatures, blocked).hash(&mut hasher);
        (hasher.finish() >> 32) as u32
    }

    /// Whether a flow of which nothing more is to be learned goes to the fast path.
    pub(super) fn is_elephant(&self, found: &Classification, packets: u64, bytes: u64) -> bool {
        self.elephants.iter().any(|(kinds, least_packets, least_bytes)| {
            packets >= *least_packets && bytes >= *least_bytes && kinds.has(found)
        })
    }
}
