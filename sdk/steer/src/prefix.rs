//! Address prefixes.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Addresses that begin alike: `10.0.0.0/8`, `2001:db8::/32`, or one address. Bits beyond the length are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why a text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPrefix {
    /// No address.
    #[error("`{0}` is no address or prefix: write it like 10.0.0.0/8, 2001:db8::/32 or 192.0.2.1")]
    Address(String),
    /// No length, or one beyond the address.
    #[error("`{text}` has no prefix length from 0 to {most}")]
    Length {
        /// The text.
        text: String,
        /// Bits of an address of this version.
        most: u8,
    },
    /// Address bits beyond the length.
    #[error("`{text}` has address bits beyond its length: the prefix is {prefix}")]
    HostBits {
        /// The text.
        text: String,
        /// What was probably meant.
        prefix: Prefix,
    },
}

impl Prefix {
    /// The prefix of this length that holds the address; none if the length is beyond the address.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if length <= 32 => {
                IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)).into())
            }
            IpAddr::V6(v6) if length <= 128 => {
                IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)).into())
            }
            _ => return None,
        };
        Some(Self { address, length })
    }

    /// The first of its addresses.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits that count.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether it is of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether it holds the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && Self::new(address, self.length) == Some(*self)
    }

    /// Whether it holds every address of the other.
    pub fn covers(&self, other: &Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }
}

impl FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| BadPrefix::Address(text.into()))?;
        let Some(length) = length else { return Ok(address.into()) };
        let most = Self::from(address).length;
        let prefix = length.parse().ok().and_then(|length| Self::new(address, length));
        match prefix {
            None => Err(BadPrefix::Length { text: text.into(), most }),
            Some(prefix) if prefix.address != address => Err(BadPrefix::HostBits { text: text.into(), prefix }),
            Some(prefix) => Ok(prefix),
        }
    }
}

impl TryFrom<String> for Prefix {
    type Error = BadPrefix;

    fn try_from(text: String) -> Result<Self, BadPrefix> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::from(self.address) {
            return self.address.fmt(f);
        }
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "10.1.2.3", "::/0", "2001:db8::/33", "2001:db8::1"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
        assert_eq!("10.1.2.3/32".parse::<Prefix>().unwrap().to_string(), "10.1.2.3");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |text: &str| text.parse::<Prefix>().unwrap_err().to_string();
        assert!(error("10.0.0").starts_with("`10.0.0` is no address"));
        assert_eq!(error("10.0.0.0/33"), "`10.0.0.0/33` has no prefix length from 0 to 32");
        assert_eq!(error("::/129"), "`::/129` has no prefix length from 0 to 128");
        assert_eq!(error("10.0.0.1/8"), "`10.0.0.1/8` has address bits beyond its length: the prefix is 10.0.0.0/8");
    }

    #[test]
    fn a_prefix_holds_what_begins_like_it() {
        let ten: Prefix = "10.0.0.0/8".parse().unwrap();
        assert!(ten.contains("10.255.0.1".parse().unwrap()) && !ten.contains("11.0.0.1".parse().unwrap()));
        assert!(!ten.contains("::ffff:10.0.0.1".parse().unwrap()), "a mapped address is of IPv6");
        assert!(ten.covers(&"10.9.0.0/16".parse().unwrap()) && !ten.covers(&"0.0.0.0/0".parse().unwrap()));
        assert!("::/0".parse::<Prefix>().unwrap().covers(&"2001:db8::1".parse().unwrap()));
    }
}
