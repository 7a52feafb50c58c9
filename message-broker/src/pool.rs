//! The message buffers of one worker: which are free, and which are away with functions.

use middlenet_sdk::middlebox::{Kind, Message};
use middlenet_shm::{Buffers, Descriptor};

use crate::slab::Key;

/// What a worker remembers of a message that functions have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Away {
    /// Whose it is; nobody's once that session has ended.
    pub(crate) session: Option<Key>,
    /// The number of that session, which stays known.
    pub(crate) id: u64,
    /// The chain.
    pub(crate) chain: u16,
    /// The kind of message, whatever the buffer says by now.
    pub(crate) kind: Kind,
    /// Where in the chain's order of that kind it goes on when it comes back.
    pub(crate) resume: u8,
    /// Where in that order it was sent to.
    pub(crate) from: u8,
    /// Since when it has waited for these functions, in ms.
    pub(crate) since_ms: u64,
    /// It was found overdue already.
    pub(crate) overdue: bool,
    /// What earlier functions have decided, for those that have it now may not decide for them: header fields of these names.
    pub(crate) router: u8,
    pub(crate) upstream: u16,
    pub(crate) offloaded: u32,
}

/// A worker's part of the region.
#[derive(Debug)]
pub(crate) struct Pool {
    buffers: Buffers,
    first: u32,
    free: Vec<u32>,
    away: Vec<Option<Away>>,
    away_count: usize,
    away_of_chain: Vec<u32>,
    /// Buffers that the functions of one chain may have.
    away_limit: u32,
}

impl Pool {
    /// Buffers `first..first + count` of the region, for so many chains.
    pub(crate) fn new(buffers: Buffers, first: u32, count: u32, chains: usize) -> Self {
        Self {
            buffers,
            first,
            free: (first..first + count).rev().collect(),
            away: vec![None; count as usize],
            away_count: 0,
            away_of_chain: vec![0; chains],
            // Functions that keep what they are given must leave something for the other chains.
            away_limit: if chains > 1 { count / (chains as u32 + 1) } else { count },
        }
    }

    /// A buffer, if one is free.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Gives a buffer back that is not away.
    #[inline]
    pub(crate) fn give(&mut self, index: u32) {
        debug_assert!(self.away(index).is_none() && !self.free.contains(&index));
        self.free.push(index);
    }

    /// Works on a buffer.
    #[inline]
    pub(crate) fn with<R>(&self, index: u32, work: impl FnOnce(&mut Message<'_>) -> R) -> R {
        let mut descriptor = Descriptor { index, ..Descriptor::default() };
        work(&mut Message::new(self.buffers.room_mut(&mut descriptor)))
    }

    /// Notes that functions have a buffer.
    #[inline]
    pub(crate) fn send_away(&mut self, index: u32, away: Away) {
        let place = &mut self.away[(index - self.first) as usize];
        debug_assert!(place.is_none());
        *place = Some(away);
        self.away_count += 1;
        self.away_of_chain[usize::from(away.chain)] += 1;
    }

    /// Whether the functions of a chain have as many buffers as they may.
    #[inline]
    pub(crate) fn is_exhausted_by(&self, chain: usize) -> bool {
        self.away_of_chain[chain] >= self.away_limit
    }

    /// The note of a buffer that functions have; nothing for any other index.
    #[inline]
    pub(crate) fn away(&self, index: u32) -> Option<&Away> {
        self.away.get(index.checked_sub(self.first)? as usize)?.as_ref()
    }

    pub(crate) fn away_mut(&mut self, index: u32) -> Option<&mut Away> {
        self.away.get_mut(index.checked_sub(self.first)? as usize)?.as_mut()
    }

    /// Ends that note: the buffer is the worker's again.
    #[inline]
    pub(crate) fn come_back(&mut self, index: u32) -> Option<Away> {
        let away = self.away.get_mut(index.checked_sub(self.first)? as usize)?.take()?;
        self.away_count -= 1;
        self.away_of_chain[usize::from(away.chain)] -= 1;
        Some(away)
    }

    /// Indexes and notes of all that are away.
    pub(crate) fn all_away(&self) -> impl Iterator<Item = (u32, &Away)> {
        self.away.iter().enumerate().filter_map(|(at, away)| Some((self.first + at as u32, away.as_ref()?)))
    }

    pub(crate) fn away_count(&self) -> usize {
        self.away_count
    }

    pub(crate) fn free_count(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn indexes(&self) -> std::ops::Range<u32> {
        self.first..self.first + self.away.len() as u32
    }
}
