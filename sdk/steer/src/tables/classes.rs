//! Vectors with a bit per rule, each kept once.

use super::{CompileError, MOST_CLASSES};
use std::collections::HashMap;

/// A bit per rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bits(Box<[u64]>);

impl Bits {
    pub(super) fn set(&mut self, rule: usize) {
        self.0[rule / 64] |= 1 << (rule % 64);
    }

    pub(super) fn clear(&mut self, rule: usize) {
        self.0[rule / 64] &= !(1 << (rule % 64));
    }
}

/// The classes so far, over all fields.
#[derive(Debug)]
pub(super) struct Classes {
    words: usize,
    vectors: Vec<Bits>,
    known: HashMap<Bits, u16>,
}

impl Classes {
    pub(super) fn new(rules: usize) -> Self {
        Self { words: rules.div_ceil(64).max(1), vectors: Vec::new(), known: HashMap::new() }
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
