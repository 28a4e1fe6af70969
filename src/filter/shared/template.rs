//! Text with `{placeholders}` that are filled in from the request: checked once, when the configuration is read.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::filter::{Exchange, Facts, builtin::jwt::ClaimPath};

#[derive(Clone, Debug, PartialEq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    ClientIp,
    Peer,
    Scheme,
    Host,
    Path,
    Query,
    RequestId,
    Param(String),
    Claim(ClaimPath),
}

const KNOWN: &str =
    "{client_ip}, {peer}, {scheme}, {host}, {path}, {query}, {request_id}, {path.NAME}, {claim.NAME}";

impl Template {
    /// `{{` and `}}` are a literal brace.
    ///
    /// # Errors
    ///
    /// An unknown placeholder, or a brace without its partner.
    pub fn parse(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let doubled = rest[at..].starts_with("{{") || rest[at..].starts_with("}}");
            if doubled {
                literal.push_str(&rest[at..=at]);
                rest = &rest[at + 2..];
                continue;
            }
            let inner = rest[at..].strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let (name, after) = inner.ok_or_else(|| {
                format!("`{text}` has a brace without its partner (`{{{{` is a literal brace)")
            })?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(
                placeholder(name)
                    .ok_or_else(|| format!("unknown placeholder `{{{name}}}` (known: {KNOWN})"))?,
            );
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() || parts.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Template(parts))
    }

    /// The text, where it needs nothing from the request.
    pub fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// A value the request does not have is empty.
    pub fn fill(&self, exchange: &Exchange<'_>) -> String {
        self.0.iter().map(|part| part.value(exchange.facts)).collect()
    }

    /// As a path and, behind a `?` of the operator's own, the query. Whatever the client chose is percent-encoded where it
    /// would be more than text, but for what is in that form: a path in a path, the query in a query.
    pub fn fill_target(&self, exchange: &Exchange<'_>) -> (String, Option<String>) {
        let (mut path, mut query) = (String::new(), None::<String>);
        for part in &self.0 {
            let value = part.value(exchange.facts);
            match (part, &mut query) {
                (Part::Text(text), None) => match text.split_once('?') {
                    Some((before, behind)) => {
                        path.push_str(before);
                        query = Some(behind.to_owned());
                    }
                    None => path.push_str(text),
                },
                (Part::Path | Part::Param(_), None) => path.push_str(&value),
                (_, None) => path.extend(utf8_percent_encode(&value, IN_PATH)),
                (Part::Text(_) | Part::Query, Some(query)) => query.push_str(&value),
                (Part::Path | Part::Param(_), Some(query)) => {
                    query.extend(utf8_percent_encode(&value, IN_QUERY_ENCODED))
                }
                (_, Some(query)) => query.extend(utf8_percent_encode(&value, IN_QUERY)),
            }
        }
        (path, query)
    }
}

/// What is more than text in a path (RFC 3986, section 3.3), parameters included.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// In a value of a query as forms write it.
const IN_QUERY: &AsciiSet = &IN_PATH.remove(b'/').add(b'&').add(b'=').add(b'+');

/// The same of what is percent-encoded already.
const IN_QUERY_ENCODED: &AsciiSet = &IN_QUERY.remove(b'%');

impl Part {
    fn value<'v>(&'v self, facts: &'v Facts) -> Cow<'v, str> {
        match self {
            Part::Text(text) => text.into(),
            Part::ClientIp => facts.client.to_string().into(),
            Part::Peer => facts.caller.as_ref().map_or("", |caller| caller.name()).into(),
            Part::Scheme => facts.scheme.into(),
            Part::Host => facts.authority().into(),
            Part::Path => facts.path().into(),
            Part::Query => facts.target.query().unwrap_or_default().into(),
            Part::RequestId => facts.request_id.as_deref().unwrap_or_default().into(),
            Part::Param(name) => facts.params.get(name, facts.path()).unwrap_or_default().into(),
            // Objects and lists have no text of their own.
            Part::Claim(path) => match facts.claims.as_deref().and_then(|claims| path.find(claims)) {
                Some(Value::String(text)) => text.into(),
                Some(plain @ (Value::Number(_) | Value::Bool(_))) => plain.to_string().into(),
                _ => "".into(),
            },
        }
    }
}

