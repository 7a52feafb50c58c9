//! A function of requests as an author's own crate, in a chain between a client and a server.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use middlenet_tests::{Error, Netns, Runtime, example, require_root, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);
const LISTEN: &str = "127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:8081";

fn manifest(hop: &str) -> String {
    format!(
        "chains:
  web:
    layer: l4l7
    listen: {LISTEN}
    hop: {hop}
    upstreams: [{SERVER}]
    functions:
      - add-header: {{ run: ./add-header, config: {{ via: edge-1 }} }}
"
    )
}

/// Reads a head, or what comes of one.
fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        bytes.push(byte[0]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Answers one request on each of so many connections; returns the heads as they came.
fn serve(listener: &TcpListener, connections: usize) -> Vec<String> {
    // So that a broker that does not connect fails the test instead of holding it up.
    listener.set_nonblocking(true).expect("a socket can be made non-blocking");
    let serve_one = |_| {
        let mut accepted = None;
        wait_until("a connection of the broker", SOON, || {
            accepted = listener.accept().ok();
            accepted.is_some()
        })
        .expect("the broker connects");
        let (mut stream, _) = accepted.expect("it has been accepted");
        stream.set_nonblocking(false).expect("a socket can be made blocking");
        stream.set_read_timeout(Some(SOON)).expect("a time-out can be set");
        let head = head(&mut stream);
        stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").expect("the broker reads");
        head
    };
    (0..connections).map(serve_one).collect()
}

fn ask(request: &str) -> String {
    let mut stream = TcpStream::connect(LISTEN).expect("the broker listens");
    stream.set_read_timeout(Some(SOON)).expect("a time-out can be set");
    stream.write_all(request.as_bytes()).expect("the broker reads");
    head(&mut stream)
}

fn takes_part(hop: &str) -> Result<(), Error> {
    let netns = Netns::new("own")?;
    let mut run = Runtime::prepare(&manifest(hop))?;
    let program = run.folder().file("add-header");
    std::fs::copy(example("add-header")?, &program).map_err(|source| Error::File { path: program, source })?;
    let listener = netns.enter(|| TcpListener::bind(SERVER).expect("the server's address is free"))?;
    run.launch(&netns)?;

    let requests = [
        "GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET /b HTTP/1.1\r\nHost: a.example\r\nX-Via: forged\r\nx-via: twice\r\n\r\n",
    ];
    let heads = std::thread::scope(|scope| {
        let server = scope.spawn(|| serve(&listener, requests.len()));
        for request in requests {
            let answer = netns.enter(|| ask(request))?;
            assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}; {}", run.log());
        }
        Ok::<_, Error>(server.join().expect("the server got its requests"))
    })?;
    for (head, path) in heads.iter().zip(["/a", "/b"]) {
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{head}");
        // The name as the client spelt it, if it did.
        let lines = head.lines().map(str::to_ascii_lowercase);
        let vias: Vec<_> = lines.filter(|line| line.starts_with("x-via:")).collect();
        assert_eq!(vias, ["x-via: edge-1"], "{head}");
    }

    // The buffers are counted ten times a second.
    let is_at_rest = |status: &Value| {
        let (stats, chain) = (&status["messages"], &status["messages"]["chains"][0]);
        chain["in_progress"] == 0 && stats["buffers"].is_u64() && stats["buffers"] == stats["buffers_free"]
    };
    let status = run.wait_for("rest", SOON, |status| is_at_rest(&status.0))?;
    let (chain, function) = (&status.0["messages"]["chains"][0], &status.0["messages"]["hops"][0]);
    assert_eq!((chain["received"].as_u64(), chain["answered"].as_u64()), (Some(2), Some(2)), "{chain:#}");
    assert_eq!((function["transport"].as_str(), function["messages"].as_u64()), (Some(hop), Some(2)), "{function:#}");
    let output = run.end_with(Signal::SIGINT)?;
    assert!(output.status.success(), "{}", output.stderr);
    Ok(())
}

#[test]
fn a_function_of_requests_of_ones_own_takes_part_over_skmsg() -> Result<(), Error> {
    require_root!(Ok(()));
    takes_part("skmsg")
}

#[test]
fn a_function_of_requests_of_ones_own_takes_part_over_rings() -> Result<(), Error> {
    require_root!(Ok(()));
    takes_part("ring")
}
