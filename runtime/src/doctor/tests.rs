use super::*;
use crate::machine::Machine;

fn host() -> Host {
    Host {
        machine: Machine { cores: vec![0, 1], processors: 2, memory_bytes: 1 << 33, huge_pages: 512 },
        is_root: true,
        huge_pages_total: Some(512),
        has_bpffs: true,
        has_btf: true,
        has_xdp_sockets: true,
        memlock_bytes: Some(8 << 20),
        manager: "/usr/bin/middlenet-nf-manager".into(),
        manager_version: Ok("middlenet-nf-manager 0.1.0".into()),
        broker: "/usr/bin/middlenet-message-broker".into(),
        broker_version: Ok("middlenet-message-broker 0.1.0".into()),
        kernel: (6, 12),
        may_load_bpf: true,
        first_free_port: 1024,
        landlock: 7,
        has_seccomp: true,
        has_run_users: true,
        tools: vec![("ip", true), ("ethtool", true)],
        interfaces: vec![("eth0".into(), 1500, 2, true)],
    }
}

#[test]
fn a_well_equipped_host_has_no_complaints() {
    assert!(examine(&host()).iter().all(|f| f.severity == Severity::Ok));
}

#[test]
fn every_complaint_has_its_cost_and_remedy() {
    let poor = Host {
        machine: Machine { cores: vec![0], processors: 1, memory_bytes: 1 << 30, huge_pages: 0 },
        is_root: false,
        huge_pages_total: Some(0),
        has_bpffs: false,
        has_xdp_sockets: false,
        manager_version: Err("error while loading shared libraries: librte_eal.so.23".into()),
        broker: "/nowhere".into(),
        broker_version: Err("not found".into()),
        kernel: (5, 10),
        may_load_bpf: false,
        landlock: 3,
        has_seccomp: false,
        has_run_users: false,
        tools: vec![("ip", false), ("ethtool", false)],
        interfaces: vec![("eth0".into(), 9000, 1, true), ("eth1".into(), 1500, 1, false)],
        ..host()
    };
    let findings = examine(&poor);
    let complaints: Vec<_> = findings.iter().filter(|f| f.severity != Severity::Ok).collect();
    assert_eq!(complaints.len(), findings.len(), "{findings:#?}");
    assert!(complaints.iter().all(|f| f.cost.is_some() && f.remedy.is_some()));
    assert!(!is_well(&findings));
    assert!(text(&findings).contains("mend: echo 64 > /proc/sys/vm/nr_hugepages"));
}
