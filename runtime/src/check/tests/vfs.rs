//! Virtual functions.

use super::*;
use middlenet_sriov::{Inventory, Nic, Sriov, VfDriver};

fn of_sriov(sriov: &str, ports: &str) -> String {
    format!(
        "name: edge\nports:\n  wan: {ports}\nchains:\n  transit: {{ ports: [wan], functions: [monitor] }}\nsriov:\n  eth1:\n{sriov}"
    )
}

const GOOD: &str = "    vfs:
      - { name: fast, use: dpdk, mac: \"52:54:00:aa:00:10\", vlan: 10, trust: true, spoof_check: false, max_rate_mbps: 1000 }
      - { name: web, use: kernel, mac: \"52:54:00:aa:00:11\", address: [10.0.0.11/24, \"fd00::11/64\"] }
";

/// A host whose eth1 is an 82576.
struct WithIgb {
    inventory: Inventory,
}

impl WithIgb {
    fn new() -> Self {
        let sriov = Sriov { total: 7, present: 0, offset_stride: (128, 2), autoprobe: true, vfs: Vec::new() };
        let nic = Nic {
            interface: Some("eth1".into()),
            pci: "01:00.0".parse().ok(),
            driver: Some("igb".into()),
            up: true,
            sriov: Some(sriov),
            ..Nic::default()
        };
        Self { inventory: Inventory { nics: vec![nic], iommu: true, vfio: true } }
    }

    fn plan(&self, source: &str) -> Result<Plan, Vec<Diagnostic>> {
        let manifest = Manifest::parse(source).map_err(|d| vec![d])?;
        plan(&manifest, &registry(), &host(2), self, &Traffic::Ports)
    }

    fn problems(&self, source: &str) -> Vec<String> {
        let problems = self.plan(source).err().unwrap_or_default();
        problems.into_iter().map(|p| format!("{}|{}", p.message, p.hint.unwrap_or_default())).collect()
    }
}

impl Surroundings for WithIgb {
    fn folder(&self) -> &Path {
        Path::new("/etc/middlenet")
    }

    fn user(&self, user: &str) -> Option<Ids> {
        Nowhere.user(user)
    }

    fn describe(&self, _: &Path) -> Result<Description, (String, Option<String>)> {
        Err(("nothing is there".into(), None))
    }

    fn network(&self) -> Option<Inventory> {
        Some(self.inventory.clone())
    }
}

#[test]
fn virtual_functions_are_planned() {
    let plan = WithIgb::new().plan(&of_sriov(GOOD, "{ vf: fast }")).unwrap();
    let [pf] = plan.runtime.vfs.as_slice() else { panic!("{:?}", plan.runtime.vfs) };
    assert_eq!((pf.pf.as_str(), pf.create, pf.vfs.len()), ("eth1", 2, 2));
    let fast = &pf.vfs[0];
    assert_eq!((fast.name.as_str(), fast.index, fast.driver), ("fast", 0, VfDriver::Dpdk));
    assert_eq!(fast.mac.map(|m| m.to_string()).as_deref(), Some("52:54:00:aa:00:10"));
    let settings = (fast.vlan, fast.trust, fast.spoof_check, fast.max_rate_mbps);
    assert_eq!(settings, (Some(10), Some(true), Some(false), Some(1000)));
    assert_eq!(pf.vfs[1].addresses, [("10.0.0.11".parse().unwrap(), 24), ("fd00::11".parse().unwrap(), 64)]);
    assert_eq!((plan.runtime.vf_ports[0].port, plan.runtime.vf_ports[0].vf.as_str()), (0, "fast"));
    let notes: Vec<_> = plan.runtime.notes.iter().filter(|n| n.contains("virtual function")).collect();
    assert!(notes.is_empty(), "{notes:?}");
    let text = crate::render::plan_text(&plan, &host(2));
    let rows = [
        "VF    OF               NUMBER  DRIVEN BY  MAC                SETTINGS                                            ADDRESSES",
        "fast  eth1 (2 in all)       0  dpdk       52:54:00:aa:00:10  VLAN 10, trust on, spoof check off, at most 1000 Mb/s  -",
        "web   eth1 (2 in all)       1  kernel     52:54:00:aa:00:11  -                                                   10.0.0.11/24 fd00::11/64",
        "wan   vf    fast, number 0 of eth1    auto",
    ];
    let squeezed = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    for row in rows {
        assert!(text.lines().any(|line| squeezed(line) == squeezed(row)), "{row}\n{text}");
    }
}

#[test]
fn a_run_over_captures_makes_none() {
    let captures = Traffic::Captures(Captures { read: vec![(None, "in.pcap".into())], write: Vec::new() });
    let plan = plan_on(&of_sriov(GOOD, "{ vf: { name: fast, queues: 2 } }"), &host(2), &captures).unwrap();
    assert!(plan.runtime.vfs.is_empty() && plan.runtime.vf_ports.is_empty());
    assert!(matches!(packets(&plan).ports[0].kind, PortKind::Pcap { .. }));
}

#[test]
fn everything_wrong_about_virtual_functions_is_told() {
    let host = WithIgb::new();
    let cases = [
        (
            "    vfs: []\n",
            "{ vf: fast }",
            vec!["`eth1` has no virtual function|", "there is no virtual function `fast`|define it: `sriov:"],
        ),
        (
            "    vfs: [{ name: fast, use: dpdk }, { name: fast, use: kernel, address: 10.0.0.1/24 }]\n",
            "{ vf: fast }",
            vec!["there is a virtual function `fast` already, of `eth1`|give each a name of its own"],
        ),
        (
            "    vfs: [{ name: a, use: dpdk, mac: \"02:00:00:00:00:01\" }, { name: b, use: dpdk, mac: \"02-00-00-00-00-01\" }]\n",
            "{ vf: a }",
            vec!["`b` has the MAC address of `a`|the NIC finds them by it: give each its own"],
        ),
        (
            "    vfs: [{ name: a, use: dpdk, index: 1 }, { name: b, use: dpdk }]\n",
            "{ vf: a }",
            vec!["`a` and `b` are both virtual function 1|give each its own `index`"],
        ),
        (
            "    vfs: [{ name: a, use: dpdk, mac: \"01:00:00:00:00:01\" }]\n",
            "{ vf: a }",
            vec!["`01:00:00:00:00:01` is no MAC address of a device|"],
        ),
        (
            "    vfs: [{ name: a, use: dpdk, address: 10.0.0.1 }]\n",
            "{ vf: a }",
            vec!["`a` is driven by DPDK, which has no addresses|", "`10.0.0.1` is no address with a prefix length|"],
        ),
        (
            "    vfs: [{ name: web, use: kernel, address: 10.0.0.1/24 }]\n",
            "{ vf: web }",
            vec!["the virtual function `web` is the kernel's: it cannot be a port|say `use: dpdk`"],
        ),
        (GOOD, "{ vf: fats }", vec!["there is no virtual function `fats`|did you mean `fast`?"]),
        (
            "    create: 1\n    vfs: [{ name: a, use: dpdk, index: 3 }]\n",
            "{ vf: a }",
            vec!["`create: 1` makes fewer than the 4 that are used of `eth1`|remove it, or raise it"],
        ),
        (
            "    create: 9\n    vfs: [{ name: a, use: dpdk }]\n",
            "{ vf: a }",
            vec!["`eth1` has at most 7 virtual functions, but 9 are asked for|ask for at most 7"],
        ),
        (
            "    vfs: [{ name: a, use: dpdk, vlan: 4095 }, { name: b, use: nobody }]\n",
            "{ vf: a }",
            vec!["`vlan`", "`use`", "there is no virtual function `a`|"],
        ),
        (
            "    vfs: [{ name: a, use: dpdk }]\n",
            "{ vf: a, xdp: eth9 }",
            vec!["the port `wan` is two things at once|keep one of"],
        ),
    ];
    for (sriov, port, expected) in cases {
        let found = host.problems(&of_sriov(sriov, port));
        assert_eq!(found.len(), expected.len(), "{sriov}: {found:#?}");
        for line in expected {
            assert!(found.iter().any(|f| f.contains(line)), "{line}\n{found:#?}");
        }
    }
}

#[test]
fn one_virtual_function_is_one_port() {
    let source = of_sriov(GOOD, "{ vf: fast }").replace("chains:", "  lan: { vf: fast }\nchains:");
    let found = WithIgb::new().problems(&source);
    assert!(found.contains(&"`vf:fast` is port `wan` already|give each port a device of its own".into()), "{found:?}");
}

#[test]
fn what_stands_in_the_way_now_is_an_obstacle() {
    let mut host = WithIgb::new();
    let planned = |host: &WithIgb, sriov: &str| host.plan(&of_sriov(sriov, "{ vf: fast }")).unwrap();
    assert!(planned(&host, GOOD).runtime.obstacles.is_empty());
    host.inventory.vfio = false;
    let plan = planned(&host, GOOD);
    let obstacle =
        "the driver vfio-pci is not loaded: the virtual function `fast` cannot be given to DPDK (modprobe vfio-pci)";
    assert_eq!(plan.runtime.obstacles, [obstacle]);
    let text = crate::render::plan_text(&plan, &super::host(2));
    assert!(text.contains(&format!("as this host is now, the run would not start: {obstacle}\n")), "{text}");
    host.inventory.nics.clear();
    let obstacles = planned(&host, GOOD).runtime.obstacles;
    assert!(obstacles[0].starts_with("this host has no network interface `eth1`"), "{obstacles:?}");
}

#[test]
fn what_is_made_and_not_used_is_noted() {
    let spare = "    vfs: [{ name: fast, use: dpdk }, { name: spare, use: dpdk }, { name: bare, use: kernel }]\n";
    let notes = WithIgb::new().plan(&of_sriov(spare, "{ vf: fast }")).unwrap().runtime.notes;
    let unused = "the virtual function `spare` is made, but no port uses it: `{ vf: spare }`";
    assert!(notes.iter().any(|n| n == unused), "{notes:?}");
    assert!(
        notes.contains(&"the virtual function `bare` has no address: it is up, and nothing more".into()),
        "{notes:?}"
    );
}

#[test]
fn other_virtual_functions_need_a_restart() {
    let host = WithIgb::new();
    let old = host.plan(&of_sriov(GOOD, "{ vf: fast }")).unwrap();
    let new = host.plan(&of_sriov(&GOOD.replace("vlan: 10", "vlan: 11"), "{ vf: fast }")).unwrap();
    assert_eq!(Difference::between(&old, &old).structural, Vec::<String>::new());
    let line = "the virtual functions under `sriov` would be others";
    assert_eq!(Difference::between(&old, &new).structural, [line]);
}

/// Rules of a VF's port that lead to the kernel are carried out by the NIC, or refused.
#[test]
fn rules_to_the_kernel_are_the_nics() {
    let steered = |rules: &str| format!("{}steering:\n  wan: [{rules}]\n", of_sriov(GOOD, "{ vf: fast }"));
    let host = WithIgb::new();
    let by_address = "{ to: drop, dst_mac: \"52:54:00:aa:00:10\", vlan: 10, proto: udp }, { to: transit, dst_mac: \"52:54:00:aa:00:10\", vlan: 10 }, { to: kernel, dst_mac: \"52:54:00:aa:00:11\" }, { to: kernel }";
    let plan = host.plan(&steered(by_address)).unwrap();
    assert_eq!(plan.runtime.placed[0].by, ["manager", "nic", "nic", "nic"]);
    // The tag is off when packets come to the port.
    let seen = packets(&plan).ports[0].steering.clone().unwrap();
    assert!(seen.rules[..2].iter().all(|rule| rule.matches.vlans.is_empty()), "{seen:?}");
    assert!(plan.runtime.vfs[0].filters.is_empty());
    let text = crate::render::plan_text(&plan, &super::host(2));
    assert!(text.lines().any(|l| l.starts_with("wan ") && l.ends_with("nic")), "{text}");
    let found = host.problems(&steered("{ to: kernel, src: 10.0.0.0/8 }, { to: transit }"));
    assert!(
        found[0].starts_with("the rule `#1` of `wan` cannot be carried out by the NIC: packets to 52:54:00:aa:00:10"),
        "{found:?}"
    );

    // What goes to one side alone is the manager's affair, as on any port.
    let plan = host.plan(&steered("{ to: drop, proto: udp }, { to: transit }")).unwrap();
    assert!(plan.runtime.placed.is_empty());

    let mut i40e = WithIgb::new();
    i40e.inventory.nics[0].driver = Some("i40e".into());
    i40e.inventory.nics[0].filters.ntuple = middlenet_sriov::Feature::On;
    let flows = "{ to: transit, dst_mac: [\"02:00:00:00:00:01\"], proto: tcp, dst: 10.2.0.0/16, dst_port: 80, fragment: false }, { to: transit, dst_mac: \"52:54:00:aa:00:10\", vlan: 10 }, { to: kernel }";
    let plan = i40e.plan(&steered(flows)).unwrap();
    assert_eq!(plan.runtime.placed[0].by, ["nic filters", "nic", "nic"]);
    let filters: Vec<String> = plan.runtime.vfs[0].filters.iter().map(ToString::to_string).collect();
    let expected = "flow-type tcp4 dst-ip 10.2.0.0 m 0.0.255.255 dst-port 80 dst-mac 02:00:00:00:00:01 vf 0 queue 0";
    assert_eq!(filters, [expected]);
}

/// Two ports on two VFs of one PF: each has rules for what comes to it, and neither touches the other's.
#[test]
fn two_ports_on_one_nic_split_with_the_kernel_each_for_itself() {
    let vfs = GOOD.to_owned() + "      - { name: slow, use: dpdk, mac: \"52:54:00:aa:00:12\" }\n";
    let source = |lan: &str| {
        let ports = of_sriov(&vfs, "{ vf: fast }")
            .replace("chains:", "  lan: { vf: slow }\nchains:")
            .replace("[wan]", "[wan, lan]");
        format!(
            "{ports}steering:\n  wan: [{{ to: transit, dst_mac: \"52:54:00:aa:00:10\", vlan: 10 }}, {{ to: kernel }}]\n  lan: [{lan}, {{ to: kernel }}]\n"
        )
    };
    let host = WithIgb::new();
    let plan = host.plan(&source("{ to: transit, dst_mac: \"52:54:00:aa:00:12\" }")).unwrap();
    assert_eq!(plan.runtime.vf_ports.len(), 2);
    let by: Vec<_> = plan.runtime.placed.iter().map(|placed| (placed.port, placed.by.join(" "))).collect();
    assert_eq!(by, [(0, "nic nic".into()), (1, "nic nic".into())]);
    assert!(packets(&plan).ports.iter().all(|port| !port.isolated));
    let found = host.problems(&source("{ to: transit, dst_mac: \"52:54:00:aa:00:10\", vlan: 10 }"));
    let other = "the rule `#1` of `lan` cannot be carried out by the NIC: packets to 52:54:00:aa:00:10, the virtual function `fast`, are given to another port";
    assert!(found[0].starts_with(other), "{found:?}");
}

/// A host whose eth1 leaves to the kernel what nobody asks it for.
fn with_mlx5() -> WithIgb {
    let mut host = WithIgb::new();
    host.inventory.nics[0].driver = Some("mlx5_core".into());
    host
}

const NATIVE: &str = "name: edge
ports: { wan: { dpdk: \"0000:01:00.0\" } }
chains:
  transit: { ports: [wan], functions: [monitor] }
  web: { layer: l4l7, listen: \"10.1.0.1:80\", upstreams: [\"10.2.0.10:80\"] }
steering:
  wan:
";

#[test]
fn rules_of_a_nic_that_splits_natively_become_flows() {
    let rules = "    - { to: drop, vlan: untagged, dst: 10.2.0.0/16, proto: udp, dst_port: 666, fragment: false }
    - { to: transit, vlan: 10 }
    - { to: web }
    - { to: transit, vlan: untagged, dst: 10.2.0.0/16 }
    - { to: kernel }
";
    let plan = with_mlx5().plan(&format!("{NATIVE}{rules}")).unwrap();
    assert!(packets(&plan).ports[0].isolated);
    // What the listener needs, in three rules, is left to the kernel.
    assert_eq!(plan.runtime.placed[0].by, ["nic flows", "nic flows", "nic", "nic", "nic", "nic flows", "nic"]);
    assert!(plan.runtime.notes.iter().any(|note| note.contains("a priority tag (VLAN 0) is a tag")));
    let text = crate::render::plan_text(&plan, &host(2));
    let row = "wan       #4             vlan untagged, dst 10.2.0.0/16                      transit  nic flows";
    let squeezed = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert!(text.lines().any(|line| squeezed(line) == squeezed(row)), "{text}");

    // DPDK has all packets of the port: nothing to be left, so nothing is asked for.
    let plan = with_mlx5().plan(&format!("{NATIVE}    - {{ to: transit }}\n").replace("web:", "#:")).unwrap();
    assert!(!packets(&plan).ports[0].isolated && plan.runtime.placed.is_empty());
}

#[test]
fn what_flows_cannot_do_is_refused_with_a_remedy() {
    let cases = [
        ("{ to: kernel, src: 10.0.0.0/8 }, { to: transit }", "the rest", "ask by rules for what is not the kernel's"),
        ("{ to: transit, dst: 10.2.0.0/16 }, { to: kernel }", "`#1`", "say `vlan: untagged`"),
        ("{ to: transit, arp: 10.1.0.9 }, { to: kernel }", "`#1`", "match `ether_type: arp` as a whole"),
        (
            "{ name: own, to: kernel, dst: 10.2.0.1 }, { name: net, to: transit, vlan: untagged, dst: 10.2.0.0/16 }, { to: kernel }",
            "`own`",
            "`net`, which comes after it, asks for some of its packets too",
        ),
    ];
    for (rules, which, remedy) in cases {
        let source = format!("{}  wan: [{rules}]\n", NATIVE.replace("  wan:\n", ""));
        let found = with_mlx5().problems(&source);
        let which = if which == "the rest" { "what happens to all other packets" } else { which };
        assert!(found.iter().any(|f| f.contains(which) && f.contains(remedy)), "{rules}: {found:?}");
    }
    // Without such a NIC there is no kernel behind a DPDK port.
    let found = WithIgb::new().problems(&format!("{NATIVE}    - {{ to: kernel }}\n"));
    assert!(
        found[0].starts_with("`wan` is a DPDK port: the kernel does not see its packets|use an `xdp` port"),
        "{found:?}"
    );
    assert!(found[0].contains("a NIC that splits by itself"), "{found:?}");
}

#[test]
fn a_tap_on_another_interface_splits_as_such_a_nic() {
    let tap = NATIVE.replace("0000:01:00.0", "net_tap0,iface=mn-tap,remote=eth1");
    let plan = plan_on(&format!("{tap}    - {{ to: kernel }}\n"), &host(2), &Traffic::Ports).unwrap();
    assert!(packets(&plan).ports[0].isolated);
}

/// Its virtual functions are split by address where that will do, and by flows where not.
#[test]
fn a_virtual_function_of_such_a_nic_uses_flows_where_addresses_do_not_do() {
    let steered = |rules: &str| {
        format!("{}steering:\n  wan: [{rules}]\n", of_sriov(&GOOD.replace(", vlan: 10", ""), "{ vf: fast }"))
    };
    let by_address = "{ to: transit, dst_mac: \"52:54:00:aa:00:10\" }, { to: kernel }";
    let plan = with_mlx5().plan(&steered(by_address)).unwrap();
    assert_eq!(plan.runtime.placed[0].by, ["nic", "nic"]);
    assert!(!packets(&plan).ports[0].isolated);
    let by_flows = "{ to: transit, dst_mac: \"52:54:00:aa:00:10\", vlan: untagged, dst: 10.2.0.0/16 }, { to: kernel }";
    let plan = with_mlx5().plan(&steered(by_flows)).unwrap();
    assert_eq!(plan.runtime.placed[0].by, ["nic flows", "nic"]);
    assert!(packets(&plan).ports[0].isolated);
    let found = WithIgb::new().problems(&steered(by_flows));
    assert!(found[0].contains("the virtual function `fast`, are given to DPDK"), "{found:?}");
}

#[test]
fn a_port_that_would_begin_to_split_needs_a_restart() {
    let host = with_mlx5();
    let source = |rules: &str| format!("{}  wan: [{rules}]\n", NATIVE.replace("  wan:\n", ""));
    let plan = |rules: &str| host.plan(&source(rules)).unwrap();
    let all = plan("{ to: drop, vlan: 9 }, { to: transit }");
    let split = plan("{ to: drop, vlan: 9 }, { to: transit, vlan: 8 }, { to: kernel }");
    let other = plan("{ to: transit, vlan: 8 }, { to: kernel }");
    assert_eq!(Difference::between(&all, &split).structural, ["port `wan` would be made differently"]);
    let change = Difference::between(&split, &other);
    assert_eq!((change.structural.len(), change.changes[0].label.as_str()), (0, "steering of wan"));
}
