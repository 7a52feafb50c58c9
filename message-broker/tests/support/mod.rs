//! A broker that the test drives as the runtime would, and parties that speak the functions' side of its protocol by hand.

#![allow(dead_code)]

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use middlenet_plan::{
    BrokerPlan, BrokerStats, Declared, MessageChainPlan, MessageHopPlan, OnLoss, Protocol, Reply, Request, Timeouts,
    Transport, Wait,
};
use middlenet_sdk::Channel;
use middlenet_sdk::middlebox::{Group, Interests, MAX_ROUTE, MESSAGE_BYTES, Message};
use middlenet_shm::{
    Buffers, Consumer, ControlGeometry, ControlRegion, Descriptor, EventDoorbell, Pages, Producer, Region,
};
use zerocopy::IntoBytes;

/// Buffers of a broker under test.
pub(crate) const BUFFERS: u32 = 256;
const SLOTS: u32 = 512;
const PATIENCE: Duration = Duration::from_secs(20);

/// A chain that listens at `listen`, with hops that are processes on `transport`.
pub(crate) struct Wanted {
    pub(crate) name: &'static str,
    pub(crate) listen: &'static str,
    pub(crate) upstream: &'static str,
    pub(crate) hops: Vec<&'static str>,
    pub(crate) on_failure: OnLoss,
    /// How long functions may take.
    pub(crate) function_ms: u64,
}

