//! `middlenet-bench demo`: the runtime at work, in four acts. Packets go through three functions between a client and a server;
//! requests go through two functions between clients and two servers; then both share one interface; then a flow
//! moves from a function into the kernel.
//!
//! All hosts are network namespaces on this one; nothing leaves it, and nothing is left of them.

mod both;
mod hybrid;
mod packets;
mod requests;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use crate::BenchError;
use crate::programs::Programs;

/// Shows the runtime at work, and writes what was seen as JSON if a path is given.
///
/// # Errors
/// When anything does not go as it should. Whatever was made for the demo is removed then too.
pub fn run(json: Option<&Path>) -> Result<(), BenchError> {
    let started = Instant::now();
    let programs = Programs::find()?;
    programs.path("middlenet-message-broker")?;
    // Everything is looked for before the first act, not in the middle of it.
    for tool in packets::TOOLS.into_iter().chain(requests::TOOLS) {
        tool.path()?;
    }
    println!("MiddleNet, in four acts: packets, requests, both on one interface, fast path and slow path");
    let mut seen = json!({});
    packets::run(&programs, &mut seen)?;
    requests::run(&programs, &mut seen["requests"])?;
    both::run(&programs, &mut seen["both"])?;
    hybrid::run(&programs, &mut seen["hybrid"])?;
    println!("\ndone in {:.0} s", started.elapsed().as_secs_f64());
    match json {
        Some(path) => {
            let text = format!("{seen:#}\n");
            std::fs::write(path, text).map_err(BenchError::file(path))
        }
        None => Ok(()),
    }
}

fn heading(text: &str) {
    println!("\n{text}");
}

fn say(text: impl std::fmt::Display) {
    println!("  {text}");
}

/// Says that nothing is left of an act.
///
/// # Errors
/// When a namespace is still there.
fn left_of(namespaces: &[PathBuf]) -> Result<(), BenchError> {
    if let Some(path) = namespaces.iter().find(|path| path.exists()) {
        return Err(BenchError::Failed(format!("{} is still there", path.display())));
    }
    say("the namespaces and cables are gone; the host is as it was");
    Ok(())
}

/// Values as a row of bars, the largest the highest; nothing at all is a dot.
fn bars(values: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let bar = |value: &f64| match value {
        v if *v <= 0.0 => '.',
        v => BARS[((v / most * 7.0).round() as usize).min(7)],
    };
    values.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::bars;

    #[test]
    fn bars_are_relative_to_the_largest() {
        assert_eq!(bars(&[0.0, 0.1, 4.0, 8.0]), ".▁▅█");
        assert_eq!(bars(&[]), "");
    }
}
