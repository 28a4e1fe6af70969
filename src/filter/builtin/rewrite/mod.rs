//! `rewrite`: the path, query and host as the upstream will see them, and what it says of its own place as clients will.

mod query;
mod response;
mod swap;

use std::{borrow::Cow, sync::Arc};

use http::{HeaderValue, Uri, header::HOST};
use regex::Regex;
use schemars::JsonSchema;
use serde::Deserialize;

use self::{
    query::{Query, QueryEdits, parameter},
    response::{CookieOptions, Rewritten},
    swap::SwapOptions,
};
use crate::{
    config::Path,
    filter::{Exchange, Filter, Invalid, Live, Options, Phases, Reason, Template},
    route::{PathError, normalise_made},
};

/// Rewrites the path, the query and the host for the upstream, and in its answers where redirects lead and what cookies are for. `path` replaces the whole path; else
/// `strip_prefix`, `regex` and `add_prefix` apply in this order. What comes of it is normalised, and 400 where a dot segment
/// is in it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Rewrite {
    /// Taken off where the path begins with it, on a segment boundary.
    strip_prefix: Option<String>,
    /// Put in front.
    add_prefix: Option<String>,
    /// The whole path, with placeholders such as `{path.id}`. What stands behind a `?` joins the client's query, whose parameters of the same names are left out; where something of
    /// the client's stands in it, as `{query}` does, it is the whole query, and a `?` at its end drops the client's.
    path: Option<String>,
    /// Replaces what an expression finds in the path.
    regex: Option<Replace>,
    /// Parameters of the query, once the path is rewritten.
    query: Option<QueryEdits>,
    /// The `Host` the upstream sees.
    host: Option<String>,
    /// Where redirects of the upstream lead: the beginning of `Location` and of the URL in `Refresh`.
    location: Vec<SwapOptions>,
    /// For which domain and path the upstream's cookies are.
    cookies: Option<CookieOptions>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Replace {
    /// Searched in the path; the first match is replaced.
    pattern: String,
    /// `$1` and `${name}` stand for what the pattern's groups matched.
    replacement: String,
}

impl Options for Rewrite {
    fn build(self, at: &Path, _live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let mut invalid = Vec::new();
        let empty = self.strip_prefix.is_none() && self.add_prefix.is_none() && self.regex.is_none();
        if self.path.is_some() && !empty {
            invalid.push(Invalid::new(at.key("path"), "`path` replaces the whole path, so it stands alone"));
        }
        let of_responses = !self.location.is_empty() || self.cookies.is_some();
        if self.path.is_none() && self.host.is_none() && self.query.is_none() && empty && !of_responses {
            invalid.push(Invalid::new(
                at.clone(),
                "nothing to rewrite: give path, strip_prefix, add_prefix, regex, query, host, location or cookies",
            ));
        }
        for (key, value) in
            [("strip_prefix", &self.strip_prefix), ("add_prefix", &self.add_prefix), ("path", &self.path)]
        {
            if value.as_deref().is_some_and(|value| !value.starts_with('/')) {
                invalid.push(Invalid::new(at.key(key), format!("`{key}` must begin with `/`")));
            }
        }
        let added = self.add_prefix.as_deref().filter(|prefix| prefix.starts_with('/'));
        if let Some(Err(error)) = added.map(normalise_made) {
            invalid.push(Invalid::new(at.key("add_prefix"), format!("no path has it: {error}")));
        }
        if self.path.as_deref().is_some_and(|path| path.contains('#')) {
            invalid.push(Invalid::new(
                at.key("path"),
                "`#` begins a fragment, which no server is sent (leave it out)",
            ));
        }
        if self.regex.as_ref().is_some_and(|regex| regex.replacement.contains(['?', '#'])) {
            invalid.push(Invalid::new(
                at.key("regex").key("replacement"),
                "a path holds no `?` or `#` (use `path`, as in `/search?id={path.id}`)",
            ));
        }
        let mut keep = |key: &str, result: Result<_, String>| {
            result.map_err(|message| invalid.push(Invalid::new(at.key(key), message))).ok()
        };
        let path = self.path.and_then(|path| keep("path", Template::parse(&path).map(Step::Path)));
        let regex = self.regex.and_then(|replace| {
            let regex = Regex::new(&replace.pattern).map_err(|error| error.to_string());
            keep("regex", regex.map(|regex| Step::Regex(regex, replace.replacement)))
        });
        let host = self.host.and_then(|host| match HeaderValue::try_from(host) {
            Ok(host) => Some(host),
            Err(_) => {
                invalid.push(Invalid::new(at.key("host"), "not a host name"));
                None
            }
        });
        let query = self.query.and_then(|edits| edits.build(&at.key("query"), &mut invalid));
        let rewritten = Rewritten::build(self.location, self.cookies, at, &mut invalid);
        let strip = self.strip_prefix.map(|prefix| Step::Strip(prefix.trim_end_matches('/').to_owned()));
        let add = self.add_prefix.map(|prefix| Step::Add(prefix.trim_end_matches('/').to_owned()));
        if !invalid.is_empty() {
            return Err(invalid);
        }
        let steps = [path, strip, regex, add].into_iter().flatten().collect();
        Ok(Arc::new(Rewriter { steps, query, host, rewritten }))
    }
}

