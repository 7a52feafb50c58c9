//! Two runs on one interface are two security domains: what a function of one tries against the other and against the data planes
//! of both is refused.

use std::collections::BTreeMap;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::time::Duration;

use libbpf_rs::query::MapInfoIter;
use middlenet_tests::{
    End, Error, Netns, Output, Process, RunStatus, Runtime, Scratch, Veth, Web, binary, require_root, wait_until,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const INTRUDER: &str = env!("CARGO_BIN_EXE_middlenet-test-intruder");

/// A client, and a host whose one interface is shared by two runs. Software has macvlans where a NIC has VFs: each gets the
/// packets for its link address.
///
/// ```text
///   client eth0 10.1.0.2  ======  wan - vf-a  10.1.0.11, run a
///                                     - vf-b  10.1.0.12, run b
/// ```
struct Shared {
    client: Netns,
    host: Netns,
    _cable: Veth,
}

impl Shared {
    fn new() -> Result<Self, Error> {
        let (client, host) = (Netns::new("client")?, Netns::new("host")?);
        let wan = End::new(&host, "wan").without_ipv6();
        let cable = Veth::between(&End::new(&client, "eth0").address("10.1.0.2/24"), &wan)?;
        for vf in ["vf-a", "vf-b"] {
            host.exec("ip", ["link", "add", "link", "wan", "name", vf, "type", "macvlan", "mode", "bridge"])?;
            host.exec("sysctl", ["-qw", &format!("net.ipv6.conf.{vf}.disable_ipv6=1")])?;
            host.exec("ip", ["link", "set", vf, "up"])?;
        }
        Ok(Self { client, host, _cable: cable })
    }

    fn ping(&self) -> Result<(), Error> {
        ["10.1.0.11", "10.1.0.12"].iter().try_for_each(|address| self.client.wait_for_ping(address, SOON))
    }
}

/// A run that has one end of the network: its functions, and a router that answers.
fn manifest(vf: &str, address: &str, functions: &str) -> String {
    format!(
        "ports:\n  {vf}: {{ xdp: {vf} }}\nchains:\n  end:\n    ports: [{vf}]\n    functions:\n      - {functions}
      - l3-router: {{ addresses: [{{ address: {address}/24, port: {vf} }}] }}\n"
    )
}

fn intruder(config: &Value) -> String {
    manifest("vf-a", "10.1.0.11", &format!("intruder: {{ run: {INTRUDER}, config: {config} }}"))
}

fn processes(of: &str, status: &RunStatus) -> BTreeMap<String, u32> {
    let functions = status.0["functions"].as_array().into_iter().flatten();
    let named = functions.map(|f| (f["name"].as_str().unwrap_or_default(), &f["process"]["pid"]));
    let planes = [("supervisor", &status.0["pid"]), ("nf-manager", &status.0["manager"]["pid"])];
    let pid = |pid: &Value| u32::try_from(pid.as_u64().expect("it runs")).expect("a process id");
    named.chain(planes).map(|(name, number)| (format!("{of}'s {name}"), pid(number))).collect()
}

/// The user of each function process, which must be confined.
fn users(status: &RunStatus) -> Vec<String> {
    let functions = status.0["functions"].as_array().into_iter().flatten();
    let user = |function: &Value| {
        let confined = json!(["no-capabilities", "no-new-privileges", "seccomp"]);
        assert_eq!(function["confined"], confined, "{function:#}");
        let pid = function["process"]["pid"].as_u64().expect("it runs");
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let groups = text.lines().find_map(|line| line.strip_prefix("Groups:")).expect("a line for its groups");
        assert_eq!(groups.trim(), "", "no supplementary groups");
        function["user"].as_str().expect("a user").to_owned()
    };
    functions.map(user).collect()
}

fn maps() -> Vec<u32> {
    MapInfoIter::default().map(|map| map.id).collect()
}

fn outcomes(report: &Value, outcome: &str) -> Vec<String> {
    let all = report.as_object().expect("a report of attempts").iter();
    all.filter(|(_, how)| *how == outcome).map(|(what, _)| what.clone()).collect()
}

#[test]
fn a_function_reaches_nothing_of_another_run_on_the_same_interface() -> Result<(), Error> {
    require_root!(Ok(()));
    let stage = Shared::new()?;
    let maps_before = maps();
    let a = Runtime::start(&stage.host, &intruder(&json!({})))?;
    let b = Runtime::start(&stage.host, &manifest("vf-b", "10.1.0.12", "monitor: {}"))?;
    stage.ping()?;
    let (before_a, before_b) = (a.wait_for_rest()?, b.wait_for_rest()?);

    let (users_a, users_b) = (users(&before_a), users(&before_b));
    assert_eq!((users_a.len(), users_b.len()), (2, 2));
    assert!(users_a.iter().all(|u| *u == users_a[0]) && users_b.iter().all(|u| *u == users_b[0]));
    assert!(users_a[0] != users_b[0] && users_a[0] != "root" && users_b[0] != "root", "{users_a:?} {users_b:?}");

    // Somebody listens on each, so that nothing but the confinement stands in the way.
    let name = format!("middlenet-{}", a.name());
    let _listener = stage.host.enter(|| {
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).expect("a name")).expect("it is free")
    })?;
    let scratch = Scratch::new()?;
    let mut targets = processes("b", &before_b);
    targets.extend(processes("a", &before_a).into_iter().filter(|(who, _)| who != "a's intruder"));
    let new_maps: Vec<u32> = maps().into_iter().filter(|id| !maps_before.contains(id)).collect();
    assert!(!new_maps.is_empty(), "the ports' programs have maps");
    let config = json!({
        "processes": targets,
        "sockets": [format!("/run/middlenet/{}.sock", a.name()), format!("/run/middlenet/{}.sock", b.name())],
        "abstract_sockets": [name],
        "files": ["/run/middlenet", format!("/run/middlenet/{}.json", b.name()), b.manifest(), b.folder().path(), "/proc/net/tcp"],
        "maps": new_maps,
        "scratch": scratch.path(),
    });
    let applied = a.apply(&intruder(&config))?;
    assert!(applied.status.success(), "{}", applied.stderr);
    let report = a.status()?.instances("intruder")[0]["report"].clone();
    let tried = report.as_object().expect("a report of attempts");
    assert!(tried.len() > 9 * targets.len() + 22, "{report:#}");
    assert_eq!(
        outcomes(&report, "refused").len(),
        tried.len(),
        "everything is refused, nothing fails otherwise: {report:#}"
    );
    assert!(!scratch.file("made").exists());

    // The control experiment: without the confinement, the same attempts succeed, every one.
    let output = unconfined(&stage.host, &config)?;
    let control: Value = serde_json::from_str(&output.stdout).expect("a report");
    assert_eq!(outcomes(&control, "done").len(), tried.len(), "{control:#}");
    assert!(scratch.file("made").exists());

    stage.ping()?;
    let (after_a, after_b) = (a.wait_for_rest()?, b.wait_for_rest()?);
    assert_eq!((after_a.pids(), after_b.pids()), (before_a.pids(), before_b.pids()), "nobody died");
    for (status, vf) in [(&after_a, "vf-a"), (&after_b, "vf-b")] {
        assert!(status.port_count(vf, "received_pkts") > 0 && status.port_count(vf, "sent_pkts") > 0, "{vf}");
    }
    // Each got the packets for its own address, and counts every one.
    a.stop()?;
    b.stop()?;
    Ok(())
}

