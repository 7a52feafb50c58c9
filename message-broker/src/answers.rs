//! Answers that no upstream gave: errors of the broker's own, and what functions answer.

use middlenet_http::{Egress, Framing, Method, write_response_head};
use middlenet_sdk::middlebox::flag;

use crate::session::{End, Session};
use crate::worker::Worker;

/// The reason phrase of a status that the broker sends.
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

/// Appends a whole response with a body of plain text, left out for HEAD.
pub(crate) fn write(out: &mut Vec<u8>, status: u16, body: &str, close: bool, minor: u8, method: Method) {
    use std::io::Write;
    let connection = match (close, minor) {
        (true, _) => "connection: close\r\n",
        (false, 0) => "connection: keep-alive\r\n",
        (false, _) => "",
    };
    let retry = if status == 503 { "retry-after: 1\r\n" } else { "" };
    // A vector takes everything.
    let _ = write!(
        out,
        "HTTP/1.1 {status} {}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n{retry}{connection}\r\n",
        reason(status),
        body.len()
    );
    if method != Method::Head {
        out.extend_from_slice(body.as_bytes());
    }
}

impl Worker {
    /// A function's own answer goes to the client.
    pub(crate) fn answer_of_function(&mut self, s: &mut Session, index: u32) {
        let (header, body) = self.pool.with(index, |m| {
            let header = *m.header();
            (header, m.span(header.body).len())
        });
        self.release_conn(s, false);
        if s.exchange.answering || header.flags & flag::ANSWER == 0 {
            self.end(s, End::Failed("function-verdict"));
            return self.close(s);
        }
        // Who waits for a 100 may leave its body out after this, or not (RFC 9110 10.1.1): what comes next is no one's guess.
        let in_doubt = s.exchange.expects_continue && !s.exchange.request_body.is_done();
        s.closing |= !s.exchange.keep_alive || in_doubt || self.stopping.is_some();
        let status = if (200..600).contains(&header.status) { header.status } else { 500 };
        let bodiless = matches!(status, 204 | 304);
        let length = body as u64;
        let egress = Egress {
            framing: if bodiless { Framing::None } else { Framing::Length(length) },
            close: s.closing,
            keep_alive_explicit: s.exchange.minor == 0 && !s.closing,
            ..Egress::default()
        };
        let (head_out, head_only) = (&mut self.head_out, s.exchange.method == Method::Head);
        head_out.clear();
        let written = self.pool.with(index, |m| {
            let reason = reason(status).as_bytes();
            write_response_head(head_out, 1, status, reason, m.headers(), &egress)?;
            if !bodiless && !head_only {
                head_out.extend_from_slice(m.span(header.body));
            }
            Ok::<_, middlenet_http::BadHead>(())
        });
        if let Err(bad) = written {
            return self.fail(s, 502, bad.reason());
        }
        self.send_answer(s, status);
        self.end(s, End::Answered);
        self.after_response(s);
    }
}
