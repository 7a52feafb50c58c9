//! The rules in the maps, and their replacement by others.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};

use middlenet_fast_path::{Action, Counted, MapKind, NO_RULE, Settings, SettingsOf, Shape, port_slot, prefix_key};
use middlenet_steer::Prefix;

use super::FastPathError;
use super::difference::{self, MatcherKind, Step, Table};
use super::store::{Store, read_all};

/// Rules and what names them: all that [`FastPath::set_rules`](super::FastPath::set_rules) replaces. Numbers are places in
/// `rules`; where several match a packet, the lowest decides. About a packet that [hides its ports](middlenet_steer::Head::hides_ports), a
/// rule with a higher number than one of a port decides only if it drops; else no rule matches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleTable {
    /// What the rules do.
    pub rules: Vec<Action>,
    /// Prefixes of source addresses, and the rule of each; the longest that holds an address counts, and of the same one the lowest
    /// number.
    pub src: Vec<(Prefix, u32)>,
    /// The same of destination addresses.
    pub dst: Vec<(Prefix, u32)>,
    /// Source ports: protocol (6 or 17), port, and the rule.
    pub src_ports: Vec<(u8, u16, u32)>,
    /// The same of destination ports.
    pub dst_ports: Vec<(u8, u16, u32)>,
}

impl RuleTable {
    /// Whether a fast path of this shape can hold it.
    pub(super) fn check(&self, shape: &Shape) -> Result<(), FastPathError> {
        let (src, dst) = shape.most_prefixes();
        let ports = |there: bool| if there { shape.entries(MapKind::SrcPorts) } else { 0 };
        for (what, count, most) in [
            ("rules", self.rules.len(), shape.most_rules()),
            ("source prefixes", self.src.len(), src),
            ("destination prefixes", self.dst.len(), dst),
            ("source ports", self.src_ports.len(), ports(shape.src_ports)),
            ("destination ports", self.dst_ports.len(), ports(shape.dst_ports)),
        ] {
            if count > most as usize {
                return Err(FastPathError::TooMany { what, count, most });
            }
        }
        let prefixes = self.src.iter().chain(&self.dst).map(|&(_, rule)| rule);
        let ports = self.src_ports.iter().chain(&self.dst_ports);
        if let Some(&(protocol, ..)) = ports.clone().find(|(protocol, port, _)| port_slot(*protocol, *port).is_none()) {
            return Err(FastPathError::Protocol(protocol));
        }
        match prefixes.chain(ports.map(|&(.., rule)| rule)).find(|&rule| rule as usize >= self.rules.len()) {
            Some(rule) => Err(FastPathError::NoRule { rule, rules: self.rules.len() }),
            None => Ok(()),
        }
    }

    /// Keys, and the places of the rules that they name.
    fn keys(&self) -> Table {
        let mut table = Table::new();
        let mut add = |kind, key: Vec<u8>, rule: u32| {
            let named = table.entry((kind, key)).or_insert(rule);
            *named = rule.min(*named);
        };
        for (kind, prefixes) in [(MatcherKind::SrcPrefix, &self.src), (MatcherKind::DstPrefix, &self.dst)] {
            prefixes.iter().for_each(|(prefix, rule)| add(kind, prefix_key(prefix).to_vec(), *rule));
        }
        for (kind, ports) in [(MatcherKind::SrcPort, &self.src_ports), (MatcherKind::DstPort, &self.dst_ports)] {
            for &(protocol, port, rule) in ports {
                if let Some(slot) = port_slot(protocol, port) {
                    add(kind, slot.to_ne_bytes().to_vec(), rule);
                    add(MatcherKind::FirstPort, SettingsOf::Rules.key().to_vec(), rule);
                }
            }
        }
        table
    }
}

/// A rule as it is in the maps.
#[derive(Debug, Clone)]
struct Rule {
    number: u32,
    action: [u8; Action::BYTES],
    /// Stands for all that names it.
    names: u64,
    /// What it had counted under earlier numbers, and what its number had counted before it was this rule's.
    carried: Counted,
    base: Counted,
}

/// What is in the maps.
#[derive(Debug, Default)]
pub(super) struct Rules {
    rules: Vec<Rule>,
    table: Table,
    slots: Vec<u32>,
    /// What these are being replaced by, when a write has failed in the midst of it.
    begun: Option<Begun>,
}

/// A table whose rules are in the map and that names them in part.
#[derive(Debug)]
struct Begun {
    rules: Vec<Rule>,
    table: Table,
    /// Which rules are those of the table before: their places in both.
    kept: Vec<(usize, usize)>,
}

