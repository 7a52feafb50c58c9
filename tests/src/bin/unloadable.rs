//! A function whose fast path cannot be: connections to its services are remembered among flows, and it has none.

#![forbid(unsafe_code)]

use middlenet_sdk::fast_path::{FastPath, Mode, Shape};
use middlenet_sdk::prelude::*;

middlenet_sdk::config! {
    /// Nothing.
    struct Config {}
}

struct Unloadable {
    fast_path: FastPath,
    without: Counter,
}

impl NetworkFunction for Unloadable {
    type Config = Config;
    const FAST_PATH: Shape = Shape::of(&[Mode::Reactive, Mode::Offloading]).services(4, 4).rules(4);

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

middlenet_sdk::main!(Unloadable);
