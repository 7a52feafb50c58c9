//! A port made of capture files: packets come from one and go to the other.

use middlenet_dpdk::{Pool, Worker};
use middlenet_shm::{Buffers, Descriptor};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Bytes kept free in front of a packet, as AF_XDP does.
const OFFSET_BYTES: u16 = 256;
/// Packets closer together than this share a burst, and so the time that functions see.
const SAME_TIME: Duration = Duration::from_micros(1);

/// A file that several ports may write to.
pub(crate) type SharedWriter = Arc<Mutex<PcapWriter<BufWriter<File>>>>;

struct Record {
    time: Duration,
    bytes: Vec<u8>,
}

/// The time of the packets last read from any file, in ns. It is the clock of a run over capture files.
pub(crate) type Clock = Arc<AtomicU64>;

/// Reads and writes.
pub(crate) struct Capture {
    buffers: Buffers,
    reader: Option<PcapReader<BufReader<File>>>,
    next: Option<Record>,
    writer: Option<SharedWriter>,
    clock: Clock,
    /// Records that no buffer can hold.
    oversized: u64,
    /// The file ended in a record that is none.
    cut_short: bool,
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture").field("at_end", &self.at_end()).finish_non_exhaustive()
    }
}

impl Capture {
    /// Opens the file to read from.
    pub(crate) fn new(
        buffers: Buffers,
        read: Option<&str>,
        writer: Option<SharedWriter>,
        clock: Clock,
    ) -> Result<Self, String> {
        let reader = match read {
            None => None,
            Some(path) => {
                let file = File::open(path).map_err(|e| format!("cannot read `{path}`: {e}"))?;
                let reader = PcapReader::new(BufReader::new(file));
                Some(reader.map_err(|e| format!("`{path}` is not a pcap file: {e}"))?)
            }
        };
        let mut capture = Self { buffers, reader, next: None, writer, clock, oversized: 0, cut_short: false };
        capture.advance();
        Ok(capture)
    }

    /// Creates a file to write to.
    pub(crate) fn create(path: &str) -> Result<SharedWriter, String> {
        let file = File::create(path).map_err(|e| format!("cannot write `{path}`: {e}"))?;
        let header = PcapHeader {
            ts_resolution: pcap_file::TsResolution::NanoSecond,
            endianness: pcap_file::Endianness::native(),
            ..PcapHeader::default()
        };
        let writer = PcapWriter::with_header(BufWriter::new(file), header);
        Ok(Arc::new(Mutex::new(writer.map_err(|e| format!("cannot write `{path}`: {e}"))?)))
    }

    fn advance(&mut self) {
        self.next = None;
        while let Some(reader) = &mut self.reader {
            match reader.next_packet() {
                None => self.reader = None,
                Some(Err(_)) => {
                    self.cut_short = true;
                    self.reader = None;
                }
                Some(Ok(packet)) => {
                    let room = self.buffers.buffer_bytes() as usize - usize::from(OFFSET_BYTES);
                    if packet.data.len() > room {
                        self.oversized += 1;
                        continue;
                    }
                    self.next = Some(Record { time: packet.timestamp, bytes: packet.data.into_owned() });
                    return;
                }
            }
        }
    }

    pub(crate) fn at_end(&self) -> bool {
        self.next.is_none()
    }

    /// Packets of the file that were longer than a buffer, and whether reading ended early at a bad record.
    pub(crate) fn losses(&self) -> (u64, bool) {
        (self.oversized, self.cut_short)
    }

    pub(crate) fn receive(&mut self, token: &Worker, pool: &Pool, out: &mut [Descriptor]) -> usize {
        let Some(first) = &self.next else { return 0 };
        let time = first.time;
        self.clock.store(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let mut n = 0;
        while n < out.len() {
            let Some(record) = self.next.as_ref().filter(|r| r.time.abs_diff(time) < SAME_TIME) else { break };
            let mut index = [0];
            if pool.allocate(token, &mut index) == 0 {
                break;
            }
            let length = record.bytes.len() as u16;
            out[n] = Descriptor { index: index[0], offset: OFFSET_BYTES, length, ..Descriptor::default() };
            self.buffers.bytes_mut(&mut out[n]).copy_from_slice(&record.bytes);
            n += 1;
            self.advance();
        }
        n
    }

    pub(crate) fn send(&mut self, token: &Worker, pool: &Pool, burst: &[Descriptor]) -> usize {
        let mut written = 0;
        if let Some(writer) = &self.writer
            && let Ok(mut writer) = writer.lock()
        {
            let time = Duration::from_nanos(self.clock.load(Ordering::Relaxed));
            for descriptor in burst {
                let bytes = self.buffers.bytes(descriptor);
                let packet = PcapPacket::new(time, bytes.len() as u32, bytes);
                // A full disk: what is not written is not sent.
                if writer.write_packet(&packet).is_err() {
                    break;
                }
                written += 1;
            }
        } else {
            written = burst.len();
        }
        pool.free_descriptors(token, &burst[..written]);
        written
    }
}
