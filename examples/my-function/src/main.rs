//! A network function of one's own: lowers the TTL of IPv4 packets to a limit.
//!
//! ```text
//! cargo build --release
//! middlenet run chain.yaml          # with `run: ./target/release/my-function` in the chain
//! ```

use middlenet_sdk::prelude::*;

middlenet_sdk::config! {
    /// Lowers the TTL of IPv4 packets to a limit.
    struct Config {
        /// The largest TTL that passes unchanged.
        max_ttl: u8,
    }
}

struct MyFunction {
    max: u8,
    clamped: Counter,
}

impl NetworkFunction for MyFunction {
    type Config = Config;

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        if config.max_ttl == 0 {
            return Err(ConfigError::new("max_ttl of 0 would stop all traffic").with_hint("use 1 or more"));
        }
        Ok(Self { max: config.max_ttl, clamped: init.counter("clamped", "packets whose TTL was lowered") })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        for mut packet in burst.iter_mut() {
            if let Some(mut ip) = packet.ipv4_mut()
                && ip.ttl() > self.max
            {
                ip.set_ttl(self.max);
                self.clamped.inc();
            }
        }
    }
}

middlenet_sdk::main!(MyFunction);

#[cfg(test)]
mod tests {
    use super::*;
    use middlenet_sdk::serde_json::json;
    use middlenet_sdk::testkit::Testkit;
    use middlenet_sdk::wire::{Ipv4, PacketBuilder};

    fn packet(ttl: u8) -> Vec<u8> {
        PacketBuilder::new()
            .ipv4("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())
            .ttl(ttl)
            .udp(1000, 53)
            .payload(b"hello")
            .build()
    }

    #[test]
    fn high_ttls_are_lowered_and_low_ones_left() {
        let mut kit = Testkit::<MyFunction>::new(json!({ "max_ttl": 32 }));
        let outcomes = kit.run("left", &[packet(64), packet(5), vec![0xff; 9]]);
        assert!(outcomes.iter().all(|outcome| outcome.verdict == Verdict::Next));
        let ip = Ipv4::parse(&outcomes[0].bytes[14..]).unwrap();
        assert_eq!(ip.ttl(), 32);
        assert!(ip.verify_checksum().is_ok());
        assert_eq!(outcomes[1].bytes, packet(5));
        assert_eq!(kit.counter("clamped"), 1);
    }

    #[test]
    fn a_limit_of_nothing_is_refused() {
        let refused = Testkit::<MyFunction>::try_new(json!({ "max_ttl": 0 })).err().unwrap();
        assert_eq!(refused.hint.as_deref(), Some("use 1 or more"));
    }
}
