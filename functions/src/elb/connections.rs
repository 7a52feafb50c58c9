//! Connections that are known here, by either direction.

use crate::flow_table::{FlowTable, Index, Key, Progress};

/// Slots that an insertion into a table full of answered connections looks at for one to give up.
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
    /// When its last packet came here.
    last_ns: u64,
    /// When the fast path was last asked about it.
    pub(super) checked_ns: u64,
}

impl Connection {
    /// One that begins now.
    pub(super) fn new(asked: Key, answered: Key, now_ns: u64) -> Self {
        Self { asked, answered, progress: Progress::default(), last_ns: now_ns, checked_ns: now_ns }
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
}

/// The table. All its memory is taken when it is made.
#[derive(Debug)]
pub(super) struct Connections {
    by_asked: FlowTable<Connection>,
    by_answered: Index,
    evicted: u64,
    /// The slot at which the next sweep begins.
    next: u32,
}

impl Connections {
    /// For `capacity` connections.
    pub(super) fn new(capacity: usize) -> Self {
        Self { by_asked: FlowTable::new(capacity), by_answered: Index::new(capacity), evicted: 0, next: 0 }
    }

    /// Connections in the table.
    pub(super) fn len(&self) -> usize {
        self.by_asked.len()
    }

    /// Connections that fit.
    pub(super) fn capacity(&self) -> usize {
        self.by_asked.capacity()
    }

    /// Connections given up so far to make room.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The slot of the connection whose client sends this.
    #[inline]
    pub(super) fn asked(&self, key: &Key, now_ns: u64) -> Option<u32> {
        self.by_asked.find(self.by_asked.seed().hash(key), key, now_ns)
    }

    /// The slot of the connection whose server sends this.
    #[inline]
    pub(super) fn answered(&self, key: &Key, now_ns: u64) -> Option<u32> {
        let hash = self.by_answered.seed().hash(key);
        let slot = self.by_answered.find(hash, |slot| self.get(slot).is_some_and(|c| c.answered == *key))?;
        self.by_asked.get(slot).filter(|entry| entry.expires_ns > now_ns).map(|_| slot)
    }

    /// The connection in a slot.
    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<&Connection> {
        self.by_asked.get(slot).map(|entry| &entry.value)
    }

    /// The connection in a slot, to change all but its keys.
    #[inline]
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Connection> {
        self.by_asked.get_mut(slot).map(|entry| &mut entry.value)
    }

    /// A packet of a connection came by: without another one it is over after `idle_ns`.
    #[inline]
    pub(super) fn refresh(&mut self, slot: u32, idle_ns: u64, now_ns: u64) {
        let Some(entry) = self.by_asked.get_mut(slot) else { return };
        (entry.value.last_ns, entry.expires_ns) = (now_ns, now_ns.saturating_add(idle_ns));
        if entry.value.progress.is_open() {
            self.by_asked.answered(slot);
        } else {
            self.by_asked.renew(slot);
        }
    }

    /// Adds a connection in place of those that have one of its keys. Where there is no room, one that was never answered goes, the one
    /// not used for longest; without any, the one not used for longest among some, and those that are closed first.
    pub(super) fn insert(&mut self, connection: Connection) -> Option<u32> {
        let (asked, answered) = (connection.asked, connection.answered);
        // Expired ones too.
        for slot in [self.asked(&asked, 0), self.answered(&answered, 0)].into_iter().flatten() {
            self.remove(slot);
        }
        if self.by_asked.is_full() {
            self.make_room();
        }
        let hash = self.by_asked.seed().hash(&asked);
        let slot = self.by_asked.insert(hash, asked, connection, u64::MAX, 0, true)?;
        if !self.by_answered.insert(self.by_answered.seed().hash(&answered), slot) {
            self.by_asked.remove(slot);
            return None;
        }
        Some(slot)
    }

    fn make_room(&mut self) {
        let table = &mut self.by_asked;
        let slot = table.oldest_unanswered().or_else(|| {
            let some = (0..FULL_SCAN).filter_map(|_| {
                let slot = table.next_slot();
                let connection = &table.get(slot)?.value;
                Some((connection.progress.is_open(), connection.last_ns, slot))
            });
            some.min().map(|(.., slot)| slot)
        });
        if let Some(slot) = slot {
            self.remove(slot);
            self.evicted += 1;
        }
    }

    /// Forgets a connection.
    pub(super) fn remove(&mut self, slot: u32) {
        if let Some(connection) = self.by_asked.remove(slot) {
            self.by_answered.remove(self.by_answered.seed().hash(&connection.answered), slot);
        }
    }

    /// Forgets those that are over, among some, and tells of the others. Returns whether that was the end of a round.
    pub(super) fn sweep(&mut self, now_ns: u64, mut goes_on: impl FnMut(&Connection)) -> bool {
        for _ in 0..SWEEP {
            let slot = self.next;
            if slot as usize >= self.by_asked.high_water() {
                self.next = 0;
                return true;
            }
            self.next += 1;
            match self.by_asked.get(slot) {
                Some(entry) if entry.expires_ns <= now_ns => self.remove(slot),
                Some(entry) => goes_on(&entry.value),
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
        for (_, entry) in other.by_asked.entries() {
            let Connection { last_ns, .. } = entry.value;
            if let Some(slot) = self.insert(entry.value) {
                self.refresh(slot, entry.expires_ns.saturating_sub(last_ns), last_ns);
            }
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
        Connection::new(asked, answered, now_ns)
    }

    fn begin(table: &mut Connections, client: u8, server: u8, now_ns: u64) -> u32 {
        let slot = table.insert(connection(client, server, now_ns)).unwrap();
        table.refresh(slot, 10, now_ns);
        slot
    }

    #[test]
    fn the_least_recently_used_and_never_answered_goes_first() {
        let mut table = Connections::new(3);
        for client in 0..3 {
            let slot = begin(&mut table, client, 0, client.into());
            if client == 0 {
                let progress = &mut table.get_mut(slot).unwrap().progress;
                progress.segment(16, true);
                progress.segment(16, false);
                table.refresh(slot, 10, 0);
            }
        }
        begin(&mut table, 3, 0, 3);
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
                        begin(&mut table, client, server, now);
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
