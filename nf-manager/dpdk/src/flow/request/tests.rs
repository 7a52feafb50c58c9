//! Requests are read back by the names that DPDK's own structures have for their fields.

use super::*;
use std::net::{Ipv4Addr, Ipv6Addr};

fn spread(queues: &[u16]) -> Spread {
    Spread { types: 0x2c, key: vec![0x6d, 0x5a], queues: queues.to_vec() }
}

fn request(pattern: Vec<Item>) -> Request {
    Request::new(&Flow { priority: 7, pattern, fate: Fate::Take }, &spread(&[0]))
}

/// # Safety
/// `pointer` is null or points at a `T`.
unsafe fn read<'a, T>(pointer: *const c_void) -> Option<&'a T> {
    // SAFETY: the caller's promise; the request outlives the test's use.
    unsafe { pointer.cast::<T>().as_ref() }
}

/// Spec, last and mask of an item as structures.
macro_rules! parts {
    ($request:expr, $at:expr, $kind:ty) => {{
        let item = &$request.items[$at];
        // SAFETY: the item's type says what it points at.
        unsafe { (read::<$kind>(item.spec), read::<$kind>(item.last), read::<$kind>(item.mask)) }
    }};
}

#[test]
fn attributes_and_ends() {
    let drop = Request::new(&Flow { priority: 7, pattern: Vec::new(), fate: Fate::Drop }, &spread(&[0, 1]));
    assert_eq!((drop.attributes.group, drop.attributes.priority), (0, 7));
    // SAFETY: reads the structure's fields.
    assert!(unsafe { sys::dpdk_sys_flow_attr_ingress(drop.attributes()) });
    assert_eq!(drop.items.len(), 1);
    assert_eq!(drop.items[0].type_, sys::RTE_FLOW_ITEM_TYPE_END);
    assert_eq!(drop.actions.map(|a| a.type_), [sys::RTE_FLOW_ACTION_TYPE_DROP, sys::RTE_FLOW_ACTION_TYPE_END]);
}

#[test]
fn ethernet_and_vlan() {
    let (src, dst) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let request = request(vec![Item::Eth { src: Some(src), dst: Some(dst), ether_type: None }, Item::Vlan { id: 100 }]);
    let (spec, last, mask) = parts!(request, 0, [u8; 14]);
    assert_eq!(spec.unwrap()[..12], [dst, src].concat());
    assert_eq!(mask.unwrap(), &[255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0]);
    assert!(last.is_none());
    let (spec, last, mask) = parts!(request, 1, [u8; 4]);
    assert_eq!((spec.unwrap(), mask.unwrap()), (&[0, 100, 0, 0], &[0x0f, 0xff, 0, 0]));
    assert!(last.is_none());
    assert_eq!(request.items[0].type_, sys::RTE_FLOW_ITEM_TYPE_ETH);
    assert_eq!(request.items[1].type_, sys::RTE_FLOW_ITEM_TYPE_VLAN);
}

#[test]
fn ipv4_by_dpdks_names() {
    let ip = Item::Ipv4 {
        src: Some((Ipv4Addr::new(10, 1, 255, 255), 20)),
        dst: Some((Ipv4Addr::new(10, 2, 3, 4), 32)),
        protocol: Some(17),
        fragment: None,
    };
    let request = request(vec![ip]);
    let (spec, last, mask) = parts!(request, 0, sys::rte_flow_item_ipv4);
    let (spec, mask) = (&spec.unwrap().hdr, &mask.unwrap().hdr);
    assert!(last.is_none());
    assert_eq!((spec.next_proto_id, mask.next_proto_id), (17, 0xff));
    assert_eq!(u32::from_be(spec.src_addr), 0x0a01_f000);
    assert_eq!(u32::from_be(mask.src_addr), 0xffff_f000);
    assert_eq!((u32::from_be(spec.dst_addr), mask.dst_addr), (0x0a02_0304, u32::MAX));
    assert_eq!((mask.fragment_offset, mask.time_to_live, mask.total_length), (0, 0, 0));
}

