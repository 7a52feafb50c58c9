//! Configurations of functions: against their schemas, then by the functions themselves.

use middlenet_plan::Declared;
use middlenet_sdk::fast_path::FastPath;
use middlenet_sdk::peer::PeerAddress;
use middlenet_sdk::{Init, Layer, PortInfo};
use serde_json::Value;

use super::Checker;
use crate::diagnostic::{closest, one_of};
use crate::machine::resolve;
use crate::manifest::FunctionEntry;
use crate::validate::validate;
use crate::yaml::{Content, Node, Span};

/// Keys of the long form that are easily put into the configuration of the short one.
const OPTIONS: [&str; 10] =
    ["mode", "placement", "replicas", "on_failure", "cores", "reads", "writes", "outputs", "steer", "hop"];
/// Attempts at finding the item of a list that a function refuses.
const PROBE_LIMIT: usize = 64;

impl Checker<'_> {
    /// Checks that the function is there, fits the chain's layer and takes its configuration, as far as the chain's ports are
    /// known. Returns what it declares, and whom it may dial, where that can be known.
    pub(super) fn check_function(
        &mut self,
        entry: &FunctionEntry,
        layer: Layer,
        ports: Option<Vec<PortInfo>>,
        outputs: Vec<String>,
    ) -> Option<(Declared, Vec<PeerAddress>)> {
        let empty = Node { span: entry.name_span.clone(), content: Content::Mapping(Vec::new()) };
        let config = entry.config.as_ref().unwrap_or(&empty);
        if let Some(run) = &entry.options.run {
            let program = resolve(self.surroundings.folder(), run);
            let description = self.describe(entry, &program)?;
            match description.layer {
                Some(other) if other != layer => self.wrong_layer(entry, entry.option_span(&["run"]), other),
                _ => {
                    self.check_schema(entry, config, &description.schema);
                }
            }
            return None;
        }
        let registry = self.registry;
        let Some(registration) = registry.iter().find(|r| r.name == entry.function) else {
            self.unknown_function(entry, layer);
            return None;
        };
        if registration.layer() != layer {
            self.wrong_layer(entry, entry.function_span.clone(), registration.layer());
            return None;
        }
        if !self.check_schema(entry, config, &registration.schema()) {
            return None;
        }
        let ports = ports?;
        let steering: Vec<String> = entry.options.steer.iter().flat_map(|steer| steer.keys().cloned()).collect();
        let shape = registration.fast_path;
        let init = || {
            let init = Init::new(ports.clone(), outputs.clone()).with_steering(steering.clone());
            match entry.options.mode.filter(|&mode| shape.works(mode)) {
                // Its limits show in the trial.
                Some(mode) => init.with_fast_path(FastPath::in_memory(mode, shape)),
                None => init,
            }
        };
        let refuse = |value: &Value| -> Option<middlenet_sdk::ConfigError> {
            registration.try_config(value.clone(), &mut init()).err()
        };
        let mut init = init();
        match registration.try_config(entry.config_json(), &mut init) {
            Ok(interests) => {
                self.outputs_left(entry, &init);
                let (upstreams, alike) = (init.upstreams().to_vec(), init.are_upstreams_alike());
                Some((Declared { interests, upstreams, alike }, init.peer_addresses()))
            }
            Err(error) => {
                let message = format!("`{}`: {}", entry.name, error.message);
                let spot = blamed_item(config, &error.message, &refuse).or_else(|| named_spot(config, &error.message));
                self.problem(spot.unwrap_or_else(|| entry.name_span.clone()), message, error.hint);
                None
            }
        }
    }

    /// Tells of outputs that lead somewhere, but which the function never uses: a misspelt name, or one that is kept for later.
    fn outputs_left(&mut self, entry: &FunctionEntry, init: &Init) {
        let missed: Vec<_> = init.outputs_missed().iter().map(|name| format!("`{name}`")).collect();
        let asks = if missed.is_empty() { String::new() } else { format!(", but {}", missed.join(", ")) };
        for output in init.outputs_left() {
            self.oddities.push(format!(
                "`{}`, as it is configured, does not use its output `{output}`{asks}: no packets go that way",
                entry.name
            ));
        }
    }

    fn wrong_layer(&mut self, entry: &FunctionEntry, span: Span, layer: Layer) {
        let layer = layer.name();
        let what = entry.options.run.as_ref().map_or(entry.function.clone(), |run| run.display().to_string());
        let message = format!("`{what}` is a function of layer {layer}");
        self.problem(span, message, Some(format!("use it in a chain with `layer: {layer}`")));
    }

    fn unknown_function(&mut self, entry: &FunctionEntry, layer: Layer) {
        let names = || self.registry.iter().filter(|r| r.layer() == layer).map(|r| r.name.as_str());
        let own = format!("for a binary of your own: `{}: {{ run: ./path }}`", entry.name);
        let hint = match closest(&entry.function, names()) {
            Some(name) => format!("did you mean `{name}`?"),
            None if names().next().is_none() => own,
            None => format!("built in are {}; {own}", one_of(names())),
        };
        self.problem(entry.function_span.clone(), format!("unknown function `{}`", entry.function), Some(hint));
    }

    fn check_schema(&mut self, entry: &FunctionEntry, config: &Node, schema: &Value) -> bool {
        let found = validate(config, None, schema);
        let fine = found.is_empty();
        for mut diagnostic in found {
            let misplaced = config
                .entries()
                .iter()
                .find(|e| entry.body.is_none() && e.key_span == diagnostic.span && OPTIONS.contains(&e.key.as_str()));
            if let Some(option) = misplaced {
                diagnostic = diagnostic.with_hint(format!(
                    "`{}` stands beside the configuration: `{}: {{ config: {{ ... }}, {}: ... }}`",
                    option.key, entry.name, option.key
                ));
            }
            if entry.config.is_none() {
                diagnostic.span = entry.name_span.clone();
            }
            diagnostic.message = format!("`{}`: {}", entry.name, diagnostic.message);
            self.problems.push(diagnostic);
        }
        fine
    }
}

