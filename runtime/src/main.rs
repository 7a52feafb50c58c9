//! The `middlenet` command.

fn main() {}
