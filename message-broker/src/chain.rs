//! A chain as a worker runs it.

use std::net::IpAddr;

use middlenet_http::Limits;
use middlenet_plan::{MessageChainPlan, Protocol};
use middlenet_sdk::middlebox::{Interests, Kind, READ_BYTES};

/// A chain of one worker.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) plan: MessageChainPlan,
    pub(crate) limits: Limits,
    /// Its hops in order, by id.
    pub(crate) hops: Vec<usize>,
    /// By kind: places of the hops that want it, in the order in which they are visited.
    pub(crate) orders: [Vec<u8>; 8],
    /// Some function may change the length of request bodies.
    pub(crate) resizes_request: bool,
    /// Some function may change the length of response bodies.
    pub(crate) resizes_response: bool,
    /// Some function may change a length, be it of a stream.
    resizes: bool,
    /// Where requests go that no function routes, by id.
    pub(crate) upstreams: Vec<usize>,
    /// Which of those is next.
    pub(crate) next_upstream: usize,
    trusted: Vec<Prefix>,
}

impl Chain {
    pub(crate) fn new(plan: MessageChainPlan, hops: Vec<usize>, upstreams: Vec<usize>) -> Self {
        let asked = &plan.limits;
        let defaults = Limits::default();
        let limits = Limits {
            head_bytes: (asked.head_bytes as usize).clamp(256, defaults.head_bytes),
            headers: (asked.headers as usize).clamp(1, middlenet_http::MAX_HEADERS),
            body_bytes: if asked.body_bytes == 0 { u64::MAX } else { asked.body_bytes },
            ..defaults
        };
        let trusted = plan.trusted_proxies.iter().filter_map(|p| Prefix::parse(p)).collect();
        Self {
            limits,
            hops,
            orders: Default::default(),
            resizes_request: false,
            resizes_response: false,
            resizes: false,
            upstreams,
            next_upstream: 0,
            trusted,
            plan,
        }
    }

    pub(crate) fn is_tcp(&self) -> bool {
        self.plan.protocol == Protocol::Tcp
    }

    /// Works out the orders from what each hop wants.
    pub(crate) fn arrange(&mut self, interests: &[Interests]) {
        for kind in Kind::ALL {
            let wanting = interests.iter().enumerate().filter(|(_, i)| i.wants(kind)).map(|(at, _)| at as u8);
            let order = &mut self.orders[kind as usize];
            *order = wanting.collect();
            if matches!(kind, Kind::ResponseHead | Kind::ResponseBody) {
                order.reverse();
            }
        }
        let resizes = |body: Interests| interests.iter().any(|i| i.has(Interests::RESIZES_BODY) && i.has(body));
        self.resizes_request = resizes(Interests::REQUEST_BODY);
        self.resizes_response = resizes(Interests::RESPONSE_BODY);
        self.resizes = resizes(Interests::NONE);
    }

    /// Up to where a message buffer is filled: functions that make bodies longer need room behind them.
    #[inline]
    pub(crate) fn read_bytes(&self) -> usize {
        if self.resizes { READ_BYTES / 2 } else { READ_BYTES }
    }

    #[inline]
    pub(crate) fn wants(&self, kind: Kind) -> bool {
        !self.orders[kind as usize].is_empty()
    }

    /// Whether `X-Forwarded-*` of that peer are believed.
    #[inline]
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted.iter().any(|p| p.holds(peer))
    }
}

/// An IP prefix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prefix {
    address: u128,
    mask: u128,
    v4: bool,
}

impl Prefix {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address.parse::<IpAddr>().ok()?, Some(length.parse::<u32>().ok()?)),
            None => (text.parse::<IpAddr>().ok()?, None),
        };
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(bits);
        if length > bits {
            return None;
        }
        let mask = if length == 0 { 0 } else { u128::MAX << (bits - length) };
        Some(Self { address: number(address) & mask, mask, v4: address.is_ipv4() })
    }

    pub(crate) fn holds(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.v4 && number(address) & self.mask == self.address
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_visit_in_reverse() {
        let plan = MessageChainPlan {
            name: "web".into(),
            protocol: Protocol::Http,
            listen: Vec::new(),
            upstreams: Vec::new(),
            timeouts: Default::default(),
            limits: Default::default(),
            upstream: Default::default(),
            trusted_proxies: vec!["10.0.0.0/8".into(), "2001:db8::/32".into()],
        };
        let mut chain = Chain::new(plan, vec![4, 5, 6], Vec::new());
        let head = Interests::REQUEST_HEAD;
        chain.arrange(&[
            head.with(Interests::RESPONSE_HEAD),
            Interests::RESPONSE_HEAD,
            head.with(Interests::REQUEST_BODY).with(Interests::RESIZES_BODY),
        ]);
        assert_eq!(chain.orders[Kind::RequestHead as usize], [0, 2]);
        assert_eq!(chain.orders[Kind::ResponseHead as usize], [1, 0]);
        assert!(chain.resizes_request && !chain.resizes_response);
        assert!(chain.trusts("10.9.8.7".parse().unwrap()) && chain.trusts("::ffff:10.1.1.1".parse().unwrap()));
        assert!(!chain.trusts("11.0.0.1".parse().unwrap()) && chain.trusts("2001:db8::1".parse().unwrap()));
    }
}
