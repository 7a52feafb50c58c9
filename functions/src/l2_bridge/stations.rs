//! Which port a station is behind: a table of fixed size.

use std::hash::{BuildHasher, RandomState};

/// Places a station may take; one cache line holds half of them.
const WAYS: usize = 8;

/// What a source address taught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Learned {
    /// Nothing new.
    Known,
    /// A station that was not in the table.
    New,
    /// The station was behind another port.
    Moved,
    /// The station's places are taken by others.
    NoRoom,
}

#[derive(Clone, Copy, Default)]
struct Station {
    /// Link address and VLAN; 0 is an empty place, for no station has the zero address.
    key: u64,
    seen_s: u32,
    port: u8,
}

/// Stations in sets of [`WAYS`] places, chosen by a seeded hash.
pub(super) struct Stations {
    places: Vec<Station>,
    set_mask: usize,
    seed: u64,
    ageing_s: u32,
    used: usize,
    swept: usize,
}

impl Stations {
    pub(super) fn new(stations: usize, ageing_s: u32) -> Self {
        let places = stations.max(WAYS).next_power_of_two();
        Self {
            places: vec![Station::default(); places],
            set_mask: places / WAYS - 1,
            seed: RandomState::new().hash_one(0u8) | 1,
            ageing_s,
            used: 0,
            swept: 0,
        }
    }

    /// Stations in the table, aged ones that were not swept yet included.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    pub(super) fn capacity(&self) -> usize {
        self.places.len()
    }

    /// Key, port and second of the last frame of each.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u8, u32)> + '_ {
        self.places.iter().filter(|s| s.key != 0).map(|s| (s.key, s.port, s.seen_s))
    }

    #[inline]
    fn set(&self, key: u64) -> usize {
        let product = u128::from(key ^ self.seed) * u128::from(self.seed.rotate_left(32) | 1);
        let hash = product as u64 ^ (product >> 64) as u64;
        ((hash ^ hash >> 29) as usize & self.set_mask) * WAYS
    }

    #[inline]
    pub(super) fn learn(&mut self, key: u64, port: u8, now_s: u32) -> Learned {
        let set = self.set(key);
        let ageing_s = self.ageing_s;
        let Some(places) = self.places.get_mut(set..set + WAYS) else { return Learned::NoRoom };
        if let Some(station) = places.iter_mut().find(|s| s.key == key) {
            station.seen_s = now_s;
            if station.port == port {
                return Learned::Known;
            }
            station.port = port;
            return Learned::Moved;
        }
        let Some(free) = places.iter_mut().find(|s| s.key == 0 || now_s.saturating_sub(s.seen_s) >= ageing_s) else {
            return Learned::NoRoom;
        };
        self.used += usize::from(free.key == 0);
        *free = Station { key, seen_s: now_s, port };
        Learned::New
    }

    #[inline]
    pub(super) fn find(&self, key: u64, now_s: u32) -> Option<u8> {
        let set = self.set(key);
        let station = self.places.get(set..set + WAYS)?.iter().find(|s| s.key == key)?;
        (now_s.saturating_sub(station.seen_s) < self.ageing_s).then_some(station.port)
    }

    /// Clears aged stations among the next `places` places; returns how many.
    pub(super) fn sweep(&mut self, places: usize, now_s: u32) -> u64 {
        let end = (self.swept + places).min(self.places.len());
        let mut aged = 0;
        for station in &mut self.places[self.swept..end] {
            if station.key != 0 && now_s.saturating_sub(station.seen_s) >= self.ageing_s {
                *station = Station::default();
                aged += 1;
            }
        }
        self.used -= aged as usize;
        self.swept = if end == self.places.len() { 0 } else { end };
        aged
    }
}
