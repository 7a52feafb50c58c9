//! Lines on their way to the writer.

use super::writer::{self, Destination, Seen, Shared};
use middlenet_sdk::ConfigError;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes that are handed over at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// How long a function that ends waits for its last lines to be written.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// Gathers lines, and hands them to a thread of its own without ever waiting for it.
pub(crate) struct Queue {
    destination: Destination,
    current: Vec<u8>,
    /// Nothing once the function is ending.
    sender: Option<SyncSender<Vec<u8>>>,
    /// Buffers that come back.
    empty: Receiver<Vec<u8>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Queue {
    /// Opens the destination and starts the thread, which is shown under the function's name.
    pub(crate) fn new(name: &str, destination: Destination, queue_kib: usize) -> Result<Self, ConfigError> {
        let sink = destination.open()?;
        let chunks = (queue_kib * 1024 / CHUNK_BYTES).max(1);
        let (sender, receiver) = sync_channel(chunks);
        let (returns, empty) = sync_channel(chunks + 1);
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || writer::run(sink, &receiver, &returns, &theirs))
            .map_err(|e| ConfigError::new(format!("the writer's thread cannot be started: {e}")))?;
        Ok(Self { destination, current: Vec::new(), sender: Some(sender), empty, shared, thread: Some(thread) })
    }

    /// A queue whose receiver is a test's.
    #[cfg(test)]
    pub(crate) fn stuck(sender: SyncSender<Vec<u8>>) -> Self {
        let (_, empty) = sync_channel(1);
        let shared = Arc::default();
        Self {
            destination: Destination::Stderr,
            current: Vec::new(),
            sender: Some(sender),
            empty,
            shared,
            thread: None,
        }
    }

    /// Where to append a line; `None` when too much waits already.
    #[inline]
    pub(crate) fn room(&mut self) -> Option<&mut Vec<u8>> {
        if self.current.len() >= CHUNK_BYTES && !self.flush() {
            return None;
        }
        Some(&mut self.current)
    }

    /// Hands over what is gathered; false if the queue is full.
    pub(crate) fn flush(&mut self) -> bool {
        let Some(sender) = self.sender.as_ref().filter(|_| !self.current.is_empty()) else { return true };
        match sender.try_send(std::mem::take(&mut self.current)) {
            Ok(()) => {
                self.current = self.empty.try_recv().unwrap_or_default();
                true
            }
            Err(TrySendError::Full(lines) | TrySendError::Disconnected(lines)) => {
                self.current = lines;
                false
            }
        }
    }

    /// What the writer has counted since this was last called.
    pub(crate) fn seen(&self) -> Seen {
        self.shared.take()
    }

    /// Goes on with the queue of an instance that wrote to the same place, so that lines keep their order.
    pub(crate) fn inherit(&mut self, old: Self) {
        if old.destination == self.destination {
            *self = old;
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let until = Instant::now() + LAST_WAIT;
        while !self.flush() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        // The thread ends when it has written what it was handed.
        self.sender = None;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
