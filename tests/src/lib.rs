//! Support for the end-to-end tests of MiddleNet, which run real traffic between network namespaces.
//!
//! ```text
//!   Netns::new("client")          Veth::between            Netns::new("server")
//!   +------------------+                                   +------------------+
//!   |   eth0 10.0.0.1  |===================================|  eth0 10.0.0.2   |
//!   +------------------+                                   +------------------+
//!        exec, spawn, enter                                     exec, spawn, enter
//! ```
//!
//! Every type here undoes on drop what it did to the host: a [`Netns`] ends what still runs inside it and disappears with
//! its interfaces, a [`Veth`] removes an end that it put on the host, a [`Process`] is killed by its pid and reaped. What a
//! test killed half-way left behind is removed by the next one, which knows it by the pid in its name.
//!
//! A test that needs privileges starts with [`require_root!`].

#![forbid(unsafe_code)]

mod backend;
mod binary;
mod capture;
mod echo;
mod error;
pub mod http;
mod line;
mod load;
mod marked;
mod message;
mod name;
mod netns;
mod pattern;
mod process;
mod proxy;
mod raw;
mod request_status;
mod require;
mod run_status;
mod runtime;
mod scratch;
mod upstream;
mod veth;
pub mod vm;
mod wait;
mod web;
mod wire;

pub use backend::Backend;
pub use binary::{binary, example};
pub use capture::{read_capture, write_capture};
pub use echo::{Conversation, Echo};
pub use error::Error;
pub use line::Line;
pub use load::{Asks, Load, Seen};
pub use marked::{Arrived, By, Marked, Sent};
pub use message::Message;
pub use netns::Netns;
pub use pattern::Pattern;
pub use process::{Output, Process};
pub use proxy::{Account, Proxy, Transport, over};
pub use raw::{RawSocket, random_frame};
pub use request_status::Account as RequestAccount;
pub use require::{may_build_namespaces, skip};
pub use run_status::{Conservation, RunStatus};
pub use runtime::{Command, Runtime, Summary, middlenet};
pub use scratch::Scratch;
pub use upstream::{Upstream, Visit};
pub use veth::{End, Veth, unique_device_name};
pub use wait::{wait_until, wait_until_still};
pub use web::Web;
pub use wire::{Ended, Wire};
