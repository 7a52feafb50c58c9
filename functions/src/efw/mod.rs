//! Packet filter for the fast path: ordered rules, each of which asks for one thing (eVNF, section IV-A).
//!
//! **Purpose.** Decides about most packets in the kernel, by prefixes and ports, and leaves the others to a filter behind it: to
//! `firewall`, or in mode `offloading` to nftables.
//!
//! **Configuration** (see [`Config`] for all of it):
//!
//! ```yaml
//! efw:
//!   mode: proactive                    # or offloading
//!   config:
//!     rules:                           # the first that matches decides
//!       - { src: 192.0.2.0/24, allow: false }
//!       - { dst_port: [80, 443], proto: tcp, allow: true }
//!       - { src: [10.0.0.0/8, "2001:db8::/32"], allow: true }
//! ```
//!
//! **What happens.** What a rule denies is dropped. What it allows goes on to the next function or, where the manifest connects the
//! output `allowed`, there: past the `firewall` behind this one. What no rule matches goes on to the next function; in mode
//! `offloading`, to the kernel. Rules do not know of connections: answers need a rule, too, or a stateful filter behind.
//!
//! **Rules.** One asks for a source, a destination, a source port or a destination port; the order counts across all of them, and
//! for a prefix within another. What needs two is for the filter behind. Prefixes match every IP packet; ports those of TCP and UDP
//! that show them. ARP, other protocols and packets without a whole IP header match nothing.
//!
//! A fragment of TCP or UDP, the first included, does not show its ports; nor does a packet that ends before them, or of which more than eight
//! headers of IPv6 hide what it carries. A rule of ports that comes first might have matched it. So behind such a rule, an address
//! that is denied is denied, but one that is allowed does not let the packet pass: it is the filter's behind. Put what is allowed
//! in any case, by address, before the first rule of ports.
//!
//! Prefixes of IPv4 match packets of IPv4 alone: an address in an IPv6 packet is one of IPv6, IPv4-mapped or not.
//! VLAN tags are not looked at.
//!
//! **Fast path.** The same rules, in the kernel's maps: what no rule matches comes here, where it is decided once more, to the
//! same end; but in mode `offloading` nftables is out of reach from here, so what no rule matches is dropped (`not_judged`). Without a
//! fast path this code decides about all packets.
//!
//! **Change of configuration.** At no moment does a packet meet anything but the old rules or the new ones. Counts of rules that stay
//! go on; in the fast path those of a rule that is edited in its place do so, too, and those of one that moves may begin anew.
//!
//! **Counters.** Of packets that came here: `allowed`, `denied`, `unmatched`. The report has packets and bytes of the first 256
//! rules, by both paths.
//!
//! **Limits.** 8192 rules, 65,536 prefixes of sources and as many of destinations.

mod config;
mod nesting;
mod table;
#[cfg(test)]
mod tests;

pub use config::{Config, RuleConfig};

use config::MAX_RULES;
use middlenet_sdk::fast_path::{Action, Counted, FastPath, Mode, Prefix, RuleTable, Shape, Then};
use middlenet_sdk::prelude::*;
use middlenet_steer::Head;
use nesting::Nested;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use table::{Matcher, Table};

/// Prefixes of sources at most, and of destinations.
const MAX_PREFIXES: usize = 1 << 16;
/// Rules shown in the report.
const REPORTED_RULES: usize = 256;

/// See the module's documentation.
pub struct Efw {
    rules: Vec<Rule>,
    table: Table,
    /// Where allowed packets go, if not on.
    allowed_to: Option<Output>,
    fast_path: FastPath,
    not_judged: DropReason,
    allowed: Counter,
    denied: Counter,
    unmatched: Counter,
}

struct Rule {
    name: Option<String>,
    matcher: Matcher,
    allow: bool,
    /// Decided here.
    counted: Counted,
}

impl NetworkFunction for Efw {
    type Config = Config;

