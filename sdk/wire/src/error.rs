//! Why bytes are not the packet they claim to be.

use thiserror::Error;

/// Why a packet could not be read, changed or written.
///
/// Each variant is fit to be a drop reason: it is `Copy`, and [`reason`](WireError::reason) gives a short stable key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum WireError {
    /// The bytes end before the header, or before the length the header states.
    #[error("the bytes end before the header or the length it states")]
    Truncated,
    /// The IP version, or the hardware and protocol type of ARP, is not the one this view reads.
    #[error("the version or address type is not the expected one")]
    BadVersion,
    /// A length field contradicts another one, or is below the header's minimum.
    #[error("a length field contradicts the header")]
    BadLength,
    /// A field holds a value that the protocol forbids.
    #[error("a field holds a value that the protocol forbids")]
    BadField,
    /// A checksum does not match.
    #[error("a checksum does not match")]
    BadChecksum,
    /// More VLAN tags than [`MAX_VLAN_TAGS`](crate::vlan::MAX_VLAN_TAGS).
    #[error("too many VLAN tags")]
    TooManyTags,
    /// More IPv6 extension headers than [`MAX_EXTENSION_HEADERS`](crate::ipv6::MAX_EXTENSION_HEADERS).
    #[error("too many IPv6 extension headers")]
    TooManyExtensions,
    /// An IPv6 extension header stands where it must not (RFC 8200 section 4.1).
    #[error("an IPv6 extension header stands in the wrong place")]
    BadExtension,
    /// The packet holds another protocol than the one asked for, or, being a later fragment, no such header.
    #[error("the packet does not hold the header asked for")]
    WrongProtocol,
    /// The change asked for has no meaning on this packet, for example an IPv6 address in an IPv4 header.
    #[error("the change asked for has no meaning on this packet")]
    Unsupported,
    /// The buffer to write to is too small.
    #[error("the buffer to write to is too small")]
    NoSpace,
}

impl WireError {
    /// Every variant, in the order of [`index`](WireError::index).
    pub const ALL: [WireError; 11] = [
        WireError::Truncated,
        WireError::BadVersion,
        WireError::BadLength,
        WireError::BadField,
        WireError::BadChecksum,
        WireError::TooManyTags,
        WireError::TooManyExtensions,
        WireError::BadExtension,
        WireError::WrongProtocol,
        WireError::Unsupported,
        WireError::NoSpace,
    ];

    /// The position in [`ALL`](WireError::ALL): fit to index an array of counters.
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// A short stable key in `snake_case`, fit for a metric label.
    pub const fn reason(self) -> &'static str {
        match self {
            WireError::Truncated => "truncated",
            WireError::BadVersion => "bad_version",
            WireError::BadLength => "bad_length",
            WireError::BadField => "bad_field",
            WireError::BadChecksum => "bad_checksum",
            WireError::TooManyTags => "too_many_tags",
            WireError::TooManyExtensions => "too_many_extensions",
            WireError::BadExtension => "bad_extension",
            WireError::WrongProtocol => "wrong_protocol",
            WireError::Unsupported => "unsupported",
            WireError::NoSpace => "no_space",
        }
    }
}
