use super::*;
use middlenet_sdk::middlebox::testkit::{Outcome, Testkit};
use proptest::prelude::*;
use serde_json::{Value, json};

fn request(edits: Value, headers: &str) -> Outcome {
    let mut kit = Testkit::<HeaderEdit>::new(json!({ "request": edits }));
    let seen = kit.request(format!("GET /p?q HTTP/1.1\r\nHost: a.example\r\n{headers}\r\n"));
    assert_eq!((seen.verdict.clone(), kit.counter("requests")), (Verdict::Next, 1));
    seen
}

fn names(outcome: &Outcome) -> Vec<&str> {
    outcome.headers.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn edits_are_made_in_order() {
    let edits = json!([
        {"remove_prefix": "X-Internal-"}, {"remove": "server"}, {"set": {"name": "A", "value": "1"}},
        {"add": {"name": "a", "value": "2"}}, {"add": {"name": "B", "value": "$header(a)"}}
    ]);
    let seen =
        request(edits, "x-internal-a: 1\r\nX-INTERNAL-: 2\r\nx-internals: 3\r\nSERVER: 4\r\nserver: 5\r\na: 6\r\n");
    assert_eq!(names(&seen), ["Host", "x-internals", "a", "a", "B"]);
    assert_eq!(seen.header("a"), Some("1"));
    assert_eq!(seen.header("b"), Some("1"));
}

#[test]
fn variables() {
    let value = |text: &str| {
        let seen = request(json!([{"set": {"name": "v", "value": text}}]), "x-a: b c\r\n");
        seen.header("v").map(str::to_owned)
    };
    assert_eq!(value("$client_ip:$client_port").as_deref(), Some("192.0.2.1:40000"));
    assert_eq!(value("$host$path").as_deref(), Some("a.example/p"));
    assert_eq!(value("<$header(X-A)>$$").as_deref(), Some("<b c>$"));
    assert_eq!(value("$request_id").as_deref(), Some("0000000000000001"));
    assert_eq!(value(" $header(none) x ").as_deref(), Some("x"), "no white space at the ends");
    assert_eq!(value("$header(none)"), None);
    assert_eq!(value("").as_deref(), None);
}

#[test]
fn a_value_that_is_empty_removes() {
    let seen = request(
        json!([{"set": {"name": "x-a", "value": "$header(none)"}}, {"add": {"name": "b", "value": ""}}]),
        "x-a: 1\r\n",
    );
    assert_eq!(names(&seen), ["Host"]);
}

#[test]
fn responses_are_edited_alone() {
    let mut kit = Testkit::<HeaderEdit>::new(json!({"response": [
        {"remove": "Server"}, {"set": {"name": "X-Request-ID", "value": "$request_id"}}
    ]}));
    kit.request("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let seen = kit.response("HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(names(&seen), ["Content-Length", "X-Request-ID"]);
    assert_eq!(kit.counter("responses"), 1);
    let interests =
        |config| HeaderEdit::new(serde_json::from_value(config).unwrap(), &mut Init::default()).unwrap().interests();
    assert_eq!(interests(json!({"response": [{"remove": "a"}]})), Interests::RESPONSE_HEAD);
    assert_eq!(interests(json!({"request": [{"remove": "a"}]})), Interests::REQUEST_HEAD);
}

#[test]
fn host_and_framing_stay_whatever_the_prefix() {
    let seen = request(json!([{"remove_prefix": "h"}, {"remove_prefix": "c"}]), "cookie: a\r\nContent-Length: 0\r\n");
    assert_eq!(names(&seen), ["Host", "Content-Length"]);
}

#[test]
fn too_much_is_told_to_the_broker() {
    let edits: Vec<Value> =
        (0..5).map(|n| json!({"add": {"name": format!("n{n}"), "value": "x".repeat(4000)}})).collect();
    assert!(request(json!(edits), "").no_room);
}

#[test]
fn mistakes_are_told() {
    let request = |edit: Value| json!({ "request": [edit] });
    for (config, part) in [
        (json!({}), "nothing to edit"),
        (
            request(json!({"set": {"name": "Content-Length", "value": "1"}})),
            "request, edit 1: `Content-Length` is written by the broker",
        ),
        (request(json!({"remove": "transfer-encoding"})), "written by the broker"),
        (request(json!({"remove": "Host"})), "needs its `Host`"),
        (request(json!({"add": {"name": "Host", "value": "b"}})), "one `Host`"),
        (request(json!({"remove": ""})), "no name"),
        (request(json!({"remove_prefix": ""})), "no name"),
        (request(json!({"set": {"name": "a:", "value": "b"}})), "no name"),
        (request(json!({"set": {"name": "a", "value": "b\r\nc: d"}})), "control byte"),
        (request(json!({"set": {"name": "a", "value": "$nobody"}})), "`$nobody`"),
        (request(json!({"set": {"name": "a", "value": "$header(b"}})), "without a name"),
        (request(json!({"set": {"name": "a", "value": "$header(b c)"}})), "no name"),
        (json!({"response": [{"set": {"name": "a", "value": "$path"}}]}), "a response does not have"),
        (request(json!({"replace": "a"})), "unknown variant"),
        (request(json!({"set": {"name": "a", "value": "b", "if": 1}})), "unknown field"),
    ] {
        let error = Testkit::<HeaderEdit>::try_new(config.clone()).err().map(|e| e.message).unwrap_or_default();
        assert!(error.contains(part), "{config}: {error}");
    }
}

proptest! {
    /// Any sequence of edits does to a message what it does to a list.
    #[test]
    fn edits_are_those_of_a_list(
        headers in proptest::collection::vec(("[a-c]{1,2}", "[x-z]{1,3}"), 0..8),
        edits in proptest::collection::vec((0..4u8, "[a-cA-C]{1,2}", "[x-z]{1,3}"), 1..8),
    ) {
        let mut model: Vec<(String, String)> = vec![("Host".into(), "a.example".into())];
        model.extend(headers.iter().cloned());
        let text: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let mut configs = Vec::new();
        for (kind, name, value) in edits {
            let same = |n: &str| n.eq_ignore_ascii_case(&name);
            match kind {
                0 => {
                    let at = model.iter().position(|(n, _)| same(n));
                    let kept = at.map(|at| model[at].0.clone());
                    let mut index = 0;
                    model.retain(|(n, _)| { index += 1; !same(n) || Some(index - 1) == at });
                    match at {
                        Some(at) => model[at] = (kept.unwrap_or_default(), value.clone()),
                        None => model.push((name.clone(), value.clone())),
                    }
                    configs.push(json!({"set": {"name": name, "value": value}}));
                }
                1 => {
                    model.push((name.clone(), value.clone()));
                    configs.push(json!({"add": {"name": name, "value": value}}));
                }
                2 => {
                    model.retain(|(n, _)| !same(n));
                    configs.push(json!({"remove": name}));
                }
                _ => {
                    model.retain(|(n, _)| !n.to_ascii_lowercase().starts_with(&name.to_ascii_lowercase()));
                    configs.push(json!({"remove_prefix": name}));
                }
            }
        }
        prop_assert_eq!(request(json!(configs), &text).headers, model);
    }
}
