//! An inline function that panics is taken out of service and replaced; the data plane goes on. The manager runs in this
//! process, with a catalogue of the test's own. One test: DPDK starts once per process.

mod support;

use middlenet_plan::{Placement, PortKind, Reply, Request};
use middlenet_sdk::{Channel, Registration, prelude::*};
use middlenet_shm::{Pages, Region};
use serde_json::json;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use support::{hop, null, plan};

/// Panics on its thousandth packet.
struct Fragile {
    left: u32,
    seen: Counter,
}

#[derive(Deserialize, JsonSchema)]
struct NoConfig {}

impl NetworkFunction for Fragile {
    type Config = NoConfig;

    fn new(_: NoConfig, init: &mut Init) -> Result<Self, ConfigError> {
        Ok(Self { left: 1000, seen: init.counter("seen", "packets seen") })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        for _ in burst.iter_mut() {
            self.left -= 1;
            assert!(self.left > 0, "the thousandth packet");
            self.seen.inc();
        }
    }
}

fn catalogue() -> &'static [Registration] {
    static CATALOGUE: LazyLock<Vec<Registration>> =
        LazyLock::new(|| vec![Registration::named::<Fragile>("fragile", "panics on its thousandth packet")]);
    &CATALOGUE
}

#[test]
fn a_panic_costs_one_burst_and_the_function_comes_back() {
    let (ours, theirs) = Channel::pair().unwrap();
    let manager = std::thread::spawn(move || middlenet_nf_manager::serve(&theirs, catalogue()));
    let mut plan = plan(
        null(0, 64),
        PortKind::Dpdk { device: "net_null1,no-rx=1".into() },
        vec![hop("fragile", Placement::Inline, json!({}))],
    );
    plan.chains[0].name = "fragile".into();
    let region = Region::create("packets", (plan.buffers * plan.buffer_bytes) as usize, Pages::Small).unwrap();
    ours.send(&Request::Start { plan }, &[region.fd()]).unwrap();
    let ask = |request: Option<Request>| {
        if let Some(request) = request {
            ours.send(&request, &[]).unwrap();
        }
        ours.receive_within::<Reply>(Duration::from_secs(10)).unwrap().0
    };
    assert!(matches!(ask(None), Reply::Started { .. }));
    let deadline = Instant::now() + Duration::from_secs(10);
    let stats = loop {
        let Reply::Stats(stats) = ask(Some(Request::Stats)) else { panic!("no statistics") };
        let seen = stats.hops[0].instances[0].counters[0].1;
        // Three lives of 999 packets each.
        if seen >= 2900 {
            break stats;
        }
        assert!(Instant::now() < deadline, "{stats:#?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    let drops = |name: &str| stats.hops[0].drops.iter().find(|(_, r, _)| r == name).map_or(0, |(.., n)| *n);
    assert!(drops("function-died") > 0 && drops("function-down") > 0, "{stats:#?}");
    let Reply::Stopped(stats) = ask(Some(Request::Stop { drain_ms: 1000 })) else { panic!("not stopped") };
    manager.join().unwrap().unwrap();
    assert!(stats.conservation.packets_balance(), "{stats:#?}");
    assert_eq!(stats.conservation.buffers_free, stats.conservation.buffers, "{stats:#?}");
}
