//! A rule's conditions beyond host and path, and its target.

use super::config::{HeaderConfig, QueryConfig, RuleConfig, TargetConfig};
use crate::balance::{Balance, Balancer, Server};
use crate::{field_name, path_pattern};
use middlenet_sdk::middlebox::{Answer, Request};
use middlenet_sdk::{ConfigError, Init, Output};
use regex::bytes::Regex;

/// The longest answer.
const MAX_BODY_BYTES: usize = 8192;

/// What the table has not compared already.
#[derive(Default)]
pub(super) struct Rule {
    methods: Vec<Box<[u8]>>,
    pattern: Option<(Box<[u8]>, Regex)>,
    headers: Vec<(String, Header)>,
    query: Vec<Parameter>,
}

/// A parameter of the query that must be there, with this value if there is one.
struct Parameter {
    name: Box<[u8]>,
    value: Option<Box<[u8]>>,
}

enum Header {
    Present,
    Absent,
    Is(Box<[u8]>),
    Matches(Regex),
}

impl Rule {
    /// `what` names the rule in errors.
    pub(super) fn new(config: &RuleConfig, what: &str) -> Result<Self, ConfigError> {
        let wrong = |why: String| ConfigError::new(format!("{what}: {why}"));
        let compile = |pattern: &str| path_pattern::compile(pattern).map_err(|e| wrong(format!("`regex`: {e}")));
        let mut rule = Self::default();
        for method in config.method.iter().flat_map(|methods| methods.all()) {
            field_name::check(&format!("{what}, method"), method)?;
            if method.bytes().any(|b| b.is_ascii_lowercase()) {
                return Err(wrong(format!("the method `{method}` has lower-case letters"))
                    .with_hint("methods are written as clients send them: GET, POST"));
            }
            rule.methods.push(method.as_bytes().into());
        }
        if let Some(pattern) = &config.regex {
            rule.pattern = Some((path_pattern::literal_prefix(pattern).into(), compile(pattern)?));
        }
        for HeaderConfig { name, value, regex, absent } in &config.headers {
            field_name::check(&format!("{what}, header"), name)?;
            let condition = match (value, regex, absent) {
                (None, None, false) => Header::Present,
                (None, None, true) => Header::Absent,
                (Some(value), None, false) => Header::Is(value.as_bytes().into()),
                (None, Some(regex), false) => Header::Matches(compile(regex)?),
                _ => return Err(wrong(format!("header `{name}` has more than one of `value`, `regex` and `absent`"))),
            };
            rule.headers.push((name.clone(), condition));
        }
        for QueryConfig { name, value } in &config.query {
            if name.is_empty() {
                return Err(wrong("a parameter of the query needs a name".into()));
            }
            let value = value.as_ref().map(|value| value.as_bytes().into());
            rule.query.push(Parameter { name: name.as_bytes().into(), value });
        }
        Ok(rule)
    }

    /// Whether the request meets them.
    #[inline]
    pub(super) fn matches(&self, request: &Request<'_>) -> bool {
        if !self.methods.is_empty() && !self.methods.iter().any(|method| **method == *request.method_bytes()) {
            return false;
        }
        if let Some((literal, regex)) = &self.pattern {
            let path = request.path();
            if !path.starts_with(literal) || !regex.is_match(path) {
                return false;
            }
        }
        self.headers.iter().all(|(name, condition)| condition.holds(request, name))
            && self.query.iter().all(|parameter| parameter.is_in(request.query()))
    }
}

impl Header {
    fn holds(&self, request: &Request<'_>, name: &str) -> bool {
        let mut values =
            request.headers().filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value);
        match self {
            Self::Present => values.next().is_some(),
            Self::Absent => values.next().is_none(),
            Self::Is(wanted) => values.any(|value| *value == **wanted),
            Self::Matches(regex) => values.any(|value| regex.is_match(value)),
        }
    }
}

impl Parameter {
    fn is_in(&self, query: Option<&[u8]>) -> bool {
        query.unwrap_or_default().split(|&b| b == b'&').any(|pair| {
            let rest = pair.strip_prefix(&self.name[..]);
            match (rest, &self.value) {
                (Some([]), None) => true,
                (Some([]), Some(value)) => value.is_empty(),
                (Some([b'=', sent @ ..]), value) => value.as_ref().is_none_or(|value| **value == *sent),
                _ => false,
            }
        })
    }
}

/// Where a request goes.
pub(super) enum Target {
    Output(Output),
    Upstreams(Balancer),
    Respond(Answer),
}

impl Target {
    /// `what` names the rule in errors.
    pub(super) fn new(config: &TargetConfig, what: &str, init: &mut Init) -> Result<Self, ConfigError> {
        let named = |e: ConfigError| ConfigError { message: format!("{what}: {}", e.message), hint: e.hint };
        let mut balancer = |servers: &[Server]| {
            Balancer::new(servers, Balance::RoundRobin, None, init).map(Self::Upstreams).map_err(named)
        };
        match config {
            TargetConfig { output: None, upstream: Some(upstream), upstreams: None, respond: None } => {
                balancer(&[Server::Address(upstream.clone())])
            }
            TargetConfig { output: None, upstream: None, upstreams: Some(servers), respond: None } => balancer(servers),
            TargetConfig { output: Some(output), upstream: None, upstreams: None, respond: None } => {
                init.output(output).map(Self::Output).ok_or_else(|| {
                    named(format!("the output `{output}` is not connected").into())
                        .with_hint(format!("say where it leads: `outputs: {{ {output}: FUNCTION }}` beside `config`"))
                })
            }
            TargetConfig { output: None, upstream: None, upstreams: None, respond: Some(respond) } => {
                if !(200..600).contains(&respond.status) {
                    return Err(named(format!("{} is no status of an answer", respond.status).into())
                        .with_hint("use 200 to 599"));
                }
                if respond.body.len() > MAX_BODY_BYTES {
                    return Err(named(format!("the body is longer than {MAX_BODY_BYTES} bytes").into()));
                }
                let answer = Answer::new(respond.status);
                let bodiless = respond.body.is_empty();
                Ok(Self::Respond(if bodiless { answer } else { answer.with_text(respond.body.as_str()) }))
            }
            _ => Err(named("needs exactly one of `output`, `upstream`, `upstreams` and `respond`".into())),
        }
    }
}