#[test]
fn a_hybrid_function_reaches_its_own_maps_and_no_others() -> Result<(), Error> {
    require_root!(Ok(()));
    let (client, host) = (Netns::new("client")?, Netns::new("host")?);
    let wan = End::new(&host, "wan").without_ipv6();
    let _cable = Veth::between(&End::new(&client, "eth0").address("10.1.0.2/24"), &wan)?;
    let hybrid = |config: &Value| {
        let intruder = format!("intruder: {{ run: {INTRUDER}, mode: reactive, config: {config} }}");
        manifest("wan", "10.1.0.11", &intruder)
    };
    let maps_before = maps();
    let run = Runtime::start(&host, &hybrid(&json!({})))?;
    client.wait_for_ping("10.1.0.11", SOON)?;
    let before = run.wait_for_rest()?;
    let mut targets = processes("the run", &before);
    // A function may send signals to itself.
    targets.remove("the run's intruder").expect("the function is among them");
    // Its own are among them: it has descriptors of those, and gets no others.
    let new_maps: Vec<u32> = maps().into_iter().filter(|id| !maps_before.contains(id)).collect();
    let config = json!({ "processes": targets, "maps": new_maps });
    let applied = run.apply(&hybrid(&config))?;
    assert!(applied.status.success(), "{}", applied.stderr);
    let own = "use its own maps";
    let report = || run.status().map(|status| status.instances("intruder")[0]["report"].clone());
    wait_until("a rule in the fast path", SOON, || report().is_ok_and(|report| report[own] == "done"))?;
    let report = report()?;
    let tried = report.as_object().expect("a report of attempts");
    assert!(tried.contains_key("make a BPF map") && tried.contains_key("load a BPF program"));
    assert_eq!(outcomes(&report, "done"), [own], "{report:#}");
    assert_eq!(outcomes(&report, "refused").len(), tried.len() - 1, "{report:#}");
    // Without the confinement they succeed.
    let control: Value = serde_json::from_str(&unconfined(&host, &config)?.stdout).expect("a report");
    assert_eq!(outcomes(&control, "done").len(), tried.len() - 1, "{control:#}");
    client.wait_for_ping("10.1.0.11", SOON)?;
    assert_eq!(run.wait_for_rest()?.pids(), before.pids(), "nobody died");
    run.stop()?;
    Ok(())
}

