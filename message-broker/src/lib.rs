//! The L4/L7 data plane: listeners, HTTP, functions over SK_MSG and rings, upstreams.
//!
//! ```text
//!   client --kernel TCP--> worker: head parsed once, into a message buffer
//!                            | inline: a call          skmsg: a group of 16-byte descriptors, function to function
//!                            v                         ring: by way of the worker
//!                          functions ... back to the worker
//!                            |
//!                            v head written anew, body relayed
//!                          pooled connection --kernel TCP--> upstream; its response the same way back
//! ```
//!
//! [`serve`] is the control thread: it takes the runtime's requests and tells the workers. Each worker is a thread with an event
//! loop, connections and buffers of its own; they share upstream states and nothing else that is written per request.
//!
//! | to read | file |
//! |---|---|
//! | the event loop | `worker.rs` |
//! | a client's side: heads, errors, closing | `client.rs`, `input.rs`, `session.rs` |
//! | a message through its functions | `functions.rs`; out and back: `lane.rs` |
//! | a request to its upstream, a response to its client | `request.rs`, `response.rs`, `shown.rs` |
//! | what goes wrong on the way; answers that no upstream gave | `failure.rs`, `answers.rs` |
//! | TCP chains and upgraded connections | `tunnel.rs` |
//! | who holds which buffer | `custody.rs`, `pool.rs` |
//!
//! **Architecture invariants:** no manifest and no function's name is known here; the length of a message is decided by the broker
//! alone; a descriptor that comes back is believed only as far as custody bears it out.

#![forbid(unsafe_code)]

mod answers;
mod chain;
mod client;
mod control;
mod counters;
mod custody;
mod failure;
mod functions;
mod health;
mod histogram;
mod hop;
mod input;
mod lane;
mod outbox;
mod pool;
mod request;
mod response;
mod session;
mod shown;
mod slab;
mod socket;
mod start;
mod statistics;
mod tunnel;
mod upstream;
mod worker;

pub use control::{BrokerError, serve};
