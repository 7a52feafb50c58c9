//! What the runtime and a function process say to each other over their socket: one JSON object per message, with file
//! descriptors beside it. A function process has no other way in or out than this socket and its memory regions.

use crate::middlebox::Interests;
use crate::peer::{DialError, PeerAddress};
use crate::{CounterInfo, DropReasonInfo, PortInfo, SteeredFlow};
use middlenet_fast_path::{MapKind, Mode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The number both sides must share; raised when a message or the control region changes its form.
pub const VERSION: u32 = 3;
/// Set in the environment of processes the runtime starts. Its value is `0`: the control socket is standard input, which
/// needs neither a descriptor number to guess nor a close-on-exec flag to clear.
pub const SOCKET_VARIABLE: &str = "MIDDLENET_SOCKET";
/// The longest message in bytes. Configurations travel in messages, so it is generous.
pub const MESSAGE_BYTES: usize = 8 << 20;

/// How a side that has nothing to do waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Spins; a core is always busy.
    Poll,
    /// Spins for a short time, then sleeps until woken.
    #[default]
    Auto,
    /// Sleeps at once when there is nothing to do.
    Event,
}

/// From the runtime to a function process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "a handful of messages per function life")]
pub enum ToFunction {
    /// The first message: make an instance. Descriptors: the maps of its fast path, if it has one.
    Start(Start),
    /// Work on these regions from now on; what was held in earlier ones is void. Descriptors: packets or messages region,
    /// control region, one eventfd per worker, and the SK_MSG socket if there is one.
    Attach {
        /// Bytes per buffer.
        buffer_bytes: u32,
        /// Whether the last descriptor is a socket on which messages come and go.
        #[serde(default)]
        skmsg: bool,
    },
    /// Replace the instance by one with this configuration, which inherits its state.
    Reconfigure {
        /// The function's part of the manifest.
        config: Value,
        /// Which change of the run it is; the answer says the same number. A later change that comes before the answer takes the
        /// place of this one, which is then not answered.
        change: u64,
    },
    /// Answer with [`FromFunction::Report`].
    Report,
    /// Answer to [`FromFunction::Dial`]. Descriptors: the socket, unless there is an error.
    Dialed {
        /// To whom.
        peer: PeerAddress,
        /// Why there is none.
        error: Option<DialError>,
    },
    /// Empty the rings, then exit.
    Stop,
}

/// What [`ToFunction::Start`] carries.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    /// [`VERSION`] of the runtime.
    pub version: u32,
    /// The function's name in the manifest, for messages to people.
    pub name: String,
    /// Its configuration.
    pub config: Value,
    /// The chain's ports.
    pub ports: Vec<PortInfo>,
    /// Named outputs that the manifest connects.
    pub outputs: Vec<String>,
    /// Names under which it may steer flows.
    #[serde(default)]
    pub steering: Vec<String>,
    /// Its fast path, if it has one.
    #[serde(default)]
    pub fast_path: Option<StartFastPath>,
    /// How to wait for packets.
    pub wait: Wait,
    /// Cores this process may run on; empty: any.
    pub cores: Vec<usize>,
    /// Whether others that poll share these cores, so that an empty ring is a reason to yield.
    pub shares_core: bool,
    /// Whether time is the control region's logical clock.
    pub logical_clock: bool,
}

/// The fast path of a function.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartFastPath {
    /// How it works.
    pub mode: Mode,
    /// The maps beside the message, in this order.
    pub maps: Vec<MapKind>,
    /// Which of the function's instances it is, from 0.
    #[serde(default)]
    pub instance: u16,
}

/// From a function process to the runtime.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromFunction {
    /// The instance is made.
    Ready {
        /// [`VERSION`] of the SDK it was built with.
        version: u32,
        /// The function's own name, as registered.
        function: String,
        /// Its counters, in the order of the control region's counter words.
        counters: Vec<CounterInfo>,
        /// Its own drop reasons.
        drop_reasons: Vec<DropReasonInfo>,
        /// The messages it wants; nothing for a function of packets.
        #[serde(default)]
        interests: Interests,
        /// The upstreams it may route to, in the order of their numbers.
        #[serde(default)]
        upstreams: Vec<String>,
        /// Whether those are servers of one service.
        #[serde(default)]
        upstreams_alike: bool,
    },
    /// The regions are mapped and the function polls them.
    Attached,
    /// The configuration cannot be used; the process exits (on start) or keeps its old instance (on a change).
    Refused {
        /// One sentence.
        message: String,
        /// The remedy.
        hint: Option<String>,
        /// Which change is refused; none on start.
        change: Option<u64>,
    },
    /// The new instance is in place.
    Reconfigured {
        /// Of which change it is.
        change: u64,
    },
    /// It steers these flows.
    Steer {
        /// At most [`crate::STEERED`].
        flows: Vec<SteeredFlow>,
        /// Wishes before these that found no room, since it steers faster than it is served.
        unheard: u64,
    },
    /// It wants a socket to a peer, one of those that its configuration names.
    Dial {
        /// To whom.
        peer: PeerAddress,
    },
    /// Answer to [`ToFunction::Report`].
    Report {
        /// What [`crate::NetworkFunction::report`] returned.
        value: Value,
    },
}
