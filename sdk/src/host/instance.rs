//! The function itself, its counters, and its replacement when the configuration changes.

use crate::protocol::{FromFunction, Start, VERSION};
use crate::{Channel, ChannelError, ConfigError, DynFunction, Init, Registration};
use middlenet_shm::ControlRegion;
use serde_json::Value;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

type Made = Result<(Box<dyn DynFunction>, Init), ConfigError>;

pub(super) struct Instance<'r> {
    registration: &'r Registration,
    pub(super) function: Box<dyn DynFunction>,
    init: Init,
    /// A replacement being made on another thread, so that packets do not wait for it.
    pending: Option<Receiver<Made>>,
}

impl<'r> Instance<'r> {
    pub(super) fn new(registration: &'r Registration, start: &Start) -> Result<Self, ConfigError> {
        let mut init = Init::new(start.ports.clone(), start.outputs.clone());
        let function = registration.create(start.config.clone(), &mut init)?;
        Ok(Self { registration, function, init, pending: None })
    }

    pub(super) fn ready(&self) -> FromFunction {
        FromFunction::Ready {
            version: VERSION,
            function: self.registration.name.clone(),
            counters: self.init.counters().iter().map(|(info, _)| info.clone()).collect(),
            drop_reasons: self.init.drop_reasons().to_vec(),
        }
    }

    pub(super) fn report(&self) -> Value {
        self.function.report()
    }

    /// Starts to make a replacement.
    pub(super) fn prepare(&mut self, config: Value) {
        let (sender, receiver) = channel();
        let (registration, mut init) = (self.registration.clone(), self.init.renewed());
        std::thread::spawn(move || {
            let made = registration.create(config, &mut init).map(|function| (function, init));
            // Nobody waits only when the process is ending.
            let _ = sender.send(made);
        });
        self.pending = Some(receiver);
    }

    /// Puts a finished replacement in place and tells the runtime.
    pub(super) fn adopt(&mut self, channel: &Channel) -> Result<(), ChannelError> {
        let Some(pending) = &self.pending else { return Ok(()) };
        let answer = match pending.try_recv() {
            Err(TryRecvError::Empty) => return Ok(()),
            Err(TryRecvError::Disconnected) => {
                FromFunction::Refused { message: "the function panicked on this configuration".into(), hint: None }
            }
            Ok(Err(e)) => FromFunction::Refused { message: e.message, hint: e.hint },
            Ok(Ok((function, init))) => {
                let previous = std::mem::replace(&mut self.function, function);
                self.function.inherit(previous);
                init.continue_from(&self.init);
                self.init = init;
                FromFunction::Reconfigured
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
