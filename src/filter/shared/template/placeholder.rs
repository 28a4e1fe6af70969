//! The placeholders: one table for every template, whatever is made of it. docs/placeholders.md says the same.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, header::COOKIE};
use serde_json::Value;

use crate::{
    config::suggest,
    filter::{Exchange, builtin::jwt::ClaimPath},
    route::QueryPredicate,
    trace,
};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Placeholder {
    Method,
    Path,
    /// The path but for what was captured under these names.
    PathWithout(Vec<String>),
    Query,
    /// All of the query but the values of these names.
    QueryWithout(Vec<String>),
    QueryValue(String),
    /// Path and query, with a `?` where there is one.
    Uri,
    /// The same but for what is named so.
    UriWithout(Vec<String>),
    /// Without its port.
    Host,
    /// The host with the port that the client named.
    Authority,
    Scheme,
    Header(HeaderName),
    Cookie(String),
    Route,
    Upstream,
    Listener,
    ClientIp,
    Peer,
    Claim(ClaimPath),
    Param(String),
    Property(String),
    RequestId,
    TraceId,
    TlsVersion,
    TlsSni,
    TlsJa4,
}

/// Those that are a name and nothing more.
const PLAIN: [(&str, Placeholder); 17] = [
    ("method", Placeholder::Method),
    ("path", Placeholder::Path),
    ("query", Placeholder::Query),
    ("uri", Placeholder::Uri),
    ("host", Placeholder::Host),
    ("authority", Placeholder::Authority),
    ("scheme", Placeholder::Scheme),
    ("route", Placeholder::Route),
    ("upstream", Placeholder::Upstream),
    ("listener", Placeholder::Listener),
    ("client_ip", Placeholder::ClientIp),
    ("peer", Placeholder::Peer),
    ("request_id", Placeholder::RequestId),
    ("trace_id", Placeholder::TraceId),
    ("tls.version", Placeholder::TlsVersion),
    ("tls.sni", Placeholder::TlsSni),
    ("tls.ja4", Placeholder::TlsJa4),
];

/// Those that take the name of what is meant.
const OF_A_NAME: [&str; 7] = ["query", "header", "cookie", "claim", "path", "property", "env"];

/// What is made of something that the request has more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeated {
    /// As one list, `a, b`.
    Joined,
    /// In a key: only the upstream knows which of them it will believe.
    Empty,
}

/// What stands between two braces.
pub(super) enum Found {
    Placeholder(Placeholder),
    /// As if it had been written there.
    Text(String),
}

/// # Errors
///
/// It is none, or lacks what it needs.
pub(super) fn parse(name: &str) -> Result<Found, String> {
    if let Some((_, plain)) = PLAIN.iter().find(|(known, _)| *known == name) {
        return Ok(Found::Placeholder(plain.clone()));
    }
    let Some((kind, of)) = name.split_once('.').filter(|(kind, _)| OF_A_NAME.contains(kind)) else {
        return Err(unknown(name));
    };
    let bad = || format!("`{{{name}}}` does not name a {kind}");
    if of.is_empty() {
        return Err(format!("`{{{name}}}` lacks a name, as in `{{{kind}.NAME}}`"));
    }
    Ok(Found::Placeholder(match kind {
        "query" => Placeholder::QueryValue(of.to_owned()),
        "header" => Placeholder::Header(HeaderName::try_from(of).map_err(|_| bad())?),
        // A cookie's name is a token like a header's, but for its case.
        "cookie" => Placeholder::Cookie(HeaderName::try_from(of).map(|_| of.to_owned()).map_err(|_| bad())?),
        "claim" => Placeholder::Claim(ClaimPath::new(of).ok_or_else(bad)?),
        "path" => Placeholder::Param(of.to_owned()),
        "property" => Placeholder::Property(of.to_owned()),
        _ => return std::env::var(of).map(Found::Text).map_err(|_| not_set(of)),
    }))
}

fn not_set(variable: &str) -> String {
    format!(
        "the environment variable {variable} is not set (set it, or give a default: `${{env:{variable}:-...}}`)"
    )
}

/// What other gateways call the same.
const FOREIGN: [(&str, &str); 26] = [
    ("request_uri", "uri"),
    ("http.request.uri", "uri"),
    ("http.request.uri.path", "path"),
    ("http.request.uri.query", "query"),
    ("http.request.host", "host"),
    ("http.request.hostport", "authority"),
    ("http.request.method", "method"),
    ("http.request.scheme", "scheme"),
    ("http.request.remote.host", "client_ip"),
    ("remote_addr", "client_ip"),
    ("remote_host", "client_ip"),
    ("remote_ip", "client_ip"),
    ("remote", "client_ip"),
    ("client", "client_ip"),
    ("ip", "client_ip"),
    ("src", "client_ip"),
    ("x_forwarded_for", "client_ip"),
    ("hostport", "authority"),
    ("http_host", "authority"),
    ("hostname", "host"),
    ("domain", "host"),
    ("args", "query"),
    ("query_string", "query"),
    ("request_method", "method"),
    ("url", "uri"),
    ("proto", "scheme"),
];

