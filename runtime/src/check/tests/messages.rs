//! Chains of messages.

use super::*;
use middlenet_plan::{BrokerPlan, HealthSettings, OnLoss, Protocol, Timeouts, Transport};
use middlenet_sdk::middlebox::{Interests, MiddleboxFunction};

/// A function that routes.
pub(super) struct Proxy;

/// Configuration of the proxy.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProxyConfig {
    upstreams: Vec<String>,
}

impl MiddleboxFunction for Proxy {
    type Config = ProxyConfig;
    const INTERESTS: Interests = Interests::REQUEST_HEAD;

    fn new(config: ProxyConfig, init: &mut Init) -> Result<Self, ConfigError> {
        config.upstreams.iter().try_for_each(|u| init.upstream(u).map(drop))?;
        Ok(Self)
    }
}

/// A function that does not.
pub(super) struct Rewrite;

impl MiddleboxFunction for Rewrite {
    type Config = Empty;
    const INTERESTS: Interests = Interests::REQUEST_HEAD;

    fn new(_: Empty, _: &mut Init) -> Result<Self, ConfigError> {
        Ok(Self)
    }
}

/// A manifest of one chain `web` with these keys, which start on line 5.
fn web(keys: &str) -> String {
    format!("name: edge\nchains:\n  web:\n    layer: l4l7\n{keys}")
}

/// One that listens and has an upstream, with these keys on line 7.
fn served(keys: &str) -> String {
    web(&format!("    listen: 10.1.0.1:80\n    upstreams: [10.2.0.10:80]\n{keys}"))
}

/// One with these functions, which start on line 8.
fn functions(entries: &str) -> String {
    served(&format!("    functions:\n{entries}"))
}

fn broker(plan: &Plan) -> &BrokerPlan {
    plan.broker.as_ref().unwrap()
}

#[test]
fn a_manifest_of_messages_needs_no_ports() {
    let plan = planned(&web(
        "    listen: [10.1.0.1:80, \"[::]:80\"]\n    functions:\n      - reverse-proxy: { upstreams: [10.2.0.10:80] }\n      - url-rewrite\n",
    ));
    assert!(plan.manager.is_none());
    assert_eq!(plan.drawn_chains()[0].lines, ["10.1.0.1:80 | [::]:80 -> reverse-proxy -> url-rewrite -> upstreams"]);
    let broker = broker(&plan);
    assert_eq!((broker.buffers, broker.workers.as_slice()), (4096, &[0][..]));
    let chain = &broker.chains[0];
    assert_eq!((chain.protocol, chain.timeouts, chain.upstreams.len()), (Protocol::Http, Timeouts::default(), 0));
    let hops: Vec<_> = broker.hops.iter().map(|h| (h.name.as_str(), h.transport, h.replicas, h.on_failure)).collect();
    let expected =
        [("reverse-proxy", Transport::Skmsg, 1, OnLoss::Retry), ("url-rewrite", Transport::Skmsg, 1, OnLoss::Retry)];
    assert_eq!(hops, expected);
    let processes: Vec<_> =
        plan.runtime.processes.iter().map(|p| (p.label.as_str(), p.hop.plane, p.hop.hop, p.cores[0])).collect();
    assert_eq!(processes, [("web/reverse-proxy", Plane::Messages, 0, 1), ("web/url-rewrite", Plane::Messages, 1, 1)]);
    assert_eq!(plan.runtime.notes, Vec::<String>::new());
}

