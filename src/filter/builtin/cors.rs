//! `cors`: which pages of other origins may read responses, by the CORS protocol of the Fetch standard
//! (<https://fetch.spec.whatwg.org/#http-cors-protocol>). Preflights end here; what the upstream says about CORS is
//! replaced. It protects the users of browsers, not the upstream: other clients do as they like.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use pingora_http::{RequestHeader, ResponseHeader};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{HumanDuration, Path},
    filter::{
        Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason, Response,
        builtin::grpc_web::expose_status,
        shared::{origin::OriginPattern, vary},
    },
};

/// Lets pages of other origins use what is behind it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cors {
    /// `https://app.example.com`, `https://*.example.com` for every host below, or `*` for any origin.
    origins: Vec<String>,
    /// Methods a page may use, or `*`. With `credentials` that is the one which a preflight asks for.
    #[serde(default = "safelisted")]
    methods: Vec<String>,
    /// Request headers a page may set besides those that need no leave, or `*`, which does not cover `authorization`. With `credentials` `*` is
    /// those which a preflight asks for, whatever they are.
    #[serde(default)]
    headers: Vec<String>,
    /// Response headers a page may read besides those that need no leave, or `*`.
    #[serde(default)]
    expose: Vec<String>,
    /// Whether requests may carry cookies and the like. Not together with `*` in `origins` and `expose`.
    #[serde(default)]
    credentials: bool,
    /// How long a browser may remember the answer to a preflight. Default: as long as it likes, mostly 5s.
    max_age: Option<HumanDuration>,
    /// Whether pages from the internet may ask although this is a private network.
    #[serde(default)]
    private_network: bool,
}

/// Those that a page may use without asking.
fn safelisted() -> Vec<String> {
    ["GET", "HEAD", "POST"].map(str::to_owned).to_vec()
}

const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");

/// All that a response may say about it.
const ANSWERS: [HeaderName; 7] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
    ALLOW_PRIVATE_NETWORK,
];

impl Options for Cors {
    fn build(self, at: &Path, _live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let mut invalid = Vec::new();
        let origins = self.origins(at, &mut invalid);
        let token = |text: &str| Method::from_bytes(text.as_bytes()).is_ok();
        let name = |text: &str| HeaderName::try_from(text).is_ok();
        let methods =
            Allowed::of(self.list(&self.methods, &at.key("methods"), "method", token, &mut invalid));
        let headers =
            Allowed::of(self.list(&self.headers, &at.key("headers"), "header name", name, &mut invalid));
        let any = self.credentials.then_some(Allowed::Asked);
        let any_of = |names: &[String]| any.clone().filter(|_| names.iter().any(|name| name == "*"));
        let methods = any_of(&self.methods).unwrap_or(methods);
        let headers = any_of(&self.headers).unwrap_or(headers);
        if let Some(index) = self.expose.iter().position(|name| name == "*" && self.credentials) {
            // With credentials it would be a header of that name, not any.
            let why = "`*` does not go with `credentials` (name them)";
            invalid.push(Invalid::new(at.key("expose").index(index), why));
        }
        let expose = self.list(&self.expose, &at.key("expose"), "header name", name, &mut invalid);
        let max_age = self.max_age.map(|age| Duration::from(age).as_secs().into());
        if !invalid.is_empty() {
            return Err(invalid);
        }
        let (credentials, private_network) = (self.credentials, self.private_network);
        Ok(Arc::new(Share { origins, methods, headers, expose, max_age, credentials, private_network }))
    }
}

