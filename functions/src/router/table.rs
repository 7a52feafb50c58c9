//! Rules by host and path.

use super::config::RuleConfig;
use middlenet_sdk::ConfigError;
use std::collections::HashMap;

type Rules = Vec<u32>;

/// Rules by host. What clients send is looked up and never stored, so tables do not grow; the standard hasher has a secret.
#[derive(Default)]
pub(super) struct Table {
    hosts: HashMap<Box<[u8]>, Paths>,
    /// `*.example` under `example`.
    below: HashMap<Box<[u8]>, Paths>,
    below_lengths: Vec<usize>,
    any: Paths,
}

/// Rules of one host by path; each list in order.
#[derive(Default)]
struct Paths {
    exact: HashMap<Box<[u8]>, Rules>,
    prefixes: HashMap<Box<[u8]>, Rules>,
    /// Lengths of the prefixes there are: as many look-ups as these, however many segments a path has.
    prefix_lengths: Vec<usize>,
    other: Rules,
}

impl Table {
    /// Adds rule number `rule`; they come in order.
    pub(super) fn add(&mut self, rule: u32, config: &RuleConfig, what: &str) -> Result<(), ConfigError> {
        let wrong = |why: String| ConfigError::new(format!("{what}: {why}"));
        let given = [&config.path, &config.prefix, &config.regex].iter().filter(|path| path.is_some()).count();
        if given > 1 {
            return Err(wrong("has more than one of `path`, `prefix` and `regex`".into()));
        }
        for path in [&config.path, &config.prefix].into_iter().flatten() {
            let mut canonical = Vec::new();
            match middlenet_sdk::http::canonical_target(path.as_bytes(), &mut canonical) {
                _ if !path.starts_with('/') || path.contains('?') => {
                    return Err(
                        wrong(format!("`{path}` is no path")).with_hint("a path begins with a slash and has no query")
                    );
                }
                Ok(false) => {}
                Ok(true) => {
                    let canonical = String::from_utf8_lossy(&canonical);
                    return Err(wrong(format!("`{path}` is not how paths are compared"))
                        .with_hint(format!("write `{canonical}`")));
                }
                Err(e) => return Err(wrong(format!("`{path}`: {e}"))),
            }
        }
        let Some(hosts) = &config.host else {
            self.any.add(rule, config);
            return Ok(());
        };
        for host in hosts.all() {
            if host == "*" {
                self.any.add(rule, config);
                continue;
            }
            let (paths, name) = match host.strip_prefix("*.") {
                Some(name) => (&mut self.below, name),
                None => (&mut self.hosts, host.as_str()),
            };
            let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._~[]:".contains(&b);
            let has_port = name.contains(':') && !name.ends_with(']');
            if name.is_empty() || !name.bytes().all(is_name) || has_port || name.ends_with('.') {
                return Err(wrong(format!("`{host}` is no host"))
                    .with_hint("write `shop.example` or `*.example`, without a port"));
            }
            let name = name.to_ascii_lowercase().into_bytes();
            if host.starts_with("*.") {
                note(&mut self.below_lengths, name.len());
            }
            paths.entry(name.into()).or_default().add(rule, config);
        }
        Ok(())
    }

    /// The first rule for this host and path that `matches` accepts.
    #[inline]
    pub(super) fn first(&self, host: &[u8], path: &[u8], matches: impl Fn(u32) -> bool) -> Option<u32> {
        let mut best = u32::MAX;
        if !self.hosts.is_empty()
            && let Some(paths) = self.hosts.get(host)
        {
            paths.first(path, &mut best, &matches);
        }
        for &length in &self.below_lengths {
            if let Some(at) = host.len().checked_sub(length).filter(|&at| at > 1 && host[at - 1] == b'.')
                && let Some(paths) = self.below.get(&host[at..])
            {
                paths.first(path, &mut best, &matches);
            }
        }
        self.any.first(path, &mut best, &matches);
        (best != u32::MAX).then_some(best)
    }
}

impl Paths {
    fn add(&mut self, rule: u32, config: &RuleConfig) {
        let rules = match (&config.path, &config.prefix) {
            (Some(path), _) => self.exact.entry(path.as_bytes().into()).or_default(),
            (_, Some(prefix)) => {
                note(&mut self.prefix_lengths, prefix.len());
                self.prefixes.entry(prefix.as_bytes().into()).or_default()
            }
            _ => &mut self.other,
        };
        // A host that a rule names twice.
        if rules.last() != Some(&rule) {
            rules.push(rule);
        }
    }

    /// Lowers `best` to the first rule that matches, if that is earlier.
    #[inline]
    fn first(&self, path: &[u8], best: &mut u32, matches: &impl Fn(u32) -> bool) {
        if !self.exact.is_empty()
            && let Some(rules) = self.exact.get(path)
        {
            earliest(rules, best, matches);
        }
        for &length in &self.prefix_lengths {
            let Some(prefix) = path.get(..length) else { break };
            if (prefix.ends_with(b"/") || matches!(path.get(length), None | Some(b'/')))
                && let Some(rules) = self.prefixes.get(prefix)
            {
                earliest(rules, best, matches);
            }
        }
        earliest(&self.other, best, matches);
    }
}

#[inline]
fn earliest(rules: &[u32], best: &mut u32, matches: &impl Fn(u32) -> bool) {
    let found = rules.iter().copied().take_while(|&rule| rule < *best).find(|&rule| matches(rule));
    *best = found.unwrap_or(*best);
}

/// Adds a length to a sorted list.
fn note(lengths: &mut Vec<usize>, length: usize) {
    if let Err(at) = lengths.binary_search(&length) {
        lengths.insert(at, length);
    }
}
