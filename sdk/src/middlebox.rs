//! Write functions of layer L4/L7: they see requests, responses and streams instead of packets.
//!
//! A function is a type that implements [`MiddleboxFunction`]. It says which messages it wants ([`Interests`]), and
//! answers each with a [`Verdict`]. The broker has parsed the heads: a function reads a header through an index, edits it in the
//! spare room of the buffer, and never parses or serialises. The same code runs inline in the broker, as a process reached over
//! SK_MSG or rings, and in a test.
//!
//! ```
//! use middlenet_sdk::middlebox::prelude::*;
//!
//! middlenet_sdk::config! {
//!     /// Names this host to the upstreams.
//!     struct Config { via: String }
//! }
//!
//! struct AddHeader { via: String }
//!
//! impl MiddleboxFunction for AddHeader {
//!     type Config = Config;
//!     const INTERESTS: Interests = Interests::REQUEST_HEAD;
//!
//!     fn new(config: Config, _: &mut Init) -> Result<Self, ConfigError> {
//!         Ok(Self { via: config.via })
//!     }
//!
//!     fn request(&mut self, request: &mut Request<'_>, _: &mut Context<'_>) -> Verdict {
//!         request.set_header("x-via", &self.via);
//!         Verdict::Next
//!     }
//! }
//! # fn main() {}
//! ```
//!
//! **Order.** A request visits the interested functions in the chain's order, its response in reverse. Messages of one connection
//! and direction never overtake each other.
//!
//! **Framing is the broker's.** `Content-Length`, `Transfer-Encoding`, `Connection` and their kin are shown but not believed: what a
//! function writes there is left out, so no function can make two parties disagree on where a message ends.

mod answer;
mod context;
mod function;
mod group;
mod headers;
mod interests;
mod layout;
mod message;
mod state;
#[cfg(feature = "testkit")]
pub mod testkit;
mod upstreams;
mod views;

pub use answer::Answer;
pub use context::{Clock, Context, Timers};
pub(crate) use function::Erased;
pub use function::{DynMiddlebox, MiddleboxFunction, Verdict, tick};
pub use group::{GROUP_BYTES, GroupReader, write_group};
pub use interests::{Interests, Kind};
pub use layout::{
    Cell, DATA_OFFSET, Group, MAX_GROUP, MAX_HEADERS, MAX_ROUTE, MESSAGE_BYTES, MessageHeader, NO_HOP, READ_BYTES,
    Stop, UNDELIVERED, flag,
};
pub use message::{Message, Onward, VerdictCode};
pub use state::States;
pub use upstreams::{Board, Upstream, Upstreams};
pub use views::{Chunk, Connection, Finished, Request, Response};

/// What a function's source file needs.
pub mod prelude {
    pub use super::{
        Answer, Chunk, Connection, Context, Finished, Interests, MiddleboxFunction, Request, Response, States,
        Upstream, Verdict,
    };
    pub use crate::{ConfigError, Counter, DropReason, Init, Output};
    pub use schemars::JsonSchema;
    pub use serde::{Deserialize, Serialize};
}
