//! Runs a function of layer L4/L7 on requests without a host: no sockets, no other process, and a clock that the test moves.
//!
//! ```
//! use middlenet_sdk::middlebox::{prelude::*, testkit::Testkit};
//! # middlenet_sdk::config! { struct Config {} }
//! # struct Deny;
//! # impl MiddleboxFunction for Deny {
//! #     type Config = Config;
//! #     const INTERESTS: Interests = Interests::REQUEST_HEAD;
//! #     fn new(_: Config, _: &mut Init) -> Result<Self, ConfigError> { Ok(Self) }
//! #     fn request(&mut self, request: &mut Request<'_>, _: &mut Context<'_>) -> Verdict {
//! #         if request.path() == b"/secret" { return Verdict::respond(403, "no") }
//! #         request.set_header("x-seen", "yes");
//! #         Verdict::Next
//! #     }
//! # }
//! let mut kit = Testkit::<Deny>::new(serde_json::json!({}));
//! let seen = kit.request("GET /open HTTP/1.1\r\nHost: a.example\r\n\r\n");
//! assert_eq!(seen.verdict, Verdict::Next);
//! assert_eq!(seen.header("x-seen"), Some("yes"));
//! let denied = kit.request("GET /secret HTTP/1.1\r\nHost: a.example\r\n\r\n");
//! assert_eq!(denied.verdict, Verdict::respond(403, "no"));
//! ```

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use middlenet_http::{Limits, Method, Span};
use middlenet_shm::{Buffers, Descriptor, Pages, Region};
use serde_json::Value;

use super::layout::{DATA_OFFSET, MESSAGE_BYTES, MessageHeader, NO_HOP, flag};
use super::{Board, Context, DynMiddlebox, Kind, Message, MiddleboxFunction, Timers, Verdict};
use crate::{ConfigError, Init, Registration};

/// A request or response after the function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What the function decided.
    pub verdict: Verdict,
    /// Target of a request as it would go on.
    pub target: String,
    /// Status of a response as it would go on.
    pub status: u16,
    /// Headers as they would go on, bytes that are no UTF-8 replaced.
    pub headers: Vec<(String, String)>,
    /// Bytes of a piece as they would go on.
    pub bytes: Vec<u8>,
    /// Whether an edit found no room: the broker would answer 500.
    pub no_room: bool,
}

impl Outcome {
    /// The value of the first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A function and the little it needs to run.
pub struct Testkit<F> {
    registration: Registration,
    function: Box<dyn DynMiddlebox>,
    init: Init,
    board: Board,
    timers: Timers,
    now: Duration,
    buffers: Buffers,
    client: SocketAddr,
    connection: u64,
    request: u64,
    _function: PhantomData<F>,
}

impl<F: MiddleboxFunction> Testkit<F> {
    /// Makes the function from a configuration.
    ///
    /// # Panics
    /// When the function refuses it; see [`try_new`](Self::try_new).
    pub fn new(config: Value) -> Self {
        Self::try_new(config).unwrap_or_else(|e| panic!("the configuration was refused: {e}"))
    }

    /// Makes the function, or tells why it refuses the configuration.
    ///
    /// # Errors
    /// The function's.
    pub fn try_new(config: Value) -> Result<Self, ConfigError> {
        Self::with_outputs(config, &[])
    }

    /// As [`try_new`](Self::try_new), with named outputs that a manifest would connect.
    ///
    /// # Errors
    /// The function's.
    pub fn with_outputs(config: Value, outputs: &[&str]) -> Result<Self, ConfigError> {
        let registration = Registration::middlebox::<F>("tested", "");
        let mut init = Init::new(Vec::new(), outputs.iter().map(|&o| o.into()).collect());
        let function = registration.create_middlebox(config, &mut init)?;
        let region = Region::create("testkit", MESSAGE_BYTES, Pages::Small).expect("memory for a buffer");
        let buffers = Buffers::new(Arc::new(region), MESSAGE_BYTES as u32).expect("one buffer");
        Ok(Self {
            registration,
            function,
            init,
            board: Board::default(),
            timers: Timers::default(),
            now: Duration::ZERO,
            buffers,
            client: ([192, 0, 2, 1], 40_000).into(),
            connection: 1,
            request: 0,
            _function: PhantomData,
        })
    }

    /// Replaces the function by one of another configuration, as `middlenet apply` does.
    ///
    /// # Errors
    /// The function's; the old one stays.
    pub fn reconfigure(&mut self, config: Value) -> Result<(), ConfigError> {
        let mut init = self.init.renewed();
        let function = self.registration.create_middlebox(config, &mut init)?;
        let previous = std::mem::replace(&mut self.function, function);
        self.function.inherit(previous);
        init.continue_from(&self.init);
        self.init = init;
        Ok(())
    }

    /// Messages come from this client from now on.
    pub fn set_client(&mut self, client: SocketAddr) {
        self.client = client;
    }

    /// Messages belong to this connection from now on.
    pub fn set_connection(&mut self, id: u64) {
        self.connection = id;
    }

