//! Flows in the fast path: what the router did with the last packet of a flow, the kernel does with those that follow.
//!
//! All that a flow's way depends on is known here: routes change with the configuration, neighbours when they are learned, lost
//! or moved. Each such change voids all flows at once. A flow that is in use is never asked for; it comes here once in a
//! [`LIFETIME`], so that the kernel does not go on for ever on the word of a router that is no more.

use super::config::Interface;
use crate::flow_table::{Class, Probe, Seed};
use middlenet_sdk::fast_path::{Action, Ends, FastPath, FlowRule, Mode, Rewrite, Shape, Then, flow_of};
use middlenet_sdk::prelude::*;
use middlenet_sdk::wire::protocol;
use std::time::Duration;

pub(super) const SHAPE: Shape = Shape::of(&[Mode::Reactive]).flows(65_536);

/// Flows of which it is remembered that a packet came.
const RECENT: usize = 8192;
const LIFETIME: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(5);
/// Packets are under way here when their flow is installed; only those that come later mean that it is there no more.
const REINSTALL: Duration = Duration::from_secs(1);
/// Entries of the fast path that a tick looks at.
const SWEPT: usize = 1024;

/// The fast path as the router uses it.
pub(super) struct Fast {
    path: FastPath,
    is_active: bool,
    seed: Seed,
    /// Flows whose packets came here, by hash. One pushes out another: that costs a flow a packet or two more.
    recent: Vec<Recent>,
    /// How often a way had changed when flows were last voided.
    changes: u64,
}

#[derive(Clone, Copy, Default)]
struct Recent {
    hash: u32,
    /// When it was installed; nothing for one that has had one packet.
    installed: Option<Duration>,
}

impl Fast {
    pub(super) fn new(path: FastPath) -> Self {
        // What an instance before this one left there follows its routes.
        path.clear();
        let is_active = path.is_active();
        let recent = vec![Recent::default(); if is_active { RECENT } else { 0 }];
        Self { path, is_active, seed: Seed::random(), recent, changes: 0 }
    }

    /// After a burst or a tick: `changes` says how often a way has changed so far.
    #[inline]
    pub(super) fn follow(&mut self, burst: &mut Burst<'_>, changes: u64, interfaces: &[Interface]) {
        if !self.is_active {
            return;
        }
        if self.changes != changes {
            self.changes = changes;
            self.recent.fill(Recent::default());
            // Packets of this burst may have gone the old way.
            self.path.clear();
        } else {
            self.install(burst, interfaces);
        }
    }

    /// Voids all flows.
    pub(super) fn clear(&self) {
        self.path.clear();
    }

    /// Removes some flows whose time is up.
    pub(super) fn sweep(&self) {
        self.path.sweep(SWEPT, &mut |_, _| {});
    }

    #[inline(never)]
    fn install(&mut self, burst: &mut Burst<'_>, interfaces: &[Interface]) {
        let now = burst.now();
        for packet in burst.iter_mut() {
            let Verdict::Port(Port(port)) = packet.verdict() else { continue };
            let probe = Probe::of(packet.data());
            let key = &probe.key;
            let is_icmp = matches!(key.protocol(), protocol::ICMPV4 | protocol::ICMPV6);
            if probe.class != Class::Flow || probe.first_fragment || is_icmp || !self.is_due(self.seed.hash(key), now) {
                continue;
            }
            let macs = packet.data().first_chunk::<12>().copied();
            let mtu = interfaces.iter().find(|interface| interface.port == port).map(|interface| interface.mtu);
            let (Some(macs), Some(mtu), Some(flow)) = (macs, mtu, packet.flow_key()) else { continue };
            let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = macs;
            let ethernet = Some(([d0, d1, d2, d3, d4, d5], [s0, s1, s2, s3, s4, s5]));
            let rewrite = Rewrite { ethernet, lower_ttl: true, ..Rewrite::default() };
            let action = Action { then: Then::Port(port), rewrite, class: None, mtu: Some(mtu) };
            let rule = FlowRule { action, lifetime: LIFETIME, idle: Some(IDLE), ends: Ends::Ignored };
            self.path.install(&flow_of(&flow), &rule);
        }
    }

    /// Whether a flow is to be installed: with its second packet here, and if its packets still come a while after.
    fn is_due(&mut self, hash: u32, now: Duration) -> bool {
        let at = hash as usize % RECENT;
        let Some(recent) = self.recent.get_mut(at) else { return false };
        if recent.hash != hash {
            *recent = Recent { hash, installed: None };
            return false;
        }
        let is_due = recent.installed.is_none_or(|then| now.saturating_sub(then) >= REINSTALL);
        if is_due {
            recent.installed = Some(now);
        }
        is_due
    }
}
