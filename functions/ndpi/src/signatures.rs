//! Files of signatures (nDPI's `-p`): `tcp:81,tcp:8181@HTTP`, `host:"example.org"@Example`, `ip:192.0.2.0/24@Example`.

use std::path::Path;

use crate::Error;

/// How the parts in front of the name may begin.
const KINDS: [&str; 4] = ["tcp:", "udp:", "ip:", "host:"];
/// Lines without a name, which set what nDPI thinks of risks.
const RISKS: [&str; 3] = ["ip_risk_mask:", "host_risk_mask:", "trusted_issuer_dn:"];
/// Bytes of nDPI's own line buffer, with the end of line and of string.
const MOST_BYTES: usize = 510;

/// Reads a file and says which line nDPI would not understand.
pub(crate) fn check(path: &Path) -> Result<(), Error> {
    let text = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    for (at, line) in text.split(|&byte| byte == b'\n').enumerate() {
        problem(line)
            .map_or(Ok(()), |problem| Err(Error::Signature { path: path.to_owned(), line: at + 1, problem }))?;
    }
    Ok(())
}

fn problem(line: &[u8]) -> Option<&'static str> {
    let Ok(line) = std::str::from_utf8(line) else { return Some("is no text") };
    let line = line.trim_end();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    if line.len() > MOST_BYTES {
        return Some("is longer than 510 bytes");
    }
    if line.contains('\0') {
        return Some("is no text");
    }
    if RISKS.iter().any(|kind| line.starts_with(kind)) {
        return None;
    }
    let Some((parts, name)) = line.rsplit_once('@') else { return Some("names no protocol: write `tcp:81@HTTP`") };
    let name = name.trim();
    if name.is_empty() {
        return Some("names no protocol: write `tcp:81@HTTP`");
    }
    if name.contains('=') {
        return Some("gives its protocol a number: leave `=NUMBER` out");
    }
    let is_known = |part: &str| {
        KINDS.iter().any(|kind| part.strip_prefix(kind).is_some_and(|value| !value.trim_matches('"').is_empty()))
    };
    if !parts.split(',').map(str::trim).all(is_known) {
        return Some("has a part that is none of `tcp:PORT`, `udp:PORT`, `ip:ADDRESS`, `host:\"NAME\"`");
    }
    let of_ports = |part: &str| ["tcp:", "udp:"].iter().find_map(|kind| part.strip_prefix(kind)).map(names_ports);
    if parts.split(',').map(str::trim).filter_map(of_ports).any(|is_well| !is_well) {
        return Some("names a port that is none: write one from 1 to 65535, or `FIRST-LAST`");
    }
    None
}

/// Whether this is a port, or two with all between them.
fn names_ports(text: &str) -> bool {
    let port = |text: &str| text.parse().ok().filter(|&port: &u16| port > 0 && !text.starts_with('+'));
    match text.split_once('-') {
        Some((first, last)) => port(first).zip(port(last)).is_some_and(|(first, last)| first <= last),
        None => port(text).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_manual_shows_is_taken() {
        let lines = [
            "#  Format:",
            "",
            "tcp:81,tcp:8181@HTTP",
            "udp:5061-5062@SIP\r",
            "tcp:860,udp:860,tcp:3260,udp:3260@iSCSI",
            "host:\"disneyplus.com\",host:\"cdn.registerdisney.go.com\"@DisneyPlus",
            "ip:213.75.170.11/32:443@CustomProtocol",
            "host_risk_mask:\".home\"=0",
            "trusted_issuer_dn:\"CN=813845657003339838, O=Code42\"",
        ];
        for line in lines {
            assert_eq!(problem(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn what_would_be_passed_over_is_refused() {
        let long = format!("host:\"{}\"@Long", "x".repeat(510));
        for line in ["tcp:81", "tcp:81@", "81@HTTP", "tcp:@HTTP", "host:\"\"@X", "tcp:81@Mine=700", "sctp:1@X", &long] {
            assert!(problem(line.as_bytes()).is_some(), "{line}");
        }
        for ports in ["http", "0", "65536", "+81", "81-", "-81", "82-81", "81-82-83", "81 82"] {
            for line in [format!("tcp:{ports}@X"), format!("udp:1,udp:{ports}@X")] {
                assert!(problem(line.as_bytes()).is_some_and(|problem| problem.contains("port")), "{line}");
            }
        }
        assert!(problem(b"tcp:81@\xff").is_some());
        assert!(problem(b"tcp:81\0@HTTP").is_some());
    }
}
