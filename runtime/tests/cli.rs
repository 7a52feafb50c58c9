//! The command line as people and scripts meet it, as far as it needs no manager.

#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

fn middlenet(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_middlenet"));
    command.args(arguments).env("MIDDLENET_NF_MANAGER", "/nowhere/middlenet-nf-manager").output().unwrap()
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
    assert!(list.contains("l3-router") && list.contains("monitor"), "{list}");
    let monitor = out(&middlenet(&["functions", "monitor"]));
    assert!(monitor.contains("top (integer, default 10)"), "{monitor}");
    let output = middlenet(&["functions", "moniter"]);
    assert_eq!(err(&output), "middlenet: there is no function `moniter`\n\nhint: did you mean `monitor`?\n");
    let schema: serde_json::Value = serde_json::from_slice(&middlenet(&["schema"]).stdout).unwrap();
    assert!(schema["$defs"]["monitor"]["properties"]["top"].is_object());
    assert!(out(&middlenet(&["completions", "bash"])).contains("_middlenet"));
}
