//! TCP options.

/// One TCP option; padding is not reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpOption<'a> {
    /// Maximum segment size, in bytes (RFC 9293 section 3.7.1).
    MaxSegmentSize(u16),
    /// Window scale: the shift, at most 14 (RFC 7323 section 2).
    WindowScale(u8),
    /// Selective acknowledgement is permitted (RFC 2018).
    SackPermitted,
    /// Selective acknowledgement blocks, 8 bytes each.
    Sack(&'a [u8]),
    /// Time stamps (RFC 7323 section 3).
    Timestamps {
        /// The sender's clock.
        value: u32,
        /// The clock it echoes.
        echo: u32,
    },
    /// Any other option, or a known one of another length than its own.
    Other {
        /// The kind.
        kind: u8,
        /// What follows kind and length.
        data: &'a [u8],
    },
}

/// Walks the options of a segment. It ends at the end-of-list option, at the end, and at an option whose length is wrong.
#[derive(Debug, Clone)]
pub struct TcpOptions<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> TcpOptions<'a> {
    /// The options in `bytes`, which follow the fixed header.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        TcpOptions { rest: bytes, len: bytes.len() }
    }

    /// The bytes not walked yet.
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.rest
    }

    /// The maximum segment size, if the option is there.
    #[inline]
    pub fn mss(self) -> Option<u16> {
        self.into_iter().find_map(|option| match option {
            TcpOption::MaxSegmentSize(mss) => Some(mss),
            _ => None,
        })
    }

    /// Where the value of the maximum segment size stands, in bytes from the start of the options.
    #[inline]
    pub(crate) fn mss_position(mut self) -> Option<usize> {
        while let Some(option) = self.next() {
            if matches!(option, TcpOption::MaxSegmentSize(_)) {
                return (self.len - self.rest.len()).checked_sub(2);
            }
        }
        None
    }
}

impl<'a> Iterator for TcpOptions<'a> {
    type Item = TcpOption<'a>;

    #[inline]
    fn next(&mut self) -> Option<TcpOption<'a>> {
        loop {
            let (&kind, after) = self.rest.split_first()?;
            match kind {
                0 => {
                    self.rest = &[];
                    return None;
                }
                1 => self.rest = after,
                _ => {
                    // The length counts kind and length too.
                    let option = after
                        .split_first()
                        .and_then(|(&len, after)| after.split_at_checked(usize::from(len).checked_sub(2)?));
                    let Some((data, rest)) = option else {
                        self.rest = &[];
                        return None;
                    };
                    self.rest = rest;
                    return Some(known(kind, data));
                }
            }
        }
    }
}

#[inline]
fn known(kind: u8, data: &[u8]) -> TcpOption<'_> {
    match (kind, data) {
        (2, &[a, b]) => TcpOption::MaxSegmentSize(u16::from_be_bytes([a, b])),
        (3, &[shift]) => TcpOption::WindowScale(shift),
        (4, &[]) => TcpOption::SackPermitted,
        (5, blocks) if !blocks.is_empty() && blocks.len() % 8 == 0 => TcpOption::Sack(blocks),
        (8, &[a, b, c, d, e, f, g, h]) => {
            TcpOption::Timestamps { value: u32::from_be_bytes([a, b, c, d]), echo: u32::from_be_bytes([e, f, g, h]) }
        }
        _ => TcpOption::Other { kind, data },
    }
}
