//! Fast paths: what turns them on, what keeps packets from them, and what is refused.

use super::*;
use middlenet_plan::{Destination, FastPathPlan};
use middlenet_sdk::fast_path::RuleTable;
use middlenet_steer::Action;

/// How many rules it has.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rules {
    #[serde(default)]
    rules: usize,
}

/// A function whose fast path works in two modes.
pub(super) struct Hybrid;

impl NetworkFunction for Hybrid {
    type Config = Rules;
    const FAST_PATH: Shape = Shape::of(&[Mode::Reactive, Mode::Offloading]).flows(1000).rules(10);

    fn new(Rules { rules }: Rules, init: &mut Init) -> Result<Self, ConfigError> {
        let rules = vec![middlenet_sdk::fast_path::Action::default(); rules];
        init.fast_path().set_rules(&RuleTable { rules, ..RuleTable::default() })?;
        Ok(Self)
    }

    fn process(&mut self, _: &mut Burst<'_>) {}
}

/// One whose fast path cannot be.
pub(super) struct Odd;

impl NetworkFunction for Odd {
    type Config = Rules;
    const FAST_PATH: Shape = Shape::of(&[Mode::Reactive]).services(1, 1).rules(1);

    fn new(_: Rules, _: &mut Init) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn process(&mut self, _: &mut Burst<'_>) {}
}

/// One with many counts.
pub(super) struct Counting;

impl NetworkFunction for Counting {
    type Config = Rules;
    const FAST_PATH: Shape = Shape::of(&[Mode::Reactive]).flows(1 << 20).classes(1 << 20);

    fn new(_: Rules, _: &mut Init) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn process(&mut self, _: &mut Burst<'_>) {}
}

const FAST: &str = "{ use: hybrid, mode: reactive }";

fn notes(functions: &str) -> Vec<String> {
    let notes = planned(&chain_of(functions)).runtime.notes.into_iter();
    notes.filter(|note| note.contains("fast path")).collect()
}

#[test]
fn a_mode_turns_the_fast_path_on() {
    let plan = planned(&chain_of(&format!("      - hybrid\n      - fast: {FAST}\n")));
    let hops: Vec<_> = packets(&plan).hops.iter().map(|hop| hop.fast_path).collect();
    assert_eq!(hops, [None, Some(FastPathPlan { mode: Mode::Reactive, shape: Hybrid::FAST_PATH })]);
}

#[test]
fn ports_of_chains_with_fast_paths_are_steered_into_their_chain() {
    let source = |mode: &str| {
        format!(
            "name: edge\nports: {{ wan: {{ xdp: a }}, lan: {{ dpdk: net_null0 }}, other: {{ xdp: b }} }}\nchains:\n  c: {{ ports: [wan, lan], functions: [fast: {{ use: hybrid{mode} }}] }}\n  d: {{ ports: [other], functions: [monitor] }}\n"
        )
    };
    let plan = planned(&source(", mode: reactive"));
    let steering = |plan: &Plan, port: usize| packets(plan).ports[port].steering.clone();
    let of_wan = steering(&plan, 0).unwrap();
    assert_eq!(
        (of_wan.default, of_wan.to.as_slice()),
        (Action::Tag(Destination::Chain(0).tag()), &["c".to_owned()][..])
    );
    assert!(of_wan.rules.is_empty() && steering(&plan, 1).is_none() && steering(&plan, 2).is_none());
    assert!(steering(&planned(&source("")), 0).is_none());
}

#[test]
fn what_keeps_packets_from_a_fast_path_is_told() {
    assert_eq!(notes(&format!("      - a: {FAST}\n      - b: {FAST}\n")), Vec::<String>::new());
    let found = notes(&format!("      - a: {FAST}\n      - monitor\n      - b: {FAST}\n"));
    let expected = [
        "chain `transit`: packets from wan meet `monitor`, which has no fast path, before those of `b`: they take the slow path from there on",
        "chain `transit`: packets from lan meet `monitor`, which has no fast path, before those of `a`: they take the slow path from there on",
    ];
    assert_eq!(found, expected);
    let found = notes(&format!(
        "      - a: {{ use: hybrid, mode: reactive, outputs: {{ past: b }} }}\n      - monitor\n      - b: {FAST}\n      - c: {FAST}\n"
    ));
    let expected = "chain `transit`: packets from lan meet `monitor`, which has no fast path, before those of `a`: they take the slow path from there on";
    assert_eq!(found, [expected], "an output leads past it from wan");
    let source = format!(
        "name: edge\nports: {{ wan: {{ xdp: a }}, lan: {{ dpdk: net_null0 }} }}\nchains: {{ c: {{ ports: [wan, lan], functions: [a: {FAST}] }} }}\n"
    );
    let notes = planned(&source).runtime.notes;
    assert!(
        notes
            .iter()
            .any(|n| n
                == "no packet of the port `lan` takes a fast path of the chain `c`: only `xdp` ports have fast paths"),
        "{notes:?}"
    );
}

/// A function that asks for an output of one name.
pub(super) struct Forks;

impl NetworkFunction for Forks {
    type Config = Rules;

