//! Fast paths where something is missing: the function, native XDP, a port that takes packets, the interface, the kernel's consent.

use std::time::Duration;

use middlenet_tests::{
    By, Conversation, Echo, Error, Line, Marked, RunStatus, Runtime, Sent, require_root, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(20);

fn marker(config: &str, options: &str) -> String {
    let run = env!("CARGO_BIN_EXE_middlenet-test-marker");
    format!("a: {{ run: {run}, config: {{ field: src{config} }}, mode: reactive{options} }}")
}

fn manifest(config: &str, options: &str) -> String {
    Line::manifest(&[&marker(config, options)])
}

/// Lets the hosts take packets straight from programs, or not.
fn set_direct(line: &Line, direct: &str) -> Result<(), Error> {
    for host in [&line.client, &line.server] {
        host.exec("ethtool", ["-K", "eth0", "gro", direct])?;
    }
    Ok(())
}

fn slow(status: &RunStatus, reason: &str) -> u64 {
    let slow = status.hop("a")["fast_path"]["slow"].as_array().cloned().unwrap_or_default();
    slow.iter().filter(|count| count[0] == reason).filter_map(|count| count[1].as_u64()).sum()
}

/// Takes the function away, and while it is down known flows go on without a loss, and others as the manifest says. Then it comes back.
fn while_the_function_is_down(on_failure: &str) -> Result<(), Error> {
    let line = Line::new()?;
    set_direct(&line, "on")?;
    let mut packets = Marked::on(&line)?;
    let program = env!("CARGO_BIN_EXE_middlenet-test-marker");
    let options = format!(", on_failure: {on_failure}");
    let mut run = Runtime::prepare(&manifest("", &options).replace(program, "./marker"))?;
    let copy = run.folder().path().join("marker");
    let put = || std::fs::copy(program, &copy).map(drop).map_err(|source| Error::File { path: copy.clone(), source });
    put()?;
    run.launch(&line.middle)?;
    packets.send(&Sent::to_port(1), false).expect("the first packet");
    let pid = run.status()?.pid("a").expect("the function has a process");
    // Without its program it cannot be started anew.
    std::fs::remove_file(&copy).map_err(|source| Error::File { path: copy.clone(), source })?;
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("the function is the test's own");
    run.wait_for("the loss", SOON, |status| status.restarts("a") > 0)?;
    let bypasses = on_failure == "bypass";
    for _ in 0..100 {
        let arrived = packets.send(&Sent::to_port(1), false).expect("a known flow goes on");
        assert_eq!((arrived.marks[1], arrived.functions), (By::FastPath, 1));
    }
    for _ in 0..3 {
        let packet = Sent::to_port(2);
        let arrived = if bypasses { packets.send(&packet, false) } else { packets.send_in_vain(&packet) };
        assert_eq!(arrived.map(|arrived| (arrived.marks[1], arrived.functions)), bypasses.then_some((By::Nobody, 0)));
    }
    run.wait_for("the counts", SOON, |status| {
        let (bypassed, dropped) = (status.hop_count("a", "bypassed_pkts"), status.dropped("a", "function-down"));
        (if bypasses { bypassed } else { dropped }) >= 3
    })?;
    put()?;
    run.wait_for("the function's return", SOON, RunStatus::is_running)?;
    // The flows that it knew are still there.
    let arrived = packets.send(&Sent::to_port(1), false).expect("the known flow");
    assert_eq!(arrived.marks[1], By::FastPath);
    wait_until("a new flow", SOON, || {
        packets.send_in_vain(&Sent::to_port(3)).is_some_and(|arrived| arrived.marks[1] == By::FastPath)
    })?;
    run.stop()?;
    Ok(())
}

#[test]
fn known_flows_go_on_without_their_function() -> Result<(), Error> {
    require_root!(Ok(()));
    while_the_function_is_down("drop")
}

#[test]
fn unknown_flows_skip_a_function_that_is_down() -> Result<(), Error> {
    require_root!(Ok(()));
    while_the_function_is_down("bypass")
}

#[test]
fn a_host_that_takes_no_packets_from_programs_gets_them_from_the_manager() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    let mut packets = Marked::on(&line)?;
    let run = Runtime::start(&line.middle, &manifest("", ""))?;
    for by in [By::Function, By::FastPath, By::FastPath] {
        let arrived = packets.send(&Sent::to_port(1), false).expect("the packet");
        assert_eq!((arrived.marks[1], arrived.functions), (by, 1));
    }
    let status = run.wait_for_rest()?;
    assert_eq!((slow(&status, "end"), status.hop("a")["fast_path"]["sent"].as_u64()), (2, Some(0)));
    // As soon as it does, they go straight there.
    set_direct(&line, "on")?;
    run.wait_for("a packet past the manager", SOON, |status| {
        let arrived = packets_again(&line);
        arrived && status.hop("a")["fast_path"]["sent"].as_u64() > Some(0)
    })?;
    let arrived = packets.send(&Sent::to_port(1), false).expect("the packet");
    assert_eq!((arrived.marks[1], arrived.functions), (By::FastPath, 1));
    set_direct(&line, "off")?;
    let ends = slow(&run.status()?, "end");
    wait_until("packets by the manager again", SOON, || {
        packets.send_in_vain(&Sent::to_port(1));
        run.status().is_ok_and(|status| slow(&status, "end") > ends)
    })?;
    run.stop()?;
    Ok(())
}

