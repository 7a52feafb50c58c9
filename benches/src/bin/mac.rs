//! A function that does as little as a function can: flips a bit in both link addresses, as `reference/ring_pipeline.c` does.

use middlenet_sdk::prelude::*;

/// Nothing to configure.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {}

struct MiddlenetBenchMac;

impl NetworkFunction for MiddlenetBenchMac {
    type Config = Config;

    fn new(_: Config, _: &mut Init) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        for mut packet in burst.iter_mut() {
            if let Some(ethernet) = packet.data_mut().get_mut(..14) {
                ethernet[5] ^= 1;
                ethernet[11] ^= 1;
            }
        }
    }
}

middlenet_sdk::main!(MiddlenetBenchMac);
