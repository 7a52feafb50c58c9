//! What a person types, right and wrong.

use std::time::Duration;

use middlenet_tests::{Command, Error, Line, Output, Process, Runtime, Scratch, binary, middlenet, require_root};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

fn json(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error} in {}{}", output.stdout, output.stderr))
}

#[test]
fn a_second_run_of_a_name_is_refused_and_the_first_goes_on() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    let run = Runtime::start(&line.middle, &Line::manifest(&[Line::ROUTER]))?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let pids = run.status()?.pids();
    let interfaces = line.interfaces()?;
    let manifest = run.manifest().display().to_string();
    let mut second = line.middle.command(binary("middlenet")?);
    let output = Process::spawn(second.args(["run", &manifest]))?.wait(SOON)?;
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.contains("is there already") && output.stderr.contains("hint: "), "{}", output.stderr);
    // The same interfaces under another name.
    let text = std::fs::read_to_string(run.manifest()).expect("the manifest is there");
    let other = run.folder().write("other.yaml", text.replace(run.name(), &format!("{}-b", run.name())))?;
    let mut third = line.middle.command(binary("middlenet")?);
    let output = Process::spawn(third.arg("run").arg(&other))?.wait(SOON)?;
    assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("wan"), "{}", output.stderr);

    assert_eq!(run.status()?.pids(), pids);
    assert_eq!(line.interfaces()?, interfaces);
    line.client.exec("ping", ["-n", "-c", "3", "-i", "0.05", "-W", "5", "10.2.0.2"])?;
    run.stop()?;
    Ok(())
}

#[test]
fn mistakes_in_a_manifest_are_placed_and_exit_with_2() -> Result<(), Error> {
    let scratch = Scratch::new()?;
    let good = format!("name: wrong\n{}", Line::manifest(&["monitor"]));
    // What is wrong, where it is, and a word of the message.
    for (wrong, place, word) in [
        (good.replace("monitor", "monitr"), "9:9", "monitor"),
        (good.replace("[wan, lan]", "[wan, laan]"), "7:18", "lan"),
        (good.replace("xdp: wan", "xpd: wan"), "3:10", "xdp"),
        (good.replace("- monitor", "- monitor: { top: -3 }"), "9:25", "top"),
        (good.replace("name: wrong", "name: [1"), "", "YAML"),
        (String::new(), "1:1", "empty"),
    ] {
        let path = scratch.write("m.yaml", &wrong)?.display().to_string();
        for command in ["check", "run"] {
            let output = middlenet(&[command, &path])?;
            assert_eq!(output.status.code(), Some(2), "{wrong}\n{}", output.stderr);
            assert!(output.stderr.contains(&format!("m.yaml:{place}")), "{place} is not in\n{}", output.stderr);
            assert!(output.stderr.contains(word), "{word} is not in\n{}", output.stderr);
        }
        let errors = json(&middlenet(&["check", "--json", &path])?);
        assert_eq!(errors["ok"], false);
        assert!(errors["errors"].as_array().is_some_and(|list| !list.is_empty()), "{errors}");
    }
    let output = middlenet(&["run", "/nowhere/m.yaml"])?;
    assert_eq!(output.status.code(), Some(2));
    Ok(())
}

#[test]
fn what_the_host_lacks_is_one_sentence_and_changes_nothing() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    let before = line.interfaces()?;
    let missing = Runtime::prepare(&Line::manifest(&["monitor"]).replace("xdp: lan", "xdp: lan7"))?;
    let mut command = line.middle.command(binary("middlenet")?);
    let output = Process::spawn(command.arg("run").arg(missing.manifest()))?.wait(SOON)?;
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.contains("no interface `lan7`"), "{}", output.stderr);

    // By somebody without privileges, who must at least be able to reach the program.
    let scratch = Scratch::new()?;
    let program = scratch.file("middlenet");
    for name in ["middlenet", "middlenet-nf-manager"] {
        let (from, to) = (binary(name)?, scratch.file(name));
        std::fs::copy(from, &to).map_err(|source| Error::File { path: to, source })?;
    }
    let manifest = scratch.write("m.yaml", format!("name: nobodys\n{}", Line::manifest(&["monitor"])))?;
    let mut command = line.middle.command("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
        .arg(program)
        .arg("run")
        .arg(manifest);
    let output = Process::spawn(&mut command)?.wait(SOON)?;
    assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("needs root"), "{}", output.stderr);
    assert_eq!(output.stderr.lines().filter(|line| line.starts_with("middlenet: ")).count(), 1, "{}", output.stderr);
    assert_eq!(line.interfaces()?, before);
    Ok(())
}

