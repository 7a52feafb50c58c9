//! The load by HTTP: a GET whose answer is a number, or JSON that has one.

use middlenet_sdk::http::{BodyReader, BodyStep, Limits, MAX_HEADERS, Method, ResponseHead, parse_response};
use serde::Deserialize;
use serde_json::Value;
use std::net::SocketAddr;

/// An answer is small.
const MAX_BODY_BYTES: u64 = 16 << 10;
const MAX_PATH_BYTES: usize = 1024;

/// The load by HTTP.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpLoad {
    /// The port asked at.
    pub port: u16,
    /// The path.
    #[serde(default = "path")]
    pub path: String,
    /// Where in a JSON answer the number is (RFC 6901): `/cpu/load`. Without it, the answer is the number.
    #[serde(default)]
    pub field: Option<String>,
    /// What the number is divided by to make a load from 0 to 1: 100 for percent.
    #[serde(default = "scale")]
    pub scale: f64,
}

fn path() -> String {
    "/load".into()
}

const fn scale() -> f64 {
    1.0
}

impl HttpLoad {
    /// What is wrong with it, if anything.
    pub(in super::super) fn problem(&self) -> Option<String> {
        let is_plain = |b: u8| (0x21..0x7f).contains(&b) && b != b'#';
        if !self.path.starts_with('/') || !self.path.bytes().all(is_plain) || self.path.len() > MAX_PATH_BYTES {
            return Some(format!("`path: {}` is no path of a request", self.path));
        }
        if self.field.as_ref().is_some_and(|field| !field.is_empty() && !field.starts_with('/')) {
            return Some("`field` does not begin with `/`".into());
        }
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return Some("`scale` is not above 0".into());
        }
        (self.port == 0).then(|| "`port` of `http` is 0".into())
    }

    /// The load, from 0 to 1, that a body tells.
    fn load(&self, body: &[u8]) -> Option<f64> {
        let value: Value = serde_json::from_slice(body.trim_ascii()).ok()?;
        let number = match &self.field {
            Some(field) => value.pointer(field)?.as_f64()?,
            None => value.as_f64()?,
        };
        let load = number / self.scale;
        (load.is_finite() && load >= 0.0).then_some(load.min(1.0))
    }
}

/// One request and its answer, without input and output.
#[derive(Debug)]
pub(in super::super) struct Exchange {
    request: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
}

impl Exchange {
    /// A request to a server.
    pub(in super::super) fn new(load: &HttpLoad, server: SocketAddr) -> Self {
        let request =
            format!("GET {} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nAccept: */*\r\n\r\n", load.path);
        Self { request: request.into_bytes(), sent: 0, received: Vec::new() }
    }

    /// What is still to be sent.
    pub(in super::super) fn to_send(&self) -> &[u8] {
        &self.request[self.sent..]
    }

    /// So much of it was sent.
    pub(in super::super) fn sent(&mut self, bytes: usize) {
        self.sent = (self.sent + bytes).min(self.request.len());
    }

    /// Bytes that came; nothing once the server has closed. The load if the answer is whole, an error if it never will be.
    pub(in super::super) fn received(&mut self, load: &HttpLoad, bytes: &[u8]) -> Result<Option<f64>, ()> {
        self.received.extend_from_slice(bytes);
        let limits = Limits { body_bytes: MAX_BODY_BYTES, ..Limits::default() };
        if self.received.len() as u64 > MAX_BODY_BYTES + limits.head_bytes as u64 {
            return Err(());
        }
        let is_over = bytes.is_empty();
        let need = || if is_over { Err(()) } else { Ok(None) };
        let mut spans = [Default::default(); MAX_HEADERS];
        let parsed = parse_response(&self.received, Method::Get, &limits, &mut spans).map_err(|_| ())?;
        let Some(head) = parsed else { return need() };
        if head.status != 200 {
            return Err(());
        }
        match self.body(&head, &limits, is_over)? {
            Some(body) => load.load(&body).map(Some).ok_or(()),
            None => need(),
        }
    }

    fn body(&self, head: &ResponseHead, limits: &Limits, is_over: bool) -> Result<Option<Vec<u8>>, ()> {
        let mut reader = BodyReader::new(head.framing, limits);
        let (mut at, mut body) = (usize::from(head.length), Vec::new());
        loop {
            match reader.next(&self.received[at..]).map_err(|_| ())? {
                BodyStep::Data { start, length } => {
                    body.extend_from_slice(&self.received[at + start..at + start + length]);
                    at += start + length;
                }
                BodyStep::End { .. } => return Ok(Some(body)),
                BodyStep::Need { .. } if is_over => return Ok(reader.end_of_stream().is_ok().then_some(body)),
                BodyStep::Need { .. } => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by(field: Option<&str>, scale: f64) -> HttpLoad {
        HttpLoad { port: 80, path: "/load".into(), field: field.map(str::to_owned), scale }
    }

    fn answer(load: &HttpLoad, parts: &[&[u8]]) -> Result<Option<f64>, ()> {
        let mut exchange = Exchange::new(load, "10.0.0.1:80".parse().unwrap());
        parts.iter().map(|part| exchange.received(load, part)).find(|result| *result != Ok(None)).unwrap_or(Ok(None))
    }

    #[test]
    fn a_request_names_the_server() {
        let mut exchange = Exchange::new(&by(None, 1.0), "[2001:db8::1]:80".parse().unwrap());
        assert!(exchange.to_send().starts_with(b"GET /load HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n"));
        let length = exchange.to_send().len();
        exchange.sent(10);
        assert_eq!(exchange.to_send().len(), length - 10);
    }

    #[test]
    fn numbers_come_by_any_framing() {
        let plain = by(None, 1.0);
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n0.25\n";
        assert_eq!(answer(&plain, &[whole]), Ok(Some(0.25)));
        assert_eq!(answer(&plain, &[&whole[..10], &whole[10..40], &whole[40..]]), Ok(Some(0.25)));
        assert_eq!(answer(&plain, &[b"HTTP/1.0 200 OK\r\n\r\n0.5", b""]), Ok(Some(0.5)));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n0.\r\n1\r\n5\r\n0\r\n\r\n";
        assert_eq!(answer(&plain, &[chunked]), Ok(Some(0.5)));
        let json = br#"HTTP/1.1 200 OK
Content-Length: 20

{"cpu":{"load":150}}"#;
        let json = String::from_utf8_lossy(json).replace('\n', "\r\n");
        assert_eq!(answer(&by(Some("/cpu/load"), 100.0), &[json.as_bytes()]), Ok(Some(1.0)));
    }

    #[test]
    fn what_is_no_load_is_a_failure() {
        let plain = by(None, 1.0);
        for bad in [
            &b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbusy",
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n-0.5",
            b"SSH-2.0-OpenSSH\r\n\r\n",
        ] {
            assert_eq!(answer(&plain, &[bad]), Err(()));
        }
        assert_eq!(answer(&plain, &[b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n0.5", b""]), Err(()));
        assert_eq!(answer(&plain, &[b""]), Err(()));
    }

    #[test]
    fn settings_that_make_no_sense_are_told() {
        assert!(by(None, 0.0).problem().is_some());
        assert!(by(Some("load"), 1.0).problem().is_some());
        assert!(HttpLoad { path: "/a b".into(), ..by(None, 1.0) }.problem().is_some());
        assert!(by(Some("/load"), 1.0).problem().is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..5)) {
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let _ = answer(&by(None, 1.0), &parts);
        }
    }
}
