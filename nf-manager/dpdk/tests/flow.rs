//! A device without filters says so, and stays as it was.

mod host;

use middlenet_dpdk::{DpdkError, FlowAction, FlowItem, FlowRule, Port, PortConfig};

#[test]
fn a_device_without_filters_refuses_rules() {
    let eal = host::eal();
    let pool = host::pool(&eal, 256);
    let port = Port::open(&eal, "net_null0", &pool, &PortConfig::default()).unwrap();
    let rule = FlowRule {
        pattern: vec![FlowItem::Eth { src: None, dst: None, ether_type: Some(0x0800) }],
        actions: vec![FlowAction::Queue(0)],
        ..FlowRule::default()
    };
    for refusal in [
        port.validate_flow(&rule).unwrap_err(),
        port.create_flow(&rule).map(drop).unwrap_err(),
        port.isolate(true).unwrap_err(),
    ] {
        let DpdkError::Flow { errno, .. } = &refusal else { panic!("{refusal}") };
        assert_eq!(*errno, libc::ENOSYS);
        let text = refusal.to_string();
        assert!(text.starts_with("port net_null0 refuses ") && text.len() > 35, "{text}");
    }
}
