//! `rewrite`: the path, query and host as the upstream will see them, and what it says of its own place as clients will.

mod query;
mod response;
mod swap;

use std::{borrow::Cow, sync::Arc};

use http::{HeaderValue, Uri, header::HOST};
use regex::{Captures, Regex};
use schemars::JsonSchema;
use serde::Deserialize;

use self::{
    query::{Query, QueryEdits, parameter},
    response::{CookieOptions, Rewritten},
    swap::SwapOptions,
};
use crate::{
    config::Path,
    filter::{
        Exchange, Filter, Invalid, Live, Options, Phases, Reason, Template, shared::template::in_query,
    },
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
    /// `$1` and `${name}` stand for what the pattern's groups matched. What stands behind a `?` joins the client's query, as in `path`.
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
        let replacement = self.regex.as_ref().map(|regex| &regex.replacement);
        for (at, text) in
            [(at.key("path"), self.path.as_ref()), (at.key("regex").key("replacement"), replacement)]
        {
            if text.is_some_and(|text| text.contains('#')) {
                let why = "`#` begins a fragment, which no server is sent (leave it out)";
                invalid.push(Invalid::new(at, why));
            }
        }
        let mut keep = |key: &str, result: Result<_, String>| {
            result.map_err(|message| invalid.push(Invalid::new(at.key(key), message))).ok()
        };
        let path = self.path.and_then(|path| keep("path", Template::parse(&path).map(Step::Path)));
        let regex = self.regex.and_then(|replace| {
            let regex = Regex::new(&replace.pattern).map_err(|error| error.to_string());
            keep("regex", regex.map(|regex| Step::Regex(regex, Replacement::of(&replace.replacement))))
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
    Regex(Regex, Replacement),
    Add(String),
}

/// What takes the place of a match, in the words of the regex crate.
struct Replacement {
    path: String,
    /// What stands behind a `?`.
    query: Option<Vec<Piece>>,
}

/// A part of a query.
#[derive(Debug, PartialEq)]
enum Piece {
    Text(String),
    /// By its name or number.
    Group(String),
}

impl Replacement {
    fn of(text: &str) -> Replacement {
        let (path, query) = match text.split_once('?') {
            Some((path, query)) => (path, Some(pieces(query))),
            None => (text, None),
        };
        Replacement { path: path.to_owned(), query }
    }
}

/// `$1`, `$name` and `${name}` are groups, and `$$` is a `$`, as [`regex::Captures::expand`] has it.
fn pieces(text: &str) -> Vec<Piece> {
    let (mut pieces, mut literal, mut rest) = (Vec::new(), String::new(), text);
    while let Some((before, behind)) = rest.split_once('$') {
        literal.push_str(before);
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let plain = behind.split_once(|c: char| !is_name(c)).map_or(behind, |(name, _)| name);
        let braced = behind.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let group = match (behind.strip_prefix('$'), braced) {
            (Some(after), _) => {
                literal.push('$');
                rest = after;
                continue;
            }
            (None, Some((name, after))) => (name, after),
            (None, None) if !plain.is_empty() => (plain, &behind[plain.len()..]),
            (None, None) => {
                literal.push('$');
                rest = behind;
                continue;
            }
        };
        pieces.push(Piece::Text(std::mem::take(&mut literal)));
        pieces.push(Piece::Group(group.0.to_owned()));
        rest = group.1;
    }
    literal.push_str(rest);
    pieces.push(Piece::Text(literal));
    pieces
}

/// What the groups matched is a value there: nothing in it makes it two.
fn filled(pieces: &[Piece], found: &Captures<'_>) -> String {
    let mut query = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => query.push_str(text),
            Piece::Group(name) => {
                let group = name.parse().map_or_else(|_| found.name(name), |number| found.get(number));
                query.extend(group.map(|group| in_query(group.as_str())).into_iter().flatten());
            }
        }
    }
    query
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
                Step::Regex(regex, replacement) => {
                    if let (Some(own), Some(found)) = (&replacement.query, regex.captures(&path)) {
                        query = joined(&filled(own, &found), query);
                    }
                    regex.replace(&path, replacement.path.as_str()).into_owned()
                }

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

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands behind the `?` reads as it would in front of it.
    #[test]
    fn groups_in_a_query_are_those_of_the_regex_crate() {
        let regex = Regex::new("^/(?P<a>[a-z]+)/([0-9]+)$").unwrap();
        for template in
            ["q=$a", "q=$2&r=${a}x", "$$a=$2$", "$a_b", "${none}x", "$9", "$", "a$-b", "${a", "", "$a$2"]
        {
            let found = regex.captures("/shop/7").unwrap();
            let mut expected = String::new();
            found.expand(template, &mut expected);
            assert_eq!(filled(&pieces(template), &found), expected, "{template}");
        }
    }
}
