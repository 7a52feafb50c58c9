//! Who is known on the links: states, time-outs and packets that wait. It decides what to send and leaves the sending to the
//! router.
//!
//! States: a neighbour is asked for (three requests, 0.5, 1 and 2 seconds apart), then ready or failed. A ready one is asked
//! again after the refresh time, at first by unicast; meanwhile it stays in use. A failed one is left alone for five seconds.
//!
//! **Who may teach.** Only neighbours that packets asked for have entries; ARP and ND from others change nothing, so a
//! hostile station cannot fill the table. At most a quarter of the table may be neighbours that have not answered.
//!
//! **Who moves.** Another link address of a neighbour counts at once, but a second change within a second does not (Linux calls that
//! `locktime`): two stations that claim one address, or one that claims two by turns, would void all that depends on it with each
//! word. A neighbour that has moved on meanwhile is asked for when the second is over.

use super::config::{Checked, Interface};
use super::fib::{Fib, Who};
use middlenet_sdk::Held;
use std::collections::HashMap;
use std::time::Duration;

/// Packets held per neighbour.
const MAX_HELD_EACH: usize = 8;
/// Requests before a neighbour counts as failed.
const REQUESTS: u8 = 3;
/// Time to the next request after the first; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// How long a link address stays that took the place of another.
const SETTLED: Duration = Duration::from_secs(1);
/// How long a failed neighbour is left alone.
const FAILED_REST: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A gateway that no packet has asked for yet.
    Idle,
    Asking {
        sent: u8,
    },
    Ready {
        mac: [u8; 6],
        sent: u8,
    },
    Failed,
    /// From the configuration: never asked, never changed.
    Fixed {
        mac: [u8; 6],
    },
}

struct Entry {
    hop: u16,
    /// Whether it goes when it fails; a gateway stays.
    transient: bool,
    state: State,
    due: Duration,
    held: Vec<Held>,
    /// Until when its link address stays.
    settled: Duration,
}

impl Entry {
    fn new(hop: u16, transient: bool, state: State, due: Duration) -> Self {
        Self { hop, transient, state, due, held: Vec::new(), settled: Duration::ZERO }
    }
}

/// What a packet for a neighbour that is not ready meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// It is ready after all, at this hop.
    Ready(u16),
    /// It is asked for now: send a request. The packet may wait.
    Ask,
    /// It was asked for already. The packet may wait.
    Wait,
    /// It did not answer.
    Failed,
    /// There is no room for another neighbour.
    Full,
}

/// What time brought.
pub(super) enum Due {
    /// Send a request; to this link address if there is one, else to all.
    Ask(Who, Option<[u8; 6]>),
    /// It did not answer: these packets have no way.
    Fail(Vec<Held>),
}

pub(super) struct Neighbours {
    entries: HashMap<Who, Entry>,
    refresh: Duration,
    max_unanswered: usize,
    unanswered: usize,
    max_held: usize,
    held: usize,
    /// No entry is due before.
    next_due: Duration,
}

impl Neighbours {
    /// Gateways of the table, static neighbours, and room for others.
    pub(super) fn new(
        checked: &Checked,
        fib: &mut Fib,
        max: usize,
        max_held: usize,
        refresh: Duration,
    ) -> Option<Self> {
        let entry = |hop, state| Entry::new(hop, false, state, Duration::MAX);
        let mut entries: HashMap<Who, Entry> =
            fib.neighbours().map(|(hop, who)| (who, entry(hop, State::Idle))).collect();
        for fixed in &checked.neighbours {
            let who = (fixed.port, fixed.ip);
            let interface = checked.interfaces.iter().find(|interface| interface.port == fixed.port)?;
            let hop = match entries.get(&who) {
                Some(gateway) => gateway.hop,
                None => fib.claim(who)?,
            };
            entries.insert(who, entry(hop, State::Fixed { mac: fixed.mac }));
            fib.ready(hop, fixed.mac, interface);
        }
        let max_unanswered = (max / 4).max(16);
        Some(Self { entries, refresh, max_unanswered, unanswered: 0, max_held, held: 0, next_due: Duration::MAX })
    }

    /// A packet wants to go to a neighbour that the forwarding table does not know to be ready.
    pub(super) fn want(&mut self, who: Who, fib: &mut Fib, now: Duration) -> Want {
        if let Some(entry) = self.entries.get_mut(&who) {
            return match entry.state {
                State::Ready { .. } | State::Fixed { .. } => Want::Ready(entry.hop),
                State::Asking { .. } => Want::Wait,
                State::Failed => Want::Failed,
                State::Idle => {
                    (entry.state, entry.due) = (State::Asking { sent: 1 }, now + FIRST_WAIT);
                    self.next_due = self.next_due.min(entry.due);
                    Want::Ask
                }
            };
        }
        if self.unanswered >= self.max_unanswered {
            return Want::Full;
        }
        let Some(hop) = fib.claim(who) else { return Want::Full };
        let due = now + FIRST_WAIT;
        self.entries.insert(who, Entry::new(hop, true, State::Asking { sent: 1 }, due));
        self.unanswered += 1;
        self.next_due = self.next_due.min(due);
        Want::Ask
    }

    /// Whether one more packet may wait for the neighbour.
    pub(super) fn may_hold(&self, who: Who) -> bool {
        self.held < self.max_held && self.entries.get(&who).is_some_and(|entry| entry.held.len() < MAX_HELD_EACH)
    }

