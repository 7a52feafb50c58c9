//! An offloaded filter on a host whose kernel routes: what is forwarded in XDP, what the kernel forwards, and what it filters.

use std::time::Duration;

use middlenet_tests::{
    Conversation, Echo, End, Error, Line, Netns, RunStatus, Runtime, Veth, require_root, wait_until_still,
};

const SOON: Duration = Duration::from_secs(20);

/// What both hosts send to each other passes; of others the kernel decides.
const EFW: &str = "efw: { config: { rules: [{ src: [10.1.0.2, 'fd01::2'], allow: true }, { src: [10.2.0.2, 'fd02::2'], allow: true }] }, mode: offloading }";

/// A line whose middle routes both versions of IP.
fn routed_line() -> Result<Line, Error> {
    let line = Line::new()?;
    line.let_packets_leave_directly()?;
    line.route_in_the_kernel()?;
    for (device, address) in [("wan", "fd01::1/64"), ("lan", "fd02::1/64")] {
        line.middle.exec("sysctl", ["-qw", &format!("net.ipv6.conf.{device}.disable_ipv6=0")])?;
        line.middle.exec("ip", ["address", "add", address, "dev", device, "nodad"])?;
    }
    line.middle.exec("sysctl", ["-qw", "net.ipv6.conf.all.forwarding=1"])?;
    Ok(line)
}

/// Pings, all of which are answered.
fn ping(from: &Netns, arguments: &[&str]) -> Result<String, Error> {
    let said = from.exec("ping", [&["-c", "10", "-i", "0.02", "-W", "5"], arguments].concat())?.stdout;
    assert!(said.contains("10 received"), "{arguments:?}: {said}");
    Ok(said)
}

#[test]
fn an_offloaded_filter_forwards_what_it_allows_and_leaves_the_rest_to_the_kernel() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = routed_line()?;
    line.middle.exec("iptables", ["-A", "FORWARD", "-s", "10.1.0.9", "-j", "DROP"])?;
    line.client.exec("ip", ["address", "add", "10.1.0.9/24", "dev", "eth0"])?;
    line.client.exec("ip", ["address", "add", "10.1.0.8/24", "dev", "eth0"])?;
    let run = Runtime::start(&line.middle, &Line::manifest(&[EFW]))?;
    for address in ["10.2.0.2", "fd02::2"] {
        line.client.wait_for_ping(address, SOON)?;
    }
    let sent = || run.status().map(|status| status.fast("efw", "sent"));
    let not_forwarded = || run.status().map(|status| status.left("efw", "kernel", "not-forwarded"));
    // Pings that were not waited for may be answered late.
    wait_until_still("the end of the first pings", SOON, sent)?;
    // What came before there were rules, as words of neighbours, had to wait for the function.
    let counters = |status: &RunStatus| ["unmatched", "denied", "allowed"].map(|name| status.counter("efw", name));
    let first = counters(&run.wait_for_rest()?);
    // There and back, past the kernel's stack.
    for address in ["10.2.0.2", "fd02::2"] {
        let before = sent()?;
        let said = ping(&line.client, &[address])?;
        assert!(said.contains("ttl=63"), "{said}");
        assert_eq!(sent()? - before, 20, "{address}");
    }
    let (before, kept) = (sent()?, not_forwarded()?);
    let said = ping(&line.client, &["-R", "10.2.0.2"])?;
    assert!(said.contains("RR:") && said.contains("10.2.0.1"), "the kernel has recorded the route: {said}");
    // Hosts ask each other's addresses now and then, which the kernel answers.
    assert_eq!(sent()?, before, "options");
    assert!(not_forwarded()? - kept >= 20, "options");
    // TTL that is over is the kernel's to answer, which is said by its own address.
    for (arguments, answer) in [(["-t", "1", "10.2.0.2"], "From 10.1.0.1"), (["-t", "1", "fd02::2"], "From fd01::1")] {
        let ping = format!("ping -c 1 -W 5 {} || true", arguments.join(" "));
        let said = line.client.exec("sh", ["-c", &ping])?.stdout;
        assert!(said.contains(answer) && said.to_lowercase().contains("time"), "{said}");
    }
    assert_eq!(sent()?, before);
    // No rule knows these: netfilter drops one, and the other passes.
    let kept = run.status()?.left("efw", "kernel", "miss");
    let said = line.client.exec("sh", ["-c", "ping -c 2 -i 0.1 -W 1 -I 10.1.0.9 10.2.0.2 || true"])?.stdout;
    assert!(said.contains(" 0 received"), "{said}");
    ping(&line.client, &["-I", "10.1.0.8", "10.2.0.2"])?;
    let status = run.wait_for_rest()?;
    assert!(status.left("efw", "kernel", "miss") >= kept + 12, "{:#}", status.hop("efw"));
    assert_eq!(counters(&status), first, "nothing comes to user space");
    status.assert_fast_paths_conserve();
    run.stop()?;
    Ok(())
}

