//! A certificate authority as its ACME server shows itself (RFC 8555): the directory, nonces, signed requests.
//!
//! It is not believed more than it must be. Every request ends in time and every answer has a bound (`fetch`); it may only name
//! URLs of its own origin, so that it cannot have us ask others; and its nonces are tried a few times, not for ever.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri, header};
use serde::Deserialize;
use serde_json::Value;

use super::{
    jws::{AccountKey, Signatory},
    trouble::{Reason, Trouble},
};
use crate::{
    fetch::{Options, Trusting},
    names::Resolve,
};

/// A directory, an order, a chain of certificates: all far below it.
const LARGEST: usize = 256 * 1024;
/// Kept for the requests to come.
const NONCES: usize = 16;
const LONGEST_NONCE: usize = 512;
/// Bad nonces in a row that are borne. Of a CA that refuses one in three, a hundred thousand requests may see so many.
const TRIES: usize = 10;
/// A directory is looked at again after this.
const DIRECTORY_AGE: Duration = Duration::from_secs(3600);

/// What the operator says of a CA.
#[derive(Clone, Debug, PartialEq)]
pub struct CaSettings {
    /// As it is called in logs and metrics: its word, or the host of its directory.
    pub name: Arc<str>,
    /// `https`, always.
    pub directory: String,
    /// PEM: whom to trust in its place.
    pub ca: Option<PathBuf>,
    /// Binds the account to one that the CA knows.
    pub eab: Option<Eab>,
}

#[derive(Clone, PartialEq)]
pub struct Eab {
    pub key_id: String,
    pub secret: Vec<u8>,
}

impl fmt::Debug for Eab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Eab").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

pub(super) struct Ca {
    pub settings: CaSettings,
    origin: Origin,
    client: Result<Trusting, String>,
    timeout: Duration,
    nonces: Mutex<Vec<String>>,
    directory: Mutex<Option<(Instant, Arc<Directory>)>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Directory {
    pub new_nonce: String,
    pub new_account: String,
    pub new_order: String,
    /// RFC 9773.
    #[serde(default)]
    pub renewal_info: Option<String>,
}

#[derive(Debug, PartialEq)]
struct Origin {
    host: String,
    port: u16,
}

/// An answer that is no refusal.
#[derive(Debug)]
pub(super) struct Answer {
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// RFC 7807, as RFC 8555 uses it.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Refusal {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    detail: String,
}

impl Refusal {
    /// Without the prefix that all have.
    pub(super) fn kind(&self) -> &str {
        self.kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(&self.kind)
    }

    pub(super) fn text(&self) -> String {
        format!("{}: {}", self.kind(), self.detail)
    }
}

/// Why a signed request came to nothing.
#[derive(Debug)]
pub(super) enum Failed {
    Trouble(Trouble),
    /// The CA says no.
    Refused(Refusal, Option<Duration>),
}

impl Failed {
    /// As trouble of this kind, unless the CA says better.
    pub(super) fn or(self, reason: Reason) -> Trouble {
        match self {
            Failed::Trouble(trouble) => trouble,
            Failed::Refused(refusal, retry_after) => {
                let reason = match refusal.kind() {
                    "rateLimited" => Reason::RateLimited,
                    "badNonce" => Reason::NonceStorm,
                    "accountDoesNotExist"
                    | "externalAccountRequired"
                    | "userActionRequired"
                    | "invalidContact"
                    | "unsupportedContact" => Reason::AccountRefused,
                    _ => reason,
                };
                Trouble { retry_after, ..Trouble::new(reason, refusal.text()) }
            }
        }
    }
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Failed {
        Failed::Trouble(trouble)
    }
}

impl Ca {
    pub(super) fn new(settings: CaSettings, timeout: Duration, names: Arc<dyn Resolve>) -> Ca {
        let options = Options { connect_timeout: timeout, idle_connections: 4, ..Options::default() };
        Ca {
            origin: Origin::of(&settings.directory).unwrap_or(Origin { host: String::new(), port: 0 }),
            client: Trusting::new(settings.ca.clone(), options, names),
            settings,
            timeout,
            nonces: Mutex::default(),
            directory: Mutex::default(),
        }
    }

