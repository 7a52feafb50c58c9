//! `reverse-proxy`: sends each request to one of several upstreams.
//!
//! ```yaml
//! - reverse-proxy:
//!     upstreams: [ "10.2.0.10:80", { address: "10.2.0.11:80", weight: 3 } ]
//!     balance: round-robin            # least-connections, consistent-hash, random-two-choices
//!     hash_key: header X-User         # consistent-hash: client (default), path, host, header NAME, cookie NAME
//!     max_load: 1.25                  # consistent-hash: no upstream gets more than 1.25 times its share
//!     sticky: { cookie: node, ttl_s: 3600, secret: "a long random text" }
//!     host: upstream                  # keep (default): the client's Host
//!     set_headers: { X-Real-IP: "$client_ip", X-Request-ID: "$request_id" }
//! ```
//!
//! **Health.** Upstreams that the broker's checks have found down are passed over; when all are down, all are used.
//!
//! **Consistent hash.** Equal keys meet the same upstream in every worker and replica, whatever the order of the list. A request
//! without the header or cookie goes by the client's address. While an upstream is down, its keys are spread over the others and
//! all other keys stay where they are.
//!
//! **Sticky sessions.** A client that is new, whose cookie is of no use or whose upstream is down is given an upstream by
//! `balance`, and the response sets the cookie. Its value is a keyed hash (SipHash-2-4) of the upstream's address. The key is
//! made from `secret`; without one it is made from the whole list, so that a change of the list makes every client choose anew, and
//! who can guess the list can recognise an address. `ttl_s` is the cookie's `Max-Age`; without it the browser's session ends it.
//!
//! **Headers.** `set_headers` are written into the request; the variables are those of [`header_edit`](crate::header_edit).
//!
//! **Counters.** `routed`, `failed-open`; with `sticky` also `sticky-kept` and `sticky-set`.
//!
//! **Limits.** At most 128 upstreams, given as addresses; weights from 1 to 256. Where a later function routes or answers a
//! request, the cookie is set all the same. Of requests that wait for a response at the same time, the newest 65,536 get their
//! cookie.

mod sticky;
#[cfg(test)]
mod tests;

use crate::balance::{self, Balance, Balancer, Server};
use crate::field_name;
use crate::header_text::{HeaderText, Side};
use crate::request_key::{RequestKey, address_bytes};
use middlenet_sdk::middlebox::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use sticky::Sticky;

/// Configuration of `reverse-proxy`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where requests go: addresses, or `{ address: "10.0.0.1:80", weight: 3 }`.
    pub upstreams: Vec<Server>,
    /// How one is chosen.
    #[serde(default)]
    pub balance: Balance,
    /// What `consistent-hash` goes by: `client` (default), `path`, `host`, `header NAME` or `cookie NAME`.
    pub hash_key: Option<RequestKey>,
    /// With `consistent-hash`: how many times its share an upstream gets at most, such as 1.25.
    pub max_load: Option<f64>,
    /// Keeps a client at its upstream by a cookie.
    pub sticky: Option<StickyConfig>,
    /// Which `Host` the upstream sees.
    #[serde(default)]
    pub host: HostHeader,
    /// Headers for the upstream, by name.
    #[serde(default)]
    pub set_headers: BTreeMap<String, String>,
}

/// Keeps a client at its upstream by a cookie.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StickyConfig {
    /// Name of the cookie.
    pub cookie: String,
    /// Seconds after which the client forgets it; without it, when the browser closes.
    pub ttl_s: Option<u32>,
    /// What the cookie's values are made with. The same in all hosts that share clients.
    pub secret: Option<String>,
    /// Whether clients send the cookie over TLS only.
    #[serde(default)]
    pub secure: bool,
}

/// Which `Host` the upstream sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HostHeader {
    /// The client's.
    #[default]
    Keep,
    /// The upstream's address and port.
    Upstream,
}

