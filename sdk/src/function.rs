//! The trait, and its type-erased form.

use crate::middlebox::{DynMiddlebox, Interests, MiddleboxFunction};
use crate::{Burst, ConfigError, Init, middlebox};
use middlenet_fast_path::Shape;
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

    /// What its fast path in the kernel can hold, if it has one; see [`crate::fast_path`].
    const FAST_PATH: Shape = Shape::NONE;

    /// Why it must run in a process, which is confined, and never inside a data plane: a part of a sentence, as `it parses packets
    /// in C`. Most functions have no reason to.
    const PROCESS_ONLY: Option<&'static str> = None;

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

type Made<T> = Result<T, ConfigError>;

/// How an instance is made, by the layer it works at.
#[derive(Clone, Copy)]
enum Create {
    Packets(fn(Value, &mut Init) -> Made<Box<dyn DynFunction>>),
    Messages(fn(Value, &mut Init) -> Made<Box<dyn DynMiddlebox>>),
}

/// What a function handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Packets: it implements [`NetworkFunction`].
    L2l3,
    /// Requests and streams: it implements [`MiddleboxFunction`].
    L4l7,
}

impl Layer {
    /// As manifests and `--describe` write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::L2l3 => "l2l3",
            Self::L4l7 => "l4l7",
        }
    }

    /// The layer of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::L2l3, Self::L4l7].into_iter().find(|layer| layer.name() == name)
    }
}

/// A function the runtime can make by name.
#[derive(Clone)]
pub struct Registration {
    /// Kebab-case name, as manifests write it.
    pub name: String,
    /// One line for `middlenet functions`.
    pub summary: &'static str,
    /// What its fast path in the kernel can hold, if it has one.
    pub fast_path: Shape,
    /// Why it must not run inside a data plane, if so.
    pub process_only: Option<&'static str>,
    schema: fn() -> Value,
    create: Create,
}

/// What [`crate::main!`] registers: implemented by every function of either layer. `Marker` tells the two apart.
pub trait Registrable<Marker> {
    /// Registers it under its type's name in kebab-case.
    fn registration() -> Registration;
}

/// Marks functions of packets in [`Registrable`].
#[derive(Debug)]
pub enum Packets {}

/// Marks functions of messages in [`Registrable`].
#[derive(Debug)]
pub enum Messages {}

impl<F: NetworkFunction> Registrable<Packets> for F {
    fn registration() -> Registration {
        Registration::of::<F>()
    }
}

impl<F: MiddleboxFunction> Registrable<Messages> for F {
    fn registration() -> Registration {
        Registration::middlebox::<F>(&type_name::<F>(), "")
    }
}

/// The registration of a function of either layer, for [`crate::main!`].
pub fn registration_of<F: Registrable<Marker>, Marker>() -> Registration {
    F::registration()
}

fn type_name<F>() -> String {
    let path = std::any::type_name::<F>();
    kebab_case(path.rsplit("::").next().unwrap_or(path))
}

fn read_config<C: DeserializeOwned>(config: Value) -> Result<C, ConfigError> {
    // An absent configuration and an empty one are the same.
    let config = if config.is_null() { Value::Object(Default::default()) } else { config };
    serde_json::from_value(config).map_err(|e| ConfigError::new(e.to_string()))
}

impl Registration {
    /// Registers `F` under its type's name in kebab-case.
    pub fn of<F: NetworkFunction>() -> Self {
        Self::named::<F>(&type_name::<F>(), "")
    }

    /// Registers `F` under a name, with one line that says what it does.
    pub fn named<F: NetworkFunction>(name: &str, summary: &'static str) -> Self {
        let create: fn(Value, &mut Init) -> Made<Box<dyn DynFunction>> =
            |config, init| Ok(Box::new(Erased(F::new(read_config(config)?, init)?)));
        Self {
            name: name.into(),
            summary,
            fast_path: F::FAST_PATH,
            process_only: F::PROCESS_ONLY,
            schema: || schemars::schema_for!(F::Config).to_value(),
            create: Create::Packets(create),
        }
    }

    /// Registers a function of layer L4/L7 under a name, with one line that says what it does.
    pub fn middlebox<F: MiddleboxFunction>(name: &str, summary: &'static str) -> Self {
        let create: fn(Value, &mut Init) -> Made<Box<dyn DynMiddlebox>> =
            |config, init| Ok(Box::new(middlebox::Erased(F::new(read_config(config)?, init)?)));
        Self {
            name: name.into(),
            summary,
            fast_path: Shape::NONE,
            process_only: None,
            schema: || schemars::schema_for!(F::Config).to_value(),
            create: Create::Messages(create),
        }
    }

    /// What it handles.
    pub fn layer(&self) -> Layer {
        match self.create {
            Create::Packets(_) => Layer::L2l3,
            Create::Messages(_) => Layer::L4l7,
        }
    }

    /// JSON schema of the configuration.
    pub fn schema(&self) -> Value {
        (self.schema)()
    }

    /// Makes an instance from the configuration in a manifest.
    pub fn create(&self, config: Value, init: &mut Init) -> Result<Box<dyn DynFunction>, ConfigError> {
        match self.create {
            Create::Packets(create) => create(config, init),
            Create::Messages(_) => Err(self.other_layer()),
        }
    }

    /// Makes an instance of a function of layer L4/L7.
    pub fn create_middlebox(&self, config: Value, init: &mut Init) -> Result<Box<dyn DynMiddlebox>, ConfigError> {
        match self.create {
            Create::Messages(create) => create(config, init),
            Create::Packets(_) => Err(self.other_layer()),
        }
    }

    /// Makes an instance of either layer and lets it go: whether it takes the configuration, and the messages that it wants then. The
    /// instance knows that it is on [trial](Init::is_trial).
    pub fn try_config(&self, config: Value, init: &mut Init) -> Result<Interests, ConfigError> {
        init.set_trial();
        match self.create {
            Create::Packets(create) => create(config, init).map(|_| Interests::NONE),
            Create::Messages(create) => create(config, init).map(|function| function.interests()),
        }
    }

    fn other_layer(&self) -> ConfigError {
        let layer = self.layer().name();
        ConfigError::new(format!("`{}` is a function of layer {layer}", self.name))
            .with_hint(format!("use it in a chain with `layer: {layer}`"))
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