    pub(super) async fn directory(&self) -> Result<Arc<Directory>, Trouble> {
        let now = Instant::now();
        {
            let known = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((read, directory)) = &*known
                && now.saturating_duration_since(*read) < DIRECTORY_AGE
            {
                return Ok(directory.clone());
            }
        }
        let answer = self.get(&self.settings.directory).await?;
        let directory: Directory = serde_json::from_slice(&answer.body)
            .map_err(|_| Trouble::bad_answer("what is at `directory` is no ACME directory"))?;
        for url in [&directory.new_nonce, &directory.new_account, &directory.new_order]
            .into_iter()
            .chain(&directory.renewal_info)
        {
            self.check(url)?;
        }
        let directory = Arc::new(directory);
        *self.directory.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, directory.clone()));
        Ok(directory)
    }

    /// # Errors
    ///
    /// It is not of this CA's own origin.
    pub(super) fn check(&self, url: &str) -> Result<(), Trouble> {
        match Origin::of(url) {
            Some(origin) if origin == self.origin => Ok(()),
            _ => Err(Trouble::new(
                Reason::ForeignUrl,
                format!("the CA names a URL that is not its own: {url}"),
            )),
        }
    }

    /// Without a signature.
    pub(super) async fn get(&self, url: &str) -> Result<Answer, Trouble> {
        self.check(url)?;
        let response = self.send(Method::GET, url, Bytes::new()).await?;
        match response.status().as_u16() {
            200 => Ok(of(response)),
            status => Err(Trouble::bad_answer(format!("the CA answers {status} to a GET of {url}"))),
        }
    }

    /// A signed request; without a payload it only reads.
    pub(super) async fn post(
        &self,
        url: &str,
        key: &AccountKey,
        by: &Signatory<'_>,
        payload: Option<&Value>,
    ) -> Result<Answer, Failed> {
        self.check(url)?;
        for _ in 0..TRIES {
            let nonce = self.nonce().await?;
            let body = key.sign(url, &nonce, by, payload).map_err(Trouble::from)?;
            let response = self.send(Method::POST, url, body.into()).await?;
            if response.status().is_success() {
                return Ok(of(response));
            }
            let retry_after = retry_after(response.headers(), SystemTime::now());
            // Not every refusal is a problem in JSON: that of a proxy in front of the CA is not.
            let status = response.status().as_u16();
            let refusal = serde_json::from_slice(response.body()).unwrap_or_else(|_| Refusal {
                kind: "unknown".to_owned(),
                detail: format!("the CA answers {status}"),
            });
            if refusal.kind() != "badNonce" {
                return Err(Failed::Refused(refusal, retry_after));
            }
            log::debug!("{} refuses a nonce, and is given another", self.settings.name);
        }
        let why = format!("the CA has refused {TRIES} of its own nonces in a row");
        Err(Trouble::new(Reason::NonceStorm, why).into())
    }

    async fn nonce(&self) -> Result<String, Trouble> {
        let known = self.nonces.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(nonce) = known {
            return Ok(nonce);
        }
        let url = self.directory().await?.new_nonce.clone();
        self.send(Method::HEAD, &url, Bytes::new()).await?;
        let fresh = self.nonces.lock().unwrap_or_else(PoisonError::into_inner).pop();
        fresh.ok_or_else(|| Trouble::bad_answer("the CA gives no nonce that can be used"))
    }

    async fn send(&self, method: Method, url: &str, body: Bytes) -> Result<Response<Bytes>, Trouble> {
        let trusting = self.client.as_ref().map_err(|why| Trouble::new(Reason::Unreachable, why.clone()))?;
        trusting.look(Instant::now());
        let mut request = Request::builder()
            .method(&method)
            .uri(url)
            .header(header::USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")));
        if method == Method::POST {
            request = request.header(header::CONTENT_TYPE, "application/jose+json");
        }
        let request = request.body(body).map_err(|_| Trouble::bad_answer("the CA names no URL"))?;
        let response = trusting.client().send(request, self.timeout, LARGEST).await?;
        if let Some(nonce) = response.headers().get("replay-nonce").and_then(|nonce| nonce.to_str().ok())
            && is_nonce(nonce)
        {
            let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
            // The oldest are the first that a CA forgets.
            if nonces.len() >= NONCES {
                nonces.remove(0);
            }
            nonces.push(nonce.to_owned());
        }
        Ok(response)
    }
}

