use super::*;
use middlenet_steer::testkit::Draw;
use middlenet_steer::{Head, PortRange};

const FAST: [u8; 6] = [2, 0, 0, 0, 0, 2];
const WEB: [u8; 6] = [2, 0, 0, 0, 0, 3];

fn vf(vf: u16, name: &str, mac: [u8; 6], side: Side) -> VfAddress {
    VfAddress { vf, name: name.into(), mac: Mac(mac), vlan: None, side }
}

/// An igb: two VFs, no filters.
fn igb() -> Capabilities {
    let vfs = vec![vf(0, "fast", FAST, Side::Packets), vf(1, "web", WEB, Side::Kernel)];
    Capabilities { vfs, ..Capabilities::default() }
}

/// An i40e: filters as well.
fn i40e() -> Capabilities {
    Capabilities { ntuple: Some(Ntuple::of_driver("i40e")), ..igb() }
}

fn rule(name: &str, matches: Match, action: Action) -> Rule {
    Rule { name: name.into(), matches, action }
}

fn to(mac: [u8; 6]) -> Match {
    Match { dst_macs: vec![mac], ..Match::default() }
}

fn web() -> Match {
    Match {
        dst: vec!["10.1.0.1".parse().unwrap()],
        protocols: vec![6],
        dst_ports: vec![PortRange::from(80)],
        dst_macs: vec![[2, 0, 0, 0, 0, 9]],
        fragments: Some(false),
        ..Match::default()
    }
}

fn told(places: &[Result<Vec<Place>, String>]) -> Vec<String> {
    let words = |place: &Place| match place {
        Place::Filters(filters) => filters.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        other => format!("{other:?}"),
    };
    let line = |places: &Result<Vec<Place>, String>| match places {
        Ok(places) => places.iter().map(words).collect::<Vec<_>>().join(" + "),
        Err(why) => format!("no: {why}"),
    };
    places.iter().map(line).collect()
}

#[test]
fn addresses_split_traffic_on_any_nic() {
    let rules = [
        rule("transit", to(FAST), Action::Tag(0)),
        rule("web", to(WEB), Action::Kernel),
        rule("noise", Match { protocols: vec![17], ..to(FAST) }, Action::Drop),
    ];
    assert_eq!(told(&place(&rules, Action::Kernel, &igb())), ["Switch([0])", "Switch([1])", "Manager", "Left"]);
    // Of what is for all, both have a copy.
    let with_all = Match { dst_macs: vec![FAST, [0xff; 6]], ..Match::default() };
    assert_eq!(
        told(&place(&[rule("transit", with_all, Action::Tag(0))], Action::Kernel, &igb())),
        ["Switch([0])", "Left"]
    );
}

#[test]
fn a_vlan_is_part_of_the_address() {
    let mut nic = igb();
    nic.vfs[0].vlan = Some(10);
    let rules = [
        rule("transit", Match { vlans: vec![10], ..to(FAST) }, Action::Tag(0)),
        rule("other", Match { vlans: vec![11], ..to(FAST) }, Action::Kernel),
        rule("any", to(FAST), Action::Tag(0)),
    ];
    let lines = told(&place(&rules, Action::Kernel, &nic));
    assert_eq!(lines[..2], ["Switch([0])", "Left"]);
    assert!(lines[2].starts_with("no: the NIC's filters cannot send packets to virtual functions"), "{lines:?}");
}

#[test]
fn filters_take_flows_from_the_pf() {
    let rules = [
        rule("web", web(), Action::Tag(0)),
        rule("attack", Match { dst_ports: vec![PortRange::from(23)], ..web() }, Action::Drop),
    ];
    let lines = told(&place(&rules, Action::Kernel, &i40e()));
    assert_eq!(
        lines[..2],
        [
            "flow-type tcp4 dst-ip 10.1.0.1 dst-port 80 dst-mac 02:00:00:00:00:09 vf 0 queue 0",
            "flow-type tcp4 dst-ip 10.1.0.1 dst-port 23 dst-mac 02:00:00:00:00:09 action -1",
        ]
    );
    let lines = told(&place(&rules, Action::Kernel, &igb()));
    assert!(lines[0].starts_with("no: the NIC's filters cannot send packets to virtual functions"), "{lines:?}");
    assert!(lines[1].starts_with("no: the NIC has no filters: match the `dst_mac`"), "{lines:?}");
}

