//! The function itself, its counters, and its replacement when the configuration changes.

use crate::fast_path::{FastPath, FastPathError};
use crate::middlebox::{DynMiddlebox, Interests};
use crate::peer::{DialError, PeerAddress};
use crate::protocol::{FromFunction, Start, StartFastPath, VERSION};
use crate::{Channel, ChannelError, ConfigError, DynFunction, Init, Registration};
use middlenet_shm::ControlRegion;
use serde_json::Value;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

/// What the two kinds of functions have in common for their host.
pub(super) trait Hosted: Sized + Send + 'static {
    fn create(registration: &Registration, config: Value, init: &mut Init) -> Result<Self, ConfigError>;
    fn take_over(&mut self, previous: Self);
    fn own_report(&self) -> Value;
    fn wants(&self) -> Interests;
}

impl Hosted for Box<dyn DynFunction> {
    fn create(registration: &Registration, config: Value, init: &mut Init) -> Result<Self, ConfigError> {
        registration.create(config, init)
    }

    fn take_over(&mut self, previous: Self) {
        self.inherit(previous);
    }

    fn own_report(&self) -> Value {
        self.report()
    }

    fn wants(&self) -> Interests {
        Interests::NONE
    }
}

impl Hosted for Box<dyn DynMiddlebox> {
    fn create(registration: &Registration, config: Value, init: &mut Init) -> Result<Self, ConfigError> {
        registration.create_middlebox(config, init)
    }

    fn take_over(&mut self, previous: Self) {
        self.inherit(previous);
    }

    fn own_report(&self) -> Value {
        self.report()
    }

    fn wants(&self) -> Interests {
        self.interests()
    }
}

type Made<F> = Result<(F, Init), ConfigError>;

pub(super) struct Instance<'r, F = Box<dyn DynFunction>> {
    registration: &'r Registration,
    pub(super) function: F,
    init: Init,
    /// A replacement being made on another thread, so that packets do not wait for it, and the change that it is of.
    pending: Option<(u64, Receiver<Made<F>>)>,
}

/// The fast path that the runtime has passed with `start`, if any.
pub(super) fn fast_path(
    registration: &Registration,
    start: &Start,
    maps: Vec<OwnedFd>,
) -> Result<FastPath, FastPathError> {
    let Some(StartFastPath { mode, maps: kinds, instance }) = &start.fast_path else { return Ok(FastPath::default()) };
    FastPath::open(*mode, registration.fast_path, kinds.iter().copied().zip(maps).collect(), *instance)
}

impl<'r, F: Hosted> Instance<'r, F> {
    pub(super) fn new(registration: &'r Registration, start: &Start, fast_path: FastPath) -> Result<Self, ConfigError> {
        let mut init = Init::new(start.ports.clone(), start.outputs.clone())
            .with_steering(start.steering.clone())
            .with_fast_path(fast_path);
        let function = F::create(registration, start.config.clone(), &mut init)?;
        Ok(Self { registration, function, init, pending: None })
    }

    pub(super) fn ready(&self) -> FromFunction {
        FromFunction::Ready {
            version: VERSION,
            function: self.registration.name.clone(),
            counters: self.init.counters().iter().map(|(info, _)| info.clone()).collect(),
            drop_reasons: self.init.drop_reasons().to_vec(),
            interests: self.function.wants(),
            upstreams: self.init.upstreams().to_vec(),
            upstreams_alike: self.init.are_upstreams_alike(),
        }
    }

    /// It works from now on.
    pub(super) fn begin(&self) {
        self.init.begin();
    }

    /// It is to end, and says its last words to its fast path, unless another process has taken that over.
    pub(super) fn stop(&self) {
        self.init.host_fast_path().look_for_successor();
    }

    /// Writes what the function has queued for its fast path.
    #[inline]
    pub(super) fn flush_fast_path(&self) {
        self.init.flush_fast_path();
    }

    pub(super) fn report(&self) -> Value {
        self.function.own_report()
    }

    /// Asks the runtime for the sockets that the function wants, as long as it reads what it is asked.
    pub(super) fn ask_for_peers(&self, channel: &Channel) -> Result<(), ChannelError> {
        for peer in self.init.peers() {
            if peer.is_wanted() && channel.writable()? {
                peer.asked();
                channel.send(&FromFunction::Dial { peer: *peer.address() }, &[])?;
            }
        }
        Ok(())
    }

    /// The answer to that. One that the function no longer waits for is closed.
    pub(super) fn dialed(&self, peer: PeerAddress, fd: Option<OwnedFd>, error: Option<DialError>) {
        let result =
            fd.ok_or_else(|| error.unwrap_or_else(|| DialError::Refused("the runtime passed no socket".into())));
        if let Some(peer) = self.init.peers().iter().find(|known| *known.address() == peer) {
            peer.answer(result);
        }
    }

    /// Starts to make a replacement.
    pub(super) fn prepare(&mut self, config: Value, change: u64) {
        let (sender, receiver) = channel();
        let (registration, mut init) = (self.registration.clone(), self.init.renewed());
        std::thread::spawn(move || {
            let made = F::create(&registration, config, &mut init).map(|function| (function, init));
            // Nobody waits only when the process is ending.
            let _ = sender.send(made);
        });
        self.pending = Some((change, receiver));
    }

    /// Puts a finished replacement in place and tells the runtime.
    pub(super) fn adopt(&mut self, channel: &Channel) -> Result<(), ChannelError> {
        let Some((change, pending)) = &self.pending else { return Ok(()) };
        let change = *change;
        let refused = |message, hint| FromFunction::Refused { message, hint, change: Some(change) };
        let answer = match pending.try_recv() {
            Err(TryRecvError::Empty) => return Ok(()),
            Err(TryRecvError::Disconnected) => refused("the function panicked on this configuration".into(), None),
            Ok(Err(e)) => refused(e.message, e.hint),
            // The broker routes by what the first instance declared.
            Ok(Ok((function, init)))
                if function.wants() != self.function.wants() || init.upstreams() != self.init.upstreams() =>
            {
                let message = "the change needs other upstreams or other messages than the function began with";
                let hint = "start a new instance: `middlenet apply --replace`, or restart the run";
                refused(message.into(), Some(hint.into()))
            }
            Ok(Ok((function, init))) => {
                let previous = std::mem::replace(&mut self.function, function);
                self.function.take_over(previous);
                init.continue_from(&self.init);
                self.init = init;
                FromFunction::Reconfigured { change }
            }
        };
        self.pending = None;
        channel.send(&answer, &[])
    }

    /// Copies the counters to where the runtime reads them.
    pub(super) fn publish(&self, control: &ControlRegion) {
        for ((_, counter), word) in self.init.counters().iter().zip(control.counters()) {
            word.store(counter.get(), Ordering::Relaxed);
        }
    }
}
