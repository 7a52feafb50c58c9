//! A function of requests of one's own: tells the servers which host a request came through.
//!
//! ```text
//! cargo build --release
//! middlenet run chain.yaml          # with `run: ./target/release/add-header` in the chain
//! ```

use middlenet_sdk::middlebox::prelude::*;

middlenet_sdk::config! {
    /// Adds `X-Via` to every request.
    struct Config {
        /// What this host is called.
        via: String,
    }
}

struct AddHeader {
    via: String,
}

impl MiddleboxFunction for AddHeader {
    type Config = Config;
    const INTERESTS: Interests = Interests::REQUEST_HEAD;

    fn new(config: Config, _: &mut Init) -> Result<Self, ConfigError> {
        Ok(Self { via: config.via })
    }

    fn request(&mut self, request: &mut Request<'_>, _: &mut Context<'_>) -> Verdict {
        request.set_header("x-via", &self.via);
        Verdict::Next
    }
}

middlenet_sdk::main!(AddHeader);

#[cfg(test)]
mod tests {
    use super::*;
    use middlenet_sdk::middlebox::testkit::Testkit;
    use middlenet_sdk::serde_json::json;

    #[test]
    fn every_request_goes_on_with_the_header() {
        let mut kit = Testkit::<AddHeader>::new(json!({ "via": "edge-1" }));
        let seen = kit.request("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        assert_eq!(seen.verdict, Verdict::Next);
        assert_eq!(seen.header("x-via"), Some("edge-1"));
        assert_eq!(seen.header("host"), Some("a.example"));
    }

    #[test]
    fn what_the_client_writes_there_is_replaced() {
        let mut kit = Testkit::<AddHeader>::new(json!({ "via": "edge-1" }));
        let seen = kit.request("GET / HTTP/1.1\r\nHost: a.example\r\nX-Via: forged\r\nX-VIA: twice\r\n\r\n");
        let vias: Vec<_> = seen.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-via")).collect();
        assert_eq!(vias.len(), 1, "{vias:?}");
        assert_eq!(vias[0].1, "edge-1");
    }

    #[test]
    fn a_configuration_without_a_name_is_refused() {
        assert!(Testkit::<AddHeader>::try_new(json!({})).is_err());
    }
}
