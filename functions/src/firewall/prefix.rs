//! Address ranges as configurations write them.

use middlenet_sdk::ConfigError;
use std::net::{IpAddr, Ipv4Addr};

/// Where IPv4 addresses lie among the 128-bit ones (RFC 4291 section 2.5.5.2).
const MAPPED: u128 = 0xffff_0000_0000;

/// Addresses from `first` to `last` inclusive; IPv4 as IPv4-mapped IPv6, so that one order holds all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressRange {
    pub(crate) first: u128,
    pub(crate) last: u128,
}

impl AddressRange {
    /// Reads `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.1` or `192.0.2.1-192.0.2.9`. `what` names the value in the error.
    ///
    /// IPv6 around the place of IPv4, as `::/0`, is two ranges: none of IPv6 holds an address of IPv4.
    pub(crate) fn parse(text: &str, what: &str) -> Result<Vec<Self>, ConfigError> {
        Self::parse_one(text, what).map(Self::without_ipv4)
    }

    fn parse_one(text: &str, what: &str) -> Result<Self, ConfigError> {
        let wrong = |why: &str| {
            ConfigError::new(format!("{what} `{text}` {why}")).with_hint(
                "write an address, a prefix like 10.0.0.0/8 or 2001:db8::/32, or a range like 10.0.0.1-10.0.0.9",
            )
        };
        let address = |part: &str| part.trim().parse::<IpAddr>().map_err(|_| wrong("is no address or prefix"));
        if let Some((first, last)) = text.split_once('-') {
            let (first, last) = (address(first)?, address(last)?);
            if first.is_ipv4() != last.is_ipv4() || first > last {
                return Err(wrong("is no range: it ends before it begins, or mixes IPv4 and IPv6"));
            }
            return Ok(Self { first: number(first), last: number(last) });
        }
        let (base, length) = match text.split_once('/') {
            Some((base, length)) => {
                let length: u32 = length.trim().parse().map_err(|_| wrong("has no number after the slash"))?;
                (address(base)?, Some(length))
            }
            None => (address(text)?, None),
        };
        let width = if base.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(width);
        if length > width {
            return Err(wrong(&format!("has a prefix length above {width}")));
        }
        let hosts = if length == 0 && width == 128 { u128::MAX } else { (1u128 << (width - length)) - 1 };
        let first = number(base);
        if first & hosts != 0 {
            let network = address_of(first & !hosts);
            return Err(ConfigError::new(format!("{what} `{text}` has address bits beyond its prefix length"))
                .with_hint(format!("the prefix is {network}/{length}")));
        }
        Ok(Self { first, last: first | hosts })
    }

    fn without_ipv4(self) -> Vec<Self> {
        if is_mapped(self.first) && is_mapped(self.last) {
            return vec![self];
        }
        let below = Self { first: self.first, last: self.last.min(MAPPED - 1) };
        let above = Self { first: self.first.max(MAPPED + (1 << 32)), last: self.last };
        [below, above].into_iter().filter(|range| range.first <= range.last).collect()
    }

    /// Whether the range holds the address.
    #[inline]
    pub(crate) fn contains(&self, address: u128) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// Whether it is of IPv4.
    pub(crate) fn is_ipv4(&self) -> bool {
        is_mapped(self.first) && is_mapped(self.last)
    }
}

/// The address as a number.
#[inline]
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => MAPPED | u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The number as an address.
#[inline]
pub(crate) fn address_of(number: u128) -> IpAddr {
    if is_mapped(number) { Ipv4Addr::from_bits(number as u32).into() } else { IpAddr::V6(number.into()) }
}

/// Whether the number is an IPv4 address.
#[inline]
pub(crate) fn is_mapped(number: u128) -> bool {
    number >> 32 == MAPPED >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ipv6_hold_no_address_of_ipv4() {
        let holds = |text: &str, address: &str| {
            let ranges = AddressRange::parse(text, "`src`").unwrap();
            ranges.iter().any(|range| range.contains(number(address.parse().unwrap())))
        };
        for all in ["::/0", "::/1", "::/64", "::-ffff::"] {
            assert!(!holds(all, "0.0.0.0") && !holds(all, "192.0.2.1") && !holds(all, "255.255.255.255"), "{all}");
            assert!(holds(all, "::1") && holds(all, "::fffe:ffff:ffff") && holds(all, "0:0:0:0:1::"), "{all}");
        }
        assert!(holds("::/0", "2001:db8::1") && holds("0.0.0.0/0", "192.0.2.1") && !holds("0.0.0.0/0", "::1"));
        assert_eq!(AddressRange::parse("2001:db8::/32", "`src`").unwrap().len(), 1);
        assert_eq!(AddressRange::parse("::ffff:192.0.2.0/120", "`src`").unwrap().len(), 1);
    }
}
