//! One worker's queues at one port, whatever kind of port it is.

mod capture;
mod xdp;

pub(crate) use capture::{Capture, Clock, SharedWriter};
pub(crate) use xdp::XdpQueue;

use crate::counters::PortCounters;
use crate::steering::RuleSet;
use middlenet_dpdk::{Pool, RxQueue, TxQueue, Worker};
use middlenet_shm::Descriptor;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// How packets of a port are told apart, where they do not all go into one chain.
#[derive(Clone, Debug)]
pub(crate) enum Steering {
    /// They do.
    None,
    /// An XDP program has marked each with its destination; what it could not mark goes by the rules.
    Marked(Arc<RuleSet>),
    /// By rules that the worker carries out.
    Rules(Arc<RuleSet>),
}

/// The ways packets come and go.
#[derive(Debug)]
pub(crate) enum Queue {
    /// Through a DPDK driver.
    Dpdk {
        /// Usually one; several when the port has more queues than there are workers.
        receive: Vec<RxQueue>,
        send: TxQueue,
    },
    /// Through AF_XDP sockets: one, or several when the port has more queues than there are workers.
    Xdp(Vec<XdpQueue>),
    /// From and to capture files.
    Capture(Box<Capture>),
}

impl Queue {
    /// Receives up to a burst. Index, offset and length of the descriptors are set.
    #[inline]
    pub(crate) fn receive(&mut self, token: &Worker, pool: &Pool, out: &mut [Descriptor]) -> usize {
        match self {
            Self::Dpdk { receive, .. } => match receive.as_mut_slice() {
                [only] => only.receive(token, out),
                several => in_turn(several, out, |queue, out| queue.receive(token, out)),
            },
            Self::Xdp(queues) => match queues.as_mut_slice() {
                [only] => only.receive(out),
                several => in_turn(several, out, XdpQueue::receive),
            },
            Self::Capture(capture) => capture.receive(token, pool, out),
        }
    }

    /// Hands packets to the device; returns how many it took. The buffers of those are the device's.
    #[inline]
    pub(crate) fn send(&mut self, token: &Worker, pool: &Pool, burst: &[Descriptor]) -> usize {
        match self {
            Self::Dpdk { send, .. } => send.send(token, burst),
            Self::Xdp(queues) => queues.first_mut().map_or(0, |queue| queue.send(burst)),
            Self::Capture(capture) => capture.send(token, pool, burst),
        }
    }

    /// Once per turn: system calls, completions, empty buffers. Returns whether it has to be called again at once.
    #[inline]
    pub(crate) fn service(&mut self, token: &Worker, pool: &Pool, counters: &PortCounters) -> bool {
        match self {
            Self::Xdp(queues) => {
                let mut is_due = false;
                let mut held = 0;
                for queue in queues {
                    is_due |= queue.service(token, pool);
                    held += queue.held();
                }
                counters.buffers.set(held as u64);
                is_due
            }
            Self::Dpdk { .. } | Self::Capture(_) => false,
        }
    }

    /// Whether a packet can come that does not end a sleep on [`Queue::events`].
    pub(crate) fn is_blind(&self) -> bool {
        !matches!(self, Self::Xdp(_)) && !self.at_end()
    }

    /// What to sleep on.
    pub(crate) fn events(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let queues = match self {
            Self::Xdp(queues) => queues.as_slice(),
            Self::Dpdk { .. } | Self::Capture(_) => &[],
        };
        queues.iter().map(XdpQueue::fd)
    }

    /// Whether nothing more will ever come.
    pub(crate) fn at_end(&self) -> bool {
        matches!(self, Self::Capture(capture) if capture.at_end())
    }

    /// Copies what the device counts to where the control thread reads it. Not per burst.
    pub(crate) fn count(&self, counters: &PortCounters) {
        match self {
            Self::Dpdk { receive, .. } => counters.missed[3].set(receive.iter().map(RxQueue::segmented).sum()),
            Self::Xdp(queues) => XdpQueue::count(queues, counters),
            Self::Capture(capture) => {
                let (too_long, cut_short) = capture.losses();
                counters.missed[4].set(too_long);
                counters.missed[5].set(u64::from(cut_short));
            }
        }
    }
}

/// Receives from several queues; the one served first changes each time, so that a busy one does not starve the others.
fn in_turn<Q>(
    queues: &mut [Q],
    out: &mut [Descriptor],
    mut receive: impl FnMut(&mut Q, &mut [Descriptor]) -> usize,
) -> usize {
    if !queues.is_empty() {
        queues.rotate_left(1);
    }
    let mut n = 0;
    for queue in queues {
        n += receive(queue, &mut out[n..]);
    }
    n
}
