//! The header names that somebody decides by, as numbers.

/// A header name that the framing, the broker or an ordinary function decides by.
///
/// The number is written to shared memory ([`HeaderSpan::known`](crate::HeaderSpan::known)): new names go to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum Known {
    /// Any name without a number.
    Other = 0,
    /// `Host` (RFC 9110 7.2).
    Host,
    /// `Content-Length` (RFC 9110 8.6).
    ContentLength,
    /// `Transfer-Encoding` (RFC 9112 6.1).
    TransferEncoding,
    /// `Connection` (RFC 9110 7.6.1).
    Connection,
    /// `Keep-Alive`, which belongs to one connection.
    KeepAlive,
    /// `Proxy-Connection`, which was never a standard.
    ProxyConnection,
    /// `TE` (RFC 9110 10.1.4).
    Te,
    /// `Trailer` (RFC 9110 6.6.2).
    Trailer,
    /// `Upgrade` (RFC 9110 7.8).
    Upgrade,
    /// `HTTP2-Settings` (RFC 7540 3.2.1), which asks a server behind the proxy to leave HTTP/1.1.
    Http2Settings,
    /// `Expect` (RFC 9110 10.1.1).
    Expect,
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `X-Forwarded-Proto`.
    XForwardedProto,
    /// `X-Forwarded-Host`.
    XForwardedHost,
    /// `X-Forwarded-Port`.
    XForwardedPort,
    /// `X-Real-IP`.
    XRealIp,
    /// `X-Request-ID`.
    XRequestId,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// `Via` (RFC 9110 7.6.3).
    Via,
    /// `Date` (RFC 9110 6.6.1).
    Date,
    /// `Server` (RFC 9110 10.2.4).
    Server,
    /// `User-Agent` (RFC 9110 10.1.5).
    UserAgent,
    /// `Accept` (RFC 9110 12.5.1).
    Accept,
    /// `Accept-Encoding` (RFC 9110 12.5.3).
    AcceptEncoding,
    /// `Authorization` (RFC 9110 11.6.2).
    Authorization,
    /// `Cookie` (RFC 6265 5.4).
    Cookie,
    /// `Set-Cookie` (RFC 6265 4.1).
    SetCookie,
    /// `Content-Type` (RFC 9110 8.3).
    ContentType,
    /// `Content-Encoding` (RFC 9110 8.4).
    ContentEncoding,
    /// `Content-Range` (RFC 9110 14.4).
    ContentRange,
    /// `Range` (RFC 9110 14.2).
    Range,
    /// `Cache-Control` (RFC 9111 5.2).
    CacheControl,
    /// `Vary` (RFC 9110 12.5.5).
    Vary,
    /// `ETag` (RFC 9110 8.8.3).
    Etag,
    /// `Last-Modified` (RFC 9110 8.8.2).
    LastModified,
    /// `Location` (RFC 9110 10.2.2).
    Location,
    /// `Origin` (RFC 6454 7).
    Origin,
    /// `Referer` (RFC 9110 10.1.3).
    Referer,
    /// `Retry-After` (RFC 9110 10.2.3).
    RetryAfter,
    /// `traceparent` (W3C Trace Context).
    Traceparent,
}

use Known::*;

/// Each known name as it is usually written, at the index of its number.
const NAMES: [(Known, &str); 41] = [
    (Other, ""),
    (Host, "Host"),
    (ContentLength, "Content-Length"),
    (TransferEncoding, "Transfer-Encoding"),
    (Connection, "Connection"),
    (KeepAlive, "Keep-Alive"),
    (ProxyConnection, "Proxy-Connection"),
    (Te, "TE"),
    (Trailer, "Trailer"),
    (Upgrade, "Upgrade"),
    (Http2Settings, "HTTP2-Settings"),
    (Expect, "Expect"),
    (XForwardedFor, "X-Forwarded-For"),
    (XForwardedProto, "X-Forwarded-Proto"),
    (XForwardedHost, "X-Forwarded-Host"),
    (XForwardedPort, "X-Forwarded-Port"),
    (XRealIp, "X-Real-IP"),
    (XRequestId, "X-Request-ID"),
    (Forwarded, "Forwarded"),
    (Via, "Via"),
    (Date, "Date"),
    (Server, "Server"),
    (UserAgent, "User-Agent"),
    (Accept, "Accept"),
    (AcceptEncoding, "Accept-Encoding"),
    (Authorization, "Authorization"),
    (Cookie, "Cookie"),
    (SetCookie, "Set-Cookie"),
    (ContentType, "Content-Type"),
    (ContentEncoding, "Content-Encoding"),
    (ContentRange, "Content-Range"),
    (Range, "Range"),
    (CacheControl, "Cache-Control"),
    (Vary, "Vary"),
    (Etag, "ETag"),
    (LastModified, "Last-Modified"),
    (Location, "Location"),
    (Origin, "Origin"),
    (Referer, "Referer"),
    (RetryAfter, "Retry-After"),
    (Traceparent, "traceparent"),
];

const _: () = {
    let mut index = 0;
    while index < NAMES.len() {
        assert!(NAMES[index].0 as usize == index, "a name stands at the index of its number");
        index += 1;
    }
};

impl Known {
    /// How many numbers there are, [`Known::Other`] included.
    pub const COUNT: usize = NAMES.len();

