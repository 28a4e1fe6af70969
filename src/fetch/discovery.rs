//! What an issuer of tokens says of itself: OpenID Connect Discovery 1.0, section 4, and RFC 8414, section 3.
//!
//! The document must name the issuer that was asked for, to the letter: another one's document would lead to another one's
//! keys (RFC 8414, section 6.2). It is worth as much as the connection it came over, so that is https, but for this machine.

use std::{fmt, net::IpAddr, time::Duration};

use bytes::Bytes;
use http::{
    Request, StatusCode, Uri,
    header::{ACCEPT, USER_AGENT},
};
use serde_json::{Map, Value};

use super::Client;

/// An issuer as it is configured, and as its tokens and its document must name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issuer {
    name: String,
    /// Its document: as OpenID has it, and as OAuth 2.0 has it.
    places: [Uri; 2],
    transport: Transport,
}

/// Over what the document, and what it leads to, may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Https,
    /// Also `http` to this machine, as the issuer is one of it.
    Local,
    /// The operator allows `http` anywhere.
    Any,
}

/// What stands in an issuer's document.
#[derive(Debug)]
pub(crate) struct Metadata {
    members: Map<String, Value>,
    transport: Transport,
}

/// Why there is no document: a word for a metric's label, and what an operator is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Undiscovered {
    pub code: &'static str,
    pub why: String,
}

/// A document may have so many bytes; those of large providers have some thousand.
const LARGEST: usize = 64 * 1024;
/// So much of what somebody else wrote is repeated to the operator.
const LONGEST_SHOWN: usize = 200;

impl Issuer {
    /// # Errors
    ///
    /// Why it is none that can be asked. What it says is not repeated: it may hold a credential.
    pub(crate) fn new(name: &str, allow_http: bool) -> Result<Issuer, &'static str> {
        const EXAMPLE: &str = "not a URL, so it has no document (try \"https://issuer.example\")";
        let url = secure(name, allow_http).map_err(|why| match why {
            Insecure::NoUrl => EXAMPLE,
            why => why.text(),
        })?;
        if url.query().is_some() || name.contains('#') {
            return Err("an issuer with a query or a fragment has no document");
        }
        if url.path().contains("/.well-known/") {
            return Err("this is the address of the issuer's document (leave `/.well-known/...` out)");
        }
        let authority = url.authority().map_or("", |authority| authority.as_str());
        let (scheme, path) = (url.scheme_str().unwrap_or_default(), url.path().trim_end_matches('/'));
        let place = |path: String| format!("{scheme}://{authority}{path}").parse().map_err(|_| EXAMPLE);
        Ok(Issuer {
            name: name.to_owned(),
            places: [
                place(format!("{path}/.well-known/openid-configuration"))?,
                place(format!("/.well-known/oauth-authorization-server{path}"))?,
            ],
            transport: match (scheme, allow_http) {
                ("https", false) => Transport::Https,
                (_, false) => Transport::Local,
                (_, true) => Transport::Any,
            },
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Fetches the document; where there is none at the place of OpenID, that of OAuth. `timeout` is for each of the two.
    ///
    /// # Errors
    ///
    /// There is none that counts.
    pub(crate) async fn discover(
        &self,
        client: &Client,
        timeout: Duration,
    ) -> Result<Metadata, Undiscovered> {
        let [openid, oauth] = &self.places;
        let mut answer = ask(client, openid, timeout).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            answer = ask(client, oauth, timeout).await?;
        }
        match answer.status() {
            StatusCode::OK => self.read(answer.body()),
            status => Err(Undiscovered {
                code: "status",
                why: format!("the issuer's document is answered with status {status}"),
            }),
        }
    }

    fn read(&self, text: &[u8]) -> Result<Metadata, Undiscovered> {
        let wrong = |why: &str| Undiscovered { code: "parse", why: why.to_owned() };
        let members: Map<String, Value> =
            serde_json::from_slice(text).map_err(|_| wrong("the issuer's document is no object of JSON"))?;
        let named = members.get("issuer").and_then(Value::as_str);
        let named = named.ok_or_else(|| wrong("the issuer's document does not name its `issuer`"))?;
        if named != self.name {
            let shown: String = named.chars().take(LONGEST_SHOWN).collect();
            let why = format!(
                "the document is that of another issuer, {shown:?} (the names must be equal to the letter)"
            );
            return Err(Undiscovered { code: "issuer", why });
        }
        Ok(Metadata { members, transport: self.transport })
    }
}

impl Metadata {
    /// A URL that the document must have, such as `jwks_uri`. A document that came over https leads nowhere else.
    ///
    /// # Errors
    ///
    /// It is not there, or may not be used.
    pub(crate) fn endpoint(&self, name: &str) -> Result<Uri, Undiscovered> {
        let wrong = |why: &str| Undiscovered {
            code: "parse",
            why: format!("`{name}` in the issuer's document cannot be used: {why}"),
        };
        let url = self.members.get(name).and_then(Value::as_str).ok_or_else(|| wrong("it is missing"))?;
        let url = secure(url, self.transport == Transport::Any).map_err(|why| wrong(why.text()))?;
        match (url.scheme_str(), self.transport) {
            (Some("http"), Transport::Https) => Err(wrong(Insecure::Http.text())),
            _ => Ok(url),
        }
    }

