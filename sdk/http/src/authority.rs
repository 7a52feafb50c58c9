//! Host and port (RFC 9110 7.2, RFC 3986 3.2).
//!
//! Stricter than RFC 3986: a host is letters, digits, `-`, `.`, `_` and `~`, or an address in brackets. Percent-encoding and
//! sub-delimiters are refused, for no host that resolves has them, and two parsers may split `a,b` or `a%40b` in two ways.

/// The authority of a target in absolute form (RFC 9112 3.2.2), such as `example.com:8080` of `http://example.com:8080/a`;
/// `None` for any other form.
pub fn authority_of(target: &[u8]) -> Option<&[u8]> {
    split_absolute(target).map(|(_, authority, _)| authority)
}

/// Scheme, authority, and path with query of a target in absolute form. Only `http` and `https`.
pub(crate) fn split_absolute(target: &[u8]) -> Option<(Scheme, &[u8], &[u8])> {
    let strip = |prefix: &[u8]| {
        target
            .split_at_checked(prefix.len())
            .filter(|(front, _)| front.eq_ignore_ascii_case(prefix))
            .map(|(_, rest)| rest)
    };
    let (scheme, rest) = strip(b"http://")
        .map(|rest| (Scheme::Http, rest))
        .or_else(|| strip(b"https://").map(|r| (Scheme::Https, r)))?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    Some((scheme, authority, path))
}

/// The schemes of a target in absolute form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn port(self) -> &'static [u8] {
        match self {
            Scheme::Http => b"80",
            Scheme::Https => b"443",
        }
    }
}

/// Whether `value` is a host with an optional port.
#[inline]
pub(crate) fn is_host(value: &[u8]) -> bool {
    let (host, port) = split_port(value);
    let host_good = match host {
        [b'[', address @ .., b']'] => is_ipv6(address),
        _ => {
            !host.is_empty() && host.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'))
        }
    };
    host_good && port.is_none_or(is_port)
}

#[cold]
fn is_ipv6(address: &[u8]) -> bool {
    std::str::from_utf8(address).is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
}

fn is_port(port: &[u8]) -> bool {
    (1..=5).contains(&port.len())
        && port.iter().all(u8::is_ascii_digit)
        && port.iter().fold(0u32, |number, byte| number * 10 + u32::from(byte - b'0')) <= 65_535
}

/// The part before the last colon that is not inside brackets, and the part behind it.
fn split_port(value: &[u8]) -> (&[u8], Option<&[u8]>) {
    match value.iter().rposition(|&byte| byte == b':') {
        Some(colon) if !value[colon..].contains(&b']') => (&value[..colon], Some(&value[colon + 1..])),
        _ => (value, None),
    }
}

/// Whether two hosts with optional ports are the same: names without regard to case, an absent port as `default_port`, such
/// as `80`.
pub fn same_host(one: &[u8], other: &[u8], default_port: &[u8]) -> bool {
    let (host, port) = split_port(one);
    let (other_host, other_port) = split_port(other);
    host.eq_ignore_ascii_case(other_host) && port.unwrap_or(default_port) == other_port.unwrap_or(default_port)
}

/// Whether the authority of an absolute target and a `Host` agree.
pub(crate) fn agrees(scheme: Scheme, authority: &[u8], host: &[u8]) -> bool {
    same_host(authority, host, scheme.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in ["a", "example.com", "a_b.c-d:80", "127.0.0.1:65535", "[::1]", "[2001:db8::1]:8080", "xn--4ca"] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a:",
            "a:65536",
            "a:123456",
            "a:8o",
            "a:+1",
            "a b",
            "a,b",
            "u@a",
            "a/b",
            "a?b",
            "a%40b",
            "[::1",
            "::1",
            "[]",
            "[g::1]",
            "[::1]a",
            "[::1]:",
            "a:80:80",
            "a\u{e4}",
            "[fe80::1%25eth0]",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn the_same_host() {
        assert!(same_host(b"A.example", b"a.EXAMPLE:80", b"80"));
        assert!(!same_host(b"a.example:8080", b"a.example", b"80"));
        assert!(same_host(b"[::1]", b"[::1]:443", b"443"));
    }

    #[test]
    fn authorities() {
        assert_eq!(authority_of(b"HTTP://a:1/b"), Some(&b"a:1"[..]));
        assert_eq!(authority_of(b"https://a?b"), Some(&b"a"[..]));
        assert_eq!(authority_of(b"/a://b"), None);
        assert_eq!(authority_of(b"ftp://a/"), None);
    }
}