/// The broker, run by a thread of the test.
pub(crate) struct Stage {
    channel: Channel,
    region: Arc<Region>,
    called: Vec<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Stage {
    /// Starts a broker of one worker with these chains.
    pub(crate) fn start(chains: Vec<Wanted>, transport: Transport) -> Self {
        let mut plan = BrokerPlan {
            name: "test".into(),
            buffers: BUFFERS,
            workers: vec![0],
            wait: Wait::Auto,
            ring_slots: SLOTS,
            chains: Vec::new(),
            hops: Vec::new(),
        };
        for (id, chain) in chains.into_iter().enumerate() {
            plan.chains.push(MessageChainPlan {
                name: chain.name.into(),
                protocol: Protocol::Http,
                listen: vec![chain.listen.parse().unwrap()],
                upstreams: vec![chain.upstream.into()],
                timeouts: Timeouts { function_ms: chain.function_ms, ..Timeouts::default() },
                limits: Default::default(),
                upstream: Default::default(),
                trusted_proxies: Vec::new(),
            });
            plan.hops.extend(chain.hops.into_iter().map(|name| MessageHopPlan {
                name: name.into(),
                function: name.into(),
                config: serde_json::Value::Null,
                chain: id as u16,
                transport,
                replicas: 1,
                on_failure: chain.on_failure,
                outputs: Vec::new(),
            }));
        }
        let region = Region::create("test-messages", BUFFERS as usize * MESSAGE_BYTES, Pages::Small).unwrap();
        let (channel, other) = Channel::pair().unwrap();
        let thread = std::thread::spawn(move || {
            middlenet_message_broker::serve(&other, middlenet_functions::registry()).unwrap();
        });
        let mut stage = Self { channel, region: Arc::new(region), called: Vec::new(), thread: Some(thread) };
        let (reply, called) = stage.ask(&Request::StartBroker { plan }, &[stage.region.fd()]);
        assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
        stage.called = called;
        stage
    }

    fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> (Reply, Vec<OwnedFd>) {
        self.channel.send(request, fds).unwrap();
        self.channel.receive_within(PATIENCE).expect("the broker answers")
    }

    /// Attaches a party to a hop.
    pub(crate) fn attach(&self, hop: u16, transport: Transport, interests: Interests) -> Party {
        let geometry = ControlGeometry { workers: 1, slots: SLOTS };
        let control = ControlRegion::create("test-control", geometry).unwrap();
        let pair = (transport == Transport::Skmsg).then(loopback);
        let mut fds = vec![control.fd()];
        fds.extend(pair.iter().flat_map(|(function, broker)| [function.as_fd(), broker.as_fd()]));
        let declared = Some(Declared { interests, ..Declared::default() });
        let (reply, _) = self.ask(&Request::Attach { hop, replica: 0, declared }, &fds);
        assert!(matches!(reply, Reply::Done), "{reply:?}");
        let control = ControlRegion::open(control.fd().try_clone_to_owned().unwrap()).unwrap();
        let socket = pair.map(|(function, _)| function);
        if let Some(socket) = &socket {
            socket.set_nonblocking(true).unwrap();
        }
        Party {
            hop,
            buffers: Buffers::new(Arc::clone(&self.region), MESSAGE_BYTES as u32).unwrap(),
            receive: control.to_function_consumer(0).unwrap(),
            give_back: control.from_function_producer(0).unwrap(),
            bell: control.manager_doorbell(0, Some(self.called[0].try_clone().unwrap())).unwrap(),
            control,
            socket,
            input: Vec::new(),
        }
    }

    /// Says that a party is dead.
    pub(crate) fn detach(&self, hop: u16) {
        let (reply, _) = self.ask(&Request::Detach { hop, replica: 0, drain: false }, &[]);
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }

    /// What the broker counts.
    pub(crate) fn stats(&self) -> BrokerStats {
        match self.ask(&Request::Stats, &[]).0 {
            Reply::BrokerStats(stats) => *stats,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the counts are as wanted.
    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&BrokerStats) -> bool) -> BrokerStats {
        let end = Instant::now() + PATIENCE;
        loop {
            let stats = self.stats();
            if wanted(&stats) {
                return stats;
            }
            assert!(Instant::now() < end, "{what} did not happen: {stats:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until no request is under way and every buffer is free, and wants every request accounted for.
    pub(crate) fn wait_for_rest(&self) -> BrokerStats {
        let stats = self.wait_for("rest", |stats| {
            let idle = stats.chains.iter().all(|chain| chain.in_progress == 0);
            idle && stats.buffers_free == stats.buffers && stats.buffers_held == 0
        });
        for chain in &stats.chains {
            let sum = |reasons: &[(String, u64)]| reasons.iter().map(|(_, n)| n).sum::<u64>();
            let ended = chain.answered + sum(&chain.rejected) + sum(&chain.failed) + chain.aborted;
            assert_eq!(chain.received, ended, "{chain:#?}");
        }
        stats
    }

    /// Stops the broker and wants it to end well.
    pub(crate) fn stop(mut self) {
        let (reply, _) = self.ask(&Request::Stop { drain_ms: 2000 }, &[]);
        let Reply::BrokerStopped(stats) = reply else { panic!("{reply:?}") };
        assert_eq!((stats.buffers_free, stats.buffers_held), (stats.buffers, 0), "{stats:#?}");
        self.thread.take().unwrap().join().expect("the broker does not panic");
    }
}

/// A function's side of an attachment.
pub(crate) struct Party {
    pub(crate) hop: u16,
    pub(crate) buffers: Buffers,
    receive: Consumer,
    give_back: Producer,
    bell: EventDoorbell,
    pub(crate) control: ControlRegion,
    pub(crate) socket: Option<TcpStream>,
    input: Vec<u8>,
}

impl Party {
    /// What has come, by either way.
    pub(crate) fn take(&mut self) -> Vec<Descriptor> {
        let mut room = [Descriptor::default(); 64];
        let n = self.receive.dequeue(&mut room);
        let mut taken = room[..n].to_vec();
        if let Some(socket) = &mut self.socket {
            use std::io::Read;
            let mut bytes = [0; 4096];
            match socket.read(&mut bytes) {
                Ok(0) => self.socket = None,
                Ok(n) => self.input.extend_from_slice(&bytes[..n]),
                Err(_) => {}
            }
        }
        while self.input.len() >= 16 {
            let count = u32::from_ne_bytes(self.input[..4].try_into().unwrap()) as usize;
            let length = 16 * (count + 1);
            if self.input.len() < length {
                break;
            }
            for cell in self.input[16..length].chunks_exact(16) {
                let descriptor = zerocopy::FromBytes::read_from_bytes(cell).unwrap();
                taken.push(descriptor);
            }
            self.input.drain(..length);
        }
        taken.retain(|descriptor: &Descriptor| descriptor.index != u32::MAX);
        taken
    }

    /// Works on a message's buffer.
    pub(crate) fn with<R>(&self, descriptor: &Descriptor, work: impl FnOnce(&mut Message<'_>) -> R) -> R {
        let mut descriptor = *descriptor;
        work(&mut Message::new(self.buffers.room_mut(&mut descriptor)))
    }

    /// Moves a message to its next stop, as a function does that has nothing to say, and returns that stop's key.
    pub(crate) fn pass(&self, descriptor: &Descriptor) -> u8 {
        self.with(descriptor, |message| {
            let header = message.header_mut();
            let last = usize::from(header.stops).clamp(1, MAX_ROUTE) - 1;
            let next = (usize::from(header.cursor) + 1).min(last);
            header.cursor = next as u8;
            header.route[next].key
        })
    }

    /// Puts descriptors into the ring to the broker, whatever they are.
    pub(crate) fn put(&mut self, descriptors: &[Descriptor]) {
        self.give_back.enqueue(descriptors);
        self.bell.ring();
    }

    /// Sends a group over SK_MSG, whatever is in it.
    pub(crate) fn send(&mut self, destination: u32, descriptors: &[Descriptor]) -> std::io::Result<()> {
        let group = Group { count: descriptors.len() as u32, destination, reserved: [0; 2] };
        let mut bytes = group.as_bytes().to_vec();
        bytes.extend_from_slice(descriptors.as_bytes());
        self.send_bytes(&bytes)
    }

    /// Sends bytes over SK_MSG.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let Some(socket) = &mut self.socket else { return Err(std::io::ErrorKind::NotConnected.into()) };
        match socket.write(bytes)? {
            n if n == bytes.len() => Ok(()),
            _ => Err(std::io::ErrorKind::WriteZero.into()),
        }
    }

    /// Gives a message on as it should be given on.
    pub(crate) fn answer(&mut self, descriptor: &Descriptor) {
        let key = self.pass(descriptor);
        if self.socket.is_none() || self.send(key.into(), &[*descriptor]).is_err() {
            self.put(&[*descriptor]);
        }
    }

    /// Shows the runtime's side that it lives, and sleeps for a moment.
    pub(crate) fn rest(&self) {
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn loopback() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let function = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (broker, _) = listener.accept().unwrap();
    (function, broker)
}

/// Numbers that look like chance, the same in each run.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_ne_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}
