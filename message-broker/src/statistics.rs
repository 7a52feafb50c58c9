//! The broker's counters, summed over its workers.

use std::collections::BTreeMap;
use std::time::Duration;

use crossbeam_channel::bounded;
use middlenet_plan::{
    BrokerStats, BrokerWorkerStats, MessageChainStats, MessageHopStats, MessageInstanceStats, Protocol, Transport,
};

use crate::control::{Broker, WorkerHandle};
use crate::counters::{ChainCounters, Count, HopCounters, Reasons};
use crate::histogram::Histogram;
use crate::worker::Command;

impl Broker {
    pub(crate) fn stats(&self) -> BrokerStats {
        BrokerStats {
            uptime_s: self.began.elapsed().as_secs_f64(),
            chains: (0..self.plan.chains.len()).map(|chain| self.chain_stats(chain)).collect(),
            hops: (0..self.plan.hops.len()).map(|hop| self.hop_stats(hop)).collect(),
            upstreams: self.upstreams.iter().map(|u| u.stats(&self.plan.chains[usize::from(u.chain)].name)).collect(),
            workers: self.worker_stats(),
            skmsg: self.skmsg_state.clone(),
            buffers: self.plan.buffers.into(),
            buffers_free: self.workers.iter().map(|w| w.counters.buffers_free.get()).sum(),
            buffers_held: self.workers.iter().map(|w| w.counters.buffers_held.get()).sum(),
        }
    }

    fn chain_stats(&self, at: usize) -> MessageChainStats {
        let plan = &self.plan.chains[at];
        let all = || self.workers.iter().map(|w| &w.counters.chains[at]);
        let sum = |count: fn(&ChainCounters) -> &Count| all().map(|c| count(c).get()).sum();
        let reasons = |of: fn(&ChainCounters) -> &Reasons| {
            let mut sum = BTreeMap::new();
            all().for_each(|c| of(c).add_to(&mut sum));
            sum.into_iter().collect()
        };
        let listening = self.listening.iter().filter(|(chain, _)| usize::from(*chain) == at);
        MessageChainStats {
            name: plan.name.clone(),
            protocol: if plan.protocol == Protocol::Tcp { "tcp" } else { "http" }.into(),
            listen: listening.map(|(_, address)| address.clone()).collect(),
            connections: sum(|c| &c.connections),
            open_connections: sum(|c| &c.open_connections),
            received: sum(|c| &c.received),
            answered: sum(|c| &c.answered),
            rejected: reasons(|c| &c.rejected),
            failed: reasons(|c| &c.failed),
            aborted: sum(|c| &c.aborted),
            in_progress: sum(|c| &c.in_progress),
            statuses: std::array::from_fn(|class| all().map(|c| c.statuses[class].get()).sum()),
            received_bytes: sum(|c| &c.received_bytes),
            sent_bytes: sum(|c| &c.sent_bytes),
            retries: sum(|c| &c.retries),
            reruns: sum(|c| &c.reruns),
            upgrades: sum(|c| &c.upgrades),
            latency: Histogram::sum(all().map(|c| &c.latency)),
        }
    }

    fn hop_stats(&self, at: usize) -> MessageHopStats {
        let plan = &self.plan.hops[at];
        let all = || self.workers.iter().map(|w| &w.counters.hops[at]);
        let sum = |count: fn(&HopCounters) -> &Count| all().map(|c| count(c).get()).sum();
        let reasons = |of: fn(&HopCounters) -> &Reasons| {
            let mut sum = BTreeMap::new();
            all().for_each(|c| of(c).add_to(&mut sum));
            sum
        };
        let mut refused = reasons(|c| &c.refused);
        for (reason, n) in &self.hops[at].refused {
            *refused.entry((*reason).to_owned()).or_default() += n;
        }
        let mut instances = Vec::new();
        for attached in &self.hops[at].instances {
            let mut stats = MessageInstanceStats { attached: attached.is_some(), ..Default::default() };
            if let Some(attached) = attached {
                let key = u16::from(attached.key);
                let held = |index: &u32| self.custody.get(*index).is_some_and(|(holder, _)| holder == key);
                stats.held = (0..self.plan.buffers).filter(held).count() as u64;
                for (reason, n) in self.refusals(attached) {
                    *refused.entry(reason.to_owned()).or_default() += n;
                }
            }
            instances.push(stats);
        }
        if plan.transport == Transport::Inline {
            instances = self.inline_stats(at);
        }
        let transport = match plan.transport {
            Transport::Inline => "inline",
            Transport::Skmsg if self.skmsg.is_some() => "skmsg",
            Transport::Skmsg | Transport::Ring => "ring",
        };
        MessageHopStats {
            name: plan.name.clone(),
            chain: self.plan.chains[usize::from(plan.chain)].name.clone(),
            transport: transport.into(),
            messages: sum(|c| &c.messages),
            bypassed: sum(|c| &c.bypassed),
            returned: reasons(|c| &c.returned).into_iter().collect(),
            failed: reasons(|c| &c.failed).into_iter().collect(),
            refused: refused.into_iter().collect(),
            instances,
        }
    }

    /// One entry for each worker, in their order; without counters and report where the worker has ended or is too busy to say.
    fn inline_stats(&self, hop: usize) -> Vec<MessageInstanceStats> {
        let of_worker = |worker: &WorkerHandle| {
            let mut stats = MessageInstanceStats { attached: worker.thread.is_some(), ..Default::default() };
            // Workers that have ended answer no more.
            if stats.attached {
                let (to, answer) = bounded(1);
                worker.ask(Command::Report { hop, to });
                if let Ok(told) = answer.recv_timeout(Duration::from_millis(100)) {
                    (stats.counters, stats.report) = told;
                }
            }
            stats
        };
        self.workers.iter().map(of_worker).collect()
    }

    fn worker_stats(&self) -> Vec<BrokerWorkerStats> {
        let workers = self.workers.iter().enumerate().map(|(number, worker)| {
            let c = &worker.counters;
            BrokerWorkerStats {
                core: self.plan.workers.get(number).copied().unwrap_or(0),
                wakeups: c.wakeups.get(),
                groups_sent: c.groups_sent.get(),
                descriptors_sent: c.descriptors_sent.get(),
                hop_wakeups: c.hop_wakeups.get(),
                descriptors_received: c.descriptors_received.get(),
                lost_wakeups: c.lost_wakeups.get(),
                transport_changes: c.transport_changes.get(),
            }
        });
        workers.collect()
    }
}
