//! An attachment ends with its guard and with its process, and never takes an interface from somebody else.

use std::env;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use middlenet_bpf::{Error, Mode, XdpAttachment, XdpMode, XdpPort};
use middlenet_tests::{End, Netns, Process, Veth, require_root, wait_until};
use nix::net::if_::if_nametoindex;
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(10);

/// Set for the child of `a_killed_process_leaves_the_interface_as_it_was`: the interface to hold.
const HOLD: &str = "MIDDLENET_TEST_HOLD_INTERFACE";

fn pair() -> (Netns, Netns, Veth) {
    let left = Netns::new("left").expect("a namespace");
    let right = Netns::new("right").expect("a namespace");
    let veth = Veth::between(
        &End::new(&left, "eth0").address("10.78.0.1/24").without_ipv6(),
        &End::new(&right, "eth0").address("10.78.0.2/24").without_ipv6(),
    )
    .expect("a cable");
    (left, right, veth)
}

fn attach(netns: &Netns, device: &str, mode: Mode) -> Result<XdpAttachment, Error> {
    netns
        .enter(|| XdpPort::load(if_nametoindex(device).expect("the device is there"))?.attach(mode))
        .expect("the namespace can be entered")
}

/// What `ip` shows of the XDP program on a device: `xdp` for native mode, `xdpgeneric` for generic, nothing for none.
fn shown(netns: &Netns, device: &str) -> Option<&'static str> {
    let text = netns.exec("ip", ["-details", "link", "show", "dev", device]).expect("ip link").stdout;
    if !text.contains("prog/xdp") {
        None
    } else if text.contains(" xdpgeneric ") {
        Some("generic")
    } else {
        Some("native")
    }
}

#[test]
fn a_driver_with_xdp_takes_the_program_natively_until_the_guard_goes() {
    require_root!();
    let (left, _right, _veth) = pair();
    let attachment = attach(&left, "eth0", Mode::Auto).expect("the program attaches");
    assert_eq!(attachment.mode(), XdpMode::Native);
    assert!(attachment.native_refusal().is_none());
    assert_eq!(attachment.interface(), "eth0");
    assert_eq!(shown(&left, "eth0"), Some("native"));
    drop(attachment);
    assert_eq!(shown(&left, "eth0"), None);
}

#[test]
fn a_driver_without_xdp_gets_generic_mode_and_says_why() {
    require_root!();
    let netns = Netns::new("bridge").expect("a namespace");
    netns.exec("ip", ["link", "add", "br0", "type", "bridge"]).expect("a bridge");

    let refused = attach(&netns, "br0", Mode::Native).expect_err("a bridge has no native XDP");
    assert!(matches!(refused, Error::Attach { mode: XdpMode::Native, .. }), "{refused}");
    assert!(refused.to_string().contains("interface br0 in native mode"), "{refused}");

    let attachment = attach(&netns, "br0", Mode::Auto).expect("generic mode works on any interface");
    assert_eq!(attachment.mode(), XdpMode::Generic);
    assert_eq!(attachment.native_refusal().and_then(io::Error::raw_os_error), Some(nix::libc::EOPNOTSUPP));
    assert_eq!(shown(&netns, "br0"), Some("generic"));
    drop(attachment);
    assert_eq!(shown(&netns, "br0"), None);
}

#[test]
fn a_program_that_is_there_is_never_replaced() {
    require_root!();
    let (left, _right, _veth) = pair();
    for first in [Mode::Native, Mode::Generic] {
        let holder = attach(&left, "eth0", first).expect("the first attaches");
        for second in [Mode::Auto, Mode::Native, Mode::Generic] {
            let refused = attach(&left, "eth0", second).expect_err("the second is refused");
            let Error::Occupied { interface, program_id } = &refused else { panic!("{refused}") };
            assert_eq!(interface, "eth0");
            assert_ne!(*program_id, 0);
            let remedy = "ip link set dev eth0 xdp off";
            assert!(refused.to_string().contains(remedy), "{refused}");
        }
        assert!(shown(&left, "eth0").is_some(), "the first is still there");
        drop(holder);
        assert_eq!(shown(&left, "eth0"), None);
    }
}

#[test]
fn packets_of_a_queue_without_a_socket_reach_the_kernel_and_are_counted() {
    require_root!();
    let (left, right, _veth) = pair();
    let attachment = attach(&left, "eth0", Mode::Auto).expect("the program attaches");
    assert_eq!(attachment.counters().expect("counters"), Default::default());
    right.exec("ping", ["-n", "-c", "5", "-i", "0.05", "-W", "2", "10.78.0.1"]).expect("the kernel answers");
    let counters = attachment.counters().expect("counters");
    assert!(counters.passed_pkts >= 5, "five echo requests at least: {counters:?}");
    assert_eq!(counters.missing_pkts, counters.passed_pkts);
    assert_eq!(counters.redirected_pkts, 0);
}

#[test]
fn what_is_no_af_xdp_socket_is_refused() {
    require_root!();
    let (left, _right, _veth) = pair();
    let attachment = attach(&left, "eth0", Mode::Auto).expect("the program attaches");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let refused = attachment.set_socket(0, udp.as_fd()).expect_err("a UDP socket is refused");
    assert!(matches!(refused, Error::Socket { queue: 0, .. }), "{refused}");
    assert!(attachment.set_socket(1024, udp.as_fd()).is_err(), "the map has 1,024 slots");
}

#[test]
fn an_index_without_an_interface_is_named() {
    require_root!();
    let refused = XdpPort::load(0x7fff_fffe).expect_err("there is no such interface");
    assert!(matches!(refused, Error::NoInterface { ifindex: 0x7fff_fffe }), "{refused}");
}

#[test]
fn a_killed_process_leaves_the_interface_as_it_was() {
    require_root!();
    let (left, _right, _veth) = pair();
    let mut child = left.command_with_host_mounts(env::current_exe().expect("the test's own file"));
    child.args(["--exact", "hold_an_interface_until_killed", "--nocapture"]).env(HOLD, "eth0");
    let mut child = Process::spawn(&mut child).expect("the child starts");
    child.wait_for_output("holding", SOON).expect("the child attaches");
    assert_eq!(shown(&left, "eth0"), Some("native"));

    child.signal(Signal::SIGKILL);
    wait_until("the end of the child", SOON, || !child.is_running()).expect("SIGKILL ends it");
    wait_until("the end of the attachment", SOON, || shown(&left, "eth0").is_none()).expect("the kernel detaches");
    attach(&left, "eth0", Mode::Auto).expect("the interface is free");
}

/// The child of the test above; on its own it has nothing to do.
#[test]
fn hold_an_interface_until_killed() {
    let Some(device) = env::var_os(HOLD) else { return };
    let ifindex = if_nametoindex(device.as_os_str()).expect("the device is there");
    let _attachment = XdpPort::load(ifindex).and_then(|port| port.attach(Mode::Auto)).expect("the program attaches");
    println!("holding");
    thread::sleep(Duration::from_secs(60));
}
