//! Who takes part. Peers are started when their first turn comes and stay, so that turns alternate quickly. Chains of ours are
//! started for each turn: two at a time would share the host's hugepages, and rings that are polled would take the core from
//! whoever has his turn.

use super::backends::Backends;
use super::case::Subject;
use super::middlebox::Middlebox;
use crate::BenchError;
use crate::bench::Bench;

/// The middleboxes that run, and the servers behind them.
#[derive(Debug)]
pub(super) struct Lineup {
    running: Vec<(Subject, Middlebox)>,
    /// Those that cannot be started; nobody tries again.
    out: Vec<Subject>,
    backends: Backends,
}

impl Lineup {
    /// Starts the servers.
    ///
    /// # Errors
    /// When they do not start: then nothing can be measured.
    pub(super) fn new(bench: &Bench) -> Result<Self, BenchError> {
        Ok(Self { running: Vec::new(), out: Vec::new(), backends: Backends::on_loopback(&bench.folder)? })
    }

    /// A subject's middlebox with the servers, or nothing if it cannot be started, which is noted once.
    ///
    /// # Errors
    /// On Ctrl-C.
    pub(super) fn get(
        &mut self,
        bench: &mut Bench,
        subject: Subject,
    ) -> Result<Option<(&Middlebox, &Backends)>, BenchError> {
        if self.out.contains(&subject) {
            return Ok(None);
        }
        if !self.running.iter().any(|(running, _)| *running == subject) {
            match Middlebox::start(bench, subject, &self.backends) {
                Ok(middlebox) => self.running.push((subject, middlebox)),
                Err(error) => {
                    self.out.push(subject);
                    bench.outcome_of(subject.prefix(), Err(error))?;
                    return Ok(None);
                }
            }
        }
        let found = self.running.iter().find(|(running, _)| *running == subject);
        Ok(found.map(|(_, middlebox)| (middlebox, &self.backends)))
    }

    /// Ends a subject's turn. One that failed, and one of ours, begins its next turn anew.
    ///
    /// # Errors
    /// When one of ours does not end well.
    pub(super) fn end_turn(&mut self, subject: Subject, failed: bool) -> Result<(), BenchError> {
        if !failed && !subject.is_ours() {
            return Ok(());
        }
        let at = self.running.iter().position(|(running, _)| *running == subject);
        at.map_or(Ok(()), |at| self.running.swap_remove(at).1.stop())
    }
}
