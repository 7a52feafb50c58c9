//! Values of headers with variables in them, as `header-edit` and `reverse-proxy` write them.

use crate::field_name;
use middlenet_sdk::ConfigError;
use middlenet_sdk::middlebox::{Context, Request, Response};
use std::io::Write as _;

/// A value: text and variables.
#[derive(Debug)]
pub(crate) struct HeaderText {
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Text(Box<[u8]>),
    ClientIp,
    ClientPort,
    Host,
    Path,
    RequestId,
    Header(String),
}

/// Which head the value is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    Response,
}

/// A head that variables look at.
pub(crate) trait Head {
    fn host(&self) -> Option<&[u8]>;
    fn path(&self) -> Option<&[u8]>;
    fn header(&self, name: &str) -> Option<&[u8]>;
}

impl Head for Request<'_> {
    fn host(&self) -> Option<&[u8]> {
        Request::host(self)
    }

    fn path(&self) -> Option<&[u8]> {
        Some(Request::path(self))
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        Request::header(self, name)
    }
}

impl Head for Response<'_> {
    fn host(&self) -> Option<&[u8]> {
        None
    }

    fn path(&self) -> Option<&[u8]> {
        None
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        Response::header(self, name)
    }
}

impl HeaderText {
    /// Reads a value. `what` names the option in the error.
    pub(crate) fn parse(what: &str, value: &str, side: Side) -> Result<Self, ConfigError> {
        let wrong = |why: String| ConfigError::new(format!("{what}: the value `{}` {why}", value.escape_debug()));
        if value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
            return Err(wrong("has a control byte".into()));
        }
        let (mut pieces, mut text, mut rest) = (Vec::new(), Vec::new(), value);
        while let Some((before, after)) = rest.split_once('$') {
            text.extend_from_slice(before.as_bytes());
            if let Some(after) = after.strip_prefix('$') {
                text.push(b'$');
                rest = after;
                continue;
            }
            let end = after.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(after.len());
            let (name, mut after) = after.split_at(end);
            let piece = match (name, side) {
                ("client_ip", _) => Piece::ClientIp,
                ("client_port", _) => Piece::ClientPort,
                ("request_id", _) => Piece::RequestId,
                ("host", Side::Request) => Piece::Host,
                ("path", Side::Request) => Piece::Path,
                ("header", _) => {
                    let inner = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
                    let (name, behind) =
                        inner.ok_or_else(|| wrong("has `$header` without a name, as in `$header(x-a)`".into()))?;
                    field_name::check(what, name)?;
                    after = behind;
                    Piece::Header(name.to_owned())
                }
                ("host" | "path", Side::Response) => {
                    return Err(wrong(format!("has `${name}`, which a response does not have")));
                }
                _ => {
                    return Err(wrong(format!("has the unknown variable `${name}`")).with_hint(
                        "there are $client_ip, $client_port, $host, $path, $request_id, $header(NAME); $$ is a dollar sign",
                    ));
                }
            };
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text).into()));
            }
            pieces.push(piece);
            rest = after;
        }
        text.extend_from_slice(rest.as_bytes());
        if !text.is_empty() {
            pieces.push(Piece::Text(text.into()));
        }
        Ok(Self { pieces })
    }

    /// The value for this message, without white space at its ends. `room` is written to unless the value is plain text.
    #[inline]
    pub(crate) fn value<'a>(&'a self, head: &impl Head, context: &Context<'_>, room: &'a mut Vec<u8>) -> &'a [u8] {
        if let [Piece::Text(text)] = &self.pieces[..] {
            return text.trim_ascii();
        }
        room.clear();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => room.extend_from_slice(text),
                // Writing to memory does not fail.
                Piece::ClientIp => drop(write!(room, "{}", context.client().ip())),
                Piece::ClientPort => drop(write!(room, "{}", context.client().port())),
                Piece::RequestId => drop(write!(room, "{:016x}", context.request_id())),
                Piece::Host => room.extend_from_slice(head.host().unwrap_or_default()),
                Piece::Path => room.extend_from_slice(head.path().unwrap_or_default()),
                Piece::Header(name) => room.extend_from_slice(head.header(name).unwrap_or_default()),
            }
        }
        room.trim_ascii()
    }
}
