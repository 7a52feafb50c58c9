//! Tests of `elb` on packets.

mod fast;
mod packets;
mod polls;

use super::*;
use middlenet_sdk::testkit::{Outcome, Testkit};
use middlenet_sdk::wire::{FlowKey, Layers, PacketBuilder, TcpFlags};
use std::net::IpAddr;

const SERVICE: [u8; 4] = [192, 0, 2, 80];

fn server(n: u8) -> IpAddr {
    [10, 0, 0, n].into()
}

/// A service at 192.0.2.80:80 with these servers, by last byte and weight, at port 8080.
fn config(servers: &[(u8, u32)]) -> Value {
    let servers: Vec<Value> =
        servers.iter().map(|(n, weight)| json!({"address": server(*n), "port": 8080, "weight": weight})).collect();
    json!({"services": [{"address": "192.0.2.80", "port": 80, "servers": servers}]})
}

fn client(n: u16) -> ([u8; 4], u16) {
    ([198, 51, 100, (n % 200) as u8], 20_000 + n)
}

fn builder(n: u16) -> PacketBuilder<'static> {
    PacketBuilder::new().ipv4(client(n).0.into(), SERVICE.into())
}

/// From a client to the service.
fn asked(n: u16, flags: TcpFlags) -> Vec<u8> {
    builder(n).tcp(client(n).1, 80, flags).payload(b"GET /").build()
}

/// From a server to a client.
fn answered(from: IpAddr, n: u16, flags: TcpFlags) -> Vec<u8> {
    let IpAddr::V4(from) = from else { panic!("an IPv4 server") };
    PacketBuilder::new().ipv4(from, client(n).0.into()).tcp(8080, client(n).1, flags).payload(b"200").build()
}

/// A service with short time-outs.
fn patient(protocol: &str, servers: &[(u8, u32)]) -> Value {
    let mut config = config(servers);
    config["services"][0]["protocol"] = json!(protocol);
    config["timeouts"] = json!({ "tcp_s": 10, "udp_s": 10 });
    config
}

fn asked_by_udp(n: u16) -> Vec<u8> {
    builder(n).udp(client(n).1, 80).payload(b"?").build()
}

fn key(outcome: &Outcome) -> FlowKey {
    let layers = Layers::parse(&outcome.bytes).unwrap();
    layers.verify_checksums(&outcome.bytes).unwrap();
    FlowKey::of(&layers, &outcome.bytes).unwrap()
}

/// Where the only packet went.
fn to(kit: &mut Testkit<Elb>, packet: &[u8]) -> IpAddr {
    let outcomes = kit.run("left", &[packet]);
    assert_eq!(outcomes[0].verdict, Verdict::Next, "{}", kit.report());
    let key = key(&outcomes[0]);
    assert_eq!(key.dst_port, 8080);
    key.dst_ip()
}

/// Servers of the only service, by a field of the report.
fn reported(kit: &Testkit<Elb>, field: &str) -> Vec<Value> {
    let report = kit.report();
    let servers = report["services"][0]["servers"].as_array().unwrap();
    servers.iter().map(|server| server[field].clone()).collect()
}
