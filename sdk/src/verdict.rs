//! What a function decides about a packet.

use serde::{Deserialize, Serialize};

/// What happens to a packet after a function. The manager executes it and checks it against the manifest's edges; a
/// function never names a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next hop in the packet's direction, or out at the chain's end. The manager owns it again.
    Next,
    /// The buffer is freed and counted under the reason.
    Drop(DropReason),
    /// Back through the hops already passed, out of the port it came from.
    Reply,
    /// Leaves the chain by this port; turns round if that port lies behind the packet.
    Port(Port),
    /// To what the manifest connects with this named output.
    Output(Output),
    /// A copy to each port of the chain but the one it came from.
    Flood,
    /// Stays with the function, see [`crate::Packet::hold`].
    Hold,
}

impl Verdict {
    /// The two descriptor fields (verdict, argument) that carry it.
    #[inline]
    pub fn encode(self) -> (u8, u16) {
        match self {
            Self::Next => (0, 0),
            Self::Drop(reason) => (1, reason.0),
            Self::Reply => (2, 0),
            Self::Port(port) => (3, u16::from(port.0)),
            Self::Output(output) => (4, u16::from(output.0)),
            Self::Flood => (5, 0),
            Self::Hold => (6, 0),
        }
    }

    /// The verdict that a descriptor carries; `None` where a peer wrote nonsense.
    #[inline]
    pub fn decode(verdict: u8, argument: u16) -> Option<Self> {
        Some(match verdict {
            0 => Self::Next,
            1 => Self::Drop(DropReason(argument)),
            2 => Self::Reply,
            3 => Self::Port(Port(u8::try_from(argument).ok()?)),
            4 => Self::Output(Output(u8::try_from(argument).ok()?)),
            5 => Self::Flood,
            6 => Self::Hold,
            _ => return None,
        })
    }
}

/// A port of the chain, from [`crate::Init::port`] or [`crate::Packet::ingress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(pub u8);

/// A named output of a function, from [`crate::Init::output`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Output(pub u8);

/// Why a packet was dropped. The common reasons are constants; a function declares its own with
/// [`crate::Init::drop_reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DropReason(pub u16);

/// Name and meaning of a drop reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropReasonInfo {
    /// Kebab-case name, as shown by `middlenet drops`.
    pub name: String,
    /// One line that says what it means.
    pub help: String,
}

macro_rules! reasons {
    ($($(#[doc = $help:literal])+ $constant:ident = $number:literal, $name:literal;)*) => {
        impl DropReason {
            $($(#[doc = $help])+ pub const $constant: Self = Self($number);)*

            /// The reasons every function shares, in order of their numbers.
            pub const COMMON: &'static [(Self, &'static str, &'static str)] =
                &[$((Self($number), $name, concat!($($help),+))),*];
        }
    };
}

reasons! {
    /// no reason given
    UNSPECIFIED = 0, "unspecified";
    /// truncated, inconsistent lengths, or a header no parser accepts
    MALFORMED = 1, "malformed";
    /// a checksum that does not fit its bytes
    BAD_CHECKSUM = 2, "bad-checksum";
    /// a protocol this function does not handle
    UNSUPPORTED = 3, "unsupported";
    /// TTL or hop limit used up
    TTL_EXPIRED = 4, "ttl-expired";
    /// no route to the destination
    NO_ROUTE = 5, "no-route";
    /// the next hop's link address is not known
    NO_NEIGHBOUR = 6, "no-neighbour";
    /// refused by a rule
    DENIED = 7, "denied";
    /// over the configured rate
    RATE_EXCEEDED = 8, "rate-exceeded";
    /// a table is full
    TABLE_FULL = 9, "table-full";
    /// no buffer, or no room in it
    NO_BUFFER = 10, "no-buffer";
    /// addressed to this host and consumed by the function
    CONSUMED = 11, "consumed";
    /// larger than the egress port's MTU
    TOO_BIG = 12, "too-big";
    /// held by the function, then forgotten
    ABANDONED = 13, "abandoned";
}

impl DropReason {
    /// The first number that [`crate::Init::drop_reason`] gives out.
    pub const FIRST_OWN: u16 = 32;
    /// Reasons per function, the common ones included.
    pub const LIMIT: u16 = 64;
}
