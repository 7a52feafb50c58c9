use super::*;
use middlenet_sdk::middlebox::testkit::Testkit;
use proptest::prelude::*;
use serde_json::Map;

fn kit(rules: Value) -> Testkit<Router> {
    Testkit::new(json!({ "rules": rules }))
}

/// A rule that answers with its number, so that a test sees which one matched.
fn numbered(rules: &[Value]) -> Value {
    let number = |(at, rule): (usize, &Value)| {
        let mut rule = rule.as_object().cloned().unwrap_or_default();
        rule.insert("respond".into(), json!({"status": 200, "body": at.to_string()}));
        Value::Object(rule)
    };
    rules.iter().enumerate().map(number).collect()
}

fn ask(kit: &mut Testkit<Router>, method: &str, host: &str, target: &str, headers: &str) -> Option<usize> {
    match kit.request(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n")).verdict {
        Verdict::Respond(answer) => Some(str::from_utf8(answer.body()).unwrap().parse().unwrap()),
        Verdict::Next => None,
        other => panic!("{other:?}"),
    }
}

fn get(kit: &mut Testkit<Router>, host: &str, target: &str) -> Option<usize> {
    ask(kit, "GET", host, target, "")
}

#[test]
fn hosts() {
    let mut kit = kit(numbered(&[
        json!({"host": "a.example"}),
        json!({"host": ["*.a.example", "b.example"]}),
        json!({"host": "*.example"}),
        json!({"host": "[::1]"}),
    ]));
    for (host, rule) in [
        ("a.example", Some(0)),
        ("A.Example.:8080", Some(0)),
        ("x.a.example", Some(1)),
        ("x.y.a.example", Some(1)),
        ("b.example", Some(1)),
        ("xa.example", Some(2)),
        ("example", None),
        (".example", None),
        ("[::1]:80", Some(3)),
        ("other.test", None),
    ] {
        assert_eq!(get(&mut kit, host, "/"), rule, "{host}");
    }
}

#[test]
fn paths() {
    let mut kit = kit(numbered(&[
        json!({"path": "/a/b"}),
        json!({"regex": "^/user/[0-9]+$"}),
        json!({"prefix": "/a/"}),
        json!({"prefix": "/a"}),
        json!({"prefix": "/user"}),
    ]));
    for (target, rule) in [
        ("/a/b", Some(0)),
        ("/a/b?c", Some(0)),
        ("/x/../a//b", Some(0)),
        ("/a/b/", Some(2)),
        ("/a", Some(3)),
        ("/ab", None),
        ("/user/12", Some(1)),
        ("/user/x", Some(4)),
        ("/", None),
    ] {
        assert_eq!(get(&mut kit, "h", target), rule, "{target}");
    }
}

#[test]
fn methods_headers_and_queries() {
    let mut kit = kit(numbered(&[
        json!({"method": ["PUT", "PURGE"]}),
        json!({"headers": [{"name": "X-Env", "value": "beta"}, {"name": "X-No", "absent": true}]}),
        json!({"headers": [{"name": "X-Env", "regex": "^dev-"}]}),
        json!({"query": [{"name": "debug"}, {"name": "v", "value": "2"}]}),
        json!({"headers": [{"name": "x-any"}]}),
    ]));
    for (method, target, headers, rule) in [
        ("PUT", "/", "", Some(0)),
        ("PURGE", "/", "", Some(0)),
        ("GET", "/", "", None),
        ("GET", "/", "x-env: prod\r\nx-env: beta\r\n", Some(1)),
        ("GET", "/", "x-env: beta\r\nx-no: 1\r\n", None),
        ("GET", "/", "x-env: dev-7\r\n", Some(2)),
        ("GET", "/?v=2&debug", "", Some(3)),
        ("GET", "/?v=2&debug=1&v=3", "", Some(3)),
        ("GET", "/?v=22&debug", "", None),
        ("GET", "/?debug", "X-Any:\r\n", Some(4)),
    ] {
        assert_eq!(ask(&mut kit, method, "h", target, headers), rule, "{method} {target} {headers}");
    }
}