/// The function; see the module's documentation.
pub struct ReverseProxy {
    balancer: Balancer,
    hash_key: RequestKey,
    sticky: Option<Sticky>,
    /// What the upstreams are called in `Host`; empty where the client's stays.
    hosts: Vec<String>,
    set_headers: Vec<(String, HeaderText)>,
    addresses: Vec<String>,
    requests: Vec<u64>,
    room: Vec<u8>,
    routed: Counter,
    failed_open: Counter,
}

impl MiddleboxFunction for ReverseProxy {
    type Config = Config;
    const INTERESTS: Interests = Interests::REQUEST_HEAD.with(Interests::RESPONSE_HEAD);

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        init.upstreams_are_alike();
        let balancer = Balancer::new(&config.upstreams, config.balance, config.max_load, init)?;
        if config.hash_key.is_some() && config.balance != Balance::ConsistentHash {
            return Err("`hash_key` is for `balance: consistent-hash`".into());
        }
        let addresses = balancer.addresses(init);
        let set_headers = config.set_headers.iter().map(|(name, value)| {
            field_name::check_editable("set_headers", name)?;
            let what = format!("set_headers, {name}");
            Ok((name.clone(), HeaderText::parse(&what, value, Side::Request)?))
        });
        Ok(Self {
            hash_key: config.hash_key.unwrap_or_default(),
            sticky: config.sticky.map(|sticky| Sticky::new(&sticky, &addresses, init)).transpose()?,
            hosts: if config.host == HostHeader::Upstream { addresses.clone() } else { Vec::new() },
            set_headers: set_headers.collect::<Result<_, ConfigError>>()?,
            requests: vec![0; addresses.len()],
            addresses,
            balancer,
            room: Vec::new(),
            routed: init.counter("routed", "requests sent to an upstream"),
            failed_open: init.counter("failed-open", "requests sent to an upstream that is down, since all are"),
        })
    }

    fn interests(&self) -> Interests {
        if self.sticky.is_some() { Self::INTERESTS } else { Interests::REQUEST_HEAD }
    }

    fn request(&mut self, request: &mut Request<'_>, context: &mut Context<'_>) -> Verdict {
        let Self { balancer, hash_key, sticky, room, .. } = self;
        let board = context.upstreams();
        let kept = sticky.as_mut().and_then(|sticky| sticky.kept(request, |at| balancer.may_use(at, board)));
        let pick = kept.map(|at| balancer.at(at, board)).unwrap_or_else(|| {
            let key = || match hash_key.bytes(request, room) {
                Some(bytes) => balance::hash(bytes),
                None => balance::hash(&address_bytes(context.client().ip())),
            };
            let pick = balancer.pick(board, key);
            if let Some(sticky) = sticky {
                sticky.chosen(context.request_id(), pick.at);
            }
            pick
        });
        for (name, text) in &self.set_headers {
            let value = text.value(&*request, context, &mut self.room);
            request.set_header(name, value);
        }
        if let Some(host) = self.hosts.get(pick.at) {
            request.set_header("host", host);
        }
        self.requests[pick.at] += 1;
        self.routed.inc();
        if pick.is_down {
            self.failed_open.inc();
        }
        Verdict::Route(pick.upstream)
    }

    fn response(&mut self, response: &mut Response<'_>, context: &mut Context<'_>) -> Verdict {
        if let Some(set_cookie) = self.sticky.as_mut().and_then(|sticky| sticky.set_cookie(context.request_id())) {
            response.add_header("set-cookie", set_cookie);
        }
        Verdict::Next
    }

    fn inherit(&mut self, previous: Self) {
        for (address, &requests) in previous.addresses.iter().zip(&previous.requests) {
            if let Some(at) = self.addresses.iter().position(|a| a == address) {
                self.requests[at] = requests;
            }
        }
        if let (Some(sticky), Some(old)) = (&mut self.sticky, previous.sticky) {
            sticky.inherit(old);
        }
    }

    fn report(&self) -> Value {
        let upstreams = self.addresses.iter().zip(&self.requests);
        json!({ "requests": upstreams.collect::<BTreeMap<_, _>>() })
    }
}
