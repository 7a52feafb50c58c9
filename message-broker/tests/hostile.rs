//! Parties that do all they can with what they were handed: the broker goes on, refuses what is not theirs, sends nobody
//! anything malformed, and the other chain does not notice.

mod support;

use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use middlenet_plan::{OnLoss, Transport};
use middlenet_sdk::middlebox::{DATA_OFFSET, Interests, MESSAGE_BYTES, READ_BYTES, UNDELIVERED, flag};
use middlenet_shm::Descriptor;
use middlenet_tests::http::{Head, Wire, read_body};
use middlenet_tests::{Asks, Backend, Error, Load, Netns, require_root};
use support::{BUFFERS, Chance, Party, Stage, Wanted};

const GOOD: &str = "127.0.0.1:8081";
const BAD: &str = "127.0.0.1:8082";
const HEADS: Interests = Interests::REQUEST_HEAD.with(Interests::RESPONSE_HEAD);
const EVERYTHING: Interests = HEADS.with(Interests::REQUEST_BODY).with(Interests::RESPONSE_BODY);
const SOON: Duration = Duration::from_secs(20);
/// Hops by number.
const HONEST: u16 = 0;
const HOSTILE: u16 = 1;
const BEHIND: u16 = 2;

fn chains() -> Vec<Wanted> {
    vec![
        Wanted {
            name: "good",
            listen: GOOD,
            upstream: "127.0.0.1:9001",
            hops: vec!["honest"],
            on_failure: OnLoss::Retry,
            function_ms: 5_000,
        },
        Wanted {
            name: "bad",
            listen: BAD,
            upstream: "127.0.0.1:9002",
            hops: vec!["hostile", "behind"],
            on_failure: OnLoss::Drop,
            function_ms: 300,
        },
    ]
}

/// What clients of the hostile chain saw.
#[derive(Debug, Default)]
struct Told {
    answers: u64,
    cut: u64,
}

/// Clients of the hostile chain: whatever they get is HTTP, or the end of the connection.
fn ask_the_bad(netns: &Netns, stop: &AtomicBool, clients: usize) -> Result<Told, Error> {
    let ask = |client: usize| {
        let mut told = Told::default();
        let mut wire = None;
        let mut number = 0u64;
        while !stop.load(Ordering::Relaxed) {
            if wire.is_none() {
                let Ok(stream) = TcpStream::connect(BAD) else { continue };
                stream.set_read_timeout(Some(SOON)).unwrap();
                wire = Wire::new(stream).ok();
            }
            let Some(open) = &mut wire else { continue };
            number += 1;
            let request = match number % 4 {
                0 => format!("POST /check/5 HTTP/1.1\r\nhost: bad\r\ncontent-length: 5\r\n\r\n{client:05}"),
                1 => format!("GET /bytes/30000 HTTP/1.1\r\nhost: bad\r\nx-client: {client}\r\n\r\n"),
                2 => format!("HEAD /{client}/{number} HTTP/1.1\r\nhost: bad\r\n\r\n"),
                _ => format!("GET /{client}/{number}?a=b HTTP/1.1\r\nhost: bad\r\naccept: */*\r\n\r\n"),
            };
            let exchange = |open: &mut Wire| -> std::io::Result<bool> {
                open.send(request.as_bytes())?;
                let Some(head) = Head::read(&mut open.0)? else { return Err(ErrorKind::UnexpectedEof.into()) };
                head.status()?;
                if number % 4 != 2 {
                    read_body(&mut open.0, &head, |_| {})?;
                }
                assert!(open.0.buffer().is_empty(), "bytes behind an answer: {:?}", open.0.buffer());
                Ok(!head.closes())
            };
            let keep = match exchange(open) {
                Ok(keep) => {
                    told.answers += 1;
                    keep
                }
                Err(e) if matches!(e.kind(), ErrorKind::InvalidData | ErrorKind::WouldBlock) => {
                    panic!("{request:?} was answered with {e}, {:?}", e.kind())
                }
                Err(_) => {
                    told.cut += 1;
                    false
                }
            };
            if !keep {
                wire = None;
            }
        }
        told
    };
    netns.enter(|| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..clients).map(|client| scope.spawn(move || ask(client))).collect();
            threads.into_iter().fold(Told::default(), |sum, thread| {
                let told = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                Told { answers: sum.answers + told.answers, cut: sum.cut + told.cut }
            })
        })
    })
}

