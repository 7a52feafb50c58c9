//! Prints what steering costs for each packet beside a bare redirect, in the kernel and without an interface.
//!
//! ```console
//! # cargo run --profile fast -p middlenet-bpf --example steering_cost
//! ```
//!
//! Each figure is the least of several means. From the fifth run on, a packet has no more room for metadata, and the program
//! goes on without a tag.

use std::time::Instant;

use middlenet_bpf::{Result, Trial};
use middlenet_steer::testkit::Mix;
use middlenet_steer::{Action, Tables};

const REPEAT: u32 = 200_000;
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let bare = Trial::redirect()?;
    println!("bare redirect: {} ns", best(&bare, &Mix::frame(0, 1))?);
    println!("{:>6} {:>8} {:>8} {:>8} {:>8} {:>11}", "rules", "first", "middle", "last", "none", "exchange");
    for count in [0, 1, 10, 64, 100, 1000, 4000] {
        let mix = Mix::new(count);
        let tables = Tables::compile(mix.rules(), Action::Tag(1)).expect("within the limits");
        let mut trial = Trial::steering(&tables)?;
        let costs = [0, count / 2, count.saturating_sub(1), 4100]
            .map(|number| best(&trial, &Mix::frame(number, 1)))
            .into_iter()
            .collect::<Result<Vec<u32>>>()?;
        let began = Instant::now();
        if let Some(steering) = trial.steering_mut() {
            steering.replace(&tables)?;
        }
        let [first, middle, last, none] = costs[..] else { continue };
        println!("{count:>6} {first:>5} ns {middle:>5} ns {last:>5} ns {none:>5} ns {:>8.1?}", began.elapsed());
    }
    Ok(())
}

fn best(trial: &Trial, frame: &[u8]) -> Result<u32> {
    let means = (0..ROUNDS).map(|_| trial.run(frame, REPEAT).map(|run| run.mean_ns)).collect::<Result<Vec<u32>>>()?;
    Ok(means.into_iter().min().unwrap_or(0))
}
