use super::*;
use middlenet_sdk::testkit::Testkit;
use middlenet_sdk::wire::{PacketBuilder, VlanTag};
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

fn kit(config: Value) -> Testkit<RateLimiter> {
    Testkit::new(config)
}

fn from(source: [u8; 4], port: u16) -> Vec<u8> {
    PacketBuilder::new().ipv4(source.into(), Ipv4Addr::new(192, 0, 2, 1)).udp(port, 53).padded().build()
}

fn passed(kit: &mut Testkit<RateLimiter>, port: &str, packets: &[Vec<u8>]) -> usize {
    let outcomes = kit.run(port, packets);
    let exceeded = Verdict::Drop(DropReason::RATE_EXCEEDED);
    assert!(outcomes.iter().all(|o| o.verdict == Verdict::Next || o.verdict == exceeded));
    outcomes.iter().filter(|o| o.verdict == Verdict::Next).count()
}

#[test]
fn over_a_second_the_rate_passes_and_not_a_packet_more() {
    // An odd rate and odd steps: rounding would show.
    let mut kit = kit(json!({"rate": "997pps", "burst": 10}));
    let packet = [from([10, 0, 0, 1], 1)];
    assert_eq!(passed(&mut kit, "left", &vec![packet[0].clone(); 64]), 10);
    let mut count = 0;
    let step_ns = 333_333;
    for _ in 0..3000 {
        kit.advance(Duration::from_nanos(step_ns));
        count += passed(&mut kit, "left", &packet);
    }
    let expected = 997 * 3000 * step_ns / 1_000_000_000;
    assert!(count.abs_diff(expected as usize) <= 1, "{count} of {expected}");
}

#[test]
fn bits_are_counted_from_the_ethernet_header() {
    let mut kit = kit(json!({"rate": "480kbps", "burst": "600B"}));
    let packets = vec![from([10, 0, 0, 1], 1); 64];
    assert_eq!(packets[0].len(), 60);
    assert_eq!(passed(&mut kit, "left", &packets), 10);
    let mut count = 0;
    for _ in 0..1000 {
        kit.advance(Duration::from_millis(1));
        count += passed(&mut kit, "left", &packets[..2]);
    }
    assert!(count.abs_diff(1000) <= 1, "{count}");
    kit.advance(Duration::from_secs(3600));
    assert_eq!(passed(&mut kit, "left", &packets), 10, "a long pause gives one burst");
    assert_eq!(kit.counter("limited-bytes"), kit.counter("limited") * 60);
}

#[test]
fn each_source_prefix_has_its_bucket() {
    let mut kit = kit(json!({"rate": "1pps", "burst": 1, "per": "source", "prefix4": 24, "prefix6": 56}));
    let v6 = |last: u16| {
        let source = Ipv6Addr::new(0x2001, 0xdb8, 0, last, 0, 0, 0, 1);
        PacketBuilder::new().vlan(VlanTag::customer(2)).ipv6(source, Ipv6Addr::LOCALHOST).udp(1, 2).build()
    };
    let packets =
        [from([10, 0, 0, 1], 1), from([10, 0, 0, 200], 9), from([10, 0, 1, 1], 1), v6(1), v6(0xff), v6(0x100)];
    let fates: Vec<_> = kit.run("left", &packets).iter().map(|o| o.verdict == Verdict::Next).collect();
    assert_eq!(fates, [true, false, true, true, false, true]);
    kit.tick();
    assert_eq!(kit.counter("buckets"), 4);
    kit.advance(Duration::from_secs(2));
    kit.tick();
    assert_eq!(kit.counter("buckets"), 0, "full buckets are forgotten");
}

#[test]
fn both_directions_of_a_flow_share_a_bucket_and_destinations_do_not_mix() {
    let there = PacketBuilder::new().ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into()).udp(1, 2).build();
    let back = PacketBuilder::new().ipv4([10, 0, 0, 2].into(), [10, 0, 0, 1].into()).udp(2, 1).build();
    let mut flows = kit(json!({"rate": "1pps", "burst": 1, "per": "flow"}));
    assert_eq!(passed(&mut flows, "left", std::slice::from_ref(&there)), 1);
    assert_eq!(passed(&mut flows, "right", std::slice::from_ref(&back)), 0);
    let mut destinations = kit(json!({"rate": "1pps", "burst": 1, "per": "destination"}));
    assert_eq!(passed(&mut destinations, "left", std::slice::from_ref(&there)), 1);
    assert_eq!(passed(&mut destinations, "right", &[back]), 1);
}

#[test]
fn only_the_chosen_direction_is_limited() {
    for (direction, left, right) in [("forward", 1, 5), ("reverse", 5, 1), ("both", 1, 0)] {
        let mut kit = kit(json!({"rate": "1pps", "burst": 1, "direction": direction}));
        let packets = vec![from([10, 0, 0, 1], 1); 5];
        assert_eq!((passed(&mut kit, "left", &packets), passed(&mut kit, "right", &packets)), (left, right));
    }
}