#[test]
fn what_would_go_wrong_is_refused() {
    let refusal =
        |rules: &[Rule], nic: &Capabilities| place(rules, Action::Kernel, nic)[rules.len() - 1].clone().unwrap_err();
    let overlap = [
        rule("mgmt", Match { src: vec!["10.9.0.0/16".parse().unwrap()], ..Match::default() }, Action::Kernel),
        rule("web", web(), Action::Tag(0)),
    ];
    let said = refusal(&overlap, &i40e());
    assert!(said.contains("it overlaps `mgmt`, which comes before it"), "{said}");
    let said = refusal(&[rule("all", Match { dst_macs: Vec::new(), ..web() }, Action::Tag(0))], &i40e());
    assert!(
        said.contains("packets to 02:00:00:00:00:03, the virtual function `web`, are given to the kernel"),
        "{said}"
    );
    let said = refusal(&[rule("mgmt", Match::default(), Action::Kernel)], &i40e());
    assert!(said.contains("packets to 02:00:00:00:00:02, the virtual function `fast`, are given to DPDK"), "{said}");
    let one_mask = Capabilities { ntuple: Some(Ntuple::of_driver("ixgbe")), ..igb() };
    let ports = Match { dst: vec!["10.2.0.0/16".parse().unwrap()], ..web() };
    let said = refusal(&[rule("web", web(), Action::Tag(0)), rule("more", ports, Action::Tag(0))], &one_mask);
    assert!(said.contains("must ask for the same fields"), "{said}");
    let said = refusal(&[rule("attack", to(WEB), Action::Drop)], &i40e());
    assert!(
        said.contains("packets to 02:00:00:00:00:03, the virtual function `web`, are given to the kernel"),
        "{said}"
    );
}

/// Packets to another port's VF are its own port's affair, whoever asks.
#[test]
fn another_port_keeps_its_virtual_function() {
    let other = [2, 0, 0, 0, 0, 7];
    let two = |nic: Capabilities| {
        let vfs = nic.vfs.iter().cloned().chain([vf(2, "other", other, Side::Other)]).collect();
        Capabilities { vfs, ..nic }
    };
    let of_other = "no: packets to 02:00:00:00:00:07, the virtual function `other`, are given to another port";
    for nic in [igb(), i40e(), Capabilities { native_split: true, ..igb() }] {
        for action in [Action::Tag(0), Action::Kernel, Action::Drop] {
            let lines = told(&place(&[rule("r", to(other), action)], Action::Kernel, &two(nic.clone())));
            assert!(lines[0].starts_with(of_other), "{action:?} {lines:?}");
        }
    }
    let rules = [rule("transit", to(FAST), Action::Tag(0))];
    assert_eq!(told(&place(&rules, Action::Kernel, &two(igb()))), ["Switch([0])", "Left"]);
}

#[test]
fn the_default_needs_a_place_too() {
    let default = |rules: &[Rule], default, nic: &Capabilities| told(&place(rules, default, nic)).pop().unwrap();
    assert!(default(&[], Action::Kernel, &igb()).contains("the virtual function `fast`, are given to DPDK"));
    assert!(default(&[], Action::Tag(0), &igb()).starts_with("no: what no rule names comes to the kernel"));
    assert!(default(&[], Action::Drop, &igb()).starts_with("no: what no rule names comes to the kernel"));
    let rules = [rule("transit", to(FAST), Action::Tag(0))];
    assert_eq!(default(&rules, Action::Kernel, &igb()), "Left");
}

#[test]
fn a_nic_that_splits_natively_is_asked_for_what_is_not_the_kernels() {
    let pf = Capabilities { native_split: true, ..Capabilities::default() };
    let web = || Match { vlans: vec![0], dst_macs: Vec::new(), ..web() };
    let ssh = Match { dst_ports: vec![PortRange::from(22)], ..web() };
    let rules =
        [rule("ssh", ssh, Action::Kernel), rule("web", web(), Action::Tag(0)), rule("all", web(), Action::Drop)];
    assert_eq!(told(&place(&rules, Action::Kernel, &pf)), ["Left", "Flow", "Flow", "Left"]);
    let rules = [rule("web", web(), Action::Kernel), rule("all", Match::default(), Action::Tag(0))];
    let lines = told(&place(&rules, Action::Drop, &pf));
    assert!(lines[0].starts_with("no: `all`, which comes after it, asks for some of its packets too"), "{lines:?}");
    assert!(lines[2].starts_with("no: the NIC leaves to the kernel what no rule asks for"), "{lines:?}");

    // A VF gets what is for it, and what is for all.
    let mut vf = Capabilities { native_split: true, ..igb() };
    let to_all =
        Match { dst_macs: vec![FAST, [0xff; 6]], ether_types: vec![0x0806], vlans: vec![0], ..Match::default() };
    let rules = |mac| {
        let mine = rule("mine", Match { vlans: vec![0], ..Match { dst_macs: vec![mac], ..web() } }, Action::Tag(0));
        [mine, rule("arp", to_all.clone(), Action::Tag(0)), rule("rest", to(FAST), Action::Kernel)]
    };
    assert_eq!(told(&place(&rules(FAST), Action::Kernel, &vf)), ["Flow", "Flow", "Left", "Left"]);
    let lines = told(&place(&rules([2, 0, 0, 0, 0, 9]), Action::Kernel, &vf));
    assert!(lines[0].starts_with("no: only what is for 02:00:00:00:00:02 comes to `fast`"), "{lines:?}");
    assert!(told(&place(&rules(WEB), Action::Kernel, &vf))[0].contains("are given to the kernel"));
    vf.vfs[0].vlan = Some(10);
    let lines = told(&place(&rules(FAST), Action::Kernel, &vf));
    assert!(lines[0].starts_with("no: `fast` is in a VLAN, whose tag is off"), "{lines:?}");
}

