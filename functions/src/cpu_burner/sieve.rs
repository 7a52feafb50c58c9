//! The sieve of Atkin.

/// Counts primes; keeps its memory from one count to the next.
#[derive(Default)]
pub(super) struct Sieve {
    is_prime: Vec<bool>,
}

impl Sieve {
    /// Primes up to `limit`, inclusive.
    pub(super) fn count(&mut self, limit: u32) -> usize {
        let limit = limit as usize;
        self.is_prime.clear();
        self.is_prime.resize(limit + 1, false);
        let is_prime = &mut self.is_prime[..];
        let root = limit.isqrt();
        for x in 1..=root {
            for y in 1..=root {
                // Each number is turned over once per solution; an odd number of solutions leaves primes and multiples of
                // squares.
                let n = 4 * x * x + y * y;
                if n <= limit && (n % 12 == 1 || n % 12 == 5) {
                    is_prime[n] ^= true;
                }
                let n = 3 * x * x + y * y;
                if n <= limit && n % 12 == 7 {
                    is_prime[n] ^= true;
                }
                if x > y {
                    let n = 3 * x * x - y * y;
                    if n <= limit && n % 12 == 11 {
                        is_prime[n] ^= true;
                    }
                }
            }
        }
        for n in 5..=root {
            if is_prime[n] {
                for multiple in (n * n..=limit).step_by(n * n) {
                    is_prime[multiple] = false;
                }
            }
        }
        for small in [2, 3] {
            if let Some(entry) = is_prime.get_mut(small) {
                *entry = true;
            }
        }
        is_prime.iter().filter(|&&prime| prime).count()
    }
}

#[cfg(test)]
mod tests {
    use super::Sieve;

    #[test]
    fn the_count_is_that_of_trial_division() {
        let mut sieve = Sieve::default();
        let mut primes = 0;
        for n in 0..3000u32 {
            primes += usize::from(n > 1 && (2..=n.isqrt()).all(|d| !n.is_multiple_of(d)));
            assert_eq!(sieve.count(n), primes, "{n}");
        }
        assert_eq!(sieve.count(1_000_000), 78_498);
    }
}
