//! The part of a request that a hash or a limit goes by.

use crate::{cookies, field_name, host_name};
use middlenet_sdk::middlebox::Request;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::net::IpAddr;

/// A part of a request, in a manifest `client`, `path`, `host`, `header NAME` or `cookie NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub enum RequestKey {
    /// The client's address.
    #[default]
    Client,
    /// The canonical path.
    Path,
    /// The host asked for, without its port.
    Host,
    /// The first header of that name.
    Header(String),
    /// The first cookie of that name.
    Cookie(String),
}

impl JsonSchema for RequestKey {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RequestKey".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(client|path|host|(header|cookie) [^ ]+)$" })
    }
}

impl TryFrom<String> for RequestKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let named = |name: &str| field_name::check(&text, name).map(|()| name.to_owned()).map_err(|e| e.message);
        match text.split_once(' ') {
            None if text == "client" => Ok(Self::Client),
            None if text == "path" => Ok(Self::Path),
            None if text == "host" => Ok(Self::Host),
            Some(("header", name)) => named(name).map(Self::Header),
            Some(("cookie", name)) => named(name).map(Self::Cookie),
            _ => Err(format!("`{text}` is none of `client`, `path`, `host`, `header NAME`, `cookie NAME`")),
        }
    }
}

impl RequestKey {
    /// Its bytes in this request; `None` for the client, which is no part of the bytes, and where the header or cookie is absent.
    #[inline]
    pub(crate) fn bytes<'a>(&self, request: &'a Request<'_>, room: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        match self {
            Self::Client => None,
            Self::Path => Some(request.path()),
            Self::Host => Some(host_name::normal(request.host()?, room)),
            Self::Header(name) => request.header(name),
            Self::Cookie(name) => cookies::cookie(request, name),
        }
    }
}

/// An address as 16 bytes, IPv4 as IPv4-mapped IPv6.
#[inline]
pub(crate) fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}
