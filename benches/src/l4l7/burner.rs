//! `skmsg/burnerK/c512`, `ring/burnerK/c512`: chains that grow by functions which need the processor.
//!
//! Each of K functions finds all primes up to 10,000 by the sieve of Atkin for every request, as in the paper, where each has
//! a core of its own. Here all share one: so throughput falls with K, and what is to be seen is what the hops add.

use super::backends::Backends;
use super::case::Load;
use super::middlebox::Middlebox;
use super::ours::Hop;
use super::point::{self, Sample};
use crate::BenchError;
use crate::bench::Bench;

const HOPS: [Hop; 2] = [Hop::Skmsg, Hop::Ring];
const BURNERS: [usize; 5] = [1, 2, 3, 4, 6];
const QUICK_BURNERS: [usize; 2] = [1, 4];
const CONCURRENCY: usize = 512;

pub(super) fn case(hop: Hop, burners: usize) -> String {
    format!("{}/burner{burners}/c{CONCURRENCY}", hop.name())
}

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let all: &[usize] = if bench.quick { &QUICK_BURNERS } else { &BURNERS };
    let mut backends = None;
    for &burners in all {
        let wanted: Vec<Hop> = HOPS.into_iter().filter(|&hop| bench.wants(&case(hop, burners))).collect();
        if wanted.is_empty() {
            continue;
        }
        let backends = match &backends {
            Some(backends) => backends,
            None => backends.insert(Backends::on_loopback(&bench.folder)?),
        };
        in_turns(bench, backends, burners, &wanted)?;
    }
    Ok(())
}

fn in_turns(bench: &mut Bench, backends: &Backends, burners: usize, hops: &[Hop]) -> Result<(), BenchError> {
    let mut turns: Vec<Result<Vec<Sample>, BenchError>> = hops.iter().map(|_| Ok(Vec::new())).collect();
    for repetition in 0..bench.repetitions() {
        for (&hop, turns) in hops.iter().zip(&mut turns) {
            let Ok(samples) = turns else { continue };
            bench.progress(&format!("{}, {} of {}", case(hop, burners), repetition + 1, bench.repetitions()));
            match turn(bench, backends, burners, hop) {
                Ok(sample) => samples.push(sample),
                Err(error) => *turns = Err(error),
            }
        }
    }
    for (&hop, turns) in hops.iter().zip(turns) {
        let case = case(hop, burners);
        let measured = turns.map(|samples| {
            let entries = point::entries(bench, &case, &samples, None);
            bench.entries.extend(entries);
        });
        bench.outcome_of(&case, measured)?;
    }
    Ok(())
}

fn turn(bench: &mut Bench, backends: &Backends, burners: usize, hop: Hop) -> Result<Sample, BenchError> {
    let middlebox = Middlebox::burning(bench, hop, burners, backends)?;
    let sample = point::measure(bench, (&middlebox, backends), Load::Wrk, CONCURRENCY)?;
    middlebox.stop()?;
    Ok(sample)
}