/// Runs both chains for `seconds`, the second with a party that does `harm` with each message.
fn beside_a_hostile_party(
    transport: Transport,
    seconds: u64,
    harm: impl Fn(&mut Party, &Descriptor, &mut Chance) + Sync,
) -> Result<middlenet_plan::BrokerStats, Error> {
    let netns = Netns::new("hostile")?;
    let good = Backend::start(&netns, "127.0.0.1:9001")?;
    let bad = Backend::start(&netns, "127.0.0.1:9002")?;
    let (stage, mut honest, mut hostile, mut behind) = netns.enter(|| {
        let stage = Stage::start(chains(), transport);
        let honest = stage.attach(HONEST, transport, HEADS);
        let hostile = stage.attach(HOSTILE, transport, EVERYTHING);
        let behind = stage.attach(BEHIND, transport, HEADS);
        (stage, honest, hostile, behind)
    })?;
    let stop = AtomicBool::new(false);
    let over = AtomicBool::new(false);
    let (seen, told) = std::thread::scope(|scope| {
        let serve = |party: &mut Party| {
            while !over.load(Ordering::Relaxed) {
                let taken = party.take();
                taken.iter().for_each(|descriptor| party.answer(descriptor));
                if taken.is_empty() {
                    party.rest();
                }
            }
        };
        scope.spawn(move || serve(&mut honest));
        scope.spawn(move || serve(&mut behind));
        scope.spawn(|| {
            let mut chance = Chance(0x1234_5678_9abc_def1);
            while !over.load(Ordering::Relaxed) {
                let taken = hostile.take();
                taken.iter().for_each(|descriptor| harm(&mut hostile, descriptor, &mut chance));
                if taken.is_empty() {
                    hostile.rest();
                }
            }
        });
        let bad_clients = scope.spawn(|| ask_the_bad(&netns, &stop, 16));
        let load = Load::start(&netns, GOOD, 8, Asks::PLAIN)?;
        std::thread::sleep(Duration::from_secs(seconds));
        let seen = load.stop();
        stop.store(true, Ordering::Relaxed);
        let told = bad_clients.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        over.store(true, Ordering::Relaxed);
        Ok::<_, Error>((seen, told))
    })?;
    println!("{transport:?}: good {seen:?}; bad {told:?}");
    assert_eq!((seen.failed(), &seen.wrong), (0, &vec![]), "the other chain does not notice: {seen:?}");
    assert!(seen.fine > 100, "{seen:?}");
    assert_eq!((good.malformed(), bad.malformed()), (vec![], vec![]), "upstreams get what is HTTP");
    // Its death gives back what it still has.
    stage.detach(HOSTILE);
    let stats = stage.wait_for_rest();
    stage.stop();
    Ok(stats)
}

fn refusals(stats: &middlenet_plan::BrokerStats, hop: u16) -> u64 {
    stats.hops[usize::from(hop)].refused.iter().map(|(_, n)| n).sum()
}

/// Any bytes in all of the buffer, or in some of the header.
fn garble(party: &mut Party, descriptor: &Descriptor, chance: &mut Chance) {
    let key = party.pass(descriptor);
    party.with(descriptor, |message| match chance.below(8) {
        0 => {
            let room = MESSAGE_BYTES - DATA_OFFSET;
            let mut bytes = vec![0; MESSAGE_BYTES];
            chance.fill(&mut bytes);
            // The data, then header and index through what gives access to them.
            message.data_mut().copy_from_slice(&bytes[..room]);
            *message.header_mut() = zerocopy::FromBytes::read_from_bytes(&bytes[room..room + 256]).unwrap();
            let index = zerocopy::FromBytes::read_from_bytes(&bytes[room + 256..room + 256 + 1024]).unwrap();
            *message.index_mut() = index;
        }
        1 => {
            let mut bytes = [0; 256];
            chance.fill(&mut bytes);
            *message.header_mut() = zerocopy::FromBytes::read_from_bytes(&bytes[..]).unwrap();
        }
        2 => chance.fill(&mut message.data_mut()[..READ_BYTES]),
        3 => {
            let header = message.header_mut();
            header.verdict = chance.below(4) as u8;
            header.flags = chance.next() as u8;
            header.status = chance.below(1200) as u16;
        }
        4 => {
            let header = message.header_mut();
            (header.jump, header.jumper) = (chance.below(4) as u8, chance.below(4) as u8);
            (header.router, header.upstream) = (chance.below(3) as u8, chance.below(3) as u16);
        }
        5 => {
            let header = message.header_mut();
            for span in [&mut header.method, &mut header.target, &mut header.reason, &mut header.body] {
                if chance.below(2) == 0 {
                    (span.start, span.length) = (chance.next() as u16, chance.below(20_000) as u16);
                }
            }
            header.headers = chance.next() as u16;
        }
        6 => {
            // An answer whose body is not where it says.
            let header = message.header_mut();
            (header.verdict, header.status) = (1, 200);
            header.flags |= flag::ANSWER;
            (header.body.start, header.body.length) = (16_000, chance.below(2_000) as u16);
        }
        _ => {}
    });
    if party.socket.is_none() || party.send(key.into(), &[*descriptor]).is_err() {
        party.put(&[*descriptor]);
    }
}

