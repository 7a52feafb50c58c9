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

    /// A rule set could not be put in place.
    #[error("the kernel refused the tables of {rules} steering rules: {source}")]
    Tables {
        /// How many rules.
        rules: usize,
        /// What the kernel answered.
        source: io::Error,
    },

    /// The counters of the steering rules could not be read.
    #[error("cannot read the counters of the steering rules: {source}")]
    SteerCounters {
        /// What the kernel answered.
        source: io::Error,
    },

    /// There is no room for another flow.
    #[error("the table of flows has its {capacity} entries in use: wait until some expire, or remove some")]
    FlowsFull {
        /// Most flows at a time.
        capacity: u32,
    },

    /// A flow whose addresses are of different versions.
    #[error("a flow goes from {src} to {dst}, which are not of the same IP version")]
    MixedFlow {
        /// Source address.
        src: std::net::IpAddr,
        /// Destination address.
        dst: std::net::IpAddr,
    },

    /// The table of flows could not be read or changed.
    #[error("cannot use the table of flows: {source}")]
    Flows {
        /// What the kernel answered.
        source: io::Error,
    },

    /// The maps of fast paths could not be made, read or changed.
    #[error("cannot use the maps of fast paths: {source}")]
    FastPaths {
        /// What the kernel answered.
        source: io::Error,
    },

    /// A program could not be run on a packet by itself.
    #[error("cannot run the BPF program on a packet of {bytes} bytes: {source}")]
    Trial {
        /// Length of the packet.
        bytes: usize,
        /// What the kernel answered.
        source: io::Error,
    },

    /// The kernel is older than what a program needs.
    #[error("the BPF program `{program}` needs Linux {needed}, and this is {release}")]
    OldKernel {
        /// Name of the program.
        program: &'static str,
        /// The oldest release that has all of it.
        needed: &'static str,
        /// What uname(2) says.
        release: String,
    },

    /// The connection to which refused groups are sent could not be made.
    #[error("cannot make the connection over loopback that takes refused groups: {source}")]
    Sink {
        /// What the kernel answered.
        source: io::Error,
    },

    /// The ledger could not be mapped.
    #[error("cannot map the ledger of {buffers} buffers: {source}")]
    Ledger {
        /// Entries of the ledger.
        buffers: u32,
        /// What the kernel answered.
        source: io::Error,
    },

    /// A socket could not be entered in, or removed from, the sockmap.
    #[error("cannot set the socket of key {key} in the sockmap: {source}; it must be a TCP connection that stands")]
    Sockmap {
        /// Key of the party.
        key: u8,
        /// What the kernel answered.
        source: io::Error,
    },

    /// The edges of a party could not be set.
    #[error("cannot set to whom key {key} may pass groups: {source}")]
    Edges {
        /// Key of the party.
        key: u8,
        /// What the kernel answered.
        source: io::Error,
    },

    /// The counters of a party could not be read.
    #[error("cannot read the counters of {party}: {source}")]
    SkmsgCounters {
        /// The party, in words.
        party: String,
        /// What the kernel answered.
        source: io::Error,
    },

    /// Sockets with an SK_MSG program do not do on this kernel what they should.
    #[error("the self-test of SK_MSG failed at `{check}`: {found}")]
    SelfTest {
        /// What was checked.
        check: &'static str,
        /// What was found instead.
        found: String,
    },
}

/// In the lines that libbpf puts before and behind what the verifier said; the first may have been cut off.
const VERIFIER_LOG: &str = "PROG LOAD LOG";

impl Error {
    /// Why a program was not loaded; `log` is what libbpf said meanwhile.
    pub(crate) fn of_load(program: &'static str, error: &libbpf_rs::Error, log: String) -> Self {
        match io_error(error) {
            // The verifier refuses with the same kind of error, and says why.
            source if source.kind() == io::ErrorKind::PermissionDenied && !log.contains(VERIFIER_LOG) => {
                Self::NotPermitted { program, source }
            }
            source => Self::Load { program, source, log },
        }
    }
}

/// libbpf's errors are errno values with words around them.
pub(crate) fn io_error(error: &libbpf_rs::Error) -> io::Error {
    io::Error::new(error.kind().into_io(), error.to_string())
}

/// The kinds that callers tell apart.
trait IntoIo {
    fn into_io(self) -> io::ErrorKind;
}

impl IntoIo for libbpf_rs::ErrorKind {
    fn into_io(self) -> io::ErrorKind {
        match self {
            Self::NotFound => io::ErrorKind::NotFound,
            Self::PermissionDenied => io::ErrorKind::PermissionDenied,
            Self::InvalidInput => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::Other,
        }
    }
}
