//! What the device of a port is asked for, where it takes in nothing else and leaves the rest to the kernel.

use crate::{ManagerError, sentence};
use middlenet_dpdk::{Flow, Port};
use middlenet_plan::SteeringPlan;
use middlenet_steer::nic;
use std::collections::HashSet;

/// Requests that a device has taken. Dropping one takes it back.
#[derive(Debug, Default)]
pub(crate) struct NicFlows(Vec<(nic::Flow, Flow)>);

impl NicFlows {
    /// Asks a device, besides what it was asked before, for all that the rules want of it; returns that. All of it, or an error and
    /// nothing new.
    pub(crate) fn add(
        &mut self,
        port: &Port,
        name: &str,
        steering: &SteeringPlan,
    ) -> Result<HashSet<nic::Flow>, ManagerError> {
        let mut wanted = HashSet::new();
        let mut new = Vec::new();
        let names = steering.rules.iter().map(|rule| rule.name.as_str()).chain(["else"]);
        for (rule, flows) in names.zip(nic::flows(&steering.rules, steering.default)) {
            let refused = |e: &dyn std::error::Error| sentence(&format!("{name}`, rule `{rule}"), e);
            for flow in flows.map_err(|e| refused(&e))? {
                let is_there = |(there, _): &(nic::Flow, Flow)| *there == flow;
                if wanted.insert(flow.clone()) && !self.0.iter().any(is_there) {
                    let taken = port.create_flow(&flow).map_err(|e| {
                        refused(&e)
                            .hint("ask for less in that rule, or use an `xdp` port, which carries out every rule")
                    })?;
                    new.push((flow, taken));
                }
            }
        }
        self.0.append(&mut new);
        Ok(wanted)
    }

    /// Takes back what is not wanted any more.
    pub(crate) fn keep(&mut self, wanted: &HashSet<nic::Flow>) {
        self.0.retain(|(flow, _)| wanted.contains(flow));
    }
}
