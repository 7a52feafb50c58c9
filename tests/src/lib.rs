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

mod binary;
mod error;
mod name;
mod netns;
mod process;
mod require;
mod veth;
mod wait;

pub use binary::binary;
pub use error::Error;
pub use netns::Netns;
pub use process::{Output, Process};
pub use require::{may_build_namespaces, skip};
pub use veth::{End, Veth, unique_device_name};
pub use wait::wait_until;
