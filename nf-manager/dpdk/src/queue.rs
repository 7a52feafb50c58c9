use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys as sys;
use middlenet_shm::Descriptor;

use crate::Worker;
use crate::mbuf::Mbuf;
use crate::pool::Pool;
use crate::port::Shared;

/// Most packets that one call receives or sends.
pub const MAX_BURST: usize = 64;

/// A receive queue of a started port. Whoever has it is the only one to poll it.
#[derive(Debug)]
pub struct RxQueue {
    shared: Arc<Shared>,
    queue: u16,
    port: u8,
    segmented: u64,
}

impl RxQueue {
    pub(crate) fn new(shared: Arc<Shared>, queue: u16, port: u8) -> RxQueue {
        RxQueue { shared, queue, port, segmented: 0 }
    }

    /// Number of the queue at its port.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// What [`receive`](Self::receive) writes to [`Descriptor::port`].
    pub fn port(&self) -> u8 {
        self.port
    }

    /// Packets dropped because the device spread them over several buffers.
    pub fn segmented(&self) -> u64 {
        self.segmented
    }

    /// Receives up to [`MAX_BURST`] packets into the front of `out`; returns how many. The caller then holds their
    /// buffers, until it sends or frees them.
    ///
    /// Descriptors carry index, offset, length and port; the other fields are zero.
    #[inline]
    pub fn receive(&mut self, _: &Worker, out: &mut [Descriptor]) -> usize {
        let mut mbufs = [const { MaybeUninit::<*mut sys::rte_mbuf>::uninit() }; MAX_BURST];
        let want = out.len().min(MAX_BURST);
        // SAFETY: the port is started for as long as `shared` has queues; `&mut self` makes this the only poll of the
        // queue; `mbufs` has room for `want` pointers.
        let got =
            unsafe { sys::rte_eth_rx_burst(self.shared.port, self.queue, mbufs.as_mut_ptr().cast(), want as u16) };
        let got = usize::from(got).min(want);
        let pool: &Pool = &self.shared.pool;
        let mut written = 0;
        for (at, pointer) in mbufs[..got].iter().enumerate() {
            // SAFETY: the driver wrote `got` pointers, to mbufs of the pool that the queue was set up with.
            let pointer = unsafe { pointer.assume_init() };
            // SAFETY: as above; never null.
            let mbuf = unsafe { Mbuf::new(NonNull::new_unchecked(pointer.cast())) };
            let rearm = mbuf.rearm();
            if rearm.segments() != 1 {
                drop_segmented(pointer, &mut self.segmented);
                continue;
            }
            mbuf.mark_out();
            debug_assert!(at < out.len() && written <= at);
            // SAFETY: `written <= at < got <= out.len()`.
            *unsafe { out.get_unchecked_mut(written) } = Descriptor {
                index: pool.index_of(mbuf),
                offset: rearm.data_off(),
                length: mbuf.data_length(),
                argument: 0,
                source: 0,
                generation: 0,
                verdict: 0,
                port: self.port,
            };
            written += 1;
        }
        written
    }
}

/// A chain of buffers has no descriptor. Ports are set up without scatter, so only a few virtual devices make one.
#[cold]
fn drop_segmented(mbuf: *mut sys::rte_mbuf, segmented: &mut u64) {
    // SAFETY: received and not passed on; frees the whole chain.
    unsafe { sys::rte_pktmbuf_free(mbuf) };
    *segmented += 1;
}

/// A transmit queue of a started port. Whoever has it is the only one to send on it.
#[derive(Debug)]
pub struct TxQueue {
    shared: Arc<Shared>,
    queue: u16,
}

impl TxQueue {
    pub(crate) fn new(shared: Arc<Shared>, queue: u16) -> TxQueue {
        TxQueue { shared, queue }
    }

    /// Number of the queue at its port.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Sends the first [`MAX_BURST`] of `descriptors`, in order; returns how many the port took. The caller still holds
    /// the buffers of the rest.
    ///
    /// Ends early at a descriptor that cannot be sent: its index is not out, it is empty, or it reaches beyond its
    /// buffer. That is counted in [`Pool::refused`], and it will be refused again: free it.
    #[inline]
    pub fn send(&mut self, _: &Worker, descriptors: &[Descriptor]) -> usize {
        let mut mbufs = [const { MaybeUninit::<*mut sys::rte_mbuf>::uninit() }; MAX_BURST];
        let pool: &Pool = &self.shared.pool;
        let buffer_bytes = pool.buffers().buffer_bytes();
        let mut ready = 0;
        for (descriptor, slot) in descriptors.iter().zip(&mut mbufs) {
            let end = u32::from(descriptor.offset) + u32::from(descriptor.length);
            let Some(mbuf) = pool.out(descriptor.index).filter(|_| descriptor.length > 0 && end <= buffer_bytes) else {
                pool.refuse(1);
                break;
            };
            mbuf.set_packet(descriptor.offset, descriptor.length);
            slot.write(mbuf.as_ptr());
            ready += 1;
        }
        if ready == 0 {
            return 0;
        }
        // SAFETY: the port is started for as long as `shared` has queues; `&mut self` makes this the only sender on the
        // queue; the first `ready` slots hold mbufs of the pool, each one segment inside its buffer.
        let sent =
            unsafe { sys::rte_eth_tx_burst(self.shared.port, self.queue, mbufs.as_mut_ptr().cast(), ready as u16) };
        let sent = usize::from(sent).min(ready);
        if sent < ready {
            self.take_back(&descriptors[sent..ready]);
        }
        sent
    }

    /// The port was full: these are the caller's again.
    #[cold]
    fn take_back(&self, descriptors: &[Descriptor]) {
        for descriptor in descriptors {
            self.shared.pool.mbuf(descriptor.index).mark_out();
        }
    }
}
