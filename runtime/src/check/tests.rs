//! Chains of packets, and what manifests of both layers have in common.

mod fast_paths;
mod messages;
mod steering;
mod users;
mod vfs;

use super::ports::INTERFACE_CHARACTERS;
use super::*;
use crate::diagnostic::Refusal;
use crate::domain::Ids;
use crate::machine::Description;
use crate::plan::{Difference, Piece, Plane};
use middlenet_fast_path::{Mode, Shape};
use middlenet_plan::{Placement, PortKind, Target};
use middlenet_sdk::{Burst, ConfigError, Init, Layer, NetworkFunction};
use proptest::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::Path;

/// A function whose configuration can be wrong in every way.
struct Gate;

/// Configuration of the gate.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GateConfig {
    /// The egress port.
    port: Option<String>,
    /// Addresses that pass.
    #[serde(default)]
    allow: Vec<std::net::IpAddr>,
    /// How many.
    limit: Option<u16>,
}

impl NetworkFunction for Gate {
    type Config = GateConfig;

    fn new(config: GateConfig, init: &mut Init) -> Result<Self, ConfigError> {
        if let Some(port) = &config.port {
            init.port(port)?;
        }
        if let Some(address) = config.allow.iter().find(|a| a.is_loopback()) {
            return Err(ConfigError::new(format!("`{address}` never leaves a host")).with_hint("remove it"));
        }
        if config.limit == Some(0) {
            return Err(ConfigError::new("a limit of nothing lets nothing pass"));
        }
        Ok(Self)
    }

    fn process(&mut self, _: &mut Burst<'_>) {}
}

struct Plain;

impl NetworkFunction for Plain {
    type Config = Empty;

    fn new(_: Empty, _: &mut Init) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn process(&mut self, _: &mut Burst<'_>) {}
}

struct Apart;

impl NetworkFunction for Apart {
    type Config = Empty;
    const PROCESS_ONLY: Option<&'static str> = Some("it trusts nobody");

    fn new(_: Empty, _: &mut Init) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn process(&mut self, _: &mut Burst<'_>) {}
}

/// Nothing.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Empty {}

struct Nowhere;

impl Surroundings for Nowhere {
    fn folder(&self) -> &Path {
        Path::new("/etc/middlenet")
    }

    fn user(&self, user: &str) -> Option<Ids> {
        match user {
            "root" | "0" => Some(Ids::alike(0)),
            "middlenet" | "990" => Some(Ids { uid: 990, gid: 991 }),
            _ => None,
        }
    }

