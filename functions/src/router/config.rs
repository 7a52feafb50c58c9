//! Rules as a manifest writes them.

use crate::balance::Server;
use middlenet_sdk::ConfigError;
use schemars::JsonSchema;
use serde::Deserialize;

/// Most rules.
const MAX_RULES: usize = 16_384;

/// Configuration of `router`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The rules, in order; the first that matches decides.
    pub rules: Vec<RuleConfig>,
    /// Where requests go that no rule matches; without it, on.
    pub default: Option<TargetConfig>,
}

/// A rule: conditions, all of which must hold, and one target.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// Hosts: `shop.example`, or `*.example` for every host below it.
    pub host: Option<OneOrMany>,
    /// Exactly this path.
    pub path: Option<String>,
    /// The path's first segments.
    pub prefix: Option<String>,
    /// A regular expression that the path matches.
    pub regex: Option<String>,
    /// Methods, such as `GET`.
    pub method: Option<OneOrMany>,
    /// Conditions on headers.
    #[serde(default)]
    pub headers: Vec<HeaderConfig>,
    /// Conditions on the query's parameters.
    #[serde(default)]
    pub query: Vec<QueryConfig>,
    /// To the named output.
    pub output: Option<String>,
    /// To this upstream.
    pub upstream: Option<String>,
    /// To these upstreams in turn.
    pub upstreams: Option<Vec<Server>>,
    /// Answered here.
    pub respond: Option<RespondConfig>,
}

/// Where requests go: one of these.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetConfig {
    /// To the named output.
    pub output: Option<String>,
    /// To this upstream.
    pub upstream: Option<String>,
    /// To these upstreams in turn.
    pub upstreams: Option<Vec<Server>>,
    /// Answered here.
    pub respond: Option<RespondConfig>,
}

/// A text or a list of texts.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a text or a list of texts is needed")]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Any of these.
    Many(Vec<String>),
}

impl OneOrMany {
    /// All of them.
    pub(super) fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// A condition on a header; with the name alone, that it is there.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderConfig {
    /// Its name.
    pub name: String,
    /// One of that name has this value.
    pub value: Option<String>,
    /// The value of one of that name matches this regular expression.
    pub regex: Option<String>,
    /// It is not there.
    #[serde(default)]
    pub absent: bool,
}

/// A condition on a parameter of the query; with the name alone, that it is there.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryConfig {
    /// Its name.
    pub name: String,
    /// One of that name has this value.
    pub value: Option<String>,
}

/// An answer.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RespondConfig {
    /// Its status, from 200 to 599.
    pub status: u16,
    /// Its text.
    #[serde(default)]
    pub body: String,
}

impl Config {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.rules.len() > MAX_RULES {
            return Err(ConfigError::new(format!("{} rules are more than {MAX_RULES}", self.rules.len())));
        }
        if self.rules.is_empty() && self.default.is_none() {
            return Err("there is neither a rule nor a default".into());
        }
        Ok(())
    }
}

impl RuleConfig {
    pub(super) fn target(&self) -> TargetConfig {
        TargetConfig {
            output: self.output.clone(),
            upstream: self.upstream.clone(),
            upstreams: self.upstreams.clone(),
            respond: self.respond.clone(),
        }
    }
}
