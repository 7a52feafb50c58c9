//! The rules of the firewall, in its two forms: a hundred networks that nobody is to hear from, and ports that everybody may ask.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::row::Host;
use crate::BenchError;
use crate::run::go_on;
use crate::tool::Tool;
use crate::work_folder::WorkFolder;

/// The program that reads rules for the tables the paper's firewall has; `iptables` itself writes those of nftables.
const IPTABLES: Tool = Tool { program: "iptables-legacy-restore", package: "iptables" };
/// Networks that are denied, of 198.18.0.0/15 (RFC 2544): a rule each.
const DENIED: usize = 100;

fn denied() -> impl Iterator<Item = String> {
    (0..DENIED).map(|i| format!("198.{}.{}.0/24", 18 + i / 256, i % 256))
}

/// `efw` with ports of TCP that may be asked and may answer, as an entry of a chain.
pub(super) fn efw(ports: &[u16]) -> Value {
    let mut rules: Vec<Value> = denied().map(|network| json!({ "src": network, "allow": false })).collect();
    for key in ["dst_port", "src_port"] {
        rules.push(json!({ key: ports, "proto": "tcp", "allow": true }));
    }
    json!({ "efw": { "mode": "offloading", "placement": "inline", "config": { "rules": rules } } })
}

/// The same for iptables.
fn iptables(ports: &[u16]) -> String {
    let mut text = String::from("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n");
    for network in denied() {
        let _ = writeln!(text, "-A FORWARD -s {network} -j DROP");
    }
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    for key in ["--dports", "--sports"] {
        let _ = writeln!(text, "-A FORWARD -p tcp -m multiport {key} {} -j ACCEPT", ports.join(","));
    }
    text + "COMMIT\n"
}

/// Gives a box these rules in netfilter.
///
/// # Errors
/// When iptables is not installed or refuses.
pub(super) fn in_kernel(host: &Host, folder: &WorkFolder, ports: &[u16]) -> Result<(), BenchError> {
    go_on()?;
    let file = folder.write("iptables", iptables(ports).as_bytes())?;
    host.netns.exec(&IPTABLES.path()?.display().to_string(), [&file])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_hold_the_same() {
        let (ours, theirs) = (efw(&[80, 443]), iptables(&[80, 443]));
        let rules = ours["efw"]["config"]["rules"].as_array().unwrap();
        assert_eq!(rules.len(), theirs.matches("-A FORWARD").count());
        assert_eq!(rules[99]["src"], "198.18.99.0/24");
        assert!(theirs.contains("-A FORWARD -s 198.18.99.0/24 -j DROP\n"), "{theirs}");
        assert_eq!(rules[100], json!({ "dst_port": [80, 443], "proto": "tcp", "allow": true }));
        assert!(theirs.contains("-m multiport --dports 80,443 -j ACCEPT\n"), "{theirs}");
        assert!(theirs.ends_with("--sports 80,443 -j ACCEPT\nCOMMIT\n"), "{theirs}");
    }
}
