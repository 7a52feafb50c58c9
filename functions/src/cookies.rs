//! Cookies of a request (RFC 6265 5.4).

use middlenet_sdk::middlebox::Request;

/// The value of the first cookie of that name, whose case counts.
pub(crate) fn cookie<'r>(request: &'r Request<'_>, name: &str) -> Option<&'r [u8]> {
    let values = request.headers().filter(|(header, _)| header.eq_ignore_ascii_case(b"cookie")).map(|(_, value)| value);
    values.flat_map(|value| value.split(|&b| b == b';')).find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value))
    })
}
