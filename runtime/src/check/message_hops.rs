//! Functions of messages: what each is, where it runs, how messages reach it, and where its outputs lead.

use middlenet_plan::{Declared, MessageHopPlan, Placement, Transport};
use middlenet_sdk::Layer;
use middlenet_sdk::middlebox::MAX_ROUTE;

use super::Checker;
use super::processes::{ProcessDraft, program};
use crate::diagnostic::{did_you_mean, one_of};
use crate::manifest::{Chain, FunctionEntry, MessageChainForm};
use crate::plan::{HopId, Plane};

/// Functions of a chain: a message's route has a stop for each, and one for the broker.
const FUNCTION_LIMIT: usize = MAX_ROUTE - 1;
/// SK_MSG sockets and broker workers of a run: a message names them by one byte, and a few values mean something else.
const SOCKET_LIMIT: usize = 250;

impl Checker<'_> {
    /// Plans the functions of a chain. Returns what each declares, where that is known.
    pub(super) fn message_hops(
        &mut self,
        chain_id: usize,
        chain: &Chain<MessageChainForm>,
        hops: &mut Vec<MessageHopPlan>,
        processes: &mut Vec<ProcessDraft>,
    ) -> Vec<Option<Declared>> {
        let first = hops.len();
        let mut declared = Vec::new();
        for entry in &chain.functions {
            self.check_entry(chain, entry, "broker");
            if entry.options.mode.is_some() {
                let message = "fast paths are for chains of layer l2l3";
                self.problem(entry.option_span(&["mode"]), message, Some("remove `mode`".into()));
            }
            let outputs = self.message_outputs(chain, entry, first);
            let names = outputs.iter().map(|(name, _)| name.clone()).collect();
            let found = self.check_function(entry, Layer::L4l7, Some(Vec::new()), names);
            declared.push(found.map(|(declared, _)| declared));
            let transport = self.transport(chain, entry);
            let replicas = if transport == Transport::Inline { 1 } else { entry.options.replicas.unwrap_or(1) };
            let function = self.function_name(entry);
            if transport != Transport::Inline {
                processes.push(ProcessDraft {
                    hop: HopId::new(Plane::Messages, hops.len()),
                    replicas,
                    label: format!("{}/{}", chain.name, entry.name),
                    program: program(entry, &function),
                    ports: Vec::new(),
                    wait: chain.form.as_ref().and_then(|f| f.wait).unwrap_or(self.manifest.wait),
                    cores: self.entry_cores(entry),
                    files: self.files(entry),
                });
            }
            hops.push(MessageHopPlan {
                name: entry.name.clone(),
                function,
                config: entry.config_json(),
                chain: u16::try_from(chain_id).unwrap_or(u16::MAX),
                transport,
                replicas,
                on_failure: entry.options.on_failure.map(Into::into).unwrap_or_default(),
                outputs,
            });
        }
        if chain.functions.len() > FUNCTION_LIMIT {
            let count = chain.functions.len();
            let message = format!("{count} functions, but a chain of layer l4l7 has at most {FUNCTION_LIMIT}");
            self.problem(chain.name_span.clone(), message, None);
        }
        declared
    }

    fn transport(&mut self, chain: &Chain<MessageChainForm>, entry: &FunctionEntry) -> Transport {
        let inline = self.placement(chain, entry) == Placement::Inline;
        if inline && entry.options.hop.is_some() {
            let message = "an inline function is called: no message travels to it";
            let hint = "add `placement: process`, or remove `hop`";
            self.problem(entry.option_span(&["hop"]), message, Some(hint.into()));
        }
        let of_chain = chain.form.as_ref().map(|f| f.hop).unwrap_or_default();
        if inline { Transport::Inline } else { entry.options.hop.unwrap_or(of_chain).into() }
    }

    fn message_outputs(
        &mut self,
        chain: &Chain<MessageChainForm>,
        entry: &FunctionEntry,
        first: usize,
    ) -> Vec<(String, u16)> {
        let Some(node) = entry.body.as_ref().and_then(|b| b.get("outputs")) else { return Vec::new() };
        let own = chain.functions.iter().position(|f| f.name_span == entry.name_span).unwrap_or(0);
        let later = || chain.functions.iter().skip(own + 1).map(|f| f.name.as_str());
        let mut outputs = Vec::new();
        for output in node.entries() {
            let Some(name) = output.value.as_str() else { continue };
            let hint = |what: &str| match later().next() {
                Some(_) => format!("{what} {}", one_of(later())),
                None => "it is the last function of its chain: no output can lead on".to_owned(),
            };
            let (message, hint) = match chain.functions.iter().position(|f| f.name == name) {
                Some(at) if at > own => {
                    outputs.push((output.key.clone(), u16::try_from(first + at).unwrap_or(u16::MAX)));
                    continue;
                }
                Some(_) => (
                    format!("the output `{}` leads to `{name}`, which is not further down the chain", output.key),
                    hint("requests do not go back: it can lead to"),
                ),
                None => (
                    format!(
                        "the output `{}` leads to `{name}`, which is no function of the chain `{}`",
                        output.key, chain.name
                    ),
                    did_you_mean(name, later()).unwrap_or_else(|| hint("it can lead to")),
                ),
            };
            self.problem(output.value.span.clone(), message, Some(hint));
        }
        outputs
    }

    /// Whether a message can name every socket.
    pub(super) fn check_sockets(&mut self, hops: &[MessageHopPlan], workers: usize) {
        let on_skmsg = hops.iter().filter(|h| h.transport == Transport::Skmsg);
        let sockets = workers + on_skmsg.map(|h| usize::from(h.replicas)).sum::<usize>();
        if sockets > SOCKET_LIMIT {
            let message = format!(
                "{sockets} broker workers and function instances on skmsg, but a run has at most {SOCKET_LIMIT}"
            );
            let hint = "put some on rings: `hop: ring`";
            self.problem(self.manifest.key_span("chains"), message, Some(hint.into()));
        }
    }
}
