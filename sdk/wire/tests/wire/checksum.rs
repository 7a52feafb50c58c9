//! The fast sum against the definition, and increments against a full recomputation.

use middlenet_wire::Ipv4Mut;
use middlenet_wire::checksum::{Delta, Sum, internet_checksum, update_ipv6, update_u16, update_u32};
use proptest::prelude::*;

use crate::frames::{UDP4, hex};

/// RFC 1071 section 1, word by word.
fn by_definition(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn matches_published_examples() {
    // RFC 1071 section 3, and the IPv4 header that encyclopedias use.
    assert_eq!(internet_checksum(&hex("0001f203f4f5f6f7")), !0xddf2);
    assert_eq!(internet_checksum(&hex("4500007300004000401100 00c0a80001c0a800c7")), 0xb861);
}

#[test]
fn of_nothing_is_all_ones_and_of_all_ones_is_zero() {
    assert_eq!(internet_checksum(&[]), 0xffff);
    assert_eq!(internet_checksum(&[0; 40]), 0xffff);
    assert_eq!(internet_checksum(&[0xff; 65535 + 1]), 0);
    assert!(Sum::new().bytes(&[0xff; 64]).is_valid());
}

#[test]
fn udp_never_sends_a_computed_zero() {
    assert_eq!(Sum::new().u16(0xffff).checksum(), 0);
    assert_eq!(Sum::new().u16(0xffff).udp_checksum(), 0xffff);
    // From RFC 1624: this change gives zero, which UDP must send as all ones; zero itself means none and stays.
    assert_eq!(Delta::new().u16(0x5555, 0x3285).apply_udp(0xdd2f), 0xffff);
    assert_eq!(Delta::new().u16(1, 2).apply_udp(0), 0);
}

#[test]
fn hop_decrement_matches_a_recomputation_for_every_ttl() {
    for ttl in 0..=255u8 {
        for id in (0..=u16::MAX).step_by(251) {
            let mut packet = hex(UDP4).split_off(14);
            let mut ip = Ipv4Mut::parse(&mut packet).unwrap();
            ip.set_id(id);
            ip.set_ttl(ttl);
            ip.view().verify_checksum().unwrap();
            let left = ip.dec_ttl();
            assert_eq!(left, if ttl > 1 { Some(ttl - 1) } else { None });
            assert_eq!(ip.view().ttl(), left.unwrap_or(ttl));
            let incremental = ip.view().checksum();
            ip.fill_checksum();
            assert_eq!(ip.view().checksum(), incremental, "ttl {ttl} id {id}");
        }
    }
}

#[test]
fn hop_decrement_agrees_with_equation_3_for_every_checksum() {
    for checksum in 0..=u16::MAX {
        let mut packet = hex(UDP4).split_off(14);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        Ipv4Mut::parse(&mut packet).unwrap().dec_ttl();
        let expected = update_u16(checksum, 0x4011, 0x3f11);
        assert_eq!(packet[10..12], expected.to_be_bytes(), "from {checksum:#06x}");
    }
}

proptest! {
    #[test]
    fn fast_sum_is_the_defined_one(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(internet_checksum(&bytes), by_definition(&bytes));
    }

    #[test]
    fn sum_of_pieces_is_that_of_the_whole(
        mut a in prop::collection::vec(any::<u8>(), 0..80), b in prop::collection::vec(any::<u8>(), 0..80), w: u16, d: u32,
    ) {
        a.truncate(a.len() / 2 * 2);
        let pieces = Sum::new().bytes(&a).u16(w).u32(d).bytes(&b).checksum();
        let whole = [&a[..], &w.to_be_bytes(), &d.to_be_bytes(), &b[..]].concat();
        prop_assert_eq!(pieces, by_definition(&whole));
    }

    #[test]
    fn long_runs_do_not_overflow(words in prop::collection::vec(any::<u32>(), 1..50)) {
        let sum = words.iter().cycle().take(5000).fold(Sum::new(), |sum, word| sum.u32(*word));
        let bytes: Vec<u8> = words.iter().cycle().take(5000).flat_map(|word| word.to_be_bytes()).collect();
        prop_assert_eq!(sum.checksum(), by_definition(&bytes));
    }

    #[test]
    fn increments_equal_a_recomputation(
        before in prop::collection::vec(any::<u8>(), 40), at in 0usize..12, new in any::<[u8; 16]>(),
    ) {
        // The message must not be all zeros: only then is its checksum all ones, which equation 3 never gives.
        prop_assume!(before.iter().any(|byte| *byte != 0) && new != [0; 16]);
        let (at, old_checksum) = (at * 2, internet_checksum(&before));
        let word = |bytes: &[u8], len: usize| {
            bytes[at..at + len].iter().fold(0u128, |word, byte| word << 8 | u128::from(*byte))
        };
        for len in [2, 4, 16] {
            let mut after = before.clone();
            after[at..at + len].copy_from_slice(&new[..len]);
            prop_assume!(after.iter().any(|byte| *byte != 0));
            let (old, new) = (word(&before, len), word(&after, len));
            let updated = match len {
                2 => update_u16(old_checksum, old as u16, new as u16),
                4 => update_u32(old_checksum, old as u32, new as u32),
                _ => update_ipv6(old_checksum, old.into(), new.into()),
            };
            prop_assert_eq!(updated, internet_checksum(&after), "{} bytes at {}", len, at);
        }
    }

    #[test]
    fn many_changes_in_one_delta(changes in prop::collection::vec((any::<u16>(), any::<u16>()), 1..200)) {
        let bytes = |pick: fn(&(u16, u16)) -> u16| -> Vec<u8> {
            // The leading one keeps the message from being all zeros.
            std::iter::once(1).chain(changes.iter().map(pick)).flat_map(u16::to_be_bytes).collect()
        };
        let (before, after) = (bytes(|change| change.0), bytes(|change| change.1));
        let delta = changes.iter().fold(Delta::new(), |delta, (old, new)| delta.u16(*old, *new));
        prop_assert_eq!(delta.apply(internet_checksum(&before)), internet_checksum(&after));
    }
}
