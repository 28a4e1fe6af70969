//! What a filter sees of a request: never a Pingora session, so that a filter's tests need no socket.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use pingora_http::{RequestHeader, ResponseHeader};

use super::Reason;
use crate::route::Params;

pub struct Exchange<'a> {
    /// As the client sent it; in `on_forward`, as the upstream will see it.
    pub request: &'a mut RequestHeader,
    /// Only in `on_response`.
    pub response: Option<&'a mut ResponseHeader>,
    pub facts: &'a mut Facts,
}

/// What the gateway found out about the request, for filters, balancing and the access log.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The client's address: the connection's peer, or whom a trusted proxy named.
    pub client: IpAddr,
    /// The connection's peer is one of `trusted_proxies`.
    pub from_trusted: bool,
    /// `http` or `https`, as the client spoke it.
    pub scheme: &'static str,
    /// The host the client asked for, lower case, without port.
    pub host: String,
    /// The same as it was written, port included: what the upstream is told.
    pub authority: String,
    /// The normalised path, without query.
    pub path: String,
    /// What the route's template captured in `path`; values keep their percent-encoding.
    pub params: Params,
    pub request_id: Option<String>,
}

impl Default for Facts {
    fn default() -> Facts {
        Facts {
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            from_trusted: false,
            scheme: "http",
            host: String::new(),
            authority: String::new(),
            path: String::new(),
            params: Params::default(),
            request_id: None,
        }
    }
}

/// An answer of a filter's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
    /// Set when this is a refusal: it names why in the header, the log and the metrics.
    pub reason: Option<Reason>,
}

impl Response {
    pub fn new(status: StatusCode) -> Response {
        Response { status, headers: Vec::new(), body: Bytes::new(), reason: None }
    }
}
