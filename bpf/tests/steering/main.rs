//! The steering programs in the kernel against what the rules mean, packet by packet; their counters, flows and replacement.

mod decisions;
mod flows;

use middlenet_bpf::{Run, Trial, Verdict};
use middlenet_steer::{Action, Match, Rule};

fn rule(name: &str, matches: Match, action: Action) -> Rule {
    Rule { name: name.to_owned(), matches, action }
}

/// What a run shows of an action.
fn shown(action: Action) -> (Verdict, Option<u16>) {
    match action {
        Action::Drop => (Verdict::Drop, None),
        Action::Kernel => (Verdict::Pass, None),
        Action::Tag(tag) => (Verdict::Redirect, Some(tag)),
    }
}

fn run(trial: &Trial, packet: &[u8]) -> (Verdict, Option<u16>) {
    let Run { verdict, tag, .. } = trial.run(packet, 1).expect("the kernel runs it");
    (verdict, tag)
}