    /// The same for a URL that the document need not have.
    ///
    /// # Errors
    ///
    /// It may not be used.
    pub(crate) fn endpoint_if_any(&self, name: &str) -> Result<Option<Uri>, Undiscovered> {
        self.members.contains_key(name).then(|| self.endpoint(name)).transpose()
    }

    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.members.get(name) == Some(&Value::Bool(true))
    }

    /// Whether the list of that name has `value` in it; `None` where there is no such list.
    pub(crate) fn lists(&self, name: &str, value: &str) -> Option<bool> {
        let list = self.members.get(name)?.as_array()?;
        Some(list.iter().any(|entry| entry == value))
    }
}

async fn ask(client: &Client, place: &Uri, timeout: Duration) -> Result<http::Response<Bytes>, Undiscovered> {
    let request = Request::get(place)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, "tidegate")
        .body(Bytes::new())
        .map_err(|error| Undiscovered { code: "url", why: error.to_string() })?;
    let answer = client.send(request, timeout, LARGEST).await;
    answer.map_err(|error| Undiscovered { code: error.code(), why: error.to_string() })
}

/// Why a URL may not be asked for what trust rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Insecure {
    NoUrl,
    NoHost,
    Password,
    Http,
    Scheme,
}

impl Insecure {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Insecure::NoUrl => "not a URL",
            Insecure::NoHost => "the URL has no host",
            Insecure::Password => "a URL with a user and a password is not supported",
            Insecure::Http => {
                "whoever is in between could replace the answer (use https, or `allow_http: true`)"
            }
            Insecure::Scheme => "expected an https URL",
        }
    }
}