enum Step {
    Path(Template),
    Strip(String),
    Regex(Regex, String),
    Add(String),
}

struct Rewriter {
    steps: Vec<Step>,
    query: Option<Query>,
    host: Option<HeaderValue>,
    rewritten: Rewritten,
}

impl Rewriter {
    /// # Errors
    ///
    /// What the client put into the path is none where it stands now, or would lead elsewhere.
    fn target(&self, exchange: &Exchange<'_>) -> Result<Uri, Reason> {
        let mut path = exchange.request.uri.path().to_owned();
        let mut query = exchange.request.uri.query().map(str::to_owned);
        for step in &self.steps {
            path = match step {
                Step::Path(template) => {
                    let (path, own) = template.fill_target(exchange)?;
                    if let Some(own) = own {
                        query = joined(&own, query.filter(|_| !template.says_query()));
                    }
                    path
                }
                Step::Strip(prefix) => match path.strip_prefix(prefix.as_str()) {
                    Some("") => "/".to_owned(),
                    Some(rest) if rest.starts_with('/') => rest.to_owned(),
                    _ => path,
                },
                Step::Regex(regex, replacement) => regex.replace(&path, replacement.as_str()).into_owned(),
                Step::Add(prefix) => format!("{prefix}{path}"),
            };
        }
        if !path.starts_with('/') {
            path.insert(0, '/');
        }
        let mut target = in_form(&path)?.into_owned();
        if let Some(edits) = &self.query {
            query = edits.edit(query.as_deref(), exchange);
        }
        if let Some(query) = query {
            target.push('?');
            target.push_str(&query);
        }
        target.parse().map_err(|_| Reason::BadRequest)
    }
}

/// The operator's own query, and behind it what is left of the client's: nothing, where the operator's ends in a `?`.
fn joined(own: &str, rest: Option<String>) -> Option<String> {
    if own.is_empty() {
        return None;
    }
    if let Some(own) = own.strip_suffix('?') {
        return Some(own.to_owned()).filter(|own| !own.is_empty());
    }
    let set: Vec<Vec<u8>> = own.split('&').map(parameter).collect();
    // Said twice, a parameter would be the client's wherever the last one counts.
    let is_set = |pair: &str| pair.split(';').any(|part| set.contains(&parameter(part)));
    let rest = rest.unwrap_or_default();
    let rest = rest.split('&').filter(|pair| !pair.is_empty() && !is_set(pair));
    Some(std::iter::once(own).chain(rest).collect::<Vec<_>>().join("&"))
}

fn in_form(path: &str) -> Result<Cow<'_, str>, Reason> {
    normalise_made(path).map_err(|error| match error {
        PathError::DotSegment => Reason::DotSegment,
        _ => Reason::BadRequest,
    })
}

impl Filter for Rewriter {
    fn phases(&self) -> Phases {
        let forwards = !self.steps.is_empty() || self.query.is_some() || self.host.is_some();
        let forward = if forwards { Phases::FORWARD } else { Phases::empty() };
        let response = if self.rewritten.is_empty() { Phases::empty() } else { Phases::RESPONSE };
        forward | response
    }

    fn on_forward(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        if !self.steps.is_empty() || self.query.is_some() {
            let target = self.target(exchange)?;
            exchange.request.set_uri(target);
        }
        if let Some(host) = &self.host {
            exchange.request.insert_header(HOST, host.clone()).map_err(|_| Reason::Internal)?;
        }
        Ok(())
    }

    fn on_response(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        let Some(response) = exchange.response.take() else { return Ok(()) };
        let edited = self.rewritten.edit(response, exchange);
        exchange.response = Some(response);
        edited
    }
}
