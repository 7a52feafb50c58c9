//! `header-edit`: sets, adds and removes headers of requests and responses.
//!
//! ```yaml
//! - header-edit:
//!     request:
//!       - remove_prefix: x-internal-
//!       - set: { name: X-Client, value: "$client_ip:$client_port" }
//!       - add: { name: Via, value: "1.1 edge" }
//!     response:
//!       - remove: Server
//!       - set: { name: X-Request-ID, value: "$request_id" }
//! ```
//!
//! Edits are made in order. `set` replaces all headers of the name by one, `add` adds one beside them, `remove` takes all
//! away, and `remove_prefix` all whose names begin like this. Names are compared without regard to case.
//!
//! **Values** may have variables: `$client_ip`, `$client_port`, `$request_id` (16 hexadecimal digits, unique in the run),
//! `$header(NAME)` (the first header of that name in the same head, as edited so far), and in requests `$host` and `$path`. `$$` is
//! a dollar sign. A value that comes out empty is not written: `set` then removes the header, and `add` does nothing.
//!
//! **Counters.** `requests`, `responses`: heads that were edited.
//!
//! **Limits.** What says where a message ends or how long a connection lasts (`Content-Length`, `Transfer-Encoding`, `Connection`
//! and its kin, `Expect`) is the broker's and refused here; so is the removal of `Host`. Edits take from about 3 KiB of room in a
//! message; beyond that the broker answers 500 (`no-room`). At most 64 edits a side. A function with edits for one side only does
//! not see the other.

#[cfg(test)]
mod tests;

use crate::field_name;
use crate::header_text::{HeaderText, Side};
use middlenet_sdk::middlebox::prelude::*;

/// Most edits on one side.
const MAX_EDITS: usize = 64;

/// Configuration of `header-edit`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Edits of requests, in order.
    #[serde(default)]
    pub request: Vec<EditConfig>,
    /// Edits of responses, in order.
    #[serde(default)]
    pub response: Vec<EditConfig>,
}

/// One edit.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EditConfig {
    /// One header in place of all of that name.
    Set(Field),
    /// One header beside those of that name.
    Add(Field),
    /// No header of that name.
    Remove(String),
    /// No header whose name begins like this.
    RemovePrefix(String),
}

/// A header.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its value, in which variables such as `$client_ip` are replaced.
    pub value: String,
}

enum Edit {
    Set(String, HeaderText),
    Add(String, HeaderText),
    Remove(String),
    RemovePrefix(String),
}

/// The function; see the module's documentation.
pub struct HeaderEdit {
    request: Vec<Edit>,
    response: Vec<Edit>,
    room: Vec<u8>,
    requests: Counter,
    responses: Counter,
}

impl MiddleboxFunction for HeaderEdit {
    type Config = Config;
    const INTERESTS: Interests = Interests::REQUEST_HEAD.with(Interests::RESPONSE_HEAD);

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        if config.request.is_empty() && config.response.is_empty() {
            return Err(
                ConfigError::new("there is nothing to edit").with_hint("name edits under `request` or `response`")
            );
        }
        Ok(Self {
            request: edits("request", &config.request, Side::Request)?,
            response: edits("response", &config.response, Side::Response)?,
            room: Vec::new(),
            requests: init.counter("requests", "request heads that were edited"),
            responses: init.counter("responses", "response heads that were edited"),
        })
    }

    fn interests(&self) -> Interests {
        let side = |edits: &[Edit], interest| if edits.is_empty() { Interests::NONE } else { interest };
        side(&self.request, Interests::REQUEST_HEAD) | side(&self.response, Interests::RESPONSE_HEAD)
    }

    fn request(&mut self, request: &mut Request<'_>, context: &mut Context<'_>) -> Verdict {
        edit!(self.request, request, context, self.room);
        self.requests.inc();
        Verdict::Next
    }

    fn response(&mut self, response: &mut Response<'_>, context: &mut Context<'_>) -> Verdict {
        edit!(self.response, response, context, self.room);
        self.responses.inc();
        Verdict::Next
    }
}

/// Makes the edits. Requests and responses have the same methods and no trait in common.
macro_rules! edit {
    ($edits:expr, $head:ident, $context:ident, $room:expr) => {
        for edit in &$edits {
            match edit {
                Edit::Set(name, text) => match text.value(&*$head, $context, &mut $room) {
                    [] => drop($head.remove_header(name)),
                    value => $head.set_header(name, value),
                },
                Edit::Add(name, text) => match text.value(&*$head, $context, &mut $room) {
                    [] => {}
                    value => $head.add_header(name, value),
                },
                Edit::Remove(name) => drop($head.remove_header(name)),
                Edit::RemovePrefix(prefix) => {
                    $head.retain_headers(|name, _| !has_prefix(name, prefix.as_bytes()));
                }
            }
        }
    };
}
use edit;

/// Whether a header goes with its prefix. What the broker and later functions rely on stays.
fn has_prefix(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len()).is_some_and(|front| front.eq_ignore_ascii_case(prefix))
        && !field_name::is_framing(name)
        && !name.eq_ignore_ascii_case(b"host")
}

fn edits(side_name: &str, configs: &[EditConfig], side: Side) -> Result<Vec<Edit>, ConfigError> {
    if configs.len() > MAX_EDITS {
        return Err(ConfigError::new(format!("`{side_name}` has {} edits; {MAX_EDITS} may be", configs.len())));
    }
    let edit = |(at, config): (usize, &EditConfig)| {
        let what = format!("{side_name}, edit {}", at + 1);
        let field = |field: &Field| {
            field_name::check_editable(&what, &field.name)?;
            Ok::<_, ConfigError>((field.name.clone(), HeaderText::parse(&what, &field.value, side)?))
        };
        Ok(match config {
            EditConfig::Set(config) => {
                let (name, text) = field(config)?;
                Edit::Set(name, text)
            }
            EditConfig::Add(config) => {
                if config.name.eq_ignore_ascii_case("host") {
                    return Err(ConfigError::new(format!("{what}: a request has one `Host`")).with_hint("use `set`"));
                }
                let (name, text) = field(config)?;
                Edit::Add(name, text)
            }
            EditConfig::Remove(name) => {
                field_name::check_editable(&what, name)?;
                if side == Side::Request && name.eq_ignore_ascii_case("host") {
                    return Err(ConfigError::new(format!("{what}: a request needs its `Host`"))
                        .with_hint("`set` it to something else"));
                }
                Edit::Remove(name.clone())
            }
            EditConfig::RemovePrefix(prefix) => {
                field_name::check(&what, prefix)?;
                Edit::RemovePrefix(prefix.clone())
            }
        })
    };
    configs.iter().enumerate().map(edit).collect()
}
