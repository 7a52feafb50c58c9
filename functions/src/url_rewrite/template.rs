//! What takes the place of a path: text with groups in it.

use middlenet_sdk::ConfigError;

/// A parsed `to`.
pub(super) struct Template {
    pieces: Vec<Piece>,
    origin_bytes: usize,
    has_query: bool,
    /// It ends in the question mark that only drops the query.
    drops_query: bool,
}

enum Piece {
    Text(Box<[u8]>),
    Group(usize),
}

impl Template {
    /// Reads `to`. `groups` are the pattern's, by number, with their names if they have one; a redirect may lead to a URL.
    pub(super) fn parse(to: &str, groups: &[Option<String>], redirects: bool) -> Result<Self, ConfigError> {
        let normal = normal(to).ok_or_else(|| {
            ConfigError::new(format!("`to: {to}` has a percent sign that no two hexadecimal digits follow"))
                .with_hint("a percent sign itself is written %25")
        })?;
        let to = normal.as_str();
        let wrong = |what: String| ConfigError::new(format!("`to: {to}` {what}"));
        if let Some(bad) = to.chars().find(|c| !matches!(c, '!'..='~') || matches!(c, '#' | '\\')) {
            return Err(wrong(format!("has {bad:?}, which may not stand in a path")).with_hint("percent-encode it"));
        }
        let (mut pieces, mut text, mut rest) = (Vec::new(), Vec::new(), to);
        while let Some((before, after)) = rest.split_once('$') {
            text.extend_from_slice(before.as_bytes());
            if let Some(after) = after.strip_prefix('$') {
                text.push(b'$');
                rest = after;
                continue;
            }
            let (name, after) = match after.strip_prefix('{') {
                Some(inner) => inner.split_once('}').ok_or_else(|| wrong("has `${` without `}`".into()))?,
                None => {
                    let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                    after.split_at(end)
                }
            };
            let group = match name.parse::<usize>() {
                Ok(number) if number < groups.len() => Some(number),
                _ => groups.iter().position(|group| group.as_deref() == Some(name)),
            };
            let Some(group) = group else {
                return Err(wrong(format!("names the group `{name}`, which `match` does not have")).with_hint(
                    "`$1` is the first group in parentheses, `${1}a` is that and an `a`, `$$` is a dollar sign",
                ));
            };
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text).into()));
            }
            pieces.push(Piece::Group(group));
            rest = after;
        }
        text.extend_from_slice(rest.as_bytes());
        if !text.is_empty() {
            pieces.push(Piece::Text(text.into()));
        }
        let mut template =
            Self { pieces, origin_bytes: 0, has_query: to.contains('?'), drops_query: to.ends_with('?') };
        template.origin_bytes = template.origin(redirects).map_err(wrong)?;
        Ok(template)
    }

    /// Checks how it begins; bytes of scheme and host, zero for a path.
    fn origin(&self, redirects: bool) -> Result<usize, String> {
        let first = match self.pieces.first() {
            Some(Piece::Text(text)) => &text[..],
            // A group may begin with the slash; each result is checked.
            Some(Piece::Group(_)) => return Ok(0),
            None => return Err("is empty".into()),
        };
        if first.starts_with(b"/") {
            return Ok(0);
        }
        let scheme = [&b"http://"[..], b"https://"].into_iter().find(|scheme| first.starts_with(scheme));
        match scheme {
            Some(_) if !redirects => Err("is a URL, and only a redirect can leave this server".into()),
            Some(scheme) => {
                let host = first[scheme.len()..].iter().position(|&b| b == b'/');
                match host {
                    Some(length) if length > 0 => Ok(scheme.len() + length),
                    _ => Err("has no host with a slash behind it: no group may be part of the host".into()),
                }
            }
            None => Err("does not begin with a slash".into()),
        }
    }

    /// Appends it, with groups filled in.
    #[inline]
    pub(super) fn expand<'s>(&self, out: &mut Vec<u8>, group: impl Fn(usize) -> &'s [u8]) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Group(number) => out.extend_from_slice(group(*number)),
            }
        }
        if self.drops_query {
            out.pop();
        }
    }

    /// Whether it has a query of its own, if only an empty one.
    pub(super) fn has_query(&self) -> bool {
        self.has_query
    }

    /// Bytes of scheme and host.
    pub(super) fn origin_bytes(&self) -> usize {
        self.origin_bytes
    }
}

/// With the percent encodings of the path as the canonical spelling has them, so that a result is canonical by itself: needless
/// ones undone, upper-case digits.
fn normal(to: &str) -> Option<String> {
    let (path, query) = to.split_at(to.find('?').unwrap_or(to.len()));
    let mut parts = path.split('%');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let byte = u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?;
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&digits.to_ascii_uppercase());
        }
        out.push_str(rest);
    }
    Some(out + query)
}
