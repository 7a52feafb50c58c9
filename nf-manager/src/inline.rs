//! Inline functions as the control thread holds them: made, replaced, mended.

use crate::command::{Command, Made};
use crate::running::{COMMAND_LIMIT, MEND_MAX, Running};
use crate::{ManagerError, with_causes};
use crossbeam_channel::bounded;
use middlenet_plan::{FastPathPlan, Placement};
use middlenet_sdk::fast_path::FastPath;
use middlenet_sdk::{Init, PortInfo};
use serde_json::Value;
use std::time::Instant;

impl Running {
    /// The fast path of an inline function as its instances on a worker have it.
    pub(crate) fn open_fast_path(&self, hop: usize, worker: u16) -> Result<FastPath, ManagerError> {
        let plan = &self.plan.hops[hop];
        let refuse = |e: &dyn std::error::Error| {
            ManagerError::new(format!("the fast path of `{}` cannot be shared: {}", plan.name, with_causes(e)))
        };
        let maps = self.xdp.fast_paths.as_ref().map(|fast_paths| fast_paths.copies(hop)).transpose();
        match plan.fast_path.zip(maps.map_err(|e| refuse(&e))?.flatten()) {
            Some((FastPathPlan { mode, shape }, maps)) => {
                FastPath::open(mode, shape, maps, worker).map_err(|e| refuse(&e))
            }
            None => Ok(FastPath::default()),
        }
    }

    /// Makes an inline function from its configuration; `succeeds`: in place of one that is there.
    pub(crate) fn make(&self, hop: usize, worker: usize, config: Value, succeeds: bool) -> Result<Made, ManagerError> {
        let plan = &self.plan.hops[hop];
        let chain = &self.plan.chains[usize::from(plan.chain)];
        let registration = self
            .registry
            .iter()
            .find(|r| r.name == plan.function)
            .ok_or_else(|| ManagerError::new(format!("there is no built-in function `{}`", plan.function)))?;
        let of_chain = |info: &&PortInfo| info.id == chain.left || chain.right.contains(&info.id);
        let ports = self.infos.iter().filter(of_chain).cloned().collect();
        let names = plan.steering.iter().map(|target| target.name.clone()).collect();
        let outputs = plan.outputs.iter().map(|(name, _)| name.clone()).collect();
        // Each instance of a worker goes on with what the one before knew of the fast path.
        let fast_path = self.fast_paths[hop][worker].renewed();
        let init = Init::new(ports, outputs).with_steering(names).with_direct_peers().with_fast_path(fast_path);
        let mut init = if succeeds { init.renewed() } else { init };
        let function = registration.create(config, &mut init).map_err(|e| {
            let error = ManagerError::new(format!("function `{}`: {}", plan.name, e.message));
            match e.hint {
                Some(hint) => error.hint(hint),
                None => error,
            }
        })?;
        Ok(Made { function, init })
    }

    /// Replaces an inline function on every worker.
    pub(crate) fn reconfigure(&mut self, hop: u16, config: &Value) -> Result<(), ManagerError> {
        let at = usize::from(hop);
        if self.plan.hops.get(at).is_none_or(|h| h.placement != Placement::Inline) {
            return Err(ManagerError::new(format!("hop {hop} is no inline function")));
        }
        let mut made = Vec::new();
        for worker in 0..self.threads.len() {
            made.push(self.make(at, worker, config.clone(), true)?);
        }
        self.inline[at] = made.iter().map(|m| m.init.counters().to_vec()).collect();
        self.plan.hops[at].config = config.clone();
        let mut made = made.into_iter();
        self.all(|_, done| {
            let made = made.next().ok_or_else(|| ManagerError::new("fewer instances than workers"))?;
            Ok(Command::Reconfigure { hop, made: Box::new(made), done })
        })
    }

    /// Makes the inline functions of chains with this port anew, from what is known of the port now.
    pub(crate) fn renew_inline(&mut self, port: u8) {
        for hop in 0..self.plan.hops.len() {
            let plan = &self.plan.hops[hop];
            let chain = &self.plan.chains[usize::from(plan.chain)];
            if plan.placement != Placement::Inline || (chain.left != port && !chain.right.contains(&port)) {
                continue;
            }
            let config = plan.config.clone();
            if let Err(e) = self.reconfigure(hop as u16, &config) {
                eprintln!("middlenet-nf-manager: {e}");
            }
        }
    }

    /// Puts new instances in the place of inline functions that panicked, with growing pauses.
    pub(crate) fn mend(&mut self) {
        for hop in 0..self.plan.hops.len() {
            let failed = self.counters.iter().any(|worker| worker.hops[hop].failed.get() > 0);
            let (due, pause) = self.mending[hop];
            if !failed || Instant::now() < due {
                continue;
            }
            self.mending[hop] = (Instant::now() + pause, (pause * 2).min(MEND_MAX));
            let config = self.plan.hops[hop].config.clone();
            match self.reconfigure(hop as u16, &config) {
                Ok(()) => eprintln!("middlenet-nf-manager: function `{}` restarted", self.plan.hops[hop].name),
                Err(e) => eprintln!("middlenet-nf-manager: {e}"),
            }
        }
    }

    /// The reports of an inline function, by worker.
    pub(crate) fn reports(&self, hop: u16) -> Vec<Value> {
        (0..self.threads.len())
            .map(|worker| {
                let (done, answer) = bounded(1);
                self.send(worker, Command::Report { hop, done });
                answer.recv_timeout(COMMAND_LIMIT).unwrap_or(Value::Null)
            })
            .collect()
    }
}