impl Rules {
    /// Reads what an earlier instance has left.
    pub(super) fn read(store: &mut dyn Store, shape: &Shape) -> Result<Self, FastPathError> {
        let mut table = Table::new();
        for kind in MatcherKind::ALL.into_iter().filter(|kind| shape.entries(kind.map()) > 0 && has(shape, *kind)) {
            if kind == MatcherKind::FirstPort {
                let first = settings(store, SettingsOf::Rules)?.first_port_rule;
                table.extend(first.checked_sub(1).map(|number| ((kind, SettingsOf::Rules.key().to_vec()), number)));
                continue;
            }
            let page = read_all(store, kind.map()).map_err(FastPathError::map(kind.map()))?;
            for (key, value) in page.keys.chunks_exact(kind.map().key_bytes()).zip(numbers(&page.values)) {
                if let Some(number) = from_map(kind, value) {
                    table.insert((kind, key.to_vec()), number);
                }
            }
        }
        let slots = match shape.slots {
            0 => Vec::new(),
            _ => {
                numbers(&read_all(store, MapKind::Slots).map_err(FastPathError::map(MapKind::Slots))?.values).collect()
            }
        };
        let names = Names::new(&table);
        let mut rules = Vec::new();
        for &number in table.values().chain(&slots).collect::<BTreeSet<_>>() {
            let found = store.get(MapKind::Rules, &number.to_ne_bytes()).map_err(FastPathError::map(MapKind::Rules))?;
            if let (true, Some(Ok(action))) = (number > 0, found.map(<[u8; Action::BYTES]>::try_from)) {
                let names = names.of(number);
                rules.push(Rule { number, action, names, carried: Counted::default(), base: Counted::default() });
            }
        }
        Ok(Self { rules, table, slots, begun: None })
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.rules.len()
    }

    /// Makes this table of what is there. After an error it is asked for again, or another one is.
    pub(super) fn replace(
        &mut self,
        store: &mut dyn Store,
        shape: &Shape,
        new: &RuleTable,
    ) -> Result<(), FastPathError> {
        if !shape.maps().any(|kind| kind == MapKind::Rules) {
            return Ok(());
        }
        // Two tables are in the maps at most, as there is room for.
        self.finish(store)?;
        let places = new.keys();
        let names = Names::new(&places);
        let wanted: Vec<([u8; Action::BYTES], u64)> =
            (0_u32..).zip(&new.rules).map(|(at, action)| (action.encode(), names.of(at))).collect();
        let there: Vec<_> = self.rules.iter().map(|rule| (rule.action, rule.names)).collect();
        let kept = difference::common(&there, &wanted, |&rule| rule, |&(action, _)| action);
        let taken: BTreeSet<u32> = self
            .rules
            .iter()
            .map(|rule| rule.number)
            .chain(self.table.values().copied())
            .chain(self.slots.iter().copied())
            .collect();
        let mut earlier = vec![None; wanted.len()];
        kept.iter().for_each(|&(old, new)| earlier[new] = self.rules.get(old));
        let given: Vec<_> = earlier.iter().map(|rule| rule.map(|rule| rule.number)).collect();
        let numbers = difference::number(&given, &taken, shape.rules)
            .or_else(|| difference::number(&vec![None; wanted.len()], &taken, shape.rules))
            .ok_or(FastPathError::NumbersInUse)?;
        let mut rules = Vec::with_capacity(wanted.len());
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for ((&number, (action, names)), earlier) in numbers.iter().zip(wanted).zip(&earlier) {
            rules.push(match *earlier {
                Some(earlier) if earlier.number == number => Rule { names, ..earlier.clone() },
                _ => {
                    keys.extend(number.to_ne_bytes());
                    values.extend(action);
                    Rule { number, action, names, carried: Counted::default(), base: count(store, number)? }
                }
            });
        }
        put(store, MapKind::Rules, &keys, &values)?;
        let table = places.into_iter().map(|(key, place)| (key, numbers[place as usize])).collect();
        self.begun = Some(Begun { rules, table, kept });
        self.finish(store)
    }

    /// Goes on with what was begun.
    fn finish(&mut self, store: &mut dyn Store) -> Result<(), FastPathError> {
        let Some(mut begun) = self.begun.take() else { return Ok(()) };
        let result = self.walk(store, difference::steps(&self.table, &begun.table));
        let result = result.and_then(|()| self.carry(store, &mut begun));
        match result {
            Ok(()) => self.rules = begun.rules,
            Err(_) => self.begun = Some(begun),
        }
        result
    }

    /// Rules that got another number take along what they have counted.
    fn carry(&self, store: &mut dyn Store, begun: &mut Begun) -> Result<(), FastPathError> {
        for &(old, new) in &begun.kept {
            if self.rules[old].number != begun.rules[new].number {
                begun.rules[new].carried = self.rules[old].counted(store)?;
            }
        }
        Ok(())
    }