impl Cors {
    fn origins(&self, at: &Path, invalid: &mut Vec<Invalid>) -> Origins {
        let at = at.key("origins");
        if self.origins.is_empty() {
            invalid.push(Invalid::new(at.clone(), "no origins, so every page would be refused"));
        }
        let mut patterns = Vec::new();
        for (index, origin) in self.origins.iter().enumerate() {
            let parsed = match origin.as_str() {
                "*" if self.credentials => {
                    Err("`*` does not go with `credentials`: any page could act for its visitor (name the origins)"
                        .to_owned())
                }
                "*" if self.origins.len() > 1 => Err("`*` is every origin, so it stands alone".to_owned()),
                "*" => return Origins::Any,
                _ => OriginPattern::parse(origin),
            };
            match parsed {
                Ok(pattern) if pattern.is_null() && self.credentials => {
                    let why = "`null` does not go with `credentials`: any page can have that origin";
                    invalid.push(Invalid::new(at.index(index), why));
                }
                Ok(pattern) if pattern.is_everybodys() && self.credentials => {
                    let why = format!(
                        "`{origin}` does not go with `credentials`: anybody can have a host there, and act for its \
                         visitors (name a domain of yours)"
                    );
                    invalid.push(Invalid::new(at.index(index), why));
                }
                Ok(pattern) => patterns.push(pattern),
                Err(message) => invalid.push(Invalid::new(at.index(index), message)),
            }
        }
        Origins::Some(patterns)
    }

    /// The list as one field value; `None` for an empty one.
    fn list(
        &self,
        entries: &[String],
        at: &Path,
        what: &str,
        is_valid: impl Fn(&str) -> bool,
        invalid: &mut Vec<Invalid>,
    ) -> Option<HeaderValue> {
        for (index, entry) in entries.iter().enumerate() {
            let message = match entry.as_str() {
                "*" => continue,
                entry if is_valid(entry) => continue,
                entry => format!("{entry:?} is not a {what}"),
            };
            invalid.push(Invalid::new(at.index(index), message));
        }
        if entries.is_empty() {
            return None;
        }
        HeaderValue::try_from(entries.join(", ")).ok()
    }
}

/// What a preflight is told of methods or headers.
#[derive(Clone, Debug)]
enum Allowed {
    None,
    Named(HeaderValue),
    /// `*`, which with credentials is not what browsers take for any (Fetch, section 3.3.4): what was asked for is said.
    Asked,
}

impl Allowed {
    fn of(list: Option<HeaderValue>) -> Allowed {
        list.map_or(Allowed::None, Allowed::Named)
    }

    fn answer(&self, asked: Option<&HeaderValue>) -> Option<HeaderValue> {
        match self {
            Allowed::None => None,
            Allowed::Named(list) => Some(list.clone()),
            Allowed::Asked => asked.cloned(),
        }
    }
}

#[derive(Debug)]
enum Origins {
    Any,
    Some(Vec<OriginPattern>),
}

struct Share {
    origins: Origins,
    methods: Allowed,
    headers: Allowed,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    credentials: bool,
    private_network: bool,
}

impl Share {
    /// What `Access-Control-Allow-Origin` says to this request; `None` when its origin is not allowed.
    fn allowed(&self, request: &RequestHeader) -> Option<HeaderValue> {
        let patterns = match &self.origins {
            Origins::Any => return Some(HeaderValue::from_static("*")),
            Origins::Some(patterns) => patterns,
        };
        let mut origins = request.headers.get_all(header::ORIGIN).iter();
        // Two of them are nobody's.
        let (Some(origin), None) = (origins.next(), origins.next()) else { return None };
        let text = origin.to_str().ok()?;
        patterns.iter().any(|pattern| pattern.matches(text)).then(|| origin.clone())
    }

    fn answer_preflight(&self, request: &RequestHeader, response: &mut ResponseHeader) -> Result<(), Reason> {
        let asked = |name| request.headers.get(name);
        let methods = self.methods.answer(asked(header::ACCESS_CONTROL_REQUEST_METHOD));
        set(response, header::ACCESS_CONTROL_ALLOW_METHODS, methods.as_ref())?;
        let headers = self.headers.answer(asked(header::ACCESS_CONTROL_REQUEST_HEADERS));
        set(response, header::ACCESS_CONTROL_ALLOW_HEADERS, headers.as_ref())?;
        set(response, header::ACCESS_CONTROL_MAX_AGE, self.max_age.as_ref())?;
        // Browsers look for it in the response itself. Others that ask here learn what they will be shown.
        set(response, header::ACCESS_CONTROL_EXPOSE_HEADERS, self.expose.as_ref())?;
        let asked = request.headers.get(REQUEST_PRIVATE_NETWORK).is_some_and(|asked| asked == "true");
        let yes = HeaderValue::from_static("true");
        set(response, ALLOW_PRIVATE_NETWORK, (asked && self.private_network).then_some(&yes))
    }
}