    const FAST_PATH: Shape = Shape::of(&[Mode::Proactive, Mode::Offloading])
        .prefixes(MAX_PREFIXES as u32, MAX_PREFIXES as u32)
        .ports(true, true)
        .rules(MAX_RULES as u32);

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        if config.rules.len() > MAX_RULES {
            return Err(ConfigError::new(format!("{} rules are more than {MAX_RULES}", config.rules.len()))
                .with_hint("join rules that differ in one value into one rule with a list"));
        }
        let matchers: Vec<Matcher> =
            config.rules.iter().enumerate().map(|(i, rule)| rule.matcher(i + 1)).collect::<Result<_, _>>()?;
        let table = Table::new(&matchers);
        for (field, prefixes) in [("src", &table.src_prefixes), ("dst", &table.dst_prefixes)] {
            if prefixes.len() > MAX_PREFIXES {
                return Err(ConfigError::new(format!(
                    "`{field}`: {} prefixes are more than {MAX_PREFIXES}",
                    prefixes.len()
                ))
                .with_hint("join neighbouring prefixes, or leave the rarer ones to the filter behind"));
            }
        }
        let rules: Vec<Rule> = config
            .rules
            .into_iter()
            .zip(matchers)
            .map(|(rule, matcher)| Rule { name: rule.name, matcher, allow: rule.allow, counted: Counted::default() })
            .collect();
        let allowed_to = init.output("allowed");
        let fast_path = init.fast_path();
        fast_path.set_rules(&rule_table(&rules, &table, allowed_to))?;
        Ok(Self {
            rules,
            table,
            allowed_to,
            fast_path,
            not_judged: init
                .drop_reason("not_judged", "in mode `offloading`: no rule matched, and the kernel was out of reach"),
            allowed: init.counter("allowed", "packets that a rule let pass, decided here"),
            denied: init.counter("denied", "packets that a rule dropped, decided here"),
            unmatched: init.counter("unmatched", "packets that no rule matched"),
        })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        let (mut allowed, mut denied, mut unmatched) = (0, 0, 0);
        let is_offloading = self.fast_path.mode() == Some(Mode::Offloading);
        for packet in burst.iter_mut() {
            let drops = |rule: u32| self.rules.get(rule as usize).is_some_and(|rule| !rule.allow);
            let number = Head::parse(packet.data()).and_then(|head| self.table.decide(&head, drops));
            let Some(rule) = number.and_then(|number| self.rules.get_mut(number as usize)) else {
                unmatched += 1;
                if is_offloading {
                    packet.drop(self.not_judged);
                }
                continue;
            };
            rule.counted.packets += 1;
            rule.counted.bytes += packet.len() as u64;
            match (rule.allow, self.allowed_to) {
                (false, _) => {
                    denied += 1;
                    packet.drop(DropReason::DENIED);
                }
                (true, Some(output)) => {
                    allowed += 1;
                    packet.output(output);
                }
                (true, None) => allowed += 1,
            }
        }
        self.allowed.add(allowed);
        self.denied.add(denied);
        self.unmatched.add(unmatched);
    }

    fn inherit(&mut self, previous: Self) {
        let mut old = HashMap::<(&Matcher, bool), VecDeque<Counted>>::new();
        for rule in &previous.rules {
            old.entry((&rule.matcher, rule.allow)).or_default().push_back(rule.counted);
        }
        for rule in &mut self.rules {
            rule.counted = old.get_mut(&(&rule.matcher, rule.allow)).and_then(VecDeque::pop_front).unwrap_or_default();
        }
    }

    fn report(&self) -> Value {
        let shown = self.rules.iter().enumerate().take(REPORTED_RULES).map(|(i, rule)| {
            let (slow, fast) = (rule.counted, self.fast_path.rule_counts(i as u32));
            json!({
                "rule": i + 1, "name": rule.name, "allow": rule.allow,
                "packets": slow.packets + fast.packets, "bytes": slow.bytes + fast.bytes, "fast_packets": fast.packets,
            })
        });
        json!({"rules": shown.collect::<Vec<_>>(), "unmatched": self.unmatched.get()})
    }
}

/// The rules for the fast path.
fn rule_table(rules: &[Rule], table: &Table, allowed_to: Option<Output>) -> RuleTable {
    let action = |rule: &Rule| {
        let then = match (rule.allow, allowed_to) {
            (false, _) => Then::Drop(DropReason::DENIED.0),
            (true, Some(output)) => Then::Output(output.0),
            (true, None) => Then::Next,
        };
        Action { then, ..Action::default() }
    };
    let numbered = |prefixes: &[Nested]| -> Vec<(Prefix, u32)> {
        prefixes.iter().map(|nested| (nested.prefix, nested.rule)).collect()
    };
    RuleTable {
        rules: rules.iter().map(action).collect(),
        src: numbered(&table.src_prefixes),
        dst: numbered(&table.dst_prefixes),
        src_ports: table.src_ports(),
        dst_ports: table.dst_ports(),
    }
}
