//! A function that does as little as a function can: lowers the TTL and flips a bit of the destination, unchecked, as
//! `reference/ring_pipeline.c` does.

use middlenet_sdk::prelude::*;

/// Nothing to configure.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {}

struct MiddlenetBenchTtl;

impl NetworkFunction for MiddlenetBenchTtl {
    type Config = Config;

    fn new(_: Config, _: &mut Init) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        for mut packet in burst.iter_mut() {
            if let Some(ip) = packet.data_mut().get_mut(14..34) {
                ip[8] = ip[8].wrapping_sub(1);
                ip[19] ^= 1;
            }
        }
    }
}

middlenet_sdk::main!(MiddlenetBenchTtl);