/// Ours for a name of another gateway's, and for kinds such as Caddy's `http.request.header.X`.
fn foreign(name: &str) -> Option<String> {
    let lower = name.to_lowercase();
    if let Some((_, ours)) = FOREIGN.iter().find(|(theirs, _)| *theirs == lower) {
        return Some((*ours).to_owned());
    }
    const KINDS: [(&str, &str); 9] = [
        ("http.request.header.", "header"),
        ("http.request.cookie.", "cookie"),
        ("http.request.uri.query.", "query"),
        ("req.header.", "header"),
        ("request.header.", "header"),
        ("request.headers.", "header"),
        ("header_", "header"),
        ("http_", "header"),
        ("cookie_", "cookie"),
    ];
    let of = |(theirs, ours): &(&str, &str)| {
        let of = lower.strip_prefix(theirs).filter(|of| !of.is_empty())?;
        let of = if *ours == "header" { of.replace('_', "-") } else { of.to_owned() };
        Some(format!("{ours}.{of}"))
    };
    KINDS.iter().find_map(of)
}

fn unknown(name: &str) -> String {
    if let Some(ours) = foreign(name) {
        return format!("unknown placeholder `{{{name}}}` (did you mean `{{{ours}}}`?)");
    }
    let kind = name.split_once('.').map(|(kind, of)| (suggest(kind, OF_A_NAME.into_iter()), of));
    let near = match kind {
        Some((Some(kind), of)) => Some(format!("{kind}.{of}")),
        _ => suggest(name, PLAIN.iter().map(|(known, _)| *known)).map(str::to_owned),
    };
    match near {
        Some(near) => format!("unknown placeholder `{{{name}}}` (did you mean `{{{near}}}`?)"),
        None => format!("unknown placeholder `{{{name}}}` (known: {})", known()),
    }
}

fn known() -> String {
    let plain = PLAIN.iter().map(|(name, _)| format!("{{{name}}}"));
    let of_a_name = OF_A_NAME.iter().map(|kind| format!("{{{kind}.NAME}}"));
    plain.chain(of_a_name).collect::<Vec<_>>().join(", ")
}

impl Placeholder {
    /// What the request does not have is empty.
    pub(super) fn value<'v>(&self, exchange: &'v Exchange<'_>, repeated: Repeated) -> Cow<'v, str> {
        let facts = &*exchange.facts;
        let headers = &exchange.request.headers;
        match self {
            Placeholder::Method => exchange.request.method.as_str().into(),
            Placeholder::Path => facts.path().into(),
            Placeholder::PathWithout(names) => facts.path_without(names),
            Placeholder::Query => facts.target.query().unwrap_or_default().into(),
            Placeholder::QueryWithout(names) => facts.query_without(names).unwrap_or_default(),
            Placeholder::QueryValue(name) => {
                let values = QueryPredicate::named(name, facts.target.query());
                listed(values.map(lossy), repeated)
            }
            Placeholder::Uri => match facts.target.query() {
                Some(query) => format!("{}?{query}", facts.path()).into(),
                None => facts.path().into(),
            },
            Placeholder::UriWithout(names) => match facts.query_without(names) {
                Some(query) => format!("{}?{query}", facts.path_without(names)).into(),
                None => facts.path_without(names),
            },
            Placeholder::Host => facts.host().into(),
            Placeholder::Authority => facts.authority().into(),
            Placeholder::Scheme => facts.scheme.into(),
            Placeholder::Header(name) => {
                let values = headers.get_all(name).iter();
                listed(values.map(|value| String::from_utf8_lossy(value.as_bytes())), repeated)
            }
            Placeholder::Cookie(name) => {
                listed(cookies(headers, name).map(String::from_utf8_lossy), repeated)
            }
            Placeholder::Route => facts.route.as_deref().unwrap_or_default().into(),
            Placeholder::Upstream => facts.upstream.as_deref().unwrap_or_default().into(),
            Placeholder::Listener => facts.listener.as_deref().unwrap_or_default().into(),
            // Whoever has one address of an IPv6 network has all, and is no more than one.
            Placeholder::ClientIp if matches!(repeated, Repeated::Empty) => {
                facts.ipv6_prefix.block(facts.client).to_string().into()
            }
            Placeholder::ClientIp => facts.client.to_string().into(),
            Placeholder::Peer => facts.caller.as_ref().map_or("", |caller| caller.name()).into(),
            Placeholder::RequestId => facts.request_id.as_deref().unwrap_or_default().into(),
            Placeholder::TraceId => {
                trace::id(facts.trace.as_ref(), headers).map_or_else(Cow::default, |id| id.to_string().into())
            }
            Placeholder::TlsVersion => facts.tls.as_ref().map_or("", |tls| tls.version).into(),
            Placeholder::TlsSni => {
                facts.tls.as_ref().and_then(|tls| tls.sni.as_deref()).unwrap_or_default().into()
            }
            Placeholder::TlsJa4 => {
                facts.tls.as_ref().and_then(|tls| tls.ja4.as_deref()).unwrap_or_default().into()
            }
            Placeholder::Param(name) => facts.params.get(name, facts.path()).unwrap_or_default().into(),
            Placeholder::Property(name) => {
                facts.properties.named(name).map_or_else(Cow::default, String::from_utf8_lossy)
            }
            // Objects and lists have no text of their own.
            Placeholder::Claim(path) => match facts.claims.as_deref().and_then(|claims| path.find(claims)) {
                Some(Value::String(text)) => text.into(),
                Some(plain @ (Value::Number(_) | Value::Bool(_))) => plain.to_string().into(),
                _ => Cow::default(),
            },
        }
    }

