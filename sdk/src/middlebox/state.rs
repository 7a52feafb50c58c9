//! State per request or connection, bounded.

use std::collections::{HashMap, VecDeque};

/// What a function remembers by [`Context::request_id`](super::Context::request_id) or
/// [`Context::connection_id`](super::Context::connection_id).
///
/// Take it out in `finished` or `closed`, which need the interests of that name. Beyond the capacity the oldest goes: a
/// function that forgets to take states out, or an attacker who opens connections, costs memory for `capacity` states and no more.
#[derive(Debug)]
pub struct States<T> {
    states: HashMap<u64, (u64, T)>,
    order: VecDeque<(u64, u64)>,
    serial: u64,
    capacity: usize,
}

impl<T> States<T> {
    /// Room for that many, at least one.
    pub fn new(capacity: usize) -> Self {
        Self { states: HashMap::new(), order: VecDeque::new(), serial: 0, capacity: capacity.max(1) }
    }

    /// Remembers a state, in place of an earlier one of that id.
    pub fn insert(&mut self, id: u64, state: T) {
        self.serial += 1;
        self.states.insert(id, (self.serial, state));
        self.order.push_back((id, self.serial));
        while self.states.len() > self.capacity || self.order.len() > 2 * self.capacity + 16 {
            let Some((id, serial)) = self.order.pop_front() else { break };
            if self.states.get(&id).is_some_and(|(s, _)| *s == serial) {
                if self.states.len() > self.capacity {
                    self.states.remove(&id);
                } else {
                    // Alive and old among many that were taken out: it keeps its turn.
                    self.order.push_back((id, serial));
                }
            }
        }
    }

    /// The state of that id.
    pub fn get(&mut self, id: u64) -> Option<&mut T> {
        self.states.get_mut(&id).map(|(_, state)| state)
    }

    /// Takes a state out.
    pub fn take(&mut self, id: u64) -> Option<T> {
        self.states.remove(&id).map(|(_, state)| state)
    }

    /// States there are.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::States;

    #[test]
    fn the_oldest_goes_when_it_is_full() {
        let mut states = States::new(2);
        for id in 1..=3 {
            states.insert(id, id * 10);
        }
        assert_eq!(states.len(), 2);
        assert_eq!(states.get(1), None);
        assert_eq!(states.take(3), Some(30));
        assert_eq!(states.take(2), Some(20));
        assert!(states.is_empty());
    }

    #[test]
    fn a_state_that_stays_is_not_pushed_out_by_those_that_go() {
        let mut states = States::new(4);
        states.insert(7, "stays");
        for id in 100..10_000 {
            states.insert(id, "goes");
            states.take(id);
        }
        assert_eq!(states.take(7), Some("stays"));
        assert!(states.order.len() < 64);
    }
}
