//! The command line as people and scripts meet it, as far as it needs no manager.

#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

fn middlenet(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_middlenet"));
    command
        .args(arguments)
        .env("MIDDLENET_NF_MANAGER", "/nowhere/middlenet-nf-manager")
        .env("MIDDLENET_MESSAGE_BROKER", "/nowhere/middlenet-message-broker")
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A manifest in a file of its own, removed in the end.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("middlenet-cli-{}-{name}.yaml", std::process::id()));
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

const GOOD: &str = "name: cli-test
ports:
  wan: { dpdk: net_null0 }
  lan: { dpdk: net_null1 }
chains:
  transit:
    ports: [wan, lan]
    functions:
      - monitor
      - forward: { use: l2-forward, placement: inline }
";

#[test]
fn check_prints_the_plan() {
    let file = File::new("good", GOOD);
    let output = middlenet(&["check", file.path()]);
    assert!(output.status.success(), "{}", err(&output));
    let text = out(&output);
    for part in [
        "  wan -> monitor -> forward -> lan\n  lan -> forward -> monitor -> wan\n",
        "middlenet fn monitor",
        "16384 buffers of 2048 bytes",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let json: serde_json::Value = serde_json::from_slice(&middlenet(&["check", "--json", file.path()]).stdout).unwrap();
    assert_eq!(json["ok"], true);
    assert_eq!(json["manager"]["hops"][1]["placement"], "inline");
    assert_eq!(json["processes"].as_array().unwrap().len(), 1);
}

#[test]
fn check_prints_whom_a_function_asks() {
    let servers = |count: u8| -> String {
        (1..=count).map(|n| format!("{{ address: 10.0.0.{n}, port: 8080 }}")).collect::<Vec<_>>().join(", ")
    };
    let source = |feedback: &str, count| {
        let services = format!("[{{ address: 192.0.2.80, port: 80, servers: [{}] }}]", servers(count));
        let config = format!("{{ services: {services}, feedback: {feedback} }}");
        GOOD.replace("- monitor\n", &format!("- monitor\n      - elb: {{ config: {config} }}\n"))
    };
    let snmp = "{ snmp: { community: public } }";
    for (feedback, count, row) in [
        (snmp, 2, ["transit/elb", "udp", "2", "10.0.0.1:161, 10.0.0.2:161"]),
        (snmp, 5, ["transit/elb", "udp", "5", "10.0.0.1:161, 10.0.0.2:161, 10.0.0.3:161 and 2 more"]),
        ("{ http: { port: 9100, path: / } }", 1, ["transit/elb", "tcp", "1", "10.0.0.1:9100"]),
    ] {
        let file = File::new(&format!("peers-{count}"), &source(feedback, count));
        let output = middlenet(&["check", file.path()]);
        assert!(output.status.success(), "{}", err(&output));
        let text = out(&output);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert!(text.lines().any(|line| words(line) == words(&row.join(" "))), "{row:?} is missing in\n{text}");
        let json = middlenet(&["check", "--json", file.path()]).stdout;
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let peers = json["manager"]["hops"][1]["peers"].as_array().unwrap();
        assert_eq!(peers.len(), usize::from(count));
        let port = if row[1] == "udp" { 161 } else { 9100 };
        assert_eq!(peers[0], serde_json::json!({ "kind": row[1], "address": format!("10.0.0.1:{port}") }));
    }
    let file = File::new("no-peers", GOOD);
    assert!(!out(&middlenet(&["check", file.path()])).contains("PEERS OF"));
}

const WEB: &str = "name: cli-web
chains:
  web:
    layer: l4l7
    listen: [10.1.0.1:80, \"[::]:8080\"]
    upstreams: [10.2.0.10:80, 10.2.0.11:80]
";

#[test]
fn check_prints_the_plan_of_a_chain_of_requests() {
    let file = File::new("web", WEB);
    let output = middlenet(&["check", file.path()]);
    assert!(output.status.success(), "{}", err(&output));
    let text = out(&output);
    for part in [
        "cli-web: 2 listeners, 1 chain, 0 functions, 1 process besides this one\n",
        "  10.1.0.1:80 | [::]:8080 -> 10.2.0.10:80 | 10.2.0.11:80\n",
        "[::]:8080    web    http    10.2.0.10:80, 10.2.0.11:80\n",
        "message-broker  middlenet-message-broker  core",
        "messages: 4096 buffers of 16384 bytes, 64 MiB in ",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert!(!text.contains("nf-manager"), "{text}");
    let json: serde_json::Value = serde_json::from_slice(&middlenet(&["check", "--json", file.path()]).stdout).unwrap();
    assert!(json["manager"].is_null() && json["memory"].is_null());
    assert_eq!(json["broker"]["chains"][0]["timeouts"]["connect_ms"], 2000);
    assert_eq!(json["chains"][0]["layer"], "l4l7");
    // It needs the broker, and no manager.
    let output = middlenet(&["run", file.path()]);
    let expected = "middlenet: the message broker is not there: /nowhere/middlenet-message-broker\n\n\
                    hint: install it beside `middlenet`, or name it in MIDDLENET_MESSAGE_BROKER\n";
    assert_eq!((output.status.code(), err(&output).as_str()), (Some(1), expected));
    let output = middlenet(&["run", "--pcap", "in.pcap", file.path()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("no chain of layer l2l3 is there to run over captures"), "{}", err(&output));
}

#[test]
fn check_reports_errors_at_their_places_with_code_2() {
    let file = File::new("bad", &GOOD.replace("- monitor", "- montior: { top: 3 }").replace("wan, lan", "wan, lann"));
    let output = middlenet(&["check", file.path()]);
    assert_eq!(output.status.code(), Some(2));
    let expected = format!(
        "{path}:7:18: there is no port `lann`
  |
7 |     ports: [wan, lann]
  |                  ^^^^
  = hint: did you mean `lan`?
{path}:9:9: unknown function `montior`
  |
9 |       - montior: {{ top: 3 }}
  |         ^^^^^^^
  = hint: did you mean `monitor`?
middlenet: 2 errors in the manifest
",
        path = file.path()
    );
    assert_eq!(err(&output), expected);
    assert_eq!(out(&output), "");
    let output = middlenet(&["check", "--json", file.path()]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((json["errors"][0]["line"].as_u64(), json["errors"][0]["column"].as_u64()), (Some(7), Some(18)));
    // `run` refuses the same, before it looks for anything.
    let output = middlenet(&["run", file.path()]);
    assert_eq!((output.status.code(), err(&output)), (Some(2), expected));
}

#[test]
fn what_is_missing_on_the_host_is_one_sentence_and_a_hint() {
    let file = File::new("host", GOOD);
    let output = middlenet(&["run", file.path()]);
    assert_eq!(output.status.code(), Some(1));
    let expected = "middlenet: the nf-manager is not there: /nowhere/middlenet-nf-manager\n\n\
                    hint: install it beside `middlenet`, or name it in MIDDLENET_NF_MANAGER\n";
    assert_eq!(err(&output), expected);
    let output = middlenet(&["status", "no-such-run"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).starts_with("middlenet: `no-such-run` does not run"));
    let output = middlenet(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(1), "nothing runs without a manager");
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let manager = findings.as_array().unwrap().iter().find(|f| f["subject"] == "nf-manager").unwrap();
    assert_eq!(manager["severity"], "broken");
}

#[test]
fn functions_and_their_configurations_are_explained() {
    let list = out(&middlenet(&["functions"]));
    assert!(list.contains("l3-router") && list.contains("monitor") && list.contains("l2l3"), "{list}");
    let monitor = out(&middlenet(&["functions", "monitor"]));
    assert!(monitor.contains("top (integer, default 10)"), "{monitor}");
    let output = middlenet(&["functions", "moniter"]);
    assert_eq!(err(&output), "middlenet: there is no function `moniter`\n\nhint: did you mean `monitor`?\n");
    let schema: serde_json::Value = serde_json::from_slice(&middlenet(&["schema"]).stdout).unwrap();
    assert!(schema["$defs"]["monitor"]["properties"]["top"].is_object());
    let chain = &schema["$defs"]["MessageChainForm"];
    assert_eq!(chain["properties"]["layer"]["const"], "l4l7");
    assert_eq!(schema["$defs"]["Timeouts"]["properties"]["connect_ms"]["default"], 2000);
    assert!(out(&middlenet(&["completions", "bash"])).contains("_middlenet"));
}
