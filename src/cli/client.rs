//! One request to an API of a running process: the admin API's, or a control plane's.

use std::{
    io,
    net::IpAddr,
    path::{Path as FilePath, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, uri::Authority};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::{
    admin_tls::{Secure, Trust},
    failure,
    text::safe,
};
use crate::{
    app::Failure,
    config::Secret,
    identity::{SpiffeId, parse_id},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A reload of a large configuration takes a while.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// What one API is called, for whoever reads an error.
pub(super) struct Words {
    /// What answers there.
    pub(super) what: &'static str,
    pub(super) api: &'static str,
    pub(super) setting: &'static str,
    /// The environment variable with its token.
    pub(super) token: &'static str,
    /// Where else it may be.
    pub(super) hint: &'static str,
}

/// An address as it was typed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) at: Authority,
    scheme: Option<Scheme>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Scheme {
    Http,
    Https,
}

#[derive(Clone, Debug, Args)]
pub(super) struct TlsArgs {
    /// Speak TLS, and trust certificates by the authorities in this file (PEM)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Whose SVID has to be shown, in the place of the name in the address
    #[arg(long, value_name = "ID", requires = "ca", value_parser = parse_id)]
    spiffe: Option<SpiffeId>,
    /// Speak TLS, and show this certificate (PEM), where one is asked for
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key (PEM, without a passphrase)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

/// Whom to ask, and how.
pub(super) struct Target {
    pub(super) at: Authority,
    pub(super) token: Option<Secret>,
    pub(super) secure: Option<Secure>,
    pub(super) words: &'static Words,
}

pub(super) struct Answer {
    from: Authority,
    words: &'static Words,
    pub(super) status: StatusCode,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn expect(&self, status: StatusCode) -> Result<Value, Failure> {
        if self.status == status { self.json() } else { Err(self.failure()) }
    }

    /// It is another answer than was wanted.
    pub(super) fn failure(&self) -> Failure {
        let said = match serde_json::from_str::<Value>(&self.text) {
            Ok(problem) if problem["detail"].is_string() => {
                safe(problem["detail"].as_str().unwrap_or_default())
            }
            _ => safe(self.text.trim_end()),
        };
        let hint = match self.status {
            StatusCode::UNAUTHORIZED => format!(" (give it with -c FILE, {} or --token)", self.words.token),
            StatusCode::FORBIDDEN if said.contains("client_ca") => {
                " (give it with --cert and --key)".to_owned()
            }
            _ => String::new(),
        };
        let (what, at) = (self.words.what, &self.from);
        failure(format!("the {what} at {at} answers {}: {said}{hint}", self.status.as_u16()))
    }

    pub(super) fn json(&self) -> Result<Value, Failure> {
        serde_json::from_str(&self.text).map_err(|_| {
            let Words { api, hint, .. } = self.words;
            failure(format!("what answers at {} is not {api} ({hint})", self.from))
        })
    }
}

impl Target {
    /// # Errors
    ///
    /// Nobody answers there.
    pub(super) async fn ask(&self, method: Method, path: &str, body: impl Into<Bytes>) -> io::Result<Answer> {
        self.send(self.request(method, path, body)?).await
    }

    /// # Errors
    ///
    /// Nobody answers there.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> io::Result<Answer> {
        let answer = timeout(ANSWER_TIMEOUT, async {
            let response = self.exchange(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        })
        .await;
        let answer = answer.map_err(|_| "no answer".to_owned()).flatten();
        let (status, text) = answer.map_err(|why| self.unreachable(&why))?;
        Ok(Answer { from: self.at.clone(), words: self.words, status, text })
    }

    /// The head of an answer whose body goes on.
    ///
    /// # Errors
    ///
    /// Nobody answers there.
    pub(super) async fn open(&self, request: Request<Full<Bytes>>) -> io::Result<Response<Incoming>> {
        let answer = timeout(ANSWER_TIMEOUT, self.exchange(request)).await;
        answer.map_err(|_| "no answer".to_owned()).flatten().map_err(|why| self.unreachable(&why))
    }

    pub(super) fn request(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> io::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, self.at.as_str());
        if let Some(token) = &self.token {
            let credentials = HeaderValue::try_from(format!("Bearer {}", token.expose()));
            let mut credentials =
                credentials.map_err(|_| io::Error::other("the token holds characters that no header can"))?;
            credentials.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, credentials);
        }
        request.body(Full::new(body.into())).map_err(io::Error::other)
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
        let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(self.at.as_str())).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("no answer".to_owned()),
        };
        match &self.secure {
            Some(secure) => exchange(secure.connect(stream, self.at.host()).await?, request).await,
            None => exchange(stream, request).await,
        }
    }

    fn unreachable(&self, why: &str) -> io::Error {
        // The kernel's words come with a number that says nothing to a reader.
        let why = why.split(" (os error").next().unwrap_or_default().to_lowercase();
        let Words { what, hint, .. } = self.words;
        let hint = if why.ends_with(')') { String::new() } else { format!(" (is it running? {hint})") };
        io::Error::other(format!("cannot reach the {what} at {}: {}{hint}", self.at, safe(&why)))
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, String> {
    let words = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(words)?;
    // Its errors also reach the request they concern.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(words)
}

/// `None` where plain text is spoken. `shown` is the certificate that the configuration names.
pub(super) fn secure(
    tls: &TlsArgs,
    place: Option<&Place>,
    shown: Option<&FilePath>,
    option: &str,
) -> Result<Option<Secure>, String> {
    let scheme = place.and_then(|place| place.scheme);
    let own = tls.cert.as_deref().zip(tls.key.as_deref());
    let trust = match (&tls.ca, shown) {
        (Some(file), _) => Trust::Authorities(file),
        (None, Some(file)) => Trust::Pinned(file),
        (None, None) if own.is_some() || scheme == Some(Scheme::Https) => Trust::System,
        (None, None) => return Ok(None),
    };
    if scheme == Some(Scheme::Http) {
        return Err(format!("plain http is asked for, and TLS (give {option} https://...)"));
    }
    Secure::new(&trust, own).map(|secure| Some(secure.showing(tls.spiffe.clone())))
}

/// What was typed, else what the environment says.
pub(super) fn token(typed: Option<&Secret>, words: &Words) -> Option<Secret> {
    let environment = || std::env::var(words.token).ok().filter(|token| !token.is_empty()).map(Secret::new);
    typed.cloned().or_else(environment)
}

/// Where to connect to reach what listens on `address`: "every address" is no place to go to.
pub(super) fn reachable(address: &str, words: &Words) -> Result<Authority, String> {
    let (host, port) = address.rsplit_once(':').ok_or_else(|| format!("{address:?} has no port"))?;
    if port == "0" {
        let Words { what, setting, hint, .. } = words;
        return Err(format!("{setting} has port 0, so only the {what}'s log tells which ({hint})"));
    }
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let host = match ip {
        Ok(ip) if ip.is_unspecified() && ip.is_ipv6() => "[::1]",
        Ok(ip) if ip.is_unspecified() => "127.0.0.1",
        Err(_) if host.is_empty() => "127.0.0.1",
        _ => host,
    };
    format!("{host}:{port}").parse().map_err(|_| format!("{address:?} is not an address"))
}

pub(super) fn place(text: &str, words: &Words) -> Result<Place, String> {
    let (scheme, bare) = match text.split_once("://") {
        Some(("http", rest)) => (Some(Scheme::Http), rest),
        Some(("https", rest)) => (Some(Scheme::Https), rest),
        _ => (None, text),
    };
    let bare = bare.trim_end_matches('/');
    let at = reachable(bare, words)?;
    match at.port_u16() {
        Some(_) if !bare.contains('@') => Ok(Place { at, scheme }),
        _ => Err("not an address (try 127.0.0.1:9901)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: Words = Words { what: "gateway", api: "", setting: "", token: "", hint: "" };

    #[test]
    fn an_address_is_made_one_that_can_be_reached() {
        let address = |text| place(text, &WORDS);
        for (given, expected) in [
            ("127.0.0.1:9901", "127.0.0.1:9901"),
            ("http://gateway.internal:9901/", "gateway.internal:9901"),
            (":9901", "127.0.0.1:9901"),
            ("0.0.0.0:9901", "127.0.0.1:9901"),
            ("[::]:9901", "[::1]:9901"),
            ("[2001:db8::1]:9901", "[2001:db8::1]:9901"),
        ] {
            assert_eq!(address(given).map(|place| place.at.to_string()).as_deref(), Ok(expected), "{given}");
        }
        for bad in ["gateway", "127.0.0.1:0", "127.0.0.1:http", "user@127.0.0.1:9901", "127.0.0.1:"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
