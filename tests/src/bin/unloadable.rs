//! A function whose fast path no kernel takes: connections to its services are remembered among flows, and it has none.

#![forbid(unsafe_code)]

mod shaped;

use middlenet_sdk::fast_path::{Mode, Shape};
use shaped::{Shaped, Wanted};

struct Unloadable;

impl Wanted for Unloadable {
    const SHAPE: Shape = Shape::of(&[Mode::Reactive, Mode::Offloading]).services(4, 4).rules(4);
}

middlenet_sdk::main!(Shaped<Unloadable>);