fn set(response: &mut ResponseHeader, name: HeaderName, value: Option<&HeaderValue>) -> Result<(), Reason> {
    value.map_or(Ok(()), |value| response.insert_header(name, value.clone()).map_err(|_| Reason::Internal))
}

/// A browser asks before it sends what a form could not have sent.
fn is_preflight(request: &RequestHeader) -> bool {
    request.method == Method::OPTIONS
        && request.headers.contains_key(header::ORIGIN)
        && request.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

impl Filter for Share {
    fn phases(&self) -> Phases {
        Phases::REQUEST | Phases::RESPONSE
    }

    fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        match is_preflight(exchange.request) {
            false => Ok(Flow::Continue),
            true if self.allowed(exchange.request).is_none() => {
                exchange.facts.explain("cors.origins");
                Err(Reason::Forbidden)
            }
            true => Ok(Flow::Reply(Response::new(StatusCode::NO_CONTENT))),
        }
    }

    fn on_response(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        let Some(response) = exchange.response.as_deref_mut() else { return Ok(()) };
        // One pass finds out whether the upstream has said anything: mostly it has not.
        if response.headers.keys().any(|name| ANSWERS.contains(name)) {
            ANSWERS.iter().for_each(|name| drop(response.remove_header(name)));
        }
        if let Origins::Some(_) = self.origins {
            // Also when it does not match: a cache must not give this response to one that does.
            vary::add(response, "origin")?;
        }
        let Some(origin) = self.allowed(exchange.request) else { return Ok(()) };
        set(response, header::ACCESS_CONTROL_ALLOW_ORIGIN, Some(&origin))?;
        let yes = HeaderValue::from_static("true");
        set(response, header::ACCESS_CONTROL_ALLOW_CREDENTIALS, self.credentials.then_some(&yes))?;
        match is_preflight(exchange.request) {
            true => self.answer_preflight(exchange.request, response),
            false => {
                set(response, header::ACCESS_CONTROL_EXPOSE_HEADERS, self.expose.as_ref())?;
                expose_status(response, exchange.facts.grpc.as_ref())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::filter::Facts;

    fn build(options: Value) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        serde_json::from_value::<Cors>(options).unwrap().build(&Path::root(), &Live::offline())
    }

    /// The response's CORS fields and `vary`, as the filter leaves them; a preflight's answer is the filter's own.
    fn run(options: Value, method: &str, fields: &[(&'static str, &str)]) -> Result<String, Reason> {
        let filter = build(options).map_err(|invalid| panic!("{invalid:?}")).unwrap();
        let mut request = RequestHeader::build(method, b"/", None).unwrap();
        for (name, value) in fields {
            request.append_header(*name, *value).unwrap();
        }
        let mut facts = Facts::default();
        let mut exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
        let status = match filter.on_request(&mut exchange)? {
            Flow::Continue => StatusCode::OK,
            Flow::Reply(response) => response.status,
        };
        let mut response = ResponseHeader::build(status, None).unwrap();
        response.insert_header("access-control-allow-origin", "https://upstream.example").unwrap();
        exchange.response = Some(&mut response);
        filter.on_response(&mut exchange)?;
        let mut said: Vec<String> = response
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().trim_start_matches("access-control-"), value))
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        said.sort();
        Ok(format!("{} {}", status.as_u16(), said.join("; ")))
    }

    const APP: (&str, &str) = ("origin", "https://app.example.com");
    const PUT: (&str, &str) = ("access-control-request-method", "PUT");

    #[test]
    fn a_preflight_is_answered_with_all_that_is_allowed() {
        let options = json!({
            "origins": ["https://*.example.com"], "methods": ["GET", "PUT"], "headers": ["authorization", "x-a"],
            "expose": ["x-b"], "credentials": true, "max_age": "24h",
        });
        let said = run(options, "OPTIONS", &[APP, PUT]).unwrap();
        let expected = "204 allow-credentials: true; allow-headers: authorization, x-a; allow-methods: GET, PUT; \
                        allow-origin: https://app.example.com; expose-headers: x-b; max-age: 86400; vary: origin";
        assert_eq!(said, expected);
    }

    #[test]
    fn a_preflight_from_elsewhere_is_refused() {
        let options = json!({"origins": ["https://other.example.com"]});
        assert_eq!(run(options.clone(), "OPTIONS", &[APP, PUT]), Err(Reason::Forbidden));
        let twice = [("origin", "https://other.example.com"), APP, PUT];
        assert_eq!(run(options, "OPTIONS", &twice), Err(Reason::Forbidden));
    }

    #[test]
    fn other_requests_pass_and_what_the_upstream_says_is_replaced() {
        let options = json!({"origins": ["https://app.example.com"], "expose": ["x-b"]});
        let allowed = "200 allow-origin: https://app.example.com; expose-headers: x-b; vary: origin";
        assert_eq!(run(options.clone(), "GET", &[APP]).unwrap(), allowed);
        assert_eq!(run(options.clone(), "OPTIONS", &[APP]).unwrap(), allowed, "not a preflight");
        assert_eq!(run(options.clone(), "OPTIONS", &[PUT]).unwrap(), "200 vary: origin", "nor is this");
        assert_eq!(run(options.clone(), "GET", &[]).unwrap(), "200 vary: origin");
        assert_eq!(run(options, "GET", &[("origin", "https://x.test")]).unwrap(), "200 vary: origin");
    }

    #[test]
    fn a_star_is_said_to_everyone() {
        let options = json!({"origins": ["*"], "methods": ["*"], "headers": ["*", "authorization"]});
        assert_eq!(run(options.clone(), "GET", &[]).unwrap(), "200 allow-origin: *");
        assert_eq!(
            run(options, "OPTIONS", &[APP, PUT]).unwrap(),
            "204 allow-headers: *, authorization; allow-methods: *; allow-origin: *"
        );
    }

    /// To browsers, `*` beside credentials is a method or header of that name.
    #[test]
    fn with_credentials_a_star_is_what_was_asked_for() {
        let options = json!({"origins": ["https://app.example.com"], "methods": ["*"], "headers": ["*"], "credentials": true});
        let asks = ("access-control-request-headers", "x-a, x-b");
        assert_eq!(
            run(options.clone(), "OPTIONS", &[APP, PUT, asks]).unwrap(),
            "204 allow-credentials: true; allow-headers: x-a, x-b; allow-methods: PUT; allow-origin: \
             https://app.example.com; vary: origin"
        );
        let elsewhere = ("origin", "https://elsewhere.example");
        assert_eq!(run(options, "OPTIONS", &[elsewhere, PUT, asks]), Err(Reason::Forbidden));
    }

    #[test]
    fn a_private_network_is_opened_only_on_request_and_by_option() {
        let asks = ("access-control-request-private-network", "true");
        for (private_network, fields, expected) in [
            (true, &[APP, PUT, asks][..], true),
            (true, &[APP, PUT][..], false),
            (false, &[APP, PUT, asks][..], false),
        ] {
            let options = json!({"origins": ["*"], "private_network": private_network});
            let said = run(options, "OPTIONS", fields).unwrap();
            assert_eq!(said.contains("allow-private-network: true"), expected, "{said}");
        }
    }

    #[test]
    fn refuses_options_that_open_too_much_or_nothing() {
        for (options, at) in [
            (json!({"origins": ["*"], "credentials": true}), "origins[0]"),
            (json!({"origins": ["null"], "credentials": true}), "origins[0]"),
            (json!({"origins": ["https://a.test", "https://*.co.uk"], "credentials": true}), "origins[1]"),
            (json!({"origins": ["https://a.test"], "expose": ["*"], "credentials": true}), "expose[0]"),
            (json!({"origins": ["https://a.test", "*"]}), "origins[1]"),
            (json!({"origins": []}), "origins"),
            (json!({"origins": ["a.test"]}), "origins[0]"),
            (json!({"origins": ["*"], "methods": ["G T"]}), "methods[0]"),
            (json!({"origins": ["*"], "headers": ["x y"]}), "headers[0]"),
        ] {
            let invalid = build(options.clone()).err().unwrap_or_default();
            let places: Vec<String> = invalid.iter().map(|invalid| invalid.path.to_string()).collect();
            assert_eq!(places, [at], "{options}");
        }
    }
}
