//! Fast paths of functions: what of a chain's work the kernel does before a packet comes to a worker, if it comes at all.

mod reach;

pub(crate) use reach::destinations;
