//! A YAML tree against a JSON schema: the part of JSON Schema that `schemars` writes, with errors for people.
//!
//! Unknown keys, wrong types, missing keys and unknown values are found here, each at its place and all at once; what a
//! schema cannot say (an address that does not parse) is left to deserialisation. Keywords not known here are ignored.

use serde_json::Value;

use crate::diagnostic::{Diagnostic, closest, one_of};
use crate::yaml::{Content, Node};

/// References followed from one place; a schema that refers to itself without a value in between would not end.
const REFERENCE_LIMIT: usize = 32;

/// Everything in `node` that `schema` does not allow. `name` is what messages call the node.
pub(crate) fn validate(node: &Node, name: Option<&str>, schema: &Value) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    Validator { root: schema }.check(node, schema, name, &mut found);
    found
}

/// The keys that a schema's mapping knows.
pub(crate) fn property_names(schema: &Value) -> Vec<&str> {
    schema["properties"].as_object().map(|p| p.keys().map(String::as_str).collect()).unwrap_or_default()
}

struct Validator<'s> {
    root: &'s Value,
}

impl<'s> Validator<'s> {
    fn resolve(&self, mut schema: &'s Value) -> &'s Value {
        for _ in 0..REFERENCE_LIMIT {
            let Some(pointer) = schema["$ref"].as_str().and_then(|r| r.strip_prefix('#')) else { break };
            match self.root.pointer(pointer) {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }

    /// `name` is the key the value stands under.
    fn check(&self, node: &Node, schema: &'s Value, name: Option<&str>, found: &mut Vec<Diagnostic>) {
        let schema = self.resolve(schema);
        if let Some(parts) = schema["allOf"].as_array() {
            parts.iter().for_each(|part| self.check(node, part, name, found));
        }
        for keyword in ["anyOf", "oneOf"] {
            if let Some(branches) = schema[keyword].as_array() {
                self.check_branches(node, branches, name, found);
            }
        }
        if !self.check_type(node, schema, name, found) {
            return;
        }
        self.check_values(node, schema, name, found);
        match &node.content {
            Content::Mapping(_) => self.check_mapping(node, schema, name, found),
            Content::Sequence(items) => self.check_sequence(node, items, schema, name, found),
            Content::Scalar(value) => check_range(node, value, schema, name, found),
        }
    }

    fn check_branches(&self, node: &Node, branches: &'s [Value], name: Option<&str>, found: &mut Vec<Diagnostic>) {
        let mut best: Option<(bool, Vec<Diagnostic>)> = None;
        for branch in branches {
            let mut errors = Vec::new();
            self.check(node, branch, name, &mut errors);
            if errors.is_empty() {
                return;
            }
            let fits = self.has_shape(node, branch);
            let better = match &best {
                None => true,
                Some((best_fits, best_errors)) => (!fits, errors.len()) < (!best_fits, best_errors.len()),
            };
            if better {
                best = Some((fits, errors));
            }
        }
        let allowed: Vec<&Value> = branches.iter().filter_map(|b| self.constants(b)).flatten().collect();
        match best {
            // Names of values, one branch each: the list says more than any branch's error.
            _ if !allowed.is_empty() && matches!(node.content, Content::Scalar(_)) => {
                found.push(unknown_value(node, &allowed, name));
            }
            Some((true, errors)) => found.extend(errors),
            _ => {
                let mut kinds: Vec<_> = branches.iter().flat_map(|b| self.kinds(b)).collect();
                kinds.dedup();
                found.push(wrong_type(node, &kinds, name));
            }
        }
    }

    /// Whether a value of this form was meant: the type is right, and for a mapping a required key is there.
    fn has_shape(&self, node: &Node, schema: &'s Value) -> bool {
        let schema = self.resolve(schema);
        let kinds = self.kinds(schema);
        if !(kinds.is_empty() || kinds.iter().any(|k| is_kind(node, k))) {
            return false;
        }
        let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
        required.is_empty() || required.iter().filter_map(Value::as_str).any(|key| node.get(key).is_some())
    }

    fn kinds(&self, schema: &'s Value) -> Vec<&'s str> {
        let schema = self.resolve(schema);
        match &schema["type"] {
            Value::String(kind) => vec![kind],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ if schema["const"].is_string() || schema["enum"].is_array() => vec!["string"],
            _ => ["anyOf", "oneOf"]
                .iter()
                .filter_map(|k| schema[*k].as_array())
                .flatten()
                .flat_map(|b| self.kinds(b))
                .collect(),
        }
    }

    /// The values of a schema that is nothing but a list of values.
    fn constants(&self, schema: &'s Value) -> Option<Vec<&'s Value>> {
        let schema = self.resolve(schema);
        match (&schema["const"], &schema["enum"]) {
            (Value::Null, Value::Array(values)) => Some(values.iter().collect()),
            (Value::Null, _) => {
                let branches = schema["oneOf"].as_array()?;
                let all: Option<Vec<_>> = branches.iter().map(|b| self.constants(b)).collect();
                all.map(|lists| lists.into_iter().flatten().collect())
            }
            (value, _) => Some(vec![value]),
        }
    }

    fn check_type(&self, node: &Node, schema: &Value, name: Option<&str>, found: &mut Vec<Diagnostic>) -> bool {
        if schema == &Value::Bool(false) {
            found.push(Diagnostic::new(node.span.clone(), "nothing is allowed here"));
            return false;
        }
        let kinds: Vec<&str> = match &schema["type"] {
            Value::String(kind) => vec![kind],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => return true,
        };
        let fits = kinds.iter().any(|kind| is_kind(node, kind));
        if !fits {
            found.push(wrong_type(node, &kinds, name));
        }
        fits
    }

    fn check_values(&self, node: &Node, schema: &Value, name: Option<&str>, found: &mut Vec<Diagnostic>) {
        let allowed: Vec<&Value> = match (&schema["const"], &schema["enum"]) {
            (Value::Null, Value::Array(values)) => values.iter().collect(),
            (Value::Null, _) => return,
            (value, _) => vec![value],
        };
        if !allowed.contains(&&node.to_json()) {
            found.push(unknown_value(node, &allowed, name));
        }
    }

    fn check_mapping(&self, node: &Node, schema: &'s Value, name: Option<&str>, found: &mut Vec<Diagnostic>) {
        let known = property_names(schema);
        let others = &schema["additionalProperties"];
        for entry in node.entries() {
            let property = &schema["properties"][&entry.key];
            if !property.is_null() {
                self.check(&entry.value, property, Some(&entry.key), found);
            } else if others == &Value::Bool(false) {
                found.push(unknown_key(&entry.key, entry.key_span.clone(), &known, name));
            } else if others.is_object() {
                self.check(&entry.value, others, Some(&entry.key), found);
            }
        }
        for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if node.get(key).is_none() {
                // The first line of the mapping: its whole text says nothing.
                let of = name.map(|n| format!(" of `{n}`")).unwrap_or_default();
                found.push(Diagnostic::new(node.span.clone(), format!("the key `{key}`{of} is missing")));
            }
        }
    }

    fn check_sequence(
        &self,
        node: &Node,
        items: &[Node],
        schema: &'s Value,
        name: Option<&str>,
        found: &mut Vec<Diagnostic>,
    ) {
        let tuple = schema["prefixItems"].as_array().map(Vec::as_slice).unwrap_or_default();
        for (i, item) in items.iter().enumerate() {
            if let Some(schema) = tuple.get(i).or(schema["items"].is_object().then_some(&schema["items"])) {
                self.check(item, schema, name, found);
            }
        }
        let count = items.len() as u64;
        if let Some(least) = schema["minItems"].as_u64().filter(|&least| count < least) {
            found.push(Diagnostic::new(
                node.span.clone(),
                format!("{}at least {least} values are needed here", of(name)),
            ));
        }
        if let Some(most) = schema["maxItems"].as_u64().filter(|&most| count > most) {
            found.push(Diagnostic::new(
                node.span.clone(),
                format!("{}at most {most} values are allowed here", of(name)),
            ));
        }
    }
}

/// A key that nothing knows.
pub(crate) fn unknown_key(key: &str, span: std::ops::Range<usize>, known: &[&str], parent: Option<&str>) -> Diagnostic {
    let place = parent.map(|p| format!(" in `{p}`")).unwrap_or_default();
    let hint = match closest(key, known.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None if known.is_empty() => "no key is known here".into(),
        None => format!("known here: {}", one_of(known.iter().copied())),
    };
    Diagnostic::new(span, format!("unknown key `{key}`{place}")).with_hint(hint)
}

fn of(name: Option<&str>) -> String {
    name.map(|n| format!("`{n}`: ")).unwrap_or_default()
}

fn is_kind(node: &Node, kind: &str) -> bool {
    match (&node.content, kind) {
        (Content::Mapping(_), "object") | (Content::Sequence(_), "array") => true,
        (Content::Scalar(Value::Null), "null" | "object") => true, // `monitor:` with nothing is an empty mapping
        (Content::Scalar(value), "boolean") => value.is_boolean(),
        (Content::Scalar(value), "number") => value.is_number(),
        (Content::Scalar(value), "integer") => value.is_i64() || value.is_u64(),
        (Content::Scalar(value), "string") => value.is_string(),
        _ => false,
    }
}

fn wrong_type(node: &Node, kinds: &[&str], name: Option<&str>) -> Diagnostic {
    let mut wanted: Vec<&str> = Vec::new();
    for kind in kinds {
        let words = match *kind {
            "object" => "a mapping",
            "array" => "a list",
            "integer" => "a whole number",
            "number" => "a number",
            "boolean" => "true or false",
            "string" => "a string",
            _ => continue,
        };
        if !wanted.contains(&words) {
            wanted.push(words);
        }
    }
    let wanted = if wanted.is_empty() { "something else".into() } else { wanted.join(" or ") };
    let found = match &node.content {
        Content::Scalar(Value::String(text)) if text.len() <= 40 => format!("`{text}`"),
        Content::Scalar(value @ (Value::Number(_) | Value::Bool(_))) => format!("`{value}`"),
        _ => node.kind().into(),
    };
    let diagnostic = Diagnostic::new(node.span.clone(), format!("{}expected {wanted}, found {found}", of(name)));
    let number_or_bool = matches!(&node.content, Content::Scalar(Value::Number(_) | Value::Bool(_)));
    if number_or_bool && kinds.contains(&"string") {
        return diagnostic.with_hint(format!("put it into quotes: \"{}\"", found.trim_matches('`')));
    }
    diagnostic
}

fn unknown_value(node: &Node, allowed: &[&Value], name: Option<&str>) -> Diagnostic {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let names: Vec<String> = allowed.iter().filter(|v| !v.is_null()).map(|v| text(v)).collect();
    let known = one_of(names.iter().map(String::as_str));
    let found = match &node.content {
        Content::Scalar(value) => format!("`{}`", text(value)),
        _ => node.kind().into(),
    };
    let diagnostic = Diagnostic::new(node.span.clone(), format!("{}expected {known}, found {found}", of(name)));
    let meant = node.as_str().and_then(|wrong| closest(wrong, names.iter().map(String::as_str)));
    diagnostic.with_optional_hint(meant.map(|name| format!("did you mean `{name}`?")))
}

fn check_range(node: &Node, value: &Value, schema: &Value, name: Option<&str>, found: &mut Vec<Diagnostic>) {
    let Some(number) = value.as_f64() else { return };
    let bound = |key: &str| schema[key].as_f64();
    if let Some(least) = bound("minimum").filter(|&least| number < least) {
        found
            .push(Diagnostic::new(node.span.clone(), format!("{}{value} is below the least value, {least}", of(name))));
    }
    // schemars writes only the format where it means the type's own limit.
    let most = bound("maximum").or(match schema["format"].as_str() {
        Some("uint8") => Some(f64::from(u8::MAX)),
        Some("uint16") => Some(f64::from(u16::MAX)),
        Some("uint32") => Some(f64::from(u32::MAX)),
        _ => None,
    });
    if let Some(most) = most.filter(|&most| number > most) {
        found.push(Diagnostic::new(
            node.span.clone(),
            format!("{}{value} is above the largest value, {most}", of(name)),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;
    use schemars::JsonSchema;

    /// How to wait.
    #[derive(JsonSchema)]
    #[serde(rename_all = "lowercase")]
    #[allow(dead_code, reason = "only the schema is of interest")]
    enum Wait {
        /// Spin.
        Poll,
        /// Sleep.
        Event,
    }

    #[derive(JsonSchema)]
    #[serde(untagged)]
    #[allow(dead_code, reason = "only the schema is of interest")]
    enum Xdp {
        Short(String),
        Long(Long),
    }

    #[derive(JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only the schema is of interest")]
    struct Long {
        interface: String,
        queues: Option<u16>,
    }

    #[derive(JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only the schema is of interest")]
    struct Root {
        name: String,
        wait: Option<Wait>,
        cores: Option<Vec<u8>>,
        xdp: Option<Xdp>,
    }

    fn errors(source: &str) -> Vec<String> {
        let schema = schemars::schema_for!(Root).to_value();
        let found = validate(&parse(source).unwrap(), None, &schema);
        found
            .into_iter()
            .map(|d| format!("{}: {}|{}", &source[d.span], d.message, d.hint.unwrap_or_default()))
            .collect()
    }

    #[test]
    fn what_the_schema_allows_passes() {
        for source in
            ["name: a", "name: a\nwait: poll\ncores: [0, 1]\nxdp: eth0", "name: a\nxdp: {interface: b, queues: 2}"]
        {
            assert_eq!(errors(source), Vec::<String>::new(), "{source}");
        }
    }

    #[test]
    fn all_errors_are_found_at_their_places() {
        let found = errors("nam: a\nwait: pol\ncores: [0, 300, x]\nxdp: {interface: 7, queue: 1}");
        let expected = [
            "nam: unknown key `nam`|did you mean `name`?",
            "pol: `wait`: expected `poll` or `event`, found `pol`|did you mean `poll`?",
            "300: `cores`: 300 is above the largest value, 255|",
            "x: `cores`: expected a whole number, found `x`|",
            "7: `interface`: expected a string, found `7`|put it into quotes: \"7\"",
            "queue: unknown key `queue` in `xdp`|did you mean `queues`?",
        ];
        for line in expected {
            assert!(found.iter().any(|f| f == line), "{line} is not in {found:#?}");
        }
        assert!(found.iter().any(|f| f.contains("the key `name` is missing")));
        assert_eq!(found.len(), expected.len() + 1, "{found:#?}");
    }

    #[test]
    fn values_that_fit_no_branch_name_them_all() {
        assert_eq!(
            errors("name: a\nxdp: 3"),
            ["3: `xdp`: expected a string or a mapping, found `3`|put it into quotes: \"3\""]
        );
    }
}