fn unconfined(host: &Netns, config: &Value) -> Result<Output, Error> {
    let output = Process::spawn(host.command(INTRUDER).arg(config.to_string()))?.wait(SOON)?;
    assert!(output.status.success(), "{}", output.stderr);
    Ok(output)
}

#[test]
fn two_runs_do_not_share_a_user() -> Result<(), Error> {
    require_root!(Ok(()));
    let stage = Shared::new()?;
    let of = |vf: &str, address: &str| format!("user: 52001\n{}", manifest(vf, address, "monitor: {}"));
    let a = Runtime::start(&stage.host, &of("vf-a", "10.1.0.11"))?;
    assert_eq!(users(&a.wait_for_rest()?), ["52001", "52001"]);
    let refused = Runtime::start(&stage.host, &of("vf-b", "10.1.0.12"));
    let Err(Error::EndedEarly { output, .. }) = refused else { panic!("{refused:?}") };
    let expected = format!("the user 52001 belongs to the run `{}`", a.name());
    assert!(output.contains(&expected), "{output}");
    // The same run once more is told of its name.
    let mut again = stage.host.command(binary("middlenet")?);
    let again = Process::spawn(again.arg("run").arg(a.manifest()))?.wait(SOON)?;
    assert!(again.stderr.contains(&format!("a run called `{}` is there already", a.name())), "{}", again.stderr);
    a.stop()?;
    // The user is free again.
    let b = Runtime::start(&stage.host, &of("vf-b", "10.1.0.12"))?;
    b.stop()?;
    Ok(())
}

