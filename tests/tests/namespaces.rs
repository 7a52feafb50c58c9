//! The stage itself: namespaces reach each other, and nothing is left when they are dropped.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use middlenet_tests::{End, Error, Netns, Veth, require_root, unique_device_name, wait_until};

const SOON: Duration = Duration::from_secs(10);

fn pair() -> Result<(Netns, Netns, Veth), Error> {
    let left = Netns::new("left")?;
    let right = Netns::new("right")?;
    let veth = Veth::between(
        &End::new(&left, "eth0").address("10.77.0.1/24").address("fd77::1/64"),
        &End::new(&right, "eth0").address("10.77.0.2/24").address("fd77::2/64"),
    )?;
    Ok((left, right, veth))
}

fn exists(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[test]
fn two_namespaces_ping_each_other_and_are_gone_after_drop() -> Result<(), Error> {
    require_root!(Ok(()));
    let (left, right, veth) = pair()?;
    for (from, to) in [(&left, "10.77.0.2"), (&left, "fd77::2"), (&right, "10.77.0.1"), (&right, "fd77::1")] {
        from.exec("ping", ["-n", "-c", "3", "-i", "0.05", "-W", "2", to])?;
    }
    let received = left.statistic("eth0", "rx_packets")?;
    assert!(received >= 12, "12 echo requests and replies arrive at the left end, not {received}");

    // One process with a guard that outlives its namespace, one that only the namespace's own drop can end.
    let guarded = left.spawn("sleep", ["60"])?;
    let shell = right.spawn("sh", ["-c", "sleep 60 & echo $!; wait"])?;
    wait_until("the pid of the orphan", SOON, || shell.stdout().ends_with('\n'))?;
    let orphan: u32 = shell.stdout().trim().parse().expect("the shell prints a pid");
    let pids = [guarded.pid(), shell.pid(), orphan];
    assert!(pids.into_iter().all(exists));
    let paths: [PathBuf; 2] = [left.path(), right.path()];
    assert!(paths.iter().all(|path| path.exists()));

    drop((left, right, veth));
    drop((guarded, shell));
    assert!(!paths.iter().any(|path| path.exists()));
    wait_until("the end of every process", SOON, || !pids.into_iter().any(exists))
}

#[test]
fn a_namespace_of_a_dead_test_is_removed_by_the_next() -> Result<(), Error> {
    require_root!(Ok(()));
    // A process that has ended and was reaped: its pid is free.
    let mut child = std::process::Command::new("true").spawn().expect("true starts");
    child.wait().expect("true ends");
    let stale = format!("mn-stale-{}-0", child.id());
    let added = std::process::Command::new("ip").args(["netns", "add", &stale]).status().expect("ip starts");
    assert!(added.success());

    // The sweep is once per process, and another test of this process may have had it.
    let this_test = std::env::current_exe().expect("the test has a path");
    let swept = std::process::Command::new(this_test)
        .args(["--exact", "two_namespaces_ping_each_other_and_are_gone_after_drop"])
        .output()
        .expect("the test starts itself");
    assert!(swept.status.success(), "{}", String::from_utf8_lossy(&swept.stdout));
    assert!(!Path::new("/run/netns").join(&stale).exists(), "{stale} is still there");
    Ok(())
}

#[test]
fn an_end_on_the_host_is_removed_with_its_cable() -> Result<(), Error> {
    require_root!(Ok(()));
    let inside = Netns::new("inside")?;
    let device = unique_device_name();
    let sysfs = Path::new("/sys/class/net").join(&device);
    let veth = Veth::with_mtu(&End::on_host(&device).without_ipv6(), &End::new(&inside, "eth0"), 1400)?;
    assert_eq!(std::fs::read_to_string(sysfs.join("mtu")).expect("the end exists").trim(), "1400");
    drop(veth);
    assert!(!sysfs.exists());
    assert!(inside.mac("eth0").is_err(), "the other end goes with it");
    Ok(())
}

#[test]
fn an_end_has_the_settings_it_was_given() -> Result<(), Error> {
    require_root!(Ok(()));
    let left = Netns::new("left")?;
    let right = Netns::new("right")?;
    let _veth = Veth::between(
        &End::new(&left, "wan").mac("02:00:00:00:00:01").without_ipv6(),
        &End::new(&right, "lan").with_offloads(),
    )?;
    assert_eq!(left.mac("wan")?, "02:00:00:00:00:01");
    assert!(!left.exec("ip", ["addr", "show", "dev", "wan"])?.stdout.contains("inet6"));
    let checksums = |netns: &Netns, device| -> Result<bool, Error> {
        Ok(netns.exec("ethtool", ["-k", device])?.stdout.contains("tx-checksumming: on"))
    };
    assert!(!checksums(&left, "wan")?);
    assert!(checksums(&right, "lan")?);
    Ok(())
}

#[test]
fn a_thread_inside_opens_sockets_there() -> Result<(), Error> {
    require_root!(Ok(()));
    let (left, right, _veth) = pair()?;
    let listener = right.enter(|| TcpListener::bind("10.77.0.2:7000"))?.expect("the address is local there");
    assert!(TcpListener::bind("10.77.0.2:7000").is_err(), "the address is not local here");
    let mut client = left.enter(|| TcpStream::connect("10.77.0.2:7000"))?.expect("the listener is reachable");
    client.write_all(b"hello").expect("the connection is open");
    drop(client);
    let mut text = String::new();
    let (mut server, peer) = listener.accept().expect("a connection waits");
    server.read_to_string(&mut text).expect("the connection is open");
    assert_eq!((text.as_str(), peer.ip().to_string().as_str()), ("hello", "10.77.0.1"));
    Ok(())
}
