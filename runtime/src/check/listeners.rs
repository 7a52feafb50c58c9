//! Where chains of messages listen: addresses, and who gets a connection that two could take.

use std::net::{IpAddr, SocketAddr};

use super::Checker;
use crate::manifest::{Chain, Listen, MessageChainForm};
use crate::yaml::{Node, Span};

/// Listeners of a chain.
const LISTENER_LIMIT: usize = 64;

/// An address that a chain listens on.
struct Listener<'a> {
    chain: usize,
    name: &'a str,
    address: SocketAddr,
    span: Span,
}

impl Checker<'_> {
    /// The listeners of each chain, in its order.
    pub(super) fn listeners(&mut self, notes: &mut Vec<String>) -> Vec<Vec<SocketAddr>> {
        let chains = &self.manifest.message_chains;
        let mut all: Vec<Listener<'_>> = Vec::new();
        for (id, chain) in chains.iter().enumerate() {
            for (text, span) in written(chain) {
                let Some(address) = self.listener(text, &span) else { continue };
                let listener = Listener { chain: id, name: &chain.name, address, span };
                self.check_against_others(&listener, &all, notes);
                all.push(listener);
            }
        }
        let of = |id| all.iter().filter(|l| l.chain == id).map(|l| l.address).collect();
        (0..chains.len()).map(of).collect()
    }

    fn listener(&mut self, text: &str, span: &Span) -> Option<SocketAddr> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(address);
        }
        let bare = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let hint = match (bare, text.rsplit_once(':')) {
            (Ok(IpAddr::V4(address)), _) => format!("add the port: `{address}:80`"),
            (Ok(IpAddr::V6(address)), _) => format!("add the port: `\"[{address}]:80\"`"),
            (_, Some(("" | "*", port))) if port.parse::<u16>().is_ok() => {
                format!("for every address: `[0.0.0.0:{port}, \"[::]:{port}\"]`")
            }
            (_, Some((_, port))) if port.parse::<u16>().is_ok() => {
                "names are not looked up: write an address, `10.1.0.1:80` or `\"[2001:db8::1]:80\"`".to_owned()
            }
            _ => "write `10.1.0.1:80` or `\"[2001:db8::1]:80\"`; ports go up to 65535".to_owned(),
        };
        self.problem(span.clone(), format!("`{text}` is no address with a port"), Some(hint));
        None
    }

    fn check_against_others(&mut self, new: &Listener<'_>, others: &[Listener<'_>], notes: &mut Vec<String>) {
        // With port 0 the kernel chooses another one each time.
        let same_port = |o: &&Listener<'_>| o.address.port() == new.address.port() && new.address.port() != 0;
        let same_family = |o: &&Listener<'_>| o.address.is_ipv4() == new.address.is_ipv4();
        for other in others.iter().filter(same_port).filter(same_family) {
            let (a, b) = (other.address.ip(), new.address.ip());
            let here = other.chain == new.chain;
            if a == b {
                let (message, hint) = match here {
                    true => (format!("`{}` is in this chain twice", new.address), "name it once"),
                    false => (
                        format!("`{}` belongs to the chain `{}` already", new.address, other.name),
                        "an address with its port feeds one chain: use another port, or merge the chains",
                    ),
                };
                self.problem(new.span.clone(), message, Some(hint.into()));
            } else if a.is_unspecified() || b.is_unspecified() {
                let (wide, narrow) = if a.is_unspecified() { (other, new) } else { (new, other) };
                if here {
                    let message = format!("`{}` takes what comes to `{}` as well", wide.address, narrow.address);
                    self.problem(new.span.clone(), message, Some("keep one of them".into()));
                } else {
                    notes.push(format!(
                        "connections to {} go to the chain `{}`, those to other addresses of that port to `{}`",
                        narrow.address, narrow.name, wide.name
                    ));
                }
            }
        }
    }
}

/// What the chain says, with its places.
fn written(chain: &Chain<MessageChainForm>) -> Vec<(&str, Span)> {
    let Some(form) = &chain.form else { return Vec::new() };
    let node = chain.node.get("listen").unwrap_or(&chain.node);
    match &form.listen {
        Listen::One(text) => vec![(text, node.span.clone())],
        Listen::Many(texts) => {
            texts.iter().map(String::as_str).zip(node.items().iter().map(|n: &Node| n.span.clone())).collect()
        }
    }
}

impl Checker<'_> {
    /// Whether each chain listens at all, and not at too many addresses.
    pub(super) fn check_listener_counts(&mut self) {
        for chain in &self.manifest.message_chains {
            let Some(form) = &chain.form else { continue };
            let Listen::Many(texts) = &form.listen else { continue };
            let span = chain.node.get("listen").map_or(chain.name_span.clone(), |n| n.span.clone());
            if texts.is_empty() {
                let message = format!("the chain `{}` listens nowhere", chain.name);
                self.problem(span, message, Some("write `listen: 10.1.0.1:80`".into()));
            } else if texts.len() > LISTENER_LIMIT {
                let message = format!("{} listeners, but a chain has at most {LISTENER_LIMIT}", texts.len());
                self.problem(span, message, Some("`0.0.0.0:80` listens on every address".into()));
            }
        }
    }
}