#[test]
fn targets() {
    let config = json!({
        "rules": [
            {"path": "/one", "upstream": "10.0.0.1:80"},
            {"path": "/many", "upstreams": ["10.0.0.2:80", {"address": "10.0.0.1:80", "weight": 2}]},
            {"path": "/out", "output": "cache"},
        ],
        "default": {"respond": {"status": 404}}
    });
    let mut kit = Testkit::<Router>::with_outputs(config, &["other", "cache"]).unwrap();
    let mut verdict = |path: &str| kit.request(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")).verdict;
    assert_eq!(verdict("/one"), Verdict::Route(Upstream(0)));
    assert_eq!([0; 3].map(|_| verdict("/many")), [0, 1, 0].map(|n| Verdict::Route(Upstream(n))));
    assert_eq!(verdict("/out"), Verdict::Output(Output(1)));
    assert_eq!(verdict("/else"), Verdict::Respond(Answer::new(404)));
    assert_eq!(kit.upstreams(), ["10.0.0.1:80", "10.0.0.2:80"]);
    kit.set_upstream(0, false, 0);
    kit.request("GET /one HTTP/1.1\r\nHost: h\r\n\r\n");
    let counters = ["routed", "outputs", "responded", "unmatched", "failed-open"].map(|name| kit.counter(name));
    assert_eq!(counters, [5, 1, 1, 1, 1]);
    assert_eq!(kit.report()["most_matched"][0], json!({"rule": 2, "matches": 3}));
}

#[test]
fn a_large_table_is_not_scanned() {
    let rules: Vec<Value> = (0..2000).map(|n| json!({"host": format!("h{n}.example"), "prefix": "/x"})).collect();
    let config: Config = serde_json::from_value(json!({ "rules": numbered(&rules) })).unwrap();
    let mut table = Table::default();
    for (at, rule) in config.rules.iter().enumerate() {
        table.add(at as u32, rule, "").unwrap();
    }
    let asked = std::cell::Cell::new(0);
    let first = |host: &str| {
        table.first(host.as_bytes(), b"/x/y", |_| {
            asked.set(asked.get() + 1);
            true
        })
    };
    assert_eq!(first("h1999.example"), Some(1999));
    assert_eq!(first("h2000.example"), None);
    assert_eq!(asked.get(), 1);
}

#[test]
fn mistakes_are_told() {
    let rule = |rule: Value| json!({ "rules": [rule] });
    let ok = json!({"status": 200});
    for (config, part) in [
        (json!({"rules": []}), "neither a rule"),
        (rule(json!({"path": "/"})), "rule 1: needs exactly one"),
        (rule(json!({"respond": ok, "upstream": "10.0.0.1:80"})), "needs exactly one"),
        (json!({"rules": [], "default": {}}), "default: needs exactly one"),
        (rule(json!({"output": "cache"})), "`cache` is not connected"),
        (rule(json!({"upstream": "host:80"})), "rule 1: `host:80`"),
        (rule(json!({"upstreams": []})), "no upstream"),
        (rule(json!({"respond": {"status": 100}})), "no status"),
        (rule(json!({"path": "a", "respond": ok})), "no path"),
        (rule(json!({"path": "/a?b", "respond": ok})), "no path"),
        (rule(json!({"prefix": "/a/../b", "respond": ok})), "not how paths"),
        (rule(json!({"path": "/a", "regex": "b", "respond": ok})), "more than one of"),
        (rule(json!({"regex": "(", "respond": ok})), "`regex`"),
        (rule(json!({"host": "a b", "respond": ok})), "no host"),
        (rule(json!({"host": "a:80", "respond": ok})), "no host"),
        (rule(json!({"host": 7, "respond": ok})), "a text or a list"),
        (rule(json!({"method": "get", "respond": ok})), "lower-case"),
        (rule(json!({"headers": [{"name": "a", "value": "b", "absent": true}], "respond": ok})), "more than one of"),
        (rule(json!({"query": [{"name": ""}], "respond": ok})), "needs a name"),
        (rule(json!({"paht": "/", "respond": ok})), "unknown field"),
    ] {
        let error = Testkit::<Router>::try_new(config.clone()).err().map(|e| e.message).unwrap_or_default();
        assert!(error.contains(part), "{config}: {error}");
    }
}

/// A rule's conditions compared one after the other.
fn naive(rule: &Map<String, Value>, host: &str, path: &str, method: &str) -> bool {
    let text = |name: &str| rule.get(name).and_then(Value::as_str);
    let host_good = text("host").is_none_or(|wanted| match wanted.strip_prefix('*') {
        Some(dotted) => host.len() > dotted.len() && host.ends_with(dotted),
        None => host == wanted,
    });
    let prefix_good = text("prefix").is_none_or(|prefix| {
        let rest = path.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
    });
    host_good && prefix_good && text("path").is_none_or(|p| p == path) && text("method").is_none_or(|m| m == method)
}

proptest! {
    /// The table finds what a scan finds.
    #[test]
    fn the_first_match_is_found(
        rules in proptest::collection::vec((
            proptest::option::of("(\\*\\.)?([ab]\\.){0,2}[ab]"),
            0..3u8, "(/[ab]{1,2}){1,3}/?", proptest::option::of("GET|PUT"),
        ), 0..12),
        requests in proptest::collection::vec(("([ab]\\.){0,3}[ab]", "(/[ab]{1,2}){1,3}/?", "GET|PUT"), 1..20),
    ) {
        let rules: Vec<Value> = rules.into_iter().map(|(host, kind, path, method)| {
            let mut rule = Map::new();
            host.map(|host| rule.insert("host".into(), host.into()));
            method.map(|method| rule.insert("method".into(), method.into()));
            match kind {
                0 => drop(rule.insert("path".into(), path.into())),
                1 => drop(rule.insert("prefix".into(), path.into())),
                _ => {}
            }
            Value::Object(rule)
        }).collect();
        let config = json!({"rules": numbered(&rules), "default": {"upstream": "10.0.0.1:80"}});
        let mut kit = Testkit::<Router>::new(config);
        for (host, path, method) in requests {
            let expected = rules.iter().position(|rule| naive(rule.as_object().unwrap(), &host, &path, &method));
            let verdict = kit.request(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).verdict;
            let found = match verdict {
                Verdict::Respond(answer) => Some(str::from_utf8(answer.body()).unwrap().parse::<usize>().unwrap()),
                _ => None,
            };
            prop_assert_eq!(found, expected, "{} {} {}", method, host, path);
        }
    }
}