#[test]
fn fragments_are_a_range_and_all_else_is_a_value() {
    let of = |fragment| request(vec![Item::Ipv4 { src: None, dst: None, protocol: None, fragment: Some(fragment) }]);
    let fragments = of(true);
    let (spec, last, mask) = parts!(fragments, 0, sys::rte_flow_item_ipv4);
    let bits = |part: Option<&sys::rte_flow_item_ipv4>| u16::from_be(part.unwrap().hdr.fragment_offset);
    assert_eq!((bits(spec), bits(last), bits(mask)), (1, 0x3fff, 0x3fff));
    let whole = of(false);
    let (spec, last, mask) = parts!(whole, 0, sys::rte_flow_item_ipv4);
    assert_eq!((bits(spec), bits(mask)), (0, 0x3fff));
    assert!(last.is_none());
}

#[test]
fn ipv6_by_dpdks_names() {
    let network = Ipv6Addr::new(0xfd00, 1, 2, 3, 0, 0, 0, 9);
    let request = request(vec![Item::Ipv6 { src: Some((network, 64)), dst: None }]);
    let (spec, last, mask) = parts!(request, 0, sys::rte_flow_item_ipv6);
    let (spec, mask) = (spec.unwrap(), mask.unwrap());
    assert!(last.is_none());
    assert_eq!(spec.hdr.src_addr, Ipv6Addr::new(0xfd00, 1, 2, 3, 0, 0, 0, 0).octets());
    assert_eq!(mask.hdr.src_addr[..9], [255, 255, 255, 255, 255, 255, 255, 255, 0]);
    assert_eq!((mask.hdr.dst_addr, mask.hdr.proto), ([0; 16], 0));
}

#[test]
fn ports_and_ranges() {
    let request = request(vec![
        Item::Tcp(Ports { src: None, dst: Some((80, 80)) }),
        Item::Udp(Ports { src: Some((1024, 2047)), dst: Some((53, 53)) }),
        Item::Sctp(Ports { src: Some((0, 65535)), dst: None }),
    ]);
    let (spec, last, mask) = parts!(request, 0, sys::rte_flow_item_tcp);
    assert_eq!((u16::from_be(spec.unwrap().hdr.dst_port), mask.unwrap().hdr.dst_port), (80, 0xffff));
    assert!(last.is_none() && mask.unwrap().hdr.src_port == 0);
    let (spec, last, mask) = parts!(request, 1, sys::rte_flow_item_udp);
    let ports = |part: Option<&sys::rte_flow_item_udp>| {
        let header = &part.unwrap().hdr;
        (u16::from_be(header.src_port), u16::from_be(header.dst_port))
    };
    assert_eq!((ports(spec), ports(last), ports(mask)), ((1024, 53), (2047, 53), (0xffff, 0xffff)));
    // Any SCTP packet will do.
    let item = &request.items[2];
    assert!(item.type_ == sys::RTE_FLOW_ITEM_TYPE_SCTP && item.spec.is_null() && item.mask.is_null());
}

#[test]
fn what_is_taken_is_spread_as_the_port_spreads_it() {
    let flow = Flow { priority: 0, pattern: Vec::new(), fate: Fate::Take };
    let one = Request::new(&flow, &spread(&[0]));
    assert_eq!(one.actions[0].type_, sys::RTE_FLOW_ACTION_TYPE_QUEUE);
    let several = Request::new(&flow, &spread(&[0, 1, 2]));
    assert_eq!(several.actions[0].type_, sys::RTE_FLOW_ACTION_TYPE_RSS);
    // SAFETY: the action's type says what it points at; its lists are as long as it says.
    unsafe {
        assert_eq!(read::<sys::rte_flow_action_queue>(one.actions[0].conf).unwrap().index, 0);
        let rss = read::<sys::rte_flow_action_rss>(several.actions[0].conf).unwrap();
        assert_eq!((rss.types, rss.level), (0x2c, 0));
        assert_eq!(std::slice::from_raw_parts(rss.key, rss.key_len as usize), [0x6d, 0x5a]);
        assert_eq!(std::slice::from_raw_parts(rss.queue, rss.queue_num as usize), [0, 1, 2]);
    }
}
