//! An HTTP client for tests: one connection at a time, no pool, no retry, nothing added but `host`.
//! For bytes hyper would refuse to send there is `raw`.

use std::net::SocketAddr;

use super::{connect, within_deadline};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioIo};

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// A whole response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// The first value of that header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    #[track_caller]
    pub(crate) fn assert_status(&self, status: u16) -> &Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }

    /// The gateway itself answered, and for this reason.
    #[track_caller]
    pub(crate) fn assert_reason(&self, status: u16, reason: &str) -> &Self {
        assert_eq!(self.header("x-tidegate-reason"), Some(reason), "{self:?}");
        self.assert_status(status)
    }

    /// The answer is the upstream's, not one of the gateway's own.
    #[track_caller]
    pub(crate) fn assert_no_reason(&self) -> &Self {
        assert_eq!(self.header("x-tidegate-reason"), None, "{self:?}");
        self
    }
}

/// GET over HTTP/1.1 on a fresh connection; panics unless there is a whole answer.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, "GET", path, &[], "").await
}

/// A request over HTTP/1.1 on a fresh connection; panics unless there is a whole answer.
pub(crate) async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let what = format!("{method} {path} at {address}");
    let answer = async { Connection::http1(address).await?.send(method, path, headers, body).await };
    within_deadline(&what, answer).await.unwrap_or_else(|error| panic!("{what}: {error:?}"))
}

/// Like `get`, over HTTP/2 without TLS.
pub(crate) async fn get_h2c(address: SocketAddr, path: &str) -> Answer {
    send_h2c(address, "GET", path, &[], "").await
}

/// Like `send`, over HTTP/2 without TLS. A `host` among the headers becomes `:authority`.
pub(crate) async fn send_h2c(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let what = format!("{method} {path} at {address} over h2c");
    let answer = async { Connection::h2c(address).await?.send(method, path, headers, body).await };
    within_deadline(&what, answer).await.unwrap_or_else(|error| panic!("{what}: {error:?}"))
}

/// A connection for several requests in a row.
pub(crate) struct Connection {
    sender: Sender,
    host: String,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    pub(crate) async fn http1(address: SocketAddr) -> Result<Self, Error> {
        Self::http1_over(TokioIo::new(connect(address).await?), address.to_string()).await
    }

    pub(crate) async fn h2c(address: SocketAddr) -> Result<Self, Error> {
        Self::http2_over(TokioIo::new(connect(address).await?), address.to_string()).await
    }

    /// HTTP/1.1 over any stream (TLS, say); `host` is what requests name unless their headers do.
    pub(crate) async fn http1_over(
        stream: impl Read + Write + Unpin + Send + 'static,
        host: String,
    ) -> Result<Self, Error> {
        let (sender, connection) = http1::handshake(stream).await?;
        // Its errors also reach the request they concern.
        tokio::spawn(connection);
        Ok(Self { sender: Sender::Http1(sender), host })
    }

    /// HTTP/2 over any stream; `host` is what requests name unless their headers do.
    pub(crate) async fn http2_over(
        stream: impl Read + Write + Unpin + Send + 'static,
        host: String,
    ) -> Result<Self, Error> {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        tokio::spawn(connection);
        Ok(Self { sender: Sender::Http2(sender), host })
    }

    /// Whether the other side is known to have closed it.
    pub(crate) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends one request and reads the whole answer. Without deadline: a caller who expects none sets one.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, Error> {
        let named =
            headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, value)| *value);
        let host = named.unwrap_or(&self.host);
        let mut request = Request::builder().method(method);
        request = match self.sender {
            Sender::Http1(_) => request.uri(path).header("host", host),
            Sender::Http2(_) => request.uri(format!("http://{host}{path}")),
        };
        for (name, value) in headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into()))?;
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned();
        Ok(Answer {
            status: head.status,
            version: head.version,
            headers: head.headers,
            body: body.to_bytes(),
            trailers,
        })
    }
}