#[test]
fn a_flood_of_sources_shares_one_bucket() {
    let mut kit = kit(json!({"rate": "1pps", "burst": 2, "per": "source", "buckets": 8}));
    let packets: Vec<_> = (0..100).map(|n| from([10, 0, 0, n], 1)).collect();
    assert_eq!(passed(&mut kit, "left", &packets), 8 + 2);
    assert_eq!(kit.counter("shared"), 92);
    kit.advance(Duration::from_secs(3));
    assert_eq!(passed(&mut kit, "left", &packets[50..54]), 4, "idle buckets make room");
}

#[test]
fn a_change_of_configuration_keeps_buckets_of_the_same_rate_only() {
    let config = json!({"rate": "1pps", "burst": 1, "per": "source"});
    let mut kit = kit(config.clone());
    let packet = [from([10, 0, 0, 1], 1)];
    assert_eq!(passed(&mut kit, "left", &packet), 1);
    kit.reconfigure(config).unwrap();
    assert_eq!(passed(&mut kit, "left", &packet), 0);
    kit.reconfigure(json!({"rate": "2pps", "burst": 1, "per": "source"})).unwrap();
    assert_eq!(passed(&mut kit, "left", &packet), 1);
}

#[test]
fn the_highest_rates_work_without_a_burst_size() {
    for rate in ["1Tbps", "1Tpps", "1pps", "1bps"] {
        let mut kit = kit(json!({"rate": rate}));
        assert_eq!(passed(&mut kit, "left", &[from([10, 0, 0, 1], 1)]), 1, "{rate}");
        kit.advance(Duration::from_secs(1 << 30));
        assert_eq!(passed(&mut kit, "left", &[from([10, 0, 0, 1], 1)]), 1, "{rate}");
    }
}

#[test]
fn rates_and_bursts_are_read_exactly() {
    use quantity::{burst, rate};
    let bits = |n| Ok((n, Unit::Bits));
    assert_eq!(rate("10Mbps"), bits(10_000_000));
    assert_eq!(rate("1.5 Gbps"), bits(1_500_000_000));
    assert_eq!(rate("800kbit/s"), bits(800_000));
    assert_eq!(rate("5kpps"), Ok((5000, Unit::Packets)));
    assert_eq!(burst("64KB", Unit::Bits), Ok(512_000));
    assert_eq!(burst("1Mbit", Unit::Bits), Ok(1_000_000));
    assert_eq!(burst("2k", Unit::Packets), Ok(2000));
}

#[test]
fn configuration_errors_name_the_value_and_the_remedy() {
    let cases = [
        (json!({"rate": "fast"}), "`fast`", "10Mbps"),
        (json!({"rate": "10"}), "has no unit", "10Mbps"),
        (json!({"rate": "10MBps"}), "bytes or bits", "bits"),
        (json!({"rate": "0pps"}), "lets nothing pass", "firewall"),
        (json!({"rate": "1.2.3Mbps"}), "no number", "10Mbps"),
        (json!({"rate": "9Tbps"}), "above", "10Mbps"),
        (json!({"rate": "1Mbps", "burst": 100}), "does not fit", "64KB"),
        (json!({"rate": "1pps", "burst": "64KB"}), "does not fit", "packets"),
        (json!({"rate": "1pps", "burst": 0}), "does not fit", "nothing"),
        (json!({"rate": "1Mbps", "burst": "99GB"}), "too large", "2 GB"),
        (json!({"rate": "1pps", "prefix4": 33}), "`prefix4` of 33", "0 to 32"),
        (json!({"rate": "1pps", "buckets": 0}), "`buckets` of 0", "bytes"),
    ];
    for (config, message, hint) in cases {
        let error =
            Testkit::<RateLimiter>::try_new(config.clone()).err().unwrap_or_else(|| panic!("accepted: {config}"));
        assert!(error.message.contains(message), "{}", error.message);
        assert!(error.hint.as_deref().is_some_and(|h| h.contains(hint)), "{:?} lacks {hint}", error.hint);
    }
}

proptest! {
    /// Whatever arrives when, no more passes than burst + rate × time, and when demand never pauses, no less.
    #[test]
    fn never_more_than_the_rate(rate in 1u64..100_000, burst in 1u64..50, steps in proptest::collection::vec(0u64..5_000_000, 1..200)) {
        let shape = Shape::new(rate, burst).unwrap();
        let (mut bucket, mut now, mut passed) = (Bucket::full(&shape, 0), 0u64, 0u64);
        for step in std::iter::once(0).chain(steps) {
            now += step;
            while bucket.take(&shape, 1, now) { passed += 1; }
            let allowed = u128::from(burst) + u128::from(rate) * u128::from(now) / u128::from(bucket::UNITS);
            prop_assert!(u128::from(passed) <= allowed);
            if burst > 2 + 5_000_000 * rate / bucket::UNITS {
                prop_assert_eq!(u128::from(passed), allowed);
            }
        }
    }

    /// No bytes make the limiter panic.
    #[test]
    fn random_bytes_are_harmless(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 1..70), per in 0usize..4) {
        let per = ["all", "flow", "source", "destination"][per];
        let mut kit = kit(json!({"rate": "1pps", "burst": 5, "per": per, "buckets": 4}));
        prop_assert_eq!(kit.run("left", &packets).len(), packets.len());
        kit.tick();
    }
}
