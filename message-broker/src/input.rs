//! What a session has received and not used: in a message buffer, or outside the pool while it has to wait.

use middlenet_sdk::middlebox::READ_BYTES;

use crate::session::{Input, Phase, Session};
use crate::socket::{self, Read};
use crate::worker::Worker;

impl Worker {
    /// What cannot be used yet waits outside the pool, so that it keeps no buffer from others: a part of a head, and what came
    /// behind a request. All buffers could be taken by requests that wait for one for their response.
    pub(crate) fn put_aside(&mut self, s: &mut Session) {
        let Some(input) = s.input.take() else { return };
        self.pool.with(input.index, |m| s.partial.extend_from_slice(&m.data_mut()[input.start..input.end]));
        self.free(input.index);
    }

    /// A buffer; while none is free the session waits for one.
    pub(crate) fn take_buffer(&mut self, s: &mut Session) -> Option<u32> {
        let index = self.pool.take();
        if index.is_none() && !s.starved {
            s.starved = true;
            self.starved.push_back(s.key);
        }
        index
    }

    /// The buffer that the session reads into; nothing while none is free.
    pub(crate) fn input(&mut self, s: &mut Session) -> Option<Input> {
        if s.input.is_none() {
            let index = self.take_buffer(s)?;
            let end = s.partial.len();
            if end > 0 {
                self.pool.with(index, |m| m.data_mut()[..end].copy_from_slice(&s.partial));
                s.partial = Vec::new();
            }
            s.input = Some(Input { index, start: 0, end });
        }
        s.input
    }

    /// Reads into the session's buffer, behind what is there.
    pub(crate) fn fill(&mut self, s: &mut Session, input: Input) -> Read {
        let usual = self.chains[usize::from(s.chain)].read_bytes();
        // A head may be longer.
        let limit = if s.phase == Phase::Head && input.end >= usual { READ_BYTES } else { usual };
        if input.end >= limit {
            // No head is as long as this; bodies are used up before more is read.
            return Read::Broken;
        }
        let read = self.pool.with(input.index, |m| socket::read(&s.socket, &mut m.data_mut()[input.end..limit]));
        match read {
            Read::Bytes(n, more) => {
                s.readable = more || s.hung_up;
                s.input = Some(Input { end: input.end + n, ..input });
                self.counters.chains[usize::from(s.chain)].received_bytes.add(n as u64);
                s.exchange.received_bytes += n as u64;
            }
            Read::Nothing => s.readable = false,
            Read::End => {}
            Read::Broken => s.broken = true,
        }
        read
    }

    /// Moves what is left in a buffer to its front, unless there is room enough behind it for what functions may add.
    pub(crate) fn make_room(&self, chain: u16, input: &mut Input) {
        if input.start > 0 && input.end > self.chains[usize::from(chain)].read_bytes() {
            self.move_to_front(input);
        }
    }

    pub(crate) fn move_to_front(&self, input: &mut Input) {
        let range = input.start..input.end;
        self.pool.with(input.index, |m| m.data_mut().copy_within(range, 0));
        (input.start, input.end) = (0, input.end - input.start);
    }

    pub(crate) fn free_empty_input(&mut self, s: &mut Session) {
        if let Some(input) = s.input
            && input.start >= input.end
            && self.pool.away(input.index).is_none()
        {
            s.input = None;
            self.free(input.index);
        }
    }

    /// Gives a buffer back; a session that waits for one is driven soon.
    pub(crate) fn free(&mut self, index: u32) {
        self.pool.give(index);
        if let Some(key) = self.starved.pop_front() {
            self.ready.push_back(key);
        }
    }
}
