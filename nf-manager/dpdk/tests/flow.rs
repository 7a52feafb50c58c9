//! A device that cannot tell flows apart says so.

mod host;

use middlenet_dpdk::{DpdkError, Port, PortConfig};
use middlenet_steer::nic::{Fate, Flow, Item};

#[test]
fn a_device_without_flows_refuses_them() {
    let eal = host::eal();
    let pool = host::pool(&eal, 256);
    let isolated = Port::open(&eal, "net_null0", &pool, &PortConfig { isolated: true, ..PortConfig::default() });
    // The refusal has closed it.
    let port = Port::open(&eal, "net_null0", &pool, &PortConfig::default()).unwrap();
    let pattern = vec![Item::Eth { src: None, dst: None, ether_type: Some(0x0800) }];
    let flow = port.create_flow(&Flow { priority: 0, pattern, fate: Fate::Take });
    for refusal in [isolated.map(drop).unwrap_err(), flow.map(drop).unwrap_err()] {
        let DpdkError::Flow { errno, .. } = &refusal else { panic!("{refusal}") };
        assert_eq!(*errno, libc::ENOSYS);
        let text = refusal.to_string();
        assert!(text.starts_with("port net_null0 refuses ") && text.len() > 35, "{text}");
    }
}
