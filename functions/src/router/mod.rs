//! `router`: sends each request where the first rule says that matches it.
//!
//! ```yaml
//! - router:
//!     rules:
//!       - { host: api.example, prefix: /v2, upstreams: [ "10.2.0.10:80", "10.2.0.11:80" ] }
//!       - { host: ["*.shop.example", shop.example], method: [GET, HEAD], output: cache }
//!       - { path: /health, respond: { status: 200, body: "ok\n" } }
//!       - { regex: "^/user/[0-9]+$", headers: [{ name: X-Beta, value: "1" }], upstream: "10.2.0.12:80" }
//!     default: { respond: { status: 404 } }
//! ```
//!
//! A rule matches if all of its conditions do; one without conditions matches everything.
//!
//! | condition | matches |
//! |---|---|
//! | `host` | a host, or `*.example` for every host below `example`, or a list; without regard to case, port and final dot |
//! | `path` | exactly this canonical path |
//! | `prefix` | its first segments: `/a` matches `/a` and `/a/b`, not `/ab` |
//! | `regex` | a regular expression over the canonical path, without the query |
//! | `method` | a method or a list; case counts |
//! | `headers` | all of: `{ name }` is there, `{ name, value }` is there with this value, `{ name, regex }`, `{ name, absent: true }` |
//! | `query` | all of: `{ name }` is there, `{ name, value }`; compared as sent, without undoing percent-encoding |
//!
//! A rule has one target: `output` (connected in the manifest under the function's `outputs`), `upstream`, `upstreams` (in turn, by
//! weight; those that are down are passed over) or `respond`. Where no rule matches, `default` decides; without it the request goes
//! on as it is.
//!
//! Rules are found by hash of their host, then of their path or prefix. What is scanned is the rules that share both, and
//! those with neither path nor prefix; so a table of thousands of hosts costs what a small one does.
//!
//! **Counters.** `routed`, `outputs`, `responded`, `unmatched` (by no rule), `failed-open`. The report has the matches of each rule.
//!
//! **Limits.** 16,384 rules; 128 upstreams in all; a compiled pattern takes at most 1 MiB.

mod config;
mod rule;
mod table;
#[cfg(test)]
mod tests;

use crate::host_name;
pub use config::{Config, HeaderConfig, OneOrMany, QueryConfig, RespondConfig, RuleConfig, TargetConfig};
use middlenet_sdk::middlebox::prelude::*;
use rule::{Rule, Target};
use serde_json::{Value, json};
use table::Table;

/// The function; see the module's documentation.
pub struct Router {
    table: Table,
    rules: Vec<Rule>,
    targets: Vec<Target>,
    default: Option<Target>,
    matches: Vec<u64>,
    room: Vec<u8>,
    routed: Counter,
    outputs: Counter,
    responded: Counter,
    unmatched: Counter,
    failed_open: Counter,
}

impl MiddleboxFunction for Router {
    type Config = Config;
    const INTERESTS: Interests = Interests::REQUEST_HEAD;

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        config.check()?;
        let (mut table, mut rules, mut targets) = (Table::default(), Vec::new(), Vec::new());
        for (at, rule) in config.rules.iter().enumerate() {
            let what = format!("rule {}", at + 1);
            table.add(at as u32, rule, &what)?;
            rules.push(Rule::new(rule, &what)?);
            targets.push(Target::new(&rule.target(), &what, init)?);
        }
        Ok(Self {
            table,
            matches: vec![0; rules.len()],
            rules,
            targets,
            default: config.default.map(|target| Target::new(&target, "default", init)).transpose()?,
            room: Vec::new(),
            routed: init.counter("routed", "requests sent to an upstream"),
            outputs: init.counter("outputs", "requests sent to an output"),
            responded: init.counter("responded", "requests answered by a rule"),
            unmatched: init.counter("unmatched", "requests that no rule matched"),
            failed_open: init.counter("failed-open", "requests sent to an upstream that is down, since all are"),
        })
    }

    fn request(&mut self, request: &mut Request<'_>, context: &mut Context<'_>) -> Verdict {
        let Self { table, rules, room, .. } = self;
        let host = host_name::normal(request.host().unwrap_or_default(), room);
        let found = table.first(host, request.path(), |rule| rules[rule as usize].matches(request));
        let target = match found {
            Some(rule) => {
                self.matches[rule as usize] += 1;
                &mut self.targets[rule as usize]
            }
            None => {
                self.unmatched.inc();
                match &mut self.default {
                    Some(target) => target,
                    None => return Verdict::Next,
                }
            }
        };
        match target {
            Target::Output(output) => {
                self.outputs.inc();
                Verdict::Output(*output)
            }
            Target::Respond(answer) => {
                self.responded.inc();
                Verdict::Respond(answer.clone())
            }
            Target::Upstreams(balancer) => {
                let pick = balancer.pick(context.upstreams(), || 0);
                self.routed.inc();
                if pick.is_down {
                    self.failed_open.inc();
                }
                Verdict::Route(pick.upstream)
            }
        }
    }

    fn report(&self) -> Value {
        // Bounded: those that matched most are enough to see what happens.
        let mut matches: Vec<(usize, u64)> = self.matches.iter().copied().enumerate().filter(|(_, n)| *n > 0).collect();
        matches.sort_by_key(|&(at, n)| (std::cmp::Reverse(n), at));
        let matches = matches.iter().take(100).map(|(at, n)| json!({"rule": at + 1, "matches": n}));
        json!({"rules": self.rules.len(), "most_matched": matches.collect::<Vec<_>>()})
    }
}
