//! The control thread: the runtime's requests, one at a time.

use crate::ManagerError;
use crate::running::Running;
use middlenet_plan::{Placement, Reply, Request};
use middlenet_sdk::{Channel, ChannelError, Registration};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How often a lockstep run is looked at for its end, and inline functions that may steer flows for some.
const SHORT_LOOK: Duration = Duration::from_millis(2);
/// How often flows whose time is over are cleared away.
const SWEEP: Duration = Duration::from_secs(1);
/// How often inline functions are looked at for one that panicked, and ports for one that went deaf.
const MEND_LOOK: Duration = Duration::from_millis(100);

/// Why the manager ends before it is told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The control socket failed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// Nobody moves a part of the packets any more, and what that worker held is lost: only a new start mends it.
    #[error("the worker {0} panicked, which is a bug; the data plane ends, to be started again")]
    Worker(usize),
}

/// Serves the runtime until it says stop or goes away; then every port is closed and every interface is as it was found.
/// Inline functions are made from `registry`.
///
/// # Errors
/// When the socket fails, or a worker has died. A request that cannot be carried out is answered with [`Reply::Failed`].
pub fn serve(channel: &Channel, registry: &'static [Registration]) -> Result<(), ServeError> {
    let mut running: Option<Running> = None;
    let mut told_finished = false;
    let mut last_sweep = Instant::now();
    loop {
        if let Some(worker) = running.as_ref().and_then(Running::dead_worker) {
            // The other workers are at work on all of it: the process ends with them, and the kernel takes everything back.
            std::mem::forget(running);
            return Err(ServeError::Worker(worker));
        }
        if let Some(running) = &mut running {
            running.mend();
            running.steer_asked();
            if last_sweep.elapsed() >= SWEEP {
                last_sweep = Instant::now();
                running.sweep_flows();
            }
            running.watch_ports();
            if std::mem::take(&mut running.infos_changed) {
                channel.send(&Reply::PortsChanged { ports: running.infos.clone() }, &[])?;
            }
        }
        let steers = running.as_ref().is_some_and(Running::steers_inline);
        let lockstep = running.as_ref().is_some_and(|r| r.plan.lockstep) && !told_finished;
        let look = if lockstep || steers { SHORT_LOOK } else { MEND_LOOK };
        if !channel.readable(look).map_err(ChannelError::from)? {
            if lockstep && running.as_ref().is_some_and(Running::finished) {
                told_finished = true;
                channel.send(&Reply::Finished, &[])?;
            }
            continue;
        }
        let (request, fds) = match channel.receive::<Request>() {
            Ok(received) => received,
            Err(ChannelError::Form(e)) => {
                let message = format!("the runtime's request is not understood: {e}");
                channel.send(&Reply::Failed { message, hint: None }, &[])?;
                continue;
            }
            Err(e) => {
                // The runtime is gone: leave the host as it was.
                if let Some(running) = running.take() {
                    drop(running.stop(Duration::ZERO));
                }
                return if matches!(e, ChannelError::Closed) { Ok(()) } else { Err(e.into()) };
            }
        };
        let stopping = matches!(request, Request::Stop { .. });
        match carry_out(request, fds, &mut running, registry) {
            Ok(reply) => {
                if let (Reply::Started { .. }, Some(running)) = (&reply, &running) {
                    hand_out_maps(channel, running)?;
                }
                let events: Vec<BorrowedFd<'_>> = match &reply {
                    Reply::Started { .. } => running.as_ref().map(Running::events).unwrap_or_default(),
                    _ => Vec::new(),
                };
                channel.send(&reply, &events)?;
            }
            Err(e) => channel.send(&Reply::Failed { message: e.message, hint: e.hint }, &[])?,
        }
        if stopping {
            return Ok(());
        }
    }
}

/// Tells the runtime of the maps that function processes share with their fast paths.
fn hand_out_maps(channel: &Channel, running: &Running) -> Result<(), ChannelError> {
    let Some(fast_paths) = &running.xdp.fast_paths else { return Ok(()) };
    for (hop, plan) in running.plan.hops.iter().enumerate() {
        let Some(maps) = fast_paths.maps(hop).filter(|_| plan.placement == Placement::Process) else { continue };
        let (kinds, fds): (Vec<_>, Vec<_>) = maps.iter().map(|(kind, map)| (kind, map.as_fd())).unzip();
        channel.send(&Reply::FastPath { hop: hop as u16, maps: kinds }, &fds)?;
    }
    Ok(())
}

fn carry_out(
    request: Request,
    fds: Vec<OwnedFd>,
    running: &mut Option<Running>,
    registry: &'static [Registration],
) -> Result<Reply, ManagerError> {
    let mut fds = fds.into_iter();
    if let Request::Start { plan } = request {
        if running.is_some() {
            return Err(ManagerError::new("the data plane runs already"));
        }
        let region = fds.next().ok_or_else(|| ManagerError::new("the start request came without its region"))?;
        let started = Running::start(plan, region, registry)?;
        let reply = Reply::Started { ports: started.infos.clone(), notes: started.notes.clone() };
        *running = Some(started);
        return Ok(reply);
    }
    let Some(at_work) = running.as_mut() else {
        return match request {
            Request::Stop { .. } => Ok(Reply::Stopped(Box::default())),
            _ => Err(ManagerError::new("the data plane has not been started")),
        };
    };
    match request {
        Request::Start { .. } => Err(ManagerError::new("the data plane runs already")),
        Request::StartBroker { .. } => Err(ManagerError::new("chains of layer l4l7 are the message broker's")),
        Request::Attach { hop, replica, .. } => {
            let control = fds.next().ok_or_else(|| ManagerError::new("the attach request came without its region"))?;
            at_work.attach(hop, replica, control).map(|()| Reply::Done)
        }
        Request::Detach { hop, replica, drain } => at_work.detach(hop, replica, drain).map(|()| Reply::Done),
        Request::Reconfigure { hop, config } => at_work.reconfigure(hop, &config).map(|()| Reply::Done),
        Request::Steer { port, steering } => at_work.steer(port, steering).map(|()| Reply::Done),
        Request::SteerFlows { hop, flows, unheard } => {
            at_work.count_unheard(hop, unheard);
            at_work.steer_flows(hop, &flows).map(|()| Reply::Done)
        }
        Request::Stats => Ok(Reply::Stats(Box::new(at_work.stats(true)))),
        Request::Stop { drain_ms } => match running.take() {
            Some(at_work) => Ok(Reply::Stopped(Box::new(at_work.stop(Duration::from_millis(drain_ms))?))),
            None => Ok(Reply::Stopped(Box::default())),
        },
    }
}
