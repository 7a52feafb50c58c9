//! Which server each slot of a service names.
//!
//! A slot is selected by a hash of the client, so a slot that names another server moves the clients behind it. A change of weights
//! therefore moves as few slots as there must be: those that servers have too many of go to those that have too few. Which
//! ones these are follows from the servers alone (each slot ranks them by a hash, as in Thaler and Ravishankar, "Using name-based mappings
//! to increase hit rates", 1998), so that an instance that knows nothing of earlier weights comes to about the same slots.

use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;

/// What a server is known by: its address and port.
pub(super) type Identity = (IpAddr, u16);

/// A server as slots see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Share {
    pub(super) server: Identity,
    /// Its part of the slots, beside the others'; none gets no slot.
    pub(super) weight: f64,
}

/// How many of `slots` each share gets: in proportion to its weight, rounded so that all are given out (the largest remainders are
/// rounded up, Hamilton's method), but one at least for who has any weight. Nothing if nobody has.
pub(super) fn quotas(shares: &[Share], slots: usize) -> Vec<usize> {
    let weight = |share: &Share| if share.weight.is_finite() { share.weight.max(0.0) } else { 0.0 };
    let total: f64 = shares.iter().map(weight).sum();
    if total <= 0.0 {
        return vec![0; shares.len()];
    }
    let exact: Vec<f64> = shares.iter().map(|share| weight(share) / total * slots as f64).collect();
    let mut quotas: Vec<usize> =
        exact.iter().map(|&exact| if exact > 0.0 { (exact as usize).max(1) } else { 0 }).collect();
    let mut order: Vec<usize> = (0..shares.len()).filter(|&at| exact[at] > 0.0).collect();
    order.sort_by(|&a, &b| exact[b].fract().total_cmp(&exact[a].fract()).then(shares[a].server.cmp(&shares[b].server)));
    let mut given: usize = quotas.iter().sum();
    for &at in order.iter().cycle() {
        if given >= slots {
            break;
        }
        quotas[at] += 1;
        given += 1;
    }
    // Those who were rounded up to one took from the largest.
    while given > slots {
        let Some(largest) = quotas.iter_mut().max().filter(|largest| **largest > 1) else { break };
        *largest -= 1;
        given -= 1;
    }
    quotas
}

/// Gives slots to servers. `slots` holds what they named before; what is none, or a server that is not among the shares, is free.
/// Returns the place of each slot's server among the shares, and how many slots that named a server name another one now. Without any
/// weight, all are free afterwards.
pub(super) fn assign(slots: &mut [Option<Identity>], shares: &[Share]) -> (Vec<Option<usize>>, usize) {
    let quotas = quotas(shares, slots.len());
    let places: HashMap<Identity, usize> = shares.iter().enumerate().map(|(at, share)| (share.server, at)).collect();
    let place = |slot: &Option<Identity>| places.get(slot.as_ref()?).copied();
    let mut owned: Vec<Option<usize>> = slots.iter().map(place).collect();
    let mut counts = vec![0_usize; shares.len()];
    for at in owned.iter().flatten() {
        counts[*at] += 1;
    }
    // From who has too many, the slots that rank it lowest.
    for (at, share) in shares.iter().enumerate() {
        let surplus = counts[at].saturating_sub(quotas[at]);
        if surplus > 0 {
            let mut mine: Vec<usize> = (0..owned.len()).filter(|&slot| owned[slot] == Some(at)).collect();
            mine.sort_by_key(|&slot| (rank(&share.server, slot), slot));
            mine[..surplus].iter().for_each(|&slot| owned[slot] = None);
            counts[at] -= surplus;
        }
    }
    // To who has too few: the pairs of slot and server that rank highest first. Of each slot the best pair waits here. One whose server
    // has enough by then gives way to the next best.
    let mut lacking: Vec<usize> = (0..shares.len()).filter(|&at| counts[at] < quotas[at]).collect();
    let best = |slot: usize, lacking: &[usize]| {
        let ranked = lacking.iter().map(|&at| (rank(&shares[at].server, slot), slot, at));
        ranked.max()
    };
    let free = (0..owned.len()).filter(|&slot| owned[slot].is_none());
    let mut pairs: BinaryHeap<(u64, usize, usize)> = free.filter_map(|slot| best(slot, &lacking)).collect();
    while let Some((_, slot, at)) = pairs.pop() {
        if counts[at] < quotas[at] {
            owned[slot] = Some(at);
            counts[at] += 1;
            if counts[at] == quotas[at] {
                lacking.retain(|&other| other != at);
            }
        } else {
            pairs.extend(best(slot, &lacking));
        }
    }
    let mut moved = 0;
    for (slot, owner) in slots.iter_mut().zip(&owned) {
        let server = owner.map(|at| shares[at].server);
        moved += usize::from(slot.is_some() && *slot != server);
        *slot = server;
    }
    (owned, moved)
}

