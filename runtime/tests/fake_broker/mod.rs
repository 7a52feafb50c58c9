//! A message broker without connections: it notes what it is asked, and whether what it is handed is right.

use middlenet_plan::{BrokerPlan, BrokerStats, MessageChainStats, MessageHopStats, Reply, Request, UpstreamStats};
use middlenet_sdk::Channel;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use crate::runs::{FAKE, JOURNAL};

fn note(line: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open(std::env::var(JOURNAL).unwrap()).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Answers the runtime until it goes away.
pub(crate) fn serve() {
    let behaviour = std::env::var(FAKE).unwrap_or_default();
    let channel = Channel::from_fd(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut plan = None;
    let mut kept: Vec<OwnedFd> = Vec::new();
    while let Ok((request, mut fds)) = channel.receive::<Request>() {
        let reply = match request {
            Request::StartBroker { .. } if behaviour == "refuses" => Reply::Failed {
                message: "chain `web`: cannot listen on 127.0.0.1:80: in use".into(),
                hint: Some("end the other".into()),
            },
            Request::StartBroker { plan: started } => {
                note(&format!("start broker with {} buffers", started.buffers));
                let event = |_| EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).unwrap();
                let events: Vec<EventFd> = started.workers.iter().map(event).collect();
                plan = Some(started);
                kept.append(&mut fds);
                let fds: Vec<_> = events.iter().map(|e| e.as_fd()).collect();
                let notes = vec!["the kernel cannot do SK_MSG here".to_owned()];
                channel.send(&Reply::Started { ports: Vec::new(), notes }, &fds).unwrap();
                continue;
            }
            Request::Attach { hop, replica, declared } => {
                let declared = declared.unwrap();
                let way = take_sockets(hop, replica, &mut fds);
                kept.append(&mut fds);
                let (wants, upstreams) = (declared.interests.0, declared.upstreams.join(","));
                note(&format!("attach message {hop}/{replica} by {way}, wants {wants}, routes to {upstreams}"));
                Reply::Done
            }
            Request::Detach { hop, replica, .. } => {
                note(&format!("detach message {hop}/{replica}"));
                Reply::Done
            }
            Request::Reconfigure { hop, config } => {
                note(&format!("reconfigure message {hop} {config}"));
                Reply::Done
            }
            Request::Stats => Reply::BrokerStats(Box::new(stats(plan.as_ref()))),
            Request::Stop { .. } if behaviour == "never-stops" => {
                std::thread::sleep(Duration::from_secs(60));
                return;
            }
            Request::Stop { drain_ms } => {
                note(&format!("stop broker {drain_ms}"));
                channel.send(&Reply::BrokerStopped(Box::new(stats(plan.as_ref()))), &[]).unwrap();
                std::process::exit(0);
            }
            Request::Steer { .. } | Request::SteerFlows { .. } | Request::Start { .. } => {
                Reply::Failed { message: "a broker was asked for packets".into(), hint: None }
            }
        };
        channel.send(&reply, &[]).unwrap();
    }
    std::process::exit(0);
}

/// Takes the two ends of a SK_MSG connection; its end is noted when it closes.
fn take_sockets(hop: u16, replica: u16, fds: &mut Vec<OwnedFd>) -> &'static str {
    if fds.len() != 3 {
        return if fds.len() == 1 { "ring" } else { "nonsense" };
    }
    let (mut ours, theirs) = (TcpStream::from(fds.remove(2)), TcpStream::from(fds.remove(1)));
    if ours.local_addr().unwrap() != theirs.peer_addr().unwrap() || !ours.nodelay().unwrap() {
        return "sockets that are not connected";
    }
    drop(theirs);
    std::thread::spawn(move || {
        let _ = ours.read(&mut [0]);
        note(&format!("closed message {hop}/{replica}"));
    });
    "skmsg"
}

fn stats(plan: Option<&BrokerPlan>) -> BrokerStats {
    let chains = plan.iter().flat_map(|p| &p.chains).map(|c| MessageChainStats {
        name: c.name.clone(),
        received: 5,
        answered: 3,
        rejected: vec![("too-large".into(), 1)],
        failed: vec![("no-upstream".into(), 1)],
        ..MessageChainStats::default()
    });
    let hops = plan.iter().flat_map(|p| &p.hops).map(|h| MessageHopStats {
        name: h.name.clone(),
        chain: "web".into(),
        transport: format!("{:?}", h.transport).to_lowercase(),
        ..MessageHopStats::default()
    });
    BrokerStats {
        uptime_s: 1.0,
        chains: chains.collect(),
        hops: hops.collect(),
        upstreams: vec![UpstreamStats { chain: "web".into(), address: "10.2.0.10:80".into(), ..Default::default() }],
        skmsg: "works".into(),
        buffers: plan.map_or(0, |p| p.buffers.into()),
        ..BrokerStats::default()
    }
}
