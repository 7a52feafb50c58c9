//! A manager without a data plane.

use middlenet_plan::{Conservation, HopStats, PortStats, Reply, Request, Stats};
use middlenet_sdk::{Channel, PortInfo};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use crate::runs::{FAKE, JOURNAL};

/// Answers the runtime until it goes away.
pub(crate) fn serve() {
    let behaviour = std::env::var(FAKE).unwrap_or_default();
    let journal = std::env::var(JOURNAL).unwrap();
    let note = |line: String| {
        let mut file = OpenOptions::new().append(true).create(true).open(&journal).unwrap();
        writeln!(file, "{line}").unwrap();
    };
    let channel = Channel::from_fd(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut plan = None;
    // Functions would find their rings gone if nobody kept them.
    let mut kept: Vec<OwnedFd> = Vec::new();
    while let Ok((request, fds)) = channel.receive::<Request>() {
        kept.extend(fds);
        let reply = match request {
            Request::Start { .. } if behaviour == "refuses" => {
                Reply::Failed { message: "port `wan`: no such device".into(), hint: Some("plug it in".into()) }
            }
            Request::Start { plan: started } => {
                note("start".into());
                let info =
                    |(id, name): (u8, &str)| PortInfo { id, name: name.into(), mac: [2, 0, 0, 0, 0, id], mtu: 1500 };
                let ports = [(0, "wan"), (1, "lan")].map(info).to_vec();
                let events: Vec<EventFd> = started
                    .workers
                    .iter()
                    .map(|_| EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).unwrap())
                    .collect();
                plan = Some(started);
                let fds: Vec<_> = events.iter().map(|e| e.as_fd()).collect();
                channel.send(&Reply::Started { ports, notes: Vec::new() }, &fds).unwrap();
                continue;
            }
            Request::StartBroker { .. } => {
                Reply::Failed { message: "a manager was asked for messages".into(), hint: None }
            }
            Request::Attach { hop, replica, .. } => {
                note(format!("attach {hop}/{replica}"));
                Reply::Done
            }
            Request::Detach { hop, replica, drain } => {
                note(format!("detach {hop}/{replica} {}", if drain { "after a drain" } else { "at once" }));
                Reply::Done
            }
            Request::Steer { port, steering } => {
                note(format!("steer {port} by {} rules", steering.rules.len()));
                Reply::Done
            }
            Request::SteerFlows { hop, flows, .. } => {
                note(format!("steer {} flows for {hop}", flows.len()));
                Reply::Done
            }
            Request::Reconfigure { hop, .. } => {
                note(format!("reconfigure {hop}"));
                Reply::Done
            }
            Request::Stats if behaviour == "babble" => {
                channel.send(&serde_json::json!({ "type": "poetry" }), &[]).unwrap();
                continue;
            }
            Request::Stats => Reply::Stats(Box::new(stats(plan.as_ref()))),
            Request::Stop { .. } if behaviour == "never-stops" => {
                std::thread::sleep(Duration::from_secs(60));
                return;
            }
            Request::Stop { drain_ms } => {
                note(format!("stop {drain_ms}"));
                channel.send(&Reply::Stopped(Box::new(stats(plan.as_ref()))), &[]).unwrap();
                std::process::exit(0);
            }
        };
        channel.send(&reply, &[]).unwrap();
    }
    std::process::exit(0);
}

fn stats(plan: Option<&middlenet_plan::ManagerPlan>) -> Stats {
    let hops = plan.iter().flat_map(|p| &p.hops).map(|h| HopStats { name: h.name.clone(), ..HopStats::default() });
    let ports = plan.iter().flat_map(|p| &p.ports).map(|p| PortStats { name: p.name.clone(), ..PortStats::default() });
    Stats { ports: ports.collect(), hops: hops.collect(), conservation: Conservation::default(), ..Stats::default() }
}
