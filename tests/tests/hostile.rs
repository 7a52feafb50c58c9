//! Frames that no honest host would send.

use std::time::Duration;

use middlenet_tests::{Error, Line, RawSocket, Runtime, random_frame, require_root};

const SOON: Duration = Duration::from_secs(30);
const FRAMES: u64 = 20_000;

/// `02:00:00:00:00:01` as bytes.
fn octets(mac: &str) -> [u8; 6] {
    let mut octets = [0; 6];
    for (octet, text) in octets.iter_mut().zip(mac.split(':')) {
        *octet = u8::from_str_radix(text, 16).expect("a link address");
    }
    octets
}

fn nothing_dies(functions: &[&str]) -> Result<(), Error> {
    let line = Line::new()?;
    let run = Runtime::start(&line.middle, &Line::manifest(functions))?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let before = run.wait_for_rest()?;
    let sides = [(&line.client, "wan"), (&line.server, "lan")];
    for (host, port) in sides {
        let socket = RawSocket::open(host, "eth0")?;
        let (dst, src) = (octets(&line.middle.mac(port)?), octets(&host.mac("eth0")?));
        // The kernel itself refuses few; it loses none while the ring is not full, which back-pressure would count.
        let taken = (0..FRAMES).filter(|&seed| socket.send(&random_frame(seed, dst, src))).count() as u64;
        assert!(taken > FRAMES * 9 / 10, "the kernel took only {taken} of {FRAMES} frames");
        let arrived = |status: &middlenet_tests::RunStatus| {
            status.port_count(port, "received_pkts") - before.port_count(port, "received_pkts") + status.missed(port)
        };
        run.wait_for("the arrival of the frames", SOON, |status| arrived(status) >= taken * 9 / 10)?;
    }
    let status = run.wait_for_rest()?;
    assert_eq!(status.pids(), before.pids(), "no process died; the log:\n{}", run.log());
    assert!(status.conservation().dropped > before.conservation().dropped + FRAMES / 10, "{:?}", status.drops());
    // Each function has met what its neighbours let pass, and none gave back what it did not hold.
    for hop in status.0["data_plane"]["hops"].as_array().into_iter().flatten() {
        assert_eq!(hop["refused_descriptors"], serde_json::json!([]), "{hop:#}");
        assert!(hop["in_pkts"].as_u64() > Some(100), "{hop:#}");
    }
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let summary = run.stop()?;
    assert!(!summary.log.contains("panicked"), "{}", summary.log);
    Ok(())
}

#[test]
fn garbage_through_firewall_limiter_and_router() -> Result<(), Error> {
    require_root!(Ok(()));
    nothing_dies(&[
        "monitor",
        "firewall: { default: allow, fragments: track, rules: [{ proto: tcp, tcp_flags: 'syn,fin', reject: true }] }",
        "rate-limiter: { rate: 10Gbps, per: flow }",
        Line::ROUTER,
    ])
}

#[test]
fn garbage_through_router_and_nat() -> Result<(), Error> {
    require_root!(Ok(()));
    nothing_dies(&[
        Line::ROUTER,
        "nat: { inside: wan, sources: [10.1.0.0/24], pool: 10.2.0.1, unsolicited: pass, proxy_arp: true }",
        "monitor",
    ])
}

#[test]
fn garbage_through_inline_functions() -> Result<(), Error> {
    require_root!(Ok(()));
    let placement = "placement: inline";
    let router = Line::ROUTER.replace("l3-router: {", &format!("l3-router: {{ {placement}, config: {{")) + " }";
    nothing_dies(&[
        &format!("firewall: {{ {placement}, config: {{ default: allow }} }}"),
        &format!("monitor: {{ {placement}, config: {{}} }}"),
        &router,
    ])
}

/// Between two hosts that know each other's link addresses.
#[test]
fn garbage_through_layer_two() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    for (host, address) in [(&line.client, "10.4.0.1/24"), (&line.server, "10.4.0.2/24")] {
        host.exec("ip", ["addr", "add", address, "dev", "eth0"])?;
    }
    let run = Runtime::start(
        &line.middle,
        &Line::manifest(&["l2-bridge", "monitor", "l2-forward: { src: keep, dst: keep }"]),
    )?;
    line.client.wait_for_ping("10.4.0.2", SOON)?;
    let before = run.wait_for_rest()?;
    let socket = RawSocket::open(&line.client, "eth0")?;
    let (dst, src) = (octets(&line.server.mac("eth0")?), octets(&line.client.mac("eth0")?));
    let taken = (0..FRAMES).filter(|&seed| socket.send(&random_frame(seed, dst, src))).count() as u64;
    run.wait_for("the arrival of the frames", SOON, |status| {
        status.port_count("wan", "received_pkts") - before.port_count("wan", "received_pkts") + status.missed("wan")
            >= taken * 9 / 10
    })?;
    let status = run.wait_for_rest()?;
    assert_eq!(status.pids(), before.pids(), "no process died; the log:\n{}", run.log());
    line.client.wait_for_ping("10.4.0.2", SOON)?;
    run.stop()?;
    Ok(())
}