/// Sends one packet of the known flow; whether it arrived.
fn packets_again(line: &Line) -> bool {
    Marked::on(line).is_ok_and(|mut packets| packets.send_in_vain(&Sent::to_port(1)).is_some())
}

#[test]
fn without_native_xdp_fast_paths_work_in_generic_mode() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    let before = line.interfaces()?;
    let mut packets = Marked::on(&line)?;
    let generic = ["wan", "lan"].iter().fold(manifest("", ""), |manifest, port| {
        manifest.replace(&format!("xdp: {port} "), &format!("xdp: {{ interface: {port}, mode: generic }} "))
    });
    let run = Runtime::start(&line.middle, &generic)?;
    for reverse in [false, true] {
        for by in [By::Function, By::FastPath, By::FastPath] {
            let arrived = packets.send(&Sent::to_port(1 + u16::from(reverse)), reverse).expect("the packet");
            assert_eq!((arrived.marks[1], arrived.functions), (by, 1));
        }
    }
    let status = run.wait_for_rest()?;
    assert_eq!(status.port("wan")["kind"], "xdp generic");
    run.stop()?;
    assert_eq!(line.interfaces()?, before);
    Ok(())
}

#[test]
fn an_interface_that_is_back_has_its_fast_paths_again() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    set_direct(&line, "on")?;
    let run = Runtime::start(&line.middle, &manifest("", ""))?;
    let mut packets = Marked::on(&line)?;
    packets.send(&Sent::to_port(1), false).expect("the first packet");
    line.middle.exec("ip", ["link", "delete", "lan"])?;
    run.wait_for("the loss", SOON, |status| status.port("lan")["kind"] == "gone")?;
    // The flow is known, but there is nowhere to send its packets: they go to the manager, which counts them.
    let ends = slow(&run.status()?, "end");
    run.wait_for("the end of the way", SOON, |status| {
        packets_lost(&line);
        slow(status, "end") > ends
    })?;
    line.middle
        .exec("ip", ["link", "add", "lan", "type", "veth", "peer", "name", "eth0", "netns", line.server.name()])?;
    line.middle.exec("ip", ["link", "set", "lan", "up"])?;
    line.server.exec("ip", ["link", "set", "eth0", "up"])?;
    for device in [(&line.middle, "lan"), (&line.server, "eth0")] {
        device.0.exec("ethtool", ["-K", device.1, "tx", "off", "gro", "on"])?;
    }
    run.wait_for("its return", SOON, |status| status.port("lan")["restarts"] == 1)?;
    let mut packets = Marked::on(&line)?;
    wait_until("the known flow", SOON, || {
        packets.send_in_vain(&Sent::to_port(1)).is_some_and(|arrived| arrived.marks[1] == By::FastPath)
    })?;
    let sent = |status: &RunStatus| status.hop("a")["fast_path"]["sent"].as_u64().unwrap_or_default();
    let before = sent(&run.status()?);
    wait_until("packets past the manager", SOON, || {
        packets.send_in_vain(&Sent::to_port(1));
        run.status().is_ok_and(|status| sent(&status) > before)
    })?;
    wait_until("the way back", SOON, || {
        packets.send(&Sent::to_port(4), true).is_some_and(|arrived| arrived.marks[1] == By::FastPath)
    })?;
    run.stop()?;
    Ok(())
}

/// Sends a packet of the known flow for which there is no other end.
fn packets_lost(line: &Line) {
    if let Ok(socket) = middlenet_tests::RawSocket::open(&line.client, "eth0") {
        socket.send(&Sent::to_port(1).frame(u64::MAX));
    }
}

