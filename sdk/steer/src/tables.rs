//! Rules compiled so that a look-up costs the same for ten of them as for a thousand.
//!
//! Each field of a packet is looked up by itself and leads to a *class*: what all values have in common that the same rules
//! ask for. A class has a vector with a bit per rule, set where the rule asks for nothing in this field or for one of these
//! values. The first rule that matches is among the bits that are set in the vectors of all fields; in a word of them, it is the
//! lowest. Each vector has a summary, a bit per word of it, so that words which are zero anyway are not looked at (aggregated
//! bit vectors with rearranged rules: Baboescu and Varghese, "Scalable Packet Classification", SIGCOMM 2001).

mod addresses;
mod classes;
mod image;
mod macs;
mod order;
mod spans;
#[cfg(test)]
mod tests;

use crate::{Action, Head, Rule};
use addresses::{Found, Trie};
use classes::{Bits, Classes};
pub use image::{Chain, Image, MacTable, PortTable, Prefixes};
use order::Order;

/// Most rules of one set.
pub const MOST_RULES: usize = 4096;
/// Most classes of one set, over all fields: a rule set has at most about two for each different value or bound of a range.
pub const MOST_CLASSES: usize = 65_536;
/// Most address prefixes of one set, counted for each rule and field.
pub const MOST_PREFIXES: usize = 32_768;
/// Most MAC addresses of one set, counted likewise.
pub const MOST_MACS: usize = 32_768;

/// Why rules cannot be compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Too many rules.
    #[error("{count} steering rules are more than the {MOST_RULES} that one interface can have")]
    Rules {
        /// How many there are.
        count: usize,
    },
    /// Too many prefixes.
    #[error(
        "{count} address prefixes are more than the {MOST_PREFIXES} that the steering rules of one interface can have"
    )]
    Prefixes {
        /// How many there are.
        count: usize,
    },
    /// Too many MAC addresses.
    #[error("{count} MAC addresses are more than the {MOST_MACS} that the steering rules of one interface can have")]
    Macs {
        /// How many there are.
        count: usize,
    },
    /// Too many classes.
    #[error(
        "the steering rules of one interface tell apart more than {MOST_CLASSES} sets of addresses and ports: use fewer or \
         wider ones"
    )]
    Classes,
}

/// A rule set ready for look-ups, here and in the XDP program.
#[derive(Clone, Debug)]
pub struct Tables {
    rules: Vec<Rule>,
    default: Action,
    image: Image,
}

impl Tables {
    /// Compiles an ordered list of rules; `default` is for packets that none of them matches.
    ///
    /// # Errors
    ///
    /// When a limit is passed: [`MOST_RULES`], [`MOST_PREFIXES`], [`MOST_MACS`], [`MOST_CLASSES`].
    pub fn compile(rules: &[Rule], default: Action) -> Result<Self, CompileError> {
        check(rules)?;
        let order = Order::of(rules);
        let mut classes = Classes::new(&order);
        let mut trie = Trie::default();
        let kinds = spans::kinds(rules, &mut classes)?;
        let vlans = spans::vlans(rules, &mut classes)?;
        let src_macs = macs::compile(rules.iter().map(|rule| rule.matches.src_macs.as_slice()), &mut classes)?;
        let dst_macs = macs::compile(rules.iter().map(|rule| rule.matches.dst_macs.as_slice()), &mut classes)?;
        let src = addresses::src(rules, &mut trie, &mut classes)?;
        let dst = addresses::dst(rules, &mut trie, &mut classes)?;
        let src_ports = spans::ports(rules.iter().map(|rule| rule.matches.src_ports.as_slice()), &mut classes)?;
        let dst_ports = spans::ports(rules.iter().map(|rule| rule.matches.dst_ports.as_slice()), &mut classes)?;
        let Trie { blocks, chains } = trie;
        let (words, vectors) = classes.finish();
        let order = order.rules();
        let image = Image {
            words,
            vectors,
            order,
            kinds,
            vlans,
            src_macs,
            dst_macs,
            src,
            dst,
            blocks,
            chains,
            src_ports,
            dst_ports,
        };
        Ok(Self { rules: rules.to_vec(), default, image })
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What becomes of packets that no rule matches.
    pub fn default_action(&self) -> Action {
        self.default
    }

    /// The tables as numbers, for whoever looks up elsewhere.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The first rule that matches: what a scan of [`rules`](Self::rules) with [`Match::matches`](crate::Match::matches)
    /// finds.
    pub fn first_match(&self, head: &Head) -> Option<usize> {
        let image = &self.image;
        let mac = |table: &Option<MacTable>, mac: [u8; 6]| table.as_ref().map(|table| table.class(mac));
        let port = |table: &Option<PortTable>, port: Option<u16>| table.as_ref().map(|table| table.class(port));
        let address = |prefixes: &Option<Prefixes>, found: Found| {
            prefixes.as_ref().map(|prefixes| image.address_class(prefixes, found))
        };
        let dst = head.dst.map_or_else(|| head.arp_target.map_or(Found::Nothing, Found::Arp), Found::Ip);
        let classes = [
            image.kinds.as_ref().map(|kinds| kinds[image::kind(head)]),
            image.vlans.as_ref().map(|vlans| vlans[usize::from(head.vlan & 0xfff)]),
            mac(&image.src_macs, head.src_mac),
            mac(&image.dst_macs, head.dst_mac),
            address(&image.src, head.src.map_or(Found::Nothing, Found::Ip)),
            address(&image.dst, dst),
            port(&image.src_ports, head.src_port),
            port(&image.dst_ports, head.dst_port),
        ];
        if classes.iter().all(Option::is_none) {
            // No rule asks for anything.
            return (!self.rules.is_empty()).then_some(0);
        }
        let vectors = || classes.iter().flatten().map(|&class| image.vector(class));
        let mut summary = vectors().fold(u64::MAX, |sum, vector| sum & vector[0]);
        let mut first = None;
        while summary != 0 {
            let word = summary.trailing_zeros() as usize;
            let common = vectors().fold(u64::MAX, |sum, vector| sum & vector[1 + word]);
            if common != 0 {
                let bit = word * 64 + common.trailing_zeros() as usize;
                let Some(order) = &image.order else { return Some(bit) };
                let rule = order[bit] as usize;
                first = Some(first.map_or(rule, |first: usize| first.min(rule)));
            }
            summary &= summary - 1;
        }
        first
    }

    /// What becomes of a packet with this head.
    pub fn action(&self, head: &Head) -> Action {
        self.first_match(head).map_or(self.default, |rule| self.rules[rule].action)
    }
}

fn check(rules: &[Rule]) -> Result<(), CompileError> {
    let count = |of: fn(&crate::Match) -> usize| rules.iter().map(|rule| of(&rule.matches)).sum::<usize>();
    let prefixes = count(|matches| matches.src.len() + matches.dst.len() + matches.arp_targets.len());
    let macs = count(|matches| matches.src_macs.len() + matches.dst_macs.len());
    if rules.len() > MOST_RULES {
        return Err(CompileError::Rules { count: rules.len() });
    }
    if prefixes > MOST_PREFIXES {
        return Err(CompileError::Prefixes { count: prefixes });
    }
    if macs > MOST_MACS {
        return Err(CompileError::Macs { count: macs });
    }
    Ok(())
}

/// The rules that ask for nothing in a field.
fn base(classes: &Classes, asks: impl Iterator<Item = bool>) -> Bits {
    let mut bits = classes.empty();
    for (rule, asks) in asks.enumerate() {
        if !asks {
            classes.set(&mut bits, rule);
        }
    }
    bits
}