/// Who gets a frame, of what was placed in hardware.
fn delivered(head: &Head, places: &[Result<Vec<Place>, String>], nic: &Capabilities) -> Option<Side> {
    let vf = nic.vfs.iter().find(|vf| vf.mac.0 == head.dst_mac && vf.vlan.is_none_or(|vlan| vlan == head.vlan));
    if let Some(vf) = vf {
        return Some(vf.side);
    }
    let all = places.iter().flatten().flatten();
    let filters = all.filter_map(|place| if let Place::Filters(filters) = place { Some(filters) } else { None });
    match filters.flatten().find(|filter| filter.matches(head)) {
        Some(Filter { to: FilterTarget::Drop, .. }) => None,
        Some(_) => Some(Side::Packets),
        None => Some(Side::Kernel),
    }
}

/// Whatever the rules and the frame: what was placed gets to the right side, or is dropped where somebody drops it.
#[test]
fn what_is_placed_is_done() {
    let (mut placed, mut by_filters, mut refused) = (0, 0, 0);
    for seed in 0..8000 {
        let mut draw = Draw::from_seed(seed);
        let mut rules = draw.rules(6);
        for rule in &mut rules {
            // As they are drawn, a NIC would do almost none.
            let kind = draw.below(4);
            if kind == 2 {
                rule.matches.dst_macs = vec![[FAST, WEB][draw.below(2)]];
            }
            if kind < 2 {
                (rule.matches.fragments, rule.matches.ether_types) = (Some(false), vec![0x0800]);
                (rule.matches.src_macs, rule.matches.dst_macs) = (Vec::new(), vec![[2, 0, 0, 0, 0, 4]]);
                (rule.matches.vlans, rule.matches.arp_targets) = (Vec::new(), Vec::new());
                rule.matches.protocols = vec![[6, 17][draw.below(2)]];
                for ports in [&mut rule.matches.src_ports, &mut rule.matches.dst_ports] {
                    ports.iter_mut().for_each(|range| range.last = range.first);
                }
            }
        }
        let default = [Action::Kernel, Action::Kernel, Action::Drop, Action::Tag(1)][draw.below(4)];
        let mut nic = [igb(), i40e()][draw.below(2)].clone();
        nic.vfs[draw.below(2)].vlan = [None, Some(100)][draw.below(2)];
        // Without a word about DPDK's VF, the kernel could not have the rest.
        rules.push(rule("rest", nic.vfs[0].region(), Action::Tag(2)));
        let places = place(&rules, default, &nic);
        for _ in 0..30 {
            let mut frame = draw.frame();
            let addresses: [&[u8]; 6] =
                [&[2, 0, 0, 0, 0, 4], &[2, 0, 0, 0, 0, 4], &[2, 0, 0, 0, 0, 4], &FAST, &WEB, &[]];
            let address = addresses[draw.below(6)];
            frame[..address.len()].copy_from_slice(address);
            let Some(head) = Head::parse(&frame).filter(|head| head.dst_mac[0] & 1 == 0) else { continue };
            let at = rules.iter().position(|rule| rule.matches.matches(&head));
            let (action, here) = at.map_or((default, places.last()), |at| (rules[at].action, places.get(at)));
            let Some(Ok(here)) = here else {
                refused += 1;
                continue;
            };
            let got = delivered(&head, &places, &nic);
            let right = match action {
                Action::Tag(_) => got == Some(Side::Packets),
                Action::Kernel => got == Some(Side::Kernel),
                Action::Drop => match got {
                    None => true,
                    Some(Side::Packets) => here.contains(&Place::Manager),
                    Some(Side::Kernel | Side::Other) => false,
                },
            };
            assert!(right, "seed {seed}: {action:?} got to {got:?}\n{head:?}\n{rules:#?}\n{places:#?}");
            placed += 1;
            by_filters += usize::from(here.iter().any(|p| matches!(p, Place::Filters(_))));
        }
    }
    assert!(placed > 10_000 && by_filters > 200 && refused > 1000, "{placed} {by_filters} {refused}");
}
