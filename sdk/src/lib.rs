//! Write network functions for MiddleNet.
//!
//! A function is a type that implements [`NetworkFunction`]: it gets a [`Burst`] of packets, sets a verdict per packet, and
//! knows nothing of ports, rings, processes or other functions. The same code runs inline in the nf-manager, as a
//! process of its own, over a capture file, and in a test.
//!
//! ```
//! use middlenet_sdk::prelude::*;
//!
//! middlenet_sdk::config! {
//!     /// Lowers the TTL of IPv4 packets to a limit.
//!     struct Config { max_ttl: u8 }
//! }
//!
//! struct TtlClamp { max: u8, clamped: Counter }
//!
//! impl NetworkFunction for TtlClamp {
//!     type Config = Config;
//!
//!     fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
//!         Ok(Self { max: config.max_ttl, clamped: init.counter("clamped", "packets whose TTL was lowered") })
//!     }
//!
//!     fn process(&mut self, burst: &mut Burst<'_>) {
//!         for mut packet in burst.iter_mut() {
//!             if let Some(mut ip) = packet.ipv4_mut() && ip.ttl() > self.max {
//!                 ip.set_ttl(self.max);
//!                 self.clamped.inc();
//!             }
//!         }
//!     }
//! }
//! # fn main() {}
//! ```
//!
//! Functions of layer L4/L7, which see requests and streams, are in [`middlebox`].
//!
//! Life of a function process: `main!` starts [`host::main`], which receives its configuration and two memory regions from
//! the runtime, calls [`NetworkFunction::new`], and then loops over its rings: burst in, [`NetworkFunction::process`],
//! burst out; [`NetworkFunction::tick`] about ten times a second.

#![forbid(unsafe_code)]

mod burst;
mod channel;
mod counter;
pub mod fast_path;
mod function;
pub mod host;
mod init;
pub mod middlebox;
pub mod peer;
pub mod protocol;
mod steer;
#[cfg(feature = "testkit")]
pub mod testkit;
mod values;
mod verdict;
mod views;

pub use burst::{Burst, BurstState, Held, Packet, STEERED, take_abandoned};
pub use channel::{Channel, ChannelError};
pub use counter::{Counter, CounterInfo, Kind};
pub use function::{
    DynFunction, Layer, Messages, NetworkFunction, Packets, Registrable, Registration, kebab_case, registration_of,
};
pub use init::{ConfigError, Init, PortInfo};
#[doc(no_inline)]
pub use middlebox::Interests;
pub use steer::{SteerTarget, SteeredFlow};
pub use values::{OneOrMany, Term};
pub use verdict::{DropReason, DropReasonInfo, Output, Port, Verdict};

pub use middlenet_http as http;
pub use middlenet_shm as shm;
pub use middlenet_wire as wire;
#[doc(hidden)]
pub use {schemars, serde, serde_json};

/// What a function's source file needs.
pub mod prelude {
    pub use crate::fast_path::{Action, Ends, FastPath, FlowRule, Mode, Rewrite, Shape, Then};
    pub use crate::{
        Burst, ConfigError, Counter, DropReason, Held, Init, NetworkFunction, Output, Packet, Port, PortInfo,
        SteerTarget, Verdict,
    };
    pub use schemars::JsonSchema;
    pub use serde::{Deserialize, Serialize};
}

/// Makes the `main` of a binary that is one function, of either layer.
///
/// The binary is started by the runtime (`run: ./my-function` in a manifest); by hand it answers `--describe`
/// with its name and configuration schema as JSON.
#[macro_export]
macro_rules! main {
    ($function:ty) => {
        fn main() -> ::std::process::ExitCode {
            $crate::host::main(&$crate::registration_of::<$function, _>())
        }
    };
}

/// Derives what a configuration needs: parsing, and a schema from its doc comments. Unknown keys are errors.
///
/// ```
/// middlenet_sdk::config! {
///     /// Lowers the TTL of IPv4 packets to a limit.
///     struct Config {
///         /// The largest TTL that passes unchanged.
///         max_ttl: u8,
///     }
/// }
/// ```
///
/// It stands for `#[derive(Deserialize, JsonSchema)]` and spares the author serde and schemars as dependencies of his own.
#[macro_export]
macro_rules! config {
    ($($item:tt)*) => {
        #[derive($crate::serde::Deserialize, $crate::schemars::JsonSchema)]
        #[serde(crate = "::middlenet_sdk::serde", deny_unknown_fields)]
        #[schemars(crate = "::middlenet_sdk::schemars")]
        $($item)*
    };
}

/// Packets in one burst at most.
pub const BURST: usize = 64;
