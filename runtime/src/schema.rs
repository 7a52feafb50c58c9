//! The JSON schema of manifests, the built-in functions' configurations included.

use middlenet_sdk::{Layer, Registration};
use schemars::{Schema, SchemaGenerator, schema_for};
use serde_json::{Map, Value, json};

use crate::manifest::{Form, FunctionOptions};

/// Stand-in for the entries of a chain; [`manifest_schema`] puts the registered functions in.
pub(crate) fn function_entries(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({ "type": "array" })
}

/// What `middlenet schema` prints: for editors that complete and check YAML.
pub fn manifest_schema(registry: &[Registration]) -> Value {
    let mut schema = schema_for!(Form).to_value();
    let mut definitions = Map::new();
    let options = schema_for!(FunctionOptions).to_value();
    let options = adopt("function-options", options, &mut definitions);
    for (layer, form) in [(Layer::L2l3, "ChainForm"), (Layer::L4l7, "MessageChainForm")] {
        let entry = match layer {
            Layer::L2l3 => "function-entry",
            Layer::L4l7 => "message-function-entry",
        };
        let of_layer = registry.iter().filter(|r| r.layer() == layer);
        let definition = function_entry(of_layer, &options, &mut definitions);
        definitions.insert(entry.into(), definition);
        let properties = &mut schema["$defs"][form]["properties"];
        properties["functions"]["items"] = json!({ "$ref": format!("#/$defs/{entry}") });
        let description = properties["layer"]["description"].take();
        properties["layer"] = json!({ "description": description, "type": "string", "const": layer.name() });
    }
    if let Some(all) = schema["$defs"].as_object_mut() {
        all.extend(definitions);
    }
    schema
}

fn function_entry<'r>(
    registry: impl Iterator<Item = &'r Registration>,
    options: &Value,
    definitions: &mut Map<String, Value>,
) -> Value {
    let mut names = Vec::new();
    let mut by_name = Map::new();
    for registration in registry {
        let name = &registration.name;
        let mut config = registration.schema();
        if config["description"].is_null() {
            config["description"] = registration.summary.into();
        }
        let config = adopt(name, config, definitions);
        names.push(name.clone());
        by_name.insert(name.clone(), json!({ "anyOf": [config, options, { "type": "null" }] }));
    }
    json!({
        "description": "A function: its name, its name with its configuration, or a name of your own with options.",
        "anyOf": [
            { "type": "string", "enum": names },
            {
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "properties": by_name,
                "additionalProperties": options,
            },
        ],
    })
}

/// Moves a schema and its definitions into `definitions` under names that no other has; returns the reference to it.
fn adopt(name: &str, mut schema: Value, definitions: &mut Map<String, Value>) -> Value {
    let own = schema.as_object_mut().and_then(|s| s.remove("$defs"));
    if let Some(object) = schema.as_object_mut() {
        object.remove("$schema");
    }
    rename(name, &mut schema);
    for (key, mut definition) in own.as_ref().and_then(Value::as_object).cloned().unwrap_or_default() {
        rename(name, &mut definition);
        definitions.insert(format!("{name}.{key}"), definition);
    }
    definitions.insert(name.into(), schema);
    json!({ "$ref": format!("#/$defs/{name}") })
}

fn rename(prefix: &str, schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(target) if key == "$ref" => {
                        if let Some(name) = target.strip_prefix("#/$defs/") {
                            *target = format!("#/$defs/{prefix}.{name}");
                        }
                    }
                    _ => rename(prefix, value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(prefix, item)),
        _ => {}
    }
}
