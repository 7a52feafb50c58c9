//! Checked views and builders of packet headers.
//!
//! A view is constructed by a `parse` that checks every length once; after that no accessor can fail or panic, because the
//! view holds the header as a typed reference and the rest as slices that were cut at the checked lengths. Nothing here
//! allocates except [`PacketBuilder::build`].
//!
//! | Module | What |
//! |---|---|
//! | [`dissect`] | [`Layers`]: one walk over a frame that finds all headers; hands out the views |
//! | [`flow`] | [`FlowKey`]: addresses, ports, protocol, VLAN; its reverse and its hashes |
//! | [`ethernet`], [`vlan`], [`arp`] | L2 |
//! | [`ipv4`], [`ipv6`], [`fragment`], [`protocol`] | L3, with the walk over IPv6 extension headers |
//! | [`tcp`], [`tcp_options`], [`udp`], [`icmpv4`], [`icmpv6`], [`ndp`] | L4, with IPv6 neighbor discovery |
//! | [`checksum`] | internet checksum, pseudo headers, incremental update |
//! | [`rewrite`] | change an address or port and all checksums, as address translation does |
//! | [`build`] | [`PacketBuilder`], ICMP errors with their rules of silence, neighbor messages |
//!
//! ```
//! use middlenet_wire::rewrite::{self, Side};
//! use middlenet_wire::{FlowKey, Layers, PacketBuilder, WireError};
//!
//! let mut frame = PacketBuilder::new()
//!     .ipv4("10.0.0.1".parse().unwrap(), "192.0.2.7".parse().unwrap())
//!     .udp(5000, 53)
//!     .payload(b"query")
//!     .build();
//!
//! // Parse once, then take views.
//! let layers = Layers::parse(&frame)?;
//! assert_eq!(FlowKey::of(&layers, &frame)?.dst_port, 53);
//!
//! // Forward it as a router with source address translation does.
//! layers.ipv4_mut(&mut frame)?.dec_ttl();
//! rewrite::endpoint(&mut frame, &layers, Side::Source, "198.51.100.1".parse().unwrap(), Some(40001))?;
//! assert_eq!(layers.ipv4(&frame)?.ttl(), 63);
//! assert_eq!(layers.udp(&frame)?.src_port(), 40001);
//! layers.verify_checksums(&frame)?;
//! # Ok::<(), WireError>(())
//! ```
#![forbid(unsafe_code)]

pub mod arp;
pub mod build;
pub mod checksum;
pub mod dissect;
mod error;
pub mod ethernet;
pub mod flow;
pub mod fragment;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod ndp;
pub mod protocol;
pub mod rewrite;
pub mod tcp;
pub mod tcp_options;
pub mod udp;
pub mod vlan;

pub use arp::{Arp, ArpOperation};
pub use build::{IcmpError, IcmpErrorRefused, PacketBuilder};
pub use dissect::{L3, Layers};
pub use error::WireError;
pub use ethernet::{Ethernet, EthernetMut, MacAddr, ethertype};
pub use flow::FlowKey;
pub use fragment::Fragment;
pub use icmpv4::{Icmpv4, Icmpv4Mut};
pub use icmpv6::{Icmpv6, Icmpv6Mut};
pub use ipv4::{Ipv4, Ipv4Mut};
pub use ipv6::{Ipv6, Ipv6Mut};
pub use ndp::{NdMessage, NdOption, NdOptions};
pub use tcp::{Tcp, TcpFlags, TcpMut};
pub use tcp_options::{TcpOption, TcpOptions};
pub use udp::{Udp, UdpMut};
pub use vlan::{VlanTag, VlanTags};
