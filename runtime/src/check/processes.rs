//! Function processes of both data planes: which cores they get.

use middlenet_sdk::protocol::Wait;

use super::Checker;
use super::cores::CorePlan;
use crate::confine::Files;
use crate::manifest::FunctionEntry;
use crate::plan::{HopId, Plane, ProcessPlan, Program};

/// The processes of a hop, before they have their cores.
pub(super) struct ProcessDraft {
    pub(super) hop: HopId,
    pub(super) replicas: u16,
    /// `chain/function`.
    pub(super) label: String,
    pub(super) program: Program,
    pub(super) ports: Vec<u8>,
    pub(super) wait: Wait,
    /// Cores that the manifest names for it.
    pub(super) cores: Option<Vec<usize>>,
    pub(super) files: Files,
}

/// What a function's process runs.
pub(super) fn program(entry: &FunctionEntry, function: &str) -> Program {
    match entry.options.run {
        Some(_) => Program::External(function.into()),
        None => Program::BuiltIn(function.to_owned()),
    }
}

fn overlap(a: &[usize], b: &[usize]) -> bool {
    a.iter().any(|core| b.contains(core))
}

impl Checker<'_> {
    /// Gives out the cores for functions in turn.
    pub(super) fn processes(
        &self,
        drafts: Vec<ProcessDraft>,
        cores: &CorePlan,
        notes: &mut Vec<String>,
    ) -> Vec<ProcessPlan> {
        let mut pool = cores.functions.iter().cycle();
        let mut processes: Vec<ProcessPlan> = Vec::new();
        for draft in drafts {
            for replica in 0..draft.replicas {
                let number = if draft.replicas > 1 { format!("#{replica}") } else { String::new() };
                processes.push(ProcessPlan {
                    hop: draft.hop,
                    replica,
                    label: format!("{}{number}", draft.label),
                    program: draft.program.clone(),
                    ports: draft.ports.clone(),
                    wait: draft.wait,
                    cores: draft.cores.clone().unwrap_or_else(|| pool.next().copied().into_iter().collect()),
                    shares_core: false,
                    files: draft.files.clone(),
                });
            }
        }
        for i in 0..processes.len() {
            let mine = &processes[i].cores;
            let others = processes.iter().enumerate().filter(|(j, p)| *j != i && overlap(&p.cores, mine)).count();
            let with_workers = overlap(mine, &cores.manager) || overlap(mine, &cores.broker);
            processes[i].shares_core = with_workers || others >= mine.len();
        }
        if processes.iter().any(|p| p.hop.plane == Plane::Packets && overlap(&p.cores, &cores.manager)) {
            notes.push(
                "functions share a core with the manager: both yield to each other, which costs throughput".into(),
            );
        }
        processes
    }
}

impl CorePlan {
    /// Whether others than the manager need its cores.
    pub(super) fn share_manager(&self, processes: &[ProcessPlan]) -> bool {
        overlap(&self.manager, &self.broker) || processes.iter().any(|p| overlap(&p.cores, &self.manager))
    }
}
