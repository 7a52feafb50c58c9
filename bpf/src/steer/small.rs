//! What a small rule set has instead of tries.

use std::net::IpAddr;

use middlenet_steer::{Match, Prefix, Rule};

/// For each byte of an IPv4 address and each value of it, the rules that may still match, by bit: the rules of an address are
/// those in the words of all its bytes. It takes four loads that need not wait for each other, and no branch.
pub(super) type ByByte = [[u64; 256]; 4];

/// Most rules: as many as a word has bits.
const MOST_RULES: usize = 64;

/// The rules by source.
pub(super) fn by_src(rules: &[Rule]) -> Option<ByByte> {
    by_byte(rules, |m| (!m.src.is_empty()).then_some(m.src.as_slice()))
}

/// The rules by destination.
pub(super) fn by_dst(rules: &[Rule]) -> Option<ByByte> {
    by_byte(rules, |m| match (m.dst.is_empty(), m.arp_targets.is_empty()) {
        (true, true) => None,
        (_, true) => Some(m.dst.as_slice()),
        // No IP packet has an address that ARP asks for.
        (_, false) => Some(&[]),
    })
}

/// None if some rule asks for several IPv4 prefixes, the bytes of which could not be told apart. `asked` is what a rule asks for,
/// none if it takes any address.
fn by_byte(rules: &[Rule], asked: impl Fn(&Match) -> Option<&[Prefix]>) -> Option<ByByte> {
    let mut words = [[0; 256]; 4];
    if rules.len() > MOST_RULES {
        return None;
    }
    for (bit, rule) in rules.iter().enumerate() {
        let (octets, length) = match asked(&rule.matches) {
            None => ([0; 4], 0),
            Some(prefixes) => {
                let mut of_ipv4 = prefixes.iter().filter_map(|prefix| match prefix.address() {
                    IpAddr::V4(address) => Some((address.octets(), prefix.length())),
                    IpAddr::V6(_) => None,
                });
                match (of_ipv4.next(), of_ipv4.next()) {
                    (None, _) => continue,
                    (Some(only), None) => only,
                    (Some(_), Some(_)) => return None,
                }
            }
        };
        for (byte, (words, octet)) in (0_u8..).zip(words.iter_mut().zip(octets)) {
            let asked_bits = length.saturating_sub(byte * 8).min(8);
            let mask = (0xff00_u16 >> asked_bits) as u8;
            for (value, word) in (0..=u8::MAX).zip(words) {
                *word |= u64::from((value ^ octet) & mask == 0) << bit;
            }
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use middlenet_steer::Action;

    fn rules(matches: Vec<Match>) -> Vec<Rule> {
        let rule = |matches| Rule { name: String::new(), matches, action: Action::Drop };
        matches.into_iter().map(rule).collect()
    }

    fn prefixes(prefixes: &[&str]) -> Vec<Prefix> {
        prefixes.iter().map(|prefix| prefix.parse().expect("a prefix")).collect()
    }

    fn found(words: &ByByte, octets: [u8; 4]) -> u64 {
        words.iter().zip(octets).fold(u64::MAX, |all, (words, octet)| all & words[usize::from(octet)])
    }

    #[test]
    fn the_bytes_of_an_address_leave_its_rules() {
        let of = |src: &[&str]| Match { src: prefixes(src), ..Match::default() };
        let rules =
            rules(vec![of(&["10.0.0.0/8"]), of(&["10.1.16.0/20", "fd00::/8"]), of(&["fd00::/8"]), Match::default()]);
        let words = by_src(&rules).expect("one IPv4 prefix for each");
        assert_eq!(found(&words, [10, 1, 31, 255]), 0b1011);
        assert_eq!(found(&words, [10, 1, 32, 0]), 0b1001);
        assert_eq!(found(&words, [11, 1, 16, 0]), 0b1000);
    }

    #[test]
    fn several_prefixes_cannot_be_told_apart() {
        let several = Match { dst: prefixes(&["10.0.0.0/8", "11.1.0.0/16"]), ..Match::default() };
        assert_eq!(by_dst(&rules(vec![several])), None);
        assert_eq!(by_dst(&rules(vec![Match::default(); 65])), None);
    }

    #[test]
    fn who_asks_for_arp_gets_no_ip_packet() {
        let arp_targets = prefixes(&["10.0.0.0/8"]);
        let both = Match { dst: prefixes(&["10.0.0.0/8"]), arp_targets: arp_targets.clone(), ..Match::default() };
        let words = by_dst(&rules(vec![Match { arp_targets, ..Match::default() }, both])).expect("no IP prefix");
        assert_eq!(found(&words, [10, 0, 0, 1]), 0);
    }
}
