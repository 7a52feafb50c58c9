//! The router on packets.

mod configuration;
mod fast;
mod forwarding;
mod hostile;
mod local;
mod neighbours;

use super::*;
use middlenet_sdk::testkit::{Outcome, Testkit};
use middlenet_sdk::wire::{Ipv4, Ipv6, Layers, MacAddr, PacketBuilder};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const LEFT: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const RIGHT: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// A station on the left, from which test packets come.
const HOST: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
/// The router on the right, 10.2.0.254 and 2001:db8:2::fe.
const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 2, 0xfe]);

type Kit = Testkit<L3Router>;

/// Two networks, a default route over a static neighbour on the right.
fn config() -> Value {
    json!({
        "addresses": [
            { "port": "left", "address": "10.1.0.1/24" }, { "port": "left", "address": "2001:db8:1::1/64" },
            { "port": "right", "address": "10.2.0.1/24" }, { "port": "right", "address": "2001:db8:2::1/64" },
        ],
        "routes": [
            { "to": "0.0.0.0/0", "via": "10.2.0.254" }, "10.3.0.0/16 10.2.0.253", { "to": "::/0", "via": "2001:db8:2::fe" },
        ],
        "neighbours": [
            { "ip": "10.2.0.254", "mac": GATEWAY.to_string() }, { "ip": "2001:db8:2::fe", "mac": GATEWAY.to_string() },
        ],
    })
}

fn changed(changes: Value) -> Value {
    let mut config = config();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// From the host on the left to the router's left port.
fn to_left() -> PacketBuilder<'static> {
    PacketBuilder::new().mac(HOST, LEFT)
}

fn udp4(src: &str, dst: &str) -> PacketBuilder<'static> {
    to_left().ipv4(v4(src), v4(dst)).udp(1000, 53).payload(b"payload of a packet")
}

fn udp6(src: &str, dst: &str) -> PacketBuilder<'static> {
    to_left().ipv6(v6(src), v6(dst)).udp(1000, 53).payload(b"payload of a packet")
}

/// Sends one packet in by a port; its own outcome and what the router sent besides.
fn send(kit: &mut Kit, port: &str, bytes: &[u8]) -> (Outcome, Vec<Outcome>) {
    let mut outcomes = kit.run(port, &[bytes]);
    let first = outcomes.remove(0);
    assert!(outcomes.iter().all(|outcome| outcome.emitted));
    (first, outcomes)
}

/// Name of the drop reason, or an empty string if the packet was not dropped.
fn dropped(kit: &Kit, outcome: &Outcome) -> String {
    match outcome.verdict {
        Verdict::Drop(reason) => kit.reason(reason),
        _ => String::new(),
    }
}

/// Asserts that the packet left by the port, whole, from `src` to `dst`, and with one hop less than it had.
#[track_caller]
fn assert_forwarded(outcome: &Outcome, original: &[u8], port: u8, src: MacAddr, dst: MacAddr) {
    assert_eq!(outcome.verdict, Verdict::Port(Port(port)));
    let bytes = &outcome.bytes;
    assert_eq!((&bytes[..6], &bytes[6..12]), (&dst.octets()[..], &src.octets()[..]));
    let layers = Layers::parse(bytes).unwrap();
    layers.verify_checksums(bytes).unwrap();
    let mut expected = original.to_vec();
    expected[..12].copy_from_slice(&bytes[..12]);
    if layers.is_ipv4() {
        expected[22] -= 1;
        expected[24..26].copy_from_slice(&bytes[24..26]);
    } else {
        expected[21] -= 1;
    }
    assert_eq!(*bytes, expected, "nothing else changed");
}

/// Asserts that this is an ICMP error to the host on the left that quotes the packet. Returns type, code and second word.
#[track_caller]
fn assert_error(outcome: &Outcome, src: IpAddr, about: &[u8]) -> (u8, u8, u32) {
    assert_eq!((outcome.verdict, outcome.emitted), (Verdict::Port(Port(0)), true));
    let bytes = &outcome.bytes;
    assert_eq!((&bytes[..6], &bytes[6..12]), (&HOST.octets()[..], &LEFT.octets()[..]));
    let layers = Layers::parse(bytes).unwrap();
    layers.verify_checksums(bytes).unwrap();
    let l4 = layers.l4_bytes(bytes).unwrap();
    let source = if layers.is_ipv4() {
        IpAddr::V4(layers.ipv4(bytes).unwrap().src())
    } else {
        IpAddr::V6(layers.ipv6(bytes).unwrap().src())
    };
    assert_eq!(source, src);
    let quoted = &l4[8..];
    assert_eq!(quoted, &about[14..14 + quoted.len()]);
    (l4[0], l4[1], u32::from_be_bytes(l4[4..8].try_into().unwrap()))
}

/// What the router answers a packet that it refuses with an error.
#[track_caller]
fn refused(kit: &mut Kit, packet: &[u8], reason: &str) -> (u8, u8, u32) {
    let (outcome, emitted) = send(kit, "left", packet);
    assert_eq!(dropped(kit, &outcome), reason);
    assert_eq!(emitted.len(), 1, "one error");
    let src = if packet[12] == 0x08 { IpAddr::V4(v4("10.1.0.1")) } else { IpAddr::V6(v6("2001:db8:1::1")) };
    assert_error(&emitted[0], src, packet)
}
