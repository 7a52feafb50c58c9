//! Flows that go before the rules for a time.

use std::time::Duration;

use libbpf_rs::{MapCore, MapFlags};
use middlenet_fast_path::{KEY_BYTES, flow_key, read_flow_key};
use middlenet_steer::{Action, Flow};
use nix::time::{ClockId, clock_gettime};

use super::Steering;
use super::rule_set::{action_number, action_of};
use crate::error::io_error;
use crate::{Error, Result};

/// Bytes of `struct steer_flow` in `steer.h`.
const VALUE_BYTES: usize = 24;

/// A flow that was installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowEntry {
    /// Which packets.
    pub flow: Flow,
    /// What becomes of them.
    pub action: Action,
    /// How long the flow lives; none if it has expired and was not swept up yet.
    pub remaining: Option<Duration>,
    /// How many packets it decided.
    pub packets: u64,
}

/// How many flows there are.
#[derive(Debug, Default)]
pub(super) struct FlowCount {
    pub(super) installed: u32,
    pub(super) refused: u64,
}

impl Steering {
    /// From now on and for `lifetime`, packets of this flow meet this action and no rule. A flow that is there already gets
    /// the new action and lifetime, and its packets count on.
    ///
    /// The lifetime is as exact as the kernel's coarse clock: 10 ms at worst. While no flow is installed, none is looked for.
    /// Flows outlive a rule set.
    ///
    /// # Errors
    ///
    /// [`Error::FlowsFull`] when the table is full, 65,536 flows: no other one is pushed out. [`Error::MixedFlow`],
    /// [`Error::Flows`] as their names say.
    pub fn install_flow(&mut self, flow: &Flow, action: Action, lifetime: Duration) -> Result<()> {
        let key = key_bytes(flow)?;
        let before = self.shared.flows.lookup(&key, MapFlags::ANY).map_err(|error| failed(&error))?;
        let capacity = self.shared.flows.max_entries();
        if before.is_none() && self.flows.installed >= capacity {
            self.flows.refused += 1;
            return Err(Error::FlowsFull { capacity });
        }
        let packets = before.as_deref().and_then(Value::read).map_or(0, |value| value.packets);
        let expires_ns = now_ns()?.saturating_add(u64::try_from(lifetime.as_nanos()).unwrap_or(u64::MAX));
        let value = Value { expires_ns, packets, action: action_number(action) };
        self.shared.flows.update(&key, &value.bytes(), MapFlags::ANY).map_err(|error| failed(&error))?;
        if before.is_none() {
            self.flows.installed += 1;
            if self.flows.installed == 1 {
                self.rule_set.look_for_flows(true)?;
            }
        }
        Ok(())
    }

    /// Removes a flow, and says whether it was there.
    ///
    /// # Errors
    ///
    /// [`Error::MixedFlow`] and [`Error::Flows`] as their names say.
    pub fn remove_flow(&mut self, flow: &Flow) -> Result<bool> {
        self.remove_key(&key_bytes(flow)?)
    }

    /// The flows that are installed, in no order.
    ///
    /// # Errors
    ///
    /// [`Error::Flows`] when the kernel refuses.
    pub fn flows(&self) -> Result<Vec<FlowEntry>> {
        let now_ns = now_ns()?;
        let mut flows = Vec::with_capacity(self.flows.installed as usize);
        if self.flows.installed == 0 {
            return Ok(flows);
        }
        for key in self.shared.flows.keys() {
            let value = self.shared.flows.lookup(&key, MapFlags::ANY).map_err(|error| failed(&error))?;
            let (Some(flow), Some(value)) = (read_key(&key), value.as_deref().and_then(Value::read)) else { continue };
            let left_ns = value.expires_ns.saturating_sub(now_ns);
            let remaining = (left_ns > 0).then_some(Duration::from_nanos(left_ns));
            flows.push(FlowEntry { flow, action: action_of(value.action), remaining, packets: value.packets });
        }
        Ok(flows)
    }

    /// Removes the flows that have expired, and returns them. Packets do not meet them any more in any case; the table has
    /// room again.
    ///
    /// # Errors
    ///
    /// [`Error::Flows`] when the kernel refuses.
    pub fn sweep_flows(&mut self) -> Result<Vec<FlowEntry>> {
        let mut expired = self.flows()?;
        expired.retain(|entry| entry.remaining.is_none());
        for entry in &expired {
            self.remove_key(&key_bytes(&entry.flow)?)?;
        }
        Ok(expired)
    }

    fn remove_key(&mut self, key: &[u8]) -> Result<bool> {
        match self.shared.flows.delete(key) {
            Ok(()) => {}
            Err(error) if error.kind() == libbpf_rs::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed(&error)),
        }
        self.flows.installed -= 1;
        if self.flows.installed == 0 {
            self.rule_set.look_for_flows(false)?;
        }
        Ok(true)
    }
}

/// `struct steer_flow`.
struct Value {
    expires_ns: u64,
    packets: u64,
    action: u32,
}

impl Value {
    fn bytes(&self) -> [u8; VALUE_BYTES] {
        let mut bytes = [0; VALUE_BYTES];
        bytes[..8].copy_from_slice(&self.expires_ns.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.packets.to_ne_bytes());
        bytes[16..20].copy_from_slice(&self.action.to_ne_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
        let action = u32::from_ne_bytes(bytes.get(16..20)?.try_into().ok()?);
        Some(Self { expires_ns: word(0)?, packets: word(8)?, action })
    }
}

/// `struct steer_key`.
fn key_bytes(flow: &Flow) -> Result<[u8; KEY_BYTES]> {
    flow_key(flow).ok_or(Error::MixedFlow { src: flow.src, dst: flow.dst })
}

fn read_key(bytes: &[u8]) -> Option<Flow> {
    read_flow_key(bytes.try_into().ok()?)
}

/// The clock of `bpf_ktime_get_coarse_ns`.
fn now_ns() -> Result<u64> {
    let now =
        clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_err(|source| Error::Flows { source: source.into() })?;
    Ok(Duration::from(now).as_nanos() as u64)
}

pub(super) fn failed(error: &libbpf_rs::Error) -> Error {
    Error::Flows { source: io_error(error) }
}
