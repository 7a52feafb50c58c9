//! A function that does without the fast path that it asks for.

use std::marker::PhantomData;

use middlenet_sdk::fast_path::{FastPath, Shape};
use middlenet_sdk::prelude::*;

/// The fast path that is asked for, and not to be had.
pub(crate) trait Wanted: Send + 'static {
    const SHAPE: Shape;
}

middlenet_sdk::config! {
    /// Nothing.
    pub(crate) struct Config {}
}

pub(crate) struct Shaped<W> {
    fast_path: FastPath,
    without: Counter,
    wanted: PhantomData<W>,
}

impl<W: Wanted> NetworkFunction for Shaped<W> {
    type Config = Config;
    const FAST_PATH: Shape = W::SHAPE;

    fn new(_: Config, init: &mut Init) -> Result<Self, ConfigError> {
        let without = init.counter("without", "packets that came while there was no fast path");
        Ok(Self { fast_path: init.fast_path(), without, wanted: PhantomData })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        if !self.fast_path.is_active() {
            self.without.add(burst.len() as u64);
        }
    }
}
