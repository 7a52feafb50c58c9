use super::*;
use middlenet_sdk::middlebox::testkit::{Outcome, Testkit};
use proptest::prelude::*;
use std::net::IpAddr;
use std::time::Duration;

fn ask_with(kit: &mut Testkit<HttpRateLimit>, headers: &str) -> Outcome {
    kit.request(format!("GET /a HTTP/1.1\r\nHost: a.example\r\n{headers}\r\n"))
}

fn passes(kit: &mut Testkit<HttpRateLimit>) -> bool {
    ask_with(kit, "").verdict == Verdict::Next
}

fn from(kit: &mut Testkit<HttpRateLimit>, client: &str) -> bool {
    kit.set_client((client.parse::<IpAddr>().unwrap(), 1).into());
    passes(kit)
}

#[test]
fn a_burst_then_the_rate() {
    let mut kit = Testkit::new(json!({"rate": 10, "burst": 3}));
    assert_eq!((0..5).map(|_| passes(&mut kit)).collect::<Vec<_>>(), [true, true, true, false, false]);
    kit.advance(Duration::from_millis(99));
    assert!(!passes(&mut kit));
    kit.advance(Duration::from_millis(1));
    assert!(passes(&mut kit) && !passes(&mut kit));
    kit.advance(Duration::from_secs(3600));
    assert_eq!((0..5).filter(|_| passes(&mut kit)).count(), 3, "a long pause gives one burst");
    assert_eq!((kit.counter("passed"), kit.counter("limited")), (7, 6));
}

#[test]
fn over_a_minute_the_rate_passes_and_not_a_request_more() {
    // An odd rate and odd steps: rounding would show.
    let mut kit = Testkit::new(json!({"rate": 97, "per": "minute", "burst": 2}));
    let step_ns = 33_333_333;
    let passed = (0..18_000u64).filter(|_| {
        kit.advance(Duration::from_nanos(step_ns));
        passes(&mut kit)
    });
    let (count, expected) = (passed.count() as u64, 97 * 18_000 * step_ns / 60_000_000_000);
    assert!(count.abs_diff(expected) <= 2, "{count} of {expected}");
}

#[test]
fn the_answer_says_when() {
    let mut kit = Testkit::new(json!({"rate": 6, "per": "minute", "burst": 2, "headers": true}));
    passes(&mut kit);
    let told = kit.response("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let header = |name| told.header(name).unwrap();
    assert_eq!(["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"].map(header), ["6", "1", "10"]);
    passes(&mut kit);
    kit.advance(Duration::from_millis(2500));
    let Verdict::Respond(answer) = ask_with(&mut kit, "").verdict else { panic!("not limited") };
    let headers: Vec<_> =
        answer.headers().map(|(n, v)| (str::from_utf8(n).unwrap(), str::from_utf8(v).unwrap())).collect();
    assert_eq!(answer.status(), 429);
    assert_eq!(headers[0], ("retry-after", "8"));
    assert_eq!(headers[1..4], [("ratelimit-limit", "6"), ("ratelimit-remaining", "0"), ("ratelimit-reset", "18")]);
}

#[test]
fn clients_are_prefixes() {
    let mut kit =
        Testkit::new(json!({"rate": 1, "prefix4": 24, "prefix6": 56, "allow": ["192.0.2.7", "2001:db8:f::/48"]}));
    for (client, expected) in [
        ("192.0.2.1", true),
        ("192.0.2.2", false),
        ("192.0.2.7", true),
        ("192.0.2.7", true),
        ("192.0.3.1", true),
        ("2001:db8:0:1::1", true),
        ("2001:db8:0:ff::1", false),
        ("2001:db8:0:100::1", true),
        ("2001:db8:f::1", true),
        ("2001:db8:f::1", true),
    ] {
        assert_eq!(from(&mut kit, client), expected, "{client}");
    }
    assert_eq!(kit.counter("allowed"), 4);
}

#[test]
fn keys_of_other_parts() {
    let mut kit = Testkit::<HttpRateLimit>::new(json!({"rate": 1, "key": ["header X-Key", "cookie s"]}));
    let mut passes = |headers: &str| ask_with(&mut kit, headers).verdict == Verdict::Next;
    assert!(passes("X-Key: a\r\nCookie: s=b\r\n") && !passes("x-key: a\r\nCookie: t=1; s=b\r\n"));
    assert!(passes("X-Key: a\r\nCookie: s=c\r\n") && passes("X-Key: b\r\nCookie: s=b\r\n"));
    assert!(passes("X-Key: ab\r\nCookie: s=\r\n") && passes("X-Key: a\r\n"), "parts do not run into one another");
    assert!(passes("") && !passes(""), "without any of them the client counts");
    kit.set_client(([192, 0, 2, 99], 1).into());
    assert_eq!(ask_with(&mut kit, "").verdict, Verdict::Next, "another client");
}

#[test]
fn the_least_recently_used_makes_room() {
    let mut kit = Testkit::new(json!({"rate": 1, "per": "hour", "buckets": 3}));
    for client in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
        assert!(from(&mut kit, client));
    }
    assert!(!from(&mut kit, "10.0.0.1"), "used again");
    assert!(from(&mut kit, "10.0.0.4"));
    assert!(!from(&mut kit, "10.0.0.1") && !from(&mut kit, "10.0.0.3"), "10.0.0.2 went");
    assert!(from(&mut kit, "10.0.0.2"));
    kit.advance(Duration::ZERO);
    assert_eq!((kit.counter("evicted"), kit.counter("buckets")), (2, 3));
    kit.advance(Duration::from_secs(3600));
    assert_eq!(kit.counter("buckets"), 0, "full buckets are forgotten");
    assert_eq!(kit.report(), json!({"buckets": 0, "capacity": 3}));
}

