//! Answers of the broker's own: errors.

use middlenet_http::Method;

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
