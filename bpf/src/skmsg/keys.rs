//! A set of keys.

use std::fmt;

/// A set of keys, as the map `edges` in `skmsg_route.bpf.c` holds it: bit `key % 64` of word `key / 64`.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct KeySet {
    words: [u64; 4],
}

impl KeySet {
    /// The set without a key.
    pub const fn new() -> Self {
        Self { words: [0; 4] }
    }

    /// Puts a key in.
    pub fn insert(&mut self, key: u8) {
        self.words[usize::from(key / 64)] |= 1 << (key % 64);
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: u8) {
        self.words[usize::from(key / 64)] &= !(1 << (key % 64));
    }

    /// Whether a key is in.
    pub fn contains(&self, key: u8) -> bool {
        self.words[usize::from(key / 64)] >> (key % 64) & 1 != 0
    }

    /// The keys that are in, in order.
    pub fn iter(&self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(|&key| self.contains(key))
    }

    pub(super) fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (place, word) in bytes.chunks_exact_mut(8).zip(self.words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

impl FromIterator<u8> for KeySet {
    fn from_iter<T: IntoIterator<Item = u8>>(keys: T) -> Self {
        let mut set = Self::new();
        for key in keys {
            set.insert(key);
        }
        set
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_in_or_out_on_its_own() {
        let mut set = KeySet::new();
        for key in [0, 63, 64, 127, 128, 254, 255] {
            assert!(!set.contains(key));
            set.insert(key);
            assert!(set.contains(key));
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 127, 128, 254, 255]);
        set.remove(64);
        assert!(!set.contains(64));
        assert!(set.contains(63) && set.contains(127));
        assert_eq!(KeySet::from_iter([255]).to_bytes()[24..], (1_u64 << 63).to_ne_bytes());
    }
}
