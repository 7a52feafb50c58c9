//! What happens per second, from two looks at a run.

use middlenet_plan::{BrokerStats, Stats};
use serde::Serialize;

use super::drops::dropped;
use crate::api::Status;

/// Rates between two looks at a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Rates {
    /// Seconds between the two.
    pub seconds: f64,
    /// By port id: packets and bits per second, in and out.
    pub ports: Vec<PortRates>,
    /// By hop id.
    pub hops: Vec<HopRates>,
    /// By worker: share of its turns that found packets, from 0 to 1.
    pub workers: Vec<f64>,
    /// By chain of messages.
    pub message_chains: Vec<MessageRates>,
    /// By hop of messages: messages per second.
    pub message_hops: Vec<f64>,
}

/// Rates of a chain of messages.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct MessageRates {
    /// Requests received per second.
    pub received_rps: f64,
    /// Connections accepted per second.
    pub connections_ps: f64,
    /// Bits received per second.
    pub received_bps: f64,
    /// Bits sent per second.
    pub sent_bps: f64,
}

/// Rates of a port.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct PortRates {
    /// Packets received per second.
    pub received_pps: f64,
    /// Packets sent per second.
    pub sent_pps: f64,
    /// Bits received per second.
    pub received_bps: f64,
    /// Bits sent per second.
    pub sent_bps: f64,
}

/// Rates of a hop.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct HopRates {
    /// Packets in per second.
    pub in_pps: f64,
    /// Packets out per second.
    pub out_pps: f64,
    /// Packets dropped per second.
    pub dropped_pps: f64,
}

impl Rates {
    /// What happened from `before` to `after`. After a restart of a data plane, which counts from nothing, everything of it is
    /// zero.
    pub fn between(before: &Status, after: &Status) -> Self {
        let mut rates = Self::default();
        if let (Some(a), Some(b)) = (&before.data_plane, &after.data_plane) {
            rates.take_packets(a, b);
        }
        if let (Some(a), Some(b)) = (&before.messages, &after.messages) {
            rates.take_messages(a, b);
        }
        rates
    }

    fn take_packets(&mut self, a: &Stats, b: &Stats) {
        let seconds = b.uptime_s - a.uptime_s;
        if seconds <= 0.0 {
            return;
        }
        let per_second = |a: u64, b: u64| b.saturating_sub(a) as f64 / seconds;
        let ports = a.ports.iter().zip(&b.ports).map(|(a, b)| PortRates {
            received_pps: per_second(a.received_pkts, b.received_pkts),
            sent_pps: per_second(a.sent_pkts, b.sent_pkts),
            received_bps: 8.0 * per_second(a.received_bytes, b.received_bytes),
            sent_bps: 8.0 * per_second(a.sent_bytes, b.sent_bytes),
        });
        let hops = a.hops.iter().zip(&b.hops).map(|(a, b)| HopRates {
            in_pps: per_second(a.in_pkts, b.in_pkts),
            out_pps: per_second(a.out_pkts, b.out_pkts),
            dropped_pps: per_second(dropped(&a.drops), dropped(&b.drops)),
        });
        let workers = a.workers.iter().zip(&b.workers).map(|(a, b)| {
            let busy = b.busy_turns.saturating_sub(a.busy_turns);
            let turns = busy + b.idle_turns.saturating_sub(a.idle_turns);
            if turns == 0 { 0.0 } else { busy as f64 / turns as f64 }
        });
        self.seconds = seconds;
        (self.ports, self.hops, self.workers) = (ports.collect(), hops.collect(), workers.collect());
    }

    fn take_messages(&mut self, a: &BrokerStats, b: &BrokerStats) {
        let seconds = b.uptime_s - a.uptime_s;
        if seconds <= 0.0 {
            return;
        }
        let per_second = |a: u64, b: u64| b.saturating_sub(a) as f64 / seconds;
        let chains = a.chains.iter().zip(&b.chains).map(|(a, b)| MessageRates {
            received_rps: per_second(a.received, b.received),
            connections_ps: per_second(a.connections, b.connections),
            received_bps: 8.0 * per_second(a.received_bytes, b.received_bytes),
            sent_bps: 8.0 * per_second(a.sent_bytes, b.sent_bytes),
        });
        self.seconds = seconds;
        self.message_chains = chains.collect();
        self.message_hops = a.hops.iter().zip(&b.hops).map(|(a, b)| per_second(a.messages, b.messages)).collect();
    }
}
