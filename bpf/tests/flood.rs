//! What a flood sends arrives at the peer, each packet as it was given.

use std::time::Duration;

use middlenet_bpf::{Error, Flood, Mode, SteeredPort};
use middlenet_steer::{Action, Match, Prefix, Rule, Tables};
use middlenet_tests::{End, Netns, Veth, require_root, wait_until};
use nix::net::if_::if_nametoindex;

/// Fewer than a veth's ring holds, so that none is lost however late the peer looks.
const PACKETS: u32 = 200;

/// UDP of IPv4 to this address.
fn head(dst: [u8; 4]) -> [u8; Flood::HEAD_BYTES] {
    let mut head = [0; Flood::HEAD_BYTES];
    head[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    (head[14], head[17], head[22], head[23]) = (0x45, 50, 64, 17);
    head[30..34].copy_from_slice(&dst);
    head
}

#[test]
fn heads_arrive_in_turn_and_nothing_else() {
    require_root!();
    let (left, right) = (Netns::new("left").expect("a namespace"), Netns::new("right").expect("a namespace"));
    let _cable = Veth::between(&End::new(&left, "eth0").without_ipv6(), &End::new(&right, "eth0").without_ipv6())
        .expect("a cable");
    let index = || if_nametoindex("eth0").expect("the device is there");
    let to = |text: &str| {
        let dst = vec![text.parse::<Prefix>().expect("a prefix")];
        Rule { name: text.into(), matches: Match { dst, ..Match::default() }, action: Action::Drop }
    };
    let tables = Tables::compile(&[to("10.0.0.1"), to("10.0.0.2")], Action::Kernel).expect("tables");
    let attachment = right
        .enter(|| SteeredPort::load(index(), &tables)?.attach(Mode::Native))
        .expect("the namespace can be entered")
        .expect("the programs attach");
    let heads = [head([10, 0, 0, 1]), head([10, 0, 0, 2])];
    left.enter(|| {
        let flood = Flood::new(index(), &heads).expect("the program loads");
        flood.send(Flood::HEAD_BYTES, PACKETS).expect("frames are sent");
    })
    .expect("the namespace can be entered");
    let of_rules = || {
        let counters = attachment.steering().counters().expect("counters");
        counters.rules.iter().map(|rule| rule.packets).collect::<Vec<_>>()
    };
    wait_until("all packets at the peer", Duration::from_secs(10), || of_rules().iter().sum::<u64>() >= PACKETS.into())
        .expect("they arrive");
    assert_eq!(of_rules(), [100, 100]);
    assert_eq!(attachment.steering().counters().expect("counters").default.packets, 0);
}

#[test]
fn heads_that_cannot_be_taken_in_turn_are_refused() {
    require_root!();
    let error = Flood::new(1, &[head([10, 0, 0, 1]); 3]).expect_err("three is no power of two");
    assert!(matches!(error, Error::Trial { .. }) && error.to_string().contains("power of two"), "{error}");
}
