//! IPv6 longest prefix match: a trie that looks at 16 bits first and at 8 bits per level after that, with values pushed to the
//! leaves, so a look-up ends after at most 15 memory accesses and after three or four for the usual /32 and /48.

/// Set in an entry that names a node.
const NODE: u32 = 1 << 31;
/// Entries of the root.
const ROOT: usize = 1 << 16;
/// Entries of every other node.
const FANOUT: usize = 256;
/// Most nodes, 1 KiB each. A prefix needs at most 14, usually one or two.
const MAX_NODES: usize = 1 << 18;

/// A table from IPv6 addresses to values.
pub(super) struct Lpm6 {
    entries: Vec<u32>,
}

/// The nodes are used up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Lpm6 {
    /// A table in which every address has this value.
    pub(super) fn new(default: u16) -> Self {
        Self { entries: vec![default.into(); ROOT] }
    }

    /// The value of the longest prefix that covers the address.
    #[inline]
    pub(super) fn lookup(&self, address: u128) -> u16 {
        let mut entry = self.entries[(address >> 112) as usize];
        let mut rest = address << 16;
        while entry & NODE != 0 {
            let at = (entry & !NODE) as usize + (rest >> 120) as usize;
            entry = self.entries.get(at).copied().unwrap_or(0);
            rest <<= 8;
        }
        entry as u16
    }

    /// Adds a prefix. Prefixes must come in ascending order of length: a longer one overwrites its part of a shorter one.
    pub(super) fn insert(&mut self, network: u128, length: u8, value: u16) -> Result<(), Full> {
        let (mut node, mut bits, mut rest, mut left) = (0, 16, network, u32::from(length));
        loop {
            let index = node + (rest >> (128 - bits)) as usize;
            if left <= bits {
                let count = 1usize << (bits - left);
                // Equal or shorter prefixes came before, so nothing in this range can be a node.
                debug_assert!(self.entries[index..index + count].iter().all(|entry| entry & NODE == 0));
                self.entries[index..index + count].fill(value.into());
                return Ok(());
            }
            let entry = self.entries[index];
            node = if entry & NODE == 0 { self.grow(index)? } else { (entry & !NODE) as usize };
            (rest, left, bits) = (rest << bits, left - bits, 8);
        }
    }

    /// Bytes that the trie takes.
    pub(super) fn bytes(&self) -> usize {
        self.entries.len() * 4
    }

    /// Puts a node at `index`, filled with the value that stood there.
    fn grow(&mut self, index: usize) -> Result<usize, Full> {
        let node = self.entries.len();
        if node >= ROOT + MAX_NODES * FANOUT {
            return Err(Full);
        }
        self.entries.resize(node + FANOUT, self.entries[index]);
        self.entries[index] = NODE | node as u32;
        Ok(node)
    }
}
