//! Adds up the workers' counters.

use crate::counters::{Count, HopDrop, MISSED, PortLoss};
use crate::fast_path;
use crate::latency::Histogram;
use crate::open::Opened;
use crate::running::Running;
use middlenet_plan::{
    Conservation, FastPathConservation, HopStats, InstanceStats, Placement, PortStats, Stats, WorkerStats, drop_stage,
};
use middlenet_sdk::DropReason;

impl Running {
    /// Everything counted so far. With `reports`, inline functions are asked for theirs, which takes a moment of a worker's
    /// time.
    pub(crate) fn stats(&self, reports: bool) -> Stats {
        let ports: Vec<_> = (0..self.plan.ports.len()).map(|port| self.port_stats(port)).collect();
        let hops: Vec<_> = (0..self.plan.hops.len()).map(|hop| self.hop_stats(hop, reports)).collect();
        let workers = self.counters.iter().zip(&self.plan.workers).map(|(counters, &core)| WorkerStats {
            core,
            busy_turns: counters.busy_turns.get(),
            idle_turns: counters.idle_turns.get(),
            parks: counters.parks.get(),
            busy_cycles: counters.busy_cycles.get(),
        });
        let of_fast_paths = || hops.iter().filter_map(|hop| hop.fast_path.as_ref());
        let sum = |counts: &[(String, u64)]| counts.iter().map(|(_, n)| n).sum::<u64>();
        let fast_paths = FastPathConservation {
            entered_pkts: of_fast_paths().map(|f| f.entered).sum(),
            sent_pkts: of_fast_paths().map(|f| f.sent).sum(),
            dropped_pkts: of_fast_paths().map(|f| f.dropped).sum(),
            slow_pkts: of_fast_paths().map(|f| sum(&f.slow)).sum(),
            kernel_pkts: of_fast_paths().map(|f| sum(&f.kernel)).sum(),
        };
        let dropped = |drops: &[(String, String, u64)]| drops.iter().map(|(.., n)| n).sum::<u64>();
        let conservation = Conservation {
            received_pkts: ports.iter().map(|p| p.received_pkts).sum(),
            originated_pkts: hops.iter().map(|h| h.originated_pkts).sum(),
            sent_pkts: ports.iter().map(|p| p.sent_pkts).sum(),
            dropped_pkts: ports.iter().map(|p| dropped(&p.drops)).sum::<u64>()
                + hops.iter().map(|h| dropped(&h.drops)).sum::<u64>()
                // No worker received those.
                - fast_paths.dropped_pkts,
            held_pkts: self.hop_sum(|hop| hop.held_pkts.get()),
            buffers: u64::from(self.pool.count()),
            buffers_free: u64::from(self.pool.available()),
            buffers_in_ports: self.counters.iter().flat_map(|w| &w.ports).map(|p| p.buffers.get()).sum::<u64>()
                + self.buffers_in_devices(),
            buffers_lent: self.hop_sum(|hop| hop.lent.get()),
            fast_paths,
        };
        Stats { uptime_s: self.started.elapsed().as_secs_f64(), ports, hops, workers: workers.collect(), conservation }
    }

    /// Buffers that DPDK's devices have. Only those that do DMA keep any; to find them takes a look at every buffer.
    fn buffers_in_devices(&self) -> u64 {
        let dma = |opened: &Opened| matches!(opened, Opened::Dpdk { port, .. } if port.capabilities().dma);
        if self.opened.iter().any(dma) { self.pool.in_ports().into() } else { 0 }
    }

    fn hop_sum(&self, count: impl Fn(&crate::counters::HopCounters) -> u64) -> u64 {
        self.counters.iter().flat_map(|worker| worker.hops.iter()).map(|hop| count(hop)).sum()
    }

