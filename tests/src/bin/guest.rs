//! Runs in the virtual machine of the SR-IOV test, on its serial line.

#![forbid(unsafe_code)]

use std::io::{stdin, stdout};

fn main() -> std::io::Result<()> {
    middlenet_tests::vm::serve(stdin().lock(), stdout().lock())
}
