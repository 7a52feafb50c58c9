//! Runs a function on packets without a host: no root, no rings, no other process, and a clock that the test moves.
//!
//! ```
//! use middlenet_sdk::{prelude::*, testkit::Testkit};
//! # #[derive(Deserialize, JsonSchema)] struct Config {}
//! # struct DropRunts(Counter);
//! # impl NetworkFunction for DropRunts {
//! #     type Config = Config;
//! #     fn new(_: Config, init: &mut Init) -> Result<Self, ConfigError> { Ok(Self(init.counter("runts", "short packets"))) }
//! #     fn process(&mut self, burst: &mut Burst<'_>) {
//! #         for packet in burst.iter_mut() {
//! #             if packet.len() < 14 { self.0.inc(); packet.drop(DropReason::MALFORMED); }
//! #         }
//! #     }
//! # }
//! let mut kit = Testkit::<DropRunts>::new(serde_json::json!({}));
//! let outcomes = kit.run("left", &[vec![0; 60], vec![0; 3]]);
//! assert_eq!(outcomes[0].verdict, Verdict::Next);
//! assert_eq!(outcomes[1].verdict, Verdict::Drop(DropReason::MALFORMED));
//! assert_eq!(kit.counter("runts"), 1);
//! ```

use crate::fast_path::{FastPath, Flow, Mode, View};
use crate::peer::{DialError, PeerAddress};
use crate::{
    BURST, Burst, BurstState, ConfigError, DropReason, DynFunction, Init, NetworkFunction, Port, PortInfo,
    Registration, SteeredFlow, Verdict,
};
use middlenet_shm::{Buffers, Descriptor, Pages, Region};
use serde_json::Value;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

const BUFFER_BYTES: u32 = 2048;
const BUFFERS: u32 = 2048;
const OFFSET_BYTES: u16 = 256;
/// An hour: functions may subtract time-outs from the start.
const START_NS: u64 = 3_600_000_000_000;

/// What became of one packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What the function decided.
    pub verdict: Verdict,
    /// The packet's bytes afterwards.
    pub bytes: Vec<u8>,
    /// The port it came in by; of a packet the function made: port 0.
    pub port: Port,
    /// Whether the function made or resumed it in this burst.
    pub emitted: bool,
}

/// A function and the little it needs to run.
pub struct Testkit<F> {
    registration: Registration,
    function: Box<dyn DynFunction>,
    init: Init,
    buffers: Buffers,
    free: Vec<u32>,
    state: BurstState,
    now_ns: u64,
    _type: PhantomData<F>,
}

impl<F: NetworkFunction> Testkit<F> {
    /// On a chain of two ports, `left` (id 0) and `right` (id 1).
    ///
    /// # Panics
    /// When the function refuses the configuration, as tests do.
    pub fn new(config: Value) -> Self {
        Self::try_new(config).unwrap_or_else(|e| panic!("configuration refused: {e}"))
    }

    /// As [`Testkit::new`], for tests of refused configurations.
    pub fn try_new(config: Value) -> Result<Self, ConfigError> {
        Self::with_ports(config, &Self::two_ports())
    }

    /// The ports of [`Testkit::new`], for tests that change one thing about them.
    pub fn two_ports() -> Vec<PortInfo> {
        let port = |id: u8, name: &str| PortInfo { id, name: name.into(), mac: [2, 0, 0, 0, 0, id + 1], mtu: 1500 };
        vec![port(0, "left"), port(1, "right")]
    }

    /// On a chain with these ports.
    pub fn with_ports(config: Value, ports: &[PortInfo]) -> Result<Self, ConfigError> {
        Self::with_outputs(config, ports, &[])
    }

    /// On a chain with these ports, in a manifest that connects these named outputs.
    pub fn with_outputs(config: Value, ports: &[PortInfo], outputs: &[&str]) -> Result<Self, ConfigError> {
        let outputs = outputs.iter().map(|o| (*o).to_owned()).collect();
        Self::with_init(config, Init::new(ports.to_vec(), outputs))
    }

