//! Text with `{placeholders}` that are filled in from the request: checked once, when the configuration is read.

use serde_json::Value;

use crate::filter::{Exchange, builtin::jwt::ClaimPath};

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
        let facts = &*exchange.facts;
        let mut filled = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::ClientIp => filled.push_str(&facts.client.to_string()),
                Part::Peer => filled.push_str(facts.caller.as_ref().map_or("", |caller| caller.name())),
                Part::Scheme => filled.push_str(facts.scheme),
                Part::Host => filled.push_str(facts.authority()),
                Part::Path => filled.push_str(facts.path()),
                Part::Query => filled.push_str(facts.target.query().unwrap_or_default()),
                Part::RequestId => filled.push_str(facts.request_id.as_deref().unwrap_or_default()),
                Part::Param(name) => {
                    filled.push_str(facts.params.get(name, facts.path()).unwrap_or_default());
                }
                // Objects and lists have no text of their own.
                Part::Claim(path) => match facts.claims.as_deref().and_then(|claims| path.find(claims)) {
                    Some(Value::String(text)) => filled.push_str(text),
                    Some(plain @ (Value::Number(_) | Value::Bool(_))) => filled.push_str(&plain.to_string()),
                    _ => {}
                },
            }
        }
        filled
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

    fn fill(template: &str) -> String {
        let mut request = RequestHeader::build("GET", b"/users/7?a=b", None).unwrap();
        let mut facts = Facts {
            client: "192.0.2.1".parse().unwrap(),
            authority: Some("example.com:8080".parse().unwrap()),
            target: "/users/7?a=b".parse().unwrap(),
            params: params("/users/{id}", "/users/7"),
            claims: serde_json::json!({"sub": "u-7", "org": {"id": 7}, "list": ["a"]})
                .as_object()
                .cloned()
                .map(std::sync::Arc::new),
            ..Facts::default()
        };
        let exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
        Template::parse(template).unwrap().fill(&exchange)
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
