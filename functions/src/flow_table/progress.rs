//! How far a TCP connection has come.

/// How far a TCP connection has come, as far as time-outs care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress(u8);

impl Progress {
    const FROM_OUTSIDE: u8 = 1;
    const FROM_INSIDE: u8 = 2;
    const FIN_OUTSIDE: u8 = 4;
    const FIN_INSIDE: u8 = 8;
    const RESET: u8 = 16;

    /// Whether packets other than SYN went both ways and it was not closed.
    #[inline]
    pub(crate) fn is_open(self) -> bool {
        self.0 & 3 == 3 && !self.is_closed()
    }

    /// Whether both sides closed, or one reset it.
    #[inline]
    pub(crate) fn is_closed(self) -> bool {
        self.0 & Self::RESET != 0 || self.0 & 12 == 12
    }

    /// A segment with these flags.
    #[inline]
    pub(crate) fn segment(&mut self, flags: u8, from_inside: bool) {
        // Nearly all segments: they change nothing.
        if self.0 != Self::FROM_INSIDE | Self::FROM_OUTSIDE || flags & 7 != 0 {
            self.unusual(flags, from_inside);
        }
    }

    fn unusual(&mut self, flags: u8, from_inside: bool) {
        const FIN: u8 = 1;
        const SYN: u8 = 2;
        const RST: u8 = 4;
        const ACK: u8 = 16;
        if flags & (SYN | ACK) == SYN && from_inside && self.is_closed() {
            *self = Self::default();
        }
        let (seen, fin) =
            if from_inside { (Self::FROM_INSIDE, Self::FIN_INSIDE) } else { (Self::FROM_OUTSIDE, Self::FIN_OUTSIDE) };
        // The answer to a SYN counts for its sender, the SYN itself does not.
        if flags & SYN == 0 || flags & ACK != 0 {
            self.0 |= seen;
        }
        if flags & FIN != 0 {
            self.0 |= fin;
        }
        if flags & RST != 0 {
            self.0 |= Self::RESET;
        }
    }
}
