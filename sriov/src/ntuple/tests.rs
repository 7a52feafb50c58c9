use super::*;
use middlenet_steer::PortRange;
use middlenet_steer::testkit::Draw;

const TO_VF: FilterTarget = FilterTarget::Vf { vf: 2, queue: 0 };

fn web() -> Match {
    Match {
        dst: vec!["10.1.0.0/16".parse().unwrap()],
        protocols: vec![6],
        dst_ports: vec![PortRange::from(80), PortRange::from(443)],
        fragments: Some(false),
        ..Match::default()
    }
}

fn requests(matches: &Match, to: FilterTarget) -> Vec<String> {
    filters_for(matches, to).unwrap().iter().map(ToString::to_string).collect()
}

/// What ethtool is told, word by word; in its masks a set bit is one that does not count.
#[test]
fn a_rule_is_an_exact_request() {
    assert_eq!(
        requests(&web(), TO_VF),
        [
            "flow-type tcp4 dst-ip 10.1.0.0 m 0.0.255.255 dst-port 80 vf 2 queue 0",
            "flow-type tcp4 dst-ip 10.1.0.0 m 0.0.255.255 dst-port 443 vf 2 queue 0",
        ]
    );
    let one = Match {
        src: vec!["192.0.2.1".parse().unwrap()],
        dst: vec!["0.0.0.0/0".parse().unwrap()],
        protocols: vec![17],
        src_ports: vec![PortRange { first: 5000, last: 5001 }],
        vlans: vec![10],
        dst_macs: vec![[2, 0, 0, 0, 0, 1]],
        fragments: Some(false),
        ..Match::default()
    };
    assert_eq!(
        requests(&one, FilterTarget::Drop),
        [5000, 5001].map(|port| format!(
            "flow-type udp4 src-ip 192.0.2.1 dst-ip 0.0.0.0 m 255.255.255.255 src-port {port} vlan 10 m 0xf000 dst-mac 02:00:00:00:00:01 action -1"
        ))
    );
    let ports_alone = Match { ether_types: vec![ethertype::IPV4], protocols: Vec::new(), dst: Vec::new(), ..web() };
    let flows: Vec<_> = requests(&ports_alone, TO_VF).iter().map(|r| r.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(flows, ["tcp4", "tcp4", "udp4", "udp4", "sctp4", "sctp4"]);
}

#[test]
fn what_filters_cannot_do_is_refused() {
    let v6 = Match { dst: vec!["2001:db8::/32".parse().unwrap()], ..web() };
    let both = Match { dst: Vec::new(), ..web() };
    let cases = [
        (Match { fragments: None, ..web() }, "say `fragment: false`"),
        (Match { fragments: Some(true), ..web() }, "say `fragment: false`"),
        (v6, "say `ether_type: ipv4`"),
        (both, "say `ether_type: ipv4`"),
        (Match { src_macs: vec![[2; 6]], ..web() }, "source MAC"),
        (Match { vlans: vec![0], ..web() }, "without a VLAN tag"),
        (Match { protocols: vec![1], dst_ports: Vec::new(), ..web() }, "TCP, UDP and SCTP alone"),
        (Match { protocols: Vec::new(), dst_ports: Vec::new(), ..web() }, "need a protocol"),
        (Match { dst_ports: vec![PortRange { first: 1000, last: 2000 }], ..web() }, "the rule names 1001"),
        (
            Match {
                dst_ports: vec![PortRange { first: 1, last: 33 }],
                src_ports: vec![PortRange { first: 1, last: 2 }],
                ..web()
            },
            "would take 66",
        ),
    ];
    for (matches, why) in cases {
        let refusal = filters_for(&matches, TO_VF).unwrap_err();
        assert!(refusal.contains(why), "{why}: {refusal}");
    }
}

/// As ethtool prints them: the format of its source (rxclass.c), for an ixgbe.
const LISTING: &str = "\
64 RX rings available
Total 3 rules

Filter: 2045
\tRule Type: TCP over IPv4
\tSrc IP addr: 0.0.0.0 mask: 255.255.255.255
\tDest IP addr: 10.1.0.0 mask: 0.0.255.255
\tTOS: 0x0 mask: 0xff
\tSrc port: 0 mask: 0xffff
\tDest port: 80 mask: 0x0
\tAction: Direct to VF 2 queue 0

Filter: 7
\tRule Type: UDP over IPv4
\tSrc IP addr: 192.0.2.1 mask: 0.0.0.0
\tDest IP addr: 0.0.0.0 mask: 255.255.255.255
\tTOS: 0x0 mask: 0xff
\tSrc port: 5000 mask: 0x0
\tDest port: 0 mask: 0xffff
\tVLAN EtherType: 0x0 mask: 0xffff
\tVLAN: 0xa mask: 0xf000
\tUser-defined: 0x0 mask: 0xffffffffffffffff
\tDest MAC addr: 02:00:00:00:00:01 mask: 00:00:00:00:00:00
\tAction: Drop

Filter: 8
\tRule Type: TCP over IPv4
\tSrc IP addr: 0.0.0.0 mask: 255.255.255.255
\tDest IP addr: 0.0.0.0 mask: 255.255.255.255
\tTOS: 0x10 mask: 0x0
\tSrc port: 0 mask: 0xffff
\tDest port: 22 mask: 0x0
\tAction: Direct to queue 3
";

#[test]
fn what_ethtool_lists_is_understood() {
    let found = listed(LISTING);
    let shown: Vec<String> = found.iter().map(|(number, filter)| format!("{number} {filter}")).collect();
    assert_eq!(
        shown,
        [
            "2045 flow-type tcp4 dst-ip 10.1.0.0 m 0.0.255.255 dst-port 80 vf 2 queue 0",
            "7 flow-type udp4 src-ip 192.0.2.1 src-port 5000 vlan 10 m 0xf000 dst-mac 02:00:00:00:00:01 action -1",
        ]
    );
    assert_eq!(found[0].1, filters_for(&web(), TO_VF).unwrap()[0]);
    assert!(
        listed("Total 0 rules\n").is_empty()
            && listed("rxclass: Cannot get RX class rule count: Operation not supported\n").is_empty()
    );
}

/// The filters of a rule take what the rule matches, of whatever is on the wire.
#[test]
fn filters_match_what_the_rule_matches() {
    let mut compared = 0;
    for seed in 0..4000 {
        let mut draw = Draw::from_seed(seed);
        let mut matches = draw.rule().matches;
        // Most rules that are drawn are refused at once.
        (matches.fragments, matches.src_macs) = (Some(false), Vec::new());
        matches.ether_types = vec![ethertype::IPV4];
        let Ok(filters) = filters_for(&matches, TO_VF) else { continue };
        for _ in 0..20 {
            let Some(head) = Head::parse(&draw.frame()) else { continue };
            assert_eq!(filters.iter().any(|f| f.matches(&head)), matches.matches(&head), "{matches:?} {head:?}");
            compared += 1;
        }
    }
    assert!(compared > 2000, "{compared}");
}
