//! Sessions that stay at their upstream.

use super::StickyConfig;
use crate::{cookies, field_name};
use middlenet_sdk::middlebox::{Request, States};
use middlenet_sdk::{ConfigError, Counter, Init};

/// Responses whose cookie is to be set, at most.
const PENDING: usize = 65_536;

/// What cookies say, and which responses are to set one.
pub(super) struct Sticky {
    cookie: String,
    /// The values that stand for the upstreams, in the order of the list.
    tags: Vec<[u8; 16]>,
    set_cookies: Vec<Box<[u8]>>,
    pending: States<u8>,
    kept: Counter,
    set: Counter,
}

impl Sticky {
    pub(super) fn new(config: &StickyConfig, addresses: &[String], init: &mut Init) -> Result<Self, ConfigError> {
        field_name::check("sticky", &config.cookie)?;
        if config.secret.as_ref().is_some_and(|secret| secret.len() < 16) {
            return Err(ConfigError::new("sticky: the secret has fewer than 16 bytes")
                .with_hint("make one with `openssl rand -hex 16`"));
        }
        let key = match &config.secret {
            Some(secret) => key(secret.as_bytes()),
            None => {
                let mut sorted: Vec<&str> = addresses.iter().map(String::as_str).collect();
                sorted.sort_unstable();
                key(sorted.join(" ").as_bytes())
            }
        };
        let tags: Vec<[u8; 16]> = addresses.iter().map(|address| hex(siphash(key, address.as_bytes()))).collect();
        let max_age = config.ttl_s.map(|ttl_s| format!("; Max-Age={ttl_s}")).unwrap_or_default();
        let secure = if config.secure { "; Secure" } else { "" };
        let set_cookie = |tag: &[u8; 16]| {
            let tag = String::from_utf8_lossy(tag);
            format!("{}={tag}; Path=/{max_age}; HttpOnly; SameSite=Lax{secure}", config.cookie).into_bytes().into()
        };
        Ok(Self {
            set_cookies: tags.iter().map(set_cookie).collect(),
            tags,
            cookie: config.cookie.clone(),
            pending: States::new(PENDING),
            kept: init.counter("sticky-kept", "requests whose cookie chose the upstream"),
            set: init.counter("sticky-set", "responses that set the cookie"),
        })
    }

    /// The place of the upstream that the request's cookie names, if it may be used.
    pub(super) fn kept(&mut self, request: &Request<'_>, may_use: impl Fn(usize) -> bool) -> Option<usize> {
        let tag = cookies::cookie(request, &self.cookie)?;
        let at = self.tags.iter().position(|t| t == tag).filter(|&at| may_use(at))?;
        self.kept.inc();
        Some(at)
    }

    /// The response to this request is to set the cookie.
    pub(super) fn chosen(&mut self, request_id: u64, at: usize) {
        self.pending.insert(request_id, at as u8);
    }

    /// The value of `Set-Cookie` in the response to this request, if it is to have one.
    pub(super) fn set_cookie(&mut self, request_id: u64) -> Option<&[u8]> {
        let at = self.pending.take(request_id)?;
        self.set.inc();
        self.set_cookies.get(usize::from(at)).map(|value| &value[..])
    }

    /// Takes over what responses under way are to set, if it would say the same.
    pub(super) fn inherit(&mut self, old: Self) {
        if old.set_cookies == self.set_cookies {
            self.pending = old.pending;
        }
    }
}

/// A key from a text of any length.
fn key(text: &[u8]) -> [u64; 2] {
    const LABEL: [u64; 2] = [u64::from_le_bytes(*b"middlene"), u64::from_le_bytes(*b"t-sticky")];
    let first = siphash(LABEL, text);
    [first, siphash([first, LABEL[0]], text)]
}

fn hex(number: u64) -> [u8; 16] {
    std::array::from_fn(|i| b"0123456789abcdef"[(number >> (60 - 4 * i)) as usize & 15])
}

/// SipHash-2-4 (Aumasson and Bernstein 2012): who lacks the key cannot tell what was hashed.
pub(super) fn siphash(key: [u64; 2], bytes: &[u8]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    last[7] = bytes.len() as u8;
    for word in words.iter().chain([&last]) {
        let word = u64::from_le_bytes(*word);
        v[3] ^= word;
        round(&mut v);
        round(&mut v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    (0..4).for_each(|_| round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}
