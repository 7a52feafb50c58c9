//! `middlenet functions`: the catalogue, from the functions' own schemas.

use middlenet_fast_path::Mode;
use middlenet_sdk::Registration;
use serde_json::{Value, json};
use std::fmt::Write;

use super::{Failure, print_data};
use crate::diagnostic::did_you_mean;
use crate::render::Table;

/// Levels of configuration that are explained.
const DEPTH: usize = 6;

pub(super) fn functions(name: Option<&str>, json: bool) -> Result<(), Failure> {
    let registry = middlenet_functions::registry();
    let text = match name {
        None if json => {
            format!("{:#}\n", Value::Array(registry.iter().map(description).collect()))
        }
        None => {
            let mut table = Table::new(["FUNCTION", "LAYER", "FAST PATH", "WHAT IT DOES"]);
            for r in registry {
                let modes = modes(r).join(", ");
                let modes = if modes.is_empty() { "-".to_owned() } else { modes };
                table.row([r.name.clone(), r.layer().name().into(), modes, r.summary.to_owned()]);
            }
            format!("{}\n`middlenet functions NAME` explains one and its configuration.\n", table.render())
        }
        Some(name) => {
            let Some(registration) = registry.iter().find(|r| r.name == name) else {
                let hint = did_you_mean(name, registry.iter().map(|r| r.name.as_str()));
                let hint = hint.or(Some("`middlenet functions` lists them".into()));
                return Err(Failure::new(format!("there is no function `{name}`"), hint));
            };
            if json { format!("{:#}\n", description(registration)) } else { explain(registration) }
        }
    };
    print_data(&text);
    Ok(())
}

fn description(r: &Registration) -> Value {
    json!({
        "name": r.name, "layer": r.layer().name(), "summary": r.summary, "schema": r.schema(), "fast_path_modes": modes(r),
    })
}

/// The modes that its fast path works in; none without one.
fn modes(r: &Registration) -> Vec<&'static str> {
    r.fast_path.modes().map(Mode::name).collect()
}

fn explain(registration: &Registration) -> String {
    let schema = registration.schema();
    let layer = registration.layer().name();
    let mut out = format!("{}: {} (layer {layer})\n", registration.name, registration.summary);
    if let Some(description) = schema["description"].as_str() {
        let _ = writeln!(out, "\n{description}");
    }
    if registration.fast_path.exists() {
        let shape = crate::render::matchers(&registration.fast_path);
        let _ = writeln!(out, "\nFast path (`mode`: {}): {shape}", modes(registration).join(", "));
    }
    out.push_str("\nConfiguration:\n");
    let before = out.len();
    explain_keys(&schema, &schema, 1, &mut out);
    if out.len() == before {
        out.push_str("  none\n");
    }
    out
}

fn explain_keys(root: &Value, schema: &Value, depth: usize, out: &mut String) {
    let schema = resolve(root, schema);
    let alternatives = alternatives(schema);
    if !alternatives.is_empty() {
        let keys: Vec<&str> = alternatives.iter().map(|(key, _)| *key).collect();
        let _ = writeln!(out, "{}one of {}:", "  ".repeat(depth), keys.join(", "));
        for (key, branch) in alternatives {
            explain_key(root, key, &branch["properties"][key], branch["description"].as_str(), (false, depth), out);
        }
        return;
    }
    for branch in ["anyOf", "oneOf", "allOf"].iter().filter_map(|k| schema[*k].as_array()).flatten() {
        if branch["type"] != "null" && depth <= DEPTH {
            explain_keys(root, branch, depth, out);
        }
    }
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        explain_key(root, key, property, None, (required.contains(&key.as_str()), depth), out);
    }
}