#[test]
fn any_bytes_in_a_buffer_by_ring() -> Result<(), Error> {
    require_root!(Ok(()));
    beside_a_hostile_party(Transport::Ring, 4, garble)?;
    Ok(())
}

#[test]
fn any_bytes_in_a_buffer_by_skmsg() -> Result<(), Error> {
    require_root!(Ok(()));
    beside_a_hostile_party(Transport::Skmsg, 4, garble)?;
    Ok(())
}

/// Descriptors that it does not hold, old ones, the same ones again.
fn forge(party: &mut Party, descriptor: &Descriptor, chance: &mut Chance) {
    let mut forged = *descriptor;
    match chance.below(5) {
        0 => forged.index = chance.below(u64::from(BUFFERS)) as u32,
        1 => forged.index = chance.next() as u32,
        2 => forged.generation = forged.generation.wrapping_sub(chance.below(3) as u16 + 1),
        3 => (forged.index, forged.verdict) = (chance.below(u64::from(BUFFERS)) as u32, UNDELIVERED),
        _ => {}
    }
    party.put(&[forged, forged]);
    let _ = party.send(chance.below(10) as u32, &[forged]);
    party.answer(descriptor);
    party.put(&[*descriptor]);
}

#[test]
fn descriptors_that_are_not_its_own_by_ring() -> Result<(), Error> {
    require_root!(Ok(()));
    let stats = beside_a_hostile_party(Transport::Ring, 3, forge)?;
    assert!(refusals(&stats, HOSTILE) > 100, "{stats:#?}");
    Ok(())
}

#[test]
fn descriptors_that_are_not_its_own_by_skmsg() -> Result<(), Error> {
    require_root!(Ok(()));
    let stats = beside_a_hostile_party(Transport::Skmsg, 3, forge)?;
    assert!(refusals(&stats, HOSTILE) > 100, "{stats:#?}");
    Ok(())
}

/// Groups that go where it may not send, or that are none.
#[test]
fn groups_that_lead_elsewhere() -> Result<(), Error> {
    require_root!(Ok(()));
    let stats = beside_a_hostile_party(Transport::Skmsg, 3, |party, descriptor, chance| {
        for destination in [1, 2, 4, 77, 255, 256, 70_000, u32::MAX] {
            let _ = party.send(destination, &[Descriptor { index: chance.next() as u32, ..*descriptor }]);
        }
        let mut bytes = vec![0; chance.below(1200) as usize];
        chance.fill(&mut bytes);
        if !bytes.is_empty() {
            let _ = party.send_bytes(&bytes);
        }
        party.answer(descriptor);
    })?;
    assert!(refusals(&stats, HOSTILE) > 100, "{stats:#?}");
    Ok(())
}

#[test]
fn messages_that_are_never_answered() -> Result<(), Error> {
    require_root!(Ok(()));
    for transport in [Transport::Ring, Transport::Skmsg] {
        let stats = beside_a_hostile_party(transport, 3, |_, _, _| {})?;
        let failed = &stats.chains[1].failed;
        assert!(failed.iter().any(|(reason, n)| reason == "function-timeout" && *n > 0), "{failed:?}");
    }
    Ok(())
}

#[test]
fn a_socket_that_closes() -> Result<(), Error> {
    require_root!(Ok(()));
    beside_a_hostile_party(Transport::Skmsg, 2, |party, descriptor, chance| {
        if chance.below(100) == 0 {
            party.socket = None;
        }
        party.answer(descriptor);
    })?;
    Ok(())
}
