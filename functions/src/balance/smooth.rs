//! Smooth weighted round robin, as nginx does it: weights 5, 1, 1 give a a b a c a a, not five of `a` in a row.

/// Takes turns among those that may be chosen.
#[derive(Debug)]
pub(super) struct Smooth {
    /// What each has saved up; the sum is zero while nobody is passed over.
    saved: Vec<i64>,
}

impl Smooth {
    /// For that many.
    pub(super) fn new(count: usize) -> Self {
        Self { saved: vec![0; count] }
    }

    /// Each saves its weight; who has saved most is chosen and pays what all together saved. `None` if none may be chosen.
    pub(super) fn next(&mut self, weights: &[u32], may: impl Fn(usize) -> bool) -> Option<usize> {
        let (mut total, mut best) = (0, None::<usize>);
        for at in (0..self.saved.len()).filter(|&at| may(at)) {
            self.saved[at] += i64::from(weights[at]);
            total += i64::from(weights[at]);
            if best.is_none_or(|b| self.saved[at] > self.saved[b]) {
                best = Some(at);
            }
        }
        let best = best?;
        self.saved[best] -= total;
        Some(best)
    }
}

/// The turns while all are up, worked out beforehand: they repeat after as many as the weights sum up to.
#[derive(Debug)]
pub(super) struct Sequence {
    turns: Box<[u8]>,
    next: usize,
}

impl Sequence {
    /// The turns of that many weights; at most 256.
    pub(super) fn new(weights: &[u32]) -> Self {
        let divisor = weights.iter().copied().fold(0, gcd).max(1);
        let weights: Vec<u32> = weights.iter().map(|weight| weight / divisor).collect();
        let mut smooth = Smooth::new(weights.len());
        let turns = (0..weights.iter().sum()).filter_map(|_| smooth.next(&weights, |_| true));
        Self { turns: turns.map(|at| at as u8).collect(), next: 0 }
    }

    /// Whose turn it is.
    #[inline]
    pub(super) fn next(&mut self) -> usize {
        let at = self.next;
        self.next = if at + 1 < self.turns.len() { at + 1 } else { 0 };
        usize::from(self.turns[at])
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
