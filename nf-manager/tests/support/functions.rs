//! Functions that do one thing each, for tests.

use middlenet_sdk::prelude::*;

/// Does with each packet what its first payload byte (at [`OPCODE`]) says.
pub struct Opcode {
    held: Vec<Held>,
    seen: Counter,
}

/// Offset of the byte that [`Opcode`] obeys.
pub const OPCODE: usize = 14;

#[derive(Deserialize, JsonSchema)]
pub struct NoConfig {}

impl NetworkFunction for Opcode {
    type Config = NoConfig;

    fn new(_: NoConfig, init: &mut Init) -> Result<Self, ConfigError> {
        Ok(Self { held: Vec::new(), seen: init.counter("seen", "packets seen") })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        let mut make = 0;
        let mut release = false;
        for packet in burst.iter_mut() {
            self.seen.inc();
            match packet.data().get(OPCODE).copied() {
                Some(b'd') => packet.drop(DropReason::DENIED),
                Some(b'r') => packet.reply(),
                Some(b'f') => packet.flood(),
                Some(b'p') => packet.to_port(Port(1)),
                Some(b'x') => packet.to_port(Port(77)),
                Some(b'o') => packet.output(Output(5)),
                Some(b'h') => self.held.push(packet.hold()),
                Some(b'n') => {}
                other => {
                    release |= other == Some(b'R');
                    make += usize::from(other == Some(b'm'));
                    packet.to_port(Port(1));
                }
            }
        }
        for _ in 0..make {
            if let Some(mut packet) = burst.allocate() {
                packet.fill(&[0x55; 60]);
                packet.to_port(Port(1));
            }
        }
        if release {
            for held in self.held.drain(..) {
                burst.resume(held).to_port(Port(1));
            }
        }
    }
}

/// A packet of 60 bytes that says `opcode` and can be told from others by `id`.
pub fn packet(opcode: u8, id: u8) -> Vec<u8> {
    let mut bytes = vec![0; 60];
    bytes[OPCODE] = opcode;
    bytes[OPCODE + 1] = id;
    bytes
}

/// Sends every packet to its first output.
pub struct Bounce;

impl NetworkFunction for Bounce {
    type Config = NoConfig;

    fn new(_: NoConfig, _: &mut Init) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        burst.iter_mut().for_each(|packet| packet.output(Output(0)));
    }
}