impl fmt::Display for Insecure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A URL that keys, or what is as much worth, may come from: https, or http to this machine, or to any where that is allowed.
///
/// # Errors
///
/// Why it may not be asked. What it says is not repeated: it may hold a credential.
pub(crate) fn secure(url: &str, allow_http: bool) -> Result<Uri, Insecure> {
    let url: Uri = url.parse().map_err(|_| Insecure::NoUrl)?;
    let host = url.host().filter(|host| !host.is_empty()).ok_or(Insecure::NoHost)?;
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(Insecure::Password);
    }
    let here = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match url.scheme_str() {
        Some("https") => Ok(url),
        Some("http") if here || allow_http => Ok(url),
        Some("http") => Err(Insecure::Http),
        _ => Err(Insecure::Scheme),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, allow_http: bool, document: &str) -> Result<Metadata, Undiscovered> {
        Issuer::new(name, allow_http).unwrap().read(document.as_bytes())
    }

    #[test]
    fn the_document_stands_where_both_standards_have_it() {
        for (name, openid, oauth) in [
            (
                "https://a.example",
                "https://a.example/.well-known/openid-configuration",
                "https://a.example/.well-known/oauth-authorization-server",
            ),
            (
                "https://a.example/realms/shop/",
                "https://a.example/realms/shop/.well-known/openid-configuration",
                "https://a.example/.well-known/oauth-authorization-server/realms/shop",
            ),
            (
                "http://[::1]:8080/a",
                "http://[::1]:8080/a/.well-known/openid-configuration",
                "http://[::1]:8080/.well-known/oauth-authorization-server/a",
            ),
        ] {
            let issuer = Issuer::new(name, false).unwrap();
            assert_eq!(issuer.name(), name);
            assert_eq!(issuer.places.map(|place| place.to_string()), [openid, oauth]);
        }
    }

    #[test]
    fn an_issuer_that_cannot_be_trusted_or_asked_is_refused() {
        for (name, expected) in [
            ("a", "expected an https URL"),
            ("", "not a URL, so it has no document"),
            ("https://", "not a URL, so it has no document"),
            ("/path", "the URL has no host"),
            ("https://a.example?tenant=1", "with a query or a fragment"),
            ("https://a.example/#x", "with a query or a fragment"),
            ("https://a.example/.well-known/openid-configuration", "leave `/.well-known/...` out"),
            ("https://user:hunter2@a.example", "a user and a password"),
            ("http://a.example", "use https"),
            ("ftp://a.example", "expected an https URL"),
        ] {
            let why = Issuer::new(name, false).map(|_| name).unwrap_err();
            assert!(why.contains(expected), "{name}: {why}");
        }
        assert!(Issuer::new("http://a.example", true).is_ok());
    }

    #[test]
    fn a_document_of_another_issuer_does_not_count() {
        let name = "https://a.example";
        for (document, code) in [
            (r#"{"issuer": "https://a.example/"}"#, "issuer"),
            (r#"{"issuer": "https://A.example"}"#, "issuer"),
            (r#"{"issuer": "https://evil.example"}"#, "issuer"),
            (r#"{"issuer": ["https://a.example"]}"#, "parse"),
            (r#"{"jwks_uri": "https://a.example/keys"}"#, "parse"),
            (r#"["https://a.example"]"#, "parse"),
            ("", "parse"),
        ] {
            assert_eq!(read(name, false, document).unwrap_err().code, code, "{document}");
        }
        let long = format!(r#"{{"issuer": "{}"}}"#, "x".repeat(10_000));
        assert!(read(name, false, &long).unwrap_err().why.len() < 400);
        let zero_bytes = format!(r#"{{"issuer": "https://a.example", "x": {}}}"#, "[".repeat(10_000));
        assert_eq!(read(name, false, &zero_bytes).unwrap_err().code, "parse");
    }

    #[test]
    fn a_document_leads_to_nothing_that_is_trusted_less_than_itself() {
        let endpoint = |name: &str, allow_http, url: &str| {
            let document = format!(r#"{{"issuer": "{name}", "jwks_uri": {url}}}"#);
            let url = read(name, allow_http, &document).unwrap().endpoint("jwks_uri");
            url.map(|url| url.to_string()).map_err(|why| why.why)
        };
        let (away, here) = ("https://a.example", "http://127.0.0.1:7");
        for (name, allow_http, url, good) in [
            (away, false, r#""https://keys.example/a?b""#, true),
            (away, false, r#""http://keys.example/a""#, false),
            (away, false, r#""http://127.0.0.1/a""#, false),
            (away, false, r#""https://u:p@keys.example/a""#, false),
            (away, false, r#""/a""#, false),
            (away, false, "7", false),
            (away, true, r#""http://keys.example/a""#, true),
            (here, false, r#""http://localhost:8/a""#, true),
            (here, false, r#""https://keys.example/a""#, true),
            (here, false, r#""http://keys.example/a""#, false),
        ] {
            assert_eq!(endpoint(name, allow_http, url).is_ok(), good, "{name} {url}");
        }
        let missing = read(away, false, r#"{"issuer": "https://a.example"}"#).unwrap();
        let why = missing.endpoint("introspection_endpoint").unwrap_err().why;
        assert_eq!(why, "`introspection_endpoint` in the issuer's document cannot be used: it is missing");
    }
}
