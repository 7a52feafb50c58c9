//! The name in `Host`, as rules compare it.

/// The host without its port and a final dot, in lower case; `room` is written to where it is not so already.
#[inline]
pub(crate) fn normal<'a>(host: &'a [u8], room: &'a mut Vec<u8>) -> &'a [u8] {
    let name = match host.iter().rposition(|&b| b == b':') {
        // Colons in brackets are those of an address.
        Some(colon) if !host[colon..].contains(&b']') => &host[..colon],
        _ => host,
    };
    let name = name.strip_suffix(b".").unwrap_or(name);
    if !name.iter().any(u8::is_ascii_uppercase) {
        return name;
    }
    room.clear();
    room.extend(name.iter().map(u8::to_ascii_lowercase));
    room
}

#[cfg(test)]
mod tests {
    use super::normal;

    #[test]
    fn one_spelling_for_each_host() {
        for (host, name) in [
            ("a.example", "a.example"),
            ("A.Example:8080", "a.example"),
            ("a.example.:80", "a.example"),
            ("[::1]:80", "[::1]"),
            ("[FE80::1]", "[fe80::1]"),
            ("", ""),
            (":80", ""),
        ] {
            assert_eq!(normal(host.as_bytes(), &mut Vec::new()), name.as_bytes(), "{host}");
        }
    }
}
