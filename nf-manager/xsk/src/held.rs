//! Which buffers a queue has been given and not given back.

/// One bit per buffer of the region: set while the queue, or the kernel on its behalf, has the buffer.
///
/// Frames move inside the kernel between its rings, where no ring shows them. The set of what went in and has not come
/// out is therefore the only exact record; it costs a bit operation per packet in a table that fits the first-level
/// cache (8 KiB for 65,536 buffers).
#[derive(Debug)]
pub(crate) struct Held {
    words: Vec<u64>,
    buffers: u32,
    noted: usize,
}

impl Held {
    pub(crate) fn new(buffers: u32) -> Self {
        Self { words: vec![0; (buffers as usize).div_ceil(64)], buffers, noted: 0 }
    }

    /// Notes a buffer; false when there is no such buffer or it is noted already.
    #[inline]
    pub(crate) fn take(&mut self, index: u32) -> bool {
        if index >= self.buffers {
            return false;
        }
        let (word, bit) = (&mut self.words[index as usize / 64], 1 << (index % 64));
        let fresh = *word & bit == 0;
        *word |= bit;
        self.noted += usize::from(fresh);
        fresh
    }

    /// Strikes a buffer off; false when it was not noted.
    #[inline]
    pub(crate) fn release(&mut self, index: u32) -> bool {
        if index >= self.buffers {
            return false;
        }
        let (word, bit) = (&mut self.words[index as usize / 64], 1 << (index % 64));
        let held = *word & bit != 0;
        *word &= !bit;
        self.noted -= usize::from(held);
        held
    }

    /// Buffers noted. A worker asks in each of its turns: nothing is counted here.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.noted
    }

    /// Strikes every buffer off and adds it to `out`.
    pub(crate) fn drain(&mut self, out: &mut Vec<u32>) {
        for (position, word) in self.words.iter_mut().enumerate() {
            while *word != 0 {
                out.push(position as u32 * 64 + word.trailing_zeros());
                *word &= *word - 1;
            }
        }
        self.noted = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::Held;

    #[test]
    fn a_buffer_is_taken_once_and_released_once() {
        let mut held = Held::new(130);
        assert!(held.take(0) && held.take(63) && held.take(64) && held.take(129));
        assert!(!held.take(64), "taken twice");
        assert!(!held.take(130), "beyond the region");
        assert_eq!(held.len(), 4);
        assert!(held.release(63));
        assert!(!held.release(63), "released twice");
        assert!(!held.release(4_000_000_000), "beyond the region");
        let mut rest = Vec::new();
        held.drain(&mut rest);
        assert_eq!(rest, [0, 64, 129]);
        assert_eq!(held.len(), 0);
    }
}
