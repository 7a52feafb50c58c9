//! Connections that are known here, by either direction.

use crate::flow_table::{Index, Key, Progress, Slab};

/// Slots that an insertion into a full table looks at for one to give up.
const FULL_SCAN: usize = 16;
/// Slots that one tick looks at.
const SWEEP: usize = 4096;

/// A connection of a client to a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    /// As the client sends: from the client to the service.
    pub(super) asked: Key,
    /// As the server answers: from the server to the client.
    pub(super) answered: Key,
    pub(super) progress: Progress,
    /// Without a packet until then, it is over.
    pub(super) expires_ns: u64,
    /// When its last packet came here.
    last_ns: u64,
    /// When the fast path was last asked about it.
    pub(super) checked_ns: u64,
}

impl Connection {
    /// One that begins now.
    pub(super) fn new(asked: Key, answered: Key, now_ns: u64) -> Self {
        let progress = Progress::default();
        Self { asked, answered, progress, expires_ns: u64::MAX, last_ns: now_ns, checked_ns: now_ns }
    }

    /// Address and port of the server.
    pub(super) fn server(&self) -> (u128, u16) {
        (self.answered.a, self.answered.a_port())
    }

    /// Address and port of the service.
    pub(super) fn service(&self) -> (u128, u16) {
        (self.asked.b, self.asked.b_port())
    }

    /// The fast path says the same.
    pub(super) fn confirm(&mut self, now_ns: u64) {
        self.checked_ns = now_ns;
    }

    /// A packet came by.
    pub(super) fn refresh(&mut self, idle_ns: u64, now_ns: u64) {
        (self.last_ns, self.expires_ns) = (now_ns, now_ns.saturating_add(idle_ns));
    }
}

/// The table. All its memory is taken when it is made.
#[derive(Debug)]
pub(super) struct Connections {
    slab: Slab<Connection>,
    by_asked: Index,
    by_answered: Index,
    evicted: u64,
    /// The slot at which the next sweep begins.
    next: u32,
}