/// The kernel's route leads out of a port that another chain has: the kernel sends by it, and no chain is entered or left in between.
#[test]
fn the_port_of_another_chain_is_no_way_out() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = routed_line()?;
    let side = Netns::new("side")?;
    let _cable = Veth::between(
        &End::new(&side, "eth0").address("10.3.0.2/24").without_ipv6(),
        &End::new(&line.middle, "opt").address("10.3.0.1/24").without_ipv6(),
    )?;
    side.exec("ip", ["route", "add", "default", "via", "10.3.0.1"])?;
    side.exec("ethtool", ["-K", "eth0", "gro", "on"])?;
    // Its packets are left to the kernel as well, by rules of another chain.
    let other = EFW.replace("efw: {", "other: { use: efw,").replace("10.2.0.2", "10.3.0.2");
    let manifest = Line::manifest(&[EFW])
        .replace("  lan: { xdp: lan }\n", "  lan: { xdp: lan }\n  opt: { xdp: opt }\n")
        + &format!("  side:\n    ports: [opt]\n    functions:\n      - {other}\n");
    let run = Runtime::start(&line.middle, &manifest)?;
    for address in ["10.3.0.2", "10.2.0.2"] {
        line.client.wait_for_ping(address, SOON)?;
    }
    let counts = || -> Result<_, Error> {
        let status = run.status()?;
        let of = |hop: &str| (status.fast(hop, "sent"), status.left(hop, "kernel", "not-forwarded"));
        Ok((of("efw"), of("other")))
    };
    wait_until_still("the end of the first pings", SOON, || Ok(counts()?.0.0))?;
    let in_user_space = |status: &RunStatus| {
        ["wan", "lan", "opt"]
            .map(|port| (status.port_count(port, "received_pkts"), status.port_count(port, "sent_pkts")))
    };
    // What came before there were rules.
    let first = in_user_space(&run.wait_for_rest()?);
    let (before, before_other) = counts()?;
    let said = ping(&line.client, &["10.3.0.2"])?;
    assert!(said.contains("ttl=63"), "{said}");
    let _echo = Echo::start(&side, "10.3.0.2:7000")?;
    Conversation::tcp(&line.client, "10.3.0.2:7000", SOON)?.say(&[7; 20_000], SOON)?;
    let (after, after_other) = counts()?;
    assert_eq!((after.0, after_other.0), (before.0, before_other.0), "none of it went straight out");
    assert!(
        after.1 >= before.1 + 12 && after_other.1 >= before_other.1 + 12,
        "{before:?} {after:?} {before_other:?} {after_other:?}"
    );
    let status = run.wait_for_rest()?;
    assert_eq!(in_user_space(&status), first, "nothing came to user space");
    status.assert_fast_paths_conserve();
    run.stop()?;
    Ok(())
}
