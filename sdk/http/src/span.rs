//! Where the parts of a head are: offsets into its bytes instead of copies.
//!
//! The layouts are fixed, since spans also lie in shared memory beside the head they index. There, another process may have
//! written them, so every accessor checks its range.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Known;

/// A range of a head's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Span {
    /// Offset of the first byte, from the start of what was parsed.
    pub start: u16,
    /// Length in bytes.
    pub length: u16,
}

impl Span {
    /// From offsets below 64 Ki, which every parsed window is.
    #[inline]
    pub(crate) fn new(start: usize, end: usize) -> Span {
        debug_assert!(start <= end && end <= usize::from(u16::MAX));
        Span { start: start as u16, length: (end - start) as u16 }
    }

    /// The bytes of `head` that this spans; `None` if it reaches beyond them.
    #[inline]
    pub fn of(self, head: &[u8]) -> Option<&[u8]> {
        cut(head, self.start, self.length)
    }
}

/// One header line of a head: where its name and its value are. 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HeaderSpan {
    /// Offset of the name, from the start of what was parsed.
    pub name_start: u16,
    /// Offset of the value, without the white space before it.
    pub value_start: u16,
    /// Length of the value in bytes, without the white space behind it.
    pub value_length: u16,
    /// Length of the name in bytes. A longer name than 255 bytes is refused.
    pub name_length: u8,
    /// [`Known`] as a number; 0 for any other name.
    pub known: u8,
}

const _: () = assert!(size_of::<HeaderSpan>() == 8 && size_of::<Span>() == 4);

impl HeaderSpan {
    /// All zero, to fill an array with.
    pub const EMPTY: HeaderSpan =
        HeaderSpan { name_start: 0, value_start: 0, value_length: 0, name_length: 0, known: 0 };

    /// The name as it was sent; `None` if the span reaches beyond `head`.
    #[inline]
    pub fn name(self, head: &[u8]) -> Option<&[u8]> {
        cut(head, self.name_start, u16::from(self.name_length))
    }

    /// The value; `None` if the span reaches beyond `head`.
    #[inline]
    pub fn value(self, head: &[u8]) -> Option<&[u8]> {
        cut(head, self.value_start, self.value_length)
    }

    /// Where the value is.
    #[inline]
    pub const fn value_span(self) -> Span {
        Span { start: self.value_start, length: self.value_length }
    }

    /// Which name it is, as the span says; [`Known::Other`] for a number that is none.
    #[inline]
    pub fn known(self) -> Known {
        Known::from_u8(self.known)
    }
}

/// Names and values of `spans` in `head`, in the order they were sent. A span that reaches beyond `head` gives empty slices,
/// which no writer takes for a header.
pub fn pairs<'a>(head: &'a [u8], spans: &'a [HeaderSpan]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
    spans.iter().map(move |span| (span.name(head).unwrap_or_default(), span.value(head).unwrap_or_default()))
}

/// The value of the first header of `spans` that is `known`; `None` if there is none, or if it reaches beyond `head`.
pub fn value_of<'a>(head: &'a [u8], spans: &[HeaderSpan], known: Known) -> Option<&'a [u8]> {
    spans.iter().find(|span| span.known == known as u8)?.value(head)
}

#[inline]
fn cut(head: &[u8], start: u16, length: u16) -> Option<&[u8]> {
    head.get(usize::from(start)..usize::from(start) + usize::from(length))
}
