//! Functions whose purpose shows only with hosts on all sides.

use std::time::{Duration, Instant};

use middlenet_tests::{
    Conversation, Echo, End, Error, Line, Netns, RawSocket, RunStatus, Runtime, Veth, require_root, wait_until,
};

const SOON: Duration = Duration::from_secs(20);

/// Replaces the way back: the server knows the outside address only.
fn nat_manifest() -> String {
    "ports:
  lan: { xdp: wan }
  out: { xdp: lan }
chains:
  transit:
    ports: [lan, out]
    functions:
      - l3-router: { addresses: [{ address: 10.1.0.1/24, port: lan }, { address: 10.2.0.1/24, port: out }] }
      - nat: { inside: lan, sources: [10.1.0.0/24], pool: 10.2.0.1, unsolicited: pass,
          forwards: [{ proto: tcp, outside: '10.2.0.1:8080', inside: '10.1.0.2:7000' }] }
"
    .into()
}

#[test]
fn hosts_behind_nat_reach_out_and_a_forwarded_port_leads_in() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    // Whatever arrives with an inside address cannot be answered.
    line.server.exec("ip", ["route", "del", "default"])?;
    let run = Runtime::start(&line.middle, &nat_manifest())?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    line.client.exec("ping", ["-n", "-c", "5", "-i", "0.05", "-W", "5", "10.2.0.2"])?;
    let _outside = Echo::start(&line.server, "10.2.0.2:7000")?;
    let _inside = Echo::start(&line.client, "10.1.0.2:7000")?;
    let text: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    let mut tcp = Conversation::tcp(&line.client, "10.2.0.2:7000", SOON)?;
    tcp.say(&text, SOON)?;
    Conversation::udp(&line.client, "10.2.0.2:7000")?.say(b"hello", SOON)?;
    Conversation::tcp(&line.server, "10.2.0.1:8080", SOON)?.say(&text, SOON)?;
    let refused = Conversation::tcp(&line.server, "10.2.0.1:8081", Duration::from_millis(300));
    assert!(refused.is_err(), "nothing is forwarded from 8081");

    // The mapping outlives the manager, and the session goes on.
    let manager = run.status()?.manager_pid().expect("a manager runs");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(manager.cast_signed()), nix::sys::signal::Signal::SIGKILL)
        .expect("the manager can be killed");
    run.wait_for("another manager", SOON, |s| s.is_running() && s.manager_pid() != Some(manager))?;
    tcp.say(&text, SOON)?;

    let summary = run.stop()?;
    let count = |counter| summary.status.counter("nat", counter);
    assert!(count("outbound") > 100 && count("inbound") > 100, "{:#?}", summary.status.instances("nat"));
    assert_eq!((count("exhausted"), count("no-session"), count("untranslatable")), (0, 0, 0));
    Ok(())
}

/// Three hosts at the ports of a bridge.
struct Star {
    middle: Netns,
    hosts: Vec<Netns>,
    _cables: Vec<Veth>,
}

impl Star {
    fn new() -> Result<Self, Error> {
        let middle = Netns::new("middle")?;
        let mut star = Self { middle, hosts: Vec::new(), _cables: Vec::new() };
        for number in 1..=3 {
            let host = Netns::new("host")?;
            let cable = Veth::between(
                &End::new(&host, "eth0")
                    .address(&format!("10.3.0.{number}/24"))
                    .mac(&format!("02:00:00:00:03:0{number}"))
                    .without_ipv6(),
                &End::new(&star.middle, &format!("p{number}")).without_ipv6(),
            )?;
            star.hosts.push(host);
            star._cables.push(cable);
        }
        Ok(star)
    }

    const MANIFEST: &'static str = "ports: { p1: { xdp: p1 }, p2: { xdp: p2 }, p3: { xdp: p3 } }
chains:
  lan:
    ports: [p1, p2, p3]
    functions: [l2-bridge]
";
}

#[test]
fn a_bridge_floods_what_it_does_not_know_and_learns() -> Result<(), Error> {
    require_root!(Ok(()));
    let star = Star::new()?;
    let run = Runtime::start(&star.middle, Star::MANIFEST)?;
    for (from, to) in [(0, 2), (0, 3), (1, 3), (1, 1), (2, 1), (2, 2)] {
        star.hosts[from].exec("ping", ["-n", "-c", "2", "-i", "0.05", "-W", "5", &format!("10.3.0.{to}")])?;
    }
    run.wait_for("three stations", SOON, |status| status.counter("l2-bridge", "stations") == 3)?;
    let before = run.wait_for_rest()?;
    // Known stations: nothing reaches the third.
    star.hosts[0].exec("ping", ["-n", "-c", "50", "-i", "0.01", "-W", "5", "10.3.0.2"])?;
    let after = run.wait_for_rest()?;
    let more = |counter| after.counter("l2-bridge", counter) - before.counter("l2-bridge", counter);
    assert!((100..110).contains(&more("known-unicast")), "{}", more("known-unicast"));
    let overheard = after.port_count("p3", "sent_pkts") - before.port_count("p3", "sent_pkts");
    assert!(overheard < 10, "{overheard} packets between two known stations left by the third's port");
    // An unknown station: everybody but the sender hears of it.
    let listeners = [RawSocket::open(&star.hosts[1], "eth0")?, RawSocket::open(&star.hosts[2], "eth0")?];
    let sender = RawSocket::open(&star.hosts[0], "eth0")?;
    let mut frame = vec![2, 0, 0, 0, 9, 9, 2, 0, 0, 0, 3, 1, 0x88, 0xb5];
    frame.resize(100, 0x5a);
    assert!(sender.send(&frame));
    for listener in listeners {
        wait_until("the flooded frame", SOON, || listener.receive().is_some_and(|heard| heard == frame))?;
    }
    let summary = run.stop()?;
    let made = summary.status.hop_count("l2-bridge", "originated_pkts");
    assert_eq!(made, summary.status.counter("l2-bridge", "flooded"), "one copy more of each at three ports");
    assert_eq!(summary.conservation.received + made, summary.conservation.sent + summary.conservation.dropped);
    Ok(())
}

