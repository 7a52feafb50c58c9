//! What a hop costs, over SK_MSG with and without its filter, and over rings.
//!
//! ```console
//! # cargo run --release -p middlenet-bench --example hops -- [SECONDS]
//! ```

use std::env;
use std::process::ExitCode;

use middlenet_bench::BenchError;
use middlenet_bench::hops::{self, HopResult};

/// All three in turn, each time in another order: the host is not the same from one second to the next.
const ROUNDS: usize = 15;
const NAMES: [&str; 3] = ["skmsg checked", "skmsg plain", "ring"];

fn main() -> ExitCode {
    match hops::serve_if_asked().and_then(|served| if served { Ok(()) } else { measure() }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hops: {}", error.sentence());
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<(), BenchError> {
    let seconds: f64 = env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(10.0);
    let slice = seconds / (ROUNDS * NAMES.len()) as f64;
    println!("in flight  over             hops/s  p50 ns  p99 ns  cores  CPU ns/hop  of plain: rate    CPU");
    for in_flight in [1, 16, 128] {
        let mut runs: [Vec<HopResult>; 3] = Default::default();
        for round in 0..ROUNDS {
            for turn in 0..NAMES.len() {
                let which = (round + turn) % NAMES.len();
                runs[which].push(match which {
                    0 => hops::skmsg(true, in_flight, slice)?,
                    1 => hops::skmsg(false, in_flight, slice)?,
                    _ => hops::ring(in_flight, slice)?,
                });
            }
        }
        for (name, results) in NAMES.into_iter().zip(&runs) {
            let of = |figure: fn(&HopResult) -> f64| median(results.iter().map(figure));
            let against = |figure: fn(&HopResult) -> f64| {
                median(results.iter().zip(&runs[1]).map(|(this, plain)| figure(this) / figure(plain)))
            };
            println!(
                "{in_flight:>9}  {name:<13} {:>9.0} {:>7.0} {:>7.0} {:>6.2} {:>11.1} {:>15.3} {:>6.3}",
                of(|r| r.hops_per_second),
                of(|r| r.latency_p50_ns),
                of(|r| r.latency_p99_ns),
                of(|r| r.cpu),
                of(HopResult::cpu_ns_per_hop),
                against(|r| r.hops_per_second),
                against(|r| 1.0 / r.cpu_ns_per_hop()),
            );
        }
    }
    Ok(())
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
