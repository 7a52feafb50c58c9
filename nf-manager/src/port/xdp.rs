//! An AF_XDP queue and its buffers.

use crate::counters::PortCounters;
use middlenet_dpdk::{Pool, Worker};
use middlenet_sdk::BURST;
use middlenet_shm::Descriptor;
use middlenet_xsk::XskQueue;
use std::os::fd::BorrowedFd;

/// One socket. Empty buffers come from the pool that all ports share, and go back there.
#[derive(Debug)]
pub(crate) struct XdpQueue {
    socket: XskQueue,
    unsent: bool,
}

impl XdpQueue {
    pub(crate) fn new(socket: XskQueue) -> Self {
        Self { socket, unsent: false }
    }

    #[inline]
    pub(crate) fn receive(&mut self, out: &mut [Descriptor]) -> usize {
        self.socket.receive(out)
    }

    #[inline]
    pub(crate) fn send(&mut self, burst: &[Descriptor]) -> usize {
        self.unsent = true;
        self.socket.send(burst)
    }

    /// Posts empty buffers, lets the kernel send, takes back what was sent. Returns whether the next turn has to follow at once:
    /// the kernel has not taken all, or only buffers that are on their way out can be posted. That buffers are out there is
    /// no reason: who takes them may be waiting for this core, and nothing is lost when they come back with the next packets.
    #[inline]
    pub(crate) fn service(&mut self, token: &Worker, pool: &Pool) -> bool {
        let is_short = !self.refill(token, pool);
        if self.unsent || self.socket.outstanding() > 0 {
            self.socket.kick();
            self.unsent = self.socket.unsent() > 0;
            let mut done = [0; BURST];
            loop {
                let n = self.socket.completed(&mut done);
                pool.free(token, &done[..n]);
                if n < done.len() {
                    break;
                }
            }
        }
        self.unsent || (is_short && self.socket.outstanding() > 0)
    }

    /// Buffers it has: posted for receiving, or on their way out.
    pub(crate) fn held(&self) -> usize {
        self.socket.held()
    }

    /// Posts empty buffers, so that the kernel always finds one; false: there are not enough.
    fn refill(&mut self, token: &Worker, pool: &Pool) -> bool {
        let mut empty = [0; BURST];
        while self.socket.fill_room() >= BURST {
            let n = pool.allocate(token, &mut empty);
            let taken = self.socket.fill(&empty[..n]);
            pool.free(token, &empty[taken..n]);
            if n < BURST {
                return false;
            }
        }
        true
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.fd()
    }

    /// Sums what the kernel counted at these queues.
    pub(crate) fn count(queues: &[Self], counters: &PortCounters) {
        let mut sums = [0; 3];
        for (queue, statistics) in queues.iter().filter_map(|queue| Some((queue, queue.socket.statistics().ok()?))) {
            sums[0] += statistics.rx_dropped;
            if queue.socket.zero_copy() {
                sums[0] += statistics.rx_fill_ring_empty_descs;
            }
            sums[1] += statistics.rx_ring_full;
            sums[2] += statistics.rx_invalid_descs + statistics.tx_invalid_descs;
        }
        counters.missed.iter().zip(sums).for_each(|(count, sum)| count.set(sum));
    }

    /// Closes the socket and returns the buffers it had.
    pub(crate) fn close(self) -> Vec<u32> {
        let mut returned = Vec::new();
        self.socket.close(&mut returned);
        returned
    }
}
