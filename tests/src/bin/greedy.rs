//! A function whose fast path asks for more than any kernel has.

#![forbid(unsafe_code)]

use middlenet_sdk::fast_path::{FastPath, Mode, Shape};
use middlenet_sdk::prelude::*;

middlenet_sdk::config! {
    /// Nothing.
    struct Config {}
}

struct Greedy {
    fast_path: FastPath,
    without: Counter,
}

impl NetworkFunction for Greedy {
    type Config = Config;
    const FAST_PATH: Shape = Shape::of(&[Mode::Reactive]).flows(u32::MAX);

    fn new(_: Config, init: &mut Init) -> Result<Self, ConfigError> {
        let without = init.counter("without", "packets that came while there was no fast path");
        Ok(Self { fast_path: init.fast_path(), without })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        if !self.fast_path.is_active() {
            self.without.add(burst.len() as u64);
        }
    }
}

middlenet_sdk::main!(Greedy);
