//! What a filter sees of a request: never a Pingora session, so that a filter's tests need no socket.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use pingora_http::{RequestHeader, ResponseHeader};

use super::{Encoder, Reason};
use crate::{
    error::accepts_json,
    identity::{Caller, Claims},
    policy::bucket::Decision,
    route::Params,
};

pub struct Exchange<'a> {
    /// As the client sent it; in `on_forward`, as the upstream will see it.
    pub request: &'a mut RequestHeader,
    /// Only in `on_response`.
    pub response: Option<&'a mut ResponseHeader>,
    pub facts: &'a mut Facts,
}

/// What the gateway found out about the request, for filters, balancing and the access log.
#[derive(Debug)]
pub struct Facts {
    /// The connection's other end.
    pub peer: IpAddr,
    /// The client's address: the connection's peer, or whom a trusted proxy named.
    pub client: IpAddr,
    /// The connection's peer is one of `trusted_proxies`.
    pub from_trusted: bool,
    /// `http` or `https`: what the client spoke, which a trusted proxy in between may have told.
    pub scheme: &'static str,
    /// What was spoken on this very connection.
    pub spoken: &'static str,
    /// The host the client asked for, as it was written, port included. It cannot be empty.
    pub authority: Option<HeaderValue>,
    /// The path in normal form, and the query.
    pub target: Uri,
    /// What the route's template captured in the path; values keep their percent-encoding.
    pub params: Params,
    pub request_id: Option<String>,
    /// Who opened the connection, where its certificate proves it.
    pub caller: Option<Arc<Caller>>,
    /// The same in the words of `X-Forwarded-Client-Cert`.
    pub client_cert: Option<HeaderValue>,
    /// What the request's token says, once a filter has verified it.
    pub claims: Option<Arc<Claims>>,
    /// Under which name the client is known, once a filter has verified its password or key.
    pub user: Option<Arc<str>>,
    /// Request fields that tell the upstream what filters have proven of the client.
    pub proven: Vec<(HeaderName, HeaderValue)>,
    /// Bytes the request's body may have, where a filter allows fewer than the listener.
    pub body_limit: Option<u64>,
    /// What the response's body passes on its way to the client; set in `on_response`.
    pub encoder: Option<Encoder>,
    /// The name of the route that takes the request.
    pub route: Option<Arc<str>>,
    /// What the rate limits that saw the request said, each with who it is: they tell the client in `on_response`.
    pub limits: Vec<(usize, Decision)>,
}

impl Default for Facts {
    fn default() -> Facts {
        Facts {
            peer: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            from_trusted: false,
            scheme: "http",
            spoken: "http",
            authority: None,
            target: Uri::default(),
            params: Params::default(),
            request_id: None,
            caller: None,
            client_cert: None,
            claims: None,
            user: None,
            proven: Vec::new(),
            body_limit: None,
            encoder: None,
            route: None,
            limits: Vec::new(),
        }
    }
}

impl Facts {
    /// As the client wrote it; empty when there is none, or it is not text.
    pub fn authority(&self) -> &str {
        self.authority.as_ref().and_then(|authority| authority.to_str().ok()).unwrap_or_default()
    }

    /// The authority without its port; an IPv6 address keeps its brackets.
    pub fn host(&self) -> &str {
        let authority = self.authority();
        match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => authority,
        }
    }

    /// In normal form, without the query.
    pub fn path(&self) -> &str {
        self.target.path()
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

    /// A refusal as a response: status, short body in the form that the `request` accepts, and when to come back.
    pub fn refusal(reason: Reason, request: &HeaderMap) -> Response {
        let accept = request.get(header::ACCEPT).map(HeaderValue::as_bytes);
        let (content_type, body) = reason.body(accepts_json(accept));
        let mut response = Response::new(reason.status());
        response.headers.push((header::CONTENT_TYPE, HeaderValue::from_static(content_type)));
        if let Some(seconds) = reason.retry_after() {
            response.headers.push((header::RETRY_AFTER, seconds.into()));
        }
        response.body = body;
        response.reason = Some(reason);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_port_off_a_host() {
        let cases = [
            ("a.example:80", "a.example"),
            ("a.example", "a.example"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
        ];
        for (authority, host) in cases {
            let facts = Facts { authority: Some(HeaderValue::from_static(authority)), ..Facts::default() };
            assert_eq!(facts.host(), host);
        }
        assert_eq!(Facts::default().host(), "");
    }
}
