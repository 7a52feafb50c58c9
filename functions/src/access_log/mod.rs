//! `access-log`: writes a line for each request.
//!
//! ```yaml
//! - access-log: { format: combined, file: /var/log/middlenet/access.log }
//! - access-log: { format: json }              # to standard error
//! ```
//!
//! **Formats.** `common` and `combined` are those of Apache and nginx; `json` is an object a line with
//!
//! | field | what |
//! |---|---|
//! | `time` | when the head came, UTC, with milliseconds |
//! | `client`, `port` | the client's address and port |
//! | `method`, `target`, `protocol`, `host`, `referer`, `user_agent` | of the request, as this function saw it: functions before it may have edited it |
//! | `status` | of the response; 0 when none was sent |
//! | `received_bytes`, `sent_bytes` | request and response, head and body |
//! | `duration_us` | from the end of the request's head to the end of the response |
//! | `upstream` | the server that answered, or null |
//! | `complete` | whether the response was sent in full |
//! | `request_id` | as `$request_id` of [`header_edit`](crate::header_edit) |
//!
//! **Escaping.** No byte from outside can end a line or forge a field: `common` and `combined` write quotes, backslashes, control
//! bytes and all above 0x7e as `\xHH`, as nginx does; `json` writes control characters as `\u00HH` and bytes that are no UTF-8 as
//! U+FFFD. A field is cut after 1,024 bytes, the target after 2,048.
//!
//! **Writing.** Lines are gathered, and every `flush_ms` or 64 KiB handed to a thread that writes them. The function never waits
//! for it: while more than `queue_kib` wait, lines are dropped and counted.
//!
//! **Rotation.** Once a second the file's name is looked at. When it is another file or gone, the name is opened anew, so
//! `mv` and then nothing is enough (logrotate: `create` or `nocreate`, without `copytruncate`). Where it cannot be opened, for lack
//! of rights or because the process is confined, lines go on to the old file and `reopen-failed` counts.
//!
//! **Counters.** `lines`, `dropped`, `write-errors` (lines that could not be written), `reopened`, `reopen-failed`, `unknown` (ends
//! of requests whose head was not seen or is forgotten; their line has `-`).
//!
//! **Limits.** 16,384 requests under way at a time are remembered, about 4 KiB each at most. Each replica writes on its own; lines
//! are appended whole, so several may share a file. What is gathered when a process is killed is lost.

mod line;
mod record;
#[cfg(test)]
mod tests;

use crate::log_file::{self, Queue, WallClock};
use middlenet_sdk::middlebox::prelude::*;
use record::Record;
use serde_json::{Value, json};
use std::time::Duration;

/// Requests under way that are remembered, and records kept for the next ones.
const PENDING: usize = 16_384;
const SPARE: usize = 1024;

/// Configuration of `access-log`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How a line looks.
    #[serde(default)]
    pub format: Format,
    /// The file to append to; `stdout` and `stderr` (the default) are the process's own.
    #[schemars(extend("x-middlenet-file" = "write"))]
    pub file: Option<String>,
    /// Milliseconds until a line is handed to the writer, 100 at least.
    #[serde(default = "flush_ms")]
    pub flush_ms: u64,
    /// KiB of lines that may wait for the writer.
    #[serde(default = "queue_kib")]
    pub queue_kib: usize,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `client - - [time] "request" status bytes`
    Common,
    /// The same, with referer and user agent.
    #[default]
    Combined,
    /// A JSON object.
    Json,
}

const fn flush_ms() -> u64 {
    1000
}

const fn queue_kib() -> usize {
    1024
}

/// The function; see the module's documentation.
pub struct AccessLog {
    format: Format,
    flush: Duration,
    flushed: Duration,
    /// Nothing on trial.
    queue: Option<Queue>,
    pending: States<Record>,
    spare: Vec<Record>,
    clock: WallClock,
    lines: Counter,
    dropped: Counter,
    unknown: Counter,
    write_errors: Counter,
    reopened: Counter,
    reopen_failed: Counter,
}

impl MiddleboxFunction for AccessLog {
    type Config = Config;
    const INTERESTS: Interests = Interests::REQUEST_HEAD.with(Interests::FINISHED);

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        if !(100..=60_000).contains(&config.flush_ms) {
            return Err(ConfigError::new(format!("`flush_ms` of {} is not between 100 and 60000", config.flush_ms)));
        }
        if !(64..=1 << 20).contains(&config.queue_kib) {
            return Err(ConfigError::new(format!(
                "`queue_kib` of {} is not between 64 and {}",
                config.queue_kib,
                1 << 20
            )));
        }
        let destination = log_file::destination(config.file.as_deref().unwrap_or("stderr"))?;
        Ok(Self {
            format: config.format,
            flush: Duration::from_millis(config.flush_ms),
            flushed: Duration::ZERO,
            queue: if init.is_trial() { None } else { Some(Queue::new("access-log", destination, config.queue_kib)?) },
            pending: States::new(PENDING),
            spare: Vec::new(),
            clock: WallClock::default(),
            lines: init.counter("lines", "lines gathered for the writer"),
            dropped: init.counter("dropped", "lines dropped because too many waited for the writer"),
            unknown: init.counter("unknown", "requests whose head was not seen or is forgotten"),
            write_errors: init.counter("write-errors", "lines that could not be written"),
            reopened: init.counter("reopened", "times the file was opened anew after a rotation"),
            reopen_failed: init.counter("reopen-failed", "times it could not be, so that the old one was kept"),
        })
    }

    fn request(&mut self, request: &mut Request<'_>, context: &mut Context<'_>) -> Verdict {
        let mut record = self.spare.pop().unwrap_or_default();
        record.fill(request, context.client(), self.clock.at(context.now()));
        self.pending.insert(context.request_id(), record);
        Verdict::Next
    }

    fn finished(&mut self, end: &Finished<'_>, context: &mut Context<'_>) {
        let record = self.pending.take(context.request_id()).unwrap_or_else(|| {
            self.unknown.inc();
            Record::unknown(context.client(), self.clock.at(context.now()))
        });
        if let Some(queue) = &mut self.queue {
            match queue.room() {
                Some(room) => {
                    line::write(room, self.format, &record, context.request_id(), &line::End::of(end));
                    self.lines.inc();
                }
                None => self.dropped.inc(),
            }
        }
        if self.spare.len() < SPARE {
            self.spare.push(record);
        }
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        self.clock.set(context.now());
        let Some(queue) = &mut self.queue else { return };
        if context.now().saturating_sub(self.flushed) >= self.flush {
            self.flushed = context.now();
            queue.flush();
        }
        let seen = queue.seen();
        self.write_errors.add(seen.write_errors);
        self.reopened.add(seen.reopened);
        self.reopen_failed.add(seen.reopen_failed);
    }

    fn inherit(&mut self, previous: Self) {
        self.pending = previous.pending;
        if let (Some(queue), Some(old)) = (&mut self.queue, previous.queue) {
            queue.inherit(old);
        }
    }

    fn report(&self) -> Value {
        json!({"under_way": self.pending.len()})
    }
}