/// The keys of which a mapping has exactly one, each with its branch; none where the schema says something else. It may be a word instead.
fn alternatives(schema: &Value) -> Vec<(&str, &Value)> {
    let branches = schema["oneOf"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has_one_key = |branch: &Value| branch["properties"].as_object().is_some_and(|keys| keys.len() == 1);
    let mappings = branches.iter().filter(|branch| !branch["const"].is_string());
    let all = mappings.clone().all(has_one_key);
    mappings.filter(|_| all).filter_map(|branch| Some((branch["required"][0].as_str()?, branch))).collect()
}

fn explain_key(
    root: &Value,
    key: &str,
    property: &Value,
    description: Option<&str>,
    (required, depth): (bool, usize),
    out: &mut String,
) {
    let indent = "  ".repeat(depth);
    let resolved = resolve(root, property);
    let mut facts = vec![kind(root, property)];
    if required {
        facts.push("required".into());
    }
    if let Some(default) = property.get("default").filter(|d| !d.is_null()) {
        facts.push(format!("default {default}"));
    }
    let _ = writeln!(out, "{indent}{key} ({})", facts.join(", "));
    let own = property["description"].as_str().or(resolved["description"].as_str());
    for line in description.or(own).unwrap_or_default().lines().filter(|l| !l.trim().is_empty()) {
        let _ = writeln!(out, "{indent}    {}", line.trim());
    }
    for (value, meaning) in values(resolved) {
        let _ = writeln!(out, "{indent}    `{value}`: {meaning}");
    }
    if depth < DEPTH {
        explain_keys(root, property, depth + 2, out);
        for inner in ["items", "additionalProperties"].iter().map(|k| &resolved[*k]).filter(|inner| inner.is_object()) {
            explain_keys(root, inner, depth + 2, out);
        }
    }
}

/// The words that a key may have as its value, with what each means.
fn values(schema: &Value) -> impl Iterator<Item = (&str, String)> {
    let branches = schema["oneOf"].as_array().map(Vec::as_slice).unwrap_or_default();
    branches.iter().filter_map(|branch| {
        let meaning = branch["description"].as_str()?;
        Some((branch["const"].as_str()?, meaning.split_whitespace().collect::<Vec<_>>().join(" ")))
    })
}

fn resolve<'s>(root: &'s Value, mut schema: &'s Value) -> &'s Value {
    for _ in 0..8 {
        match schema["$ref"].as_str().and_then(|r| r.strip_prefix('#')).and_then(|p| root.pointer(p)) {
            Some(target) => schema = target,
            None => break,
        }
    }
    schema
}

/// `string`, `list of integer`, `one of drop, allow`.
fn kind(root: &Value, schema: &Value) -> String {
    let schema = resolve(root, schema);
    if let Some(values) = schema["enum"].as_array() {
        return format!("one of {}", values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "));
    }
    if let Some(value) = schema["const"].as_str() {
        return value.to_owned();
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(branches) = schema[key].as_array() {
            let mut kinds: Vec<String> = branches.iter().map(|b| kind(root, b)).filter(|k| k != "null").collect();
            kinds.dedup();
            return kinds.join(" or ");
        }
    }
    let name = match &schema["type"] {
        Value::String(name) => name.as_str(),
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|n| *n != "null").unwrap_or("any"),
        _ => "any",
    };
    match name {
        "array" => format!("list of {}", kind(root, &schema["items"])),
        "object" => "mapping".into(),
        name => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn of_alternatives_none_is_required() {
        let text = explain(middlenet_functions::registry().iter().find(|r| r.name == "header-edit").unwrap());
        assert!(text.contains("one of set, add, remove"), "{text}");
        assert!(text.contains("set (mapping)") && text.contains("remove (string)"), "{text}");
        assert!(text.contains("name (string, required)"), "{text}");
    }

    #[test]
    fn words_have_their_meanings_and_the_default_is_told() {
        let text = explain(middlenet_functions::registry().iter().find(|r| r.name == "nat").unwrap());
        assert!(text.contains("unsolicited (drop or pass, default \"drop\")"), "{text}");
        assert!(text.contains("filtering (endpoint-independent or address-and-port-dependent, default \""), "{text}");
        let text = explain(middlenet_functions::registry().iter().find(|r| r.name == "firewall").unwrap());
        assert!(text.contains("default (drop or allow or reject, default \"drop\")"), "{text}");
        assert!(text.contains("      `reject`: They are dropped"), "{text}");
    }

    #[test]
    fn words_and_mappings_of_one_key_may_be_mixed() {
        let schema = json!({ "properties": { "then": { "oneOf": [
            { "const": "pass", "description": "They go on." },
            { "type": "object", "properties": { "output": { "type": "string" } }, "required": ["output"] },
            { "type": "object", "properties": { "steer": { "type": "string" } }, "required": ["steer"] },
        ] } } });
        let mut text = String::new();
        explain_keys(&schema, &schema, 0, &mut text);
        assert!(text.contains("then (pass or mapping)") && text.contains("one of output, steer:"), "{text}");
        assert!(!text.contains("required"), "{text}");
    }
}