/// How much a slot wants a server. Any two hosts come to the same.
fn rank(server: &Identity, slot: usize) -> u64 {
    let address = crate::firewall::prefix::number(server.0);
    let mut hash = slot as u64;
    for word in [(address >> 64) as u64, address as u64, u64::from(server.1)] {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        let mut z = (hash ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash = z ^ z >> 31;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(weights: &[u32]) -> Vec<Share> {
        let server = |i: usize| (IpAddr::from([10, 0, 0, i as u8]), 80);
        weights.iter().enumerate().map(|(i, &w)| Share { server: server(i), weight: f64::from(w) }).collect()
    }

    fn counts(slots: &[Option<Identity>], shares: &[Share]) -> Vec<usize> {
        shares.iter().map(|share| slots.iter().filter(|slot| **slot == Some(share.server)).count()).collect()
    }

    #[test]
    fn slots_follow_weights() {
        let shares = shares(&[1, 2, 1, 0]);
        let mut slots = vec![None; 256];
        assert_eq!(assign(&mut slots, &shares).1, 0);
        assert_eq!(counts(&slots, &shares), [64, 128, 64, 0]);
    }

    #[test]
    fn a_small_weight_has_a_slot_and_none_has_none() {
        assert_eq!(quotas(&shares(&[10_000, 1, 0]), 16), [15, 1, 0]);
        assert_eq!(quotas(&shares(&[0, 0]), 16), [0, 0]);
        let mut slots = vec![None; 16];
        assign(&mut slots, &shares(&[1]));
        assign(&mut slots, &shares(&[0]));
        assert!(slots.iter().all(Option::is_none));
    }

    /// What a restart comes to, which knows the new weights alone: a server that left and came back got its slots back.
    #[test]
    fn a_server_that_comes_back_finds_about_its_slots() {
        let (all, without) = (shares(&[1, 1, 1]), shares(&[1, 0, 1]));
        let mut slots = vec![None; 256];
        assign(&mut slots, &all);
        let before = slots.clone();
        assign(&mut slots, &without);
        assign(&mut slots, &all);
        let same = slots.iter().zip(&before).filter(|(now, before)| now == before).count();
        assert!(same > 200, "{same} of 256");
    }

    proptest! {
        #[test]
        fn no_more_slots_move_than_must(
            before in prop::collection::vec(0_u32..20, 1..8),
            after in prop::collection::vec(0_u32..20, 1..8),
            slots in 8_usize..300,
        ) {
            let (before, after) = (shares(&before), shares(&after));
            let mut named = vec![None; slots];
            assign(&mut named, &before);
            prop_assert_eq!(counts(&named, &before), quotas(&before, slots));
            let had = counts(&named, &after);
            let (places, moved) = assign(&mut named, &after);
            let found: Vec<_> = places.iter().map(|place| place.map(|at| after[at].server)).collect();
            prop_assert_eq!(&found, &named);
            let quotas = quotas(&after, slots);
            prop_assert_eq!(counts(&named, &after), quotas.clone());
            if quotas.iter().sum::<usize>() == slots && before.iter().any(|share| share.weight > 0.0) {
                let gained: usize = quotas.iter().zip(had).map(|(quota, had)| quota.saturating_sub(had)).sum();
                prop_assert_eq!(moved, gained);
            }
        }

        /// All pairs in the order of their ranks, each taken if both are still to be had.
        #[test]
        fn who_ranks_highest_comes_first(weights in prop::collection::vec(0_u32..20, 1..12), count in 8_usize..200) {
            let shares = shares(&weights);
            let pair = |slot, share: &Share| (rank(&share.server, slot), slot, share.server);
            let mut pairs: Vec<_> = (0..count).flat_map(|slot| shares.iter().map(move |share| pair(slot, share))).collect();
            pairs.sort_unstable_by(|a, b| b.cmp(a));
            let mut left: HashMap<Identity, usize> = shares.iter().map(|share| share.server).zip(quotas(&shares, count)).collect();
            let (mut expected, mut slots) = (vec![None; count], vec![None; count]);
            for (_, slot, server) in pairs {
                if let (None, Some(left @ 1..)) = (expected[slot], left.get_mut(&server)) {
                    (*left, expected[slot]) = (*left - 1, Some(server));
                }
            }
            assign(&mut slots, &shares);
            prop_assert_eq!(slots, expected);
        }

        #[test]
        fn quotas_are_proportional(weights in prop::collection::vec(0_u32..1000, 1..12), slots in 16_usize..1024) {
            let shares = shares(&weights);
            let quotas = quotas(&shares, slots);
            let total: u32 = weights.iter().sum();
            prop_assert_eq!(quotas.iter().sum::<usize>(), if total == 0 { 0 } else { slots });
            for (quota, weight) in quotas.iter().zip(weights) {
                prop_assert_eq!(*quota == 0, weight == 0);
            }
        }
    }
}
