//! The trait, and its type-erased form.

use std::any::Any;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Answer, Board, Chunk, Clock, Connection, Context, Finished, Interests, Kind, Message, Request, Response, Timers,
    Upstream,
};
use crate::{ConfigError, DropReason, Init, Output};

/// What happens to a message after a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next function that wants it, or out of the chain.
    Next,
    /// The client gets this answer; no further function and no upstream sees the request. On a response: it is replaced.
    Respond(Answer),
    /// On, and the request (TCP: the connection) goes to this upstream. A later function may choose another.
    Route(Upstream),
    /// On to what the manifest connects with this named output: a function further down the chain.
    Output(Output),
    /// The connection is closed, counted under the reason. A client that waits for a response gets none.
    Close(DropReason),
    /// On, and this function wants no more pieces of this stream, or of the bodies of this request and its response: they pass it
    /// by, and where nobody else looks the broker relays them without a hop.
    Offload,
}

impl Verdict {
    /// An answer of plain text.
    pub fn respond(status: u16, text: impl Into<String>) -> Self {
        Self::Respond(Answer::new(status).with_text(text))
    }
}

/// A function of layer L4/L7.
///
/// One instance is used by one thread; replicas and workers have instances of their own, and all messages of one client
/// connection meet the same instance while it lives. Bytes are hostile: no call may panic, block or grow without bound.
pub trait MiddleboxFunction: Sized + Send + 'static {
    /// What the manifest says under the function's name. Its doc comments become the schema's descriptions.
    type Config: DeserializeOwned + JsonSchema;

    /// The messages it wants. What it does not want does not cost it anything.
    const INTERESTS: Interests;

    /// Makes an instance, or says in one sentence why the configuration cannot be used.
    fn new(config: Self::Config, init: &mut Init) -> Result<Self, ConfigError>;

    /// The interests of this instance: fewer than [`INTERESTS`](Self::INTERESTS) where the configuration needs fewer.
    fn interests(&self) -> Interests {
        Self::INTERESTS
    }

    /// The head of a request.
    fn request(&mut self, _request: &mut Request<'_>, _context: &mut Context<'_>) -> Verdict {
        Verdict::Next
    }

    /// A piece of a request's body.
    fn request_body(&mut self, _piece: &mut Chunk<'_>, _context: &mut Context<'_>) -> Verdict {
        Verdict::Next
    }

    /// The head of a response.
    fn response(&mut self, _response: &mut Response<'_>, _context: &mut Context<'_>) -> Verdict {
        Verdict::Next
    }

    /// A piece of a response's body.
    fn response_body(&mut self, _piece: &mut Chunk<'_>, _context: &mut Context<'_>) -> Verdict {
        Verdict::Next
    }

    /// A new connection of a TCP chain.
    fn connection(&mut self, _connection: &mut Connection<'_>, _context: &mut Context<'_>) -> Verdict {
        Verdict::Next
    }

    /// Bytes of a TCP chain or a tunnel.
    fn stream(&mut self, _piece: &mut Chunk<'_>, _context: &mut Context<'_>) -> Verdict {
        Verdict::Next
    }

    /// A request has ended, well or badly. Comes once for each request whose head was shown to a function of the chain.
    fn finished(&mut self, _record: &Finished<'_>, _context: &mut Context<'_>) {}

    /// A client connection has ended.
    fn closed(&mut self, _context: &mut Context<'_>) {}

    /// A timer that was set with [`Context::set_timer`].
    fn timer(&mut self, _token: u64, _context: &mut Context<'_>) {}

    /// Called about ten times a second.
    fn tick(&mut self, _context: &mut Context<'_>) {}

    /// Takes over the state of the instance it replaces after a change of configuration. Without it, state starts afresh.
    fn inherit(&mut self, _previous: Self) {}

    /// State worth showing in `middlenet status --json`: small, bounded, made on request.
    fn report(&self) -> Value {
        Value::Null
    }
}

/// Calls the timers that are due, then the function's tick: what each host does about ten times a second.
pub fn tick(function: &mut dyn DynMiddlebox, now: Clock, board: &Board, timers: &mut Timers) {
    while let Some(token) = timers.expired(now) {
        function.timer(token, &mut Context::new(now, board, timers));
    }
    function.tick(&mut Context::new(now, board, timers));
}

/// A [`MiddleboxFunction`] with its types erased, as the hosts keep it.
pub trait DynMiddlebox: Send {
    /// See [`MiddleboxFunction::interests`].
    fn interests(&self) -> Interests;
    /// Shows the function a message of any kind.
    fn handle(&mut self, message: &mut Message<'_>, context: &mut Context<'_>) -> Verdict;
    /// See [`MiddleboxFunction::timer`].
    fn timer(&mut self, token: u64, context: &mut Context<'_>);
    /// See [`MiddleboxFunction::tick`].
    fn tick(&mut self, context: &mut Context<'_>);
    /// See [`MiddleboxFunction::inherit`]; an instance of another type is ignored.
    fn inherit(&mut self, previous: Box<dyn DynMiddlebox>);
    /// See [`MiddleboxFunction::report`].
    fn report(&self) -> Value;
    /// For `inherit`.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

pub(crate) struct Erased<F>(pub(crate) F);

impl<F: MiddleboxFunction> DynMiddlebox for Erased<F> {
    fn interests(&self) -> Interests {
        self.0.interests()
    }

    #[inline]
    fn handle(&mut self, message: &mut Message<'_>, context: &mut Context<'_>) -> Verdict {
        let Some(kind) = Kind::decode(message.header().kind) else { return Verdict::Next };
        let resizes = self.0.interests().has(Interests::RESIZES_BODY);
        match kind {
            Kind::RequestHead => self.0.request(&mut Request::new(message), context),
            Kind::RequestBody => self.0.request_body(&mut Chunk::new(message, resizes), context),
            Kind::ResponseHead => self.0.response(&mut Response::new(message), context),
            Kind::ResponseBody => self.0.response_body(&mut Chunk::new(message, resizes), context),
            Kind::Connection => self.0.connection(&mut Connection::new(message), context),
            Kind::Stream => self.0.stream(&mut Chunk::new(message, true), context),
            Kind::Finished => {
                self.0.finished(&Finished::new(message), context);
                Verdict::Next
            }
            Kind::Closed => {
                self.0.closed(context);
                Verdict::Next
            }
        }
    }

    fn timer(&mut self, token: u64, context: &mut Context<'_>) {
        self.0.timer(token, context);
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        self.0.tick(context);
    }

    fn inherit(&mut self, previous: Box<dyn DynMiddlebox>) {
        if let Ok(previous) = previous.into_any().downcast::<Self>() {
            self.0.inherit(previous.0);
        }
    }

    fn report(&self) -> Value {
        self.0.report()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
