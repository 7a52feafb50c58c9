//! A worker that panics ends the manager, which says why, instead of being missed for ever. One test: DPDK starts once per process.

mod support;

use middlenet_nf_manager::ServeError;
use middlenet_plan::{Placement, PortKind, Reply, Request};
use middlenet_sdk::{Channel, Registration, prelude::*};
use middlenet_shm::{Pages, Region};
use serde_json::json;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{hop, plan};

/// Panics where nobody expects it: the first one that is thrown away.
struct Mine;

#[derive(Deserialize, JsonSchema)]
struct NoConfig {}

impl NetworkFunction for Mine {
    type Config = NoConfig;

    fn new(_: NoConfig, _: &mut Init) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn process(&mut self, _: &mut Burst<'_>) {}
}

impl Drop for Mine {
    fn drop(&mut self) {
        static THROWN_AWAY: AtomicBool = AtomicBool::new(false);
        assert!(THROWN_AWAY.swap(true, Ordering::Relaxed), "the first one");
    }
}

fn catalogue() -> &'static [Registration] {
    static CATALOGUE: LazyLock<Vec<Registration>> =
        LazyLock::new(|| vec![Registration::named::<Mine>("mine", "panics when it is thrown away")]);
    &CATALOGUE
}

#[test]
fn a_worker_that_panics_ends_the_manager() {
    let (ours, theirs) = Channel::pair().unwrap();
    let manager = std::thread::spawn(move || middlenet_nf_manager::serve(&theirs, catalogue()));
    let idle = |index: u8| PortKind::Dpdk { device: format!("net_null{index},no-rx=1") };
    let plan = plan(idle(0), idle(1), vec![hop("mine", Placement::Inline, json!({}))]);
    let region = Region::create("packets", (plan.buffers * plan.buffer_bytes) as usize, Pages::Small).unwrap();
    let ask = |request: &Request| {
        let fds = if matches!(request, Request::Start { .. }) { vec![region.fd()] } else { Vec::new() };
        ours.send(request, &fds).unwrap();
        ours.receive_within::<Reply>(Duration::from_secs(10)).unwrap().0
    };
    assert!(matches!(ask(&Request::Start { plan }), Reply::Started { .. }));
    let began = Instant::now();
    let reply = ask(&Request::Reconfigure { hop: 0, config: json!({}) });
    assert!(matches!(reply, Reply::Failed { .. }), "{reply:?}");
    let outcome = manager.join().unwrap();
    assert!(matches!(outcome, Err(ServeError::Worker(0))), "{outcome:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "at once");
}
