//! Many groups at once: nothing is lost, doubled or out of step, and the ledger agrees with who has what.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread;

use middlenet_bpf::{KeySet, entry, holder};
use middlenet_tests::{require_root, wait_until};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use super::SOON;
use super::domain::{CELL, Domain, Party, Reader, STRUCK_OUT, group};

const BUFFERS: u32 = 3 * 1024;
/// Buffers at the end of the ledger that belong to nobody who takes part.
const FOREIGN: u32 = 16;
/// Turns of all players together; in most of them a group is sent.
const TURNS: usize = 20_000;

/// What a party had when all was over.
#[derive(Default)]
struct Outcome {
    held: Vec<u32>,
    sent: u64,
    refused: u64,
    struck_out: u64,
}

/// Sends groups of drawn sizes to drawn parties, out of what it holds, and reads in between. Some groups carry descriptors
/// of foreign buffers.
struct Player<'a> {
    domain: &'a Domain,
    party: &'a Party,
    seed: u64,
    reader: Reader,
    outcome: Outcome,
}

impl<'a> Player<'a> {
    fn new(domain: &'a Domain, key: u8, held: Vec<u32>) -> Self {
        let outcome = Outcome { held, ..Outcome::default() };
        Self { domain, party: domain.party(key), seed: u64::from(key), reader: Reader::default(), outcome }
    }

    fn draw(&mut self, below: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) as usize % below
    }

    fn send_some(&mut self) {
        let to = [1, 2, 3].into_iter().filter(|&key| key != self.party.key).nth(self.draw(2)).expect("two others");
        let size = (1 + self.draw(60)).min(self.outcome.held.len());
        if size == 0 {
            return;
        }
        let taken = self.outcome.held.split_off(self.outcome.held.len() - size);
        let mut descriptors: Vec<_> = taken.iter().map(|&buffer| (buffer, 5)).collect();
        let forged = if self.draw(8) == 0 { self.draw(4) } else { 0 };
        for _ in 0..forged {
            let (place, foreign) = (self.draw(descriptors.len()), self.draw(FOREIGN as usize) as u32);
            descriptors.insert(place, (BUFFERS + foreign, 5));
        }
        match self.party.send(&group(to.into(), &descriptors)) {
            Ok(()) => {
                self.outcome.sent += 1;
                self.outcome.struck_out += forged as u64;
            }
            Err(Errno::EPIPE) => {
                self.outcome.refused += 1;
                // Refused by the filter, they are still ours; lost on the way to one who has gone, they are not.
                let own = entry(self.party.key.into(), 5);
                self.outcome.held.extend(taken.into_iter().filter(|&buffer| self.domain.word(buffer) == own));
            }
            Err(error) => panic!("key {}: {error}", self.party.key),
        }
    }

    fn receive_all(&mut self) {
        loop {
            let bytes = self.party.receive_now();
            if bytes.is_empty() {
                return;
            }
            self.receive(&bytes);
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
        while let Some((destination, descriptors)) = self.reader.next() {
            assert_eq!(destination, u32::from(self.party.key));
            for (index, generation) in descriptors {
                assert_eq!(generation, 5);
                if index != STRUCK_OUT {
                    // From before it can be read until we pass it on, the ledger names us.
                    assert_eq!(self.domain.word(index), entry(self.party.key.into(), 5), "buffer {index}");
                    self.outcome.held.push(index);
                }
            }
        }
    }

    fn play(mut self, game: &Game) -> Outcome {
        while game.turns.fetch_add(1, SeqCst) < TURNS {
            if self.outcome.held.is_empty() {
                // The others may end while they hold all there is.
                let mut ready = [PollFd::new(self.party.socket.as_fd(), PollFlags::POLLIN)];
                poll(&mut ready, 10_u16).expect("an open socket");
            } else {
                self.send_some();
            }
            if self.draw(4) == 0 || self.outcome.held.is_empty() {
                self.receive_all();
            }
        }
        game.ended.fetch_add(1, SeqCst);
        wait_until("the others' last groups", SOON, || game.ended.load(SeqCst) == game.players).expect("they end too");
        self.receive_all();
        assert!(self.reader.is_empty(), "half a group is left");
        self.outcome
    }
}

/// When all of them stop.
struct Game {
    players: usize,
    turns: AtomicUsize,
    ended: AtomicUsize,
}

impl Game {
    fn of(players: usize) -> Self {
        Self { players, turns: AtomicUsize::new(0), ended: AtomicUsize::new(0) }
    }
}

fn shares() -> [Vec<u32>; 3] {
    let share = BUFFERS / 3;
    [0, 1, 2].map(|n| (n * share..(n + 1) * share).collect())
}

fn domain() -> Domain {
    let domain = Domain::new(BUFFERS + FOREIGN);
    for (key, share) in (1..).zip(shares()) {
        share.iter().for_each(|&buffer| domain.give(buffer, key, 5));
    }
    (0..FOREIGN).for_each(|n| domain.give(BUFFERS + n, 9, 5));
    domain
}

