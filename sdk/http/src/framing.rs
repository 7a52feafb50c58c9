//! How a body is delimited (RFC 9112 6.3), and what else the header lines say about the message and its connection.

use crate::{HeaderSpan, Known, MAX_CONNECTION_OPTIONS, Reject, Span, authority, scan};

/// How the body after a head is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Framing {
    /// There is no body.
    #[default]
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks, the last of which is empty, and perhaps trailers.
    Chunked,
    /// Everything until the peer closes; responses only.
    UntilClose,
}

impl Framing {
    /// Whether there is no byte of body to read or write: none, or a length of 0.
    pub const fn is_empty(self) -> bool {
        matches!(self, Framing::None | Framing::Length(0))
    }
}

/// What the header lines of a head say, gathered as they are parsed.
#[derive(Default)]
pub(crate) struct Fields {
    pub(crate) content_length: Option<u64>,
    pub(crate) chunked: bool,
    pub(crate) host: Option<Span>,
    close: bool,
    keep_alive: bool,
    upgrade_option: bool,
    upgrades: u8,
    upgrade_refused: bool,
    pub(crate) expects_continue: bool,
    options: usize,
    request: bool,
}

impl Fields {
    pub(crate) fn of_request() -> Fields {
        Fields { request: true, ..Fields::default() }
    }

    pub(crate) fn of_response() -> Fields {
        Fields::default()
    }

    /// Takes one header into account. Errors: all that concern the meaning of a single header, or of a pair of them.
    #[inline]
    pub(crate) fn note(&mut self, header: HeaderSpan, bytes: &[u8]) -> Result<(), Reject> {
        // The names that matter here have the low numbers; most headers have others.
        if header.known == Known::Other as u8 || header.known > Known::Expect as u8 {
            return Ok(());
        }
        let value = header.value(bytes).unwrap_or_default();
        match header.known() {
            Known::Host if self.request => self.host(value, header.value_span()),
            Known::Connection => self.connection(value),
            Known::ContentLength => self.content_length(value),
            Known::TransferEncoding => self.transfer_encoding(value),
            Known::Upgrade => {
                self.upgrades = self.upgrades.saturating_add(1);
                // A single protocol, and not the one in which requests would no longer be seen.
                self.upgrade_refused |= value.contains(&b',') || value.is_empty() || is_h2c(value);
                Ok(())
            }
            Known::Expect if self.request => {
                self.expects_continue = value.eq_ignore_ascii_case(b"100-continue");
                if self.expects_continue { Ok(()) } else { Err(Reject::ExpectationUnknown) }
            }
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &[u8], span: Span) -> Result<(), Reject> {
        if self.host.is_some() {
            return Err(Reject::RepeatedHost);
        }
        if !authority::is_host(value) {
            return Err(Reject::BadHost);
        }
        self.host = Some(span);
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) -> Result<(), Reject> {
        for option in scan::list(value) {
            self.options += 1;
            match option.len() {
                5 => self.close |= option.eq_ignore_ascii_case(b"close"),
                7 => self.upgrade_option |= option.eq_ignore_ascii_case(b"upgrade"),
                10 => self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive"),
                _ => {}
            }
        }
        if self.options > MAX_CONNECTION_OPTIONS { Err(Reject::TooManyConnectionOptions) } else { Ok(()) }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Reject> {
        if self.chunked {
            return Err(Reject::LengthAndEncoding);
        }
        if self.content_length.is_some() {
            return Err(Reject::RepeatedContentLength);
        }
        self.content_length = Some(decimal(value).ok_or(Reject::BadContentLength)?);
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Reject> {
        if self.content_length.is_some() {
            return Err(Reject::LengthAndEncoding);
        }
        if self.chunked {
            return Err(Reject::RepeatedTransferEncoding);
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(not_only_chunked(value));
        }
        self.chunked = true;
        Ok(())
    }

    /// Whether the connection outlives the message, as far as the head says (RFC 9112 9.3).
    pub(crate) fn keeps_alive(&self, minor: u8) -> bool {
        !self.close && (minor >= 1 || self.keep_alive)
    }

    /// Whether the head asks for, or agrees to, another protocol (RFC 9110 7.8) that may be let through.
    pub(crate) fn upgrades(&self, minor: u8) -> bool {
        minor >= 1 && self.upgrade_option && self.upgrades == 1 && !self.upgrade_refused
    }
}

/// `h2c`, perhaps with a version.
fn is_h2c(value: &[u8]) -> bool {
    let name = value.split(|&byte| byte == b'/').next().unwrap_or_default();
    name.eq_ignore_ascii_case(b"h2c")
}

/// Digits only: no sign, no space, no list (RFC 9110 8.6).
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { number.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

/// RFC 9112 6.1 and 6.3: a coding that is not known is 501; a list that does not end in chunked, or applies it twice, cannot
/// be delimited and is 400.
#[cold]
fn not_only_chunked(value: &[u8]) -> Reject {
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let last = scan::trim(value.rsplit(|&byte| byte == b',').next().unwrap_or_default());
    let members = scan::list(value).count();
    if is_chunked(last) && members > 1 && scan::list(value).filter(|coding| is_chunked(coding)).count() == 1 {
        Reject::TransferCodingUnsupported
    } else {
        Reject::BadTransferEncoding
    }
}
