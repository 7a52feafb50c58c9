//! What the crate promises, checked on frames that Linux sent and on generated ones.

mod build;
mod checksum;
mod dissect;
mod flow;
mod frames;
mod hostile;
mod ipv6;
mod neighbor;
mod rewrite;
mod views;