#[test]
fn buffers_are_conserved_among_three_parties() {
    require_root!();
    let domain = domain();
    let game = Game::of(3);
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let players: Vec<_> = (1..)
            .zip(shares())
            .map(|(key, share)| (scope, Player::new(&domain, key, share)))
            .map(|(scope, player)| scope.spawn(|| player.play(&game)))
            .collect();
        players.into_iter().map(|player| player.join().expect("the player's own checks hold")).collect()
    });

    let mut seen = HashSet::new();
    for (key, outcome) in (1..).zip(&outcomes) {
        for &buffer in &outcome.held {
            assert!(seen.insert(buffer), "buffer {buffer} has two holders");
            assert_eq!(domain.word(buffer), entry(key, 5), "buffer {buffer}");
        }
        let counters = domain.skmsg.counters(key as u8).expect("counters");
        assert_eq!(counters.groups, outcome.sent);
        assert_eq!(counters.refused_groups().map(|(_, count)| count).sum::<u64>(), outcome.refused);
        assert_eq!(counters.refused("not-the-holder"), outcome.struck_out);
        assert!(counters.descriptors >= counters.groups);
    }
    assert_eq!(seen.len(), BUFFERS as usize);
    assert!((0..FOREIGN).all(|n| domain.word(BUFFERS + n) == entry(9, 5)));
    assert_eq!(outcomes.iter().map(|outcome| outcome.refused).sum::<u64>(), 0);
    assert!(outcomes.iter().all(|outcome| outcome.struck_out > 0));
}

#[test]
fn what_a_party_held_when_it_died_stays_in_its_name() {
    require_root!();
    let mut domain = domain();
    let doomed = domain.parties.pop().expect("key 3");
    let shares = shares();
    let game = Game::of(2);
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let domain = &domain;
        let players: Vec<_> = [1, 2]
            .map(|key| Player::new(domain, key, shares[usize::from(key) - 1].clone()))
            .map(|player| scope.spawn(|| player.play(&game)))
            .into_iter()
            .collect();
        // It passes on some of what comes, and dies with the rest unread.
        let mut reader = Reader::default();
        for turn in 0..40 {
            reader.push(&doomed.receive(1 << 12).expect("something comes"));
            while let Some((_, descriptors)) = reader.next() {
                let back: Vec<_> = descriptors.into_iter().filter(|(index, _)| *index != STRUCK_OUT).collect();
                doomed.send(&group(1 + turn % 2, &back)).expect("the others live");
            }
        }
        drop(doomed);
        players.into_iter().map(|player| player.join().expect("the player's own checks hold")).collect()
    });

    assert!(!domain.skmsg.has_socket(3));
    let held: HashSet<u32> = outcomes.iter().flat_map(|outcome| outcome.held.iter().copied()).collect();
    let mut dead = 0;
    for buffer in 0..BUFFERS {
        let owner = holder(domain.word(buffer));
        assert_eq!(held.contains(&buffer), owner != 3, "buffer {buffer} is of key {owner}");
        dead += usize::from(owner == 3);
    }
    assert_eq!(held.len() + dead, BUFFERS as usize);
    // Its own share, at least, and what lay unread.
    assert!(dead >= shares[2].len(), "{dead}");
    assert!(outcomes.iter().all(|outcome| outcome.refused > 0), "the others are told");

    // The key's next socket starts with nothing of that in its way.
    let heir = Party::enter(&domain.skmsg, 3, &[1]);
    let one = *outcomes[0].held.first().expect("key 1 has some");
    domain.party(1).send(&group(3, &[(one, 5)])).expect("key 3 is there again");
    assert_eq!(heir.receive(1 << 12).expect("it arrives"), group(3, &[(one, 5)]));
}

#[test]
fn edges_change_under_traffic() {
    require_root!();
    let domain = Domain::new(1);
    let over = AtomicBool::new(false);
    let (sent, refused) = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let (mut sent, mut refused) = (0_u64, 0_u64);
            while !(over.load(SeqCst) && sent > 0 && refused > 0) {
                domain.give(0, 1, 5);
                match domain.party(1).send(&group(2, &[(0, 5)])) {
                    Ok(()) => {
                        sent += 1;
                        assert_eq!(domain.word(0), entry(2, 5));
                        assert_eq!(domain.party(2).receive(1 << 12).expect("it arrives").len(), 2 * CELL);
                    }
                    Err(Errno::EPIPE) => {
                        refused += 1;
                        assert_eq!(domain.word(0), entry(1, 5));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            (sent, refused)
        });
        for turn in 0..2_000 {
            let to = if turn % 2 == 0 { KeySet::from_iter([3]) } else { KeySet::from_iter([2, 3]) };
            domain.skmsg.set_edges(1, &to).expect("edges");
            thread::yield_now();
        }
        over.store(true, SeqCst);
        // Whichever of the two the sender has not seen yet.
        while !sender.is_finished() {
            for to in [KeySet::new(), KeySet::from_iter([2])] {
                domain.skmsg.set_edges(1, &to).expect("edges");
                thread::yield_now();
            }
        }
        sender.join().expect("the sender's own checks hold")
    });
    let counters = domain.skmsg.counters(1).expect("counters");
    assert_eq!((counters.groups, counters.refused("edge-not-allowed")), (sent, refused));
}

#[test]
fn a_receiver_may_read_in_pieces_of_any_size() {
    require_root!();
    let domain = Domain::new(4096);
    let sizes = [1, 64, 3, 17, 64, 64, 2];
    let mut next = 0;
    let sent: Vec<Vec<u8>> = sizes
        .iter()
        .cycle()
        .take(70)
        .map(|&size| {
            let descriptors: Vec<_> = (next..next + size).map(|buffer| (buffer, 5)).collect();
            next += size;
            group(2, &descriptors)
        })
        .collect();
    sent.iter().for_each(|group| domain.party(1).send(group).expect("it passes"));
    let all = sent.concat();
    let mut received = Vec::new();
    for limit in [1, 7, 16, 33, 1000, 5000].into_iter().cycle() {
        received.extend(domain.party(2).receive(limit).expect("more is there"));
        if received.len() >= all.len() {
            break;
        }
    }
    assert!(received == all, "the stream was changed");
}
