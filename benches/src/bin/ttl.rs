//! A function that does as little as a function can: lowers the TTL and flips a bit of the destination, unchecked, as
//! `reference/ring_pipeline.c` does. Or one that costs as much as it is told to.

#![forbid(unsafe_code)]

use middlenet_sdk::prelude::*;
use std::hint::black_box;

/// Nothing needs to be configured.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Multiplications per packet, each waiting for the one before: about four cycles.
    rounds: u32,
}

struct MiddlenetBenchTtl {
    rounds: u32,
}

impl NetworkFunction for MiddlenetBenchTtl {
    type Config = Config;

    fn new(config: Config, _: &mut Init) -> Result<Self, ConfigError> {
        Ok(Self { rounds: config.rounds })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        for mut packet in burst.iter_mut() {
            if let Some(ip) = packet.data_mut().get_mut(14..34) {
                ip[8] = ip[8].wrapping_sub(1);
                ip[19] ^= 1;
            }
            if self.rounds > 0 {
                black_box(
                    (0..self.rounds).fold(black_box(3u64), |product, _| black_box(product.wrapping_mul(product))),
                );
            }
        }
    }
}

middlenet_sdk::main!(MiddlenetBenchTtl);
