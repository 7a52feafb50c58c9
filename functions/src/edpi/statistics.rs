//! What each protocol has moved, in the slow path and in the fast path together.

use middlenet_ndpi::Detector;
use middlenet_sdk::fast_path::FastPath;
use serde_json::{Value, json};
use std::cmp::Reverse;

/// Protocols that nDPI has room for, those of a file of signatures included.
pub(super) const PROTOCOLS: usize = 512;

/// What a protocol's packets came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

/// By protocol: flows, and what went through the function itself. Packets of flows that are being inspected stand under protocol 0
/// until the flow's protocol is known, so that the sum is at every moment that of all packets.
#[derive(Clone, Debug)]
pub(super) struct Statistics {
    slow: Vec<Moved>,
    flows: Vec<u64>,
    /// What the fast path had counted when its classes got the meaning that they have now.
    before: Vec<Moved>,
}

impl Statistics {
    pub(super) fn new() -> Self {
        let none = vec![Moved::default(); PROTOCOLS];
        Self { slow: none.clone(), flows: vec![0; PROTOCOLS], before: none }
    }

    /// A packet that the function was handed.
    #[inline]
    pub(super) fn count(&mut self, protocol: u16, bytes: u64) {
        if let Some(moved) = self.slow.get_mut(usize::from(protocol)) {
            moved.packets += 1;
            moved.bytes += bytes;
        }
    }

    /// The flow's protocol has become known: what it has moved is its protocol's.
    pub(super) fn classify(&mut self, protocol: u16, moved: Moved) {
        let to = usize::from(protocol).min(PROTOCOLS - 1);
        self.flows[to] += 1;
        if to != 0 {
            let unknown = &mut self.slow[0];
            unknown.packets = unknown.packets.saturating_sub(moved.packets);
            unknown.bytes = unknown.bytes.saturating_sub(moved.bytes);
            self.slow[to].packets += moved.packets;
            self.slow[to].bytes += moved.bytes;
        }
    }

    /// From here on the fast path's classes mean other protocols than before.
    pub(super) fn begin_anew(&mut self, fast_path: &FastPath) {
        for (protocol, before) in (0..).zip(&mut self.before) {
            let counted = fast_path.class_counts(protocol);
            *before = Moved { packets: counted.packets, bytes: counted.bytes };
        }
    }

    /// What a protocol's packets came to in the fast path.
    fn fast(&self, fast_path: &FastPath, protocol: u16) -> Moved {
        let counted = fast_path.class_counts(protocol);
        let before = self.before[usize::from(protocol)];
        Moved {
            packets: counted.packets.saturating_sub(before.packets),
            bytes: counted.bytes.saturating_sub(before.bytes),
        }
    }

    /// All that was moved, and the protocols that moved most bytes.
    pub(super) fn report(&self, detector: &Detector, fast_path: &FastPath, top: usize) -> Value {
        let mut all: Vec<(u16, Moved, Moved)> = (0..PROTOCOLS as u16)
            .zip(&self.slow)
            .map(|(number, slow)| (number, *slow, self.fast(fast_path, number)))
            .collect();
        let packets: u64 = all.iter().map(|(_, slow, fast)| slow.packets + fast.packets).sum();
        let bytes: u64 = all.iter().map(|(_, slow, fast)| slow.bytes + fast.bytes).sum();
        all.retain(|(number, slow, fast)| slow.packets + fast.packets + self.flows[usize::from(*number)] != 0);
        all.sort_by_key(|(_, slow, fast)| Reverse(slow.bytes + fast.bytes));
        let show = |&(number, slow, fast): &(u16, Moved, Moved)| {
            json!({
                "protocol": detector.protocol_name(number),
                "flows": self.flows[usize::from(number)],
                "packets": slow.packets + fast.packets,
                "bytes": slow.bytes + fast.bytes,
                "fast_packets": fast.packets,
                "fast_bytes": fast.bytes,
            })
        };
        json!({ "packets": packets, "bytes": bytes, "protocols": all.iter().take(top).map(show).collect::<Value>() })
    }
}
