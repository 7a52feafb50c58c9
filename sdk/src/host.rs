//! A function as a process of its own: start-up, the loop over its rings, and the runtime's messages.
//!
//! The process is handed everything over its control socket (standard input): its configuration, the packets region, its
//! control region, and one eventfd per manager worker. It opens nothing itself.

mod attachment;
mod instance;
mod messages;
mod pace;

use crate::fast_path::{FastPath, FastPathError};
use crate::protocol::{FromFunction, SOCKET_VARIABLE, Start, ToFunction, VERSION};
use crate::{Channel, ChannelError, DynFunction, Layer, Registration};
use attachment::Attachment;
use instance::{Hosted, Instance};
use pace::Pace;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How often [`crate::NetworkFunction::tick`] is called, counters are published and the socket is looked at.
pub const TICK: Duration = Duration::from_millis(100);
/// Turns of the loop between two looks at the clock.
const TURNS_PER_CLOCK: u32 = 64;

/// Why a function process ends early.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The control socket failed or closed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// A region could not be mapped.
    #[error("the runtime's memory cannot be used: {0}")]
    Memory(#[from] middlenet_shm::ShmError),
    /// The system refused something.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The fast path's maps cannot be used.
    #[error(transparent)]
    FastPath(#[from] FastPathError),
    /// The runtime broke the protocol.
    #[error("the runtime sent {0}")]
    Protocol(&'static str),
    /// The configuration was refused; the runtime has been told.
    #[error("{0}")]
    Refused(String),
}

/// The `main` of a function process; [`crate::main!`] calls it. Speaks to the runtime when started by it, else answers
/// `--describe`.
pub fn main(registration: &Registration) -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--describe") {
        let description = serde_json::json!({
            "name": registration.name,
            "summary": registration.summary,
            "layer": registration.layer().name(),
            "version": VERSION,
            "schema": registration.schema(),
            "fast_path": registration.fast_path,
        });
        println!("{description:#}");
        return ExitCode::SUCCESS;
    }
    if std::env::var_os(SOCKET_VARIABLE).is_none() {
        eprintln!(
            "{name} is a network function: name it in a manifest (`run: path/to/{name}`) and start it with `middlenet run`.\n\
             `--describe` prints its name and the schema of its configuration.",
            name = registration.name
        );
        return ExitCode::from(2);
    }
    match std::io::stdin().as_fd().try_clone_to_owned().map_err(HostError::from).and_then(|fd| run(registration, fd)) {
        Ok(()) | Err(HostError::Channel(ChannelError::Closed)) => ExitCode::SUCCESS,
        // The runtime has been told, and tells.
        Err(HostError::Refused(_)) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{}: {e}", registration.name);
            ExitCode::FAILURE
        }
    }
}

/// Runs a function process over its control socket until it is told to stop or the runtime is gone.
pub fn run(registration: &Registration, socket: OwnedFd) -> Result<(), HostError> {
    let channel = Channel::from_fd(socket);
    let (start, maps) = match channel.receive()? {
        (ToFunction::Start(start), maps) => (start, maps),
        // The run ends before it has begun, as where a port cannot be opened.
        (ToFunction::Stop, _) => return Ok(()),
        _ => return Err(HostError::Protocol("another message before `start`")),
    };
    let fast_path = instance::fast_path(registration, &start, maps)?;
    prepare_process(&start)?;
    match registration.layer() {
        Layer::L2l3 => {
            let instance = make::<Box<dyn DynFunction>>(registration, &start, fast_path, &channel)?;
            Host { channel, start, instance, attachment: None, stopping: false }.serve()
        }
        Layer::L4l7 => messages::serve(make(registration, &start, fast_path, &channel)?, channel, &start),
    }
}

/// Makes the instance and tells the runtime of it, or why it cannot be made.
fn make<'r, F: Hosted>(
    registration: &'r Registration,
    start: &Start,
    fast_path: FastPath,
    channel: &Channel,
) -> Result<Instance<'r, F>, HostError> {
    match Instance::new(registration, start, fast_path) {
        Ok(instance) => {
            channel.send(&instance.ready(), &[])?;
            Ok(instance)
        }
        Err(e) => {
            channel.send(&FromFunction::Refused { message: e.message.clone(), hint: e.hint, change: None }, &[])?;
            Err(HostError::Refused(e.message))
        }
    }
}

