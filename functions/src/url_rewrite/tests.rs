use super::*;
use middlenet_sdk::middlebox::testkit::Testkit;
use proptest::prelude::*;
use serde_json::{Value, json};

fn kit(rules: Value) -> Testkit<UrlRewrite> {
    Testkit::new(json!({ "rules": rules }))
}

fn get(kit: &mut Testkit<UrlRewrite>, target: &str) -> (Verdict, String) {
    let outcome = kit.request(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
    (outcome.verdict, outcome.target)
}

fn target(kit: &mut Testkit<UrlRewrite>, from: &str) -> String {
    let (verdict, target) = get(kit, from);
    assert_eq!(verdict, Verdict::Next, "{from}");
    target
}

fn error(rules: Value) -> String {
    match Testkit::<UrlRewrite>::try_new(json!({ "rules": rules })) {
        Ok(_) => panic!("was accepted: {rules}"),
        Err(e) => e.message,
    }
}

#[test]
fn a_pattern_with_a_group() {
    let mut kit = kit(json!([{ "match": "^/old/(.*)$", "to": "/new/$1" }]));
    assert_eq!(target(&mut kit, "/old/a/b"), "/new/a/b");
    assert_eq!(target(&mut kit, "/old/a?q=1&r=/old/"), "/new/a?q=1&r=/old/");
    assert_eq!(target(&mut kit, "/older/a"), "/older/a");
    assert_eq!(target(&mut kit, "/x/../old/a"), "/new/a", "the canonical path is matched");
    assert_eq!(target(&mut kit, "/%6fld//a"), "/new/a");
    assert_eq!((kit.counter("rewritten"), kit.counter("unmatched")), (4, 1));
}

#[test]
fn groups_by_number_and_name() {
    let mut kit = kit(json!([{ "match": "^/(?P<user>[^/]+)/(\\d+)(x)?$", "to": "/u/${2}a/$user/$$$3" }]));
    assert_eq!(target(&mut kit, "/eve/12"), "/u/12a/eve/$");
    assert_eq!(target(&mut kit, "/eve/12x"), "/u/12a/eve/$x");
}

#[test]
fn a_pattern_that_is_not_anchored_is_searched_for() {
    let mut kit = kit(json!([{ "match": "x(.*)", "to": "/$1" }]));
    assert_eq!(target(&mut kit, "/a/b"), "/a/b");
    assert_eq!(target(&mut kit, "/axb"), "/b");
}

#[test]
fn a_prefix_is_whole_segments() {
    let mut kit = kit(json!([
        { "prefix": "/a", "to": "/b" }, { "prefix": "/c/", "to": "/d" }, { "prefix": "/e", "to": "/" }
    ]));
    for (from, to) in [
        ("/a", "/b"),
        ("/a/x", "/b/x"),
        ("/ab", "/ab"),
        ("/a?x=/a", "/b?x=/a"),
        ("/c/x", "/d/x"),
        ("/c/", "/d"),
        ("/c", "/c"),
        ("/e/x?y", "/x?y"),
        ("/e", "/"),
    ] {
        assert_eq!(target(&mut kit, from), to, "{from}");
    }
}

#[test]
fn the_first_match_decides_unless_it_continues() {
    let mut first = kit(json!([{ "prefix": "/a", "to": "/b" }, { "prefix": "/b", "to": "/c" }]));
    assert_eq!(target(&mut first, "/a/x"), "/b/x");
    let mut on = kit(json!([
        { "prefix": "/a", "to": "/b", "continue": true }, { "match": "^/b/(.)$", "to": "/c?$1" }, { "prefix": "/c", "to": "/d" }
    ]));
    assert_eq!(target(&mut on, "/a/x?q"), "/c?x");
    assert_eq!(target(&mut on, "/a/xx?q"), "/b/xx?q");
    assert_eq!(on.counter("rewritten"), 2);
}

#[test]
fn the_query_is_kept_replaced_or_dropped() {
    let mut kit = kit(json!([
        { "match": "^/keep$", "to": "/k" }, { "match": "^/own$", "to": "/o?x=1" }, { "match": "^/drop$", "to": "/d?" }
    ]));
    assert_eq!(target(&mut kit, "/keep?a=b"), "/k?a=b");
    assert_eq!(target(&mut kit, "/own?a=b"), "/o?x=1");
    assert_eq!(target(&mut kit, "/drop?a=b"), "/d");
    let rules = json!([{ "match": "^/item\\?id=(\\d+)$", "to": "/items/$1" }, { "prefix": "/p", "to": "/q" }]);
    let mut with_query = Testkit::<UrlRewrite>::new(json!({ "rules": rules, "with_query": true }));
    assert_eq!(target(&mut with_query, "/item?id=7"), "/items/7");
    assert_eq!(target(&mut with_query, "/item?id=x"), "/item?id=x");
    assert_eq!(target(&mut with_query, "/p?id=x"), "/q?id=x");
}

#[test]
fn redirects() {
    let mut kit = kit(json!([
        { "match": "^/moved(.*)$", "to": "/$1", "redirect": 301 },
        { "match": "^/blog/(.*)$", "to": "https://blog.example/$1", "redirect": 308 },
        { "match": "^/(.*)/$", "to": "/$1/", "redirect": 302 }
    ]));
    let expect = |status, location: &str| Verdict::Respond(Answer::redirect(status, location));
    assert_eq!(get(&mut kit, "/moved/a?b=c").0, expect(301, "/a?b=c"));
    assert_eq!(get(&mut kit, "/moved/evil.example").0, expect(301, "/evil.example"), "no URL without a scheme");
    assert_eq!(get(&mut kit, "/blog/x?y").0, expect(308, "https://blog.example/x?y"));
    assert_eq!(get(&mut kit, "/loop/").0, Verdict::Next, "to itself");
    assert_eq!((kit.counter("redirected"), kit.counter("unmatched")), (3, 1));
}

#[test]
fn a_result_that_climbs_is_refused() {
    let mut kit = kit(json!([{ "match": "^/x(.*)$", "to": "/.$1/y" }]));
    assert!(matches!(get(&mut kit, "/x.").0, Verdict::Respond(answer) if answer.status() == 400));
    assert!(matches!(get(&mut kit, "/x").0, Verdict::Respond(answer) if answer.status() == 400));
    assert_eq!(target(&mut kit, "/x..."), "/..../y");
    assert_eq!(kit.counter("refused"), 2);
}

#[test]
fn results_do_not_grow_without_bound() {
    let double = json!({ "match": "^(.*)$", "to": "$1$1", "continue": true });
    let mut kit = kit(json!(vec![double; 1000]));
    assert!(matches!(get(&mut kit, "/12345678901234567890").0, Verdict::Respond(answer) if answer.status() == 400));
    assert_eq!(kit.counter("refused"), 1);
}

#[test]
fn encodings_of_the_configuration_are_made_canonical() {
    let mut kit = kit(json!([{ "prefix": "/a", "to": "/caf%c3%a9%2dx" }]));
    assert_eq!(target(&mut kit, "/a/b"), "/caf%C3%A9-x/b");
}

#[test]
fn what_has_no_path_passes() {
    let mut kit = kit(json!([{ "match": ".*", "to": "/x" }]));
    let outcome = kit.request("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((outcome.verdict, outcome.target.as_str()), (Verdict::Next, "*"));
}

#[test]
fn mistakes_are_told() {
    for (rules, part) in [
        (json!([]), "0 rules"),
        (json!([{ "to": "/x" }]), "rule 1: needs either"),
        (json!([{ "match": "a", "prefix": "/a", "to": "/x" }]), "needs either"),
        (json!([{ "match": "(", "to": "/x" }]), "rule 1: `match`"),
        (json!([{ "match": "(a{999}){999}", "to": "/x" }]), "size limit"),
        (json!([{ "match": "(a)", "to": "/$2" }]), "the group `2`"),
        (json!([{ "match": "(a)", "to": "/$1x" }]), "the group `1x`"),
        (json!([{ "match": "(a)", "to": "/${1" }]), "without `}`"),
        (json!([{ "match": "a", "to": "x" }]), "does not begin with a slash"),
        (json!([{ "match": "a", "to": "" }]), "is empty"),
        (json!([{ "match": "a", "to": "/a b" }]), "may not stand"),
        (json!([{ "match": "a", "to": "/%zz" }]), "percent"),
        (json!([{ "match": "(a)", "to": "/%2$1" }]), "percent"),
        (json!([{ "match": "a", "to": "http://b/" }]), "only a redirect"),
        (json!([{ "match": "(a)", "to": "http://$1/", "redirect": 301 }]), "no group may be part of the host"),
        (json!([{ "match": "(a)", "to": "http://b$1/", "redirect": 301 }]), "no group may be part of the host"),
        (json!([{ "match": "a", "to": "/b", "redirect": 200 }]), "is no redirect"),
        (json!([{ "match": "a", "to": "/b", "redirect": 301, "continue": true }]), "cannot `continue`"),
        (json!([{ "prefix": "a", "to": "/b" }]), "does not begin with a slash"),
        (json!([{ "prefix": "/a", "to": "/b?c" }]), "has a query"),
        (json!([{ "match": "a", "to": "/b", "flags": 1 }]), "unknown field"),
    ] {
        let error = error(rules.clone());
        assert!(error.contains(part), "{rules}: {error}");
    }
}

proptest! {
    /// The pattern that takes no engine gives what the engine gives.
    #[test]
    fn the_short_way_is_the_long_way(literal in "/[ab]{0,2}", end in "\\$?", path in "(/[ab]{0,3}){1,3}(\\?[ab/]{0,3})?", with_query: bool) {
        let config = |pattern: String| json!({
            "rules": [{ "match": pattern, "to": "/new/$1" }, { "match": "^/a", "to": "/$0" }], "with_query": with_query
        });
        let mut short = Testkit::<UrlRewrite>::new(config(format!("^{literal}(.*){end}")));
        let mut long = Testkit::<UrlRewrite>::new(config(format!("^(?:{literal})(.*){end}")));
        prop_assert_eq!(get(&mut short, &path), get(&mut long, &path));
    }

    /// Whatever is asked for, what goes on is canonical.
    #[test]
    fn results_are_canonical(path in "(/[a-z.%0-9;]{0,4}){1,5}", to in "/?[a.$1/]{0,8}") {
        let rules = json!([{ "match": "^/([^/]*)(.*)", "to": to }]);
        let Ok(mut kit) = Testkit::<UrlRewrite>::try_new(json!({ "rules": rules })) else { return Ok(()) };
        if canonical_target(path.as_bytes(), &mut Vec::new()).is_err() { return Ok(()) }
        let (verdict, target) = get(&mut kit, &path);
        if verdict == Verdict::Next {
            prop_assert_eq!(canonical_target(target.as_bytes(), &mut Vec::new()), Ok(false), "{}", target);
        }
    }
}
