//! `url-rewrite`: rewrites paths by prefix or regular expression, or redirects the client.
//!
//! ```yaml
//! - url-rewrite:
//!     rules:
//!       - { match: "^/old/(.*)$", to: "/new/$1" }
//!       - { match: "^/user/(?P<id>[0-9]+)$", to: "/profile?id=${id}" }
//!       - { prefix: /api/v1, to: /v1, continue: true }
//!       - { match: "^/blog/(.*)$", to: "https://blog.example/$1", redirect: 301 }
//! ```
//!
//! The first rule that matches decides, unless it says `continue: true`: then the later rules look at its result. Rules see
//! the canonical path: dot segments resolved, slashes merged, needless percent-encoding undone, so `/x/../old/a` and `/%6fld/a`
//! are `/old/a`. The result stands in place of the whole path, not only of what matched.
//!
//! **`match`** is a regular expression of the `regex` crate over bytes; it takes time linear in the path, whatever the
//! pattern. In `to`, `$1`, `$name` and `${name}` are its groups (one that took no part is empty) and `$$` is a dollar sign. Unlike
//! in nginx, `$1x` is the group `1x`: write `${1}x`. **`prefix`** matches whole segments: `/a` matches `/a` and `/a/b`, not `/ab`.
//!
//! **Query.** Kept, unless `to` has one; a `to` that ends in `?` drops it. With `with_query: true` the rules see path and query
//! (`/a?b=c`), and the result is all there is.
//!
//! **Redirects.** `redirect: 301 | 302 | 303 | 307 | 308` answers instead, with the result in `Location`. `to` is a path, or a URL
//! whose scheme and host are written out: what a client sends never decides where it is sent. A redirect to the request's own
//! target is left out, since it would not end.
//!
//! **Counters.** `rewritten`, `redirected`, `unmatched`, `refused`.
//!
//! **Limits.** A result that is no canonical target is refused with 400: one with a dot segment, or one that no longer begins with
//! a slash; so is one of more than 8,000 bytes. Repeated slashes in a result become one. Targets without a path (`*`, CONNECT) pass untouched. A compiled pattern
//! takes at most 1 MiB; 1,024 rules.

mod rule;
mod template;
#[cfg(test)]
mod tests;

use middlenet_sdk::http::canonical_target;
use middlenet_sdk::middlebox::prelude::*;
use rule::Rule;

/// Most rules.
const MAX_RULES: usize = 1024;
/// The longest result: what a request may have for a target. Rules that double it one after the other stop here.
const MAX_TARGET_BYTES: usize = 8000;

/// Configuration of `url-rewrite`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The rules, in order.
    pub rules: Vec<RuleConfig>,
    /// Whether rules see path and query, instead of the path alone.
    #[serde(default)]
    pub with_query: bool,
}

/// A rule: `match` or `prefix`, and `to`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// A regular expression that the path matches, such as `^/old/(.*)$`.
    #[serde(rename = "match")]
    pub pattern: Option<String>,
    /// The path's first segments, such as `/old`.
    pub prefix: Option<String>,
    /// What takes the path's place, or for `prefix` that of these segments. `$1` and `${name}` are groups of `match`.
    pub to: String,
    /// Answers with this status (301, 302, 303, 307 or 308) and the result in `Location`.
    pub redirect: Option<u16>,
    /// Whether later rules look at the result.
    #[serde(default, rename = "continue")]
    pub goes_on: bool,
}

/// The function; see the module's documentation.
pub struct UrlRewrite {
    rules: Vec<Rule>,
    with_query: bool,
    /// The target so far; room that is used again and again.
    current: Vec<u8>,
    built: Vec<u8>,
    scratch: Vec<u8>,
    rewritten: Counter,
    redirected: Counter,
    unmatched: Counter,
    refused: Counter,
}

impl MiddleboxFunction for UrlRewrite {
    type Config = Config;
    const INTERESTS: Interests = Interests::REQUEST_HEAD;

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        if config.rules.is_empty() || config.rules.len() > MAX_RULES {
            return Err(ConfigError::new(format!("{} rules where 1 to {MAX_RULES} may be", config.rules.len())));
        }
        let rules = config.rules.iter().enumerate().map(|(at, rule)| Rule::new(at + 1, rule, config.with_query));
        Ok(Self {
            rules: rules.collect::<Result<_, _>>()?,
            with_query: config.with_query,
            current: Vec::new(),
            built: Vec::new(),
            scratch: Vec::new(),
            rewritten: init.counter("rewritten", "requests whose target was rewritten"),
            redirected: init.counter("redirected", "requests answered with a redirect"),
            unmatched: init.counter("unmatched", "requests that no rule matched"),
            refused: init.counter("refused", "requests refused because the result was no canonical target"),
        })
    }

    fn request(&mut self, request: &mut Request<'_>, _: &mut Context<'_>) -> Verdict {
        let Self { rules, with_query, current, built, scratch, .. } = self;
        let mut rewritten = false;
        if request.target().first() == Some(&b'/') {
            for rule in rules {
                let target = if rewritten { &current[..] } else { request.target() };
                if !rule.apply(target, *with_query, built) {
                    continue;
                }
                if !settle(&mut built[..], rule.origin_bytes(), scratch) {
                    self.refused.inc();
                    return Verdict::respond(400, "the rewritten path cannot be used\n");
                }
                if !scratch.is_empty() {
                    built.truncate(rule.origin_bytes());
                    built.extend_from_slice(scratch);
                }
                if let Some(status) = rule.redirect() {
                    if built[..] == *request.target() {
                        continue;
                    }
                    self.redirected.inc();
                    return Verdict::Respond(Answer::redirect(status, &*built));
                }
                std::mem::swap(current, built);
                rewritten = true;
                if !rule.goes_on() {
                    break;
                }
            }
        }
        if rewritten {
            request.set_target(&self.current);
            self.rewritten.inc();
        } else {
            self.unmatched.inc();
        }
        Verdict::Next
    }
}

/// Whether a result can be used as a target. Where slashes had to be merged, `scratch` has the target as it is to be, else it is empty.
fn settle(built: &mut [u8], origin_bytes: usize, scratch: &mut Vec<u8>) -> bool {
    scratch.clear();
    let target = &built[origin_bytes..];
    if target.first() != Some(&b'/') || target.len() > MAX_TARGET_BYTES {
        return false;
    }
    match canonical_target(target, scratch) {
        Ok(false) => {
            scratch.clear();
            true
        }
        Ok(true) => differ_by_slashes(target, scratch),
        Err(_) => false,
    }
}

/// Whether `canonical` is `target` with repeated slashes of its path made one.
fn differ_by_slashes(target: &[u8], canonical: &[u8]) -> bool {
    let path = target.iter().position(|&b| b == b'?').unwrap_or(target.len());
    let kept = (0..target.len()).filter(|&at| !(at > 0 && at < path && target[at] == b'/' && target[at - 1] == b'/'));
    kept.map(|at| target[at]).eq(canonical.iter().copied())
}
