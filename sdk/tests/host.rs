//! A function process against a manager played by the test: the protocol, the rings, and their bad days.

use middlenet_sdk::peer::{Connected, DialError, PeerAddress, PeerKind};
use middlenet_sdk::prelude::*;
use middlenet_sdk::protocol::{FromFunction, Start, ToFunction, VERSION, Wait};
use middlenet_sdk::wire::FlowKey;
use middlenet_sdk::{Channel, Registration, host};
use middlenet_shm::{Buffers, Consumer, ControlGeometry, ControlRegion, Descriptor, Pages, Producer, Region};
use serde_json::{Value, json};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(5);

/// Adds `step` to the first byte of each packet; remembers how many it saw across changes of configuration.
struct Adder {
    step: u8,
    seen: u64,
    packets: Counter,
    away: Option<SteerTarget>,
}

#[derive(Deserialize, JsonSchema)]
struct Config {
    step: u8,
    /// Steers a flow with each packet.
    #[serde(default)]
    steers: bool,
}

impl NetworkFunction for Adder {
    type Config = Config;

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        if config.step == 0 {
            return Err(ConfigError::new("a step of 0 does nothing").with_hint("use 1"));
        }
        let away = config.steers.then(|| init.steering("away")).transpose()?;
        Ok(Self { step: config.step, seen: 0, packets: init.counter("packets", "packets seen"), away })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        for mut packet in burst.iter_mut() {
            self.seen += 1;
            self.packets.inc();
            if let Some(byte) = packet.data_mut().first_mut() {
                *byte = byte.wrapping_add(self.step);
            }
        }
        if let Some(away) = self.away {
            let addresses = ["10.0.0.1", "10.0.0.2"].map(|a| a.parse().unwrap());
            let flow = FlowKey::new(addresses[0], self.seen as u16, addresses[1], 80, 6).unwrap();
            burst.steer(&flow, away, Duration::from_secs(1));
        }
    }

    fn inherit(&mut self, previous: Self) {
        self.seen = previous.seen;
    }

    fn report(&self) -> Value {
        json!({ "seen": self.seen })
    }
}

/// Asks its peer by a datagram, and tells what came of it.
struct Asker {
    peer: middlenet_sdk::peer::Peer,
    dials: bool,
    socket: Option<UdpSocket>,
    heard: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
struct AskerConfig {
    server: SocketAddr,
}

impl NetworkFunction for Asker {
    type Config = AskerConfig;

    fn new(config: AskerConfig, init: &mut Init) -> Result<Self, ConfigError> {
        let peer = init.peer(PeerKind::Udp, config.server)?;
        Ok(Self { peer, dials: true, socket: None, heard: Vec::new() })
    }

    fn process(&mut self, _: &mut Burst<'_>) {
        self.dials = true;
    }

    fn tick(&mut self, _: &mut Burst<'_>) {
        if std::mem::take(&mut self.dials) {
            self.peer.dial();
        }
        match self.peer.take() {
            None => {}
            Some(Ok(Connected::Udp(socket))) => {
                socket.send(b"how are you?").unwrap();
                self.socket = Some(socket);
            }
            Some(Ok(Connected::Tcp(_))) => self.heard.push("a connection".into()),
            Some(Err(DialError::Refused(why))) => self.heard.push(format!("refused: {why}")),
            Some(Err(DialError::Unreachable(why))) => self.heard.push(format!("unreachable: {why}")),
        }
        let mut bytes = [0; 64];
        if let Some(length) = self.socket.as_ref().and_then(|socket| socket.recv(&mut bytes).ok()) {
            self.heard.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
    }

    fn report(&self) -> Value {
        json!(self.heard)
    }
}

struct Peer {
    channel: Channel,
    buffers: Buffers,
    control: ControlRegion,
    to: Producer,
    from: Consumer,
    thread: JoinHandle<Result<(), host::HostError>>,
}

fn start_message(config: Value, wait: Wait) -> ToFunction {
    ToFunction::Start(Start {
        version: VERSION,
        name: "adder".into(),
        config,
        ports: Vec::new(),
        outputs: Vec::new(),
        steering: vec!["away".into()],
        fast_path: None,
        wait,
        cores: Vec::new(),
        shares_core: false,
        logical_clock: false,
    })
}

impl Peer {
    fn start(config: Value) -> Result<Self, FromFunction> {
        Self::start_as(Registration::of::<Adder>(), config)
    }

