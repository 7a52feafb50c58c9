//! One worker's rings to one function process, and which process a flow goes to.

use middlenet_sdk::BURST;
use middlenet_shm::{Consumer, ControlRegion, Descriptor, Doorbell, EventDoorbell, Producer, ShmError};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

/// Buckets that flows are hashed to. A bucket moves only when its replica dies or a new one outranks it.
const BUCKETS: usize = 256;

/// Rings, doorbells and what is in flight.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) hop: u16,
    pub(crate) replica: u16,
    /// The identity under which the ledger knows the process.
    pub(crate) holder: u16,
    pub(crate) to: Producer,
    pub(crate) from: Consumer,
    pub(crate) supply: Producer,
    pub(crate) function_bell: Doorbell,
    pub(crate) own_bell: EventDoorbell,
    pub(crate) control: Arc<ControlRegion>,
    /// Packets given and not taken back.
    pub(crate) in_flight: u32,
    /// Empty buffers lent and not come back.
    pub(crate) lent: u32,
    /// Something was put in a ring since the doorbell was last rung.
    pub(crate) to_ring: bool,
    /// Set when it gets no more traffic: until when it may give back, and whom to tell.
    pub(crate) draining: Option<Draining>,
}

/// The end of a lane.
#[derive(Debug)]
pub(crate) struct Draining {
    pub(crate) deadline: Instant,
    pub(crate) done: Option<crossbeam_channel::Sender<()>>,
}

impl Lane {
    pub(crate) fn new(
        (hop, replica, holder): (u16, u16, u16),
        worker: u16,
        control: Arc<ControlRegion>,
        event: OwnedFd,
    ) -> Result<Self, ShmError> {
        Ok(Self {
            hop,
            replica,
            holder,
            to: control.to_function_producer(worker)?,
            from: control.from_function_consumer(worker)?,
            supply: control.supply_producer(worker)?,
            function_bell: control.function_doorbell(),
            own_bell: control.manager_doorbell(worker, Some(event))?,
            control,
            in_flight: 0,
            lent: 0,
            to_ring: false,
            draining: None,
        })
    }

    /// Puts packets in the function's ring; returns how many fit.
    #[inline]
    pub(crate) fn give(&mut self, burst: &[Descriptor]) -> usize {
        let n = self.to.enqueue(burst);
        self.in_flight += n as u32;
        self.to_ring = true;
        n
    }

    /// Wakes the function if it sleeps. Once per turn, because looking costs a fence.
    #[inline]
    pub(crate) fn ring(&mut self) {
        if std::mem::take(&mut self.to_ring) {
            self.function_bell.ring();
        }
    }

    /// Whether all it had has come back.
    pub(crate) fn is_drained(&self) -> bool {
        self.in_flight == 0
    }

    /// Empty buffers it should be lent now.
    pub(crate) fn wants_supply(&self) -> usize {
        if self.lent < BURST as u32 / 2 && self.draining.is_none() { BURST - self.lent as usize } else { 0 }
    }
}

/// Which replica a flow goes to: rendezvous hashing over buckets, so that a death or a birth moves only its own share.
#[derive(Debug)]
pub(crate) struct Spread {
    /// Lane index by bucket.
    buckets: Box<[Option<usize>; BUCKETS]>,
    /// The lane when there is one only.
    only: Option<usize>,
}

impl Spread {
    pub(crate) fn new() -> Self {
        Self { buckets: Box::new([None; BUCKETS]), only: None }
    }

    /// Distributes the buckets over the living replicas: `(replica, lane index)`.
    pub(crate) fn rebuild(&mut self, alive: &[(u16, usize)]) {
        self.only = match alive {
            [(_, lane)] => Some(*lane),
            _ => None,
        };
        for (bucket, slot) in self.buckets.iter_mut().enumerate() {
            *slot = alive.iter().max_by_key(|(replica, _)| weight(bucket, *replica)).map(|(_, lane)| *lane);
        }
    }

    /// The lane when all flows go to one; `None` when there is none or a flow's hash decides.
    #[inline]
    pub(crate) fn only(&self) -> Option<usize> {
        self.only
    }

    /// The lane of a flow.
    #[inline]
    pub(crate) fn of(&self, flow_hash: u32) -> Option<usize> {
        self.buckets[flow_hash as usize % BUCKETS]
    }
}

/// A fixed mixing function (SplitMix64's finaliser): the order of replicas differs from bucket to bucket.
fn weight(bucket: usize, replica: u16) -> u64 {
    let mut z = ((bucket as u64) << 16 | u64::from(replica)).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_share_of_the_dead_moves() {
        let mut spread = Spread::new();
        spread.rebuild(&[(0, 0), (1, 1), (2, 2)]);
        let before: Vec<_> = (0..256).map(|hash| spread.of(hash)).collect();
        for lane in 0..3 {
            let share = before.iter().filter(|&&l| l == Some(lane)).count();
            assert!((40..130).contains(&share), "lane {lane} has {share} of 256 buckets");
        }
        spread.rebuild(&[(0, 0), (2, 2)]);
        for (hash, old) in before.iter().enumerate() {
            if *old != Some(1) {
                assert_eq!(spread.of(hash as u32), *old);
            }
        }
        spread.rebuild(&[]);
        assert_eq!((spread.of(7), spread.only()), (None, None));
    }
}