#[test]
fn status_and_drops_agree() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    let run = Runtime::start(
        &line.middle,
        &Line::manifest(&["firewall: { default: allow, rules: [{ proto: udp, allow: false }] }", Line::ROUTER]),
    )?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let socket = middlenet_tests::Conversation::udp(&line.client, "10.2.0.2:9")?;
    let middlenet_tests::Conversation::Udp(socket) = socket else { unreachable!("it is UDP") };
    for _ in 0..17 {
        socket.send(b"nobody hears this").expect("a datagram can be sent");
    }
    run.wait_for("17 refused packets", SOON, |status| status.dropped("firewall", "denied") == 17)?;
    run.wait_for_rest()?;
    let status = json(&middlenet(&["status", run.name(), "--json"])?);
    assert_eq!((&status["name"], &status["state"]), (&Value::from(run.name()), &Value::from("running")));
    assert!(status["rates"].is_object());
    let drops = json(&middlenet(&["drops", run.name(), "--json"])?);
    let rows = drops["drops"].as_array().expect("a list of drops");
    let row = rows.iter().find(|row| row["reason"] == "denied").expect("the refused packets are listed");
    assert_eq!(
        (&row["packets"], &row["place"], &row["stage"]),
        (&17.into(), &"transit/firewall".into(), &"function".into())
    );
    // The list is the whole of what the balance calls dropped.
    let listed: u64 =
        rows.iter().filter(|row| row["stage"] != "missed").filter_map(|row| row["packets"].as_u64()).sum();
    let latest = middlenet_tests::RunStatus(json(&middlenet(&["status", run.name(), "--json"])?));
    let balance = [middlenet_tests::RunStatus(status).conservation().dropped, latest.conservation().dropped];
    assert!((balance[0]..=balance[1]).contains(&listed), "{listed} listed, {balance:?} dropped");
    for view in ["status", "drops"] {
        let output = middlenet(&[view, run.name()])?;
        assert!(output.status.success() && output.stdout.contains("transit/firewall"), "{}", output.stdout);
    }
    let mut watch =
        Process::spawn(Command::new(binary("middlenet")?).args(["status", run.name(), "--json", "--watch", "0.1"]))?;
    watch.wait_for_output("\n{", SOON)?;
    drop(watch);
    let output = middlenet(&["status", "no-such-run"])?;
    assert_eq!(output.status.code(), Some(1));

    let name = run.name().to_owned();
    run.stop()?;
    assert_eq!(middlenet(&["stop", &name])?.status.code(), Some(1), "it has stopped already");
    Ok(())
}

#[test]
fn stop_ends_a_run_from_elsewhere() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    let mut run = Runtime::start(&line.middle, &Line::manifest(&["monitor"]))?;
    let output = middlenet(&["stop", run.name()])?;
    assert!(output.status.success(), "{}", output.stderr);
    run.process().wait_for_output("stopped: ", SOON)?;
    Ok(())
}

#[test]
fn the_program_explains_itself() -> Result<(), Error> {
    let schema = json(&middlenet(&["schema"])?);
    assert!(schema["properties"]["chains"].is_object(), "{schema}");
    let list = json(&middlenet(&["functions", "--json"])?);
    let names: Vec<&str> = list.as_array().into_iter().flatten().filter_map(|entry| entry["name"].as_str()).collect();
    for name in ["firewall", "l2-bridge", "l2-forward", "l3-router", "monitor", "nat", "rate-limiter"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
        let output = middlenet(&["functions", name])?;
        assert!(output.status.success() && output.stdout.contains("Configuration"), "{}", output.stdout);
    }
    assert_eq!(middlenet(&["functions", "firewal"])?.status.code(), Some(1));
    for shell in ["bash", "zsh", "fish"] {
        let output = middlenet(&["completions", shell])?;
        assert!(output.status.success() && output.stdout.contains("middlenet"));
    }
    // Some finding may ask for attention; the answer is whole all the same.
    let findings = json(&middlenet(&["doctor", "--json"])?);
    assert!(findings.as_array().is_some_and(|list| list.len() > 3), "{findings}");
    assert!(!middlenet(&["doctor"])?.stdout.is_empty());
    assert_eq!(middlenet(&["no-such-command"])?.status.code(), Some(2));
    Ok(())
}