fn placeholder(name: &str) -> Option<Part> {
    Some(match name {
        "client_ip" => Part::ClientIp,
        "peer" => Part::Peer,
        "scheme" => Part::Scheme,
        "host" => Part::Host,
        "path" => Part::Path,
        "query" => Part::Query,
        "request_id" => Part::RequestId,
        _ => match name.split_once('.')? {
            ("path", name) if !name.is_empty() => Part::Param(name.to_owned()),
            ("claim", path) => Part::Claim(ClaimPath::new(path)?),
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};
    use pingora_http::RequestHeader;

    use super::*;
    use crate::filter::Facts;
    use crate::route::{Outcome, Params, PathPattern, Request, Rule, Table};

    fn params(template: &str, path: &str) -> Params {
        let rule = Rule {
            id: 0,
            hosts: Vec::new(),
            path: PathPattern::template(template).unwrap(),
            methods: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
        };
        let (method, headers) = (Method::GET, HeaderMap::new());
        let request = Request { host: "", path, query: None, method: &method, headers: &headers };
        match Table::compile(vec![rule]).unwrap().find(&request) {
            Outcome::Found { params, .. } => params,
            other => panic!("{other:?}"),
        }
    }

    fn with_exchange<T>(target: &str, then: impl FnOnce(&Exchange<'_>) -> T) -> T {
        let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        let mut facts = Facts {
            client: "192.0.2.1".parse().unwrap(),
            authority: Some("example.com:8080".parse().unwrap()),
            target: target.parse().unwrap(),
            params: params("/users/{id}", target.split('?').next().unwrap()),
            claims:
                serde_json::json!({"sub": "u-7", "org": {"id": 7}, "list": ["a"], "free": "../a&b=c?d é"})
                    .as_object()
                    .cloned()
                    .map(std::sync::Arc::new),
            ..Facts::default()
        };
        let exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
        then(&exchange)
    }

    fn fill(template: &str) -> String {
        with_exchange("/users/7?a=b", |exchange| Template::parse(template).unwrap().fill(exchange))
    }

    #[test]
    fn what_the_client_chose_is_no_more_than_text_in_a_target() {
        for (template, path, query) in [
            ("/search/{query}", "/search/%2Fx%3Fy=1&..%2F", None),
            ("/t/{claim.free}", "/t/..%2Fa&b=c%3Fd%20%C3%A9", None),
            ("{path}/x", "/users/a%3Bb&c/x", None),
            ("/u/{path.id}/{host}", "/u/a%3Bb&c/example.com:8080", None),
            ("/s?{query}", "/s", Some("/x?y=1&../")),
            ("/s?q={claim.free}&p={path.id}", "/s", Some("q=../a%26b%3Dc%3Fd%20%C3%A9&p=a%3Bb%26c")),
            ("/s?", "/s", Some("")),
        ] {
            let filled = with_exchange("/users/a%3Bb&c?/x?y=1&../", |exchange| {
                Template::parse(template).unwrap().fill_target(exchange)
            });
            assert_eq!(filled, (path.to_owned(), query.map(str::to_owned)), "{template}");
        }
    }

    #[test]
    fn fills_in_what_the_request_says() {
        assert_eq!(fill("https://{host}{path}?{query}"), "https://example.com:8080/users/7?a=b");
        assert_eq!(fill("{client_ip}-{path.id}-{path.none}-{request_id}"), "192.0.2.1-7--");
        assert_eq!(fill("{claim.sub}-{claim.org.id}-{claim.none}-{claim.list}"), "u-7-7--");
        assert_eq!(fill("{{literal}}"), "{literal}");
        assert_eq!(fill(""), "");
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for text in ["{nope}", "{path.}", "{claim.}", "{host", "host}", "{}"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