#[test]
fn every_key_of_a_chain_reaches_the_broker() {
    let plan = planned(&served(
        "    protocol: http
    hop: ring
    timeouts: { connect_ms: 100, total_ms: 5000 }
    limits: { headers: 50, body_bytes: 1048576 }
    upstream: { retries: 1, health: { interval_ms: 1000, path: /health } }
    trusted_proxies: [10.0.0.0/8, \"::1\"]
    functions:
      - first: { use: url-rewrite, replicas: 2, on_failure: bypass, outputs: { direct: third } }
      - second: { use: url-rewrite, placement: inline }
      - third: { run: ./add-header, hop: skmsg, cores: [0] }
cores: { broker: [0, 1], functions: [1] }
memory: { messages: 512 }
",
    ));
    let broker = broker(&plan);
    let chain = &broker.chains[0];
    assert_eq!(chain.timeouts, Timeouts { connect_ms: 100, total_ms: 5000, ..Timeouts::default() });
    assert_eq!((chain.limits.headers, chain.limits.body_bytes, chain.limits.head_bytes), (50, 1 << 20, 8192));
    let health = HealthSettings { interval_ms: 1000, path: Some("/health".into()), ..HealthSettings::default() };
    assert_eq!((chain.upstream.retries, &chain.upstream.health), (1, &health));
    assert_eq!(chain.trusted_proxies, ["10.0.0.0/8", "::1/128"]);
    assert_eq!((broker.buffers, broker.workers.as_slice()), (512, &[0, 1][..]));
    let transports: Vec<_> = broker.hops.iter().map(|h| h.transport).collect();
    assert_eq!(transports, [Transport::Ring, Transport::Inline, Transport::Skmsg]);
    assert_eq!(broker.hops[0].outputs, [("direct".to_owned(), 2)]);
    assert_eq!((broker.hops[0].replicas, broker.hops[0].on_failure), (2, OnLoss::Bypass));
    let labels: Vec<_> = plan.runtime.processes.iter().map(|p| (p.label.as_str(), p.cores[0])).collect();
    assert_eq!(labels, [("web/first#0", 1), ("web/first#1", 1), ("web/third", 0)]);
    let lines = &plan.drawn_chains()[0].lines;
    assert_eq!(lines, &["10.1.0.1:80 -> first -> second -> third -> 10.2.0.10:80", "first.direct -> third"]);
}

#[test]
fn both_layers_share_a_manifest_and_the_first_core() {
    let plan = planned(&format!(
        "{TWO_PORTS}chains:\n  transit: {{ ports: [wan, lan], functions: [monitor] }}\n  web: {{ layer: l4l7, listen: \"0.0.0.0:80\", upstreams: [\"10.2.0.10:80\"], functions: [url-rewrite] }}\n"
    ));
    assert_eq!((packets(&plan).workers.as_slice(), broker(&plan).workers.as_slice()), (&[0][..], &[0][..]));
    assert!(packets(&plan).shares_core, "the broker must get the core while the manager idles");
    let hops: Vec<_> = plan.runtime.processes.iter().map(|p| (p.hop.plane, p.hop.hop)).collect();
    assert_eq!(hops, [(Plane::Packets, 0), (Plane::Messages, 0)]);
    assert_eq!(plan.summary(), "2 ports, 1 listener, 2 chains, 2 functions");
    let captured = plan_on(
        &format!("{TWO_PORTS}chains:\n  transit: {{ ports: [wan, lan], functions: [monitor] }}\n  web: {{ layer: l4l7, listen: \"0.0.0.0:80\", upstreams: [\"10.2.0.10:80\"] }}\n"),
        &host(2),
        &Traffic::Captures(Captures::default()),
    )
    .unwrap();
    assert!(captured.broker.is_none());
    assert_eq!(captured.runtime.notes, ["the chain `web` is of layer l4l7: captures do not reach it"]);
}

#[test]
fn listeners_that_cannot_be_are_refused() {
    let cases = [
        ("10.1.0.1", "5:13 `10.1.0.1` is no address with a port|add the port: `10.1.0.1:80`"),
        ("\"::1\"", "5:13 `::1` is no address with a port|add the port: `\"[::1]:80\"`"),
        ("\":80\"", "5:13 `:80` is no address with a port|for every address: `[0.0.0.0:80, \"[::]:80\"]`"),
        (
            "localhost:80",
            "5:13 `localhost:80` is no address with a port|names are not looked up: write an address, `10.1.0.1:80` or `\"[2001:db8::1]:80\"`",
        ),
        (
            "10.1.0.1:70000",
            "5:13 `10.1.0.1:70000` is no address with a port|write `10.1.0.1:80` or `\"[2001:db8::1]:80\"`; ports go up to 65535",
        ),
        ("80", "5:13 `listen`: expected a string or a list, found `80`|put it into quotes: \"80\""),
        ("[10.1.0.1:80, 10.1.0.1:80]", "5:27 `10.1.0.1:80` is in this chain twice|name it once"),
        ("[10.1.0.1:80, 0.0.0.0:80]", "5:27 `0.0.0.0:80` takes what comes to `10.1.0.1:80` as well|keep one of them"),
        ("[]", "5:13 the chain `web` listens nowhere|write `listen: 10.1.0.1:80`"),
    ];
    for (listen, expected) in cases {
        assert_eq!(errors(&web(&format!("    listen: {listen}\n    upstreams: [10.2.0.10:80]\n"))), [expected]);
    }
    let second = "  api: { layer: l4l7, listen: \"10.1.0.1:80\", upstreams: [\"10.2.0.11:80\"] }\n";
    let expected = "7:31 `10.1.0.1:80` belongs to the chain `web` already|an address with its port feeds one chain: use another port, or merge the chains";
    assert_eq!(errors(&served(second)), [expected]);
    let wide = planned(&served(&second.replace("10.1.0.1:80", "0.0.0.0:80")));
    let note = "connections to 10.1.0.1:80 go to the chain `web`, those to other addresses of that port to `api`";
    assert_eq!(wide.runtime.notes, [note]);
    // Each family has its own, and port 0 is another one each time.
    for free in ["[::]:80", "10.1.0.1:81"] {
        assert_eq!(errors(&served(&second.replace("10.1.0.1:80", free))), Vec::<String>::new());
    }
    assert_eq!(errors(&web("    listen: [127.0.0.1:0, 127.0.0.1:0]\n    upstreams: [10.2.0.10:80]\n")), [""; 0]);
}

#[test]
fn keys_of_the_other_layer_are_explained() {
    let found = errors(&format!(
        "{TWO_PORTS}chains:\n  transit: {{ ports: [wan, lan], functions: [reverse-proxy, url-rewrit] }}\n  web: {{ layer: l4l7, ports: [wan], listen: \"10.1.0.1:80\", functions: [monitor, {{ own: {{ run: ./ttl-clamp }} }}, url-rewrit] }}\n"
    ));
    let expected = [
        "6:45 `reverse-proxy` is a function of layer l4l7|use it in a chain with `layer: l4l7`",
        "6:60 unknown function `url-rewrit`|built in are `gate`, `monitor`, `apart`, `hybrid`, `odd`, `counting` or `forks`; for a binary of your own: `url-rewrit: { run: ./path }`",
        "7:23 `web` is of layer l4l7, which has no ports|say where it listens: `listen: 10.1.0.1:80`; packets of a port go to chains of `layer: l2l3`",
        "7:72 `monitor` is a function of layer l2l3|use it in a chain with `layer: l2l3`",
        "7:95 `./ttl-clamp` is a function of layer l2l3|use it in a chain with `layer: l2l3`",
        "7:112 unknown function `url-rewrit`|did you mean `url-rewrite`?",
    ];
    assert_eq!(found, expected);
    let cases = [
        (
            "on_failure: retry",
            "9:40 `retry` is for chains of layer l4l7|packets do not wait: `drop` them, or let them skip the function with `bypass`",
        ),
        (
            "hop: ring",
            "9:33 `hop` is for chains of layer l4l7|remove it: packets reach function processes through rings",
        ),
    ];
    for (option, expected) in cases {
        assert_eq!(errors(&chain_of(&format!("      - a: {{ use: monitor, {option} }}\n"))), [expected]);
    }
    let forgotten = "name: edge\nports: {}\nchains:\n  web:\n    listen: 10.1.0.1:80\n    functions: []\n";
    assert_eq!(errors(forgotten), ["5:5 `web` listens, but does not say that it is of layer l4l7|add `layer: l4l7`"]);
    let unknown = errors(&web("    listen: 10.1.0.1:80\n").replace("l4l7", "l7"));
    assert!(unknown.iter().any(|e| e.contains("`layer`: expected `l2l3` or `l4l7`, found `l7`")), "{unknown:#?}");
}

#[test]
fn functions_that_cannot_be_are_refused() {
    let cases = [
        (
            "      - a: { use: url-rewrite, placement: inline, replicas: 2 }\n",
            "8:61 replicas are processes, but this function is placed inline|add `placement: process`, or remove `replicas`",
        ),
        (
            "      - a: { use: url-rewrite, placement: inline, hop: ring }\n",
            "8:56 an inline function is called: no message travels to it|add `placement: process`, or remove `hop`",
        ),
        (
            "      - a: { use: url-rewrite, placement: inline, cores: [1] }\n",
            "8:58 an inline function runs on the broker's cores|add `placement: process`, or remove `cores`",
        ),
        (
            "      - a: { use: url-rewrite, hop: rings }\n",
            "8:37 `hop`: expected `skmsg` or `ring`, found `rings`|did you mean `ring`?",
        ),
        (
            "      - a: { use: url-rewrite }\n      - b: { use: url-rewrite, outputs: { back: a } }\n",
            "9:49 the output `back` leads to `a`, which is not further down the chain|it is the last function of its chain: no output can lead on",
        ),
        (
            "      - a: { use: url-rewrite, outputs: { away: drop } }\n      - b: { use: url-rewrite }\n",
            "8:49 the output `away` leads to `drop`, which is no function of the chain `web`|it can lead to `b`",
        ),
        (
            "      - reverse-proxy: { upstreams: [10.2.0.10:80, web:80] }\n",
            "8:52 `reverse-proxy`: `web:80` is not an address and port|write `10.0.0.1:80` or `[2001:db8::1]:80`; names are not looked up",
        ),
        (
            "      - url-rewrite: { hop: ring }\n",
            "8:24 `url-rewrite`: unknown key `hop`|`hop` stands beside the configuration: `url-rewrite: { config: { ... }, hop: ... }`",
        ),
    ];
    for (entries, expected) in cases {
        assert_eq!(errors(&functions(entries)), [expected]);
    }
    let many: String = (0..16).map(|i| format!("      - f{i}: {{ use: url-rewrite }}\n")).collect();
    assert_eq!(errors(&functions(&many)), ["3:3 16 functions, but a chain of layer l4l7 has at most 15|"]);
    let replicas: String = (0..15).map(|i| format!("      - f{i}: {{ use: url-rewrite, replicas: 16 }}\n")).collect();
    let two = functions(&replicas)
        + &functions(&replicas).split_once("chains:\n").unwrap().1.replace("web", "api").replace(":80", ":81");
    let found = errors(&two);
    assert_eq!(
        found,
        [
            "2:1 481 broker workers and function instances on skmsg, but a run has at most 250|put some on rings: `hop: ring`"
        ]
    );
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let cases = [
        ("timeouts: { connect: 3 }", "7:17 unknown key `connect` in `timeouts`|did you mean `connect_ms`?"),
        ("timeouts: { idle_ms: 86400001 }", "7:26 `idle_ms`: 86400001 is above the largest value, 86400000|"),
        ("limits: { head_bytes: 16384 }", "7:27 `head_bytes`: 16384 is above the largest value, 8192|"),
        ("limits: { headers: 0 }", "7:24 `headers`: 0 is below the least value, 1|"),
        ("upstream: { health: { fall: 0 } }", "7:33 `fall`: 0 is below the least value, 1|"),
        (
            "upstream: { health: { interval_ms: 9, path: health } }",
            "7:49 `health` cannot be the path of a request|write `path: /health`",
        ),
        (
            "upstream: { health: { path: /up } }",
            "7:33 a health check with a path, but no interval: no check is made|add `interval_ms: 1000`, or remove `path`",
        ),
        (
            "trusted_proxies: [10.0.0.0/33]",
            "7:23 `10.0.0.0/33` is no prefix of addresses|write `10.0.0.0/8`, `fd00::/8` or a single address",
        ),
        ("protocol: https", "7:15 `protocol`: expected `http` or `tcp`, found `https`|did you mean `http`?"),
    ];
    for (key, expected) in cases {
        assert_eq!(errors(&served(&format!("    {key}\n"))), [expected]);
    }
    let tcp = served(
        "    protocol: tcp\n    trusted_proxies: [10.0.0.0/8]\n    upstream: { health: { interval_ms: 9, path: / } }\n",
    );
    let expected = [
        "8:22 a chain of `protocol: tcp` reads no `X-Forwarded-*` headers|remove `trusted_proxies`",
        "9:49 a health check with a path speaks HTTP, but the chain is of `protocol: tcp`|remove `path`: that a connection succeeds is the check",
    ];
    assert_eq!(errors(&tcp), expected);
    let cases = [
        (
            "[web:80]",
            "6:17 `web:80` is not an address and port|write `10.0.0.1:80` or `\"[2001:db8::1]:80\"`; names are not looked up",
        ),
        ("[10.2.0.10:80, 10.2.0.10:80]", "6:31 the upstream `10.2.0.10:80` is there twice|name it once"),
        ("[0.0.0.0:80]", "6:17 `0.0.0.0:80` is nowhere to connect to|write the address and port of a server"),
        (
            "[]",
            "3:3 the chain `web` has nowhere to send requests to|add `upstreams: [10.2.0.10:80]`, or a function that routes or answers",
        ),
    ];
    for (upstreams, expected) in cases {
        assert_eq!(errors(&web(&format!("    listen: 10.1.0.1:80\n    upstreams: {upstreams}\n"))), [expected]);
    }
    let unrouted = planned(&web("    listen: 10.1.0.1:80\n    functions: [url-rewrite]\n"));
    assert!(
        unrouted.runtime.notes[0].contains("no function of the chain `web` routes"),
        "{:?}",
        unrouted.runtime.notes
    );
}

#[test]
fn a_function_that_a_protocol_never_calls_is_noted() {
    let plan = planned(&functions("      - url-rewrite\n    protocol: tcp\n"));
    let note = "`web/url-rewrite` wants no message that a chain of `protocol: tcp` has: it is never called";
    assert_eq!(plan.runtime.notes, [note]);
    assert_eq!(planned(&functions("      - url-rewrite\n")).runtime.notes, Vec::<String>::new());
}

#[test]
fn memory_and_cores_of_the_broker_are_checked() {
    let cases = [
        (
            "memory: { messages: 63 }",
            "7:21 63 message buffers are too few|1 worker needs at least 64: write `messages: 64`",
        ),
        (
            "memory: { messages: 1000000 }",
            "7:21 15625 MiB of buffers, but the host has 8192 MiB free|ask for fewer: `messages: 4096` is enough for most",
        ),
        (
            "memory: { hugepages: require }",
            "7:22 the buffers need 32 pages of 2 MiB, but the host has 0 free|`echo 64 > /proc/sys/vm/nr_hugepages`, or write `hugepages: auto`",
        ),
        ("cores: { broker: [0, 0] }", "7:18 core 0 has two workers|name each core once"),
        ("cores: { broker: [2] }", "7:18 core 2 is not there|this host has cores 0-1"),
    ];
    for (line, expected) in cases {
        assert_eq!(errors(&served(&format!("{line}\n"))), [expected]);
    }
}

#[test]
fn differences_of_message_chains_are_told_apart() {
    let source = functions("      - reverse-proxy: { upstreams: [10.2.0.10:80] }\n      - url-rewrite\n");
    let old = planned(&source);
    let between = |new: String| Difference::between(&old, &planned(&new));
    assert_eq!(between(source.clone()), Difference::default());
    let live = between(source.replace("{ upstreams: [10.2.0.10:80]", "{ upstreams: [10.2.0.11:80]"));
    assert_eq!(live.structural, Vec::<String>::new());
    assert_eq!(live.changes[0].label, "web/reverse-proxy");
    assert!(matches!(&live.changes[0].piece, Piece::Config { hop, .. } if hop.plane == Plane::Messages));
    let structural = between(
        source
            .replace("listen: 10.1.0.1:80", "listen: 10.1.0.1:81")
            .replace("- url-rewrite", "- r: { use: url-rewrite }"),
    );
    let expected = [
        "chain `web` would be made differently",
        "function `web/url-rewrite` would go",
        "function `web/r` would be new",
    ];
    assert_eq!(structural.structural, expected);
    let both = between(format!(
        "{source}  transit: {{ ports: [wan], functions: [] }}\nports: {{ wan: {{ dpdk: net_null0 }} }}\nmemory: {{ messages: 64 }}\n"
    ));
    assert_eq!(both.structural, ["chains of layer l2l3 would be new", "memory.messages: 4096 would become 64"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever one character is changed into, the manifest is planned or refused.
    #[test]
    fn any_change_of_a_message_chain_is_planned_or_refused(at in 0usize..500, cut in 0usize..12, with in "[a-z0-9:./\\[\\]{}\n -]{0,4}") {
        let mut source = functions(
            "      - reverse-proxy: { upstreams: [10.2.0.10:80] }\n      - m: { use: url-rewrite, outputs: { x: n }, replicas: 2, hop: ring }\n      - n: { use: url-rewrite, on_failure: drop }\n    timeouts: { idle_ms: 5 }\n    trusted_proxies: [10.0.0.0/8]\n",
        );
        let at = at.min(source.len());
        let end = (at + cut).min(source.len());
        source.replace_range(at..end, &with);
        if let Err(problems) = plan_on(&source, &host(2), &Traffic::Ports) {
            prop_assert!(!problems.is_empty());
            Refusal::new("m.yaml", source.as_str(), problems).plain();
        }
    }
}
