//! A look at a run every few milliseconds: how many requests it has answered, and whether something has happened.

use std::time::{Duration, Instant};

use middlenet_runtime::api::Status;

use super::account;
use crate::BenchError;
use crate::run::{POLL, Run, pause};

/// How long something awaited may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks when nothing is awaited.
const CALM: Duration = Duration::from_millis(20);

/// The run, watched since a moment.
pub(super) struct Watch<'r> {
    run: &'r mut Run,
    began: Instant,
    /// When, and how many requests had been answered.
    samples: Vec<(Duration, u64)>,
    marks: Vec<Duration>,
}

impl<'r> Watch<'r> {
    /// From now on.
    ///
    /// # Errors
    /// When the run does not answer.
    pub(super) fn start(run: &'r mut Run) -> Result<Self, BenchError> {
        let mut watch = Self { run, began: Instant::now(), samples: Vec::new(), marks: Vec::new() };
        watch.status()?;
        Ok(watch)
    }

    /// The state now.
    ///
    /// # Errors
    /// When the run does not answer.
    pub(super) fn status(&mut self) -> Result<Status, BenchError> {
        let status = self.run.status()?;
        self.samples.extend(sample(self.began, &status));
        Ok(status)
    }

    /// Notes that something happens now.
    pub(super) fn mark(&mut self) {
        self.marks.push(self.began.elapsed());
    }

    /// Watches on until so long after the beginning.
    ///
    /// # Errors
    /// When the run does not answer, or on Ctrl-C.
    pub(super) fn until(&mut self, time: Duration) -> Result<(), BenchError> {
        while self.began.elapsed() < time {
            self.status()?;
            pause(CALM.min(time.saturating_sub(self.began.elapsed())))?;
        }
        Ok(())
    }

    /// Watches closely until `done` likes what it sees.
    ///
    /// # Errors
    /// After a patience, when the run ends, or on Ctrl-C.
    pub(super) fn wait_for(&mut self, what: &str, mut done: impl FnMut(&Status) -> bool) -> Result<(), BenchError> {
        let Self { run, began, samples, .. } = self;
        run.wait_until(what, PATIENCE, |status| {
            samples.extend(sample(*began, status));
            done(status)
        })?;
        std::thread::sleep(POLL);
        Ok(())
    }

    /// Answers per second in each interval until so long after the beginning.
    pub(super) fn rates(&self, interval: Duration, until: Duration) -> Vec<f64> {
        let edges = (0..).map(|at| interval * at).take_while(|&edge| edge <= until);
        let counts: Vec<f64> = edges.map(|edge| answered_at(&self.samples, edge)).collect();
        counts.windows(2).map(|pair| (pair[1] - pair[0]) / interval.as_secs_f64()).collect()
    }

    /// A line that has the number of each mark below the bar of its interval.
    pub(super) fn marks(&self, interval: Duration) -> String {
        let mut line = String::new();
        for (number, time) in self.marks.iter().enumerate() {
            let at = (time.as_secs_f64() / interval.as_secs_f64()) as usize;
            line.extend(std::iter::repeat_n(' ', at.saturating_sub(line.len())));
            line.push_str(&(number + 1).to_string());
        }
        line
    }
}

fn sample(began: Instant, status: &Status) -> Option<(Duration, u64)> {
    Some((began.elapsed(), account::answered(status.messages.as_ref()?)))
}

/// Between two samples, as if it had grown evenly.
fn answered_at(samples: &[(Duration, u64)], time: Duration) -> f64 {
    let next = samples.partition_point(|(at, _)| *at < time);
    let value = |&(_, answered): &(Duration, u64)| answered as f64;
    match (next.checked_sub(1).and_then(|at| samples.get(at)), samples.get(next)) {
        (Some(before), Some(after)) => {
            let share = (time - before.0).as_secs_f64() / (after.0 - before.0).as_secs_f64();
            value(before) + share * (value(after) - value(before))
        }
        (Some(one), None) | (None, Some(one)) => value(one),
        (None, None) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_samples_answers_grow_evenly() {
        let samples = [(Duration::from_millis(10), 100), (Duration::from_millis(30), 300)];
        let at = |ms| answered_at(&samples, Duration::from_millis(ms));
        assert_eq!((at(0), at(10), at(15), at(30), at(99)), (100.0, 100.0, 150.0, 300.0, 300.0));
        assert_eq!(answered_at(&[], Duration::ZERO), 0.0);
    }
}
