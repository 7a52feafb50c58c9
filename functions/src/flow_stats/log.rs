//! Lines about flows that ended.

use super::flow::{End, Flow};
use crate::flow_table::Key;
use crate::log_file::{Civil, Queue, WallClock};
use middlenet_sdk::fast_path;
use serde::Serialize;
use std::net::IpAddr;
use std::time::Duration;

/// Where lines go.
pub(super) struct Log {
    pub(super) queue: Queue,
    pub(super) clock: WallClock,
}

/// One line. Times are UTC, with milliseconds.
#[derive(Serialize)]
struct Line {
    first: String,
    last: String,
    src: IpAddr,
    dst: IpAddr,
    src_port: u16,
    dst_port: u16,
    protocol: u8,
    vlan: u16,
    packets: u64,
    bytes: u64,
    fast_packets: u64,
    fast_bytes: u64,
    end: End,
}

impl Log {
    /// Adds a line; false if there was no room for it.
    pub(super) fn write(&mut self, key: &Key, flow: &Flow, end: End) -> bool {
        let (first, last) = (time(self.clock.at(flow.first)), time(self.clock.at(flow.last)));
        let fast_path::Flow { vlan, src, dst, protocol, src_port, dst_port } = key.into();
        let total = flow.total();
        let line = Line {
            first,
            last,
            src,
            dst,
            src_port,
            dst_port,
            protocol,
            vlan,
            packets: total.packets,
            bytes: total.bytes,
            fast_packets: flow.fast.packets,
            fast_bytes: flow.fast.bytes,
            end,
        };
        let Some(room) = self.queue.room() else { return false };
        let before = room.len();
        if serde_json::to_writer(&mut *room, &line).is_err() {
            room.truncate(before);
            return false;
        }
        room.push(b'\n');
        true
    }
}

fn time(since_1970: Duration) -> String {
    let Civil { year, month, day, hour, minute, second } = Civil::of(since_1970.as_secs());
    let ms = since_1970.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}
