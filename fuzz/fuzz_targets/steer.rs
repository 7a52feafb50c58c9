//! Tables find the rule that a scan of the rules finds, whatever the rules and the frame, and a dead rule is never it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use middlenet_steer::testkit::Draw;
use middlenet_steer::{Action, Head, Tables, dead_rules};

fuzz_target!(|bytes: &[u8]| {
    let mut draw = Draw::from_bytes(bytes);
    let rules = draw.rules(16);
    let tables = Tables::compile(&rules, Action::Kernel).expect("within the limits");
    let drawn = draw.frame();
    for head in [Head::parse(bytes), Head::parse(&drawn)].into_iter().flatten() {
        let first = rules.iter().position(|rule| rule.matches.matches(&head));
        assert_eq!(tables.first_match(&head), first);
        assert!(dead_rules(&rules).iter().all(|&(index, _)| first != Some(index)));
    }
});
