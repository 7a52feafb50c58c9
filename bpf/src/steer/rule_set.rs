//! One rule set in the kernel: its program and its tables.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle, OpenMapMut};
use middlenet_steer::{Action, Image, MacTable, PortTable, Rule, Tables};

use super::counters::Counted;
use super::{Shared, flows, small};
use crate::counters::per_cpu_sums;
use crate::error::io_error;
use crate::fast::FastPort;
use crate::skeletons::steer_rules::{OpenSteerRulesSkel, SteerRulesSkelBuilder};
use crate::{Error, Result, log};

/// The name of the program, as `bpftool prog` shows it.
pub(super) const PROGRAM: &str = "steer_rules";

/// `STEER_KERNEL` and `STEER_DROP` in `steer.h`.
const KERNEL: u32 = 0x1_0000;
const DROP: u32 = 0x2_0000;

/// Parts of a rule set, as bits of `parts` in `steer_rules.bpf.c`.
const WITH_KINDS: u32 = 1 << 0;
const WITH_VLANS: u32 = 1 << 1;
const WITH_SRC_MACS: u32 = 1 << 2;
const WITH_DST_MACS: u32 = 1 << 3;
const WITH_SRC: u32 = 1 << 4;
const WITH_DST: u32 = 1 << 5;
const WITH_SRC_PORTS: u32 = 1 << 6;
const WITH_DST_PORTS: u32 = 1 << 7;
const WITH_ORDER: u32 = 1 << 8;
const IS_SMALL: u32 = 1 << 9;
const SRC_BY_BYTE: u32 = 1 << 10;
const DST_BY_BYTE: u32 = 1 << 11;
const WITH_FAST: u32 = 1 << 12;

/// Bytes of tables given to the kernel by one call.
const BATCH_BYTES: usize = 1 << 20;

/// A rule set in the kernel.
#[derive(Debug)]
pub(super) struct RuleSet {
    program: OwnedFd,
    counters: MapHandle,
    variables: MapHandle,
    rules: Vec<Rule>,
    default: Action,
}

impl RuleSet {
    /// Loads the first rule set, and the maps that the next ones share with it.
    pub(super) fn load_first(tables: &Tables, fast: Option<FastPort>) -> Result<(Self, Shared)> {
        let (rule_set, [sockets, counters, flows]) = Self::load_with(tables, None, fast.as_ref())?;
        Ok((rule_set, Shared { sockets, counters, flows, fast }))
    }

    /// Loads another one; `look_for_flows` is whether there are any.
    pub(super) fn load(tables: &Tables, shared: &Shared, look_for_flows: bool) -> Result<Self> {
        let (rule_set, _) = Self::load_with(tables, Some(shared), shared.fast.as_ref())?;
        rule_set.look_for_flows(look_for_flows)?;
        Ok(rule_set)
    }

    fn load_with(tables: &Tables, shared: Option<&Shared>, fast: Option<&FastPort>) -> Result<(Self, [MapHandle; 3])> {
        let (loaded, log) = log::listen(|| load(tables, shared, fast));
        let (loaded, shared) = loaded.map_err(|error| Error::of_load(PROGRAM, &error, log))?;
        fill(&loaded, tables)
            .map_err(|error| Error::Tables { rules: tables.rules().len(), source: io_error(&error) })?;
        let Loaded { program, rule_counters: counters, variables, .. } = loaded;
        let (rules, default) = (tables.rules().to_vec(), tables.default_action());
        Ok((Self { program, counters, variables, rules, default }, shared))
    }

    pub(super) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    pub(super) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// From now on, packets are looked up among the flows first, or are not.
    pub(super) fn look_for_flows(&self, look: bool) -> Result<()> {
        let variables = u32::from(look).to_ne_bytes();
        self.variables.update(&[0; 4], &variables, MapFlags::ANY).map_err(|error| flows::failed(&error))
    }

