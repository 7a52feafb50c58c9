//! A function whose fast path asks for more than any kernel has.

#![forbid(unsafe_code)]

mod shaped;

use middlenet_sdk::fast_path::{Mode, Shape};
use shaped::{Shaped, Wanted};

struct Greedy;

impl Wanted for Greedy {
    const SHAPE: Shape = Shape::of(&[Mode::Reactive]).flows(u32::MAX);
}

middlenet_sdk::main!(Shaped<Greedy>);
