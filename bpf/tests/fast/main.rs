//! The fast paths of functions in the kernel, packet by packet, against what rules mean.

mod chain;
mod connections;
mod drawn;
mod ends;
mod hidden;
mod lab;
mod limits;
mod model;
mod offloading;
mod routes;
