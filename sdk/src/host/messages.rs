//! The process of a function of layer L4/L7: descriptors in by its SK_MSG socket or its rings, the function, descriptors out.
//!
//! On SK_MSG, one blocking receive brings whatever has come since (adaptive batching: a wake-up drains up to
//! [`CELLS`] descriptors), and what the function lets pass goes straight to the next function, one group per
//! destination. When the broker closes that socket, or it fails, the rings are used, by way of the broker.

mod attachment;
mod skmsg;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::instance::Instance;
use super::pace::Pace;
use super::{HostError, TICK};
use crate::Channel;
use crate::middlebox::DynMiddlebox;
use crate::protocol::{FromFunction, Start, ToFunction};
use attachment::MessageAttachment;
use skmsg::Received;

/// Cells that one receive takes at most.
const CELLS: usize = 256;

type Function<'r> = Instance<'r, Box<dyn DynMiddlebox>>;

struct Host<'r, 's> {
    channel: Channel,
    start: &'s Start,
    instance: Function<'r>,
    attachment: Option<MessageAttachment>,
    stopping: bool,
}

pub(super) fn serve(instance: Function<'_>, channel: Channel, start: &Start) -> Result<(), HostError> {
    Host { channel, start, instance, attachment: None, stopping: false }.serve()
}

impl Host<'_, '_> {
    fn serve(mut self) -> Result<(), HostError> {
        while !self.stopping {
            match self.attachment.take() {
                None => self.obey()?,
                Some(attachment) => self.work(attachment)?,
            }
        }
        Ok(())
    }

    /// Works on one attachment until a message replaces it or ends the process.
    fn work(&mut self, mut attachment: MessageAttachment) -> Result<(), HostError> {
        let mut pace = Pace::new(self.start.wait, self.start.shares_core);
        let mut next_tick = Instant::now() + TICK;
        loop {
            let mut idle = true;
            if attachment.has_socket() {
                match attachment.receive() {
                    Received::Some => idle = false,
                    Received::Nothing => {}
                    Received::Closed | Received::Garbled => continue,
                }
                attachment.serve_socket(&mut self.instance.function);
            } else if attachment.serve_rings(&mut self.instance.function) > 0 {
                pace.busy();
                idle = false;
            } else if pace.idle() {
                self.instance.publish(attachment.control());
                attachment.park(next_tick.saturating_duration_since(Instant::now()));
            }
            let now = Instant::now();
            let ticked = now >= next_tick;
            if ticked {
                next_tick = now + TICK;
                // Rings are looked at in any case: the broker may have changed over to them.
                if attachment.has_socket() {
                    attachment.serve_rings(&mut self.instance.function);
                } else {
                    attachment.serve_rest(&mut self.instance.function);
                }
                attachment.tick(&mut self.instance.function);
                self.instance.adopt(&self.channel)?;
                self.instance.publish(attachment.control());
            }
            if (ticked || idle || attachment.called()) && self.listen(&mut attachment)? {
                return Ok(());
            }
        }
    }

    /// Takes the runtime's messages, and says whether the attachment is done with.
    fn listen(&mut self, attachment: &mut MessageAttachment) -> Result<bool, HostError> {
        while self.channel.readable(Duration::ZERO)? {
            // A report never knows more than the counters beside it.
            self.instance.publish(attachment.control());
            self.obey()?;
            if self.stopping {
                attachment.drain(&mut self.instance.function);
                self.instance.publish(attachment.control());
            }
            if let Some(next) = &mut self.attachment {
                next.continue_from(attachment);
            }
            if self.stopping || self.attachment.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Receives one message and does what it says.
    fn obey(&mut self) -> Result<(), HostError> {
        let (message, fds): (ToFunction, Vec<OwnedFd>) = self.channel.receive()?;
        match message {
            ToFunction::Start(_) => return Err(HostError::Protocol("`start` twice")),
            ToFunction::Attach { buffer_bytes, skmsg } => {
                self.attachment = Some(MessageAttachment::new(fds, buffer_bytes, skmsg)?);
                self.channel.send(&FromFunction::Attached, &[])?;
            }
            ToFunction::Reconfigure { config, change } => self.instance.prepare(config, change),
            ToFunction::Report => {
                self.channel.send(&FromFunction::Report { value: self.instance.report() }, &[])?;
            }
            ToFunction::Dialed { .. } => return Err(HostError::Protocol("a socket that nobody asked for")),
            ToFunction::Stop => self.stopping = true,
        }
        Ok(())
    }
}