/// What a function process gives up before it sees the first packet.
fn prepare_process(start: &Start) -> Result<(), HostError> {
    nix::sys::prctl::set_no_new_privs().map_err(std::io::Error::from)?;
    if !start.cores.is_empty() {
        let mut set = nix::sched::CpuSet::new();
        for &core in &start.cores {
            set.set(core).map_err(std::io::Error::from)?;
        }
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).map_err(std::io::Error::from)?;
    }
    Ok(())
}

struct Host<'r> {
    channel: Channel,
    start: Start,
    instance: Instance<'r>,
    attachment: Option<Attachment>,
    stopping: bool,
}

impl Host<'_> {
    fn serve(mut self) -> Result<(), HostError> {
        while !self.stopping {
            match self.attachment.take() {
                None => self.obey()?,
                Some(attachment) => self.poll(attachment)?,
            }
        }
        Ok(())
    }

    /// Polls one attachment until a message replaces it or ends the process.
    fn poll(&mut self, mut attachment: Attachment) -> Result<(), HostError> {
        let mut pace = Pace::new(self.start.wait, self.start.shares_core);
        let mut next_tick = Instant::now() + TICK;
        let mut turns = 0u32;
        // The runtime has not read what it was told of steered flows. Packets do not wait for that.
        let mut unheard = false;
        loop {
            let packets = attachment.turn(&mut self.instance, self.start.logical_clock);
            turns = turns.wrapping_add(1);
            if attachment.steers() && !unheard {
                unheard = !self.tell_steered(&mut attachment)?;
            }
            let mut slept = false;
            if packets > 0 {
                pace.busy();
            } else if pace.idle() {
                self.instance.publish(attachment.control());
                attachment.park(next_tick.saturating_duration_since(Instant::now()));
                slept = true;
            }
            let called = attachment.called();
            if !(slept || called || turns.is_multiple_of(TURNS_PER_CLOCK)) {
                continue;
            }
            unheard = false;
            let now = Instant::now();
            let ticked = now >= next_tick;
            if ticked {
                next_tick = now + TICK;
                attachment.tick(&mut self.instance, self.start.logical_clock);
                self.instance.adopt(&self.channel)?;
                self.instance.ask_for_peers(&self.channel)?;
                self.instance.publish(attachment.control());
            }
            if called || slept || ticked {
                while self.channel.readable(Duration::ZERO)? {
                    // A report never knows more than the counters beside it.
                    self.instance.publish(attachment.control());
                    self.obey()?;
                    if self.stopping {
                        attachment.drain(&mut self.instance, self.start.logical_clock);
                        self.instance.publish(attachment.control());
                        return Ok(());
                    }
                    if self.attachment.is_some() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Tells the runtime of flows that the function steers; `false` if it has not read what it was told before.
    fn tell_steered(&self, attachment: &mut Attachment) -> Result<bool, HostError> {
        while self.channel.writable()? {
            let Some((flows, unheard)) = attachment.take_steered() else { return Ok(true) };
            self.channel.send(&FromFunction::Steer { flows, unheard }, &[])?;
        }
        Ok(false)
    }

    /// Receives one message and does what it says.
    fn obey(&mut self) -> Result<(), HostError> {
        let (message, fds) = self.channel.receive()?;
        match message {
            ToFunction::Start(_) => return Err(HostError::Protocol("`start` twice")),
            ToFunction::Attach { buffer_bytes, .. } => {
                self.attachment = Some(Attachment::new(fds, buffer_bytes)?);
                self.instance.begin();
                self.channel.send(&FromFunction::Attached, &[])?;
            }
            ToFunction::Reconfigure { config, change } => self.instance.prepare(config, change),
            ToFunction::Report => {
                self.channel.send(&FromFunction::Report { value: self.instance.report() }, &[])?;
            }
            ToFunction::Dialed { peer, error } => self.instance.dialed(peer, fds.into_iter().next(), error),
            ToFunction::Stop => {
                self.instance.stop();
                self.stopping = true;
            }
        }
        Ok(())
    }
}
