//! What an interface is, and which sockets it does not take.

mod stage;

use middlenet_bpf::Mode;
use middlenet_tests::{Netns, require_root};
use middlenet_xsk::{CopyMode, Error, Interface, XskConfig, XskQueue};
use stage::{Pool, cable, open};

fn bind(netns: &Netns, pool: &Pool, device: &str, queue: u32, config: &XskConfig) -> Result<XskQueue, Error> {
    let bound = netns.enter(|| {
        let ifindex = Interface::lookup(device).expect("the device is there").ifindex;
        XskQueue::bind(&pool.umem, ifindex, queue, config)
    });
    bound.expect("the namespace can be entered")
}

fn stage() -> (Netns, Netns) {
    let (near, far) = (Netns::new("near").expect("a namespace"), Netns::new("far").expect("a namespace"));
    cable(&near, "eth0", &far, 2);
    (near, far)
}

#[test]
fn an_interface_is_described_as_its_namespace_has_it() {
    require_root!();
    let (near, _far) = stage();
    near.exec("ip", ["link", "set", "eth0", "address", "02:11:22:33:44:55", "mtu", "1400"]).expect("ip link");
    near.exec("ip", ["link", "add", "br0", "type", "bridge"]).expect("a bridge");
    let lookup = |name: &str| near.enter(|| Interface::lookup(name)).expect("the namespace can be entered");

    let veth = lookup("eth0").expect("the device is there");
    assert_eq!((veth.mtu_bytes, veth.mac), (1400, [0x02, 0x11, 0x22, 0x33, 0x44, 0x55]));
    assert_eq!((veth.queues, veth.driver.as_str()), (2, "veth"));
    assert!(veth.up && veth.running);
    let again = near.enter(|| Interface::by_index(veth.ifindex)).expect("the namespace can be entered");
    assert_eq!(again.expect("by index"), veth);

    let bridge = lookup("br0").expect("the device is there");
    assert_eq!((bridge.queues, bridge.driver.as_str(), bridge.up), (1, "bridge", false));
    assert_eq!(lookup("lo").expect("loopback").mac, [0; 6]);

    for name in ["eth9", "", "a-name-that-is-too-long"] {
        let error = lookup(name).expect_err("there is no such device");
        assert!(matches!(error, Error::NoInterface { .. }), "{error}");
    }
}

#[test]
fn promiscuous_mode_ends_with_its_guard() {
    require_root!();
    let (near, _far) = stage();
    let promiscuity = || {
        let text = near.exec("ip", ["-details", "link", "show", "dev", "eth0"]).expect("ip link").stdout;
        let (_, rest) = text.split_once("promiscuity ").expect("ip shows promiscuity");
        rest.split_whitespace().next().map(str::to_owned)
    };
    let set = || near.enter(|| Interface::lookup("eth0")?.promiscuous()).expect("the namespace can be entered");
    assert_eq!(promiscuity().as_deref(), Some("0"));
    let (first, second) = (set().expect("promiscuous"), set().expect("promiscuous twice"));
    assert_eq!(promiscuity().as_deref(), Some("2"));
    drop(first);
    assert_eq!(promiscuity().as_deref(), Some("1"));
    drop(second);
    assert_eq!(promiscuity().as_deref(), Some("0"));
}

#[test]
fn an_mtu_that_does_not_fit_a_buffer_is_refused_with_the_remedy() {
    require_root!();
    let (near, _far) = stage();
    near.exec("ip", ["link", "set", "eth0", "mtu", "1647"]).expect("ip link");
    let small = Pool::new(64, 2048);
    let error = bind(&near, &small, "eth0", 0, &XskConfig::default()).expect_err("1,647 is one too many");
    assert!(matches!(error, Error::Mtu { mtu_bytes: 1647, limit_bytes: 1646, .. }), "{error}");
    assert!(error.to_string().contains("ip link set dev eth0 mtu 1646"), "{error}");
    bind(&near, &Pool::new(64, 4096), "eth0", 0, &XskConfig::default()).expect("larger buffers hold it");
}

#[test]
fn a_queue_takes_one_socket_and_is_free_again_after_close() {
    require_root!();
    let (near, _far) = stage();
    let (pool, other) = (Pool::new(64, 2048), Pool::new(64, 2048));
    let config = XskConfig::default();
    let first = bind(&near, &pool, "eth0", 0, &config).expect("the queue is free");
    for refused in [bind(&near, &pool, "eth0", 0, &config), bind(&near, &other, "eth0", 0, &config)] {
        let error = refused.expect_err("the queue is taken");
        assert!(matches!(error, Error::QueueBusy { queue: 0, .. }), "{error}");
    }
    // The first socket, whose registration the second shares, may go before it.
    let second = bind(&near, &pool, "eth0", 1, &config).expect("the other queue is free");
    first.close(&mut Vec::new());
    let mut again = bind(&near, &pool, "eth0", 0, &config).expect("the queue is free again");
    assert_eq!(again.fill(&[1, 2, 3]), 3);
    second.close(&mut Vec::new());
    let mut returned = Vec::new();
    again.close(&mut returned);
    returned.sort_unstable();
    assert_eq!(returned, [1, 2, 3]);
    bind(&near, &pool, "eth0", 1, &config).expect("a region without sockets is registered anew");
}

#[test]
fn what_the_kernel_refuses_comes_with_a_hint() {
    require_root!();
    let (near, _far) = stage();
    let pool = Pool::new(64, 2048);
    let refusal =
        |queue, config: &XskConfig| bind(&near, &pool, "eth0", queue, config).expect_err("refused").to_string();
    let config = XskConfig::default();
    let text = refusal(2, &config);
    assert!(text.contains("queue 2 of interface eth0") && text.contains("fewer queues"), "{text}");
    let text = refusal(0, &XskConfig { zero_copy: CopyMode::ForceZeroCopy, ..config.clone() });
    assert!(text.contains("no zero-copy"), "{text}");
    let text = refusal(0, &XskConfig { rx_slots: 1000, ..config.clone() });
    assert!(text.contains("receive ring cannot have 1000 slots"), "{text}");
}

#[test]
fn an_interface_that_goes_down_is_reported_by_kick() {
    require_root!();
    let (near, _far) = stage();
    let mut pool = Pool::new(64, 2048);
    let (_attachment, queues) = open(&near, "eth0", Mode::Auto, &pool.umem, 1, &XskConfig::default());
    let mut queue = queues.into_iter().next().expect("one queue");
    near.exec("ip", ["link", "set", "eth0", "down"]).expect("ip link");
    let descriptor = pool.take(&stage::packet(0, 0, 64));
    assert_eq!(queue.send(&[descriptor]), 1);
    queue.kick();
    assert_eq!(queue.trouble().map(|error| error.kind()), Some(std::io::ErrorKind::NetworkDown));
    near.exec("ip", ["link", "set", "eth0", "up"]).expect("ip link");
    stage::until("the packet's departure", || {
        queue.kick();
        pool.collect(&mut queue);
        queue.outstanding() == 0
    });
    assert!(queue.trouble().is_none());
    queue.close(&mut pool.free);
    pool.assert_whole();
}
