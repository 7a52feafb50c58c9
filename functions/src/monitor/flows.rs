//! Flows in a table of fixed size.

use middlenet_sdk::wire::FlowKey;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Places a flow may take: as many tags as one cache line holds.
const WAYS: usize = 16;

/// One flow and what it moved.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) key: FlowKey,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) first: Duration,
    pub(super) last: Duration,
    /// Packets per second between the last two visits of the sweep.
    pub(super) rate_pps: u64,
    /// Bits per second, likewise.
    pub(super) rate_bps: u64,
    visited: Duration,
    visited_packets: u64,
    visited_bytes: u64,
}

impl Flow {
    #[inline]
    fn count(&mut self, bytes: u64, now: Duration) {
        self.packets += 1;
        self.bytes += bytes;
        self.last = now;
    }
}

/// What is known of a packet's flow before it is counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    /// Of the key, from [`Flows::hash`].
    pub(super) hash: u32,
    /// Length of the packet.
    pub(super) bytes: u32,
    /// Where the flow probably is, from [`Flows::locate`].
    pub(super) place: u32,
}

/// What a new flow took the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Displaced {
    Nothing,
    Idle,
    Live,
}

/// A set-associative table: the hash picks a set of [`WAYS`] places, 32-bit tags say which of them may be the flow.
pub(super) struct Flows {
    /// Hash with the lowest bit set; 0 is an empty place.
    tags: Vec<[u32; WAYS]>,
    flows: Vec<Option<Flow>>,
    seed: u64,
    idle: Duration,
    used: usize,
    swept: usize,
}

impl Flows {
    pub(super) fn new(flows: usize, idle: Duration) -> Self {
        let places = flows.max(WAYS).next_power_of_two();
        let mut entries = Vec::new();
        entries.resize_with(places, || None);
        Self {
            tags: vec![[0; WAYS]; places / WAYS],
            flows: entries,
            seed: RandomState::new().hash_one(0u8),
            idle,
            used: 0,
            swept: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.used
    }

    pub(super) fn capacity(&self) -> usize {
        self.flows.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.flows.iter().flatten()
    }

    #[inline]
    pub(super) fn hash(&self, key: &FlowKey) -> u32 {
        key.directional_hash_with(self.seed) | 1
    }

    #[inline]
    fn set(&self, hash: u32) -> usize {
        (hash >> 1) as usize & (self.tags.len() - 1)
    }

    /// Reads the set's tags, so that they are in the cache when [`Flows::add`] needs them.
    #[inline]
    pub(super) fn touch(&self, hash: u32) {
        std::hint::black_box(self.tags[self.set(hash)][0]);
    }

    /// The place whose tag says that it may be the flow, whose counts are fetched with it.
    #[inline]
    pub(super) fn locate(&self, hash: u32) -> u32 {
        let set = self.set(hash);
        let place = set * WAYS + (matches(&self.tags[set], hash).trailing_zeros() as usize).min(WAYS - 1);
        std::hint::black_box(self.flows[place].as_ref().map(|flow| flow.bytes));
        place as u32
    }

    /// Counts one packet. For a new flow it says what had to make room.
    #[inline]
    pub(super) fn add(&mut self, key: &FlowKey, found: Found, now: Duration) -> Option<Displaced> {
        let Found { hash, bytes, place } = found;
        let bytes = u64::from(bytes);
        if let Some(Some(flow)) = self.flows.get_mut(place as usize)
            && flow.key == *key
        {
            flow.count(bytes, now);
            return None;
        }
        // Another flow with the same tag, or one that came or went since the place was looked for.
        let set = self.set(hash);
        let mut candidates = matches(&self.tags[set], hash);
        while candidates != 0 {
            let place = set * WAYS + candidates.trailing_zeros() as usize;
            candidates &= candidates - 1;
            if let Some(flow) = &mut self.flows[place]
                && flow.key == *key
            {
                flow.count(bytes, now);
                return None;
            }
        }
        let flow = Flow {
            key: *key,
            packets: 1,
            bytes,
            first: now,
            last: now,
            rate_pps: 0,
            rate_bps: 0,
            visited: now,
            visited_packets: 0,
            visited_bytes: 0,
        };
        Some(self.insert(set, hash, flow, now))
    }

    /// Takes over a flow of an earlier table.
    pub(super) fn adopt(&mut self, flow: &Flow) {
        let hash = self.hash(&flow.key);
        self.insert(self.set(hash), hash, flow.clone(), flow.last);
    }

    #[cold]
    fn insert(&mut self, set: usize, hash: u32, flow: Flow, now: Duration) -> Displaced {
        let places = set * WAYS..(set + 1) * WAYS;
        let age = |flow: &Option<Flow>| flow.as_ref().map_or(Duration::MAX, |flow| now.saturating_sub(flow.last));
        let oldest = places.max_by_key(|place| age(&self.flows[*place])).unwrap_or(set * WAYS);
        let displaced = match &self.flows[oldest] {
            None => Displaced::Nothing,
            Some(old) if now.saturating_sub(old.last) >= self.idle => Displaced::Idle,
            Some(_) => Displaced::Live,
        };
        self.used += usize::from(displaced == Displaced::Nothing);
        self.tags[set][oldest % WAYS] = hash;
        self.flows[oldest] = Some(flow);
        displaced
    }

    /// Visits the next `places` places: forgets idle flows, returning how many, and measures the others' rates.
    pub(super) fn sweep(&mut self, places: usize, now: Duration) -> u64 {
        let end = (self.swept + places).min(self.flows.len());
        let mut expired = 0;
        for place in self.swept..end {
            let Some(flow) = &mut self.flows[place] else { continue };
            if now.saturating_sub(flow.last) >= self.idle {
                self.flows[place] = None;
                self.tags[place / WAYS][place % WAYS] = 0;
                expired += 1;
                continue;
            }
            let elapsed_ms = now.saturating_sub(flow.visited).as_millis() as u64;
            if elapsed_ms >= 100 {
                flow.rate_pps = (flow.packets - flow.visited_packets).saturating_mul(1000) / elapsed_ms;
                flow.rate_bps = (flow.bytes - flow.visited_bytes).saturating_mul(8000) / elapsed_ms;
                (flow.visited, flow.visited_packets, flow.visited_bytes) = (now, flow.packets, flow.bytes);
            }
        }
        self.used -= expired as usize;
        self.swept = if end == self.flows.len() { 0 } else { end };
        expired
    }

    /// The flows with the most bytes, most first.
    pub(super) fn top(&self, count: usize) -> Vec<&Flow> {
        let mut heap = BinaryHeap::with_capacity(count + 1);
        for (place, flow) in self.flows.iter().enumerate() {
            if let Some(flow) = flow {
                heap.push(Reverse((flow.bytes, Reverse(place))));
                if heap.len() > count {
                    heap.pop();
                }
            }
        }
        let sorted = heap.into_sorted_vec();
        sorted.into_iter().filter_map(|Reverse((_, Reverse(place)))| self.flows[place].as_ref()).collect()
    }
}

/// A bit for each tag that equals `hash`.
#[inline]
fn matches(tags: &[u32; WAYS], hash: u32) -> u32 {
    tags.iter().enumerate().fold(0, |bits, (way, tag)| bits | u32::from(*tag == hash) << way)
}
