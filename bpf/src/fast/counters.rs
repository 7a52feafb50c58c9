//! What the fast path of a hop counts.

use std::io;

use libbpf_rs::MapHandle;

use crate::counters::per_cpu_sums;

/// Why a packet went to the slow path; in the order of `enum slow` in `way.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlowReason {
    /// No rule matches.
    Miss,
    /// It is a fragment, and only prefixes match those.
    Fragment,
    /// Its TTL is over.
    Ttl,
    /// It is larger than the rule lets pass.
    Mtu,
    /// The rule asks for what does not fit the packet, or leads nowhere.
    Unfit,
    /// There is no fast path where it goes: the next hop has none, or the port takes no packets from programs.
    End,
    /// The rule says so.
    Asked,
    /// Its connection could not be remembered.
    Room,
}

/// Why a packet went to the kernel's own stack; in the order of `enum kernel` in `way.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KernelReason {
    /// No rule matches, and the mode is `offloading`.
    Miss,
    /// The rule says so.
    Asked,
    /// The kernel does not know the MAC address of the next host yet.
    NoNeighbour,
    /// The kernel's tables lead elsewhere than to a port of the run: to the host itself, to nowhere, or to a smaller MTU.
    NotForwarded,
    /// Its queue has no AF_XDP socket, and no fast path had dealt with it.
    NoSocket,
    /// Its TTL is over, and the mode is `offloading`.
    Ttl,
    /// It is larger than the rule lets pass, likewise.
    Mtu,
    /// The rule asks for what does not fit the packet, or leads nowhere, likewise.
    Unfit,
    /// Its connection could not be remembered, likewise.
    Room,
}

impl SlowReason {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Miss, Self::Fragment, Self::Ttl, Self::Mtu, Self::Unfit, Self::End, Self::Asked, Self::Room];

    /// In one word or two.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Miss => "miss",
            Self::Fragment => "fragment",
            Self::Ttl => "ttl",
            Self::Mtu => "mtu",
            Self::Unfit => "unfit",
            Self::End => "end",
            Self::Asked => "asked",
            Self::Room => "no-room",
        }
    }
}

impl KernelReason {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Miss,
        Self::Asked,
        Self::NoNeighbour,
        Self::NotForwarded,
        Self::NoSocket,
        Self::Ttl,
        Self::Mtu,
        Self::Unfit,
        Self::Room,
    ];

    /// In one word or two.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Miss => "miss",
            Self::Asked => "asked",
            Self::NoNeighbour => "no-neighbour",
            Self::NotForwarded => "not-forwarded",
            Self::NoSocket => "no-socket",
            Self::Ttl => "ttl",
            Self::Mtu => "mtu",
            Self::Unfit => "unfit",
            Self::Room => "no-room",
        }
    }
}

const SLOW: usize = SlowReason::ALL.len();
const KERNEL: usize = KernelReason::ALL.len();
const REASONS: usize = 64;
const SINGLE: usize = 8;
const WORDS: usize = SINGLE + SLOW + KERNEL + REASONS;

/// Bytes of `struct fast_counters` in `way.h`.
pub(super) const BYTES: u32 = (WORDS * size_of::<u64>()) as u32;

/// What the fast path of a hop has done. Over the hops of a chain, `entered` is the sum of all that is sent, dropped, slow, kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageCounters {
    /// Packets that entered the chain here.
    pub entered_pkts: u64,
    /// Packets that a rule decided about.
    pub hit_pkts: u64,
    /// Packets that left directly by a port.
    pub sent_pkts: u64,
    /// Connections that were remembered.
    pub learned: u64,
    /// Connections that could not be remembered.
    pub no_room: u64,
    /// Packets dropped since the manifest says so.
    pub discarded_pkts: u64,
    /// Packets dropped since their queue had no AF_XDP socket, after a fast path had dealt with them.
    pub no_socket_pkts: u64,
    /// Packets dropped since the driver has no room for a tag, likewise.
    pub untagged_pkts: u64,
    /// By [`SlowReason`].
    pub slow_pkts: [u64; SLOW],
    /// By [`KernelReason`].
    pub kernel_pkts: [u64; KERNEL],
    /// Packets dropped by the function's drop reasons.
    pub dropped_pkts: [u64; REASONS],
}

impl StageCounters {
    /// Packets that went to the slow path for a reason.
    pub fn slow(&self, reason: SlowReason) -> u64 {
        self.slow_pkts[reason as usize]
    }

    /// Packets that went to the kernel's own stack for a reason.
    pub fn kernel(&self, reason: KernelReason) -> u64 {
        self.kernel_pkts[reason as usize]
    }
}

/// `struct fast_counters` of a hop.
pub(super) fn read(hops: &MapHandle, hop: u16) -> io::Result<StageCounters> {
    let words: [u64; WORDS] = per_cpu_sums(hops, hop.into())?;
    let at = |first: usize, i: usize| words[SINGLE + first + i];
    let [entered_pkts, hit_pkts, sent_pkts, learned, no_room, discarded_pkts, no_socket_pkts, untagged_pkts, ..] =
        words;
    Ok(StageCounters {
        entered_pkts,
        hit_pkts,
        sent_pkts,
        learned,
        no_room,
        discarded_pkts,
        no_socket_pkts,
        untagged_pkts,
        slow_pkts: std::array::from_fn(|i| at(0, i)),
        kernel_pkts: std::array::from_fn(|i| at(SLOW, i)),
        dropped_pkts: std::array::from_fn(|i| at(SLOW + KERNEL, i)),
    })
}
