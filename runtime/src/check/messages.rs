//! Chains of layer L4/L7: the broker's plan.

use middlenet_plan::{BrokerPlan, Declared, MessageChainPlan, Protocol};
use middlenet_sdk::middlebox::Interests;
use std::net::{IpAddr, SocketAddr};

use super::Checker;
use super::cores::CorePlan;
use super::processes::ProcessDraft;
use crate::manifest::{Chain, MessageChainForm};
use crate::yaml::{Node, Span};

/// Upstreams of a chain.
const UPSTREAM_LIMIT: usize = 1024;

impl Checker<'_> {
    /// The plan of the message broker.
    pub(super) fn messages(
        &mut self,
        cores: &CorePlan,
        processes: &mut Vec<ProcessDraft>,
        notes: &mut Vec<String>,
    ) -> BrokerPlan {
        self.check_listener_counts();
        let listeners = self.listeners(notes);
        let manifest = self.manifest;
        let mut chains = Vec::new();
        let mut hops = Vec::new();
        for (id, (chain, listen)) in manifest.message_chains.iter().zip(listeners).enumerate() {
            let declared = self.message_hops(id, chain, &mut hops, processes);
            if let Some(form) = &chain.form {
                note_idle_functions(chain, form.protocol, &declared, notes);
                self.check_destinations(chain, form, &declared, notes);
                chains.push(self.message_chain(chain, form, listen));
            }
        }
        self.check_sockets(&hops, cores.broker.len());
        BrokerPlan {
            name: manifest.name.clone(),
            buffers: manifest.memory.messages,
            workers: cores.broker.clone(),
            wait: self.most_eager(&manifest.message_chains),
            ring_slots: manifest.ring_slots,
            chains,
            hops,
        }
    }

    fn message_chain(
        &mut self,
        chain: &Chain<MessageChainForm>,
        form: &MessageChainForm,
        listen: Vec<SocketAddr>,
    ) -> MessageChainPlan {
        self.check_health(chain, form);
        MessageChainPlan {
            name: chain.name.clone(),
            protocol: form.protocol,
            listen,
            upstreams: self.upstreams(chain, form),
            timeouts: form.timeouts,
            limits: form.limits,
            upstream: form.upstream.clone(),
            trusted_proxies: self.trusted_proxies(chain, form),
        }
    }

    /// The chain's own upstreams, each in the form that the broker compares.
    fn upstreams(&mut self, chain: &Chain<MessageChainForm>, form: &MessageChainForm) -> Vec<String> {
        let mut upstreams: Vec<String> = Vec::new();
        for (text, span) in form.upstreams.iter().zip(spans(chain, "upstreams")) {
            match text.parse::<SocketAddr>() {
                Ok(address) if address.port() == 0 || address.ip().is_unspecified() => {
                    let message = format!("`{text}` is nowhere to connect to");
                    self.problem(span, message, Some("write the address and port of a server".into()));
                }
                Ok(address) if upstreams.contains(&address.to_string()) => {
                    self.problem(span, format!("the upstream `{text}` is there twice"), Some("name it once".into()));
                }
                Ok(address) => upstreams.push(address.to_string()),
                Err(_) => {
                    let hint = "write `10.0.0.1:80` or `\"[2001:db8::1]:80\"`; names are not looked up";
                    self.problem(span, format!("`{text}` is not an address and port"), Some(hint.into()));
                }
            }
        }
        if upstreams.len() > UPSTREAM_LIMIT {
            let message = format!("{} upstreams, but a chain has at most {UPSTREAM_LIMIT}", upstreams.len());
            self.problem(span_of(chain, &["upstreams"]), message, None);
        }
        upstreams
    }

    fn trusted_proxies(&mut self, chain: &Chain<MessageChainForm>, form: &MessageChainForm) -> Vec<String> {
        if form.protocol == Protocol::Tcp && !form.trusted_proxies.is_empty() {
            let message = "a chain of `protocol: tcp` reads no `X-Forwarded-*` headers";
            self.problem(span_of(chain, &["trusted_proxies"]), message, Some("remove `trusted_proxies`".into()));
        }
        let mut prefixes = Vec::new();
        for (text, span) in form.trusted_proxies.iter().zip(spans(chain, "trusted_proxies")) {
            match prefix(text) {
                Some(prefix) => prefixes.push(prefix),
                None => {
                    let hint = "write `10.0.0.0/8`, `fd00::/8` or a single address";
                    self.problem(span, format!("`{text}` is no prefix of addresses"), Some(hint.into()));
                }
            }
        }
        prefixes
    }

    fn check_health(&mut self, chain: &Chain<MessageChainForm>, form: &MessageChainForm) {
        let health = &form.upstream.health;
        let Some(path) = &health.path else { return };
        let span = span_of(chain, &["upstream", "health", "path"]);
        if form.protocol == Protocol::Tcp {
            let message = "a health check with a path speaks HTTP, but the chain is of `protocol: tcp`";
            self.problem(span, message, Some("remove `path`: that a connection succeeds is the check".into()));
        } else if !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_graphic()) {
            let hint = "write `path: /health`";
            self.problem(span, format!("`{path}` cannot be the path of a request"), Some(hint.into()));
        } else if health.interval_ms == 0 {
            let message = "a health check with a path, but no interval: no check is made";
            self.problem(span, message, Some("add `interval_ms: 1000`, or remove `path`".into()));
        }
    }

    /// Whether requests have anywhere to go. `declared`: what each function said of itself, where that is known.
    fn check_destinations(
        &mut self,
        chain: &Chain<MessageChainForm>,
        form: &MessageChainForm,
        declared: &[Option<Declared>],
        notes: &mut Vec<String>,
    ) {
        let may_route = declared.iter().any(|d| d.as_ref().is_none_or(|d| !d.upstreams.is_empty()));
        if !form.upstreams.is_empty() || may_route {
            return;
        }
        if chain.functions.is_empty() && chain.node.get("functions").is_none_or(|f| f.items().is_empty()) {
            let message = format!("the chain `{}` has nowhere to send requests to", chain.name);
            let hint = "add `upstreams: [10.2.0.10:80]`, or a function that routes or answers";
            self.problem(chain.name_span.clone(), message, Some(hint.into()));
        } else {
            notes.push(format!(
                "no function of the chain `{}` routes, and it has no `upstreams`: what its functions do not answer fails",
                chain.name
            ));
        }
    }
}

