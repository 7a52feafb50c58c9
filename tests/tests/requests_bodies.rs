//! Bodies of all sizes through three functions, and connections that are no requests any more.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use middlenet_tests::http::{Head, Wire, read_body, send_pattern};
use middlenet_tests::{Error, Pattern, Runtime, Web, require_root};

/// A body that moves waits for nobody this long.
const STALL: Duration = Duration::from_secs(20);
const GIB: u64 = 1 << 30;
/// What the broker may need for a body of any length, beside the message buffers: two sockets' worth of what one read takes, and
/// what the allocator keeps.
const MEMORY_BOUND_KIB: u64 = 4 << 10;

fn start(web: &Web, how: &str) -> Result<Runtime, Error> {
    Runtime::start(&web.host, &Web::manifest(how, &[Web::PROXY, Web::REWRITE, Web::EDIT]))
}

fn connect(web: &Web) -> Result<Wire, Error> {
    let fail = |source| Error::Socket { what: "connect to the chain".into(), source };
    let stream = web.host.enter(|| TcpStream::connect(Web::ADDRESS))?.map_err(fail)?;
    stream.set_read_timeout(Some(STALL)).map_err(fail)?;
    stream.set_write_timeout(Some(STALL)).map_err(fail)?;
    Wire::new(stream).map_err(fail)
}

/// Memory of the process that is its own, in KiB.
fn own_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
}

fn receive(wire: &mut Wire, expected: u64, mut pause: impl FnMut(u64)) -> Result<(), std::io::Error> {
    let head = Head::read(&mut wire.0)?.expect("an answer");
    assert_eq!((head.status()?, head.header("x-chain"), head.header("server")), (200, Some("web"), None), "{head:?}");
    let (mut pattern, mut fine) = (Pattern::default(), true);
    let length = read_body(&mut wire.0, &head, |piece| {
        fine = fine && pattern.check(piece);
        pause(pattern.position());
    })?;
    assert!(fine && length == expected, "{length} of {expected} bytes, the right ones: {fine}");
    Ok(())
}

fn bodies(how: &str) -> Result<(), Box<dyn std::error::Error>> {
    let web = Web::new()?;
    let run = start(&web, how)?;
    let mut kept = connect(&web)?;
    for keep in [true, false] {
        for chunked in [false, true] {
            for length in [0, 1, 1 << 10, 12 << 10, 16 << 10, 1 << 20] {
                let mut own = if keep { None } else { Some(connect(&web)?) };
                let close = if keep { "" } else { "connection: close\r\n" };
                let what = if chunked { "chunked" } else { "bytes" };
                let wire = own.as_mut().unwrap_or(&mut kept);
                wire.send(format!("GET /{what}/{length} HTTP/1.1\r\nhost: test\r\n{close}\r\n").as_bytes())?;
                receive(wire, length, |_| {})?;
                let mut own = if keep { None } else { Some(connect(&web)?) };
                let wire = own.as_mut().unwrap_or(&mut kept);
                upload(wire, length, chunked, close, "check")?;
            }
        }
    }
    let status = run.wait_for_requests_to_rest()?;
    let account = status.account("web");
    assert_eq!((account.answered, account.received), (48, 48));
    run.stop_requests()?;
    Ok(())
}

fn upload(wire: &mut Wire, length: u64, chunked: bool, close: &str, how: &str) -> Result<(), std::io::Error> {
    let framing = if chunked { "transfer-encoding: chunked".to_owned() } else { format!("content-length: {length}") };
    wire.send(format!("POST /{how}/{length} HTTP/1.1\r\nhost: test\r\n{framing}\r\n{close}\r\n").as_bytes())?;
    send_pattern(wire.0.get_mut(), length, chunked)?;
    let head = Head::read(&mut wire.0)?.expect("an answer");
    let mut text = Vec::new();
    read_body(&mut wire.0, &head, |piece| text.extend_from_slice(piece))?;
    assert_eq!((head.status()?, text.as_slice()), (200, b"fine".as_slice()), "{head:?}");
    Ok(())
}

#[test]
fn bodies_inline() -> Result<(), Box<dyn std::error::Error>> {
    require_root!(Ok(()));
    bodies("    placement: inline\n")
}

#[test]
fn bodies_on_skmsg() -> Result<(), Box<dyn std::error::Error>> {
    require_root!(Ok(()));
    bodies(&Web::processes("skmsg"))
}

#[test]
fn bodies_on_rings() -> Result<(), Box<dyn std::error::Error>> {
    require_root!(Ok(()));
    bodies(&Web::processes("ring"))
}