    /// Lets a packet wait; see [`Neighbours::may_hold`]. Gives it back if there is no such neighbour.
    pub(super) fn hold(&mut self, who: Who, held: Held) -> Option<Held> {
        let Some(entry) = self.entries.get_mut(&who) else { return Some(held) };
        entry.held.push(held);
        self.held += 1;
        None
    }

    /// The neighbour said what its link address is. Packets that waited for it, and the hop they take; `None` where nobody
    /// asked for that neighbour. With `overwrite` off a known address stays.
    pub(super) fn learn(
        &mut self,
        who: Who,
        mac: [u8; 6],
        overwrite: bool,
        fib: &mut Fib,
        interface: &Interface,
        now: Duration,
    ) -> Option<(u16, Vec<Held>)> {
        let entry = self.entries.get_mut(&who)?;
        // It was contradicted within its second: it is asked when that is over, whatever it says meanwhile.
        let is_disputed = now < entry.settled && entry.due <= entry.settled;
        match entry.state {
            State::Fixed { .. } | State::Idle => return None,
            State::Ready { mac: old, .. } if old != mac && !overwrite => return None,
            State::Ready { mac: old, .. } if old != mac && now < entry.settled => {
                entry.due = entry.due.min(entry.settled);
                self.next_due = self.next_due.min(entry.due);
                return None;
            }
            State::Ready { mac: old, .. } if old != mac => entry.settled = now + SETTLED,
            State::Ready { .. } => {}
            State::Asking { .. } | State::Failed => self.unanswered -= usize::from(entry.transient),
        }
        (entry.state, entry.due) =
            (State::Ready { mac, sent: 0 }, if is_disputed { entry.due } else { now + self.refresh });
        self.next_due = self.next_due.min(entry.due);
        fib.ready(entry.hop, mac, interface);
        self.held -= entry.held.len();
        Some((entry.hop, std::mem::take(&mut entry.held)))
    }

    /// What is due by now.
    pub(super) fn advance(&mut self, now: Duration, fib: &mut Fib) -> Vec<Due> {
        let mut due = Vec::new();
        if now < self.next_due {
            return due;
        }
        self.next_due = Duration::MAX;
        let (mut freed, mut unanswered) = (0, self.unanswered);
        self.entries.retain(|who, entry| {
            if now >= entry.due {
                match &mut entry.state {
                    State::Asking { sent } if *sent < REQUESTS => {
                        due.push(Due::Ask(*who, None));
                        entry.due = now + FIRST_WAIT * (1 << *sent);
                        *sent += 1;
                    }
                    State::Asking { .. } => {
                        freed += entry.held.len();
                        due.push(Due::Fail(std::mem::take(&mut entry.held)));
                        (entry.state, entry.due) = (State::Failed, now + FAILED_REST);
                    }
                    State::Ready { mac, sent } if *sent < REQUESTS => {
                        due.push(Due::Ask(*who, (*sent == 0).then_some(*mac)));
                        entry.due = now + FIRST_WAIT * (1 << *sent);
                        *sent += 1;
                    }
                    State::Ready { .. } => {
                        fib.unready(entry.hop);
                        unanswered += usize::from(entry.transient);
                        (entry.state, entry.due) = (State::Failed, now + FAILED_REST);
                    }
                    State::Failed if entry.transient => {
                        fib.release(entry.hop);
                        unanswered -= 1;
                        return false;
                    }
                    State::Failed => (entry.state, entry.due) = (State::Idle, Duration::MAX),
                    State::Idle | State::Fixed { .. } => entry.due = Duration::MAX,
                }
            }
            self.next_due = self.next_due.min(entry.due);
            true
        });
        self.held -= freed;
        self.unanswered = unanswered;
        due
    }

    /// All neighbours, whatever their state.
    pub(super) fn names(&self) -> impl Iterator<Item = Who> + '_ {
        self.entries.keys().copied()
    }

    /// Takes over what an earlier table learned about the neighbours in `kept`, each with its present interface. Returns
    /// packets that have lost their neighbour.
    pub(super) fn inherit(&mut self, previous: Self, fib: &mut Fib, kept: &HashMap<Who, Interface>) -> Vec<Held> {
        let mut orphans = Vec::new();
        for (who, old) in previous.entries {
            let learned = !matches!(old.state, State::Idle | State::Fixed { .. });
            let Some(interface) = kept.get(&who).filter(|_| learned) else {
                orphans.extend(old.held);
                continue;
            };
            let who = (interface.port, who.1);
            if !self.entries.contains_key(&who)
                && let Some(hop) = fib.claim(who)
            {
                self.entries.insert(who, Entry::new(hop, true, State::Idle, Duration::MAX));
            }
            match self.entries.get_mut(&who) {
                Some(entry) if entry.state == State::Idle => {
                    (entry.state, entry.due, entry.settled) = (old.state, old.due, old.settled);
                    if let State::Ready { mac, .. } = old.state {
                        fib.ready(entry.hop, mac, interface);
                    } else {
                        self.unanswered += usize::from(entry.transient);
                    }
                    self.held += old.held.len();
                    entry.held = old.held;
                    self.next_due = self.next_due.min(entry.due);
                }
                _ => orphans.extend(old.held),
            }
        }
        orphans
    }

    /// Packets that wait.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Neighbours in the table, gateways that no packet has asked for yet included.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Neighbours whose link address is known.
    pub(super) fn known(&self) -> impl Iterator<Item = (Who, [u8; 6])> + '_ {
        self.entries.iter().filter_map(|(who, entry)| match entry.state {
            State::Ready { mac, .. } | State::Fixed { mac } => Some((*who, mac)),
            _ => None,
        })
    }
}
