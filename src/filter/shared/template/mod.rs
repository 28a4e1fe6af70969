//! Text with `{placeholders}` that are filled in from the request: checked once, when the configuration is read.

pub(in crate::filter) mod placeholder;
mod url;

pub(in crate::filter) use self::url::in_query;

use self::placeholder::{Found, Placeholder, Repeated, Secrets};
pub(crate) use self::url::IN_QUERY;
use crate::filter::Exchange;

#[derive(Clone, Debug, PartialEq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Placeholder(Placeholder),
}

/// What stands where a secret would.
pub(crate) const REDACTED: &str = "[redacted]";

impl Template {
    /// `{{` and `}}` are a literal brace.
    ///
    /// # Errors
    ///
    /// An unknown placeholder, or a brace without its partner.
    pub fn parse(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        for piece in Pieces(text) {
            match piece? {
                Piece::Text(text) => literal.push_str(text),
                Piece::Braces(name) => match placeholder::parse(name)? {
                    Found::Text(text) => literal.push_str(&text),
                    Found::Placeholder(placeholder) => {
                        if !literal.is_empty() {
                            parts.push(Part::Text(std::mem::take(&mut literal)));
                        }
                        parts.push(Part::Placeholder(placeholder));
                    }
                },
            }
        }
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

    /// Whether something of the client's query stands in it.
    pub fn says_query(&self) -> bool {
        let is_of_query = |part: &Part| {
            let Part::Placeholder(placeholder) = part else { return false };
            matches!(
                placeholder,
                Placeholder::Query
                    | Placeholder::QueryWithout(_)
                    | Placeholder::QueryValue(_)
                    | Placeholder::Uri
                    | Placeholder::UriWithout(_)
            )
        };
        self.0.iter().any(is_of_query)
    }

    /// A value the request does not have is empty; what it has more than once is a list, `a, b`.
    pub fn fill(&self, exchange: &Exchange<'_>) -> String {
        self.filled(exchange, Repeated::Joined)
    }

    /// To tell requests apart: what one has more than once is empty too, so that nobody becomes many by adding more.
    pub fn fill_key(&self, exchange: &Exchange<'_>) -> String {
        self.filled(exchange, Repeated::Empty)
    }

    fn filled(&self, exchange: &Exchange<'_>, repeated: Repeated) -> String {
        let mut filled = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Placeholder(placeholder) => filled.push_str(&placeholder.value(exchange, repeated)),
            }
        }
        filled
    }

    /// The same without secrets: what cookies and the fields of credentials hold, and what the request calls by one of
    /// `names`. For all that is written down. Says whether something was one.
    pub fn redacted(&self, names: &[String]) -> (Template, bool) {
        let (secrets, mut any) = (Secrets(names), false);
        let parts = self.0.iter().map(|part| match part {
            Part::Placeholder(placeholder) => match placeholder.redacted(&secrets) {
                Some(placeholder) => Part::Placeholder(placeholder),
                None => {
                    any = true;
                    Part::Text(REDACTED.to_owned())
                }
            },
            text => text.clone(),
        });
        let parts = parts.collect();
        (Template(parts), any)
    }
}

/// A template's text, taken apart.
pub(crate) struct Pieces<'t>(pub &'t str);

