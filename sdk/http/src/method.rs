//! Request methods (RFC 9110 9).

/// A request method. Methods are case-sensitive: `get` is [`Method::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Method {
    /// `GET`.
    #[default]
    Get,
    /// `HEAD`: its response has no body, whatever its head says.
    Head,
    /// `POST`.
    Post,
    /// `PUT`.
    Put,
    /// `DELETE`.
    Delete,
    /// `OPTIONS`.
    Options,
    /// `PATCH`.
    Patch,
    /// `TRACE`.
    Trace,
    /// `CONNECT`: asks for a tunnel, which is refused unless somebody decides otherwise.
    Connect,
    /// Any other token.
    Other,
}

impl Method {
    /// The method that `token` is.
    #[inline]
    pub fn classify(token: &[u8]) -> Method {
        match token {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"PATCH" => Method::Patch,
            b"TRACE" => Method::Trace,
            b"CONNECT" => Method::Connect,
            _ => Method::Other,
        }
    }

    /// The method of that number, as `as u8` gives it; [`Method::Other`] for a number that is none.
    #[inline]
    pub fn from_u8(number: u8) -> Method {
        use Method::*;
        const ALL: [Method; 10] = [Get, Head, Post, Put, Delete, Options, Patch, Trace, Connect, Other];
        ALL.get(usize::from(number)).copied().unwrap_or(Other)
    }

    /// Whether a request may be sent a second time because it asks for no change (RFC 9110 9.2.1). False for unknown methods.
    pub const fn is_safe(self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Options | Method::Trace)
    }

    /// Whether sending it twice has the effect of sending it once (RFC 9110 9.2.2). False for unknown methods.
    pub const fn is_idempotent(self) -> bool {
        self.is_safe() || matches!(self, Method::Put | Method::Delete)
    }
}
