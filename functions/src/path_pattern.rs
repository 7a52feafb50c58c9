//! Regular expressions over paths and header values, as configurations write them.

use regex::bytes::{Regex, RegexBuilder};

/// Bytes that a compiled pattern takes at most.
const PATTERN_BYTES: usize = 1 << 20;

/// A pattern over bytes, without Unicode tables: a target is ASCII.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(pattern);
    builder.unicode(false).size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES).build().map_err(|e| e.to_string())
}

/// What every match of an anchored pattern begins with, as far as it is plain to see; empty if in doubt.
pub(crate) fn literal_prefix(pattern: &str) -> &[u8] {
    let Some(rest) = pattern.strip_prefix('^') else { return &[] };
    if pattern.contains('|') {
        return &[];
    }
    let rest = rest.as_bytes();
    let plain =
        rest.iter().position(|b| !(b.is_ascii_alphanumeric() || b"/-_~=&%!@,;:".contains(b))).unwrap_or(rest.len());
    // A quantifier after the last of them may take it away, and so may one after a `+`.
    let may_be_none = match rest.get(plain) {
        Some(b'*' | b'?' | b'{') => true,
        Some(b'+') => matches!(rest.get(plain + 1), Some(b'*' | b'?' | b'{' | b'+')),
        _ => false,
    };
    let end = if may_be_none { plain.saturating_sub(1) } else { plain };
    &rest[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn beginnings() {
        for (pattern, beginning) in [
            ("^/old/(.*)$", "/old/"),
            ("^/ab*", "/a"),
            ("^/ab+c", "/ab"),
            ("^/2+*", "/"),
            ("^/a|^/b", ""),
            ("/a", ""),
            ("^/a\\.b", "/a"),
            ("^(?i)/a", ""),
        ] {
            assert_eq!(literal_prefix(pattern), beginning.as_bytes(), "{pattern}");
        }
    }

    proptest! {
        /// The check for a literal beginning never hides a match.
        #[test]
        fn every_match_has_the_beginning(pattern in "\\^?/[ab.?*+()|\\[\\]{}2]{0,6}", path in "/[ab]{0,6}") {
            if let Ok(regex) = compile(&pattern) && regex.is_match(path.as_bytes()) {
                prop_assert!(path.as_bytes().starts_with(literal_prefix(&pattern)), "{} {}", pattern, path);
            }
        }
    }
}
