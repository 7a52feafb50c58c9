//! Fast paths of functions in the kernel, packet by packet.

mod first;