    fn new(_: Rules, init: &mut Init) -> Result<Self, ConfigError> {
        init.output("chosen");
        Ok(Self)
    }

    fn process(&mut self, _: &mut Burst<'_>) {}
}

#[test]
fn outputs_that_a_function_does_not_use_are_told() {
    let told = |outputs: &str| {
        let plan = planned(&chain_of(&format!("      - f: {{ use: forks, outputs: {{ {outputs} }} }}\n")));
        plan.runtime.notes.into_iter().filter(|note| note.contains("output")).collect::<Vec<_>>()
    };
    assert_eq!(told("chosen: lan"), Vec::<String>::new());
    let misspelt = "`f`, as it is configured, does not use its output `chosn`, but `chosen`: no packets go that way";
    assert_eq!(told("chosn: lan"), [misspelt]);
    let more = "`f`, as it is configured, does not use its output `other`: no packets go that way";
    assert_eq!(told("chosen: lan, other: drop"), [more]);
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |entry: &str| errors(&chain_of(&format!("      - {entry}\n")));
    assert_eq!(
        refused("m: { use: monitor, mode: reactive }"),
        ["9:34 `m` has no fast path|remove `mode`; `middlenet functions` tells which functions have one"]
    );
    assert_eq!(
        refused("h: { use: hybrid, mode: proactive }"),
        ["9:33 the fast path of `h` does not work in mode `proactive`|it works in `reactive` or `offloading`"]
    );
    assert!(refused("h: { use: hybrid, mode: fast }")[0].starts_with("9:33 "));
    assert_eq!(
        refused("mine: { run: ./ttl-clamp, config: { max_ttl: 3 }, mode: reactive }"),
        ["9:65 `mine` has no fast path|remove `mode`; `middlenet functions` tells which functions have one"]
    );
    assert_eq!(
        refused("hybrid: { mode: reactive }"),
        [
            "9:19 `hybrid`: unknown key `mode`|`mode` stands beside the configuration: `hybrid: { config: { ... }, mode: ... }`"
        ]
    );
    let offloading = |port: &str| {
        errors(&format!(
            "name: edge\nports: {{ wan: {{ xdp: a }}, lan: {{ {port} }} }}\nchains: {{ c: {{ ports: [wan, lan], functions: [a: {{ use: hybrid, mode: offloading }}] }} }}\n"
        ))
    };
    assert_eq!(offloading("xdp: b"), Vec::<String>::new());
    assert!(offloading("dpdk: net_null0")[0].contains("but the port `lan` is a DPDK port"));
    assert!(offloading("kernel: { interface: mn0 }")[0].contains("but the port `lan` is a kernel port"));
}

#[test]
fn the_kernel_takes_a_packet_through_so_many_programs_only() {
    let chain = |count: usize| {
        chain_of(
            &(0..count)
                .map(|i| format!("      - f{i}: {{ use: hybrid, mode: reactive, placement: inline }}\n"))
                .collect::<String>(),
        )
    };
    assert_eq!(packets(&planned(&chain(32))).hops.len(), 32);
    assert!(errors(&chain(33))[0].contains("33 functions of the chain `transit` have fast paths"));
}

#[test]
fn nobody_else_stands_in_a_chain_that_leaves_packets_to_the_kernel() {
    let chain = |other: &str| {
        let functions = format!("[a: {{ use: hybrid, mode: offloading }}, {other}]");
        errors(&format!(
            "name: edge\nports: {{ wan: {{ xdp: a }}, lan: {{ xdp: b }} }}\nchains: {{ c: {{ ports: [wan, lan], functions: {functions} }} }}\n"
        ))
    };
    assert_eq!(chain("b: { use: hybrid, mode: offloading }"), Vec::<String>::new());
    for other in ["monitor", "b: { use: hybrid, mode: reactive }"] {
        let found = chain(other);
        assert!(found.len() == 1 && found[0].contains("to the kernel's own stack, which those of `"), "{found:?}");
    }
}

#[test]
fn captures_meet_no_fast_path() {
    let source =
        chain_of("      - a: { use: hybrid, mode: offloading }\n      - b: { use: hybrid, mode: offloading }\n");
    let captures = || Traffic::Captures(Captures { read: vec![(None, "in.pcap".into())], write: Vec::new() });
    let plan = plan_on(&source, &host(2), &captures()).unwrap();
    assert!(packets(&plan).hops.iter().all(|hop| hop.fast_path.is_none()));
    let [note] = plan.runtime.notes.as_slice() else { panic!("{:?}", plan.runtime.notes) };
    assert!(note.contains("`mode` counts for nothing") && note.ends_with("all packets of `a`, `b`"), "{note}");
    // Who has no mode is told nothing, and nobody is of ports.
    let plan = plan_on(&chain_of("      - a: { use: hybrid }\n"), &host(2), &captures()).unwrap();
    assert_eq!(plan.runtime.notes, Vec::<String>::new());
    let plan = plan_on(&source, &host(2), &Traffic::Ports).unwrap();
    assert!(!plan.runtime.notes.iter().any(|note| note.contains("captures")), "{:?}", plan.runtime.notes);
}

#[test]
fn another_mode_needs_a_restart() {
    let plan = |mode: &str| planned(&chain_of(&format!("      - a: {{ use: hybrid, mode: {mode} }}\n")));
    let difference = Difference::between(&plan("reactive"), &plan("offloading"));
    assert_eq!(difference.structural, ["function `transit/a` would be made differently"]);
}

#[test]
fn a_fast_path_that_the_kernel_could_not_have_is_refused() {
    let with = |function: &str| errors(&chain_of(&format!("      - a: {{ use: {function}, mode: reactive }}\n")));
    let odd = with("odd");
    assert!(odd[0].contains("the fast path of `a` has services, but no room for flows"), "{odd:?}");
    assert!(odd[0].contains("services need flows"), "{odd:?}");
    // On the 64 processors of this host.
    let counting = with("counting");
    assert!(counting[0].contains("would take 1248 MiB of the kernel's memory, more than 1024 MiB"), "{counting:?}");
    assert!(counting[0].contains("64 processors"), "{counting:?}");
    assert_eq!(with("hybrid"), Vec::<String>::new());
}

#[test]
fn what_a_fast_path_cannot_hold_is_told_before_the_run() {
    let with = |mode: &str, rules: usize| {
        errors(&chain_of(&format!("      - a: {{ use: hybrid, {mode}config: {{ rules: {rules} }} }}\n")))
    };
    assert_eq!(with("mode: reactive, ", 10), Vec::<String>::new());
    assert!(with("mode: reactive, ", 11)[0].contains("the fast path has room for 10 rules, not for 11"));
    // Without a fast path, rules are nobody's.
    assert_eq!(with("", 11), Vec::<String>::new());
}
