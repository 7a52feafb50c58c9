//! Memory: whether the buffers suffice, and whether the host has room for them.

use middlenet_plan::{BrokerPlan, ManagerPlan, PortKind, PortPlan};
use middlenet_sdk::middlebox::MESSAGE_BYTES;

use super::Checker;
use crate::manifest::Hugepages;
use crate::plan::{Plane, ProcessPlan};
use crate::supervisor::count;

/// Buffers that a queue of a DPDK port holds: descriptors posted for receiving, and on their way out.
const BUFFERS_PER_DPDK_QUEUE: u64 = 1024;
/// The same for a queue of an AF_XDP socket, whose fill ring is longer.
const BUFFERS_PER_XDP_QUEUE: u64 = 2048;
/// Buffers that a worker keeps at hand.
const BUFFERS_PER_WORKER: u64 = 512;
/// Buffers lent to a function process, per worker: empty ones, and one burst.
const BUFFERS_PER_PROCESS: u64 = 128;
/// Buffers there can be; a thousand times what a host of today needs.
const BUFFER_LIMIT: u32 = 1 << 24;
/// Message buffers that a worker needs to serve a burst of connections.
const MESSAGES_PER_WORKER: u32 = 64;
/// Message buffers there can be: 64 GiB.
const MESSAGE_LIMIT: u32 = 1 << 22;

impl Checker<'_> {
    /// Whether the buffers suffice and the host has room for them.
    pub(super) fn check_memory(
        &mut self,
        manager: Option<&ManagerPlan>,
        broker: Option<&BrokerPlan>,
        processes: &[ProcessPlan],
    ) {
        self.check_ring_slots();
        let count = |plane| processes.iter().filter(|p| p.hop.plane == plane).count() as u64;
        let packets = manager.map(|plan| self.packet_bytes(plan, count(Plane::Packets)));
        let messages = broker.map(|plan| self.message_bytes(plan));
        if packets == Some(None) || messages == Some(None) {
            return;
        }
        let bytes = packets.flatten().unwrap_or(0) + messages.flatten().unwrap_or(0);
        let manifest = self.manifest;
        let huge_bytes = self.machine.huge_pages << 21;
        let required = manifest.memory.hugepages == Hugepages::Require && manager.is_none_or(|m| !m.unprivileged);
        if required && bytes > huge_bytes {
            let pages = bytes.div_ceil(2 << 20);
            let message =
                format!("the buffers need {pages} pages of 2 MiB, but the host has {} free", self.machine.huge_pages);
            let hint = format!(
                "`echo {} > /proc/sys/vm/nr_hugepages`, or write `hugepages: auto`",
                pages.next_multiple_of(64)
            );
            self.problem(manifest.span(["memory", "hugepages"]), message, Some(hint));
        } else if bytes > self.machine.memory_bytes.max(huge_bytes) {
            let message =
                format!("{} of buffers, but the host has {} free", mib(bytes), mib(self.machine.memory_bytes));
            let (key, hint) = match messages.flatten() > packets.flatten() {
                true => ("messages", "ask for fewer: `messages: 4096` is enough for most"),
                false => ("buffers", "ask for fewer: `buffers: 16384` is enough for most"),
            };
            self.problem(manifest.span(["memory", key]), message, Some(hint.into()));
        }
    }

    fn check_ring_slots(&mut self) {
        let slots = self.manifest.ring_slots;
        if !slots.is_power_of_two() || !(64..=65536).contains(&slots) {
            let near = slots.clamp(64, 65536).next_power_of_two().min(65536);
            self.problem(
                self.manifest.span(["ring_slots"]),
                format!("a ring of {slots} slots is not supported"),
                Some(format!("use a power of two from 64 to 65536, such as {near}")),
            );
        }
    }

    /// Bytes of the packet buffers, if their number can be.
    fn packet_bytes(&mut self, plan: &ManagerPlan, processes: u64) -> Option<u64> {
        let buffers = self.manifest.span(["memory", "buffers"]);
        if !matches!(plan.buffer_bytes, 2048 | 4096) {
            let message = format!("buffers of {} bytes are not supported", plan.buffer_bytes);
            let hint = "use 2048, or 4096 for an MTU above 1500";
            self.problem(self.manifest.span(["memory", "buffer_bytes"]), message, Some(hint.into()));
        }
        let workers = plan.workers.len() as u64;
        let of_port = |port: &PortPlan| {
            let queues = if port.queues == 0 { workers } else { u64::from(port.queues) };
            match &port.kind {
                PortKind::Pcap { .. } => (0, 0),
                PortKind::Dpdk { .. } => (queues, queues * BUFFERS_PER_DPDK_QUEUE),
                PortKind::Xdp { .. } => (queues, queues * BUFFERS_PER_XDP_QUEUE),
            }
        };
        let (queues, posted) = plan.ports.iter().map(of_port).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let least = posted + workers * BUFFERS_PER_WORKER + processes * workers * BUFFERS_PER_PROCESS;
        if u64::from(plan.buffers) < least {
            let message = format!("{} buffers are too few", plan.buffers);
            let hint = format!(
                "{}, {} and {} need at least {least}: write `buffers: {}`",
                count(queues as usize, "receive queue"),
                count(workers as usize, "worker"),
                count(processes as usize, "function instance"),
                least.next_power_of_two()
            );
            self.problem(buffers, message, Some(hint));
            return None;
        }
        if plan.buffers > BUFFER_LIMIT {
            self.problem(buffers, format!("more than {BUFFER_LIMIT} buffers are not supported"), None);
            return None;
        }
        Some(u64::from(plan.buffers) * u64::from(plan.buffer_bytes))
    }

    /// Bytes of the message buffers, if their number can be.
    fn message_bytes(&mut self, plan: &BrokerPlan) -> Option<u64> {
        let span = self.manifest.span(["memory", "messages"]);
        let least = (plan.workers.len() as u32 * MESSAGES_PER_WORKER).max(MESSAGES_PER_WORKER);
        if plan.buffers < least {
            let message = format!("{} message buffers are too few", plan.buffers);
            let hint = format!(
                "{} need{} at least {least}: write `messages: {}`",
                count(plan.workers.len(), "worker"),
                if plan.workers.len() == 1 { "s" } else { "" },
                least.next_power_of_two()
            );
            self.problem(span, message, Some(hint));
            return None;
        }
        if plan.buffers > MESSAGE_LIMIT {
            self.problem(span, format!("more than {MESSAGE_LIMIT} message buffers are not supported"), None);
            return None;
        }
        Some(u64::from(plan.buffers) * MESSAGE_BYTES as u64)
    }
}

pub(super) fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