impl Answer {
    pub(super) fn json<T: for<'de> Deserialize<'de>>(&self, what: &str) -> Result<T, Trouble> {
        serde_json::from_slice(&self.body)
            .map_err(|_| Trouble::bad_answer(format!("what the CA calls {what} cannot be read as one")))
    }

    pub(super) fn location(&self) -> Option<String> {
        Some(self.headers.get(header::LOCATION)?.to_str().ok()?.to_owned())
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        retry_after(&self.headers, SystemTime::now())
    }
}

fn of(response: Response<Bytes>) -> Answer {
    let (head, body) = response.into_parts();
    Answer { headers: head.headers, body }
}

/// Seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    match text.trim().parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok(),
    }
}

/// RFC 8555, section 6.5.1.
fn is_nonce(text: &str) -> bool {
    (1..=LONGEST_NONCE).contains(&text.len()) && super::is_token(text)
}

impl Origin {
    fn of(url: &str) -> Option<Origin> {
        let uri: Uri = url.parse().ok()?;
        let authority = uri.authority()?;
        // A password in a URL is nobody's who means well.
        if uri.scheme_str() != Some("https") || authority.as_str().contains('@') {
            return None;
        }
        Some(Origin {
            host: authority.host().to_ascii_lowercase(),
            port: authority.port_u16().unwrap_or(443),
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn ca() -> Ca {
        let settings = CaSettings {
            name: "ca.test".into(),
            directory: "https://ca.test/directory".into(),
            ca: None,
            eab: None,
        };
        Ca::new(settings, Duration::from_secs(1), Arc::new(crate::names::SystemResolver::new()))
    }

    #[tokio::test]
    async fn a_ca_names_urls_of_its_own_alone() {
        let ca = ca();
        for (url, is_own) in [
            ("https://ca.test/order/1", true),
            ("https://CA.test:443/x", true),
            ("http://ca.test/order/1", false),
            ("https://ca.test:8443/order/1", false),
            ("https://ca.test@evil.test/", false),
            ("https://evil.test/ca.test", false),
            ("file:///etc/passwd", false),
            ("/order/1", false),
            ("", false),
        ] {
            assert_eq!(ca.check(url).is_ok(), is_own, "{url}");
        }
        assert_eq!(ca.check("https://evil.test/").unwrap_err().reason, Reason::ForeignUrl);
        // Before anything is sent.
        assert_eq!(ca.get("http://127.0.0.1:1/").await.unwrap_err().reason, Reason::ForeignUrl);
    }

    #[test]
    fn waits_are_seconds_or_dates() {
        let now = httpdate::parse_http_date("Thu, 01 Jan 2026 00:00:00 GMT").unwrap();
        for (text, expected) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Thu, 01 Jan 2026 00:01:00 GMT", Some(60)),
            ("Wed, 31 Dec 2025 00:00:00 GMT", None),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(text))]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn refusals_have_the_reason_that_helps_most() {
        let refused = |kind: &str| {
            let kind = format!("urn:ietf:params:acme:error:{kind}");
            let wait = Some(Duration::from_secs(9));
            Failed::Refused(Refusal { kind, detail: "no".into() }, wait).or(Reason::OrderRefused)
        };
        assert_eq!(refused("rateLimited").reason, Reason::RateLimited);
        assert_eq!(refused("rateLimited").retry_after, Some(Duration::from_secs(9)));
        assert_eq!(refused("externalAccountRequired").reason, Reason::AccountRefused);
        assert_eq!(refused("caa").reason, Reason::OrderRefused);
        assert_eq!(refused("caa").why, "caa: no");
    }
}
