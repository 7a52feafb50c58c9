use std::net::TcpListener;
use std::thread::JoinHandle;

use super::*;

fn response(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} Word\r\ncontent-LENGTH: {}\r\nX: y\r\n\r\n{body}", body.len())
}

#[test]
fn a_response_is_whole_with_its_body() {
    let text = response(200, "abc");
    for cut in 0..text.len() {
        assert_eq!(parse(&text.as_bytes()[..cut]), Ok(None), "{cut}");
    }
    let whole = Response { status: 200, body: b"abc".to_vec() };
    assert_eq!(parse(text.as_bytes()), Ok(Some((whole, 0))));
    assert!(matches!(parse((text + "zz").as_bytes()), Ok(Some((_, 2)))));
}

#[test]
fn what_is_no_response_is_an_error() {
    assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx").is_err());
    assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx").is_err());
    assert!(parse(b"SSH-2.0\r\n\r\n").is_err());
    assert!(parse(&[b'a'; MAX_HEAD + 1]).is_err());
}

#[test]
fn only_the_body_of_the_path_itself_will_do() {
    let response = |status, body: String| Response { status, body: body.into_bytes() };
    assert_eq!(check(&response(200, body(2, "/new/7/1")), "7/1"), Ok(2));
    assert!(check(&response(200, body(2, "/old/7/1")), "7/1").is_err(), "not rewritten");
    assert!(check(&response(200, body(2, "/new/7/2")), "7/1").is_err(), "another's");
    assert!(check(&response(200, body(3, "/new/7/1")), "7/1").is_err(), "there is no such server");
    assert!(check(&response(200, body(1, "/new/7/1").replacen('x', "y", 1)), "7/1").is_err(), "one byte");
    assert_eq!(check(&response(502, String::new()), "7/1"), Err("status 502".into()));
}

/// A proxy and its servers in one: answers each connection's requests by `answer`, given their paths.
fn server(connections: usize, answer: fn(&str) -> String) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move |mut stream: TcpStream| {
        let mut request = Vec::new();
        let mut byte = [0];
        while matches!(stream.read(&mut byte), Ok(1)) {
            request.push(byte[0]);
            if request.ends_with(b"\r\n\r\n") {
                let text = String::from_utf8(std::mem::take(&mut request)).unwrap();
                let path = text.split(' ').nth(1).unwrap().replace("/old/", "/new/");
                if stream.write_all(answer(&path).as_bytes()).is_err() {
                    return;
                }
            }
        }
    };
    let accept = move || {
        let threads: Vec<_> = (0..connections)
            .map(|_| {
                let (stream, _) = listener.accept().unwrap();
                std::thread::spawn(move || serve(stream))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    };
    (address, std::thread::spawn(accept))
}

fn target(address: SocketAddr) -> Target<'static> {
    Target { address, netns: None, rewrites: true }
}

#[test]
fn right_responses_are_counted_by_server() {
    let (address, server) = server(4, |path| response(200, &body(1 + path.len() % 2, path)));
    let verified = verify(target(address), 4, 40).unwrap();
    server.join().unwrap();
    assert_eq!((verified.requests, verified.failed, verified.first), (40, 0, None));
    assert_eq!(verified.by_server.iter().sum::<u64>(), 40);
}

#[test]
fn a_wrong_response_is_counted_and_told() {
    // A connection that brought something wrong is not used again.
    let (address, server) = server(5, |path| {
        let wrong = path.ends_with("4/1");
        response(200, &body(1, if wrong { "/new/9/9" } else { path }))
    });
    let verified = verify(target(address), 4, 12).unwrap();
    server.join().unwrap();
    assert_eq!((verified.requests, verified.failed), (12, 1));
    assert!(verified.first.unwrap().contains("begin with `1 /new/9/9`"));
}

#[test]
fn a_server_without_its_turn_is_seen() {
    let mut verified = Verified { requests: 200, by_server: [100, 100], ..Verified::default() };
    assert!(verified.is_balanced());
    verified.by_server = [190, 10];
    assert!(!verified.is_balanced());
    verified.by_server = [9, 0];
    assert!(verified.is_balanced(), "too few to tell");
}
