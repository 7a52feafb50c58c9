//! The fast paths of functions in the kernel, packet by packet, against what rules mean.

mod chain;
mod drawn;
mod lab;
mod model;
