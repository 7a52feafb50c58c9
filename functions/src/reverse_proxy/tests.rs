use super::sticky::siphash;
use super::*;
use middlenet_sdk::middlebox::testkit::{Outcome, Testkit};

const GET: &str = "GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n";

fn kit(config: Value) -> Testkit<ReverseProxy> {
    Testkit::new(config)
}

fn upstream(outcome: &Outcome) -> u16 {
    match outcome.verdict {
        Verdict::Route(Upstream(number)) => number,
        ref other => panic!("{other:?}"),
    }
}

fn with(header: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: shop.example\r\n{header}\r\n\r\n")
}

fn cookie_of(kit: &mut Testkit<ReverseProxy>) -> Option<String> {
    let response = kit.response("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    response.header("set-cookie").map(str::to_owned)
}

#[test]
fn requests_take_turns() {
    let mut kit = kit(json!({"upstreams": ["10.0.0.1:80", {"address": "[2001:db8::1]:80", "weight": 2}]}));
    assert_eq!(kit.upstreams(), ["10.0.0.1:80", "[2001:db8::1]:80"]);
    let chosen: Vec<u16> = (0..6).map(|_| upstream(&kit.request(GET))).collect();
    assert_eq!(chosen, [1, 0, 1, 1, 0, 1]);
    assert_eq!(kit.counter("routed"), 6);
    assert_eq!(kit.report(), json!({"requests": {"10.0.0.1:80": 2, "[2001:db8::1]:80": 4}}));
}

#[test]
fn those_that_are_down_are_passed_over_until_all_are() {
    let mut kit = kit(json!({"upstreams": ["10.0.0.1:80", "10.0.0.2:80"]}));
    kit.set_upstream(0, false, 0);
    assert!((0..4).all(|_| upstream(&kit.request(GET)) == 1));
    assert_eq!(kit.counter("failed-open"), 0);
    kit.set_upstream(1, false, 0);
    kit.request(GET);
    assert_eq!((kit.counter("routed"), kit.counter("failed-open")), (5, 1));
}

#[test]
fn equal_keys_meet_the_same_upstream() {
    let list: Vec<String> = (1..=9).map(|n| format!("10.0.0.{n}:80")).collect();
    for (key, header) in [("header X-User", "x-user: "), ("cookie sid", "Cookie: a=b; sid=")] {
        let config = json!({"upstreams": list, "balance": "consistent-hash", "hash_key": key});
        let (mut one, mut other) = (kit(config.clone()), kit(config));
        let mut seen = std::collections::BTreeSet::new();
        for user in 0..50 {
            one.set_client(([192, 0, 2, user], 1).into());
            let chosen = upstream(&one.request(with(&format!("{header}{user}"))));
            assert_eq!(chosen, upstream(&other.request(with(&format!("{header}{user}")))));
            seen.insert(chosen);
        }
        assert!(seen.len() > 4, "{seen:?}");
    }
    let mut by_client = kit(json!({"upstreams": list, "balance": "consistent-hash"}));
    let first = upstream(&by_client.request(GET));
    assert!((0..9).all(|_| upstream(&by_client.request(GET)) == first));
    by_client.set_client(([192, 0, 2, 1], 999).into());
    assert_eq!(upstream(&by_client.request(GET)), first, "the port does not matter");
}

#[test]
fn a_cookie_keeps_the_upstream() {
    let mut kit = kit(json!({
        "upstreams": ["10.0.0.1:80", "10.0.0.2:80"],
        "sticky": {"cookie": "node", "ttl_s": 60, "secret": "0123456789abcdef"}
    }));
    let chosen = upstream(&kit.request(GET));
    let set = cookie_of(&mut kit).expect("a cookie for a new client");
    let (pair, attributes) = set.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; Max-Age=60; HttpOnly; SameSite=Lax");
    let tag = pair.strip_prefix("node=").unwrap();
    assert!(tag.len() == 16 && tag.bytes().all(|b| b.is_ascii_hexdigit()), "{tag}");
    for _ in 0..5 {
        assert_eq!(upstream(&kit.request(with(&format!("Cookie: x=y; {pair}")))), chosen);
        assert_eq!(cookie_of(&mut kit), None);
    }
    assert_eq!((kit.counter("sticky-kept"), kit.counter("sticky-set")), (5, 1));
    kit.set_upstream(chosen.into(), false, 0);
    assert_eq!(upstream(&kit.request(with(&format!("Cookie: {pair}")))), 1 - chosen, "chosen anew");
    assert!(cookie_of(&mut kit).is_some_and(|set| !set.starts_with(pair)));
    kit.set_upstream((1 - chosen).into(), false, 0);
    assert_eq!(upstream(&kit.request(with(&format!("Cookie: {pair}")))), chosen, "all are down: the session stays");
    kit.request(with("Cookie: node=ffffffffffffffff"));
    assert!(cookie_of(&mut kit).is_some(), "an unknown cookie is replaced");
}

#[test]
fn cookies_mean_the_same_to_every_instance_and_outlive_changes_with_a_secret() {
    let config =
        |upstreams: Value, secret: Value| json!({"upstreams": upstreams, "sticky": {"cookie": "n", "secret": secret}});
    let pair = |kit: &mut Testkit<ReverseProxy>| {
        kit.request(GET);
        cookie_of(kit).unwrap().split_once(';').unwrap().0.to_owned()
    };
    for secret in [json!("0123456789abcdef"), Value::Null] {
        let mut one = kit(config(json!(["10.0.0.1:80", "10.0.0.2:80"]), secret.clone()));
        let cookie = with(&format!("Cookie: {}", pair(&mut one)));
        let mut other = kit(config(json!(["10.0.0.2:80", "10.0.0.1:80"]), secret.clone()));
        assert_eq!(upstream(&other.request(&cookie)), 1, "10.0.0.1 in another place of the list");
        let mut more = kit(config(json!(["10.0.0.3:80", "10.0.0.2:80", "10.0.0.1:80"]), secret.clone()));
        more.request(&cookie);
        assert_eq!(more.counter("sticky-kept"), u64::from(secret.is_string()));
    }
}

#[test]
fn only_sticky_proxies_want_responses() {
    let interests = |config: Value| {
        let config = serde_json::from_value(config).unwrap();
        ReverseProxy::new(config, &mut Init::default()).unwrap().interests()
    };
    assert_eq!(interests(json!({"upstreams": ["10.0.0.1:80"]})), Interests::REQUEST_HEAD);
    let sticky = interests(json!({"upstreams": ["10.0.0.1:80"], "sticky": {"cookie": "n"}}));
    assert_eq!(sticky, Interests::REQUEST_HEAD | Interests::RESPONSE_HEAD);
}

#[test]
fn headers_for_the_upstream() {
    let mut kit = kit(json!({
        "upstreams": ["10.0.0.1:80"],
        "host": "upstream",
        "set_headers": {"X-Real-IP": "$client_ip", "X-Asked": "$host$path"}
    }));
    let seen = kit.request(with("X-Real-IP: 6.6.6.6"));
    assert_eq!(seen.header("x-real-ip"), Some("192.0.2.1"));
    assert_eq!(seen.header("x-asked"), Some("shop.example/a"));
    assert_eq!(seen.header("host"), Some("10.0.0.1:80"));
    assert_eq!(seen.headers.len(), 3);
}

#[test]
fn mistakes_are_told() {
    for (config, part) in [
        (json!({}), "missing field"),
        (json!({"upstreams": []}), "no upstream"),
        (json!({"upstreams": ["10.0.0.1:80"], "hash_key": "path"}), "consistent-hash"),
        (json!({"upstreams": ["10.0.0.1:80"], "hash_key": "header"}), "is none of"),
        (json!({"upstreams": ["10.0.0.1:80"], "set_headers": {"Connection": "close"}}), "written by the broker"),
        (json!({"upstreams": ["10.0.0.1:80"], "set_headers": {"a b": "c"}}), "no name"),
        (json!({"upstreams": ["10.0.0.1:80"], "set_headers": {"a": "$b"}}), "unknown variable"),
        (json!({"upstreams": ["10.0.0.1:80"], "sticky": {"cookie": "a;b"}}), "no name"),
        (json!({"upstreams": ["10.0.0.1:80"], "sticky": {"cookie": "a", "secret": "short"}}), "16 bytes"),
        (json!({"upstreams": ["10.0.0.1:80"], "balance": "best"}), "unknown variant"),
        (json!({"upstreams": ["10.0.0.1:80"], "ballance": "best"}), "unknown field"),
    ] {
        let error = Testkit::<ReverseProxy>::try_new(config.clone()).err().map(|e| e.message).unwrap_or_default();
        assert!(error.contains(part), "{config}: {error}");
    }
}

#[test]
fn siphash_is_that_of_its_authors() {
    let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
    let bytes: Vec<u8> = (0..15).collect();
    assert_eq!(siphash(key, &bytes), 0xa129_ca61_49be_45e5);
    assert_eq!(siphash(key, &[]), 0x726f_db47_dd0e_0e31);
}
