//! Names of devices: PCI addresses and link addresses.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A PCI function, `0000:01:10.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// The segment, mostly 0.
    pub domain: u32,
    /// The bus.
    pub bus: u8,
    /// The device, below 32.
    pub device: u8,
    /// The function, below 8.
    pub function: u8,
}

impl PciAddress {
    /// The address whose routing id lies `distance` further: where a PF's VFs are found (SR-IOV specification, "First VF Offset").
    /// Nothing if that bus does not exist.
    pub fn further(self, distance: u32) -> Option<Self> {
        let id = u32::from(self.bus) << 8 | u32::from(self.device) << 3 | u32::from(self.function);
        let id = u16::try_from(id.checked_add(distance)?).ok()?;
        let [bus, rest] = id.to_be_bytes();
        Some(Self { domain: self.domain, bus, device: rest >> 3, function: rest & 7 })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

/// Text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}")]
pub struct NoAddress {
    text: String,
    what: &'static str,
}

impl FromStr for PciAddress {
    type Err = NoAddress;

    /// With or without the domain.
    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let read = || {
            let (rest, function) = text.rsplit_once('.')?;
            let mut parts = rest.rsplitn(3, ':');
            let (device, bus, domain) = (parts.next()?, parts.next()?, parts.next());
            let hex = |digits: &str, most: usize| {
                let plain = !digits.is_empty() && digits.len() <= most && digits.bytes().all(|b| b.is_ascii_hexdigit());
                plain.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
            };
            let byte = |digits: &str, most: usize, below: u8| {
                let byte = u8::try_from(hex(digits, most)?).ok()?;
                (below == 0 || byte < below).then_some(byte)
            };
            Some(Self {
                domain: domain.map_or(Some(0), |d| hex(d, 8))?,
                bus: byte(bus, 2, 0)?,
                device: byte(device, 2, 32)?,
                function: byte(function, 1, 8)?,
            })
        };
        read().ok_or_else(|| NoAddress { text: text.into(), what: "PCI address" })
    }
}

/// A link address of six bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of no device: what drivers show for a VF whose address has not been set.
    pub const ZERO: Self = Self([0; 6]);

    /// Whether a device may have it as its own: neither zero nor of a group.
    pub fn is_of_a_device(self) -> bool {
        self != Self::ZERO && self.0[0] & 1 == 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        let fits = bytes.iter_mut().all(|byte| {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            part.and_then(|p| u8::from_str_radix(p, 16).ok()).map(|value| *byte = value).is_some()
        });
        match fits && parts.next().is_none() {
            true => Ok(Self(bytes)),
            false => Err(NoAddress { text: text.into(), what: "link address" }),
        }
    }
}

macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

as_text!(PciAddress);
as_text!(Mac);

#[cfg(test)]
mod tests {
    use super::*;

    fn pci(text: &str) -> PciAddress {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_read_and_written() {
        assert_eq!(pci("0000:01:10.1").to_string(), "0000:01:10.1");
        assert_eq!(pci("01:1f.7").to_string(), "0000:01:1f.7");
        assert_eq!(pci("10000:e1:00.0").to_string(), "10000:e1:00.0");
        for wrong in
            ["", "eth0", "0000:01:20.0", "0000:01:10.8", "0000:01:10", ":01:10.0", "0:0:0:1.0", "net_null0", "+1:00.0"]
        {
            assert!(wrong.parse::<PciAddress>().is_err(), "{wrong}");
        }
        let mac: Mac = "52:54:00:AA:00:10".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:aa:00:10");
        assert!(mac.is_of_a_device() && !Mac::ZERO.is_of_a_device() && !Mac([1, 0, 0, 0, 0, 1]).is_of_a_device());
        for wrong in ["52:54:00:aa:00", "52:54:00:aa:00:10:11", "52:54:00:aa:00:1", "52:54:00:aa:00:gg", ""] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }

    /// An 82576 has its first VF 128 further and the next one 2 further; 82599 and others may cross to the next bus.
    #[test]
    fn virtual_functions_lie_further() {
        assert_eq!(pci("01:00.0").further(128), Some(pci("01:10.0")));
        assert_eq!(pci("01:00.1").further(128 + 2), Some(pci("01:10.3")));
        assert_eq!(pci("01:00.0").further(384), Some(pci("02:10.0")));
        assert_eq!(pci("ff:00.0").further(384), None);
    }
}
