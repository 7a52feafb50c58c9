//! An exchange that goes wrong: another upstream is tried where that is safe, else the client is told, as far as it can be.

use crate::session::{End, Session};
use crate::worker::Worker;

impl Worker {
    /// Something is wrong with the upstream before its response has begun: another try, or the client is told.
    pub(crate) fn upstream_failed(&mut self, s: &mut Session, reason: &'static str) {
        let Some(upstream) = s.exchange.upstream else { return self.fail(s, 502, reason) };
        let now_ms = self.now_ms;
        // Where one idle connection was closed by the other side, more may have been: the next try is a new one.
        let stale = matches!(reason, "upstream-closed" | "write") && self.is_reused(s);
        // That an idle connection was closed by the other side says nothing of its health.
        if !stale && reason != "no-socket" {
            self.upstreams[upstream].failed(false, now_ms);
        }
        self.release_conn(s, false);
        self.publish(upstream);
        let settings = &self.chains[usize::from(s.chain)].plan.upstream;
        let ex = &mut s.exchange;
        let replayable = ex.request_framing.is_empty() || !ex.sent_any;
        let safe = !ex.sent_any || ex.method.is_idempotent();
        if ex.tries < settings.retries && replayable && safe && !ex.answering {
            ex.tries += 1;
            ex.sent_any = false;
            ex.request_done = false;
            ex.request_given_up = false;
            let begun = ex.response_input.take();
            self.counters.chains[usize::from(s.chain)].retries.inc();
            if let Some(input) = begun {
                self.let_go(input.index);
            }
            let next = if stale { upstream } else { self.another_upstream(s, upstream) };
            return self.connect(s, next, !stale);
        }
        let status = if reason.ends_with("timeout") { 504 } else { 502 };
        self.fail(s, status, reason);
    }

    fn is_reused(&mut self, s: &Session) -> bool {
        s.exchange.conn.and_then(|key| self.conns.get_mut(key)).is_some_and(|c| c.used > 0)
    }

    /// The next of the same list that is up; the same one if there is none.
    fn another_upstream(&self, s: &Session, failed: usize) -> usize {
        let list = match s.exchange.router {
            // What a function lists may be services that have nothing to do with each other.
            Some(hop) if !self.hops[hop].alike => return failed,
            Some(hop) => &self.hops[hop].upstreams,
            None => &self.chains[usize::from(s.chain)].upstreams,
        };
        let at = list.iter().position(|&u| u == failed).unwrap_or(0);
        let after = list.iter().cycle().skip(at + 1).take(list.len().saturating_sub(1));
        let mut others = after.copied().filter(|&u| u != failed);
        others.find(|&u| self.upstreams[u].is_up()).unwrap_or(failed)
    }

    /// The response cannot be had, or not to its end.
    pub(crate) fn response_bad(&mut self, s: &mut Session, reason: &'static str) {
        if s.exchange.answering {
            self.release_conn(s, false);
            self.end(s, End::Failed(reason));
            return self.close(s);
        }
        if reason == "upstream-closed" {
            return self.upstream_failed(s, reason);
        }
        if let Some(upstream) = s.exchange.upstream {
            self.upstreams[upstream].failed(false, self.now_ms);
        }
        self.fail(s, 502, reason);
    }

    /// An exchange took too long.
    pub(crate) fn exchange_overdue(&mut self, s: &mut Session) {
        if s.exchange.request_away || s.exchange.response_away {
            // Functions have their own time-out.
            s.deadline = self.deadline(self.chains[usize::from(s.chain)].plan.timeouts.body_ms);
            return;
        }
        if s.exchange.answering {
            let reason = if s.out.is_empty() { "response-timeout" } else { "slow-client" };
            self.release_conn(s, false);
            self.end(s, if s.out.is_empty() { End::Failed(reason) } else { End::Rejected(reason) });
            return self.close(s);
        }
        if s.exchange.waits_for_client() {
            return self.refuse(s, 408, "body-timeout");
        }
        self.upstream_failed(s, "first-byte-timeout");
    }
}