    /// On the chain of [`Testkit::new`], in a manifest with these names under `steer`.
    pub fn with_steering(config: Value, names: &[&str]) -> Result<Self, ConfigError> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Self::with_init(config, Init::new(Self::two_ports(), Vec::new()).with_steering(names))
    }

    /// On the chain of [`Testkit::new`], in a manifest that turns the function's fast path on. It is in memory:
    /// [`Testkit::fast_path`] shows what is in it, and packets given to [`Testkit::run`] do not pass it.
    ///
    /// # Panics
    /// When the function has no fast path that works in this mode.
    pub fn with_fast_path(config: Value, mode: Mode) -> Result<Self, ConfigError> {
        Self::with_init(config, Self::init_with_fast_path(Self::two_ports(), &[], mode))
    }

    /// As [`Testkit::with_fast_path`], on a chain with these ports, and with these named outputs.
    pub fn with_fast_path_on(
        config: Value,
        mode: Mode,
        ports: Vec<PortInfo>,
        outputs: &[&str],
    ) -> Result<Self, ConfigError> {
        Self::with_init(config, Self::init_with_fast_path(ports, outputs, mode))
    }

    fn init_with_fast_path(ports: Vec<PortInfo>, outputs: &[&str], mode: Mode) -> Init {
        assert!(F::FAST_PATH.works(mode), "the function's fast path does not work in the mode `{}`", mode.name());
        let fast_path = FastPath::in_memory_at(mode, F::FAST_PATH, Arc::new(AtomicU64::new(START_NS)));
        Init::new(ports, outputs.iter().map(|o| (*o).to_owned()).collect()).with_fast_path(fast_path)
    }

    fn with_init(config: Value, mut init: Init) -> Result<Self, ConfigError> {
        init = init.with_direct_peers();
        let registration = Registration::of::<F>();
        let function = registration.create(config, &mut init)?;
        let region = Region::create("testkit", (BUFFERS * BUFFER_BYTES) as usize, Pages::Small)
            .and_then(|region| Buffers::new(Arc::new(region), BUFFER_BYTES))
            .map_err(|e| ConfigError::new(e.to_string()))?;
        let mut kit = Self {
            registration,
            function,
            init,
            buffers: region,
            free: (0..BUFFERS).rev().collect(),
            state: BurstState::default(),
            now_ns: START_NS,
            _type: PhantomData,
        };
        kit.init.begin();
        kit.advance(Duration::ZERO);
        Ok(kit)
    }

    /// Sends packets through, in bursts as a host would. First one outcome per packet, in order; then those that the
    /// function made or resumed.
    ///
    /// # Panics
    /// When there is no such port, a packet is too long, or held packets have used up all buffers.
    pub fn run<P: AsRef<[u8]>>(&mut self, port: &str, packets: &[P]) -> Vec<Outcome> {
        let port = self.init.port(port).unwrap_or_else(|e| panic!("{e}"));
        let (mut outcomes, mut emitted) = (Vec::new(), Vec::new());
        for burst in packets.chunks(BURST) {
            let mut descriptors: Vec<_> = burst.iter().map(|bytes| self.packet(port, bytes.as_ref())).collect();
            self.burst(&mut descriptors, false);
            outcomes.extend(descriptors.into_iter().filter_map(|d| self.outcome(d, false)));
            let made = std::mem::take(&mut self.state.emitted);
            emitted.extend(made.into_iter().filter_map(|d| self.outcome(d, true)));
        }
        outcomes.append(&mut emitted);
        outcomes
    }

    /// Sends the packets of a capture file through.
    ///
    /// # Panics
    /// When the file cannot be read, and as [`Testkit::run`].
    pub fn run_pcap(&mut self, port: &str, path: impl AsRef<Path>) -> Vec<Outcome> {
        let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()));
        let mut reader = pcap_file::pcap::PcapReader::new(file).expect("a capture file");
        let mut packets = Vec::new();
        while let Some(packet) = reader.next_packet() {
            packets.push(packet.expect("a packet record").data.into_owned());
        }
        self.run(port, &packets)
    }

    /// Runs [`NetworkFunction::tick`]; returns what it sent. A [peer](crate::peer) that is dialled meanwhile is really spoken to, so tests
    /// play it on loopback.
    pub fn tick(&mut self) -> Vec<Outcome> {
        self.burst(&mut [], true);
        let made = std::mem::take(&mut self.state.emitted);
        made.into_iter().filter_map(|d| self.outcome(d, true)).collect()
    }

    /// Plays the runtime for a function that dials [peers](crate::peer): answers what it has dialled since, or leaves it waiting where
    /// `answer` gives nothing. From the first call on, the function makes no sockets by itself any more, as in a process.
    pub fn answer_dials(&mut self, mut answer: impl FnMut(&PeerAddress) -> Option<Result<OwnedFd, DialError>>) {
        for peer in self.init.peers() {
            peer.ask_the_runtime();
            if peer.is_wanted()
                && let Some(result) = answer(peer.address())
            {
                peer.answer(result);
            }
        }
    }

    /// Takes a flow out of the fast path, as one that makes room for others.
    pub fn evict(&mut self, flow: &Flow) {
        self.init.host_fast_path().remove(flow);
        self.init.flush_fast_path();
    }

    /// Moves the clock.
    pub fn advance(&mut self, by: Duration) {
        self.now_ns += u64::try_from(by.as_nanos()).unwrap_or(u64::MAX / 2);
        self.state.set_logical_clock(self.now_ns);
        self.init.host_fast_path().set_clock(self.now_ns);
    }

    /// The value of a counter.
    ///
    /// # Panics
    /// When the function declared none of that name.
    pub fn counter(&self, name: &str) -> u64 {
        let found = self.init.counters().iter().find(|(info, _)| info.name == name);
        found.unwrap_or_else(|| panic!("no counter `{name}`")).1.get()
    }

    /// All counters by name.
    pub fn counters(&self) -> HashMap<String, u64> {
        self.init.counters().iter().map(|(info, counter)| (info.name.clone(), counter.get())).collect()
    }

    /// The name of a drop reason, the function's own included.
    pub fn reason(&self, reason: DropReason) -> String {
        let own =
            reason.0.checked_sub(DropReason::FIRST_OWN).and_then(|i| self.init.drop_reasons().get(usize::from(i)));
        let common = || DropReason::COMMON.iter().find(|(r, ..)| *r == reason).map(|(_, name, _)| (*name).to_owned());
        own.map(|info| info.name.clone()).or_else(common).unwrap_or_else(|| format!("{}", reason.0))
    }

    /// The function's report.
    pub fn report(&self) -> Value {
        self.function.report()
    }

    /// Changes the configuration as `middlenet apply` does: a new instance inherits the state of the old.
    pub fn reconfigure(&mut self, config: Value) -> Result<(), ConfigError> {
        let mut init = self.init.renewed();
        let mut function = self.registration.create(config, &mut init)?;
        init.continue_from(&self.init);
        std::mem::swap(&mut function, &mut self.function);
        self.function.inherit(function);
        self.init = init;
        self.init.flush_fast_path();
        self.collect_abandoned();
        Ok(())
    }

    /// Starts the function anew, as another process does after the first one has died, or in its place (`middlenet replace`): the new
    /// instance knows nothing of the old, but finds its fast path, which is its own from now on. Counters begin at 0.
    pub fn restart(&mut self, config: Value) -> Result<(), ConfigError> {
        let mut init = self.init.restarted();
        let function = self.registration.create(config, &mut init)?;
        self.init.host_fast_path().end();
        self.function = function;
        self.init = init;
        self.init.begin();
        self.advance(Duration::ZERO);
        self.collect_abandoned();
        Ok(())
    }

    /// The flows that the function has steered since the last call.
    pub fn steered(&mut self) -> Vec<SteeredFlow> {
        std::mem::take(&mut self.state.steered)
    }

    /// The function's fast path.
    ///
    /// # Panics
    /// When it was made without one.
    pub fn fast_path(&self) -> View {
        self.init.host_fast_path().view().expect("a kit made with `with_fast_path`")
    }

    /// Buffers that the function holds back.
    pub fn held(&self) -> usize {
        BUFFERS as usize - self.free.len() - self.state.spare.len()
    }

    fn packet(&mut self, port: Port, bytes: &[u8]) -> Descriptor {
        let index = self.free.pop().expect("a free buffer; does the function hold too many?");
        let length = u16::try_from(bytes.len()).expect("a packet under 64 KiB");
        let mut descriptor = Descriptor { index, offset: OFFSET_BYTES, length, port: port.0, ..Descriptor::default() };
        self.buffers.bytes_mut(&mut descriptor).copy_from_slice(bytes);
        descriptor
    }

    fn burst(&mut self, descriptors: &mut [Descriptor], tick: bool) {
        while self.state.spare.len() < BURST {
            let Some(index) = self.free.pop() else { break };
            self.state.spare.push(Descriptor { index, ..Descriptor::default() });
        }
        self.state.begin();
        // What another kit of this thread held when it was dropped is no buffer of this one.
        crate::take_abandoned();
        let mut burst = Burst::new(&self.buffers, descriptors, &mut self.state);
        if tick {
            self.function.tick(&mut burst)
        } else {
            self.function.process(&mut burst)
        }
        self.init.flush_fast_path();
        self.collect_abandoned();
    }

    /// Frees what the function held and then forgot.
    fn collect_abandoned(&mut self) {
        self.free.extend(crate::take_abandoned().into_iter().map(|d| d.index));
    }

    fn outcome(&mut self, descriptor: Descriptor, emitted: bool) -> Option<Outcome> {
        let verdict = Verdict::decode(descriptor.verdict, descriptor.argument)?;
        let bytes = self.buffers.bytes(&descriptor).to_vec();
        if verdict != Verdict::Hold {
            self.free.push(descriptor.index);
        }
        Some(Outcome { verdict, bytes, port: Port(descriptor.port), emitted })
    }
}
