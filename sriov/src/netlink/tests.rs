use super::*;

/// An attribute as linux/netlink.h has it: length, type, value, padding to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `struct nlmsghdr` and `struct ifinfomsg` before attributes.
fn set_link(index: u32, flags: u32, change: u32, attributes: &[u8]) -> Vec<u8> {
    const RTM_SETLINK: u16 = 19;
    const REQUEST_ACK: u16 = 1 | 4;
    let length = u32::try_from(16 + 16 + attributes.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend([RTM_SETLINK.to_ne_bytes(), REQUEST_ACK.to_ne_bytes()].concat());
    bytes.extend([7_u32.to_ne_bytes(), 0_u32.to_ne_bytes()].concat());
    bytes.extend([0_u32, index, flags, change].iter().flat_map(|n| n.to_ne_bytes()));
    bytes.extend(attributes);
    bytes
}

/// What `ip link set eth1 vf 3 ...` sends, by linux/if_link.h.
#[test]
fn a_setting_of_a_virtual_function_is_one_attribute() {
    const IFLA_VFINFO_LIST: u16 = 22;
    const IFLA_VF_INFO: u16 = 1;
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<u8>>();
    let mac = Mac([0x52, 0x54, 0, 0xaa, 0, 0x10]);
    let mut mac_value = 3_u32.to_ne_bytes().to_vec();
    mac_value.extend(mac.0);
    mac_value.resize(4 + 32, 0);
    let cases = [
        (VfSetting::Mac(mac), 1, mac_value),
        (VfSetting::Vlan(10, 2), 2, words(&[3, 10, 2])),
        (VfSetting::SpoofCheck(true), 4, words(&[3, 1])),
        (VfSetting::SpoofCheck(false), 4, words(&[3, 0])),
        (VfSetting::Rate(10, 1000), 6, words(&[3, 10, 1000])),
        (VfSetting::Trust(true), 9, words(&[3, 1])),
    ];
    for (setting, kind, value) in cases {
        let list = attribute(IFLA_VFINFO_LIST, &attribute(IFLA_VF_INFO, &attribute(kind, &value)));
        let bytes = encode(vf_request(5, 3, setting), NLM_F_ACK, 7);
        assert_eq!(bytes, set_link(5, 0, 0, &list), "{setting:?}");
        let decoded = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).unwrap();
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::SetLink(message)) = decoded.payload else {
            panic!("{decoded:?}");
        };
        let settings = read_link(&message).vfs[0];
        assert_eq!(setting.of(&settings), setting);
    }
}

#[test]
fn an_interface_is_set_up_and_down_alone() {
    assert_eq!(encode(up_request(5, true), NLM_F_ACK, 7), set_link(5, 1, 1, &[]));
    assert_eq!(encode(up_request(5, false), NLM_F_ACK, 7), set_link(5, 0, 1, &[]));
}

#[test]
fn an_address_is_asked_for_with_its_family() {
    for (address, family, prefix) in [("10.0.0.11", 2, 24), ("fd00::11", 10, 64)] {
        let address: IpAddr = address.parse().unwrap();
        let bytes = encode(address_request(9, address, prefix, true), NLM_F_ACK, 1);
        // RTM_NEWADDR, then struct ifaddrmsg.
        assert_eq!((bytes[4], bytes[16], bytes[17]), (20, family, prefix));
        assert_eq!(bytes[20..24], 9_u32.to_ne_bytes());
        assert_eq!(encode(address_request(9, address, prefix, false), NLM_F_ACK, 1)[4], 21);
        let decoded = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).unwrap();
        let NetlinkPayload::InnerMessage(message) = decoded.payload else { panic!("{address}") };
        let mut links = [Link { index: 9, ..Link::default() }];
        read_about(&message, &mut links);
        assert_eq!(links[0].addresses, [(address, prefix)]);
    }
}

/// A PF's link as igb reports it, with what a bridge port and an XDP program add.
#[test]
fn a_link_is_understood() {
    let mut message = LinkMessage::default();
    message.header.index = 3;
    message.header.flags = LinkFlags::Up | LinkFlags::Broadcast;
    message.attributes = vec![
        LinkAttribute::IfName("eth1".into()),
        LinkAttribute::Mtu(1500),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
        LinkAttribute::Controller(8),
        LinkAttribute::Xdp(vec![LinkXdp::ProgId(77)]),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
        LinkAttribute::VfInfoList(vec![
            LinkVfInfo(vec![
                VfInfo::Mac(VfInfoMac::new(0, &[2, 0, 0, 0, 1, 0])),
                VfInfo::Vlan(VfInfoVlan::new(0, 10, 1)),
            ]),
            LinkVfInfo(vec![
                VfInfo::Mac(VfInfoMac::new(1, &[0; 6])),
                VfInfo::Rate(VfInfoRate::new(1, 0, 100)),
                VfInfo::SpoofCheck(VfInfoSpoofCheck::new(1, true)),
                VfInfo::Trust(VfInfoTrust::new(1, true)),
            ]),
        ]),
    ];
    let link = read_link(&message);
    assert_eq!((link.index, link.name.as_str(), link.up, link.mtu), (3, "eth1", true, 1500));
    assert_eq!((link.mac, link.member_of, link.xdp), (Some(Mac([2, 0, 0, 0, 0, 1])), Some(8), Some(77)));
    assert_eq!(link.kind.as_deref(), Some("veth"));
    let first = VfSettings { vf: 0, mac: Some(Mac([2, 0, 0, 0, 1, 0])), vlan: 10, qos: 1, ..VfSettings::default() };
    let second = VfSettings {
        vf: 1,
        mac: Some(Mac::ZERO),
        max_rate_mbps: 100,
        spoof_check: true,
        trust: true,
        ..VfSettings::default()
    };
    assert_eq!(link.vfs, [first, second]);
}

#[test]
fn the_default_route_belongs_to_its_interfaces() {
    let mut route = RouteMessage::default();
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.attributes.push(RouteAttribute::Oif(3));
    let mut links = [3, 4].map(|index| Link { index, ..Link::default() });
    let mut subnet = route.clone();
    subnet.header.destination_prefix_length = 24;
    read_about(&RouteNetlinkMessage::NewRoute(subnet), &mut links);
    assert!(!links[0].default_route);
    read_about(&RouteNetlinkMessage::NewRoute(route), &mut links);
    assert_eq!(links.map(|l| l.default_route), [true, false]);
}

/// Asked of this host's kernel: a VF of an interface that has none is refused, with the kernel's own word.
#[test]
fn the_kernel_answers() {
    let lo = links().unwrap().into_iter().find(|l| l.name == "lo").unwrap();
    let refusal = change(vf_request(lo.index, 0, VfSetting::Vlan(10, 0))).unwrap_err();
    let known = [nix::errno::Errno::EOPNOTSUPP, nix::errno::Errno::EPERM].map(|e| Some(e as i32));
    assert!(known.contains(&refusal.raw_os_error()), "{refusal:?}");
}
