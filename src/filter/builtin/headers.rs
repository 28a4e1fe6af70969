//! `headers`: set, add and remove header fields, on the way to the upstream and on the way back.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use regex::bytes::Regex;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{ExpectedStatuses, Path},
    filter::{
        Exchange, Filter, Invalid, Live, Options, Phases, Reason, Template,
        shared::spelling::{take_off, take_off_response},
    },
};

/// Edits header fields. Per direction, `remove` runs first, then `replace`, `set`, `set_if_absent` and `add`.
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
    /// Sets a field where there is none of that name.
    set_if_absent: BTreeMap<String, String>,
    /// Adds one more field of that name.
    add: BTreeMap<String, String>,
    /// Replaces what an expression finds in the values of fields, each time.
    replace: BTreeMap<String, ReplaceOptions>,
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
    /// Sets a field where there is none of that name; those that an upstream would read as it are taken off then.
    set_if_absent: BTreeMap<String, String>,
    /// Adds one more field of that name.
    add: BTreeMap<String, String>,
    /// Replaces what an expression finds in the values of fields, each time.
    replace: BTreeMap<String, ReplaceOptions>,
    /// Takes off all fields of that name, also those that an upstream would read as it.
    remove: Vec<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReplaceOptions {
    /// Searched in each value; every match is replaced.
    pattern: String,
    /// `$1` and `$name` stand for what the pattern's groups matched.
    replacement: String,
}

/// How the message is framed and which connection it uses is not a filter's to say: changing it makes requests
/// that two servers read differently.
const FRAMING: [&str; 7] =
    ["connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

impl Options for Headers {
    fn build(self, at: &Path, _live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let mut invalid = Vec::new();
        let request = compile(self.request, &at.key("request"), &mut invalid);
        let ResponseEdits { set, set_if_absent, add, replace, remove, status } = self.response;
        let response =
            compile(Edits { set, set_if_absent, add, replace, remove }, &at.key("response"), &mut invalid);
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
    let set_if_absent = values(edits.set_if_absent, &at.key("set_if_absent"));
    let add = values(edits.add, &at.key("add"));
    let mut replace = Vec::new();
    for (name, options) in edits.replace {
        match Replacement::build(&name, options, &at.key("replace").key(&name)) {
            Ok(replacement) => replace.push(replacement),
            Err(wrong) => invalid.push(wrong),
        }
    }
    let mut remove = Vec::new();
    for (index, name) in edits.remove.iter().enumerate() {
        match header_name(name) {
            Ok(name) => remove.push(name),
            Err(message) => invalid.push(Invalid::new(at.key("remove").index(index), message)),
        }
    }
    Compiled { set, set_if_absent, add, replace, remove }
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
    set_if_absent: Vec<(HeaderName, Value)>,
    add: Vec<(HeaderName, Value)>,
    replace: Vec<Replacement>,
    remove: Vec<HeaderName>,
}

#[derive(Debug)]
struct Replacement {
    name: HeaderName,
    pattern: Regex,
    replacement: String,
}

impl Replacement {
    fn build(name: &str, options: ReplaceOptions, at: &Path) -> Result<Replacement, Invalid> {
        let ReplaceOptions { pattern, replacement } = options;
        let name = header_name(name).map_err(|why| Invalid::new(at.clone(), why))?;
        let regex = Regex::new(&pattern).map_err(|error| Invalid::new(at.key("pattern"), error))?;
        if HeaderValue::from_str(&replacement).is_err() {
            let why = format!("{replacement:?} cannot stand in a header");
            return Err(Invalid::new(at.key("replacement"), why));
        }
        Ok(Replacement { name, pattern: regex, replacement })
    }

    /// The values of the field as they are now, where one of them has changed.
    fn replaced(&self, headers: &HeaderMap) -> Option<Vec<HeaderValue>> {
        let mut has_changed = false;
        let replaced = headers.get_all(&self.name).iter().map(|value| {
            match self.pattern.replace_all(value.as_bytes(), self.replacement.as_bytes()) {
                Cow::Borrowed(_) => value.clone(),
                // It is made of the bytes of one and the other, both of which may stand in a field.
                Cow::Owned(bytes) => {
                    has_changed = true;
                    HeaderValue::from_bytes(&bytes).unwrap_or_else(|_| value.clone())
                }
            }
        });
        let replaced = replaced.collect();
        has_changed.then_some(replaced)
    }
}

impl Compiled {
    fn is_empty(&self) -> bool {
        let Compiled { set, set_if_absent, add, replace, remove } = self;
        [set, set_if_absent, add].into_iter().all(Vec::is_empty) && replace.is_empty() && remove.is_empty()
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
        for replacement in &self.request.replace {
            let Some(values) = replacement.replaced(&exchange.request.headers) else { continue };
            exchange.request.remove_header(&replacement.name);
            for value in values {
                let name = replacement.name.clone();
                exchange.request.append_header(name, value).map_err(|_| Reason::HeaderTooLarge)?;
            }
        }
        for (name, value) in &self.request.set {
            take_off(exchange.request, name);
            let value = value.get(exchange)?;
            exchange.request.insert_header(name.clone(), value).map_err(|_| Reason::HeaderTooLarge)?;
        }
        for (name, value) in &self.request.set_if_absent {
            if !exchange.request.headers.contains_key(name) {
                take_off(exchange.request, name);
                let value = value.get(exchange)?;
                exchange.request.insert_header(name.clone(), value).map_err(|_| Reason::HeaderTooLarge)?;
            }
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
        for replacement in &self.response.replace {
            let Some(values) = replacement.replaced(&response.headers) else { continue };
            response.remove_header(&replacement.name);
            for value in values {
                response.append_header(replacement.name.clone(), value).map_err(|_| Reason::Internal)?;
            }
        }
        for (name, value) in &self.response.set {
            take_off_response(response, name);
            let value = value.get(exchange)?;
            response.insert_header(name.clone(), value).map_err(|_| Reason::Internal)?;
        }
        for (name, value) in &self.response.set_if_absent {
            if !response.headers.contains_key(name) {
                let value = value.get(exchange)?;
                response.insert_header(name.clone(), value).map_err(|_| Reason::Internal)?;
            }
        }
        for (name, value) in &self.response.add {
            let value = value.get(exchange)?;
            response.append_header(name.clone(), value).map_err(|_| Reason::Internal)?;
        }
        exchange.response = Some(response);
        Ok(())
    }
}