#[test]
fn a_function_reads_and_writes_the_files_that_its_configuration_names() -> Result<(), Error> {
    require_root!(Ok(()));
    let stage = Shared::new()?;
    let scratch = Scratch::new()?;
    let folder = scratch.file("tables");
    let fail = |source| Error::File { path: folder.clone(), source };
    std::fs::create_dir(&folder).map_err(fail)?;
    // The folder lets nobody but root write: what is written there, the run makes for its user.
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).map_err(fail)?;
    let routes = folder.join("routes");
    std::fs::write(&routes, "10.7.0.0/16 10.1.0.2\n").map_err(fail)?;
    let own = json!({ "processes": {}, "files": [] });
    let list = |extra: &str| {
        format!(
            "ports:\n  vf-a: {{ xdp: vf-a }}\nchains:\n  end:\n    ports: [vf-a]\n    functions:
      - intruder: {{ run: {INTRUDER}, writes: [{}], config: {own} }}
      - l3-router: {{ addresses: [{{ address: 10.1.0.11/24, port: vf-a }}], routes_file: {}{extra} }}\n",
            folder.join("log").display(),
            routes.display()
        )
    };
    let run = Runtime::start(&stage.host, &list(""))?;
    let user: u32 = users(&run.wait_for_rest()?)[0].parse().expect("a number");
    let made = std::fs::metadata(folder.join("log")).map_err(fail)?;
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o777), (user, user, 0o640));
    // A table is replaced by another file of its name, as editors do.
    std::fs::write(folder.join("next"), "10.7.0.0/16 10.1.0.2\n10.8.0.0/16 10.1.0.2\n").map_err(fail)?;
    std::fs::rename(folder.join("next"), &routes).map_err(fail)?;
    let applied =
        run.apply(&list(", ttl: check").replace(", ttl: check", ", routes: [{ to: 10.9.0.0/16, via: 10.1.0.2 }]"))?;
    assert!(applied.status.success(), "{}{}", applied.stdout, applied.stderr);
    run.stop()?;
    Ok(())
}

/// A log that is rotated as logrotate does it: moved away, and a new file made for its writer.
#[test]
fn an_access_log_is_written_by_the_runs_user_and_rotated() -> Result<(), Error> {
    require_root!(Ok(()));
    let web = Web::new()?;
    let scratch = Scratch::new()?;
    let folder = scratch.file("log");
    let fail = |source| Error::File { path: folder.clone(), source };
    std::fs::create_dir(&folder).map_err(fail)?;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).map_err(fail)?;
    let log = folder.join("access.log");
    let entry = format!("access-log: {{ file: {}, flush_ms: 100 }}", log.display());
    let run = Runtime::start(&web.host, &Web::manifest(&Web::processes("skmsg"), &[&entry, Web::PROXY]))?;
    let lines = |path: &Path| std::fs::read_to_string(path).map_or(0, |text| text.lines().count());
    let ask = || web.host.exec("curl", ["-sf", "-o", "/dev/null", &format!("http://{}/", Web::ADDRESS)]);
    ask()?;
    wait_until("the first line", SOON, || lines(&log) == 1)?;
    let user: u32 = users(&run.status()?)[0].parse().expect("a number");
    assert_eq!(std::fs::metadata(&log).map_err(fail)?.uid(), user);

    let old = folder.join("access.log.1");
    let next = folder.join("next");
    std::fs::write(&next, "").map_err(fail)?;
    std::os::unix::fs::chown(&next, Some(user), Some(user)).map_err(fail)?;
    std::fs::rename(&log, &old).map_err(fail)?;
    std::fs::rename(&next, &log).map_err(fail)?;
    run.wait_for("the new file", SOON, |status| status.counter("access-log", "reopened") > 0)?;
    ask()?;
    wait_until("the second line", SOON, || lines(&log) == 1)?;
    assert_eq!(lines(&old), 1);

    // Without a new one it cannot make one, here, and goes on with the old.
    std::fs::rename(&log, &old).map_err(fail)?;
    run.wait_for("a failure", SOON, |status| status.counter("access-log", "reopen-failed") > 0)?;
    ask()?;
    wait_until("the third line", SOON, || lines(&old) == 2)?;
    run.stop_requests()?;
    Ok(())
}
