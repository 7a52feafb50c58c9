//! From text to a [`Manifest`], piece by piece: an error in one piece hides none in another.

use schemars::{JsonSchema, schema_for};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    ChainForm, Cores, Form, FunctionEntry, Memory, MessageChainForm, PfForm, Placement, PortForm, SteeringRule,
    UserForm,
};
use crate::diagnostic::Diagnostic;
use crate::validate::validate;
use crate::yaml::{self, Entry, Node, Span, Step};
use middlenet_sdk::protocol::Wait;

/// A manifest as written: every piece in the right form, but not yet checked against each other and the host.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Name of the run.
    pub name: String,
    /// The ports in the order of the file.
    pub ports: Vec<Port>,
    /// The chains of layer L2/L3 in the order of the file.
    pub chains: Vec<Chain>,
    /// The chains of layer L4/L7 in the order of the file.
    pub message_chains: Vec<Chain<MessageChainForm>>,
    /// The steering rules by port, in the order of the file.
    pub steering: Vec<SteeredPort>,
    /// The PFs whose virtual functions are wanted, in the order of the file.
    pub sriov: Vec<Pf>,
    /// Which cores do what.
    pub cores: Cores,
    /// The packet buffers.
    pub memory: Memory,
    /// Slots per ring.
    pub ring_slots: u32,
    /// The user of function processes.
    pub user: Option<UserForm>,
    /// How threads wait.
    pub wait: Wait,
    /// Where functions run.
    pub placement: Placement,
    /// Milliseconds after which a silent function is killed.
    pub heartbeat_ms: u64,
    /// Milliseconds for packets in flight at the end.
    pub drain_ms: u64,
    root: Node,
    problems: Vec<Diagnostic>,
}

/// A port with its name.
#[derive(Debug, Clone)]
pub struct Port {
    /// Name.
    pub name: String,
    /// Where the name stands.
    pub name_span: Span,
    /// What it is; nothing if that could not be read.
    pub form: Option<PortForm>,
    /// Its part of the file.
    pub node: Node,
}

/// A chain with its name.
#[derive(Debug, Clone)]
pub struct Chain<F = ChainForm> {
    /// Name.
    pub name: String,
    /// Where the name stands.
    pub name_span: Span,
    /// What it is; nothing if that could not be read.
    pub form: Option<F>,
    /// Its functions, as far as they could be read.
    pub functions: Vec<FunctionEntry>,
    /// Its part of the file.
    pub node: Node,
}

/// A port's steering rules.
#[derive(Debug, Clone)]
pub struct SteeredPort {
    /// Name of the port.
    pub port: String,
    /// Where the name stands.
    pub span: Span,
    /// The rules in order, each with its part of the file; nothing for one that could not be read.
    pub rules: Vec<(Option<SteeringRule>, Node)>,
}

/// A PF whose virtual functions are wanted.
#[derive(Debug, Clone)]
pub struct Pf {
    /// Interface or PCI address.
    pub name: String,
    /// Where the name stands.
    pub name_span: Span,
    /// What is wanted of it; nothing if that could not be read.
    pub form: Option<PfForm>,
    /// Its part of the file.
    pub node: Node,
}

/// What chains of both layers say about their functions.
pub trait ChainOptions {
    /// How its functions wait.
    fn wait(&self) -> Option<Wait>;
    /// Where its functions run.
    fn placement(&self) -> Option<Placement>;
}

impl ChainOptions for ChainForm {
    fn wait(&self) -> Option<Wait> {
        self.wait
    }

    fn placement(&self) -> Option<Placement> {
        self.placement
    }
}

impl ChainOptions for MessageChainForm {
    fn wait(&self) -> Option<Wait> {
        self.wait
    }

    fn placement(&self) -> Option<Placement> {
        self.placement
    }
}

