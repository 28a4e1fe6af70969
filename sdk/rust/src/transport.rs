//! Requests to the control plane: several servers, the one that answered last first and the others in random order, with a
//! deadline for each. Redirects are not followed: whoever asks one server must not be led to another.

use std::{
    error::Error as _,
    fmt::Write,
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::error::Error;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Of one that is read whole: an instance, or why not.
const LARGEST: usize = 1024 * 1024;
/// A server that asks for more is not asked for longer.
const LONGEST_RETRY_AFTER: u64 = 300;

#[cfg(feature = "tls")]
type Connector = hyper_openssl::client::legacy::HttpsConnector<HttpConnector>;
#[cfg(not(feature = "tls"))]
type Connector = HttpConnector;

/// How to reach the control plane.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) servers: Vec<String>,
    pub(crate) token: Option<String>,
    /// For one server, connecting included.
    pub(crate) timeout: Duration,
    #[cfg(feature = "tls")]
    pub(crate) trust: crate::tls::Trust,
}

pub(crate) struct Transport {
    pool: Pool<Connector, Full<Bytes>>,
    servers: Vec<Uri>,
    token: Option<HeaderValue>,
    timeout: Duration,
    /// The one that answered last, or that is to be tried first.
    first: AtomicUsize,
}

impl Transport {
    /// Connects nowhere yet.
    pub(crate) fn new(settings: &Settings) -> Result<Transport, Error> {
        let servers = settings.servers.iter().map(|server| read_server(server, settings.token.is_some()));
        let servers: Vec<Uri> = servers.collect::<Result<_, _>>().map_err(Error::Setup)?;
        if servers.is_empty() {
            return Err(Error::Setup("name at least one server (such as http://127.0.0.1:9902)".into()));
        }
        let token = settings.token.as_ref().map(|token| -> Result<HeaderValue, Error> {
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
                Error::Setup("the token holds what no header may (is there a line end in it?)".into())
            })?;
            value.set_sensitive(true);
            Ok(value)
        });
        let first = AtomicUsize::new(fastrand::usize(..servers.len()));
        Ok(Transport {
            pool: pool(settings).map_err(Error::Setup)?,
            servers,
            token: token.transpose()?,
            timeout: settings.timeout,
            first,
        })
    }

    /// Sends it to one server after the other, until one answers with something else than that it cannot.
    ///
    /// # Errors
    ///
    /// None has, or the answer is a refusal.
    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, Error> {
        let body = Bytes::from(body);
        let mut failed = None;
        for index in self.order() {
            let request = self.request(method.clone(), index, path, body.clone(), None)?;
            match within(self.timeout, self.whole(request)).await {
                Err(error) if !is_final(&error) => failed = Some(error),
                answer => {
                    self.first.store(index, Relaxed);
                    return answer;
                }
            }
        }
        Err(failed.unwrap_or_else(too_slow))
    }

    /// A stream of events; only its beginning has a deadline.
    ///
    /// # Errors
    ///
    /// As with `send`.
    pub(crate) async fn open(&self, path: &str, last: Option<&str>) -> Result<Incoming, Error> {
        let mut failed = None;
        for index in self.order() {
            let request = self.request(Method::GET, index, path, Bytes::new(), last)?;
            match within(self.timeout, self.answer(request)).await {
                Err(error) if !is_final(&error) => failed = Some(error),
                answer => {
                    self.first.store(index, Relaxed);
                    return answer.map(Response::into_body);
                }
            }
        }
        Err(failed.unwrap_or_else(too_slow))
    }

    /// Begin with any server the next time.
    pub(crate) fn turn_away(&self) {
        self.first.store(fastrand::usize(..self.servers.len()), Relaxed);
    }

    fn order(&self) -> Vec<usize> {
        let first = self.first.load(Relaxed);
        let mut others: Vec<usize> = (0..self.servers.len()).filter(|index| *index != first).collect();
        fastrand::shuffle(&mut others);
        others.insert(0, first);
        others
    }

    fn request(
        &self,
        method: Method,
        server: usize,
        path: &str,
        body: Bytes,
        last: Option<&str>,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let base = self.servers[server].to_string();
        let mut request =
            Request::builder().method(method).uri(format!("{}{path}", base.trim_end_matches('/')));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        if let Some(last) = last {
            request = request.header(LAST_EVENT_ID, last).header(ACCEPT, "text/event-stream");
        }
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(Full::new(body)).map_err(|error| Error::Setup(error.to_string()))
    }

    async fn whole<T: DeserializeOwned>(&self, request: Request<Full<Bytes>>) -> Result<T, Error> {
        let body = Limited::new(self.answer(request).await?.into_body(), LARGEST).collect().await;
        let body =
            body.map_err(|_| Error::Unreachable("the answer broke off, or is too large".into()))?.to_bytes();
        // 204 has nothing to say.
        let json = if body.is_empty() { b"null" } else { &body[..] };
        serde_json::from_slice(json).map_err(|error| Error::Unreadable(error.to_string()))
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        let answer = self.pool.request(request).await.map_err(|error| {
            // "client error (Connect)" alone helps nobody.
            let mut why = error.to_string();
            let mut source = error.source();
            while let Some(deeper) = source {
                let _ = write!(why, ": {deeper}");
                source = deeper.source();
            }
            Error::Unreachable(why)
        })?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let (head, body) = answer.into_parts();
        let body =
            Limited::new(body, LARGEST).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Err(refused(head.status, &head.headers, &body))
    }
}

