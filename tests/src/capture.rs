//! Capture files in the classic pcap format with nanoseconds.

use std::fs;
use std::path::Path;

use crate::Error;

const MAGIC_NS: u32 = 0xa1b2_3c4d;
const MAGIC_US: u32 = 0xa1b2_c3d4;
const ETHERNET: u32 = 1;

/// Writes frames with one microsecond between them.
///
/// # Errors
///
/// [`Error::File`].
pub fn write_capture(path: &Path, frames: &[Vec<u8>]) -> Result<(), Error> {
    let mut bytes = Vec::new();
    for word in [MAGIC_NS, 2 | 4 << 16, 0, 0, 65535, ETHERNET] {
        bytes.extend(word.to_le_bytes());
    }
    for (at, frame) in (0u32..).zip(frames) {
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        for word in [1_700_000_000 + at / 1_000_000, at % 1_000_000 * 1000, length, length] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    fs::write(path, bytes).map_err(|source| Error::File { path: path.into(), source })
}

/// Reads the frames of a capture.
///
/// # Errors
///
/// [`Error::File`], also if it is no such file or ends in the middle.
pub fn read_capture(path: &Path) -> Result<Vec<Vec<u8>>, Error> {
    let bad = |what: &str| Error::File {
        path: path.into(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned()),
    };
    let bytes = fs::read(path).map_err(|source| Error::File { path: path.into(), source })?;
    let four = |at: usize| bytes.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
    // Whoever wrote it chose the byte order.
    let order = [u32::from_le_bytes as fn([u8; 4]) -> u32, u32::from_be_bytes];
    let is_ours = |order: &fn([u8; 4]) -> u32| matches!(four(0).map(order), Some(MAGIC_NS | MAGIC_US));
    let order = order.into_iter().find(is_ours).ok_or_else(|| bad("not a pcap file"))?;
    let word = |at: usize| four(at).map(order);
    let mut frames = Vec::new();
    let mut at = 24;
    while at < bytes.len() {
        let length = word(at + 8).ok_or_else(|| bad("a record's header is cut"))? as usize;
        frames.push(bytes.get(at + 16..at + 16 + length).ok_or_else(|| bad("a record is cut"))?.to_vec());
        at += 16 + length;
    }
    Ok(frames)
}