#[test]
fn a_rate_limiter_lets_about_its_rate_pass() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    let limiter = "rate-limiter: { rate: 8Mbps, burst: 32KB, direction: forward }";
    let run = Runtime::start(&line.middle, &Line::manifest(&[limiter, Line::ROUTER]))?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let mut server = line.server.spawn("iperf3", ["-s", "-1", "--forceflush"])?;
    server.wait_for_output("Server listening", SOON)?;
    let arguments = ["-c", "10.2.0.2", "-u", "-b", "40M", "-l", "1000", "-t", "3", "-J"];
    let before = run.wait_for_rest()?.counter("rate-limiter", "passed");
    let began = Instant::now();
    line.client.exec("iperf3", arguments)?;
    let took = began.elapsed();
    let summary = run.stop()?;
    let status: &RunStatus = &summary.status;
    let limited = status.counter("rate-limiter", "limited");
    assert_eq!(limited, status.dropped("rate-limiter", "rate-exceeded"));
    // 8 Mb/s are 960 packets of 1042 bytes a second, 2878 in 3 s; the burst adds 30; the rest is control traffic. On a busy host it
    // takes longer, and there is not always something to send.
    let passed = status.counter("rate-limiter", "passed") - before;
    let most = (960.0 * took.as_secs_f64()) as u64 + 300;
    assert!((1400..most).contains(&passed), "{passed} packets passed in {took:?}, {limited} were limited");
    assert!(limited > 1000, "{limited} packets were limited");
    Ok(())
}

#[test]
fn a_router_tells_hosts_what_is_wrong_with_their_packets() -> Result<(), Error> {
    require_root!(Ok(()));
    let client = Netns::new("client")?;
    let middle = Netns::new("middle")?;
    let server = Netns::new("server")?;
    let _wide = Veth::between(
        &End::new(&client, "eth0").address("10.1.0.2/24").address("fd01::2/64"),
        &End::new(&middle, "wan").without_ipv6(),
    )?;
    let _narrow = Veth::with_mtu(
        &End::new(&server, "eth0").address("10.2.0.2/24").address("fd02::2/64"),
        &End::new(&middle, "lan").without_ipv6(),
        1300,
    )?;
    for (netns, side) in [(&client, 1), (&server, 2)] {
        netns.exec("ip", ["route", "add", "default", "via", &format!("10.{side}.0.1")])?;
        netns.exec("ip", ["route", "add", "default", "via", &format!("fd0{side}::1")])?;
    }
    let run = Runtime::start(&middle, &Line::manifest(&[Line::ROUTER]))?;
    client.wait_for_ping("10.2.0.2", SOON)?;
    client.wait_for_ping("fd02::2", SOON)?;

    // What ping prints of errors, whatever it thinks of their being all there is.
    let ping = |arguments: &[&str]| -> Result<String, Error> {
        let mut all = vec!["-n", "-c", "2", "-i", "0.2", "-W", "2"];
        all.extend(arguments);
        Ok(client.spawn("ping", all)?.wait(SOON)?.stdout)
    };
    // What may be cut in pieces is, and arrives. The host learns the smaller MTU only later.
    let said = ping(&["-M", "dont", "-s", "1400", "10.2.0.2"])?;
    assert!(said.contains(" 0% packet loss"), "{said}");
    let said = ping(&["-t", "1", "10.2.0.2"])?;
    assert!(said.contains("From 10.1.0.1") && said.contains("Time to live exceeded"), "{said}");
    let said = ping(&["-t", "1", "fd02::2"])?;
    assert!(said.contains("From fd01::1") && said.contains("Hop limit"), "{said}");
    let said = ping(&["-M", "do", "-s", "1400", "10.2.0.2"])?;
    assert!(said.contains("From 10.1.0.1") && said.contains("mtu = 1300"), "{said}");
    let said = ping(&["-M", "do", "-s", "1400", "fd02::2"])?;
    assert!(said.contains("From fd01::1") && said.contains("mtu=1300"), "{said}");
    let said = ping(&["10.77.0.1"])?;
    assert!(said.contains("From 10.1.0.1") && said.contains("Net Unreachable"), "{said}");
    let said = ping(&["-W", "4", "10.2.0.77"])?;
    assert!(said.contains("Host Unreachable") || said.contains("100% packet loss"), "{said}");

    let summary = run.stop()?;
    assert!(summary.status.counter("l3-router", "icmp-errors") >= 6);
    assert!(summary.status.counter("l3-router", "fragments") >= 4);
    assert!(summary.status.counter("l3-router", "nd-replies") > 0);
    assert!(summary.status.dropped("l3-router", "ttl-expired") >= 4);
    Ok(())
}