    fn start_as(registration: Registration, config: Value) -> Result<Self, FromFunction> {
        Self::start_waiting(registration, config, Wait::Auto)
    }

    fn start_waiting(registration: Registration, config: Value, wait: Wait) -> Result<Self, FromFunction> {
        let (channel, theirs) = Channel::pair().unwrap();
        let thread = std::thread::spawn(move || host::run(&registration, theirs.into_fd()));
        channel.send(&start_message(config, wait), &[]).unwrap();
        let (ready, _) = channel.receive_within(PATIENCE).unwrap();
        if !matches!(ready, FromFunction::Ready { .. }) {
            assert!(thread.join().unwrap().is_err());
            return Err(ready);
        }
        let (buffers, control, to, from) = Self::attach(&channel);
        Ok(Self { channel, buffers, control, to, from, thread })
    }

    fn attach(channel: &Channel) -> (Buffers, ControlRegion, Producer, Consumer) {
        let region = Arc::new(Region::create("packets", 64 * 2048, Pages::Small).unwrap());
        let control = ControlRegion::create("control", ControlGeometry { workers: 1, slots: 64 }).unwrap();
        channel.send(&ToFunction::Attach { buffer_bytes: 2048, skmsg: false }, &[region.fd(), control.fd()]).unwrap();
        let (attached, _) = channel.receive_within::<FromFunction>(PATIENCE).unwrap();
        assert!(matches!(attached, FromFunction::Attached), "{attached:?}");
        let (to, from) = (control.to_function_producer(0).unwrap(), control.from_function_consumer(0).unwrap());
        (Buffers::new(region, 2048).unwrap(), control, to, from)
    }

    /// Sends one packet of one byte through; returns the byte.
    fn pass(&mut self, byte: u8) -> u8 {
        let mut descriptor = Descriptor { index: 3, offset: 128, length: 1, generation: 9, ..Descriptor::default() };
        self.buffers.bytes_mut(&mut descriptor)[0] = byte;
        assert_eq!(self.to.enqueue(&[descriptor]), 1);
        self.control.function_doorbell().ring();
        let deadline = Instant::now() + PATIENCE;
        let mut back = [Descriptor::default()];
        while self.from.dequeue(&mut back) == 0 {
            assert!(Instant::now() < deadline, "the packet did not come back");
            std::thread::yield_now();
        }
        assert_eq!((back[0].index, back[0].generation, back[0].verdict), (3, 9, 0));
        self.buffers.bytes(&back[0])[0]
    }

