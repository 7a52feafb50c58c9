//! Tables against a scan of the rules.

use super::*;
use crate::testkit::Draw;
use proptest::prelude::*;

fn scan(rules: &[Rule], head: &Head) -> Option<usize> {
    rules.iter().position(|rule| rule.matches.matches(head))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn tables_find_what_a_scan_finds(seed: u64) {
        let mut draw = Draw::from_seed(seed);
        let rules = draw.rules(300);
        let frames: Vec<_> = (0..64).map(|_| draw.frame()).collect();
        let tables = Tables::compile(&rules, Action::Kernel).unwrap();
        for frame in &frames {
            let Some(head) = Head::parse(frame) else { continue };
            prop_assert_eq!(tables.first_match(&head), scan(&rules, &head), "{:?}", head);
        }
    }

    #[test]
    fn the_first_of_many_that_match_is_found(seed: u64) {
        let mut draw = Draw::from_seed(seed);
        let rules = draw.alike_rules(600);
        let tables = Tables::compile(&rules, Action::Kernel).unwrap();
        prop_assert!(tables.image().order.is_some(), "rules that ask for the same stand together");
        for head in (0..64).filter_map(|_| Head::parse(&draw.frame())) {
            prop_assert_eq!(tables.first_match(&head), scan(&rules, &head), "{:?}", head);
        }
    }

    #[test]
    fn a_dead_rule_is_never_found(seed: u64) {
        let mut draw = Draw::from_seed(seed);
        let rules = draw.rules(60);
        let frames: Vec<_> = (0..64).map(|_| draw.frame()).collect();
        let dead = crate::dead_rules(&rules);
        for head in frames.iter().filter_map(|frame| Head::parse(frame)) {
            let found = scan(&rules, &head);
            prop_assert!(dead.iter().all(|&(index, _)| found != Some(index)), "{:?} {:?}", head, dead);
        }
    }
}

#[test]
fn without_rules_the_default_decides() {
    let tables = Tables::compile(&[], Action::Tag(7)).unwrap();
    assert_eq!(tables.first_match(&Head::default()), None);
    assert_eq!(tables.action(&Head::default()), Action::Tag(7));
}

#[test]
fn the_address_of_zeros_is_one_as_any() {
    let rule = |matches| Rule { name: String::new(), matches, action: Action::Drop };
    let zero = crate::Match { src_macs: vec![[0; 6]], ..Default::default() };
    let other = crate::Match { src_macs: vec![[2, 0, 0, 0, 0, 1]], ..Default::default() };
    let only_other = Tables::compile(&[rule(other.clone())], Action::Kernel).unwrap();
    assert_eq!(only_other.first_match(&Head::default()), None);
    let both = Tables::compile(&[rule(other), rule(zero)], Action::Kernel).unwrap();
    assert_eq!(both.first_match(&Head::default()), Some(1));
}

#[test]
fn limits_are_named() {
    let rule = |matches| Rule { name: String::new(), matches, action: Action::Drop };
    let many = vec![rule(crate::Match::default()); MOST_RULES + 1];
    assert!(Tables::compile(&many[1..], Action::Drop).is_ok());
    assert_eq!(Tables::compile(&many, Action::Drop).unwrap_err(), CompileError::Rules { count: MOST_RULES + 1 });
    let src = vec!["10.0.0.0/8".parse().unwrap(); MOST_PREFIXES + 1];
    let wide = [rule(crate::Match { src, ..Default::default() })];
    assert_eq!(Tables::compile(&wide, Action::Drop).unwrap_err(), CompileError::Prefixes { count: MOST_PREFIXES + 1 });
    let src_macs = vec![[0; 6]; MOST_MACS + 1];
    let macs = [rule(crate::Match { src_macs, ..Default::default() })];
    assert_eq!(Tables::compile(&macs, Action::Drop).unwrap_err(), CompileError::Macs { count: MOST_MACS + 1 });
}
