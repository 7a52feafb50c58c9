//! What a run says of itself.

use serde_json::Value;

/// A run's status, as `middlenet status --json` prints it.
///
/// What is asked for by name must be there: a wrong name in a test fails with what there is.
#[derive(Debug, Clone)]
pub struct RunStatus(pub Value);

/// Where packets and buffers are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conservation {
    /// Packets from ports.
    pub received: u64,
    /// Packets that functions made, and copies.
    pub made: u64,
    /// Packets out of ports.
    pub sent: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Packets in rings or with functions.
    pub held: u64,
}

impl Conservation {
    /// Whether every packet is accounted for.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.received + self.made == self.sent + self.dropped + self.held
    }
}

impl RunStatus {
    /// `starting`, `running`, `degraded`, `stopping`.
    #[must_use]
    pub fn state(&self) -> &str {
        self.0["state"].as_str().unwrap_or_default()
    }

    /// Whether every process does its work.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state() == "running" && self.0["data_plane"].is_object()
    }

    /// The entry with this name in a list.
    fn named<'v>(list: &'v Value, name: &str) -> &'v Value {
        let found = list.as_array().into_iter().flatten().find(|entry| entry["name"] == name);
        found.unwrap_or_else(|| panic!("there is no `{name}` in {list:#}"))
    }

    /// The counters of a port.
    #[must_use]
    pub fn port(&self, name: &str) -> &Value {
        Self::named(&self.0["data_plane"]["ports"], name)
    }

    /// Packets a port received, or sent: `received_pkts`, `sent_pkts`, ...
    #[must_use]
    pub fn port_count(&self, name: &str, counter: &str) -> u64 {
        self.port(name)[counter].as_u64().unwrap_or_else(|| panic!("port `{name}` has no count `{counter}`"))
    }

    /// Packets that a steering rule of a port has decided about.
    #[must_use]
    pub fn decided(&self, port: &str, rule: &str) -> u64 {
        let rules = self.port(port)["steering"]["rules"].as_array().into_iter().flatten();
        rules.filter(|r| r["name"] == rule).filter_map(|r| r["pkts"].as_u64()).sum()
    }

    /// The manager's counters of a function.
    #[must_use]
    pub fn hop(&self, name: &str) -> &Value {
        Self::named(&self.0["data_plane"]["hops"], name)
    }

    /// One of the manager's counts of a function: `in_pkts`, `originated_pkts`, ...
    #[must_use]
    pub fn hop_count(&self, name: &str, counter: &str) -> u64 {
        self.hop(name)[counter].as_u64().unwrap_or_else(|| panic!("function `{name}` has no count `{counter}`"))
    }

    /// Packets dropped at a function, or by it, for a reason. A reason that has not occurred is zero.
    #[must_use]
    pub fn dropped(&self, function: &str, reason: &str) -> u64 {
        let drops = self.hop(function)["drops"].as_array().into_iter().flatten();
        drops.filter(|drop| drop[1] == reason).filter_map(|drop| drop[2].as_u64()).sum()
    }

    /// One of the counts of a function's fast path: `entered`, `hits`, `sent`, ...
    #[must_use]
    pub fn fast(&self, function: &str, counter: &str) -> u64 {
        let hop = self.hop(function);
        hop["fast_path"][counter].as_u64().unwrap_or_else(|| panic!("no fast path, or no `{counter}`: {hop:#}"))
    }

    /// Packets that a function's fast path left to the slow path (`slow`) or to the kernel (`kernel`), for a reason. One that has not
    /// occurred is zero.
    #[must_use]
    pub fn left(&self, function: &str, to: &str, reason: &str) -> u64 {
        let counts = self.hop(function)["fast_path"][to].as_array().into_iter().flatten();
        counts.filter(|count| count[0] == reason).filter_map(|count| count[1].as_u64()).sum()
    }

    /// Asserts that packets entered fast paths, and that each of them is accounted for.
    ///
    /// # Panics
    ///
    /// If not.
    pub fn assert_fast_paths_conserve(&self) {
        let all = &self.0["data_plane"]["conservation"]["fast_paths"];
        let count = |name: &str| all[name].as_u64().unwrap_or_default();
        let gone: u64 = ["sent_pkts", "dropped_pkts", "slow_pkts", "kernel_pkts"].map(count).iter().sum();
        assert!(count("entered_pkts") > 0 && count("entered_pkts") == gone, "{all:#}");
    }

    /// All drops at a port and all functions, as `(place, reason, packets)`.
    #[must_use]
    pub fn drops(&self) -> Vec<(String, String, u64)> {
        let mut all = Vec::new();
        for list in ["ports", "hops"] {
            for place in self.0["data_plane"][list].as_array().into_iter().flatten() {
                for drop in place["drops"].as_array().into_iter().flatten() {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    all.push((text(&place["name"]), text(&drop[1]), drop[2].as_u64().unwrap_or_default()));
                }
            }
        }
        all
    }

    /// Packets of a port that the device or the kernel lost before a chain saw them; workers tell that ten times a second.
    #[must_use]
    pub fn missed(&self, port: &str) -> u64 {
        let missed = self.port(port)["missed"].as_array().into_iter().flatten();
        missed.filter_map(|entry| entry[1].as_u64()).sum()
    }

    /// The instances of a function, in the order of their replica numbers.
    #[must_use]
    pub fn instances(&self, function: &str) -> Vec<&Value> {
        let all = self.0["functions"].as_array().into_iter().flatten();
        let found: Vec<&Value> = all.filter(|entry| entry["name"] == function).collect();
        assert!(!found.is_empty(), "there is no function `{function}` in {:#}", self.0["functions"]);
        found
    }

    /// A function's own counter, added up over its instances.
    #[must_use]
    pub fn counter(&self, function: &str, counter: &str) -> u64 {
        let value = |instance: &&Value| Self::named(&instance["counters"], counter)["value"].as_u64();
        self.instances(function).iter().filter_map(value).sum()
    }

    /// How often a function's processes were started anew.
    #[must_use]
    pub fn restarts(&self, function: &str) -> u64 {
        self.instances(function).iter().filter_map(|instance| instance["process"]["restarts"].as_u64()).sum()
    }

    /// The process of a function's first instance, while there is one.
    #[must_use]
    pub fn pid(&self, function: &str) -> Option<u32> {
        pid(&self.instances(function)[0]["process"])
    }

    /// The manager's process, while there is one.
    #[must_use]
    pub fn manager_pid(&self) -> Option<u32> {
        pid(&self.0["manager"])
    }

    /// Every process of the run: supervisor, manager, functions.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let functions = self.0["functions"].as_array().into_iter().flatten();
        let children = functions.map(|function| &function["process"]).chain([&self.0["manager"]]);
        let mut pids: Vec<u32> = children.filter_map(pid).chain(pid(&self.0)).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Where the packets are.
    #[must_use]
    pub fn conservation(&self) -> Conservation {
        let count = |name: &str| self.0["data_plane"]["conservation"][name].as_u64().unwrap_or_default();
        Conservation {
            received: count("received_pkts"),
            made: count("originated_pkts"),
            sent: count("sent_pkts"),
            dropped: count("dropped_pkts"),
            held: count("held_pkts"),
        }
    }

    /// Buffers that are neither free, nor in a port, nor lent, nor hold a packet that is accounted for: zero when the run
    /// stands still. Negative when a buffer is counted twice.
    #[must_use]
    pub fn buffers_astray(&self) -> i64 {
        let count = |name: &str| self.0["data_plane"]["conservation"][name].as_i64().unwrap_or_default();
        count("buffers")
            - count("buffers_free")
            - count("buffers_in_ports")
            - count("buffers_lent")
            - count("held_pkts")
    }
}

fn pid(process: &Value) -> Option<u32> {
    process["pid"].as_u64().and_then(|pid| pid.try_into().ok())
}
