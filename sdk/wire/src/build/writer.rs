//! Appends headers to a buffer that may be too small.

use zerocopy::{Immutable, IntoBytes};

use crate::WireError;

pub(crate) struct Writer<'a> {
    buffer: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(buffer: &'a mut [u8]) -> Self {
        Writer { buffer, at: 0 }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let to = self.buffer.get_mut(self.at..).and_then(|rest| rest.get_mut(..bytes.len()));
        to.ok_or(WireError::NoSpace)?.copy_from_slice(bytes);
        self.at += bytes.len();
        Ok(())
    }

    pub(crate) fn header(&mut self, header: &(impl IntoBytes + Immutable)) -> Result<(), WireError> {
        self.put(header.as_bytes())
    }

    pub(crate) fn zeros(&mut self, count: usize) -> Result<(), WireError> {
        let to = self.buffer.get_mut(self.at..).and_then(|rest| rest.get_mut(..count));
        to.ok_or(WireError::NoSpace)?.fill(0);
        self.at += count;
        Ok(())
    }

    /// How many bytes are written.
    pub(crate) fn len(&self) -> usize {
        self.at
    }

    /// What is written from `start` on.
    pub(crate) fn since(&mut self, start: usize) -> &mut [u8] {
        self.buffer.get_mut(start..self.at).unwrap_or_default()
    }
}