    /// What each rule counted, and the default behind them.
    pub(super) fn counters(&self) -> io::Result<Vec<Counted>> {
        let actions = self.rules.iter().map(|rule| rule.action).chain([self.default]);
        let of = |(slot, action)| {
            let [done_pkts, bytes, missing_pkts, _] = per_cpu_sums(&self.counters, slot)?;
            Ok(Counted { action, done_pkts, bytes, missing_pkts })
        };
        (0..).zip(actions).map(of).collect()
    }
}

/// An action as the programs know it.
pub(super) fn action_number(action: Action) -> u32 {
    match action {
        Action::Tag(tag) => tag.into(),
        Action::Kernel => KERNEL,
        Action::Drop => DROP,
    }
}

/// The action of such a number.
pub(super) fn action_of(number: u32) -> Action {
    match u16::try_from(number) {
        Ok(tag) => Action::Tag(tag),
        Err(_) if number == DROP => Action::Drop,
        Err(_) => Action::Kernel,
    }
}

/// What is left of the skeleton once the kernel holds program and maps.
struct Loaded {
    program: OwnedFd,
    variables: MapHandle,
    rule_counters: MapHandle,
    actions: MapHandle,
    vectors: MapHandle,
    order: MapHandle,
    kinds: MapHandle,
    vlans: MapHandle,
    src_macs: MapHandle,
    dst_macs: MapHandle,
    blocks: MapHandle,
    chains: MapHandle,
    src_ports: MapHandle,
    dst_ports: MapHandle,
}

/// The maps that come with it are those that outlive a rule set: sockets, counters and flows.
fn load(
    tables: &Tables,
    shared: Option<&Shared>,
    fast: Option<&FastPort>,
) -> libbpf_rs::Result<(Loaded, [MapHandle; 3])> {
    let mut object = MaybeUninit::uninit();
    let mut open = SteerRulesSkelBuilder::default().open(&mut object)?;
    set_constants(&mut open, tables, fast)?;
    set_sizes(&mut open, tables)?;
    use_fast(&mut open, fast)?;
    if let Some(shared) = shared {
        open.maps.xsks.reuse_fd(shared.sockets.as_fd())?;
        open.maps.counters.reuse_fd(shared.counters.as_fd())?;
        open.maps.flows.reuse_fd(shared.flows.as_fd())?;
    }
    let skeleton = open.load()?;
    let maps = &skeleton.maps;
    let shared =
        [MapHandle::try_from(&maps.xsks)?, MapHandle::try_from(&maps.counters)?, MapHandle::try_from(&maps.flows)?];
    let loaded = Loaded {
        program: skeleton.progs.steer_rules.as_fd().try_clone_to_owned()?,
        variables: MapHandle::try_from(&maps.bss)?,
        rule_counters: MapHandle::try_from(&maps.rule_counters)?,
        actions: MapHandle::try_from(&maps.actions)?,
        vectors: MapHandle::try_from(&maps.vectors)?,
        order: MapHandle::try_from(&maps.order)?,
        kinds: MapHandle::try_from(&maps.kinds)?,
        vlans: MapHandle::try_from(&maps.vlans)?,
        src_macs: MapHandle::try_from(&maps.src_macs)?,
        dst_macs: MapHandle::try_from(&maps.dst_macs)?,
        blocks: MapHandle::try_from(&maps.blocks)?,
        chains: MapHandle::try_from(&maps.chains)?,
        src_ports: MapHandle::try_from(&maps.src_ports)?,
        dst_ports: MapHandle::try_from(&maps.dst_ports)?,
    };
    Ok((loaded, shared))
}

/// The maps that lead to fast paths; without these they are not made, and the program has no part that would use them.
fn use_fast(open: &mut OpenSteerRulesSkel<'_>, fast: Option<&FastPort>) -> libbpf_rs::Result<()> {
    let maps = &mut open.maps;
    let Some(fast) = fast else {
        maps.stages.set_autocreate(false)?;
        maps.packets.set_autocreate(false)?;
        return maps.fast_entries.set_autocreate(false);
    };
    maps.xsks.reuse_fd(fast.sockets.as_fd())?;
    maps.stages.reuse_fd(fast.stages.as_fd())?;
    maps.packets.reuse_fd(fast.packets.as_fd())?;
    maps.fast_entries.reuse_fd(fast.entries.as_fd())
}

