//! Cases as manifests: what runs, between which devices, beside which reference.

use serde_json::{Value, json};

use super::{FUNCTION_CORE, MANAGER_CORE};
use crate::BenchError;
use crate::input::{self, FCS_BYTES};
use crate::programs::Programs;
use crate::work_folder::WorkFolder;

/// RFC 2544's sizes up to the MTU, with FCS.
const SIZES: [usize; 6] = [64, 128, 256, 512, 1024, 1518];
/// The link address that everything is sent to: no station's, so a kernel behind a cable counts its frames and drops them.
pub(super) const NOBODY: &str = "02:00:00:00:00:99";
/// Longest chain.
const LONGEST: usize = 6;

/// What runs in one case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// `l3-router` with 10,000 routes, then `l2-forward`.
    RouterForward,
    /// Two functions that do next to nothing.
    Trivial,
    /// So many times `l2-forward`.
    Chain(usize),
}

/// What is measured beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reference {
    /// testpmd in mac mode between the same devices.
    Testpmd,
    /// The pipeline in C on `rte_ring`.
    RingPipeline,
}

impl Reference {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Testpmd => "testpmd-mac",
            Self::RingPipeline => "rte-ring-c",
        }
    }
}

/// A case of throughput.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) load: Load,
    pub(super) inline: bool,
    /// With FCS.
    pub(super) size: usize,
    pub(super) reference: Option<Reference>,
}

impl Subject {
    /// All cases, or those that `--quick` has time for.
    pub(super) fn all(quick: bool) -> Vec<Self> {
        let sizes: &[usize] = if quick { &[64, 1518] } else { &SIZES };
        let mut subjects = Vec::new();
        let mut add = |load, inline, size, reference| subjects.push(Self { load, inline, size, reference });
        for (load, inline, reference) in [
            (Load::RouterForward, true, Some(Reference::Testpmd)),
            (Load::RouterForward, false, None),
            (Load::Trivial, true, Some(Reference::Testpmd)),
            (Load::Trivial, false, Some(Reference::RingPipeline)),
        ] {
            for &size in sizes {
                // A reference takes seconds to start.
                add(load, inline, size, reference.filter(|_| !quick || size == 64));
            }
        }
        let lengths: Vec<usize> = if quick { vec![1, 3, LONGEST] } else { (1..=LONGEST).collect() };
        for inline in [true, false] {
            lengths.iter().for_each(|&n| add(Load::Chain(n), inline, 64, None));
        }
        subjects
    }

    pub(super) fn case(&self) -> String {
        let placement = if self.inline { "inline" } else { "process" };
        match self.load {
            Load::RouterForward => format!("{placement}/router+l2fwd/{}", self.size),
            Load::Trivial => format!("{placement}/trivial2/{}", self.size),
            Load::Chain(n) => format!("{placement}/chain{n}/{}", self.size),
        }
    }

    /// Bytes in a buffer.
    pub(super) fn frame_bytes(&self) -> usize {
        self.size - FCS_BYTES
    }

    /// The device packets come from. The router's packets are written to `folder`.
    pub(super) fn left(&self, folder: &WorkFolder) -> Result<String, BenchError> {
        if self.load != Load::RouterForward {
            return Ok(format!("net_null0,size={}", self.frame_bytes()));
        }
        let packets = input::capture(&input::packets(self.size));
        let path = folder.write(&format!("in{}.pcap", self.size), &packets)?;
        Ok(format!("net_pcap0,rx_pcap={},infinite_rx=1", path.display()))
    }

    /// The manifest without a name. The right device sends nothing back, so that one direction has all the cycles.
    pub(super) fn manifest(&self, programs: &Programs, folder: &WorkFolder) -> Result<Value, BenchError> {
        Ok(json!({
            "ports": { "left": { "dpdk": self.left(folder)? }, "right": { "dpdk": "net_null1,no-rx=1" } },
            "cores": { "manager": [MANAGER_CORE], "functions": [FUNCTION_CORE] },
            "placement": if self.inline { "inline" } else { "process" },
            "chains": { "chain": { "ports": ["left", "right"], "functions": self.functions(programs)? } },
        }))
    }

    fn functions(&self, programs: &Programs) -> Result<Value, BenchError> {
        let run = |program: &str| -> Result<Value, BenchError> {
            Ok(json!({ "run": programs.path(program)?, "config": {} }))
        };
        Ok(match self.load {
            Load::RouterForward => json!([{ "l3-router": router() }, { "l2-forward": forward() }]),
            Load::Trivial if !self.inline => {
                json!([{ "ttl": run("middlenet-bench-ttl")? }, { "mac": run("middlenet-bench-mac")? }])
            }
            Load::Trivial => forwards(2),
            Load::Chain(n) => forwards(n),
        })
    }
}

/// A router without neighbours to resolve.
fn router() -> Value {
    let routes: Vec<String> = input::routes().into_iter().map(|route| format!("{route} right")).collect();
    json!({ "resolve": false, "accept_any_mac": true, "gateway_mac": NOBODY, "routes": routes })
}

/// Configuration of `l2-forward`.
pub(super) fn forward() -> Value {
    json!({ "src": "port", "dst": NOBODY })
}

/// A chain of so many functions that rewrite link addresses.
pub(super) fn forwards(n: usize) -> Value {
    (0..n).map(|i| json!({ format!("hop{i}"): { "use": "l2-forward", "config": forward() } })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_that_results_compare_by() {
        let names: Vec<String> = Subject::all(false).iter().map(Subject::case).collect();
        for name in ["inline/router+l2fwd/64", "process/router+l2fwd/1518", "process/trivial2/64", "process/chain6/64"]
        {
            assert!(names.iter().any(|n| n == name), "{name}");
        }
        assert_eq!(names.len(), 4 * 6 + 2 * 6);
        assert!(Subject::all(true).iter().all(|s| names.contains(&s.case())), "quick cases are cases");
    }

    #[test]
    fn a_manifest_of_functions_in_the_manager_is_complete() {
        let folder = WorkFolder::new().unwrap();
        let subject = Subject { load: Load::RouterForward, inline: true, size: 64, reference: None };
        let manifest = {
            let left = subject.left(&folder).unwrap();
            assert!(left.ends_with("in64.pcap,infinite_rx=1"), "{left}");
            router()
        };
        assert_eq!(manifest["routes"].as_array().unwrap().len(), input::ROUTES + 1);
        assert_eq!(manifest["routes"][input::ROUTES], "0.0.0.0/0 right");
        assert_eq!(std::fs::metadata(folder.path().join("in64.pcap")).unwrap().len(), 24 + 4096 * (16 + 60));
    }
}
