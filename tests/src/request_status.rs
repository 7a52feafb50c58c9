//! What a run says of its chains of requests.

use serde_json::Value;

use crate::RunStatus;

/// What became of a chain's requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Requests whose first byte came.
    pub received: u64,
    /// Answered by an upstream or a function.
    pub answered: u64,
    /// The client's fault.
    pub rejected: u64,
    /// Ours, a function's or an upstream's.
    pub failed: u64,
    /// The client went away.
    pub aborted: u64,
    /// Under way.
    pub in_progress: u64,
}

impl Account {
    /// Whether every request is accounted for.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.received == self.answered + self.rejected + self.failed + self.aborted + self.in_progress
    }
}

fn total(reasons: &Value) -> u64 {
    reasons.as_array().into_iter().flatten().filter_map(|entry| entry[1].as_u64()).sum()
}

impl RunStatus {
    fn in_messages<'v>(&'v self, list: &str, key: &str, name: &str) -> &'v Value {
        let all = &self.0["messages"][list];
        let found = all.as_array().into_iter().flatten().find(|entry| entry[key] == name);
        found.unwrap_or_else(|| panic!("there is no `{name}` in {all:#}"))
    }

    /// Whether every process of a run with chains of requests does its work.
    #[must_use]
    pub fn serves_requests(&self) -> bool {
        self.state() == "running" && self.0["messages"].is_object()
    }

    /// The broker's process, while there is one.
    #[must_use]
    pub fn broker_pid(&self) -> Option<u32> {
        self.0["broker"]["pid"].as_u64().and_then(|pid| pid.try_into().ok())
    }

    /// The counters of a chain of requests.
    #[must_use]
    pub fn request_chain(&self, name: &str) -> &Value {
        self.in_messages("chains", "name", name)
    }

    /// The broker's counters of a function.
    #[must_use]
    pub fn request_hop(&self, name: &str) -> &Value {
        self.in_messages("hops", "name", name)
    }

    /// The counters of an upstream.
    #[must_use]
    pub fn upstream(&self, address: &str) -> &Value {
        self.in_messages("upstreams", "address", address)
    }

    /// One of a function's counts by reason: `failed`, `returned`, `refused`.
    #[must_use]
    pub fn hop_reason(&self, hop: &str, list: &str, reason: &str) -> u64 {
        let entries = self.request_hop(hop)[list].as_array().into_iter().flatten();
        entries.filter(|entry| entry[0] == reason).filter_map(|entry| entry[1].as_u64()).sum()
    }

    /// All that a function was refused.
    #[must_use]
    pub fn refused(&self, hop: &str) -> u64 {
        total(&self.request_hop(hop)["refused"])
    }

    /// What became of a chain's requests.
    #[must_use]
    pub fn account(&self, chain: &str) -> Account {
        let chain = self.request_chain(chain);
        let count = |name: &str| chain[name].as_u64().unwrap_or_default();
        Account {
            received: count("received"),
            answered: count("answered"),
            rejected: total(&chain["rejected"]),
            failed: total(&chain["failed"]),
            aborted: count("aborted"),
            in_progress: count("in_progress"),
        }
    }

    /// Whether no request is under way in any chain, every one is accounted for, and every buffer is free.
    #[must_use]
    pub fn requests_rest(&self) -> bool {
        let messages = &self.0["messages"];
        let chains = messages["chains"].as_array().into_iter().flatten();
        let mut names = chains.filter_map(|chain| chain["name"].as_str());
        let even = names.all(|name| {
            let account = self.account(name);
            account.balances() && account.in_progress == 0
        });
        even && messages["buffers_free"] == messages["buffers"] && messages["buffers_held"] == 0
    }
}
