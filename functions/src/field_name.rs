//! Names of headers and cookies in configurations.

use middlenet_sdk::ConfigError;
use middlenet_sdk::http::{Known, KnownSet};

/// What decides where a message ends or how long a connection lasts: the broker writes these itself.
const FRAMING: KnownSet = KnownSet::HOP_BY_HOP.with(Known::ContentLength).with(Known::Expect);

/// Whether headers of that name are the broker's.
pub(crate) fn is_framing(name: &[u8]) -> bool {
    FRAMING.contains(Known::classify(name))
}

/// Checks the name of a header or cookie (a token, RFC 9110 5.6.2). `what` names the option in the error.
pub(crate) fn check(what: &str, name: &str) -> Result<(), ConfigError> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > 255 || !name.bytes().all(is_token) {
        return Err(ConfigError::new(format!("{what}: `{name}` is no name"))
            .with_hint("a name has letters, digits and `-`, and at most 255 of them"));
    }
    Ok(())
}

/// Checks the name of a header that is to be changed.
pub(crate) fn check_editable(what: &str, name: &str) -> Result<(), ConfigError> {
    check(what, name)?;
    if is_framing(name.as_bytes()) {
        return Err(ConfigError::new(format!("{what}: `{name}` is written by the broker and cannot be changed"))
            .with_hint("it says where a message ends or how long a connection lasts"));
    }
    Ok(())
}