    /// All known names, without [`Known::Other`].
    pub fn all() -> impl Iterator<Item = Known> {
        NAMES.iter().skip(1).map(|(known, _)| *known)
    }

    /// The name as it is usually written; empty for [`Known::Other`].
    #[inline]
    pub const fn name(self) -> &'static str {
        NAMES[self as usize].1
    }

    /// The name with this number; [`Known::Other`] if there is none.
    #[inline]
    pub fn from_u8(number: u8) -> Known {
        NAMES.get(usize::from(number)).map_or(Other, |(known, _)| *known)
    }

    /// Which name `name` is, in upper or lower case. One or two candidates are compared, found by length and one byte.
    #[inline]
    pub fn classify(name: &[u8]) -> Known {
        let Some(first) = name.first() else { return Other };
        let candidate = match (name.len(), first | 0x20) {
            (2, b't') => Te,
            (3, b'v') => Via,
            (4, b'h') => Host,
            (4, b'd') => Date,
            (4, b'v') => Vary,
            (4, b'e') => Etag,
            (5, b'r') => Range,
            (6, b'e') => Expect,
            (6, b's') => Server,
            (6, b'a') => Accept,
            (6, b'c') => Cookie,
            (6, b'o') => Origin,
            (7, b't') => Trailer,
            (7, b'u') => Upgrade,
            (7, b'r') => Referer,
            (8, b'l') => Location,
            (9, b'x') => XRealIp,
            (9, b'f') => Forwarded,
            (10, b'c') => Connection,
            (10, b'k') => KeepAlive,
            (10, b'u') => UserAgent,
            (10, b's') => SetCookie,
            (11, b'r') => RetryAfter,
            (11, b't') => Traceparent,
            (12, b'c') => ContentType,
            (12, b'x') => XRequestId,
            (13, b'a') => Authorization,
            (13, b'l') => LastModified,
            (13, b'c') if name[1] | 0x20 == b'a' => CacheControl,
            (13, b'c') => ContentRange,
            (14, b'c') => ContentLength,
            (14, b'h') => Http2Settings,
            (15, b'x') => XForwardedFor,
            (15, b'a') => AcceptEncoding,
            (16, b'p') => ProxyConnection,
            (16, b'c') => ContentEncoding,
            (16, b'x') if name[12] | 0x20 == b'h' => XForwardedHost,
            (16, b'x') => XForwardedPort,
            (17, b't') => TransferEncoding,
            (17, b'x') => XForwardedProto,
            _ => return Other,
        };
        if name.eq_ignore_ascii_case(candidate.name().as_bytes()) { candidate } else { Other }
    }
}

/// A set of known names; one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct KnownSet(u64);

const _: () = assert!(Known::COUNT <= 64, "a name is a bit of a word");

impl KnownSet {
    /// No name.
    pub const EMPTY: KnownSet = KnownSet(0);

    /// What ends at the next hop (RFC 9110 7.6.1) and is never forwarded: the framing is written anew, and so is what
    /// concerns the connection. `Http2-Settings` is among them, since it would let a client talk past the proxy.
    pub const HOP_BY_HOP: KnownSet =
        KnownSet::of(&[Connection, KeepAlive, ProxyConnection, Te, Trailer, TransferEncoding, Upgrade, Http2Settings]);

    /// The set of `names`. [`Known::Other`] is not a name and is left out.
    pub const fn of(names: &[Known]) -> KnownSet {
        let mut set = KnownSet(0);
        let mut index = 0;
        while index < names.len() {
            set = set.with(names[index]);
            index += 1;
        }
        set
    }

    /// The set and `known`.
    #[inline]
    pub const fn with(self, known: Known) -> KnownSet {
        KnownSet((self.0 | 1 << known as u8) & !1)
    }

    /// Both sets together.
    #[inline]
    pub const fn union(self, other: KnownSet) -> KnownSet {
        KnownSet(self.0 | other.0)
    }

    /// Whether `known` is in the set.
    #[inline]
    pub const fn contains(self, known: Known) -> bool {
        self.0 & 1 << known as u8 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case_and_nothing_else_is() {
        for known in Known::all() {
            assert_eq!(Known::classify(known.name().as_bytes()), known);
            assert_eq!(Known::classify(known.name().to_ascii_uppercase().as_bytes()), known);
            assert_eq!(Known::classify(known.name().to_ascii_lowercase().as_bytes()), known);
            assert_eq!(Known::classify(format!("{}x", known.name()).as_bytes()), Other);
            let mut last = known.name().as_bytes().to_vec();
            *last.last_mut().unwrap() = b'_';
            assert_eq!(Known::classify(&last), Other);
            assert_eq!(Known::from_u8(known as u8), known);
        }
        assert_eq!(Known::classify(b""), Other);
        assert_eq!(Known::from_u8(255), Other);
    }

    #[test]
    fn a_set_has_what_was_put_in() {
        assert!(KnownSet::HOP_BY_HOP.contains(Te) && !KnownSet::HOP_BY_HOP.contains(Host));
        assert!(!KnownSet::of(&[Other]).contains(Other));
        assert!(KnownSet::of(&[Via]).union(KnownSet::of(&[Traceparent])).contains(Traceparent));
    }
}
