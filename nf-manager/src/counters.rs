//! What the data plane counts: words that one worker writes and the control thread reads, so that statistics never stall it.

use crossbeam_utils::CachePadded;
use middlenet_sdk::DropReason;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number with one writer.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        // One writer: a load and a store cost less than a locked add.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! manager_reasons {
    ($($(#[doc = $help:literal])+ $variant:ident = $stage:literal / $name:literal;)*) => {
        /// Why the manager itself drops a packet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum HopDrop { $($(#[doc = $help])+ $variant),* }

        impl HopDrop {
            /// Every reason with the stage it is shown under.
            pub(crate) const ALL: &'static [(Self, &'static str, &'static str)] =
                &[$((Self::$variant, $stage, $name)),*];
        }
    };
}

manager_reasons! {
    /// The function has no living instance, and the manifest says `on_failure: drop`.
    FunctionDown = "hop" / "function-down";
    /// The packet was with a function when it died.
    FunctionDied = "hop" / "function-died";
    /// The function's ring was full.
    RingFull = "hop" / "ring-full";
    /// A verdict, port or output that the manifest does not allow this function.
    BadVerdict = "hop" / "bad-verdict";
    /// The packet left its buffer: offset and length do not fit.
    OutOfBounds = "hop" / "out-of-bounds";
    /// Functions sent it to and fro too often.
    HopLimit = "hop" / "hop-limit";
    /// The manifest connects this output with `drop`.
    Output = "hop" / "output-to-drop";
    /// Nobody said by which of several ports it leaves.
    NoEgress = "egress" / "no-egress-port";
    /// The data plane stopped while the packet was with a function.
    Stopped = "hop" / "stopped";
    /// No buffer was free for a copy.
    NoBuffer = "hop" / "no-buffer-for-copy";
    /// A fast path wanted to leave it to a worker, but no worker reads its queue.
    NoSocket = "hop" / "queue-without-socket";
    /// A fast path wanted to leave it to a worker, but the driver has no room for what is to be said with it.
    NoRoom = "hop" / "no-room-for-mark";
}

/// Descriptors that the filter refused. They name no buffer that the sender held, so no packet is lost by them.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    pub(crate) index: Count,
    pub(crate) holder: Count,
    pub(crate) generation: Count,
}

/// One hop as one worker sees it.
#[derive(Debug)]
pub(crate) struct HopCounters {
    pub(crate) in_pkts: Count,
    pub(crate) out_pkts: Count,
    pub(crate) originated_pkts: Count,
    pub(crate) bypassed_pkts: Count,
    pub(crate) held_pkts: Count,
    pub(crate) lent: Count,
    pub(crate) by_function: Box<[Count]>,
    pub(crate) by_manager: Box<[Count]>,
    pub(crate) refused: Refused,
    /// Wishes of an inline function to steer flows that the control thread had no time for.
    pub(crate) unheard: Count,
    /// 1 while an inline function is out of service because it panicked.
    pub(crate) failed: Count,
    pub(crate) latency: crate::latency::Histogram,
}

impl HopCounters {
    fn new() -> Self {
        let counts = |n: usize| (0..n).map(|_| Count::default()).collect();
        Self {
            in_pkts: Count::default(),
            out_pkts: Count::default(),
            originated_pkts: Count::default(),
            bypassed_pkts: Count::default(),
            held_pkts: Count::default(),
            lent: Count::default(),
            by_function: counts(usize::from(DropReason::LIMIT)),
            by_manager: counts(HopDrop::ALL.len()),
            refused: Refused::default(),
            unheard: Count::default(),
            failed: Count::default(),
            latency: crate::latency::Histogram::default(),
        }
    }

    #[inline]
    pub(crate) fn drop_by_function(&self, reason: DropReason) {
        let at = usize::from(reason.0);
        // A number that no reason has is the function's mistake, but a drop all the same.
        self.by_function.get(at).unwrap_or(&self.by_function[0]).add(1);
    }

    #[inline]
    pub(crate) fn drop(&self, reason: HopDrop, packets: u64) {
        self.by_manager[reason as usize].add(packets);
    }
}

/// Why a packet that a port received enters no chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortLoss {
    /// A steering rule says so.
    Rule,
    /// A steering rule gives it to the kernel, which is not to be had behind this port.
    ToKernel,
    /// Its chain is full, while others of the port are not.
    ChainFull,
    /// It bears no mark, or one that no chain of the port has.
    NoDestination,
}

impl PortLoss {
    /// Every reason with its name.
    pub(crate) const ALL: [(Self, &'static str); 4] = [
        (Self::Rule, "steering-rule"),
        (Self::ToKernel, "steered-to-kernel"),
        (Self::ChainFull, "chain-full"),
        (Self::NoDestination, "no-destination"),
    ];
}

/// One port as one worker sees it.
#[derive(Debug, Default)]
pub(crate) struct PortCounters {
    pub(crate) received_pkts: Count,
    pub(crate) received_bytes: Count,
    pub(crate) sent_pkts: Count,
    pub(crate) sent_bytes: Count,
    /// The port took no more.
    pub(crate) tx_full: Count,
    /// The port was being restarted.
    pub(crate) tx_down: Count,
    /// No chain leads from here, or nobody said where to.
    pub(crate) no_egress: Count,
    pub(crate) held_back_polls: Count,
    /// Not taken into a chain, by [`PortLoss`].
    pub(crate) lost: [Count; PortLoss::ALL.len()],
    /// Lost before the chain, as the device or kernel says.
    pub(crate) missed: [Count; MISSED.len()],
    /// Buffers it has: posted for receiving, or on their way out.
    pub(crate) buffers: Count,
}

/// Ways to be lost before the chain, in the order of [`PortCounters::missed`].
pub(crate) const MISSED: [&str; 6] =
    ["no-buffer-posted", "receive-queue-full", "bad-descriptor", "segmented", "too-long", "file-ends-in-a-record"];

/// Everything one worker counts.
#[derive(Debug)]
pub(crate) struct WorkerCounters {
    pub(crate) hops: Box<[CachePadded<HopCounters>]>,
    pub(crate) ports: Box<[CachePadded<PortCounters>]>,
    pub(crate) busy_turns: Count,
    pub(crate) idle_turns: Count,
    pub(crate) parks: Count,
    pub(crate) busy_cycles: Count,
    /// Set for good when every file has been read and no packet is under way (lockstep only).
    pub(crate) finished: Count,
}

impl WorkerCounters {
    pub(crate) fn new(hops: usize, ports: usize) -> Self {
        Self {
            hops: (0..hops).map(|_| CachePadded::new(HopCounters::new())).collect(),
            ports: (0..ports).map(|_| CachePadded::new(PortCounters::default())).collect(),
            busy_turns: Count::default(),
            idle_turns: Count::default(),
            parks: Count::default(),
            busy_cycles: Count::default(),
            finished: Count::default(),
        }
    }
}
