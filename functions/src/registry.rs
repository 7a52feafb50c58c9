//! Built-in functions by name.

use crate::{access_log::AccessLog, cpu_burner::CpuBurner, header_edit::HeaderEdit, reverse_proxy::ReverseProxy};
use crate::{efw::Efw, elb::Elb, firewall::Firewall, flow_stats::FlowStats, nat::Nat, rate_limiter::RateLimiter};
use crate::{http_rate_limit::HttpRateLimit, router::Router, tcp_proxy::TcpProxy, url_rewrite::UrlRewrite};
use crate::{l2_bridge::L2Bridge, l2_forward::L2Forward, l3_router::L3Router, monitor::Monitor};
use middlenet_sdk::Registration;
use std::sync::LazyLock;

/// The built-in functions, in the order of their names.
pub fn registry() -> &'static [Registration] {
    static REGISTRY: LazyLock<Vec<Registration>> = LazyLock::new(|| {
        vec![
            Registration::middlebox::<AccessLog>("access-log", "writes a line for each request"),
            Registration::middlebox::<CpuBurner>("cpu-burner", "counts primes for each request, to measure chains"),
            #[cfg(feature = "ndpi")]
            Registration::named::<crate::edpi::Edpi>(
                "edpi",
                "recognises applications, lets large flows pass in the kernel, blocks or diverts chosen ones",
            ),
            Registration::named::<Efw>("efw", "passes packets by rules of one matcher, in the fast path"),
            Registration::named::<Elb>("elb", "spreads connections over servers by their load, in the fast path"),
            Registration::named::<Firewall>("firewall", "passes packets by ordered rules and tracks connections"),
            Registration::named::<FlowStats>(
                "flow-stats",
                "counts flows of both paths and writes a line for each that ends",
            ),
            Registration::middlebox::<HeaderEdit>("header-edit", "sets, adds and removes headers"),
            Registration::middlebox::<HttpRateLimit>("http-rate-limit", "answers 429 to clients above their rate"),
            Registration::named::<L2Bridge>("l2-bridge", "learning Ethernet bridge between the chain's ports"),
            Registration::named::<L2Forward>("l2-forward", "rewrites link addresses between two ports"),
            Registration::named::<L3Router>("l3-router", "routes IPv4 and IPv6 with ARP, ND and ICMP"),
            Registration::named::<Monitor>("monitor", "counts packets and bytes per flow, shows the top talkers"),
            Registration::named::<Nat>("nat", "translates addresses and ports, forwards ports to inside hosts"),
            Registration::named::<RateLimiter>(
                "rate-limiter",
                "drops what exceeds a rate, in all or per flow or prefix",
            ),
            Registration::middlebox::<ReverseProxy>("reverse-proxy", "sends each request to one of several upstreams"),
            Registration::middlebox::<Router>("router", "routes requests by host, path, method, header and query"),
            Registration::middlebox::<TcpProxy>("tcp-proxy", "sends each connection to one of several upstreams"),
            Registration::middlebox::<UrlRewrite>("url-rewrite", "rewrites paths by prefix or pattern, or redirects"),
        ]
    });
    &REGISTRY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_kebab_case_and_described() {
        let names: Vec<&str> = registry().iter().map(|r| r.name.as_str()).collect();
        assert!(names.is_sorted(), "{names:?}");
        for registration in registry() {
            assert!(registration.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            assert!(!registration.summary.is_empty(), "{}", registration.name);
            assert!(registration.schema()["properties"].is_object(), "{}", registration.name);
        }
    }
}
