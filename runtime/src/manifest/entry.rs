//! One entry of a chain's `functions`, in any of its three forms.

use middlenet_fast_path::Mode;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

use super::read::decode;
use super::{HopForm, OnFailure, Placement};
use crate::diagnostic::Diagnostic;
use crate::yaml::{Content, Node, Span};

/// Keys that make an entry the long form.
const LONG_FORM: [&str; 3] = ["use", "run", "config"];

/// A function with options: `NAME: { use: firewall, config: { ... }, replicas: 2 }`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FunctionOptions {
    /// The built-in function; default: the entry's name.
    pub r#use: Option<String>,
    /// A binary of your own, relative to the manifest; it always runs as a process.
    pub run: Option<PathBuf>,
    /// The function's configuration.
    pub config: Option<Value>,
    /// Turns on its fast path in the kernel, on `xdp` ports, and says how it works. Only for functions that have one;
    /// `middlenet functions` tells which. Without it, all packets go to the function.
    pub mode: Option<Mode>,
    /// Where it runs: `process` of its own, or `inline` in the manager or broker.
    pub placement: Option<Placement>,
    /// Instances; flows are spread over them, both directions of a flow to the same one. In chains of layer `l4l7`, client
    /// connections are.
    #[schemars(range(min = 1, max = 16))]
    pub replicas: Option<u16>,
    /// What happens to packets or messages while no instance is alive: they are dropped (`drop`, the default of `l2l3`), skip
    /// the function (`bypass`), or wait for the next one (`retry`, only in `l4l7`, and its default).
    pub on_failure: Option<OnFailure>,
    /// Cores its processes run on; default: one of `cores.functions` each.
    pub cores: Option<Vec<usize>>,
    /// Files and folders that its process may read and execute, beside its program and the system's libraries; for a file, others in its
    /// folder as well. Files that configurations of built-in functions name need no mention.
    pub reads: Option<Vec<PathBuf>>,
    /// The same to write: files that are not there are made, and belong to the run's user.
    pub writes: Option<Vec<PathBuf>>,
    /// Where its named outputs lead: to another function of the chain, to a port of the chain, or to `drop`; in `l4l7`, to a
    /// later function of the chain.
    pub outputs: Option<BTreeMap<String, String>>,
    /// Where flows go that it steers at run time, by the names that its configuration uses: a chain, a port, `kernel` or
    /// `drop`, as under `steering`. Only in `l2l3`.
    pub steer: Option<BTreeMap<String, String>>,
    /// How messages reach it; default: as its chain says. Only in `l4l7`.
    pub hop: Option<HopForm>,
}

/// A function of a chain as the manifest has it.
#[derive(Debug, Clone)]
pub struct FunctionEntry {
    /// Its name in the chain.
    pub name: String,
    /// Where the name stands.
    pub name_span: Span,
    /// The registered name it goes by, unless it is a binary.
    pub function: String,
    /// Where that stands.
    pub function_span: Span,
    /// All the rest.
    pub options: FunctionOptions,
    /// The configuration, where there is one.
    pub config: Option<Node>,
    /// The mapping of the long form; nothing in the short one.
    pub body: Option<Node>,
}

impl FunctionEntry {
    /// The configuration as JSON; null when there is none.
    pub fn config_json(&self) -> Value {
        self.config.as_ref().map_or(Value::Null, Node::to_json)
    }

    /// Where an option of the long form stands, or the entry's name.
    pub fn option_span(&self, path: &[&str]) -> Span {
        let mut node = match &self.body {
            Some(body) => body,
            None => return self.name_span.clone(),
        };
        for key in path {
            match node.get(key) {
                Some(below) => node = below,
                None => return self.name_span.clone(),
            }
        }
        node.span.clone()
    }

    /// Reads one entry; what is wrong goes to `problems`.
    pub(super) fn read(node: &Node, problems: &mut Vec<Diagnostic>) -> Option<Self> {
        let short = |name: &str, span: &Span, config: Option<Node>| Self {
            name: name.into(),
            name_span: span.clone(),
            function: name.into(),
            function_span: span.clone(),
            options: FunctionOptions::default(),
            config,
            body: None,
        };
        if let Some(name) = node.as_str() {
            return Some(short(name, &node.span, None));
        }
        let Content::Mapping(entries) = &node.content else {
            problems.push(
                Diagnostic::new(node.span.clone(), format!("expected a function, found {}", node.kind()))
                    .with_hint("write `- monitor`, or `- firewall: { default: drop }`"),
            );
            return None;
        };
        let [entry] = entries.as_slice() else {
            let problem = match entries.get(1) {
                None => Diagnostic::new(node.span.clone(), "a function's name is missing"),
                Some(second) => Diagnostic::new(
                    second.key_span.clone(),
                    format!("`{}` stands beside `{}`: an entry is one function", second.key, entries[0].key),
                )
                .with_hint(format!("indent it further, below `{}:`, or start it with `- `", entries[0].key)),
            };
            problems.push(problem);
            return None;
        };
        let body = &entry.value;
        if !LONG_FORM.iter().any(|key| body.get(key).is_some()) {
            let config = (!body.is_null()).then(|| body.clone());
            return Some(short(&entry.key, &entry.key_span, config));
        }
        let options = decode::<FunctionOptions>(body, &entry.key, problems)?;
        let (function, function_span) = match (body.get("use"), &options.r#use) {
            (Some(node), Some(name)) => (name.clone(), node.span.clone()),
            _ => (entry.key.clone(), entry.key_span.clone()),
        };
        if options.r#use.is_some() && options.run.is_some() {
            let span = body.entry("run").map_or(entry.key_span.clone(), |e| e.key_span.clone());
            problems.push(
                Diagnostic::new(span, "`use` and `run` exclude each other")
                    .with_hint("`use` names a built-in function, `run` a binary of your own: keep one"),
            );
        }
        Some(Self {
            name: entry.key.clone(),
            name_span: entry.key_span.clone(),
            function,
            function_span,
            options,
            config: body.get("config").filter(|n| !n.is_null()).cloned(),
            body: Some(body.clone()),
        })
    }
}