/// Another server would say the same.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Setup(_) => true,
        Error::Refused { status, .. } => (400..500).contains(status),
        Error::Unreachable(_) | Error::Unreadable(_) => false,
    }
}

fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Problem {
        detail: String,
        reason: String,
    }
    let Problem { detail, reason } = serde_json::from_slice(body).unwrap_or_default();
    let after = headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse::<u64>().ok());
    let detail = match detail.is_empty() {
        true => status.canonical_reason().unwrap_or("no reason given").to_owned(),
        false => detail,
    };
    let retry_after = after.map(|seconds| Duration::from_secs(seconds.min(LONGEST_RETRY_AFTER)));
    Error::Refused { status: status.as_u16(), reason, detail, retry_after }
}

async fn within<T>(limit: Duration, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(limit, answer).await.unwrap_or_else(|_| Err(too_slow()))
}

fn too_slow() -> Error {
    Error::Unreachable("the answer took too long".into())
}

fn pool(settings: &Settings) -> Result<Pool<Connector, Full<Bytes>>, String> {
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    // Of all addresses of a name together.
    http.set_connect_timeout(Some(settings.timeout));
    #[cfg(feature = "tls")]
    let http = crate::tls::connector(&settings.trust, http)?;
    let mut pool = Pool::builder(TokioExecutor::new());
    pool.timer(TokioTimer::new()).pool_timer(TokioTimer::new());
    // Heartbeats of a usual ttl share a connection.
    pool.pool_idle_timeout(Duration::from_secs(90)).pool_max_idle_per_host(1).http1_max_buf_size(64 * 1024);
    Ok(pool.build(http))
}

/// `scheme://host:port`.
fn read_server(text: &str, has_token: bool) -> Result<Uri, String> {
    let hint = "(try http://127.0.0.1:9902)";
    // A password may stand before it.
    if text.contains('@') {
        return Err("a server has no user (the token has a place of its own)".into());
    }
    let uri: Uri = text.parse().map_err(|error| format!("{text:?} is not a server: {error} {hint}"))?;
    let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err(format!("{text:?} is not a server: it has no scheme {hint}"));
    };
    if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
        return Err(format!("{text:?} is not a server: leave the path out {hint}"));
    }
    match scheme {
        "https" if cfg!(feature = "tls") => Ok(uri),
        "https" => Err(format!("{text:?} needs the feature `tls` of tidegate-sdk")),
        "http" if has_token && !is_loopback(host) => {
            Err(format!("a token does not go to {text:?} in plain text (write https)"))
        }
        "http" => Ok(uri),
        _ => Err(format!("{text:?} is not a server: {scheme} is neither http nor https {hint}")),
    }
}

fn is_loopback(host: &str) -> bool {
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

/// What may stand in one segment of a path, and in a query.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b':' => {
                encoded.push(byte.into())
            }
            _ => _ = write!(encoded, "%{byte:02X}"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_scheme_a_host_and_a_port() {
        for good in ["http://127.0.0.1:9902", "http://control/", "http://[::1]:9902"] {
            assert!(read_server(good, false).is_ok(), "{good}");
        }
        for (bad, says) in [
            ("127.0.0.1:9902", "no scheme"),
            ("control", "no scheme"),
            ("", "is not a server"),
            ("ftp://control", "neither http nor https"),
            ("http://control/v1", "leave the path out"),
            ("http://me:secret@control", "has no user"),
            ("http://me: secret@control", "has no user"),
        ] {
            let why = read_server(bad, false).unwrap_err();
            assert!(why.contains(says) && !why.contains("secret"), "{bad}: {why}");
        }
    }

    #[test]
    fn a_token_is_not_sent_in_plain_text() {
        for (server, is_good) in [
            ("http://127.0.0.1:9902", true),
            ("http://localhost:9902", true),
            ("http://[::1]:9902", true),
            ("http://10.0.0.1:9902", false),
            ("http://control:9902", false),
        ] {
            assert_eq!(read_server(server, true).is_ok(), is_good, "{server}");
        }
    }

    #[test]
    fn a_refusal_says_why_whoever_answers() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("99999"));
        let problem = br#"{"status": 429, "detail": "too many", "reason": "limit"}"#;
        let error = refused(StatusCode::TOO_MANY_REQUESTS, &headers, problem);
        assert_eq!(error.to_string(), "refused: too many (limit)");
        assert_eq!(error.retry_after(), Duration::from_secs(300));
        let error = refused(StatusCode::BAD_GATEWAY, &HeaderMap::new(), b"<html>");
        assert_eq!(error.to_string(), "refused with 502: Bad Gateway");
        assert!(!is_final(&error) && !error.is_permanent());
    }

    #[test]
    fn a_name_cannot_leave_its_place() {
        assert_eq!(encode("users-10.0.0.7-80"), "users-10.0.0.7-80");
        assert_eq!(encode("../a?b&c=ü"), "..%2Fa%3Fb%26c%3D%C3%BC");
    }
}
