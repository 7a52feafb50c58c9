//! A thousand deaths of a function under load: no buffer is lost, and the broker neither ends nor grows.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use middlenet_plan::{OnLoss, Transport};
use middlenet_sdk::middlebox::Interests;
use middlenet_tests::{Asks, Backend, Error, Load, Netns, require_root};
use support::{Chance, Stage, Wanted};

const DEATHS: usize = 1000;
const ADDRESS: &str = "127.0.0.1:8081";
const HEADS: Interests = Interests::REQUEST_HEAD.with(Interests::RESPONSE_HEAD);

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn own_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

fn a_thousand_deaths(transport: Transport) -> Result<(), Error> {
    let netns = Netns::new("deaths")?;
    let _backend = Backend::start(&netns, "127.0.0.1:9001")?;
    let hops = vec!["mortal", "lasting"];
    let chain = Wanted {
        name: "web",
        listen: ADDRESS,
        upstream: "127.0.0.1:9001",
        hops,
        on_failure: OnLoss::Retry,
        function_ms: 5_000,
    };
    let (stage, mut mortal, mut lasting) = netns.enter(|| {
        let stage = Stage::start(vec![chain], transport);
        let mortal = stage.attach(0, transport, HEADS);
        let lasting = stage.attach(1, transport, HEADS);
        (stage, mortal, lasting)
    })?;
    let load = Load::start(&netns, ADDRESS, 8, Asks::PLAIN)?;
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let mut sizes = None;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let taken = lasting.take();
                taken.iter().for_each(|descriptor| lasting.answer(descriptor));
                if taken.is_empty() {
                    lasting.rest();
                }
            }
        });
        netns.enter(|| {
            let mut chance = Chance(0x0123_4567_89ab_cdef);
            for death in 0..DEATHS {
                // It dies with what it has taken and not answered, and with what it has not even taken.
                let mut lives = 1 + chance.below(6);
                let end = Instant::now() + Duration::from_secs(20);
                while lives > 0 {
                    assert!(Instant::now() < end, "no message reaches it after {death} deaths");
                    for descriptor in mortal.take() {
                        lives = lives.saturating_sub(1);
                        if lives > 0 {
                            mortal.answer(&descriptor);
                        }
                    }
                }
                mortal.socket = None;
                stage.detach(0);
                mortal = stage.attach(0, transport, HEADS);
                if death == DEATHS / 4 {
                    sizes = Some((descriptors(), own_memory_kib()));
                }
            }
            let stop = scope.spawn(|| load.stop());
            while !stop.is_finished() {
                mortal.take().iter().for_each(|descriptor| mortal.answer(descriptor));
            }
            over.store(true, Ordering::Relaxed);
            let seen = stop.join().expect("the load does not panic");
            println!("{transport:?}: {DEATHS} deaths in {:?}: {seen:?}", began.elapsed());
            assert_eq!((&seen.wrong, seen.cut, seen.hung), (&vec![], 0, 0), "{seen:?}");
            // One that loses its second try as well is told so.
            assert!(seen.refused.keys().all(|status| *status == 502), "{seen:?}");
        })
    })?;
    let (before, after) = (sizes.expect("a quarter has passed"), (descriptors(), own_memory_kib()));
    println!("{transport:?}: descriptors and memory after a quarter {before:?}, at the end {after:?}");
    assert!(after.0 <= before.0 + 10 && after.1 <= before.1 + 2048, "{before:?}, {after:?}");
    let stats = stage.wait_for_rest();
    assert!(stats.chains[0].reruns > DEATHS as u64 / 2, "{stats:#?}");
    stage.stop();
    Ok(())
}

#[test]
fn a_thousand_deaths_by_ring() -> Result<(), Error> {
    require_root!(Ok(()));
    a_thousand_deaths(Transport::Ring)
}

#[test]
fn a_thousand_deaths_by_skmsg() -> Result<(), Error> {
    require_root!(Ok(()));
    a_thousand_deaths(Transport::Skmsg)
}
