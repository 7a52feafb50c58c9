//! The trait, and its type-erased form.

use crate::{Burst, ConfigError, Init};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::any::Any;

/// An L2/L3 network function.
///
/// One instance is used by one thread. Replicas and workers have instances of their own; a flow, both its directions, always
/// meets the same instance.
pub trait NetworkFunction: Sized + Send + 'static {
    /// What the manifest says under the function's name. Its doc comments become the schema's descriptions.
    type Config: DeserializeOwned + JsonSchema;

    /// Makes an instance, or says in one sentence why the configuration cannot be used.
    fn new(config: Self::Config, init: &mut Init) -> Result<Self, ConfigError>;

    /// Decides about each packet of the burst. A packet that is not touched goes to the next hop.
    ///
    /// Bytes are hostile. This must not panic, block, allocate per packet or log.
    fn process(&mut self, burst: &mut Burst<'_>);

    /// Called about ten times a second with an empty burst, into which packets may be put.
    fn tick(&mut self, _burst: &mut Burst<'_>) {}

    /// Takes over the state of the instance it replaces after a change of configuration (connection tables, neighbours).
    /// Without it, state starts afresh.
    fn inherit(&mut self, _previous: Self) {}

    /// State worth showing in `middlenet status --json`: small, bounded, made on request.
    fn report(&self) -> Value {
        Value::Null
    }
}

/// A [`NetworkFunction`] with its types erased, as the hosts keep it.
pub trait DynFunction: Send {
    /// See [`NetworkFunction::process`].
    fn process(&mut self, burst: &mut Burst<'_>);
    /// See [`NetworkFunction::tick`].
    fn tick(&mut self, burst: &mut Burst<'_>);
    /// See [`NetworkFunction::inherit`]; an instance of another type is ignored.
    fn inherit(&mut self, previous: Box<dyn DynFunction>);
    /// See [`NetworkFunction::report`].
    fn report(&self) -> Value;
    /// For `inherit`.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

struct Erased<F>(F);

impl<F: NetworkFunction> DynFunction for Erased<F> {
    fn process(&mut self, burst: &mut Burst<'_>) {
        self.0.process(burst);
    }

    fn tick(&mut self, burst: &mut Burst<'_>) {
        self.0.tick(burst);
    }

    fn inherit(&mut self, previous: Box<dyn DynFunction>) {
        if let Ok(previous) = previous.into_any().downcast::<Self>() {
            self.0.inherit(previous.0);
        }
    }

    fn report(&self) -> Value {
        self.0.report()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

type Create = fn(Value, &mut Init) -> Result<Box<dyn DynFunction>, ConfigError>;

/// A function the runtime can make by name.
#[derive(Clone)]
pub struct Registration {
    /// Kebab-case name, as manifests write it.
    pub name: String,
    /// One line for `middlenet functions`.
    pub summary: &'static str,
    schema: fn() -> Value,
    create: Create,
}

impl Registration {
    /// Registers `F` under its type's name in kebab-case.
    pub fn of<F: NetworkFunction>() -> Self {
        let path = std::any::type_name::<F>();
        Self::named::<F>(&kebab_case(path.rsplit("::").next().unwrap_or(path)), "")
    }

    /// Registers `F` under a name, with one line that says what it does.
    pub fn named<F: NetworkFunction>(name: &str, summary: &'static str) -> Self {
        Self {
            name: name.into(),
            summary,
            schema: || schemars::schema_for!(F::Config).to_value(),
            create: |config, init| {
                // An absent configuration and an empty one are the same.
                let config = if config.is_null() { Value::Object(Default::default()) } else { config };
                let config = serde_json::from_value(config).map_err(|e| ConfigError::new(e.to_string()))?;
                Ok(Box::new(Erased(F::new(config, init)?)))
            },
        }
    }

    /// JSON schema of the configuration.
    pub fn schema(&self) -> Value {
        (self.schema)()
    }

    /// Makes an instance from the configuration in a manifest.
    pub fn create(&self, config: Value, init: &mut Init) -> Result<Box<dyn DynFunction>, ConfigError> {
        (self.create)(config, init)
    }
}

/// `TtlClamp` -> `ttl-clamp`, `L2Forward` -> `l2-forward`.
pub fn kebab_case(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.char_indices() {
        if c.is_ascii_uppercase() && i > 0 {
            out.push('-');
        }
        out.push(if c == '_' { '-' } else { c.to_ascii_lowercase() });
    }
    out
}
