//! MiddleNet's own chains, as manifests.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::MIDDLEBOX_CORE;
use crate::BenchError;
use crate::bench::Bench;
use crate::run::Run;

/// How functions are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hop {
    /// Called by the broker.
    Inline,
    /// Processes behind a sockmap.
    Skmsg,
    /// Processes behind rings.
    Ring,
}

impl Hop {
    /// What a case's name begins with.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Skmsg => "skmsg",
            Self::Ring => "ring",
        }
    }
}

/// A proxy, and a function that rewrites.
pub(super) fn proxy_and_rewrite(upstreams: &[SocketAddr]) -> Value {
    json!([proxy(upstreams), { "url-rewrite": { "rules": [{ "match": "^/old/(.*)$", "to": "/new/$1" }] } }])
}

/// A proxy, and functions that find all primes up to 10,000 for every request.
pub(super) fn proxy_and_burners(upstreams: &[SocketAddr], burners: usize) -> Value {
    let burner = |i: usize| json!({ format!("burner{i}"): { "use": "cpu-burner", "config": { "limit": 10_000 } } });
    std::iter::once(proxy(upstreams)).chain((0..burners).map(burner)).collect()
}

fn proxy(upstreams: &[SocketAddr]) -> Value {
    json!({ "reverse-proxy": { "upstreams": upstreams } })
}

/// Starts a chain with all its processes on the middlebox's core. It takes connections as soon as it is said to run, so nobody
/// waits for that here.
///
/// # Errors
/// When it does not run.
pub(super) fn start(bench: &Bench, hop: Hop, listen: SocketAddr, functions: Value) -> Result<Run, BenchError> {
    Run::start(&bench.programs, &bench.folder, None, manifest(hop, listen, functions))
}

fn manifest(hop: Hop, listen: SocketAddr, functions: Value) -> Value {
    let mut chain = json!({ "layer": "l4l7", "listen": listen, "functions": functions });
    chain["placement"] = Value::from(if hop == Hop::Inline { "inline" } else { "process" });
    if hop != Hop::Inline {
        chain["hop"] = Value::from(hop.name());
    }
    json!({
        "chains": { "web": chain },
        "cores": { "broker": [MIDDLEBOX_CORE], "functions": [MIDDLEBOX_CORE] },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_as_an_operator_would_write_it() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let written = manifest(Hop::Skmsg, address(18080), proxy_and_rewrite(&[address(1), address(2)]));
        assert_eq!(
            written,
            json!({
                "chains": { "web": {
                    "layer": "l4l7", "listen": "127.0.0.1:18080", "placement": "process", "hop": "skmsg",
                    "functions": [
                        { "reverse-proxy": { "upstreams": ["127.0.0.1:1", "127.0.0.1:2"] } },
                        { "url-rewrite": { "rules": [{ "match": "^/old/(.*)$", "to": "/new/$1" }] } },
                    ],
                } },
                "cores": { "broker": [0], "functions": [0] },
            })
        );
        let inline = manifest(Hop::Inline, address(1), proxy_and_burners(&[address(2)], 3));
        assert_eq!(inline["chains"]["web"]["hop"], Value::Null);
        assert_eq!(inline["chains"]["web"]["functions"].as_array().map(Vec::len), Some(4));
    }
}
