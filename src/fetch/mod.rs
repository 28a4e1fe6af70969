//! Requests of the gateway's own to services beside the traffic: key sets, authorization services.
//!
//! Small on purpose. Whatever the other side does, a request ends in time and its answer has a bound. Redirects are
//! handed back and never followed: whoever asked one server must not be led to another. TLS is always verified; there
//! is no way to turn it off.

mod discovery;
mod document;
mod names;
mod trusting;

use std::{error::Error as _, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_openssl::client::legacy::HttpsConnector;
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

pub(crate) use self::discovery::{Insecure, Issuer, Metadata, Undiscovered, secure};
pub(crate) use self::document::Document;
use self::names::Lookup;
pub(crate) use self::trusting::{Change, Trusting};
use crate::{names::Resolve, trust};

/// How a [`Client`] connects.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    /// Certificates in PEM of the authorities that are trusted. Without, those that the system trusts.
    pub ca: Option<Vec<u8>>,
    /// A certificate and its key in PEM, for servers that ask who we are.
    pub client_cert: Option<(Vec<u8>, Vec<u8>)>,
    /// HTTP/2 from the first byte, also without TLS: what gRPC speaks.
    pub http2_only: bool,
    /// For each address of a name.
    pub connect_timeout: Duration,
    /// A connection that was not used for so long is closed.
    pub idle_timeout: Duration,
    /// Connections to one host that are kept while nobody uses them.
    pub idle_connections: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            ca: None,
            client_cert: None,
            http2_only: false,
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            idle_connections: 32,
        }
    }
}

/// Sends requests over connections that it keeps. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub(crate) struct Client(Pool<HttpsConnector<HttpConnector<Lookup>>, Full<Bytes>>);

/// HTTP/2 is preferred.
const ALPN: &[u8] = b"\x02h2\x08http/1.1";
/// The most bytes of an answer's header, and the most fields.
const HEADER_SIZE: usize = 64 * 1024;
const HEADER_FIELDS: usize = 128;

impl Client {
    /// Connects nowhere yet, and needs no runtime yet.
    ///
    /// # Errors
    ///
    /// [`Error::Trust`]: the `ca` has no certificate that can be read.
    pub(crate) fn new(options: &Options, names: Arc<dyn Resolve>) -> Result<Client, Error> {
        let mut http = HttpConnector::new_with_resolver(Lookup(names));
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(options.connect_timeout));
        let mut tls = trust::connector(options.ca.as_deref()).map_err(Error::Trust)?;
        if let Some((cert, key)) = &options.client_cert {
            trust::identify(&mut tls, cert, key).map_err(Error::Trust)?;
        }
        tls.set_alpn_protos(ALPN).map_err(|error| Error::Trust(format!("TLS cannot be set up: {error}")))?;
        let mut https = HttpsConnector::with_connector(http, tls)
            .map_err(|error| Error::Trust(format!("TLS cannot be set up: {error}")))?;
        https.set_callback(|connection, url| trust::expect_host(connection, url.host().unwrap_or_default()));
        let pool = Pool::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(options.idle_timeout)
            .pool_max_idle_per_host(options.idle_connections)
            .http1_max_buf_size(HEADER_SIZE)
            .http1_max_headers(HEADER_FIELDS)
            .http2_max_header_list_size(HEADER_SIZE as u32)
            .http2_only(options.http2_only)
            .build(https);
        Ok(Client(pool))
    }

    /// Sends one request to its absolute URI (`http` or `https`) and reads the whole answer, whatever its status.
    /// `timeout` is for all of it, connecting included; `max_body` is in bytes. Dropping the future ends the request.
    ///
    /// # Errors
    ///
    /// There is no whole answer.
    pub(crate) async fn send(
        &self,
        request: Request<Bytes>,
        timeout: Duration,
        max_body: usize,
    ) -> Result<Response<Bytes>, Error> {
        Ok(self.send_whole(request, timeout, max_body).await?.0)
    }

    /// The same, with the trailers behind the answer's body.
    ///
    /// # Errors
    ///
    /// There is no whole answer.
    pub(crate) async fn send_whole(
        &self,
        request: Request<Bytes>,
        timeout: Duration,
        max_body: usize,
    ) -> Result<(Response<Bytes>, Option<HeaderMap>), Error> {
        let answered = async {
            let response = self.0.request(request.map(Full::new)).await.map_err(Error::of)?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, max_body).collect().await.map_err(|error| match error
                .downcast_ref::<LengthLimitError>(
            ) {
                Some(_) => Error::TooLarge,
                None => Error::Broken(error.to_string()),
            })?;
            let trailers = body.trailers().cloned();
            Ok((Response::from_parts(head, body.to_bytes()), trailers))
        };
        tokio::time::timeout(timeout, answered).await.unwrap_or(Err(Error::Timeout))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

/// Why there is no answer. None of them repeats the URI or what was sent: they may hold credentials.
#[derive(Debug)]
pub(crate) enum Error {
    /// The certificates to trust cannot be read.
    Trust(String),
    /// No connection could be made, or its certificate is not trusted.
    Connect(String),
    Timeout,
    /// The answer's body is larger than was allowed.
    TooLarge,
    /// The connection broke, or what came is not HTTP.
    Broken(String),
}

impl Error {
    /// A word for a metric's label.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Error::Trust(_) => "trust",
            Error::Connect(_) => "connect",
            Error::Timeout => "timeout",
            Error::TooLarge => "too_large",
            Error::Broken(_) => "broken",
        }
    }

    fn of(error: hyper_util::client::legacy::Error) -> Error {
        // What happened stands in the innermost cause, and it is what an operator can act on.
        let mut cause = error.source();
        let mut why = error.to_string();
        while let Some(inner) = cause {
            let inner_why = inner.to_string();
            // Of a certificate, the cause before says the same and what is wrong with it.
            if !why.starts_with(&inner_why) {
                why = inner_why;
            }
            cause = inner.source();
        }
        if error.is_connect() { Error::Connect(why) } else { Error::Broken(why) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Trust(why) => f.write_str(why),
            Error::Connect(why) => write!(f, "cannot connect: {why}"),
            Error::Timeout => f.write_str("no answer in time"),
            Error::TooLarge => f.write_str("the answer is too large"),
            Error::Broken(why) => write!(f, "the connection broke: {why}"),
        }
    }
}

impl std::error::Error for Error {}