/// The constants that the program is verified with.
fn set_constants(open: &mut OpenSteerRulesSkel<'_>, tables: &Tables, fast: Option<&FastPort>) -> libbpf_rs::Result<()> {
    let image = tables.image();
    let constants = open
        .maps
        .rodata_data
        .as_deref_mut()
        .ok_or_else(|| libbpf_rs::Error::from(io::Error::from(io::ErrorKind::InvalidData)))?;
    constants.words = image.words as u32;
    constants.rules = tables.rules().len() as u32;
    let parts = [
        (image.kinds.is_some(), WITH_KINDS),
        (image.vlans.is_some(), WITH_VLANS),
        (image.src_macs.is_some(), WITH_SRC_MACS),
        (image.dst_macs.is_some(), WITH_DST_MACS),
        (image.src.is_some(), WITH_SRC),
        (image.dst.is_some(), WITH_DST),
        (image.src_ports.is_some(), WITH_SRC_PORTS),
        (image.dst_ports.is_some(), WITH_DST_PORTS),
        (image.order.is_some(), WITH_ORDER),
        (fast.is_some(), WITH_FAST),
    ];
    if let Some(fast) = fast {
        (constants.port, constants.sockets) = (fast.port.into(), fast.first_slot());
        (constants.usual_chain, constants.usual_entry) = fast.usual;
    }
    constants.parts = parts.iter().filter(|(is_there, _)| *is_there).fold(0, |parts, (_, part)| parts | part);
    // Each vector is its summary and one word.
    let (vectors, _) = image.vectors.as_chunks::<2>();
    if image.words == 1 && image.order.is_none() && vectors.len() <= constants.small_vectors.len() {
        constants.parts |= IS_SMALL;
        constants.small_vectors.iter_mut().zip(vectors).for_each(|(small, &[_, word])| *small = word);
        let actions = tables.rules().iter().map(|rule| rule.action).chain([tables.default_action()]);
        constants.small_actions.iter_mut().zip(actions).for_each(|(small, action)| *small = action_number(action));
        if let Some(words) = image.src.as_ref().and_then(|_| small::by_src(tables.rules())) {
            constants.parts |= SRC_BY_BYTE;
            constants.small_src = words;
        }
        if let Some(words) = image.dst.as_ref().and_then(|_| small::by_dst(tables.rules())) {
            constants.parts |= DST_BY_BYTE;
            constants.small_dst = words;
        }
    }
    if let Some(src) = &image.src {
        constants.src_none = src.none.into();
        (constants.src_v4, constants.src_v6) = (src.v4, src.v6);
    }
    if let Some(dst) = &image.dst {
        constants.dst_none = dst.none.into();
        (constants.dst_v4, constants.dst_v6, constants.dst_arp) = (dst.v4, dst.v6, dst.arp);
    }
    let none = |ports: &Option<PortTable>| ports.as_ref().map_or(0, |ports| ports.none.into());
    (constants.src_port_none, constants.dst_port_none) = (none(&image.src_ports), none(&image.dst_ports));
    if let Some(macs) = &image.src_macs {
        constants.src_mac_none = macs.none.into();
        (constants.src_mac_factor, constants.src_mac_shift) = (macs.factor, macs.shift);
    }
    if let Some(macs) = &image.dst_macs {
        constants.dst_mac_none = macs.none.into();
        (constants.dst_mac_factor, constants.dst_mac_shift) = (macs.factor, macs.shift);
    }
    Ok(())
}