impl Manifest {
    /// Reads a manifest. What is wrong with a piece is kept for [`problems`](Self::problems), so that the pieces that are right
    /// can be checked as well; only a plan made from it shows that nothing is wrong.
    ///
    /// # Errors
    /// Where the text is not YAML, or no mapping. Never panics.
    pub fn parse(source: &str) -> Result<Self, Diagnostic> {
        let root = yaml::parse(source)?;
        if root.is_null() {
            return Err(Diagnostic::new(0..0, "the manifest is empty")
                .with_hint("it needs `name`, `ports` and `chains`: see `middlenet schema`"));
        }
        let mut problems = validate(&root, None, &outer_schema());
        let ports = entries(&root, "ports").iter().map(|e| read_port(e, &mut problems)).collect();
        let (messages, packets): (Vec<_>, Vec<_>) = entries(&root, "chains").iter().partition(|e| is_of_messages(e));
        let chains: Vec<Chain> = packets.into_iter().map(|e| read_packet_chain(e, &mut problems)).collect();
        let message_chains: Vec<_> = messages.into_iter().map(|e| read_message_chain(e, &mut problems)).collect();
        let steering = entries(&root, "steering").iter().map(|e| read_steering(e, &mut problems)).collect();
        let sriov = entries(&root, "sriov").iter().map(|e| read_pf(e, &mut problems)).collect();
        if root.get("ports").is_none() && (!chains.is_empty() || message_chains.is_empty()) {
            problems.push(Diagnostic::new(root.span.clone(), "the key `ports` is missing"));
        }
        // Values that are wrong have been found above; here their defaults stand in for them.
        Ok(Self {
            name: field(&root, "name").unwrap_or_default(),
            ports,
            chains,
            message_chains,
            steering,
            sriov,
            cores: field(&root, "cores").unwrap_or_default(),
            memory: field(&root, "memory").unwrap_or_default(),
            ring_slots: field(&root, "ring_slots").unwrap_or_else(super::ring_slots),
            user: field(&root, "user"),
            wait: field(&root, "wait").unwrap_or_default(),
            placement: field(&root, "placement").unwrap_or_default(),
            heartbeat_ms: field(&root, "heartbeat_ms").unwrap_or_else(super::heartbeat_ms),
            drain_ms: field(&root, "drain_ms").unwrap_or_else(super::drain_ms),
            root,
            problems,
        })
    }

    /// What was wrong with single pieces.
    pub fn problems(&self) -> &[Diagnostic] {
        &self.problems
    }

    /// Where a value stands, or the nearest thing above it that is there.
    pub fn span<'a>(&'a self, path: impl IntoIterator<Item = &'a str>) -> Span {
        self.root.nearest(path.into_iter().map(Step::Key)).span.clone()
    }

    /// Where a key of the top level stands, or the first line.
    pub fn key_span(&self, key: &str) -> Span {
        self.root.entry(key).map_or(0..0, |e| e.key_span.clone())
    }
}

/// The schema of the top level without what is read piece by piece.
fn outer_schema() -> Value {
    let mut schema = schema_for!(Form).to_value();
    for pieces in ["ports", "chains", "steering", "sriov"] {
        schema["properties"][pieces] = json!({ "type": "object" });
    }
    schema["properties"]["steering"]["additionalProperties"] = json!({ "type": "array" });
    schema
}

fn entries<'a>(root: &'a Node, key: &str) -> &'a [Entry] {
    root.get(key).map(Node::entries).unwrap_or_default()
}

fn field<T: DeserializeOwned>(root: &Node, key: &str) -> Option<T> {
    serde_json::from_value(root.get(key)?.to_json()).ok()
}

/// Reads `node` as a `T`; what is wrong goes to `problems`, with `name` for the thing as a whole.
pub(super) fn decode<T: DeserializeOwned + JsonSchema>(
    node: &Node,
    name: &str,
    problems: &mut Vec<Diagnostic>,
) -> Option<T> {
    let found = validate(node, Some(name), &schema_for!(T).to_value());
    if !found.is_empty() {
        problems.extend(found);
        return None;
    }
    match serde_path_to_error::deserialize(node.to_json()) {
        Ok(value) => Some(value),
        Err(error) => {
            let span = spot(node, error.path()).span.clone();
            problems.push(Diagnostic::new(span, format!("`{name}`: {}", error.inner())));
            None
        }
    }
}

