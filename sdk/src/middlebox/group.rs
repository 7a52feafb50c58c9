//! Groups of descriptors as bytes of an SK_MSG socket: one codec for functions and broker.

use middlenet_shm::Descriptor;
use zerocopy::{FromBytes, IntoBytes};

use super::layout::{Cell, Group, MAX_GROUP};

const CELL: usize = size_of::<Cell>();
/// Bytes of the longest group.
pub const GROUP_BYTES: usize = (MAX_GROUP + 1) * CELL;

/// Writes a group of at most [`MAX_GROUP`] descriptors, and returns its length in bytes.
pub fn write_group(bytes: &mut [u8; GROUP_BYTES], destination: u8, descriptors: &[Descriptor]) -> usize {
    let group = Group { count: descriptors.len() as u32, destination: destination.into(), reserved: [0; 2] };
    let (head, rest) = bytes.split_at_mut(CELL);
    head.copy_from_slice(group.as_bytes());
    let body = descriptors.as_bytes();
    rest[..body.len()].copy_from_slice(body);
    CELL + body.len()
}

/// Takes descriptors out of a stream of groups, however its bytes arrive.
#[derive(Debug)]
pub struct GroupReader {
    input: Box<[u8]>,
    filled: usize,
    /// Descriptors of the group under way that have not come yet.
    left: usize,
}

impl GroupReader {
    /// One that holds so many cells.
    pub fn new(cells: usize) -> Self {
        Self { input: vec![0; cells * CELL].into_boxed_slice(), filled: 0, left: 0 }
    }

    /// Where the next bytes are to be read to.
    #[inline]
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.input[self.filled..]
    }

    /// Takes out what has come whole with `n` more bytes, without the descriptors that the filter has struck out. `false`: the stream
    /// makes no sense, and what was left of it is gone.
    pub fn take(&mut self, n: usize, descriptors: &mut Vec<Descriptor>) -> bool {
        self.filled += n;
        let whole = self.filled / CELL * CELL;
        for cell in self.input[..whole].chunks_exact(CELL) {
            if self.left == 0 {
                let count = Group::read_from_bytes(cell).map_or(0, |group| group.count as usize);
                if !(1..=MAX_GROUP).contains(&count) {
                    self.filled = 0;
                    return false;
                }
                self.left = count;
                continue;
            }
            self.left -= 1;
            if let Ok(descriptor) = Descriptor::read_from_bytes(cell)
                && descriptor.index != u32::MAX
            {
                descriptors.push(descriptor);
            }
        }
        self.input.copy_within(whole..self.filled, 0);
        self.filled -= whole;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_however_they_are_cut() {
        let sent: Vec<Descriptor> = (0..70).map(|index| Descriptor { index, ..Descriptor::default() }).collect();
        let mut stream = Vec::new();
        for part in sent.chunks(MAX_GROUP) {
            let mut bytes = [0; GROUP_BYTES];
            let length = write_group(&mut bytes, 3, part);
            stream.extend_from_slice(&bytes[..length]);
        }
        for step in [1, 15, 16, 17, 1000] {
            let (mut reader, mut read) = (GroupReader::new(256), Vec::new());
            for piece in stream.chunks(step) {
                reader.room()[..piece.len()].copy_from_slice(piece);
                assert!(reader.take(piece.len(), &mut read));
            }
            assert_eq!(read, sent, "{step} bytes at a time");
        }
    }

    #[test]
    fn what_is_struck_out_is_left_out_and_nonsense_is_told() {
        let mut reader = GroupReader::new(8);
        let mut bytes = [0; GROUP_BYTES];
        let struck = Descriptor { index: u32::MAX, ..Descriptor::default() };
        let length = write_group(&mut bytes, 3, &[struck, Descriptor::default()]);
        reader.room()[..length].copy_from_slice(&bytes[..length]);
        let mut read = Vec::new();
        assert!(reader.take(length, &mut read));
        assert_eq!(read, [Descriptor::default()]);
        reader.room()[..CELL].fill(0xff);
        assert!(!reader.take(CELL, &mut read));
    }
}
