//! Counters of which each processor has its own.

use std::io;

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::error::io_error;

/// The sums over the processors of the `N` words in a slot of a map.
pub(crate) fn per_cpu_sums<const N: usize>(map: &MapHandle, slot: u32) -> io::Result<[u64; N]> {
    let per_cpu = map
        .lookup_percpu(&slot.to_ne_bytes(), MapFlags::ANY)
        .map_err(|error| io_error(&error))?
        .ok_or(io::ErrorKind::NotFound)?;
    let mut sums = [0_u64; N];
    for value in &per_cpu {
        let (words, rest) = value.as_chunks::<8>();
        if words.len() != N || !rest.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        for (sum, &word) in sums.iter_mut().zip(words) {
            *sum = sum.wrapping_add(u64::from_ne_bytes(word));
        }
    }
    Ok(sums)
}