    /// Tells the function of the state of an upstream, by its number.
    pub fn set_upstream(&mut self, number: usize, up: bool, active: u32) {
        self.board.publish(number, up, active);
    }

    /// Shows the function a request; a new one of the connection. Its body, if there is one, stays out.
    ///
    /// # Panics
    /// When it is no whole request head that the broker would let pass.
    pub fn request(&mut self, text: impl AsRef<[u8]>) -> Outcome {
        self.request += 1;
        let text = text.as_ref().to_vec();
        self.show(Kind::RequestHead, move |message| {
            message.data_mut()[..text.len()].copy_from_slice(&text);
            message.read_request(0, text.len(), &Limits::default()).expect("a request").expect("a whole request");
        })
    }

    /// Shows the function the response to the last request.
    ///
    /// # Panics
    /// When it is no whole response head that the broker would let pass.
    pub fn response(&mut self, text: impl AsRef<[u8]>) -> Outcome {
        let text = text.as_ref().to_vec();
        self.show(Kind::ResponseHead, move |message| {
            message.data_mut()[..text.len()].copy_from_slice(&text);
            let read = message.read_response(0, text.len(), Method::Get, &Limits::default());
            read.expect("a response").expect("a whole response");
        })
    }

    /// Shows the function a piece of the last request's body.
    pub fn request_body(&mut self, bytes: &[u8], last: bool) -> Outcome {
        self.piece(Kind::RequestBody, bytes, last, false)
    }

    /// Shows the function a piece of the last response's body.
    pub fn response_body(&mut self, bytes: &[u8], last: bool) -> Outcome {
        self.piece(Kind::ResponseBody, bytes, last, true)
    }

    /// Shows the function bytes of a TCP connection or tunnel.
    pub fn stream(&mut self, bytes: &[u8], to_client: bool, last: bool) -> Outcome {
        self.piece(Kind::Stream, bytes, last, to_client)
    }

    /// Shows the function a new TCP connection.
    pub fn connection(&mut self) -> Outcome {
        self.connection += 1;
        self.show(Kind::Connection, |_| {})
    }

    /// Tells the function that the last request has ended.
    pub fn finished(&mut self, status: u16, received_bytes: u64, sent_bytes: u64, duration: Duration) {
        self.show(Kind::Finished, |message| {
            let header = message.header_mut();
            header.status = status;
            (header.received_bytes, header.sent_bytes) = (received_bytes, sent_bytes);
            header.duration_us = duration.as_micros() as u64;
            header.flags |= flag::LAST;
        });
    }

    /// Tells the function that the connection has ended.
    pub fn closed(&mut self) {
        self.show(Kind::Closed, |_| {});
    }

    /// Lets time pass, calls the timers that are due and `tick`.
    pub fn advance(&mut self, time: Duration) {
        self.now += time;
        super::tick(&mut *self.function, self.now, &self.board, &mut self.timers);
    }

    /// The value of a counter that the function declared.
    ///
    /// # Panics
    /// When it declared none of that name.
    pub fn counter(&self, name: &str) -> u64 {
        let found = self.init.counters().iter().find(|(info, _)| info.name == name);
        found.unwrap_or_else(|| panic!("no counter `{name}`")).1.get()
    }

    /// The upstreams that the function declared.
    pub fn upstreams(&self) -> &[String] {
        self.init.upstreams()
    }

    /// The function's report.
    pub fn report(&self) -> Value {
        self.function.report()
    }

    fn piece(&mut self, kind: Kind, bytes: &[u8], last: bool, to_client: bool) -> Outcome {
        let bytes = bytes.to_vec();
        self.show(kind, move |message| {
            message.data_mut()[..bytes.len()].copy_from_slice(&bytes);
            let header = message.header_mut();
            header.body = Span { start: DATA_OFFSET as u16, length: bytes.len() as u16 };
            header.tail = (DATA_OFFSET + bytes.len()) as u16;
            header.flags |= if last { flag::LAST } else { 0 } | if to_client { flag::TO_CLIENT } else { 0 };
        })
    }

    fn show(&mut self, kind: Kind, fill: impl FnOnce(&mut Message<'_>)) -> Outcome {
        let mut descriptor = Descriptor::default();
        let mut message = Message::new(self.buffers.room_mut(&mut descriptor));
        *message.header_mut() = MessageHeader {
            kind: kind as u8,
            connection: self.connection,
            request: self.request,
            jump: NO_HOP,
            router: NO_HOP,
            tail: DATA_OFFSET as u16,
            ..MessageHeader::default()
        };
        message.header_mut().set_addresses(self.client, ([192, 0, 2, 80], 80).into());
        fill(&mut message);
        let mut context = Context::of(message.header(), self.now, &self.board, &mut self.timers);
        let verdict = self.function.handle(&mut message, &mut context);
        let header = message.header();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome {
            verdict,
            target: text(message.span(header.target)),
            status: header.status,
            headers: message.headers().map(|(name, value)| (text(name), text(value))).collect(),
            bytes: message.span(header.body).to_vec(),
            no_room: header.flags & flag::NO_ROOM != 0,
        }
    }
}
