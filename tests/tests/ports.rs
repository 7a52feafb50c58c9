//! Kinds of ports: the host's own stack, generic XDP, several queues.

use std::time::Duration;

use middlenet_tests::{Conversation, Echo, End, Error, Line, Netns, Runtime, Veth, require_root, wait_until};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(20);

/// A host whose own stack is behind a chain: `client eth0 === wan [firewall, router] kernel port host0`.
struct Gate {
    client: Netns,
    host: Netns,
    _cable: Veth,
}

impl Gate {
    const MANIFEST: &'static str = "ports:
  wan: { xdp: wan }
  own: { kernel: { interface: host0, address: [10.9.0.2/24, 'fd09::2/64'] } }
chains:
  entry:
    ports: [wan, own]
    functions:
      - firewall: { default: drop, rules: [
          { proto: icmp, allow: true }, { proto: icmpv6, allow: true }, { dst_port: 7000, allow: true } ] }
      - l3-router: { addresses: [
          { address: 10.1.0.1/24, port: wan }, { address: 10.9.0.1/24, port: own },
          { address: 'fd01::1/64', port: wan }, { address: 'fd09::1/64', port: own } ] }
";

    fn new() -> Result<Self, Error> {
        let client = Netns::new("client")?;
        let host = Netns::new("host")?;
        let cable = Veth::between(
            &End::new(&client, "eth0").address("10.1.0.2/24").address("fd01::2/64"),
            &End::new(&host, "wan").without_ipv6(),
        )?;
        client.exec("ip", ["route", "add", "default", "via", "10.1.0.1"])?;
        client.exec("ip", ["route", "add", "default", "via", "fd01::1"])?;
        Ok(Self { client, host, _cable: cable })
    }

    fn add_routes(&self) -> Result<(), Error> {
        self.host.exec("ip", ["route", "add", "10.1.0.0/24", "via", "10.9.0.1"])?;
        // The address may be tentative for a second or two.
        wait_until("the route back", SOON, || {
            self.host.exec("ip", ["route", "replace", "fd01::/64", "via", "fd09::1"]).is_ok()
        })
    }

    fn interfaces(&self) -> Result<Vec<String>, Error> {
        let text = self.host.exec("ip", ["-o", "link", "show"])?.stdout;
        Ok(text.lines().filter_map(|line| Some(line.split_whitespace().nth(1)?.to_owned())).collect())
    }
}

#[test]
fn the_hosts_own_stack_is_reached_through_a_kernel_port() -> Result<(), Error> {
    require_root!(Ok(()));
    let gate = Gate::new()?;
    let before = gate.interfaces()?;
    let run = Runtime::start(&gate.host, Gate::MANIFEST)?;
    gate.add_routes()?;
    gate.client.wait_for_ping("10.9.0.2", SOON)?;
    gate.client.wait_for_ping("fd09::2", SOON)?;
    gate.host.wait_for_ping("10.1.0.2", SOON)?;
    let _echo = [Echo::start(&gate.host, "10.9.0.2:7000")?, Echo::start(&gate.host, "10.9.0.2:7001")?];
    let text: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    Conversation::tcp(&gate.client, "10.9.0.2:7000", SOON)?.say(&text, SOON)?;
    Conversation::udp(&gate.client, "10.9.0.2:7000")?.say(b"hello", SOON)?;
    let closed = Conversation::udp(&gate.client, "10.9.0.2:7001")?.say(b"hello", Duration::from_millis(300));
    assert!(closed.is_err(), "the firewall stands before the host's own stack");
    let summary = run.stop()?;
    assert!(summary.status.dropped("firewall", "denied") > 0);
    assert!(summary.status.port("own")["sent_bytes"].as_u64() > Some(200_000));
    assert_eq!(gate.interfaces()?, before, "the port's interfaces are gone");
    Ok(())
}

#[test]
fn what_a_killed_run_left_of_a_kernel_port_is_removed_by_the_next() -> Result<(), Error> {
    require_root!(Ok(()));
    let gate = Gate::new()?;
    let before = gate.interfaces()?;
    let mut run = Runtime::start(&gate.host, Gate::MANIFEST)?;
    run.end_with(Signal::SIGKILL)?;
    run.launch(&gate.host)?;
    gate.add_routes()?;
    gate.client.wait_for_ping("10.9.0.2", SOON)?;
    run.stop()?;
    assert_eq!(gate.interfaces()?, before);
    Ok(())
}

#[test]
fn generic_xdp_carries_the_same_traffic() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    let before = line.interfaces()?;
    let manifest = Line::manifest(&[Line::ROUTER]).replace("xdp: wan", "xdp: { interface: wan, mode: generic }");
    let run = Runtime::start(&line.middle, &manifest)?;
    assert!(line.middle.exec("ip", ["-d", "link", "show", "dev", "wan"])?.stdout.contains("xdpgeneric"));
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let _echo = Echo::start(&line.server, "10.2.0.2:7000")?;
    let text: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    Conversation::tcp(&line.client, "10.2.0.2:7000", SOON)?.say(&text, SOON)?;
    let summary = run.stop()?;
    assert_eq!(summary.status.port("wan")["kind"], "xdp generic");
    assert_eq!(summary.status.port("lan")["kind"], "xdp native");
    assert!(summary.status.port("wan")["received_bytes"].as_u64() > Some(200_000));
    assert_eq!(line.interfaces()?, before);
    Ok(())
}

#[test]
fn flows_are_spread_over_queues_and_replicas_and_stay_where_they_are() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::with_queues(2)?;
    line.silence_ipv6()?;
    let manifest = format!(
        "cores: {{ manager: [0, 1] }}\n{}",
        Line::manifest(&[Line::ROUTER, "monitor: { config: {}, replicas: 3 }"])
    );
    let run = Runtime::start(&line.middle, &manifest)?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let _echo = Echo::start(&line.server, "10.2.0.2:7000")?;
    let before = run.wait_for_rest()?;
    let flows = 40;
    let mut conversations = Vec::new();
    for _ in 0..flows {
        conversations.push(Conversation::tcp(&line.client, "10.2.0.2:7000", SOON)?);
    }
    for _ in 0..3 {
        for conversation in &mut conversations {
            conversation.say(b"one of many", SOON)?;
        }
    }
    drop(conversations);
    let status = run.wait_for_rest()?;
    // Each flow, both ways, is known to one monitor only: had any changed its place, there would be more.
    let counted = |counter: &str| status.counter("monitor", counter) - before.counter("monitor", counter);
    let directions = 2;
    let flows_seen = counted("new-flows");
    assert!(flows_seen >= flows, "{flows_seen} flows");
    let expected = [flows, flows * directions];
    // ARP and ICMP of the hosts may add a few.
    assert!(
        expected.iter().any(|exact| (*exact..exact + 8).contains(&flows_seen)),
        "{flows_seen} flows were seen of {flows}"
    );
    let monitors = status.instances("monitor");
    let busy = monitors.iter().filter(|i| {
        i["counters"].as_array().into_iter().flatten().any(|c| c["name"] == "tcp" && c["value"].as_u64() > Some(0))
    });
    assert_eq!(busy.count(), 3, "every replica has some of 40 flows");
    let workers = status.0["data_plane"]["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert_eq!(workers.len(), 2);
    assert!(workers.iter().all(|worker| worker["busy_turns"].as_u64() > Some(0)), "{workers:#?}");
    for port in ["wan", "lan"] {
        assert!(status.port_count(port, "received_pkts") - before.port_count(port, "received_pkts") >= 5 * flows);
    }
    run.stop()?;
    Ok(())
}