impl Connections {
    /// For `capacity` connections.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            slab: Slab::new(capacity),
            by_asked: Index::new(capacity),
            by_answered: Index::new(capacity),
            evicted: 0,
            next: 0,
        }
    }

    /// Connections in the table.
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Connections that fit.
    pub(super) fn capacity(&self) -> usize {
        self.slab.capacity()
    }

    /// Connections given up so far to make room.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The slot of the connection whose client sends this.
    #[inline]
    pub(super) fn asked(&self, key: &Key, now_ns: u64) -> Option<u32> {
        let hash = self.by_asked.seed().hash(key);
        let slot = self.by_asked.find(hash, |slot| self.slab.get(slot).is_some_and(|c| c.asked == *key))?;
        self.slab.get(slot).filter(|connection| connection.expires_ns > now_ns).map(|_| slot)
    }

    /// The slot of the connection whose server sends this.
    #[inline]
    pub(super) fn answered(&self, key: &Key, now_ns: u64) -> Option<u32> {
        let hash = self.by_answered.seed().hash(key);
        let slot = self.by_answered.find(hash, |slot| self.slab.get(slot).is_some_and(|c| c.answered == *key))?;
        self.slab.get(slot).filter(|connection| connection.expires_ns > now_ns).map(|_| slot)
    }

    /// The connection in a slot.
    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<&Connection> {
        self.slab.get(slot)
    }

    /// The connection in a slot, to change all but its keys.
    #[inline]
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slab.get_mut(slot)
    }

    /// Adds a connection in place of those that have one of its keys. Where there is no room, the one that was not used for longest among
    /// some goes, and those that were never answered first.
    pub(super) fn insert(&mut self, connection: Connection) -> Option<u32> {
        let (asked, answered) = (connection.asked, connection.answered);
        // Expired ones too.
        for slot in [self.asked(&asked, 0), self.answered(&answered, 0)].into_iter().flatten() {
            self.remove(slot);
        }
        if self.slab.is_full() {
            self.make_room();
        }
        let slot = self.slab.insert(connection)?;
        let (hash, back) = (self.by_asked.seed().hash(&asked), self.by_answered.seed().hash(&answered));
        if !self.by_asked.insert(hash, slot) {
            self.slab.remove(slot);
            return None;
        }
        if !self.by_answered.insert(back, slot) {
            self.by_asked.remove(hash, slot);
            self.slab.remove(slot);
            return None;
        }
        Some(slot)
    }

    fn make_room(&mut self) {
        let slots: Vec<u32> = (0..FULL_SCAN).map(|_| self.slab.next_slot()).collect();
        let least = slots.into_iter().filter_map(|slot| {
            let connection = self.slab.get(slot)?;
            Some((connection.progress.is_open(), connection.last_ns, slot))
        });
        if let Some((.., slot)) = least.min() {
            self.remove(slot);
            self.evicted += 1;
        }
    }

    /// Forgets a connection.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Connection> {
        let connection = self.slab.remove(slot)?;
        self.by_asked.remove(self.by_asked.seed().hash(&connection.asked), slot);
        self.by_answered.remove(self.by_answered.seed().hash(&connection.answered), slot);
        Some(connection)
    }

    /// Forgets those that are over, among some, and tells of the others. Returns whether that was the end of a round.
    pub(super) fn sweep(&mut self, now_ns: u64, mut goes_on: impl FnMut(&Connection)) -> bool {
        for _ in 0..SWEEP {
            let slot = self.next;
            if slot as usize >= self.slab.high_water() {
                self.next = 0;
                return true;
            }
            self.next += 1;
            match self.slab.get(slot) {
                Some(connection) if connection.expires_ns <= now_ns => drop(self.remove(slot)),
                Some(connection) => goes_on(connection),
                None => {}
            }
        }
        false
    }

    /// Takes over those of another table, as many as fit. A round begins.
    pub(super) fn take_over(&mut self, other: Self) {
        if other.capacity() == self.capacity() {
            *self = Self { next: 0, ..other };
            return;
        }
        self.evicted = other.evicted;
        for connection in (0..other.slab.high_water() as u32).filter_map(|slot| other.slab.get(slot)) {
            self.insert(*connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn connection(client: u8, server: u8, now_ns: u64) -> Connection {
        let small = Key::small(0, 6, false);
        let asked = Key::new(client.into(), 1000, 100, 80, small);
        let answered = Key::new(200 + u128::from(server), 8080, client.into(), 1000, small);
        Connection { expires_ns: now_ns + 10, ..Connection::new(asked, answered, now_ns) }
    }

    #[test]
    fn the_least_recently_used_and_never_answered_goes_first() {
        let mut table = Connections::new(3);
        for client in 0..3 {
            let slot = table.insert(connection(client, 0, client.into())).unwrap();
            if client == 0 {
                let progress = &mut table.get_mut(slot).unwrap().progress;
                progress.segment(16, true);
                progress.segment(16, false);
            }
        }
        table.insert(connection(3, 0, 3)).unwrap();
        let left: Vec<bool> = (0..4).map(|c| table.asked(&connection(c, 0, 0).asked, 0).is_some()).collect();
        assert_eq!((left, table.evicted()), (vec![true, false, true, true], 1));
    }

    proptest! {
        /// Each connection is found by either key until it is over, and by nothing else.
        #[test]
        fn both_directions_find_the_same(steps in prop::collection::vec((0_u8..12, 0_u8..3, 0_u8..4), 1..200)) {
            let (mut table, mut model, mut now) = (Connections::new(64), HashMap::<u8, (u8, u64)>::new(), 0);
            for (client, server, step) in steps {
                now += 1;
                match step {
                    0 | 1 => {
                        table.insert(connection(client, server, now)).unwrap();
                        model.insert(client, (server, now + 10));
                    }
                    2 => {
                        if let Some(slot) = table.asked(&connection(client, 0, 0).asked, now) {
                            table.remove(slot);
                        }
                        model.remove(&client);
                    }
                    _ => drop(table.sweep(now, |_| {})),
                }
                for client in 0..12 {
                    let live = model.get(&client).filter(|(_, end)| *end > now);
                    let slot = table.asked(&connection(client, 0, 0).asked, now);
                    prop_assert_eq!(slot.is_some(), live.is_some());
                    for server in 0..3 {
                        let back = table.answered(&connection(client, server, 0).answered, now);
                        prop_assert_eq!(back, slot.filter(|_| live.is_some_and(|(of, _)| *of == server)));
                    }
                }
            }
        }
    }
}
