//! Vectors with a bit per rule, each kept once.

use super::order::Order;
use super::{CompileError, MOST_CLASSES};
use std::collections::HashMap;

/// A bit per rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bits(Box<[u64]>);

/// The classes so far, over all fields.
#[derive(Debug)]
pub(super) struct Classes {
    /// The bit of each rule.
    bit_of: Vec<usize>,
    words: usize,
    vectors: Vec<Bits>,
    known: HashMap<Bits, u16>,
}

impl Classes {
    /// For rules whose bits `order` says.
    pub(super) fn new(order: &Order) -> Self {
        let Order { bit_of, words, .. } = order;
        Self { bit_of: bit_of.clone(), words: *words, vectors: Vec::new(), known: HashMap::new() }
    }

    pub(super) fn set(&self, bits: &mut Bits, rule: usize) {
        let bit = self.bit_of[rule];
        bits.0[bit / 64] |= 1 << (bit % 64);
    }

    pub(super) fn clear(&self, bits: &mut Bits, rule: usize) {
        let bit = self.bit_of[rule];
        bits.0[bit / 64] &= !(1 << (bit % 64));
    }

    pub(super) fn empty(&self) -> Bits {
        Bits(vec![0; self.words].into())
    }

    pub(super) fn class(&mut self, bits: &Bits) -> Result<u16, CompileError> {
        if let Some(&class) = self.known.get(bits) {
            return Ok(class);
        }
        if self.vectors.len() == MOST_CLASSES {
            return Err(CompileError::Classes);
        }
        let class = self.vectors.len() as u16;
        self.vectors.push(bits.clone());
        self.known.insert(bits.clone(), class);
        Ok(class)
    }

    pub(super) fn bits(&self, class: u16) -> &Bits {
        &self.vectors[usize::from(class)]
    }

    /// Words of a vector without its summary, and all vectors one after the other, each led by its summary.
    pub(super) fn finish(self) -> (usize, Vec<u64>) {
        let mut all = Vec::with_capacity(self.vectors.len() * (1 + self.words));
        for Bits(words) in &self.vectors {
            let set = words.iter().enumerate().filter(|&(_, &word)| word != 0);
            all.push(set.fold(0, |summary, (position, _)| summary | 1 << position));
            all.extend_from_slice(words);
        }
        (self.words, all)
    }
}
