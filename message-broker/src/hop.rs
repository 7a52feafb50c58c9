//! A hop as a worker reaches it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use middlenet_plan::OnLoss;
use middlenet_sdk::Init;
use middlenet_sdk::middlebox::{self, Board, Context, DynMiddlebox, Interests, Message, Onward, Timers};
use middlenet_shm::{Consumer, Doorbell, EventDoorbell, Producer};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::slab::Key;

/// A hop of one worker.
pub(crate) struct Hop {
    pub(crate) chain: u16,
    pub(crate) on_loss: OnLoss,
    /// By output: the place it leads to.
    pub(crate) outputs: Vec<u8>,
    pub(crate) interests: Interests,
    pub(crate) place: Place,
    /// Its upstreams by its own numbering, as ids of the broker's.
    pub(crate) upstreams: Vec<usize>,
    /// Those are servers of one service: a request that one cannot take may go to another.
    pub(crate) alike: bool,
    /// Sessions with a message for it, until it is back.
    pub(crate) waiting: VecDeque<Key>,
}

/// Where its function runs.
pub(crate) enum Place {
    Inline(Box<Inline>),
    Process {
        /// By replica.
        instances: Vec<Option<Instance>>,
        /// An instance has been here, so that its interests are known.
        declared: bool,
    },
}

/// A function in the worker itself.
pub(crate) struct Inline {
    pub(crate) function: Box<dyn DynMiddlebox>,
    pub(crate) init: Init,
    pub(crate) board: Board,
    pub(crate) timers: Timers,
    pub(crate) made: Instant,
}

/// What came of a call.
pub(crate) enum Called {
    Went(Onward),
    Panicked,
}

impl Inline {
    pub(crate) fn new(function: Box<dyn DynMiddlebox>, init: Init) -> Self {
        Self { function, init, board: Board::default(), timers: Timers::default(), made: Instant::now() }
    }

    /// Shows the function a message.
    #[inline]
    pub(crate) fn call(&mut self, message: &mut Message<'_>, position: u8, now: Instant) -> Called {
        let clock = now.saturating_duration_since(self.made);
        let called = catch_unwind(AssertUnwindSafe(|| {
            let mut context = Context::of(message.header(), clock, &self.board, &mut self.timers);
            let verdict = self.function.handle(message, &mut context);
            message.apply(verdict, position)
        }));
        called.map_or(Called::Panicked, Called::Went)
    }

    /// Calls timers and tick; `false` if it panicked.
    pub(crate) fn tick(&mut self, now: Instant) -> bool {
        let clock = now.saturating_duration_since(self.made);
        catch_unwind(AssertUnwindSafe(|| {
            middlebox::tick(&mut *self.function, clock, &self.board, &mut self.timers);
        }))
        .is_ok()
    }

    /// Takes the place of an earlier instance: its state, its counters, its clock.
    pub(crate) fn replace(&mut self, function: Box<dyn DynMiddlebox>, init: Init) {
        let previous = std::mem::replace(&mut self.function, function);
        let inherited = catch_unwind(AssertUnwindSafe(|| self.function.inherit(previous)));
        drop(inherited);
        init.continue_from(&self.init);
        self.init = init;
    }
}

/// A function process, as one worker reaches it.
pub(crate) struct Instance {
    /// Key of its socket, and of its name in the ledger.
    pub(crate) key: u8,
    pub(crate) board: Board,
    pub(crate) to: Producer,
    pub(crate) from: Consumer,
    /// On which it sleeps.
    pub(crate) bell: Doorbell,
    /// On which this worker sleeps for it.
    pub(crate) own_bell: EventDoorbell,
    /// Reached by SK_MSG; else by its rings.
    pub(crate) skmsg: bool,
    /// Descriptors were put in its ring since its bell was rung.
    pub(crate) to_ring: bool,
    /// The other end of its socket, which keeps the connection alive.
    pub(crate) peer: Option<Arc<OwnedFd>>,
}

impl Instance {
    /// Whether the process is known to be gone: nobody else has its end of the connection.
    pub(crate) fn is_gone(&self) -> bool {
        // One that was told to use rings has its connection closed by us.
        let Some(peer) = self.peer.as_ref().filter(|_| self.skmsg) else { return false };
        let looked = rustix::net::recv(peer, &mut [0u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !matches!(looked, Ok((1.., _)) | Err(Errno::AGAIN | Errno::INTR))
    }
}

impl Hop {
    /// The live instance for a session: the same one while the set of instances stays.
    #[inline]
    pub(crate) fn instance_for(&mut self, session: u64) -> Option<(usize, &mut Instance)> {
        let Place::Process { instances, .. } = &mut self.place else { return None };
        // Sessions are numbered in turn, so that their remainders are spread evenly. Where an instance is missing its sessions go
        // to the next, and nobody else's move.
        let count = instances.len();
        let wanted = (session >> 8) as usize % count.max(1);
        let at = (0..count).map(|n| (wanted + n) % count).find(|&at| instances[at].is_some())?;
        Some((at, instances[at].as_mut()?))
    }

    pub(crate) fn instances_mut(&mut self) -> impl Iterator<Item = (usize, &mut Instance)> {
        let instances = match &mut self.place {
            Place::Process { instances, .. } => instances.as_mut_slice(),
            Place::Inline(_) => &mut [],
        };
        instances.iter_mut().enumerate().filter_map(|(at, i)| Some((at, i.as_mut()?)))
    }

    pub(crate) fn is_declared(&self) -> bool {
        match &self.place {
            Place::Inline(_) => true,
            Place::Process { declared, .. } => *declared,
        }
    }

    /// Tells the function of the state of one of its upstreams.
    #[inline]
    pub(crate) fn publish(&mut self, number: usize, up: bool, active: u32) {
        match &mut self.place {
            Place::Inline(inline) => inline.board.publish(number, up, active),
            Place::Process { instances, .. } => {
                instances.iter().flatten().for_each(|i| i.board.publish(number, up, active));
            }
        }
    }
}

/// How long a worker that stops waits for functions' last messages.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(100);