#[test]
fn a_manager_that_is_killed_takes_the_fast_path_with_it_and_makes_it_anew() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    set_direct(&line, "on")?;
    let mut packets = Marked::on(&line)?;
    let run = Runtime::start(&line.middle, &manifest("", ""))?;
    packets.send(&Sent::to_port(1), false).expect("the first packet");
    let status = run.status()?;
    let (manager, function) = (status.manager_pid().expect("a manager"), status.pid("a").expect("a function"));
    kill(Pid::from_raw(manager.cast_signed()), Signal::SIGKILL).expect("the manager is the test's own");
    run.wait_for("the next manager", SOON, |status| {
        status.is_running() && status.manager_pid() != Some(manager) && status.pid("a") != Some(function)
    })?;
    // Each is of another flow: one that comes too late has made its flow known.
    let mut port = 1;
    wait_until("a first packet again", SOON, || {
        port += 1;
        packets.send_in_vain(&Sent::to_port(port)).is_some_and(|arrived| arrived.marks[1] == By::Function)
    })?;
    let arrived = packets.send(&Sent::to_port(port), false).expect("the next packet");
    assert_eq!((arrived.marks[1], arrived.functions), (By::FastPath, 1));
    run.stop()?;
    Ok(())
}

/// The fast path of a new manager has no rules before the function has written them: nobody would filter what goes to the kernel.
#[test]
fn nothing_is_left_to_the_kernel_before_the_function_has_written_its_rules() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    line.route_in_the_kernel()?;
    let program = env!("CARGO_BIN_EXE_middlenet-test-marker");
    let function = "a: { run: ./marker, config: { field: nothing, by: dst-port }, mode: offloading }";
    let mut run = Runtime::prepare(&Line::manifest(&[function]))?;
    let copy = run.folder().path().join("marker");
    let put = || std::fs::copy(program, &copy).map(drop).map_err(|source| Error::File { path: copy.clone(), source });
    put()?;
    run.launch(&line.middle)?;
    let _echo = Echo::start(&line.server, "10.2.0.2:7")?;
    let speak = |patience| Conversation::udp(&line.client, "10.2.0.2:7")?.say(b"by the kernel", patience);
    speak(SOON)?;
    let manager = run.status()?.manager_pid().expect("a manager");
    std::fs::remove_file(&copy).map_err(|source| Error::File { path: copy.clone(), source })?;
    kill(Pid::from_raw(manager.cast_signed()), Signal::SIGKILL).expect("the manager is the test's own");
    let waiting = |status: &RunStatus| {
        let is_up = status.0["data_plane"].is_object();
        if is_up { slow(status, "miss") } else { 0 }
    };
    // As long as there is no manager, there is no program on the interfaces.
    run.wait_for("the next manager", SOON, |status| {
        let _ = speak(Duration::from_millis(100));
        status.manager_pid().is_some_and(|pid| pid != manager) && waiting(status) > 0
    })?;
    let before = waiting(&run.status()?);
    for _ in 0..5 {
        assert!(speak(Duration::from_millis(100)).is_err(), "nobody has filtered it");
    }
    assert!(waiting(&run.status()?) >= before + 5, "they are for the function");
    put()?;
    run.wait_for("the function's return", SOON, RunStatus::is_running)?;
    wait_until("the kernel's turn", SOON, || speak(Duration::from_millis(100)).is_ok())?;
    run.stop()?;
    Ok(())
}

#[test]
fn a_mode_that_cannot_be_is_refused_at_its_place() -> Result<(), Error> {
    require_root!(Ok(()));
    let refused = |manifest: &str| -> Result<String, Error> {
        let run = Runtime::prepare(manifest)?;
        let output = run.command(&["check", &run.manifest().display().to_string()])?;
        assert!(!output.status.success(), "{}", output.stdout);
        Ok(output.stderr)
    };
    let text = refused(&Line::manifest(&["m: { use: monitor, config: {}, mode: reactive }"]))?;
    assert!(text.contains("`m` has no fast path"), "{text}");
    let dpdk = manifest("", "").replace("xdp: lan", "dpdk: net_null0").replace("reactive", "offloading");
    let text = refused(&dpdk)?;
    assert!(text.contains("the port `lan` is a DPDK port"), "{text}");
    let greedy = format!("greedy: {{ run: {}, mode: reactive }}", env!("CARGO_BIN_EXE_middlenet-test-greedy"));
    let text = refused(&Line::manifest(&[&greedy]))?;
    assert!(text.contains("`greedy` wants room for 4294967295 flows, more than 4194304"), "{text}");
    let odd = format!("odd: {{ run: {}, mode: reactive }}", env!("CARGO_BIN_EXE_middlenet-test-unloadable"));
    let text = refused(&Line::manifest(&[&odd]))?;
    assert!(text.contains("the fast path of `odd` has services, but no room for flows"), "{text}");
    let run = Runtime::prepare(&manifest("", ""))?;
    let text = run.command(&["check", &run.manifest().display().to_string()])?.stdout;
    assert!(text.contains("FAST PATH") && text.contains("transit/a  reactive"), "{text}");
    Ok(())
}