    fn ask(&self, message: &ToFunction) -> FromFunction {
        self.channel.send(message, &[]).unwrap();
        self.channel.receive_within(PATIENCE).unwrap().0
    }
}

impl Peer {
    /// Waits until the function dials, and answers.
    fn answer_dial(&self, peer: PeerAddress, error: Option<DialError>, socket: &[BorrowedFd<'_>]) {
        let (message, _) = self.channel.receive_within::<FromFunction>(PATIENCE).unwrap();
        assert!(matches!(message, FromFunction::Dial { peer: asked } if asked == peer), "{message:?}");
        self.channel.send(&ToFunction::Dialed { peer, error }, socket).unwrap();
    }

    /// Waits for a report.
    fn wait_for_report(&self, wanted: &Value) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let FromFunction::Report { value } = self.ask(&ToFunction::Report) else { panic!("no report") };
            if value == *wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{value} and not {wanted}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_function_that_dials_gets_a_socket_or_hears_whose_fault_it_is() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = PeerAddress { kind: PeerKind::Udp, address: server.local_addr().unwrap() };
    let config = json!({ "server": address.address });
    let mut peer = Peer::start_as(Registration::of::<Asker>(), config).unwrap();
    peer.answer_dial(address, Some(DialError::Refused("the function dials too often".into())), &[]);
    peer.wait_for_report(&json!(["refused: the function dials too often"]));
    // It has not been asked since: a refusal is no reason to dial again.
    peer.pass(0);
    peer.answer_dial(address, Some(DialError::Unreachable("no route".into())), &[]);
    peer.wait_for_report(&json!(["refused: the function dials too often", "unreachable: no route"]));
    peer.pass(0);
    // Neither a socket nor a reason.
    peer.answer_dial(address, None, &[]);
    let mut heard =
        vec!["refused: the function dials too often", "unreachable: no route", "refused: the runtime passed no socket"];
    peer.wait_for_report(&json!(heard));
    peer.pass(0);
    let socket = address.connect().unwrap();
    peer.answer_dial(address, None, &[socket.as_fd()]);
    drop(socket);
    let mut bytes = [0; 64];
    let (length, from) = server.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"how are you?");
    server.send_to(b"fine", from).unwrap();
    heard.push("fine");
    peer.wait_for_report(&json!(heard));
}

/// Sockets that nobody asked for, and that of a peer that the function does not have, are closed.
#[test]
fn sockets_that_nobody_waits_for_are_closed() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = PeerAddress { kind: PeerKind::Udp, address: server.local_addr().unwrap() };
    let other = PeerAddress { kind: PeerKind::Tcp, ..address };
    let peer = Peer::start_as(Registration::of::<Asker>(), json!({ "server": address.address })).unwrap();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    peer.channel.send(&ToFunction::Dialed { peer: other, error: None }, &[theirs.as_fd()]).unwrap();
    drop(theirs);
    assert_eq!(std::io::Read::read(&mut &ours, &mut [0; 1]).unwrap(), 0, "the other end is closed");
    peer.answer_dial(address, Some(DialError::Refused("later".into())), &[]);
    peer.wait_for_report(&json!(["refused: later"]));
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    peer.channel.send(&ToFunction::Dialed { peer: address, error: None }, &[theirs.as_fd()]).unwrap();
    drop(theirs);
    assert_eq!(std::io::Read::read(&mut &ours, &mut [0; 1]).unwrap(), 0, "the other end is closed");
}

#[test]
fn packets_pass_and_the_function_wakes_from_sleep() {
    let mut peer = Peer::start(json!({ "step": 2 })).unwrap();
    assert_eq!(peer.pass(40), 42);
    // Long enough for the function to have gone to sleep.
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(peer.pass(50), 52);
    assert!(peer.control.heartbeat().load(Ordering::Relaxed) > 0);
}

/// Packets do not wait for a runtime that has other things to do than to read what is steered.
#[test]
fn steering_faster_than_is_served_loses_wishes_and_no_time() {
    let mut peer = Peer::start(json!({ "step": 1, "steers": true })).unwrap();
    let packets = 3000;
    for n in 0..packets {
        assert_eq!(peer.pass(n as u8), (n as u8).wrapping_add(1));
    }
    let (mut heard, mut unheard, mut passed) = (0, 0, packets);
    let deadline = Instant::now() + PATIENCE;
    // What waits in the function comes when there is room, and with it what was lost.
    while heard + unheard < passed {
        assert!(Instant::now() < deadline, "{heard} heard, {unheard} lost, of {passed}");
        if !peer.channel.readable(Duration::from_millis(200)).unwrap() {
            passed += 1;
            peer.pass(0);
            continue;
        }
        let (FromFunction::Steer { flows, unheard: more }, _) = peer.channel.receive().unwrap() else {
            panic!("no flows")
        };
        assert!(flows.len() <= middlenet_sdk::STEERED);
        heard += flows.len() as u64;
        unheard += more;
    }
    assert_eq!(heard + unheard, passed);
    assert!(heard > 256 && unheard > 1000, "{heard} heard, {unheard} lost");
}

#[test]
fn a_new_configuration_keeps_state_and_counters() {
    let mut peer = Peer::start(json!({ "step": 1 })).unwrap();
    peer.pass(0);
    peer.pass(0);
    let answer = peer.ask(&ToFunction::Reconfigure { config: json!({ "step": 10 }), change: 7 });
    assert!(matches!(answer, FromFunction::Reconfigured { change: 7 }), "{answer:?}");
    assert_eq!(peer.pass(0), 10);
    let FromFunction::Report { value } = peer.ask(&ToFunction::Report) else { panic!("no report") };
    assert_eq!(value, json!({ "seen": 3 }));
    let deadline = Instant::now() + PATIENCE;
    while peer.control.counters()[0].load(Ordering::Relaxed) != 3 {
        assert!(Instant::now() < deadline, "the counter goes on from the old instance's value");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whoever asks for a report finds all in the counters that went through before, also where the function never rests.
#[test]
fn counters_are_as_new_as_the_report() {
    let adder = Registration::of::<Adder>();
    let mut peer = Peer::start_waiting(adder, json!({ "step": 1 }), Wait::Poll).unwrap();
    for packets in 1..=20 {
        peer.pass(0);
        peer.channel.send(&ToFunction::Report, &[]).unwrap();
        peer.control.attention().store(1, Ordering::Relaxed);
        peer.control.function_doorbell().ring();
        let (FromFunction::Report { value }, _) = peer.channel.receive_within(PATIENCE).unwrap() else {
            panic!("no report")
        };
        assert_eq!(value, json!({ "seen": packets }));
        assert_eq!(peer.control.counters()[0].load(Ordering::Relaxed), packets);
    }
}

#[test]
fn a_refused_configuration_leaves_the_old_one_at_work() {
    let mut peer = Peer::start(json!({ "step": 1 })).unwrap();
    let answer = peer.ask(&ToFunction::Reconfigure { config: json!({ "step": 0 }), change: 8 });
    let FromFunction::Refused { message, hint, change: Some(8) } = answer else { panic!("{answer:?}") };
    assert_eq!((message.as_str(), hint.as_deref()), ("a step of 0 does nothing", Some("use 1")));
    assert_eq!(peer.pass(7), 8);
}

#[test]
fn a_process_that_cannot_start_says_why() {
    for (config, what) in
        [(json!({ "step": 0 }), "does nothing"), (json!({ "stop": 1 }), "step"), (Value::Null, "step")]
    {
        let refused = Peer::start(config).err().expect("refused");
        let FromFunction::Refused { message, .. } = &refused else { panic!("{refused:?}") };
        assert!(message.contains(what), "{message}");
    }
}

#[test]
fn new_regions_replace_the_old_without_a_restart() {
    let mut peer = Peer::start(json!({ "step": 1 })).unwrap();
    peer.pass(1);
    (peer.buffers, peer.control, peer.to, peer.from) = Peer::attach(&peer.channel);
    assert_eq!(peer.pass(1), 2);
    let FromFunction::Report { value } = peer.ask(&ToFunction::Report) else { panic!("no report") };
    assert_eq!(value, json!({ "seen": 2 }), "the instance is the same");
}

#[test]
fn it_ends_when_told_and_when_the_runtime_is_gone() {
    let mut peer = Peer::start(json!({ "step": 1 })).unwrap();
    peer.pass(1);
    peer.channel.send(&ToFunction::Stop, &[]).unwrap();
    peer.thread.join().unwrap().unwrap();

    let peer = Peer::start(json!({ "step": 1 })).unwrap();
    drop(peer.channel);
    assert!(peer.thread.join().unwrap().is_err(), "the closed socket ends it");
}

#[test]
fn long_configurations_travel_too() {
    let (a, b) = Channel::pair().unwrap();
    let long: Vec<u32> = (0..200_000).collect();
    a.send(&json!(long), &[]).unwrap();
    let (back, fds) = b.receive_within::<Vec<u32>>(PATIENCE).unwrap();
    assert_eq!((back, fds.len()), (long, 0));
}

#[test]
fn noise_on_the_socket_is_an_error_and_no_panic() {
    let (a, b) = Channel::pair().unwrap();
    for noise in [&b""[..], b"x", b"i{", b"m", b"i\xff\xfe", b"iiiiii"] {
        if noise.is_empty() {
            continue;
        }
        middlenet_shm::send(a.fd(), noise, &[]).unwrap();
        assert!(b.receive_within::<FromFunction>(PATIENCE).is_err(), "{noise:?}");
    }
    let thread = std::thread::spawn(move || host::run(&Registration::of::<Adder>(), b.into_fd()));
    a.send(&ToFunction::Report, &[]).unwrap();
    assert!(thread.join().unwrap().is_err(), "a message before `start` breaks the protocol");
}

#[test]
fn a_function_that_is_stopped_before_its_start_ends_in_peace() {
    let (a, b) = Channel::pair().unwrap();
    let thread = std::thread::spawn(move || host::run(&Registration::of::<Adder>(), b.into_fd()));
    a.send(&ToFunction::Stop, &[]).unwrap();
    thread.join().unwrap().unwrap();
}
