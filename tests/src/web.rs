//! The stage of tests of chains of requests.

use crate::{Backend, Error, Netns};

/// One host with two backends, where a run listens, too:
///
/// ```text
///   clients -> 127.0.0.1:8080  run  -> 127.0.0.1:9001, 127.0.0.1:9002
/// ```
#[derive(Debug)]
pub struct Web {
    /// The host.
    pub host: Netns,
    /// The backends.
    pub backends: Vec<Backend>,
}

impl Web {
    /// Where the chain `web` listens.
    pub const ADDRESS: &'static str = "127.0.0.1:8080";
    /// The manifest's entry for a proxy to both backends.
    pub const PROXY: &'static str = "reverse-proxy: { upstreams: ['127.0.0.1:9001', '127.0.0.1:9002'] }";
    /// The entry for a rewriter from `/old/` to `/new/`.
    pub const REWRITE: &'static str = "url-rewrite: { rules: [{ match: '^/old/(.*)$', to: '/new/$1' }] }";
    /// The entry for edits on both sides.
    pub const EDIT: &'static str = "header-edit: { request: [{ set: { name: x-edited, value: 'yes' } }],
          response: [{ set: { name: x-chain, value: web } }, { remove: server }] }";

    /// Builds it.
    ///
    /// # Errors
    ///
    /// If `ip` fails, or an address cannot be had.
    pub fn new() -> Result<Self, Error> {
        let host = Netns::new("web")?;
        let backends = ["127.0.0.1:9001", "127.0.0.1:9002"].map(|address| Backend::start(&host, address));
        let backends = backends.into_iter().collect::<Result<_, _>>()?;
        Ok(Self { host, backends })
    }

    /// A manifest, without its name, with a chain `web`. `how`: its settings beside layer, address and functions, each on a
    /// line that begins with four blanks; each function is one entry.
    #[must_use]
    pub fn manifest(how: &str, functions: &[&str]) -> String {
        let entries: String = functions.iter().map(|function| format!("      - {function}\n")).collect();
        format!("chains:\n  web:\n    layer: l4l7\n    listen: {}\n{how}    functions:\n{entries}", Self::ADDRESS)
    }

    /// Settings for functions that are processes, reached by `skmsg` or `ring`.
    #[must_use]
    pub fn processes(hop: &str) -> String {
        format!("    placement: process\n    hop: {hop}\n")
    }

    /// An entry with what happens when the function fails: `drop`, `bypass` or `retry`.
    #[must_use]
    pub fn entry(entry: &str, on_failure: &str) -> String {
        let (name, config) = entry.split_once(": ").unwrap_or((entry, "{}"));
        format!("{name}: {{ config: {config}, on_failure: {on_failure} }}")
    }
}
