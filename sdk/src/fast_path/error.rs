//! What can hinder rules.

use std::io;

use middlenet_fast_path::MapKind;

use crate::ConfigError;

/// Why rules are not in the fast path.
#[derive(Debug, thiserror::Error)]
pub enum FastPathError {
    /// The shape is too small.
    #[error("the fast path has room for {most} {what}, not for {count}")]
    TooMany {
        /// Rules, prefixes, slots.
        what: &'static str,
        /// How many there should be.
        count: usize,
        /// How many there can be.
        most: u32,
    },
    /// A prefix, port or slot names a rule that is not there.
    #[error("rule {rule} is named, but there are {rules} rules, from 0 on")]
    NoRule {
        /// Which.
        rule: u32,
        /// How many there are.
        rules: usize,
    },
    /// Ports are those of TCP and UDP.
    #[error("protocol {0} has no ports that a fast path looks at, only 6 (TCP) and 17 (UDP) have")]
    Protocol(u8),
    /// Slots still name rules of earlier tables.
    #[error(
        "slots name so many rules of earlier tables that there is no room for others: set the slots after each change of the rules"
    )]
    NumbersInUse,
    /// The runtime has not passed what the shape asks for.
    #[error("the fast path has no map for {0:?}")]
    Missing(MapKind),
    /// The kernel refused.
    #[error("the fast path's map for {kind:?} cannot be used: {source}")]
    Map {
        /// Which.
        kind: MapKind,
        /// What the kernel said.
        source: io::Error,
    },
}

impl FastPathError {
    pub(super) fn map(kind: MapKind) -> impl Fn(io::Error) -> Self {
        move |source| Self::Map { kind, source }
    }
}

impl From<FastPathError> for ConfigError {
    fn from(error: FastPathError) -> Self {
        Self::new(error.to_string())
    }
}
