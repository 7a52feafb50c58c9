//! A function that does as little as a function can: flips a bit in both link addresses, as `reference/ring_pipeline.c` does.
//! It reports when its first packets were ready to go on, which is how long a function takes to attach.

#![forbid(unsafe_code)]

use middlenet_sdk::prelude::*;
use serde_json::{Value, json};

/// Nothing to configure.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {}

#[derive(Default)]
struct MiddlenetBenchMac {
    first_packet_ns: Option<u64>,
}

impl NetworkFunction for MiddlenetBenchMac {
    type Config = Config;

    fn new(_: Config, _: &mut Init) -> Result<Self, ConfigError> {
        Ok(Self::default())
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        for mut packet in burst.iter_mut() {
            if let Some(ethernet) = packet.data_mut().get_mut(..14) {
                ethernet[5] ^= 1;
                ethernet[11] ^= 1;
            }
        }
        if self.first_packet_ns.is_none() {
            self.first_packet_ns = middlenet_bench::clock::now_ns();
        }
    }

    fn report(&self) -> Value {
        json!({ "first_packet_ns": self.first_packet_ns })
    }
}

middlenet_sdk::main!(MiddlenetBenchMac);