    fn describe(&self, program: &Path) -> Result<Description, (String, Option<String>)> {
        if program.ends_with("ttl-clamp") {
            let schema = serde_json::json!({
                "type": "object",
                "properties": { "max_ttl": { "type": "integer" } },
                "required": ["max_ttl"],
                "additionalProperties": false,
            });
            return Ok(Description {
                name: "ttl-clamp".into(),
                layer: Some(Layer::L2l3),
                schema,
                fast_path: Some(Shape::NONE),
            });
        }
        if program.ends_with("add-header") {
            let schema = serde_json::json!({ "type": "object" });
            return Ok(Description {
                name: "add-header".into(),
                layer: Some(Layer::L4l7),
                schema,
                fast_path: Some(Shape::NONE),
            });
        }
        Err((format!("{} is not there", program.display()), Some("build it".into())))
    }
}

fn registry() -> Vec<Registration> {
    vec![
        Registration::named::<Gate>("gate", "lets some pass"),
        Registration::named::<Plain>("monitor", "counts"),
        Registration::named::<Apart>("apart", "has a process of its own"),
        Registration::named::<fast_paths::Hybrid>("hybrid", "has a fast path"),
        Registration::named::<fast_paths::Odd>("odd", "has services and no flows"),
        Registration::named::<fast_paths::Counting>("counting", "counts in many classes"),
        Registration::named::<fast_paths::Forks>("forks", "has an output"),
        Registration::middlebox::<messages::Proxy>("reverse-proxy", "routes"),
        Registration::middlebox::<messages::Rewrite>("url-rewrite", "rewrites"),
    ]
}

fn host(cores: usize) -> Machine {
    Machine { cores: (0..cores).collect(), processors: 64, memory_bytes: 8 << 30, huge_pages: 0 }
}

fn plan_on(source: &str, machine: &Machine, traffic: &Traffic) -> Result<Plan, Vec<Diagnostic>> {
    let manifest = Manifest::parse(source).map_err(|d| vec![d])?;
    plan(&manifest, &registry(), machine, &Nowhere, traffic)
}

fn planned(source: &str) -> Plan {
    plan_on(source, &host(2), &Traffic::Ports)
        .unwrap_or_else(|p| panic!("{}", Refusal::new("m.yaml", source, p).plain()))
}

fn packets(plan: &Plan) -> &ManagerPlan {
    plan.manager.as_ref().unwrap()
}

/// `line:column message|hint` of everything that is wrong.
fn errors(source: &str) -> Vec<String> {
    let problems = plan_on(source, &host(2), &Traffic::Ports).err().unwrap_or_default();
    let placed = Refusal::new("m.yaml", source, problems).placed();
    placed
        .into_iter()
        .map(|p| format!("{}:{} {}|{}", p.line, p.column, p.message, p.hint.unwrap_or_default()))
        .collect()
}

const TWO_PORTS: &str =
    "name: edge\nports:\n  wan: { xdp: veth-wan }\n  lan: { xdp: { interface: veth-lan, mode: generic } }\n";

/// A manifest of one chain with these functions, which start on line 9.
fn chain_of(functions: &str) -> String {
    format!("{TWO_PORTS}chains:\n  transit:\n    ports: [wan, lan]\n    functions:\n{functions}")
}

#[test]
fn all_three_forms_of_an_entry_are_understood() {
    let plan = planned(&chain_of(
        "      - monitor\n      - gate: { port: lan }\n      - mine: { use: gate, config: { limit: 3 }, placement: inline, on_failure: bypass }\n",
    ));
    let seen: Vec<_> =
        packets(&plan).hops.iter().map(|h| (h.name.as_str(), h.function.as_str(), h.placement)).collect();
    let expected = [
        ("monitor", "monitor", Placement::Process),
        ("gate", "gate", Placement::Process),
        ("mine", "gate", Placement::Inline),
    ];
    assert_eq!(seen, expected);
    assert_eq!(packets(&plan).hops[1].config, serde_json::json!({ "port": "lan" }));
    assert_eq!(
        plan.drawn_chains()[0].lines,
        ["wan -> monitor -> gate -> mine -> lan", "lan -> mine -> gate -> monitor -> wan"]
    );
    let cores: Vec<_> =
        plan.runtime.processes.iter().map(|p| (p.label.as_str(), p.cores.as_slice(), p.shares_core)).collect();
    assert_eq!(cores, [("transit/monitor", &[1][..], true), ("transit/gate", &[1][..], true)]);
    assert_eq!((packets(&plan).workers.as_slice(), packets(&plan).shares_core), (&[0][..], false));
}

#[test]
fn one_core_is_shared_and_four_are_given_out_in_turn() {
    let source = chain_of("      - monitor\n      - gate\n");
    let one = plan_on(&source, &host(1), &Traffic::Ports).unwrap();
    assert!(packets(&one).shares_core && one.runtime.processes.iter().all(|p| p.shares_core));
    assert!(one.runtime.notes[0].contains("share a core"));
    let four = plan_on(&source, &host(4), &Traffic::Ports).unwrap();
    let cores: Vec<_> = four.runtime.processes.iter().map(|p| (p.cores[0], p.shares_core)).collect();
    assert_eq!(cores, [(1, false), (2, false)]);
}

#[test]
fn replicas_become_processes_of_their_own() {
    let plan = planned(&chain_of("      - many: { use: monitor, replicas: 2 }\n"));
    let labels: Vec<_> = plan.runtime.processes.iter().map(|p| (p.label.as_str(), p.hop.hop, p.replica)).collect();
    assert_eq!(labels, [("transit/many#0", 0, 0), ("transit/many#1", 0, 1)]);
}

#[test]
fn outputs_lead_to_functions_ports_and_nowhere() {
    let plan = planned(&chain_of(
        "      - a: { use: gate, outputs: { x: b, y: lan, z: drop } }\n      - b: { use: monitor }\n",
    ));
    let expected =
        [("x".to_owned(), Target::Hop(1)), ("y".to_owned(), Target::Port(1)), ("z".to_owned(), Target::Drop)];
    assert_eq!(packets(&plan).hops[0].outputs, expected);
}

#[test]
fn kernel_ports_become_veth_pairs() {
    let plan = planned(
        "name: edge\nports:\n  host: { kernel: { interface: mn0, address: 10.9.0.1/24 } }\n  long: { kernel: { interface: a-long-name-015 } }\nchains:\n  c: { ports: [host, long], functions: [] }\n",
    );
    let [first, second] = plan.runtime.kernel_ports.as_slice() else { panic!("{:?}", plan.runtime.kernel_ports) };
    assert_eq!((first.inner.as_str(), first.addresses.as_slice()), ("mn-mn0", &["10.9.0.1/24".to_owned()][..]));
    assert_eq!(second.inner.len(), INTERFACE_CHARACTERS);
    assert!(matches!(&packets(&plan).ports[0].kind, PortKind::Xdp { interface, .. } if interface == "mn-mn0"));
}

#[test]
fn errors_everywhere_are_all_reported() {
    let source = "\
name: Edge!
portz: {}
ports:
  wan: { xdp: veth-wan, dpdk: net_null0 }
  lan: { xdpp: veth-lan }
  dmz: { xdp: veth-dmz }
  bak: veth-bak
chains:
  transit:
    ports: [wan, lna]
    functions:
      - firewal
      - gate: { prot: lan, limit: many }
      - gate: { limit: 70000 }
        monitor:
  second:
    ports: [dmz, wan]
    functions: [monitor, monitor]
  web:
    layer: l4l7
    listen: 10.0.0.1
cores: { manager: [7] }
";
    let expected = [
        "1:7 `Edge!` cannot be the name of a run|use lower-case letters, digits and `-`, at most 32",
        "2:1 unknown key `portz`|did you mean `ports`?",
        "4:25 the port `wan` is two things at once|keep one of `dpdk`, `vf`, `xdp`, `kernel` and `pcap`",
        "5:10 unknown key `xdpp` in `lan`|did you mean `xdp`?",
        "7:3 the port `bak` does not say what it is|write `bak: { xdp: eth0 }`, or `dpdk`, `kernel` or `pcap`",
        "10:18 there is no port `lna`|did you mean `lan`?",
        "12:9 unknown function `firewal`|built in are `gate`, `monitor`, `apart`, `hybrid`, `odd`, `counting` or `forks`; for a binary of your own: `firewal: { run: ./path }`",
        "13:17 `gate`: unknown key `prot`|did you mean `port`?",
        "13:35 `gate`: `limit`: expected a whole number, found `many`|",
        "15:9 `monitor` stands beside `gate`: an entry is one function|indent it further, below `gate:`, or start it with `- `",
        "4:8 the port `wan` is in 2 chains: transit, second|say under `steering: { wan: [...] }` which of its packets go to which",
        "18:26 the chain `second` has two functions called `monitor`|give this one a name of its own: `monitor-2: { use: monitor, config: { ... } }`",
        "19:3 the chain `web` has nowhere to send requests to|add `upstreams: [10.2.0.10:80]`, or a function that routes or answers",
        "21:13 `10.0.0.1` is no address with a port|add the port: `10.0.0.1:80`",
        "22:19 core 7 is not there|this host has cores 0-1",
    ];
    let found = errors(source);
    for line in expected {
        assert!(found.iter().any(|f| f == line), "missing: {line}\nin {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn a_function_that_refuses_its_configuration_is_quoted_at_the_place() {
    let cases = [
        ("      - gate: { port: lann }\n", "9:23 `gate`: the chain has no port `lann`|its ports are: wan, lan"),
        (
            "      - gate:\n          allow:\n            - 10.0.0.1\n            - 127.0.0.1\n",
            "12:15 `gate`: `127.0.0.1` never leaves a host|remove it",
        ),
        (
            "      - gate:\n          allow: [10.0.0.1, 10.0.0.300, 10.0.0.2]\n",
            "10:29 `gate`: invalid IP address syntax|",
        ),
        ("      - gate: { limit: 0 }\n", "9:9 `gate`: a limit of nothing lets nothing pass|"),
        (
            "      - gate: { placement: inline }\n",
            "9:17 `gate`: unknown key `placement`|`placement` stands beside the configuration: `gate: { config: { ... }, placement: ... }`",
        ),
        ("      - gate: { use: gate, confg: {} }\n", "9:28 unknown key `confg` in `gate`|did you mean `config`?"),
    ];
    for (functions, expected) in cases {
        assert_eq!(errors(&chain_of(functions)), [expected]);
    }
}

#[test]
fn circles_of_outputs_are_refused() {
    let found = errors(&chain_of(
        "      - a: { use: monitor }\n      - b: { use: monitor, outputs: { again: a } }\n      - c: { use: monitor, outputs: { self: c } }\n",
    ));
    let expected = [
        "10:46 the output `again` of `b` closes a circle: a -> b -> a|let it lead to a later function, to a port, or to `drop`",
        "11:45 the output `self` of `c` closes a circle: c -> c|let it lead to a later function, to a port, or to `drop`",
    ];
    assert_eq!(found, expected);
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    let cases = [
        (
            "      - a: { use: monitor, placement: inline, replicas: 2 }\n",
            "9:57 replicas are processes, but this function is placed inline|add `placement: process`, or remove `replicas`",
        ),
        (
            "      - a: { use: apart, placement: inline }\n",
            "9:9 `apart` must not run inline: it trusts nobody|add `placement: process` beside `config:`: there it is confined",
        ),
        (
            "      - a: { use: monitor, run: ./ttl-clamp, config: { max_ttl: 3 } }\n",
            "9:28 `use` and `run` exclude each other|`use` names a built-in function, `run` a binary of your own: keep one",
        ),
        (
            "      - a: { run: ./ttl-clamp, placement: inline, config: { max_ttl: 3 } }\n",
            "9:43 a binary of your own cannot run inline|remove `placement`, it runs as a process",
        ),
        ("      - a: { run: ./ttl-clamp }\n", "9:9 `a`: the key `max_ttl` is missing|"),
        ("      - a: { run: ./other }\n", "9:19 /etc/middlenet/other is not there|build it"),
        ("      - a: { use: monitor, replicas: 0 }\n", "9:38 `replicas`: 0 is below the least value, 1|"),
        (
            "      - a: { use: monitor, outputs: { x: lann } }\n",
            "9:42 the output `x` leads to `lann`, which is not in the chain `transit`|did you mean `lan`?",
        ),
    ];
    for (functions, expected) in cases {
        assert_eq!(errors(&chain_of(functions)), [expected]);
    }
}

#[test]
fn memory_that_cannot_be_is_refused() {
    let tail = "chains: { c: { ports: [wan, lan], functions: [monitor] } }\n";
    let cases = [
        (
            "memory: { buffers: 100 }\n",
            "5:20 100 buffers are too few|2 receive queues, 1 worker and 1 function instance need at least 4736: write `buffers: 8192`",
        ),
        (
            "memory: { buffers: 16000000 }\n",
            "5:20 31250 MiB of buffers, but the host has 8192 MiB free|ask for fewer: `buffers: 16384` is enough for most",
        ),
        (
            "memory: { buffer_bytes: 1000 }\n",
            "5:25 buffers of 1000 bytes are not supported|use 2048, or 4096 for an MTU above 1500",
        ),
        (
            "memory: { hugepages: require }\n",
            "5:22 the buffers need 16 pages of 2 MiB, but the host has 0 free|`echo 64 > /proc/sys/vm/nr_hugepages`, or write `hugepages: auto`",
        ),
        (
            "ring_slots: 1000\n",
            "5:13 a ring of 1000 slots is not supported|use a power of two from 64 to 65536, such as 1024",
        ),
    ];
    for (line, expected) in cases {
        assert_eq!(errors(&format!("{TWO_PORTS}{line}{tail}")), [expected]);
    }
}

#[test]
fn captures_replace_all_ports_and_placements() {
    let source = chain_of(
        "      - many: { use: monitor, replicas: 2, cores: [1] }\n      - own: { run: ./ttl-clamp, config: { max_ttl: 1 } }\n",
    );
    let captures = Captures {
        read: vec![(None, "/a/in.pcap".into())],
        write: vec![(Some("wan".into()), "/a/wan.pcap".into()), (None, "/a/out.pcap".into())],
    };
    let plan = plan_on(&source, &host(2), &Traffic::Captures(captures)).unwrap();
    assert!(packets(&plan).lockstep && packets(&plan).unprivileged);
    let files = packets(&plan).ports.iter().map(|p| match &p.kind {
        PortKind::Pcap { read, write } => (read.as_deref(), write.as_deref()),
        other => panic!("{other:?}"),
    });
    let files: Vec<_> = files.collect();
    assert_eq!(files, [(Some("/a/in.pcap"), Some("/a/wan.pcap")), (None, Some("/a/out.pcap"))]);
    let placed: Vec<_> = packets(&plan).hops.iter().map(|h| (h.placement, h.replicas)).collect();
    assert_eq!(placed, [(Placement::Inline, 1), (Placement::Process, 1)]);
    let wrong = Captures { read: vec![(Some("wna".into()), "x".into())], write: Vec::new() };
    let problems = plan_on(&source, &host(2), &Traffic::Captures(wrong)).unwrap_err();
    assert_eq!(problems[0].message, "--pcap: the manifest has no port `wna`");
    assert_eq!(problems[0].hint.as_deref(), Some("did you mean `wan`?"));
}

#[test]
fn differences_are_told_apart() {
    let functions = "      - monitor\n      - gate: { limit: 3 }\n";
    let old = planned(&chain_of(functions));
    assert_eq!(Difference::between(&old, &planned(&chain_of(functions))), Difference::default());

    let changed = Difference::between(&old, &planned(&chain_of("      - monitor\n      - gate: { limit: 4 }\n")));
    assert_eq!(changed.structural, Vec::<String>::new());
    assert_eq!((changed.changes.len(), changed.changes[0].label.as_str()), (1, "transit/gate"));
    assert!(
        matches!(&changed.changes[0].piece, Piece::Config { config, .. } if *config == serde_json::json!({ "limit": 4 }))
    );

    let other =
        chain_of("      - gate: { config: { limit: 3 }, placement: inline }\n      - extra: { use: monitor }\n");
    let structural = Difference::between(&old, &planned(&other.replace("mode: generic", "mode: native"))).structural;
    let expected = [
        "port `lan` would be made differently",
        "function `transit/monitor` would go",
        "function `transit/gate` would be made differently",
        "function `transit/extra` would be new",
    ];
    assert_eq!(structural, expected);
}

#[test]
fn an_empty_manifest_says_what_it_needs() {
    assert_eq!(errors(""), ["1:1 the manifest is empty|it needs `name`, `ports` and `chains`: see `middlenet schema`"]);
    assert!(errors("- a\n")[0].contains("expected a mapping"));
    let found = errors("name: a\n");
    assert_eq!(found, ["1:1 the key `chains` is missing|", "1:1 the key `ports` is missing|"]);
}

#[test]
fn the_built_in_functions_have_schemas_that_the_manifest_schema_holds() {
    let schema = crate::schema::manifest_schema(middlenet_functions::registry());
    let mut references = Vec::new();
    collect_references(&schema, &mut references);
    assert!(references.len() > 10);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(schema.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let monitor = schema.pointer("/$defs/function-entry/anyOf/1/properties/monitor");
    assert!(monitor.is_some());
}

fn collect_references(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(object) => {
            found.extend(object.get("$ref").and_then(|r| r.as_str()).map(str::to_owned));
            object.values().for_each(|v| collect_references(v, found));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|v| collect_references(v, found)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever one character is changed into, the manifest is planned or refused.
    #[test]
    fn any_change_of_a_manifest_is_planned_or_refused(at in 0usize..400, cut in 0usize..12, with in "[a-z0-9:\\[\\]{}\n -]{0,4}") {
        let mut source = chain_of("      - monitor\n      - gate: { limit: 3, allow: [10.0.0.1] }\n      - m: { use: gate, outputs: { x: lan }, replicas: 2 }\n");
        let at = at.min(source.len());
        let end = (at + cut).min(source.len());
        source.replace_range(at..end, &with);
        if let Err(problems) = plan_on(&source, &host(2), &Traffic::Ports) {
            prop_assert!(!problems.is_empty());
            let refusal = Refusal::new("m.yaml", source.as_str(), problems);
            refusal.plain();
            refusal.graphical(80);
        }
    }
}