fn set_sizes(open: &mut OpenSteerRulesSkel<'_>, tables: &Tables) -> libbpf_rs::Result<()> {
    let image = tables.image();
    let maps = &mut open.maps;
    let and_default = tables.rules().len() as u32 + 1;
    maps.actions.set_max_entries(and_default)?;
    maps.rule_counters.set_max_entries(and_default)?;
    let vector_words = 1 + image.words;
    maps.vectors.set_value_size((vector_words * size_of::<u64>()) as u32)?;
    let count = |map: &mut OpenMapMut<'_>, count: usize| map.set_max_entries(count.max(1) as u32);
    count(&mut maps.vectors, image.vectors.len() / vector_words)?;
    count(&mut maps.order, image.order.as_ref().map_or(0, Vec::len))?;
    count(&mut maps.blocks, image.blocks.len())?;
    count(&mut maps.chains, image.chains.len())?;
    let buckets = |macs: &Option<MacTable>| macs.as_ref().map_or(0, |macs| macs.slots.len());
    count(&mut maps.src_macs, buckets(&image.src_macs))?;
    count(&mut maps.dst_macs, buckets(&image.dst_macs))?;
    // Tables that are not asked for are not looked at.
    let unused = [
        (&mut maps.kinds, image.kinds.is_none()),
        (&mut maps.vlans, image.vlans.is_none()),
        (&mut maps.src_ports, image.src_ports.is_none()),
        (&mut maps.dst_ports, image.dst_ports.is_none()),
    ];
    for (map, _) in unused.into_iter().filter(|&(_, unused)| unused) {
        map.set_value_size(size_of::<u64>() as u32)?;
    }
    Ok(())
}

fn fill(maps: &Loaded, tables: &Tables) -> libbpf_rs::Result<()> {
    let image: &Image = tables.image();
    let actions = tables.rules().iter().map(|rule| rule.action).chain([tables.default_action()]);
    put(&maps.actions, &actions.flat_map(|action| action_number(action).to_ne_bytes()).collect::<Vec<u8>>())?;
    put(&maps.vectors, &image.vectors.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>())?;
    if let Some(order) = &image.order {
        put(&maps.order, &order.iter().flat_map(|rule| rule.to_ne_bytes()).collect::<Vec<u8>>())?;
    }
    put(&maps.blocks, &image.blocks.iter().flatten().flat_map(|entry| entry.to_ne_bytes()).collect::<Vec<u8>>())?;
    let mut chains = Vec::with_capacity(image.chains.len() * 40);
    for chain in &image.chains {
        chain.value.iter().chain(&chain.mask).for_each(|word| chains.extend(word.to_ne_bytes()));
        chains.extend(chain.hit.to_ne_bytes());
        chains.extend(chain.miss.to_ne_bytes());
    }
    put(&maps.chains, &chains)?;
    let one = |map: &MapHandle, classes: Option<&Vec<u16>>| match classes {
        Some(classes) => put(map, &classes.iter().flat_map(|class| class.to_ne_bytes()).collect::<Vec<u8>>()),
        None => Ok(()),
    };
    one(&maps.kinds, image.kinds.as_ref())?;
    one(&maps.vlans, image.vlans.as_ref())?;
    one(&maps.src_ports, image.src_ports.as_ref().map(|ports| &ports.classes))?;
    one(&maps.dst_ports, image.dst_ports.as_ref().map(|ports| &ports.classes))?;
    for (map, macs) in [(&maps.src_macs, &image.src_macs), (&maps.dst_macs, &image.dst_macs)] {
        let Some(macs) = macs else { continue };
        put(map, &macs.slots.iter().flatten().flat_map(|slot| slot.to_ne_bytes()).collect::<Vec<u8>>())?;
    }
    Ok(())
}

/// Writes all values of an array from the first on.
fn put(map: &MapHandle, bytes: &[u8]) -> libbpf_rs::Result<()> {
    let value_bytes = map.value_size() as usize;
    let at_once = (BATCH_BYTES / value_bytes).max(1) * value_bytes;
    let mut first = 0_u32;
    for values in bytes.chunks(at_once) {
        let count = (values.len() / value_bytes) as u32;
        let keys: Vec<u8> = (first..first + count).flat_map(u32::to_ne_bytes).collect();
        map.update_batch(&keys, values, count, MapFlags::ANY, MapFlags::ANY)?;
        first += count;
    }
    Ok(())
}