/// Where a refusal points: the value or key that its message names in backticks or quotes.
fn named_spot(config: &Node, message: &str) -> Option<Span> {
    let quoted = message.split(['`', '"', '\'']).skip(1).step_by(2);
    quoted.filter(|word| !word.is_empty()).find_map(|word| find(config, word))
}

fn find(node: &Node, word: &str) -> Option<Span> {
    match &node.content {
        Content::Scalar(Value::String(text)) if text == word => Some(node.span.clone()),
        Content::Scalar(Value::String(_)) => None,
        Content::Scalar(value) => {
            let text = value.to_string();
            (text == word).then(|| node.span.clone())
        }
        Content::Sequence(items) => items.iter().find_map(|item| find(item, word)),
        Content::Mapping(entries) => {
            let key = entries.iter().find(|e| e.key == word).map(|e| e.key_span.clone());
            key.or_else(|| entries.iter().find_map(|e| find(&e.value, word)))
        }
    }
}

/// Finds the first item of a list that the function refuses with the same sentence, by halving: functions read lists from
/// the front, so a list is refused exactly when it holds that item.
fn blamed_item(
    config: &Node,
    message: &str,
    refuse: &dyn Fn(&Value) -> Option<middlenet_sdk::ConfigError>,
) -> Option<Span> {
    let whole = config.to_json();
    let mut probes = 0;
    for entry in config.entries() {
        let items = entry.value.items();
        if items.is_empty() {
            continue;
        }
        let mut fails_with = |count: usize| {
            probes += 1;
            let mut part = whole.clone();
            part[&entry.key] = Value::Array(items[..count].iter().map(Node::to_json).collect());
            probes <= PROBE_LIMIT && refuse(&part).is_some_and(|e| e.message == message)
        };
        if fails_with(0) || !fails_with(items.len()) {
            continue;
        }
        let (mut fine, mut refused) = (0, items.len());
        while refused - fine > 1 {
            let middle = fine + (refused - fine) / 2;
            if fails_with(middle) {
                refused = middle;
            } else {
                fine = middle;
            }
        }
        let item = &items[refused - 1];
        return named_spot(item, message).or_else(|| Some(item.span.clone()));
    }
    None
}
