//! An inline function that steers flows without end: packets do not wait, and what nobody had time for is counted. The manager
//! runs in this process, with a catalogue of the test's own. One test: DPDK starts once per process.

mod support;

use middlenet_plan::{Destination, Placement, PortKind, Reply, Request, SteerTargetPlan, SteeringPlan};
use middlenet_sdk::wire::FlowKey;
use middlenet_sdk::{Channel, Registration, prelude::*};
use middlenet_shm::{Pages, Region};
use middlenet_steer::Action;
use serde_json::json;
use std::net::Ipv4Addr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use support::{hop, null, plan};

/// Steers a flow with each packet.
struct Restless {
    away: SteerTarget,
    flow: u16,
    wishes: Counter,
}

#[derive(Deserialize, JsonSchema)]
struct NoConfig {}

impl NetworkFunction for Restless {
    type Config = NoConfig;

    fn new(_: NoConfig, init: &mut Init) -> Result<Self, ConfigError> {
        Ok(Self { away: init.steering("away")?, flow: 0, wishes: init.counter("wishes", "flows steered") })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        let addresses = [Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(10, 0, 0, 2).into()];
        for _ in 0..burst.len() {
            self.flow = self.flow.wrapping_add(1) % 1000;
            let key = FlowKey::new(addresses[0], self.flow, addresses[1], 80, 6).unwrap();
            burst.steer(&key, self.away, Duration::from_secs(60));
            self.wishes.inc();
        }
    }
}

fn catalogue() -> &'static [Registration] {
    static CATALOGUE: LazyLock<Vec<Registration>> =
        LazyLock::new(|| vec![Registration::named::<Restless>("restless", "steers a flow with each packet")]);
    &CATALOGUE
}

#[test]
fn wishes_that_nobody_hears_are_counted() {
    let (ours, theirs) = Channel::pair().unwrap();
    let manager = std::thread::spawn(move || middlenet_nf_manager::serve(&theirs, catalogue()));
    let mut plan = plan(
        null(0, 64),
        PortKind::Dpdk { device: "net_null1,no-rx=1".into() },
        vec![hop("restless", Placement::Inline, json!({}))],
    );
    let chain = Action::Tag(Destination::Chain(0).tag());
    plan.ports[0].steering = Some(SteeringPlan { rules: Vec::new(), default: chain, to: vec!["chain".into()] });
    let away = SteerTargetPlan { name: "away".into(), action: Action::Drop, to: "drop".into(), ports: vec![0] };
    plan.hops[0].steering = vec![away];
    let region = Region::create("packets", (plan.buffers * plan.buffer_bytes) as usize, Pages::Small).unwrap();
    let ask = |request: &Request| {
        let fds = if matches!(request, Request::Start { .. }) { vec![region.fd()] } else { Vec::new() };
        ours.send(request, &fds).unwrap();
        ours.receive_within::<Reply>(Duration::from_secs(10)).unwrap().0
    };
    assert!(matches!(ask(&Request::Start { plan }), Reply::Started { .. }));
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let Reply::Stats(stats) = ask(&Request::Stats) else { panic!("no statistics") };
        let steering = stats.ports[0].steering.as_ref().unwrap();
        let unheard = steering.irregular.iter().find(|(name, _)| name == "flows-unheard").map_or(0, |(_, n)| *n);
        let wishes = stats.hops[0].instances[0].counters[0].1;
        // A thousand flows in all, and each that was heard of goes by the same number.
        if unheard > 10_000 && !steering.flows.is_empty() {
            assert!(unheard < wishes && steering.flows.len() <= 1000, "{unheard} of {wishes}");
            break;
        }
        assert!(Instant::now() < deadline, "{stats:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let Reply::Stopped(stats) = ask(&Request::Stop { drain_ms: 1000 }) else { panic!("not stopped") };
    manager.join().unwrap().unwrap();
    assert!(stats.conservation.packets_balance(), "{stats:#?}");
}
