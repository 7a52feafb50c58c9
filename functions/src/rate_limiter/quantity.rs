//! Rates and sizes as configurations write them: `10Mbps`, `5kpps`, `64KB`.

use middlenet_sdk::ConfigError;

/// What a bucket counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Bits of packets from the Ethernet header on, without FCS, preamble and gap.
    Bits,
    /// Packets.
    Packets,
}

/// Largest rate: 1 Tbit/s.
const MAX_PER_SECOND: u64 = 1_000_000_000_000;

/// Reads a rate: a number, optionally with a fraction, then `bps` or `pps` after an optional k, M or G (powers of 1000).
pub(super) fn rate(text: &str) -> Result<(u64, Unit), ConfigError> {
    let wrong = |why: &str| {
        ConfigError::new(format!("`rate` `{text}` {why}")).with_hint("write it like 10Mbps, 1.5Gbps, 5kpps or 200pps")
    };
    let (number, unit) = split(text);
    let lower = unit.to_ascii_lowercase();
    let (prefix, unit) = if let Some(prefix) = lower.strip_suffix("bps").or_else(|| lower.strip_suffix("bit/s")) {
        // `MBps` is a thousand million bytes to some and bits to others.
        if unit.contains("Bps") {
            return Err(
                wrong("could mean bytes or bits").with_hint("rates are in bits: 80Mbps is 10 megabytes a second")
            );
        }
        (prefix, Unit::Bits)
    } else if let Some(prefix) = lower.strip_suffix("pps") {
        (prefix, Unit::Packets)
    } else if unit.is_empty() {
        return Err(wrong("has no unit"));
    } else {
        return Err(wrong("has an unknown unit"));
    };
    let factor = thousands(prefix).ok_or_else(|| wrong("has an unknown unit"))?;
    let value = scaled(number, factor).ok_or_else(|| wrong("is no number with a unit"))?;
    match value {
        0 => Err(wrong("lets nothing pass").with_hint("to block traffic, use a firewall rule")),
        value if value > MAX_PER_SECOND => Err(wrong("is above 1 Tbit/s or 1 Tpps")),
        value => Ok((value, unit)),
    }
}

/// Reads a burst size in the unit of the rate: `100` packets, or `64KB`, `1500B`, `1Mbit` for rates in bits.
pub(super) fn burst(text: &str, unit: Unit) -> Result<u64, ConfigError> {
    let wrong = |hint: &str| ConfigError::new(format!("`burst` `{text}` does not fit the rate's unit")).with_hint(hint);
    let (number, suffix) = split(text);
    let lower = suffix.to_ascii_lowercase();
    let value = match unit {
        Unit::Packets => {
            let hint = "with a rate in packets, write a number of packets like 100 or 2k";
            let prefix = lower.trim_end_matches("packets").trim_end_matches("pkts").trim();
            thousands(prefix).and_then(|factor| scaled(number, factor)).ok_or_else(|| wrong(hint))?
        }
        Unit::Bits => {
            let hint = "with a rate in bits, write it like 64KB, 1500B or 1Mbit";
            let (prefix, bits) = match lower.strip_suffix("bit") {
                Some(prefix) => (prefix, 1),
                None => (lower.strip_suffix('b').ok_or_else(|| wrong(hint))?, 8),
            };
            let value = thousands(prefix).and_then(|factor| scaled(number, factor)).ok_or_else(|| wrong(hint))?;
            value.checked_mul(bits).ok_or_else(|| wrong(hint))?
        }
    };
    if value == 0 {
        return Err(wrong("a burst of nothing lets no packet pass"));
    }
    Ok(value)
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim())
}

fn thousands(prefix: &str) -> Option<u64> {
    Some(match prefix.trim() {
        "" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "t" => 1_000_000_000_000,
        _ => return None,
    })
}

/// `number` with up to nine decimals, times `factor`, without floating point.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 9 {
        return None;
    }
    let parse = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u64>().ok() };
    let whole = parse(whole)?.checked_mul(factor)?;
    let fraction = u128::from(parse(fraction)?) * u128::from(factor) / 10u128.pow(fraction.len() as u32);
    whole.checked_add(u64::try_from(fraction).ok()?)
}
