//! `headers`: set, add and remove header fields, on the way to the upstream and on the way back.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{ExpectedStatuses, Path},
    filter::{
        Exchange, Filter, Invalid, Live, Options, Phases, Reason, Template,
        shared::spelling::{take_off, take_off_response},
    },
};

/// Edits header fields. Per direction, `remove` runs first, then `set`, then `add`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Headers {
    /// As the upstream will see the request.
    request: Edits,
    /// As the client will see the response.
    response: ResponseEdits,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct ResponseEdits {
    /// Replaces all fields of that name. Values may have placeholders.
    set: BTreeMap<String, String>,
    /// Adds one more field of that name.
    add: BTreeMap<String, String>,
    /// Takes off all fields of that name.
    remove: Vec<String>,
    /// Only responses with one of these statuses: `200`, `200-299`, `[200, 304]`. Default: all.
    status: Option<ExpectedStatuses>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Edits {
    /// Replaces all fields of that name, also those that an upstream would read as it (`x_user` for `x-user`). Values may
    /// have placeholders such as `{client_ip}` or `{path.id}`.
    set: BTreeMap<String, String>,
    /// Adds one more field of that name.
    add: BTreeMap<String, String>,
    /// Takes off all fields of that name, also those that an upstream would read as it.
    remove: Vec<String>,
}

/// How the message is framed and which connection it uses is not a filter's to say: changing it makes requests
/// that two servers read differently.
const FRAMING: [&str; 7] =
    ["connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

impl Options for Headers {
    fn build(self, at: &Path, _live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let mut invalid = Vec::new();
        let request = compile(self.request, &at.key("request"), &mut invalid);
        let ResponseEdits { set, add, remove, status } = self.response;
        let response = compile(Edits { set, add, remove }, &at.key("response"), &mut invalid);
        if invalid.is_empty() { Ok(Arc::new(Edit { request, response, status })) } else { Err(invalid) }
    }
}

fn compile(edits: Edits, at: &Path, invalid: &mut Vec<Invalid>) -> Compiled {
    let mut values = |values: BTreeMap<String, String>, at: &Path| {
        let mut compiled = Vec::new();
        for (name, value) in values {
            let at = at.key(&name);
            match (header_name(&name), header_value(&value)) {
                (Ok(name), Ok(value)) => compiled.push((name, value)),
                (Err(message), _) | (_, Err(message)) => invalid.push(Invalid::new(at, message)),
            }
        }
        compiled
    };
    let set = values(edits.set, &at.key("set"));
    let add = values(edits.add, &at.key("add"));
    let mut remove = Vec::new();
    for (index, name) in edits.remove.iter().enumerate() {
        match header_name(name) {
            Ok(name) => remove.push(name),
            Err(message) => invalid.push(Invalid::new(at.key("remove").index(index), message)),
        }
    }
    Compiled { set, add, remove }
}

/// The name of a field that a filter may edit.
pub(crate) fn header_name(name: &str) -> Result<HeaderName, String> {
    let parsed = HeaderName::try_from(name).map_err(|_| format!("`{name}` is not a header name"))?;
    if FRAMING.contains(&parsed.as_str()) {
        return Err(format!("`{parsed}` belongs to the connection and cannot be edited"));
    }
    Ok(parsed)
}

fn header_value(value: &str) -> Result<Value, String> {
    let template = Template::parse(value)?;
    match template.literal() {
        Some(text) => HeaderValue::from_str(text)
            .map(Value::Fixed)
            .map_err(|_| format!("{value:?} is not a header value")),
        None => Ok(Value::Filled(template)),
    }
}

#[derive(Debug)]
enum Value {
    Fixed(HeaderValue),
    Filled(Template),
}

impl Value {
    /// # Errors
    ///
    /// What was filled in cannot stand in a header. Left out, it would be missed by whoever relies on it.
    fn get(&self, exchange: &Exchange<'_>) -> Result<HeaderValue, Reason> {
        match self {
            Value::Fixed(value) => Ok(value.clone()),
            Value::Filled(template) => {
                HeaderValue::try_from(template.fill(exchange)).map_err(|_| Reason::UnwritableField)
            }
        }
    }
}

#[derive(Debug)]
struct Compiled {
    set: Vec<(HeaderName, Value)>,
    add: Vec<(HeaderName, Value)>,
    remove: Vec<HeaderName>,
}

impl Compiled {
    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

struct Edit {
    request: Compiled,
    response: Compiled,
    /// Of the responses that are edited.
    status: Option<ExpectedStatuses>,
}

impl Filter for Edit {
    fn phases(&self) -> Phases {
        let forward = if self.request.is_empty() { Phases::empty() } else { Phases::FORWARD };
        let response = if self.response.is_empty() { Phases::empty() } else { Phases::RESPONSE };
        forward | response
    }

    fn on_forward(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        for name in &self.request.remove {
            take_off(exchange.request, name);
        }
        for (name, value) in &self.request.set {
            take_off(exchange.request, name);
            let value = value.get(exchange)?;
            exchange.request.insert_header(name.clone(), value).map_err(|_| Reason::HeaderTooLarge)?;
        }
        for (name, value) in &self.request.add {
            let value = value.get(exchange)?;
            exchange.request.append_header(name.clone(), value).map_err(|_| Reason::HeaderTooLarge)?;
        }
        Ok(())
    }

    fn on_response(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        let is_meant = |status: u16| self.status.as_ref().is_none_or(|statuses| statuses.contains(status));
        if !exchange.response.as_ref().is_some_and(|response| is_meant(response.status.as_u16())) {
            return Ok(());
        }
        let Some(response) = exchange.response.take() else { return Ok(()) };
        for name in &self.response.remove {
            take_off_response(response, name);
        }
        for (name, value) in &self.response.set {
            take_off_response(response, name);
            let value = value.get(exchange)?;
            response.insert_header(name.clone(), value).map_err(|_| Reason::Internal)?;
        }
        for (name, value) in &self.response.add {
            let value = value.get(exchange)?;
            response.append_header(name.clone(), value).map_err(|_| Reason::Internal)?;
        }
        exchange.response = Some(response);
        Ok(())
    }
}