#[test]
fn a_change_keeps_buckets_only_if_they_mean_the_same() {
    let mut kit = Testkit::new(json!({"rate": 1, "per": "hour"}));
    assert!(passes(&mut kit));
    kit.reconfigure(json!({"rate": 1, "per": "hour", "allow": ["10.0.0.1"]})).unwrap();
    assert!(!passes(&mut kit));
    kit.reconfigure(json!({"rate": 2, "per": "hour"})).unwrap();
    assert!(passes(&mut kit));
}

#[test]
fn mistakes_are_told() {
    for (config, part) in [
        (json!({}), "missing field"),
        (json!({"rate": 0}), "`rate`"),
        (json!({"rate": 1, "burst": 0}), "`burst`"),
        (json!({"rate": 1, "prefix4": 33}), "`prefix4`"),
        (json!({"rate": 1, "key": "cookie"}), "`key` is"),
        (json!({"rate": 1, "key": []}), "empty list"),
        (json!({"rate": 1, "allow": ["10.0.0.1/8"]}), "beyond its prefix"),
        (json!({"rate": 1, "buckets": 0}), "`buckets`"),
        (json!({"rate": 1, "per": "day"}), "unknown variant"),
        (json!({"rate": 1, "limit": 1}), "unknown field"),
    ] {
        let error = Testkit::<HttpRateLimit>::try_new(config.clone()).err().map(|e| e.message).unwrap_or_default();
        assert!(error.contains(part), "{config}: {error}");
    }
    assert!(Testkit::<HttpRateLimit>::try_new(json!({"rate": 1_000_000, "burst": 1_000_000, "per": "hour"})).is_ok());
}

proptest! {
    /// No client gets more than burst + rate × time, nor less when it asks often enough.
    #[test]
    fn buckets_are_those_of_a_model(
        rate in 1u64..50, burst in 1u64..9,
        steps in proptest::collection::vec((0u64..400, 0u8..3), 1..120),
    ) {
        let mut kit = Testkit::new(json!({"rate": rate, "burst": burst}));
        // Thousandths of a token, per client.
        let mut model = [burst * 1000; 3];
        for (wait_ms, client) in steps {
            kit.advance(Duration::from_millis(wait_ms));
            model = model.map(|tokens| (tokens + wait_ms * rate).min(burst * 1000));
            let tokens = &mut model[usize::from(client)];
            let expected = *tokens >= 1000;
            *tokens -= if expected { 1000 } else { 0 };
            prop_assert_eq!(from(&mut kit, &format!("10.0.0.{client}")), expected);
        }
    }
}