pub(crate) enum Piece<'t> {
    Text(&'t str),
    /// What stands between two braces.
    Braces(&'t str),
}

impl<'t> Iterator for Pieces<'t> {
    type Item = Result<Piece<'t>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.0;
        let piece = match text.find(['{', '}']) {
            None if text.is_empty() => return None,
            None => {
                self.0 = "";
                Piece::Text(text)
            }
            Some(0) if text.starts_with("{{") || text.starts_with("}}") => {
                self.0 = &text[2..];
                Piece::Text(&text[..1])
            }
            Some(0) => match text.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                Some((name, after)) => {
                    self.0 = after;
                    Piece::Braces(name)
                }
                None => {
                    self.0 = "";
                    let why = "there is a brace without its partner (`{{` is a literal brace)";
                    return Some(Err(why.to_owned()));
                }
            },
            Some(at) => {
                self.0 = &text[at..];
                Piece::Text(&text[..at])
            }
        };
        Some(Ok(piece))
    }
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
            not: Vec::new(),
            any: Vec::new(),
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
            ("/u/{path.id}/{authority}", "/u/a%3Bb&c/example.com:8080", None),
            ("/v2{uri}", "/v2/users/a%3Bb&c", Some("/x?y=1&../")),
            ("/s?{query}", "/s", Some("/x?y=1&../")),
            ("/s?q={claim.free}&p={path.id}", "/s", Some("q=../a%26b%3Dc%3Fd%20%C3%A9&p=a%3Bb%26c")),
            ("/s?", "/s", Some("")),
            ("/s?a=1&{query}", "/s", Some("a=1&/x?y=1&../")),
        ] {
            let filled = with_exchange("/users/a%3Bb&c?/x?y=1&../", |exchange| {
                Template::parse(template).unwrap().fill_target(exchange).unwrap()
            });
            assert_eq!(filled, (path.to_owned(), query.map(str::to_owned)), "{template}");
        }
    }

    #[test]
    fn what_leads_to_a_query_stands_only_where_there_is_one() {
        for (template, expected) in [
            ("{path}?{query}", "/users/7"),
            ("https://{host}/s?a=1&{query}", "https://example.com/s?a=1"),
            ("/s?q={query}", "/s?q="),
            ("/s?", "/s?"),
        ] {
            let filled = with_exchange("/users/7", |exchange| {
                Template::parse(template).unwrap().fill_url(exchange).unwrap()
            });
            assert_eq!(filled, expected, "{template}");
        }
    }

    #[test]
    fn fills_in_what_the_request_says() {
        assert_eq!(fill("https://{host}{path}?{query}"), "https://example.com/users/7?a=b");
        assert_eq!(fill("{scheme}://{authority}{uri}"), "http://example.com:8080/users/7?a=b");
        let without =
            |exchange: &Exchange<'_>| Template::parse("https://{host}{uri}").unwrap().fill_url(exchange);
        assert_eq!(with_exchange("/users/7", without).unwrap(), "https://example.com/users/7");
        assert_eq!(fill("{client_ip}-{path.id}-{path.none}-{request_id}"), "192.0.2.1-7--");
        assert_eq!(fill("{claim.sub}-{claim.org.id}-{claim.none}-{claim.list}"), "u-7-7--");
        assert_eq!(fill("{{literal}}"), "{literal}");
        assert_eq!(fill(""), "");
    }

    #[test]
    fn refuses_what_it_does_not_know_and_says_what_was_likely_meant() {
        for (text, expected) in [
            ("{nope}", "known: {method}, {path}"),
            ("{hots}", "did you mean `{host}`?"),
            ("{remote_addr}", "did you mean `{client_ip}`?"),
            ("{http.request.header.X-A}", "did you mean `{header.x-a}`?"),
            ("{heder.x}", "did you mean `{header.x}`?"),
            ("{tls.versoin}", "did you mean `{tls.version}`?"),
            ("{path.}", "lacks a name, as in `{path.NAME}`"),
            ("{claim.}", "lacks a name"),
            ("{header.a b}", "does not name a header"),
            ("{env.TIDEGATE_NOT_SET}", "the environment variable TIDEGATE_NOT_SET is not set"),
            ("{host", "a brace without its partner"),
            ("host}", "a brace without its partner"),
            ("{}", "unknown placeholder `{}`"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_variable_is_text_from_the_start() {
        let template = Template::parse("a-{env.CARGO_PKG_NAME}").unwrap();
        assert_eq!(template.literal(), Some("a-tidegate"));
    }

    #[test]
    fn no_secret_is_left_where_none_may_be_written() {
        let secrets = ["token".to_owned(), "x-key".to_owned()];
        for (text, expected) in [
            ("{header.Authorization}", "[redacted]"),
            ("{header.proxy-authorization}{header.cookie}{cookie.a}", "[redacted][redacted][redacted]"),
            ("{header.X-Key}/{query.token}/{claim.org.token}", "[redacted]/[redacted]/[redacted]"),
            ("{path.id}", "7"),
            ("{query}", "a=b&%74oken=REDACTED&c"),
        ] {
            let filled = with_exchange("/users/7?a=b&%74oken=s&c", |exchange| {
                Template::parse(text).unwrap().redacted(&secrets).0.fill(exchange)
            });
            assert_eq!(filled, expected, "{text}");
        }
    }

    #[test]
    fn a_secret_that_the_path_holds_is_left_out_of_it_as_well() {
        for (secret, expected) in [("ID", "/users/REDACTED [redacted]"), ("other", "/users/7 7")] {
            let filled = with_exchange("/users/7?a=b", |exchange| {
                let template = Template::parse("{path} {path.id}").unwrap();
                template.redacted(&[secret.to_owned()]).0.fill(exchange)
            });
            assert_eq!(filled, expected);
        }
    }
}