/// A gigabyte each way, and the broker's memory meanwhile.
fn a_gigabyte(how: &str) -> Result<(), Box<dyn std::error::Error>> {
    let web = Web::new()?;
    let run = start(&web, how)?;
    let broker = run.status()?.broker_pid().expect("a broker runs");
    let before = own_memory(broker);
    let mut most = before;
    let mut wire = connect(&web)?;
    let began = Instant::now();
    wire.send(format!("GET /bytes/{GIB} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes())?;
    let mut next = 0;
    receive(&mut wire, GIB, |position| {
        if position >= next {
            next = position + (64 << 20);
            most = most.max(own_memory(broker));
        }
    })?;
    let down = began.elapsed();
    let began = Instant::now();
    upload(&mut wire, GIB, false, "", "check")?;
    most = most.max(own_memory(broker));
    println!("1 GiB down in {down:?}, up in {:?}, memory {before} KiB, at most {most} KiB", began.elapsed());
    assert!(most < before + MEMORY_BOUND_KIB, "memory {before} KiB, at most {most} KiB");
    run.stop_requests()?;
    Ok(())
}

#[test]
fn a_gigabyte_inline() -> Result<(), Box<dyn std::error::Error>> {
    require_root!(Ok(()));
    a_gigabyte("    placement: inline\n")
}

#[test]
fn a_gigabyte_on_skmsg() -> Result<(), Box<dyn std::error::Error>> {
    require_root!(Ok(()));
    a_gigabyte(&Web::processes("skmsg"))
}

/// Who reads slowly makes the other side wait; the broker keeps no more than it must.
#[test]
fn slow_readers_cost_no_memory() -> Result<(), Box<dyn std::error::Error>> {
    require_root!(Ok(()));
    let web = Web::new()?;
    let run = start(&web, &Web::processes("skmsg"))?;
    let broker = run.status()?.broker_pid().expect("a broker runs");
    let before = own_memory(broker);
    let mut most = before;

    // A client that takes a gigabyte in small pieces, then has had enough.
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut wire = connect(&web)?;
        wire.send(format!("GET /bytes/{GIB} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes())?;
        slow.push(wire);
    }
    let mut room = vec![0; 64 << 10];
    for _ in 0..40 {
        for wire in &mut slow {
            wire.receive(&mut room)?;
        }
        most = most.max(own_memory(broker));
        std::thread::sleep(Duration::from_millis(10));
    }
    let status = run.status()?;
    let sent = status.request_chain("web")["sent_bytes"].as_u64().expect("a count");
    // What the kernel holds for eight connections, both sides of each; not what was asked for.
    assert!(sent < 8 * (64 << 20), "{sent} bytes were taken for clients that read {} bytes", 8 * 40 * room.len());
    drop(slow);
    run.wait_for("the end of those", STALL, |status| status.account("web").in_progress == 0)?;

    // An upstream that takes 25 MB/s, by a client that could send much faster.
    let mut wire = connect(&web)?;
    let length = 64 << 20;
    let sending = std::thread::spawn(move || upload(&mut wire, length, false, "", "check-slowly"));
    while !sending.is_finished() {
        most = most.max(own_memory(broker));
        std::thread::sleep(Duration::from_millis(20));
    }
    sending.join().expect("the client does not panic")?;
    println!("memory {before} KiB, at most {most} KiB");
    assert!(most < before + MEMORY_BOUND_KIB, "memory {before} KiB, at most {most} KiB");
    let account = run.wait_for_requests_to_rest()?.account("web");
    assert_eq!((account.received, account.answered, account.aborted), (9, 1, 8));
    run.stop_requests()?;
    Ok(())
}

/// A frame of RFC 6455 with 16 bits of length, masked as a client's.
fn frame(opcode: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut bytes = vec![0x80 | opcode, 0x80 | 126, length[0], length[1]];
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn web_socket(how: &str) -> Result<(), Box<dyn std::error::Error>> {
    let web = Web::new()?;
    let run = start(&web, how)?;
    let mut wire = connect(&web)?;
    wire.send(
        b"GET /socket HTTP/1.1\r\nhost: test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
          sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )?;
    let head = Head::read(&mut wire.0)?.expect("an answer");
    assert_eq!((head.status()?, head.header("upgrade")), (101, Some("websocket")), "{head:?}");
    // Frames both ways at the same time: the sender does not wait for the echo.
    let mut out = wire.stream().try_clone()?;
    let frames = |number: u16| {
        let length = usize::from(number) * 7 % 3000;
        frame(2, &vec![number as u8; length], u32::from(number).to_ne_bytes())
    };
    let sending = std::thread::spawn(move || -> std::io::Result<()> {
        for number in 0..1000 {
            out.write_all(&frames(number))?;
        }
        out.write_all(&frame(8, &1000u16.to_be_bytes(), [1, 2, 3, 4]))?;
        out.shutdown(std::net::Shutdown::Write)
    });
    for number in 0..1000 {
        let expected = frames(number);
        let mut room = vec![0; expected.len()];
        wire.receive(&mut room)?;
        assert!(room == expected, "frame {number} came back changed");
    }
    let mut rest = Vec::new();
    wire.0.read_to_end(&mut rest)?;
    assert_eq!(rest, frame(8, &1000u16.to_be_bytes(), [1, 2, 3, 4]));
    sending.join().expect("the sender does not panic")?;
    let status = run.wait_for_requests_to_rest()?;
    assert_eq!(status.request_chain("web")["upgrades"], 1);
    assert_eq!(status.account("web").answered, 1);
    run.stop_requests()?;
    Ok(())
}

#[test]
fn a_web_socket_inline() -> Result<(), Box<dyn std::error::Error>> {
    require_root!(Ok(()));
    web_socket("    placement: inline\n")
}

#[test]
fn a_web_socket_on_skmsg() -> Result<(), Box<dyn std::error::Error>> {
    require_root!(Ok(()));
    web_socket(&Web::processes("skmsg"))
}