    fn port_stats(&self, port: usize) -> PortStats {
        let sum = |count: fn(&crate::counters::PortCounters) -> &Count| -> u64 {
            self.counters.iter().map(|worker| count(&worker.ports[port]).get()).sum()
        };
        let missed = MISSED.iter().enumerate().map(|(at, name)| {
            let packets = self.counters.iter().map(|worker| worker.ports[port].missed[at].get()).sum();
            ((*name).to_owned(), packets)
        });
        let mut missed: Vec<_> = missed.filter(|(_, packets)| *packets > 0).collect();
        if let Some(Opened::Dpdk { port: device, .. }) = self.opened.get(port)
            && let Ok(stats) = device.stats()
        {
            let device = [("device-missed", stats.missed_pkts), ("device-no-buffer", stats.no_buffer)];
            missed.extend(device.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_owned(), n)));
        }
        let drops = [
            ("port-full", sum(|p| &p.tx_full)),
            ("port-down", sum(|p| &p.tx_down)),
            ("no-egress-port", sum(|p| &p.no_egress)),
        ];
        let drops = drops.map(|(reason, packets)| (drop_stage::EGRESS, reason, packets));
        let lost = PortLoss::ALL.iter().map(|(loss, reason)| {
            let packets = self.counters.iter().map(|w| w.ports[port].lost[*loss as usize].get()).sum();
            (drop_stage::INGRESS, *reason, packets)
        });
        PortStats {
            name: self.plan.ports[port].name.clone(),
            kind: self.opened.get(port).map(Opened::kind).unwrap_or_default(),
            received_pkts: sum(|p| &p.received_pkts),
            received_bytes: sum(|p| &p.received_bytes),
            sent_pkts: sum(|p| &p.sent_pkts),
            sent_bytes: sum(|p| &p.sent_bytes),
            missed,
            drops: lost
                .chain(drops)
                .filter(|(.., packets)| *packets > 0)
                .map(|(stage, reason, packets)| (stage.to_owned(), reason.to_owned(), packets))
                .collect(),
            link_up: self.watches[port].link_up,
            restarts: self.watches[port].restarts,
            trouble: self.watches[port].trouble.clone(),
            takes_redirects: self.takes_redirects(port),
            steering: self.steering_stats(port),
            held_back_polls: sum(|p| &p.held_back_polls),
        }
    }

    fn takes_redirects(&self, port: usize) -> Option<bool> {
        let fast_paths = self.xdp.fast_paths.as_ref()?;
        matches!(self.opened.get(port), Some(Opened::Xdp { .. })).then(|| fast_paths.is_direct(port))
    }

    fn hop_stats(&self, hop: usize, reports: bool) -> HopStats {
        let plan = &self.plan.hops[hop];
        let workers = &self.counters;
        let sum = |count: fn(&crate::counters::HopCounters) -> &Count| -> u64 {
            workers.iter().map(|worker| count(&worker.hops[hop]).get()).sum()
        };
        let fast = self.xdp.fast_paths.as_ref().and_then(|fast_paths| fast_paths.counters(hop));
        let mut drops = Vec::new();
        for number in 0..DropReason::LIMIT {
            let packets: u64 = workers.iter().map(|w| w.hops[hop].by_function[usize::from(number)].get()).sum();
            let in_kernel = fast.as_ref().and_then(|fast| fast.dropped_pkts.get(usize::from(number)));
            let packets = packets + in_kernel.copied().unwrap_or(0);
            if packets > 0 {
                drops.push((drop_stage::FUNCTION.to_owned(), self.reason_name(hop, number), packets));
            }
        }
        for (at, (reason, stage, name)) in HopDrop::ALL.iter().enumerate() {
            let packets: u64 = workers.iter().map(|w| w.hops[hop].by_manager[at].get()).sum();
            let packets = packets
                + match (reason, &fast) {
                    (HopDrop::Output, Some(fast)) => fast.discarded_pkts,
                    (HopDrop::NoSocket, Some(fast)) => fast.no_socket_pkts,
                    (HopDrop::NoRoom, Some(fast)) => fast.untagged_pkts,
                    _ => 0,
                };
            if packets > 0 {
                drops.push(((*stage).to_owned(), (*name).to_owned(), packets));
            }
        }
        let refused = [
            ("index", sum(|h| &h.refused.index)),
            ("holder", sum(|h| &h.refused.holder)),
            ("generation", sum(|h| &h.refused.generation)),
        ];
        HopStats {
            name: plan.name.clone(),
            chain: self.plan.chains[usize::from(plan.chain)].name.clone(),
            placement: match plan.placement {
                Placement::Inline => "inline".into(),
                Placement::Process => "process".into(),
            },
            in_pkts: sum(|h| &h.in_pkts),
            out_pkts: sum(|h| &h.out_pkts),
            originated_pkts: sum(|h| &h.originated_pkts),
            bypassed_pkts: sum(|h| &h.bypassed_pkts),
            refused_descriptors: refused
                .into_iter()
                .filter(|(_, n)| *n > 0)
                .map(|(why, n)| (why.to_owned(), n))
                .collect(),
            drops,
            latency: Histogram::summarise(
                workers.iter().map(|worker| &worker.hops[hop].latency),
                self.tsc_hz as f64 / 1e6,
            ),
            instances: self.instances(hop, reports),
            fast_path: plan.fast_path.zip(fast).map(|(plan, counters)| fast_path::stats(plan.mode, &counters)),
        }
    }

    fn instances(&self, hop: usize, reports: bool) -> Vec<InstanceStats> {
        if self.plan.hops[hop].placement == Placement::Process {
            let held: u64 = self.counters.iter().map(|worker| worker.hops[hop].held_pkts.get()).sum();
            let alive = self.holders[hop].iter().flatten().count().max(1) as u64;
            let instance = |holder: &Option<u16>| InstanceStats {
                attached: holder.is_some(),
                held_pkts: if holder.is_some() { held / alive } else { 0 },
                ..InstanceStats::default()
            };
            return self.holders[hop].iter().map(instance).collect();
        }
        let mut found = if reports { self.reports(hop as u16) } else { Vec::new() };
        found.resize(self.inline[hop].len(), serde_json::Value::Null);
        let held = |worker: usize| self.counters[worker].hops[hop].held_pkts.get();
        (self.inline[hop].iter().zip(found).enumerate())
            .map(|(worker, (counters, report))| InstanceStats {
                attached: true,
                held_pkts: held(worker),
                counters: counters.iter().map(|(info, counter)| (info.clone(), counter.get())).collect(),
                report,
            })
            .collect()
    }

    /// The name of a drop reason. Those that function processes declared are `#N`: the runtime knows their names.
    fn reason_name(&self, hop: usize, number: u16) -> String {
        if let Some((_, name, _)) = DropReason::COMMON.iter().find(|(reason, ..)| reason.0 == number) {
            return (*name).to_owned();
        }
        let own = number.checked_sub(DropReason::FIRST_OWN).and_then(|at| self.reasons[hop].get(usize::from(at)));
        own.map_or_else(|| format!("#{number}"), |info| info.name.clone())
    }
}
