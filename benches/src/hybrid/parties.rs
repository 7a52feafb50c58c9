//! Who has processor time: each box, the load, and everybody else.

use crate::BenchError;
use crate::l4l7::usage::{Meter, Pids};

/// Processes and threads by whom they belong to.
#[derive(Debug)]
pub(super) struct Parties {
    boxes: Vec<Pids>,
    all_boxes: Pids,
    load: Pids,
}

/// In cores: 1 is a whole one for the whole time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Used {
    /// By each box, in their order.
    pub(super) boxes: Vec<f64>,
    /// By clients and servers.
    pub(super) load: f64,
    /// By whatever else ran on the host.
    pub(super) others: f64,
}

impl Used {
    /// By all boxes together.
    pub(super) fn in_boxes(&self) -> f64 {
        self.boxes.iter().sum()
    }
}

impl Parties {
    /// Those, and what is below them now.
    pub(super) fn new(boxes: Vec<Vec<u32>>, load: Vec<u32>) -> Self {
        let all_boxes = Pids::below(boxes.iter().flatten().copied());
        Self { boxes: boxes.into_iter().map(Pids::below).collect(), all_boxes, load: Pids::below(load) }
    }

    /// What they use while something is done.
    ///
    /// # Errors
    /// When that fails, or when one of them ends meanwhile.
    pub(super) fn during<T>(&self, work: impl FnOnce() -> Result<T, BenchError>) -> Result<(T, Used), BenchError> {
        let read = || self.boxes.iter().map(Pids::busy_ns).collect::<Result<Vec<_>, _>>();
        let (start, before) = (std::time::Instant::now(), read()?);
        let meter = Meter::start(&self.all_boxes, &self.load)?;
        let done = work()?;
        let (elapsed_ns, after) = (start.elapsed().as_nanos() as f64, read()?);
        let usage = meter.stop()?;
        let boxes = before.iter().zip(&after).map(|(before, after)| after.saturating_sub(*before) as f64 / elapsed_ns);
        Ok((done, Used { boxes: boxes.collect(), load: usage.load, others: usage.others }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn work_is_that_of_who_did_it() {
        let own = std::process::id();
        let parties = Parties::new(vec![vec![own], vec![]], vec![]);
        let work = || {
            let until = Instant::now() + Duration::from_millis(60);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            Ok(7)
        };
        let (done, used) = parties.during(work).unwrap();
        assert_eq!((done, used.boxes.len(), used.boxes[1]), (7, 2, 0.0));
        assert!(used.boxes[0] > 0.0 && used.in_boxes() == used.boxes[0], "{used:?}");
    }
}