    /// What is to be written where no secret may be; `None` where it is nothing but one.
    pub(super) fn redacted(&self, secrets: &Secrets<'_>) -> Option<Placeholder> {
        let is_secret = match self {
            Placeholder::Header(name) => secrets.contain(name.as_str()),
            // Each is a part of the field `cookie`.
            Placeholder::Cookie(_) => true,
            Placeholder::QueryValue(name) | Placeholder::Param(name) | Placeholder::Property(name) => {
                secrets.contain(name)
            }
            Placeholder::Claim(path) => path.names().any(|name| secrets.contain(name)),
            Placeholder::Path if !secrets.0.is_empty() => {
                return Some(Placeholder::PathWithout(secrets.0.to_vec()));
            }
            Placeholder::Uri if !secrets.0.is_empty() => {
                return Some(Placeholder::UriWithout(secrets.0.to_vec()));
            }
            Placeholder::Query if !secrets.0.is_empty() => {
                return Some(Placeholder::QueryWithout(secrets.0.to_vec()));
            }
            _ => false,
        };
        (!is_secret).then(|| self.clone())
    }
}

/// What is never written, beside the fields that always hold secrets.
pub(super) struct Secrets<'a>(pub &'a [String]);

impl Secrets<'_> {
    const ALWAYS: [&'static str; 4] = ["authorization", "cookie", "set-cookie", "proxy-authorization"];

    fn contain(&self, name: &str) -> bool {
        let others = self.0.iter().map(String::as_str);
        Self::ALWAYS.into_iter().chain(others).any(|secret| secret.eq_ignore_ascii_case(name))
    }
}

/// In a request's cookies, the values of one.
pub(in crate::filter) fn cookies<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h [u8]> {
    let fields = headers.get_all(COOKIE).iter().map(|field| field.as_bytes());
    fields.flat_map(|field| field.split(|byte| *byte == b';')).filter_map(move |cookie| {
        let equals = memchr::memchr(b'=', cookie)?;
        (cookie[..equals].trim_ascii() == name.as_bytes()).then(|| cookie[equals + 1..].trim_ascii())
    })
}

fn listed<'v>(mut values: impl Iterator<Item = Cow<'v, str>>, repeated: Repeated) -> Cow<'v, str> {
    let Some(first) = values.next() else { return Cow::default() };
    let Some(second) = values.next() else { return first };
    if repeated == Repeated::Empty {
        return Cow::default();
    }
    let mut list = first.into_owned();
    for value in std::iter::once(second).chain(values) {
        list.push_str(", ");
        list.push_str(&value);
    }
    list.into()
}

fn lossy(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    match bytes {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => String::from_utf8_lossy(&bytes).into_owned().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{OF_A_NAME, PLAIN};

    #[test]
    fn the_page_has_every_placeholder_and_no_other() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/placeholders.md");
        let page = std::fs::read_to_string(page).unwrap();
        let rows = page.lines().filter(|line| line.starts_with("| `{"));
        let cells = rows.filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split('`'));
        let told: BTreeSet<String> = cells.filter(|text| text.starts_with('{')).map(str::to_owned).collect();
        let plain = PLAIN.iter().map(|(name, _)| format!("{{{name}}}"));
        let of_a_name = OF_A_NAME.iter().map(|kind| format!("{{{kind}.NAME}}"));
        let known: BTreeSet<String> = plain.chain(of_a_name).collect();
        assert_eq!(told, known);
    }
}