/// The node that a deserialisation error speaks of.
fn spot<'a>(node: &'a Node, path: &serde_path_to_error::Path) -> &'a Node {
    use serde_path_to_error::Segment;
    let mut at = node;
    for segment in path.iter() {
        let below = match segment {
            Segment::Map { key } => at.get(key),
            Segment::Seq { index } => at.items().get(*index),
            _ => None,
        };
        match below {
            Some(below) => at = below,
            None => break,
        }
    }
    at
}

fn read_port(entry: &Entry, problems: &mut Vec<Diagnostic>) -> Port {
    let node = &entry.value;
    let form = if node.as_str().is_some() || node.is_null() {
        problems.push(
            Diagnostic::new(entry.key_span.clone(), format!("the port `{}` does not say what it is", entry.key))
                .with_hint(format!("write `{}: {{ xdp: eth0 }}`, or `dpdk`, `kernel` or `pcap`", entry.key)),
        );
        None
    } else {
        decode(node, &entry.key, problems)
    };
    Port { name: entry.key.clone(), name_span: entry.key_span.clone(), form, node: node.clone() }
}

fn read_steering(entry: &Entry, problems: &mut Vec<Diagnostic>) -> SteeredPort {
    let mut read = |(number, node): (usize, &Node)| {
        let name = format!("rule {number} of {}", entry.key);
        (decode(node, &name, problems), node.clone())
    };
    SteeredPort {
        port: entry.key.clone(),
        span: entry.key_span.clone(),
        rules: (1..).zip(entry.value.items()).map(&mut read).collect(),
    }
}

fn read_pf(entry: &Entry, problems: &mut Vec<Diagnostic>) -> Pf {
    let (name, name_span) = (entry.key.clone(), entry.key_span.clone());
    Pf { form: decode(&entry.value, &name, problems), name, name_span, node: entry.value.clone() }
}

fn is_of_messages(entry: &Entry) -> bool {
    entry.value.get("layer").and_then(Node::as_str) == Some("l4l7")
}

fn read_chain<F: DeserializeOwned + JsonSchema>(entry: &Entry, problems: &mut Vec<Diagnostic>) -> Chain<F> {
    let node = &entry.value;
    Chain {
        name: entry.key.clone(),
        name_span: entry.key_span.clone(),
        functions: node
            .get("functions")
            .map(Node::items)
            .unwrap_or_default()
            .iter()
            .filter_map(|n| FunctionEntry::read(n, problems))
            .collect(),
        form: decode(node, &entry.key, problems),
        node: node.clone(),
    }
}

fn read_packet_chain(entry: &Entry, problems: &mut Vec<Diagnostic>) -> Chain {
    let mut found = Vec::new();
    let chain = read_chain(entry, &mut found);
    if let Some(listen) = entry.value.entry("listen").filter(|_| entry.value.get("layer").is_none()) {
        let key = listen.key_span.clone();
        found.retain(|p| p.span != key && p.span != entry.value.span);
        found.push(
            Diagnostic::new(key, format!("`{}` listens, but does not say that it is of layer l4l7", entry.key))
                .with_hint("add `layer: l4l7`"),
        );
    }
    problems.append(&mut found);
    chain
}

fn read_message_chain(entry: &Entry, problems: &mut Vec<Diagnostic>) -> Chain<MessageChainForm> {
    let mut found = Vec::new();
    let chain = read_chain(entry, &mut found);
    if let Some(ports) = entry.value.entry("ports") {
        let hint = "say where it listens: `listen: 10.1.0.1:80`; packets of a port go to chains of `layer: l2l3`";
        found.retain(|p| p.span != ports.key_span);
        found.push(
            Diagnostic::new(ports.key_span.clone(), format!("`{}` is of layer l4l7, which has no ports", entry.key))
                .with_hint(hint),
        );
    }
    problems.append(&mut found);
    chain
}
