//! What the program counted.

/// The slot of sockets without a key.
pub(super) const UNKNOWN: u32 = 256;

/// Names of the slots of `enum refusal` in `skmsg_route.bpf.c`.
const REFUSALS: [&str; 12] = [
    "unknown-sender",
    "too-short",
    "unreadable",
    "bad-count",
    "size-mismatch",
    "destination-range",
    "edge-not-allowed",
    "no-socket",
    "nothing-left",
    "index-range",
    "not-the-holder",
    "stale-generation",
];
/// Of these, the first count groups and the rest count descriptors.
const OF_GROUPS: usize = 9;

/// What became of the groups that one key sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SkmsgCounters {
    /// Groups passed on to their destination.
    pub groups: u64,
    /// Descriptors in these, without those struck out.
    pub descriptors: u64,
    refused: [u64; REFUSALS.len()],
}

impl SkmsgCounters {
    /// Every reason with its count: groups refused whole, which left the ledger as it was.
    pub fn refused_groups(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REFUSALS.into_iter().zip(self.refused).take(OF_GROUPS)
    }

    /// Every reason with its count: single descriptors struck out of their group.
    pub fn refused_descriptors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REFUSALS.into_iter().zip(self.refused).skip(OF_GROUPS)
    }

    /// Every reason with its count, of groups and of descriptors.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REFUSALS.into_iter().zip(self.refused)
    }

    /// The count of one reason; 0 for a name that is none.
    pub fn refused(&self, reason: &str) -> u64 {
        self.refusals().find(|(name, _)| *name == reason).map_or(0, |(_, count)| count)
    }

    /// Sums `struct counters` of each processor.
    pub(super) fn sum(per_cpu: &[Vec<u8>]) -> Self {
        let mut sum = Self::default();
        for bytes in per_cpu {
            let mut slots = bytes.chunks_exact(8).map(|slot| slot.try_into().map_or(0, u64::from_ne_bytes));
            let mut add = |to: &mut u64| *to = to.wrapping_add(slots.next().unwrap_or(0));
            add(&mut sum.groups);
            add(&mut sum.descriptors);
            sum.refused.iter_mut().for_each(add);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_summed_slot_by_slot() {
        let cpu = |first: u64| (first..first + 14).flat_map(u64::to_ne_bytes).collect::<Vec<u8>>();
        let sum = SkmsgCounters::sum(&[cpu(0), cpu(100)]);
        assert_eq!((sum.groups, sum.descriptors), (100, 102));
        assert_eq!(sum.refused("unknown-sender"), 104);
        assert_eq!(sum.refused("stale-generation"), 126);
        assert_eq!(sum.refused("no such reason"), 0);
        assert_eq!(sum.refused_groups().last(), Some(("nothing-left", 120)));
        assert_eq!(sum.refused_descriptors().next(), Some(("index-range", 122)));
    }
}