/// Functions that want nothing of what the chain's protocol has.
fn note_idle_functions(
    chain: &Chain<MessageChainForm>,
    protocol: Protocol,
    declared: &[Option<Declared>],
    notes: &mut Vec<String>,
) {
    let shown = match protocol {
        // Tunnels make streams of requests.
        Protocol::Http => Interests(!Interests::CONNECTION.0),
        Protocol::Tcp => Interests::CONNECTION | Interests::STREAM | Interests::FINISHED | Interests::CLOSED,
    };
    for (entry, declared) in chain.functions.iter().zip(declared) {
        let Some(Declared { interests, .. }) = declared else { continue };
        if interests.0 & shown.0 == 0 {
            let speaks = format!("{protocol:?}").to_lowercase();
            notes.push(format!(
                "`{}/{}` wants no message that a chain of `protocol: {speaks}` has: it is never called",
                chain.name, entry.name
            ));
        }
    }
}

/// Where something of the chain stands, or its name.
fn span_of(chain: &Chain<MessageChainForm>, path: &[&str]) -> Span {
    let mut node = &chain.node;
    for key in path {
        match node.get(key) {
            Some(below) => node = below,
            None => return chain.name_span.clone(),
        }
    }
    node.span.clone()
}

fn spans<'c>(chain: &'c Chain<MessageChainForm>, list: &str) -> impl Iterator<Item = Span> + 'c {
    chain.node.get(list).map(Node::items).unwrap_or_default().iter().map(|n| n.span.clone())
}

/// `10.0.0.0/8` as it is, and a single address as the prefix of itself.
fn prefix(text: &str) -> Option<String> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.unwrap_or(most);
    (length <= most).then(|| format!("{address}/{length}"))
}