    /// Does the writes in order, as many at once as are of one map. What is noted of the maps is what is in them, however far it
    /// came.
    fn walk(&mut self, store: &mut dyn Store, steps: Vec<Step>) -> Result<(), FastPathError> {
        let of = |step: &Step| (step.kind(), matches!(step, Step::Put(..)));
        for run in steps.chunk_by(|a, b| of(a) == of(b)) {
            let Some((kind, puts)) = run.first().map(of) else { continue };
            let keys: Vec<u8> = run.iter().flat_map(|step| step.key()).copied().collect();
            let fail = FastPathError::map(kind.map());
            if !puts {
                store.delete(kind.map(), &keys).map_err(fail)?;
                run.iter().for_each(|step| {
                    self.table.remove(&(kind, step.key().to_vec()));
                });
                continue;
            }
            let values: Vec<u8> = match kind {
                // One key: there is one step.
                MatcherKind::FirstPort => {
                    let there = settings(store, SettingsOf::Rules)?;
                    Settings { first_port_rule: to_map(kind, run[0].number()), ..there }.encode().into()
                }
                _ => run.iter().flat_map(|step| to_map(kind, step.number()).to_ne_bytes()).collect(),
            };
            let (written, result) = store.put(kind.map(), &keys, &values);
            for step in &run[..written] {
                match step.number() {
                    NO_RULE if !kind.is_prefix() => {
                        self.table.remove(&(kind, step.key().to_vec()));
                    }
                    number => {
                        self.table.insert((kind, step.key().to_vec()), number);
                    }
                }
            }
            result.map_err(fail)?;
        }
        Ok(())
    }

    /// Writes slots.
    pub(super) fn set_slots(&mut self, store: &mut dyn Store, first: u32, rules: &[u32]) -> Result<(), FastPathError> {
        let number = |&rule: &u32| {
            let found = self.rules.get(rule as usize).map(|rule| rule.number);
            found.ok_or(FastPathError::NoRule { rule, rules: self.rules.len() })
        };
        let numbers = rules.iter().map(number).collect::<Result<Vec<_>, _>>()?;
        let keys: Vec<u8> = (first..).take(rules.len()).flat_map(u32::to_ne_bytes).collect();
        let values: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        let (written, result) = store.put(MapKind::Slots, &keys, &values);
        for (slot, number) in self.slots.iter_mut().skip(first as usize).zip(numbers).take(written) {
            *slot = number;
        }
        result.map_err(FastPathError::map(MapKind::Slots))
    }

    /// What a rule counted.
    pub(super) fn counted(&self, store: &mut dyn Store, rule: u32) -> Result<Counted, FastPathError> {
        self.rules.get(rule as usize).map_or(Ok(Counted::default()), |rule| rule.counted(store))
    }
}

impl Rule {
    fn counted(&self, store: &mut dyn Store) -> Result<Counted, FastPathError> {
        let now = count(store, self.number)?;
        Ok(Counted {
            packets: self.carried.packets.wrapping_add(now.packets.wrapping_sub(self.base.packets)),
            bytes: self.carried.bytes.wrapping_add(now.bytes.wrapping_sub(self.base.bytes)),
        })
    }
}

impl Step {
    fn key(&self) -> &[u8] {
        match self {
            Self::Put(_, key, _) | Self::Delete(_, key) => key,
        }
    }

    fn number(&self) -> u32 {
        match self {
            Self::Put(.., number) => *number,
            Self::Delete(..) => NO_RULE,
        }
    }
}

fn has(shape: &Shape, kind: MatcherKind) -> bool {
    shape.maps().any(|map| map == kind.map())
}

/// What stands for the keys that name each rule.
struct Names(HashMap<u32, DefaultHasher>);

impl Names {
    fn new(table: &Table) -> Self {
        let mut hashers: HashMap<u32, DefaultHasher> = HashMap::new();
        let named = table.iter().filter(|((kind, _), _)| *kind != MatcherKind::FirstPort);
        named.for_each(|(key, rule)| key.hash(hashers.entry(*rule).or_default()));
        Self(hashers)
    }

    fn of(&self, rule: u32) -> u64 {
        self.0.get(&rule).map_or(0, Hasher::finish)
    }
}

fn count(store: &mut dyn Store, number: u32) -> Result<Counted, FastPathError> {
    let values =
        store.get(MapKind::RuleCounts, &number.to_ne_bytes()).map_err(FastPathError::map(MapKind::RuleCounts))?;
    Ok(Counted::sum(&values.unwrap_or_default()))
}

fn put(store: &mut dyn Store, kind: MapKind, keys: &[u8], values: &[u8]) -> Result<(), FastPathError> {
    store.put(kind, keys, values).1.map_err(FastPathError::map(kind))
}

fn numbers(values: &[u8]) -> impl Iterator<Item = u32> {
    values.as_chunks().0.iter().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// Settings as they are in the map.
pub(super) fn settings(store: &mut dyn Store, of: SettingsOf) -> Result<Settings, FastPathError> {
    let value = store.get(MapKind::Settings, &of.key()).map_err(FastPathError::map(MapKind::Settings))?;
    Ok(value.and_then(|value| Some(Settings::decode(value.first_chunk()?))).unwrap_or_default())
}

/// How a number lies in a map: for ports, 0 is for none.
fn to_map(kind: MatcherKind, number: u32) -> u32 {
    if kind.is_prefix() { number } else { number.wrapping_add(1) }
}

fn from_map(kind: MatcherKind, value: u32) -> Option<u32> {
    if kind.is_prefix() { Some(value) } else { value.checked_sub(1) }
}
