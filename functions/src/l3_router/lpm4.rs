//! IPv4 longest prefix match: DIR-24-8 (Gupta, Lin, McKeown, "Routing lookups in hardware at memory access speeds", 1998).
//!
//! One entry per /24 holds the answer, or names a group of 256 entries for longer prefixes, so a look-up is one memory access,
//! or two. The 32 MiB of the first level are mapped at start and cost memory only where routes or packets touch them.

use memmap2::MmapMut;

/// Entries of the first level, one for each /24.
const NEAR: usize = 1 << 24;
/// Set in an entry of the first level that names a group.
const GROUP: u16 = 0x8000;
/// Groups, and values, there can be.
pub(super) const LIMIT: usize = 0x8000;

/// A table from IPv4 addresses to 15-bit values; 0 where nothing matches.
pub(super) struct Lpm4 {
    near: MmapMut,
    far: Vec<u16>,
}

/// The first level of a table.
#[derive(Clone, Copy)]
pub(super) struct Near<'a>(&'a [u8; NEAR * 2]);

impl Near<'_> {
    /// The entry of the address's /24; the memory access that is worth doing early.
    #[inline(always)]
    pub(super) fn entry(self, address: u32) -> u16 {
        let at = (address >> 8) as usize * 2;
        u16::from_ne_bytes([self.0[at], self.0[at + 1]])
    }
}

/// The groups are used up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Lpm4 {
    pub(super) fn new() -> std::io::Result<Self> {
        let near = MmapMut::map_anon(NEAR * 2)?;
        // Random look-ups in 4 KiB pages miss the TLB nearly every time. A kernel without huge pages may refuse: it is slower then.
        #[cfg(target_os = "linux")]
        let _ = near.advise(memmap2::Advice::HugePage);
        Ok(Self { near, far: Vec::new() })
    }

    /// The first level, to look up many addresses in: an array of known size, so that no index needs a check. Never `None`,
    /// for the mapping has that size.
    #[inline]
    pub(super) fn view(&self) -> Option<Near<'_>> {
        self.near.first_chunk().map(Near)
    }

    /// The value, from the entry that [`Near::entry`] gave and the address's last byte.
    #[inline(always)]
    pub(super) fn resolve(&self, near: u16, last: u8) -> u16 {
        if near & GROUP == 0 {
            return near;
        }
        let at = usize::from(near & !GROUP) << 8 | usize::from(last);
        self.far.get(at).copied().unwrap_or(0)
    }

    /// The value of the longest prefix that covers the address.
    #[inline]
    pub(super) fn lookup(&self, address: u32) -> u16 {
        self.resolve(self.view().map_or(0, |near| near.entry(address)), address as u8)
    }

    /// Adds a prefix. Prefixes must come in ascending order of length: a longer one overwrites its part of a shorter one.
    pub(super) fn insert(&mut self, network: u32, length: u8, value: u16) -> Result<(), Full> {
        debug_assert!(usize::from(value) < LIMIT && length <= 32);
        if length <= 24 {
            let first = (network >> 8) as usize;
            let count = 1usize << (24 - length);
            for entry in self.near[first * 2..(first + count) * 2].chunks_exact_mut(2) {
                entry.copy_from_slice(&value.to_ne_bytes());
            }
            return Ok(());
        }
        let group = self.group(network)?;
        let first = group << 8 | (network & 0xff) as usize;
        self.far[first..first + (1 << (32 - length))].fill(value);
        Ok(())
    }

    /// Sets the value of one address, whatever covers it.
    pub(super) fn set_host(&mut self, address: u32, value: u16) -> Result<(), Full> {
        self.insert(address, 32, value)
    }

    /// Bytes that the second level takes.
    pub(super) fn far_bytes(&self) -> usize {
        self.far.len() * 2
    }

    /// The group of the address's /24, made from what covered it until now if there is none.
    fn group(&mut self, address: u32) -> Result<usize, Full> {
        let near = self.view().map_or(0, |near| near.entry(address));
        if near & GROUP != 0 {
            return Ok(usize::from(near & !GROUP));
        }
        let group = self.far.len() >> 8;
        let entry = u16::try_from(group).ok().filter(|group| *group < GROUP).ok_or(Full)? | GROUP;
        self.far.resize(self.far.len() + 256, near);
        let at = (address >> 8) as usize * 2;
        self.near[at..at + 2].copy_from_slice(&entry.to_ne_bytes());
        Ok(group)
    }
}
