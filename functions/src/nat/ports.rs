//! Which outside ports are taken.

/// The ports of one pool address and protocol.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    /// One bit per port, set when taken or out of range.
    taken: Box<[u64; 1024]>,
}

impl Ports {
    /// With the ports from `first` to `last` free.
    pub(super) fn new(first: u16, last: u16) -> Self {
        let mut ports = Self { taken: Box::new([u64::MAX; 1024]) };
        for port in first..=last {
            ports.release(port);
        }
        ports
    }

    /// Takes the wanted port if it is free, else the next free one from a random place on (RFC 6056 section 3.3.1).
    pub(super) fn take(&mut self, wanted: u16, random: u64) -> Option<u16> {
        if self.is_free(wanted) {
            self.mark(wanted);
            return Some(wanted);
        }
        let start = random as usize;
        for i in 0..=1024 {
            let word = (start / 64 + i) & 1023;
            // In the first word, ports from the random place on; they come round again at the end.
            let skip = if i == 0 { (1u64 << (start % 64)) - 1 } else { 0 };
            let free = !(self.taken[word] | skip);
            if free != 0 {
                let port = (word * 64) as u16 + free.trailing_zeros() as u16;
                self.mark(port);
                return Some(port);
            }
        }
        None
    }

    /// Takes a port whether or not it is free: for static forwards, whose port may lie out of the range.
    pub(super) fn mark(&mut self, port: u16) {
        self.taken[usize::from(port) / 64] |= 1 << (port % 64);
    }

    /// Gives a port back.
    pub(super) fn release(&mut self, port: u16) {
        self.taken[usize::from(port) / 64] &= !(1 << (port % 64));
    }

    fn is_free(&self, port: u16) -> bool {
        self.taken[usize::from(port) / 64] & 1 << (port % 64) == 0
    }
}
