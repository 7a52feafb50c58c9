//! A rule that is ready to be tried.

use super::RuleConfig;
use super::template::Template;
use crate::path_pattern::{compile, literal_prefix};
use middlenet_sdk::ConfigError;
use regex::bytes::{CaptureLocations, Regex};

pub(super) struct Rule {
    finder: Finder,
    to: Template,
    redirect: Option<u16>,
    goes_on: bool,
}

enum Finder {
    /// These segments.
    Prefix(Box<[u8]>),
    /// The pattern `^LITERAL(.*)$`, the most frequent of all, which takes no engine: the group is what comes after.
    Tail(Box<[u8]>),
    /// A pattern, and what everything that it matches begins with.
    Regex { regex: Regex, literal: Box<[u8]>, locations: CaptureLocations },
}

impl Rule {
    /// Checks rule number `number` of the configuration.
    pub(super) fn new(number: usize, config: &RuleConfig, with_query: bool) -> Result<Self, ConfigError> {
        let wrong = |what: &str| ConfigError::new(format!("rule {number}: {what}"));
        let (finder, groups) = match (&config.pattern, &config.prefix) {
            (Some(pattern), None) => {
                let regex = compile(pattern).map_err(|e| wrong(&format!("`match`: {e}")))?;
                let groups = regex.capture_names().map(|name| name.map(str::to_owned)).collect();
                let literal = literal_prefix(pattern);
                let end = pattern.strip_prefix('^').and_then(|rest| rest.as_bytes().get(literal.len()..));
                let finder = if matches!(end, Some(b"(.*)" | b"(.*)$")) {
                    Finder::Tail(literal.into())
                } else {
                    let locations = regex.capture_locations();
                    Finder::Regex { regex, literal: literal.into(), locations }
                };
                (finder, groups)
            }
            (None, Some(prefix)) => {
                if !prefix.starts_with('/') {
                    return Err(wrong(&format!("the prefix `{prefix}` does not begin with a slash")));
                }
                (Finder::Prefix(prefix.as_bytes().into()), Vec::new())
            }
            _ => return Err(wrong("needs either `match` or `prefix`")),
        };
        if let Some(status) = config.redirect {
            if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                return Err(wrong(&format!("{status} is no redirect")).with_hint("use 301, 302, 303, 307 or 308"));
            }
            if config.goes_on {
                return Err(wrong("a redirect ends the request, so it cannot `continue`"));
            }
        }
        let to = Template::parse(&config.to, &groups, config.redirect.is_some())
            .map_err(|e| ConfigError { message: format!("rule {number}: {}", e.message), hint: e.hint })?;
        if matches!(finder, Finder::Prefix(_)) && to.has_query() && !with_query {
            return Err(wrong("`to` of a prefix has a query: the rest of the path would come behind it")
                .with_hint("use `match` with a group"));
        }
        Ok(Self { finder, to, redirect: config.redirect, goes_on: config.goes_on })
    }

    /// Writes to `out`, if the rule matches, what the target becomes. Says whether it does.
    #[inline]
    pub(super) fn apply(&mut self, target: &[u8], with_query: bool, out: &mut Vec<u8>) -> bool {
        match &mut self.finder {
            Finder::Prefix(prefix) => {
                let Some(rest) = target.strip_prefix(&prefix[..]) else { return false };
                if !(prefix.ends_with(b"/") || matches!(rest.first(), None | Some(b'/' | b'?'))) {
                    return false;
                }
                out.clear();
                self.to.expand(out, |_| &[]);
                // Between two segments there is a slash, whichever side wrote it down.
                if prefix.ends_with(b"/") && !out.ends_with(b"/") && !matches!(rest.first(), None | Some(b'?')) {
                    out.push(b'/');
                }
                // The query comes with the rest.
                out.extend_from_slice(rest);
                true
            }
            Finder::Tail(literal) => {
                if !target.starts_with(literal) {
                    return false;
                }
                let (subject, query) = if with_query { (target, None) } else { split(target) };
                out.clear();
                // The groups are all of it, and what comes after.
                self.to.expand(out, |group| subject.get(group * literal.len()..).unwrap_or_default());
                self.add_query(query, out);
                true
            }
            Finder::Regex { regex, literal, locations } => {
                if !target.starts_with(literal) {
                    return false;
                }
                let (subject, query) = if with_query { (target, None) } else { split(target) };
                if regex.captures_read(locations, subject).is_none() {
                    return false;
                }
                out.clear();
                self.to.expand(out, |group| locations.get(group).map_or(&[], |(start, end)| &subject[start..end]));
                self.add_query(query, out);
                true
            }
        }
    }

    /// Keeps the query, unless the result has one.
    #[inline]
    fn add_query(&self, query: Option<&[u8]>, out: &mut Vec<u8>) {
        if let Some(query) = query.filter(|_| !self.to.has_query()) {
            out.push(b'?');
            out.extend_from_slice(query);
        }
    }

    /// The status of the answer, if it is a redirect.
    pub(super) fn redirect(&self) -> Option<u16> {
        self.redirect
    }

    /// Whether later rules look at the result.
    pub(super) fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Bytes of scheme and host at the front of results.
    pub(super) fn origin_bytes(&self) -> usize {
        self.to.origin_bytes()
    }
}

fn split(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    match target.iter().position(|&b| b == b'?') {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    }
}
