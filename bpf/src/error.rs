//! Why a BPF program could not be loaded, attached or talked to.

use std::io;

/// Why a BPF program could not be loaded, attached or talked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a program or one of its maps.
    #[error("the kernel refused the BPF program `{program}`: {source}{log}")]
    Load {
        /// Name of the program.
        program: &'static str,
        /// What the kernel answered.
        source: io::Error,
        /// libbpf's and the verifier's words, each on a line of its own; may be empty.
        log: String,
    },

    /// The process may not load BPF programs.
    #[error(
        "not permitted to load the BPF program `{program}`: {source}; CAP_BPF and CAP_NET_ADMIN are needed, as root has"
    )]
    NotPermitted {
        /// Name of the program.
        program: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },

    /// Another XDP program holds the interface; replacing it would break whoever attached it.
    #[error(
        "interface {interface} already has an XDP program (id {program_id}); see it with `bpftool prog show id \
         {program_id}`, and stop its owner or remove it with `ip link set dev {interface} xdp off`"
    )]
    Occupied {
        /// Name of the interface.
        interface: String,
        /// The kernel's id of the program that is there; 0 when it could not be read.
        program_id: u32,
    },

    /// No interface has this index in the caller's network namespace.
    #[error("no interface has index {ifindex} in this network namespace")]
    NoInterface {
        /// The index asked for.
        ifindex: u32,
    },

    /// The interface refused the program in each mode that was asked for.
    #[error("cannot attach an XDP program to interface {interface} in {mode} mode: {source}")]
    Attach {
        /// Name of the interface.
        interface: String,
        /// The mode tried last.
        mode: crate::XdpMode,
        /// What the kernel answered.
        source: io::Error,
    },

    /// An AF_XDP socket could not be entered in, or removed from, the program's socket map.
    #[error("cannot set the AF_XDP socket of queue {queue} on interface {interface}: {source}")]
    Socket {
        /// Name of the interface.
        interface: String,
        /// The receive queue.
        queue: u32,
        /// What the kernel answered.
        source: io::Error,
    },

    /// The program's counters could not be read.
    #[error("cannot read the XDP counters of interface {interface}: {source}")]
    Counters {
        /// Name of the interface.
        interface: String,
        /// What the kernel answered.
        source: io::Error,
    },
}
