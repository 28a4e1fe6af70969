//! What a filter sees of a request: never a Pingora session, so that a filter's tests need no socket.

use std::{
    any::Any,
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use pingora_http::{RequestHeader, ResponseHeader};

use super::{Filter, Reason, shared::properties::Properties};
use crate::{
    error::accepts_json,
    grpc::{self, Call, web},
    identity::{Caller, Claims},
    policy::address_block::Ipv6Prefix,
    route::{Params, QueryPredicate},
    trace::{Current, SpanId},
};

/// What a filter sees of one request, and of the answer to it.
#[non_exhaustive]
pub struct Exchange<'a> {
    /// As the client sent it; in `on_forward`, as the upstream will see it.
    pub request: &'a mut RequestHeader,
    /// Only in `on_response`.
    pub response: Option<&'a mut ResponseHeader>,
    pub facts: &'a mut Facts,
}

impl<'a> Exchange<'a> {
    /// For tests of filters.
    pub fn new(request: &'a mut RequestHeader, facts: &'a mut Facts) -> Exchange<'a> {
        Exchange { request, response: None, facts }
    }

    /// For tests of `on_response`.
    #[must_use]
    pub fn answered(self, response: &'a mut ResponseHeader) -> Exchange<'a> {
        Exchange { response: Some(response), ..self }
    }

    /// What `owner`, a filter, has kept of this request.
    pub fn state<T: Send + 'static>(&mut self, owner: &impl Filter) -> Option<&mut T> {
        self.facts.states.get(address_of(owner))
    }

    /// The same for one who knows where that filter is.
    #[cfg(feature = "wasm")]
    pub(crate) fn state_at<T: Send + 'static>(&mut self, owner: usize) -> Option<&mut T> {
        self.facts.states.get(owner)
    }

    /// Keep something until the request is over. What the same filter has kept of the same type is replaced.
    ///
    /// ```
    /// use std::time::Instant;
    /// use tidegate::filter::{Exchange, Filter, Flow, Phases, Reason};
    ///
    /// struct Timed;
    ///
    /// impl Filter for Timed {
    ///     fn phases(&self) -> Phases {
    ///         Phases::REQUEST | Phases::RESPONSE
    ///     }
    ///
    ///     fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
    ///         exchange.keep(self, Instant::now());
    ///         Ok(Flow::Continue)
    ///     }
    ///
    ///     fn on_response(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
    ///         // Not where an earlier filter has answered: this one has not seen the request then.
    ///         let took = exchange.state::<Instant>(self).map(|began| began.elapsed().as_millis());
    ///         if let (Some(took), Some(response)) = (took, exchange.response.as_deref_mut()) {
    ///             response.insert_header("x-took-ms", took.to_string()).map_err(|_| Reason::Internal)?;
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    pub fn keep<T: Send + 'static>(&mut self, owner: &impl Filter, state: T) {
        self.facts.states.set(address_of(owner), state);
    }

    /// Let go of what `owner` has kept.
    pub fn forget<T: Send + 'static>(&mut self, owner: &impl Filter) {
        let owner = address_of(owner);
        self.facts.states.0.retain(|(of, state)| *of != owner || !state.is::<T>());
    }

    /// The beginning of the request's body: all of it, or more than `most` bytes. `None` until that is here: the filter then
    /// continues and is asked again, before any other is. What is read of the body goes its way later.
    pub(crate) fn peek_body(&mut self, most: usize) -> Option<Peeked> {
        if self.facts.is_bodiless {
            return Some(Peeked { bytes: Bytes::new(), is_whole: true });
        }
        let is_enough = |peeked: &&Peeked| peeked.is_whole || peeked.bytes.len() > most;
        let peeked = self.facts.peeked.as_ref().filter(is_enough).cloned();
        if peeked.is_none() {
            self.facts.peeks = Some(most);
        }
        peeked
    }

    /// The request does not go on before all of its body is there, up to `most` bytes: 413 beyond. The filters see its
    /// parts meanwhile.
    pub fn gather_body(&mut self, most: usize) {
        self.facts.gathers = Some(self.facts.gathers.map_or(most, |other| other.min(most)));
    }
}

/// What has been read of a request's body before the request goes on.
#[derive(Clone, Debug)]
pub(crate) struct Peeked {
    pub bytes: Bytes,
    /// There is no more of it.
    pub is_whole: bool,
}

/// A question that a filter asked another service, for its span.
#[derive(Debug)]
pub(crate) struct Called {
    pub span: SpanId,
    pub filter: &'static str,
    pub method: Method,
    /// Without its query, which may hold secrets.
    pub url: String,
    pub authority: String,
    pub started: Instant,
    pub ended: Instant,
    pub status: Option<u16>,
    /// Why there was no answer, or the status that a call of gRPC failed with.
    pub error: Option<&'static str>,
}

/// Two uses of one filter are two objects.
pub(crate) fn address_of(owner: &impl Filter) -> usize {
    std::ptr::from_ref(owner).cast::<()>() as usize
}

/// What filters keep of one request, by filter and type. There is little of it, and mostly none.
#[derive(Default)]
pub struct States(Vec<(usize, Box<dyn Any + Send>)>);

impl States {
    fn get<T: Send + 'static>(&mut self, owner: usize) -> Option<&mut T> {
        let mut owned = self.0.iter_mut().filter(|(of, _)| *of == owner);
        owned.find_map(|(_, state)| state.downcast_mut())
    }

    fn set<T: Send + 'static>(&mut self, owner: usize, state: T) {
        match self.get(owner) {
            Some(before) => *before = state,
            None => self.0.push((owner, Box::new(state))),
        }
    }
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "States({})", self.0.len())
    }
}

/// What the gateway found out about the request, for filters, balancing and the access log.
#[derive(Debug)]
#[non_exhaustive]
pub struct Facts {
    /// The connection's other end.
    pub peer: IpAddr,
    /// The client's address: the connection's peer, or whom a trusted proxy named.
    pub client: IpAddr,
    /// By how much of an address clients of IPv6 are told apart.
    #[doc(hidden)]
    pub ipv6_prefix: Ipv6Prefix,
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
    /// The call of gRPC or gRPC-Web that the request is.
    #[doc(hidden)]
    pub grpc: Option<Call>,
    /// The name of the route that takes the request.
    pub route: Option<Arc<str>>,
    /// Where it goes, once that is chosen.
    pub upstream: Option<Arc<str>>,
    /// The name of the listener that it came to.
    pub listener: Option<Arc<str>>,
    /// How its connection is encrypted, if it is.
    pub tls: Option<TlsFacts>,
    /// Where in a trace the request is.
    pub(crate) trace: Option<Current>,
    /// What filters have asked other services.
    pub(crate) called: Vec<Called>,
    /// What filters keep of the request.
    #[doc(hidden)]
    pub states: States,
    /// The port of the connection's other end.
    pub peer_port: u16,
    /// Where the connection came to.
    pub(crate) local: Option<SocketAddr>,
    /// The head is all that there is of the request.
    pub is_bodiless: bool,
    /// What plugins have set.
    pub(crate) properties: Properties,
    /// Why a filter refused the request, or a connection to an endpoint failed.
    pub(crate) refused: Option<Cow<'static, str>>,
    /// Which plugin answered, or failed, and what it says.
    pub(crate) plugin: Option<Box<(Arc<str>, String)>>,
    /// What a filter of the response answers in its place. It refuses the response beside.
    pub(crate) instead: Option<Box<Response>>,
    /// A filter answers once the body is there: no filter behind it is asked.
    pub(crate) is_taken: bool,
    /// What a filter waits for, before the request, its body or the response goes on.
    pub(crate) waits: Option<Waits>,
    /// The client gets no answer: its connection, or stream, is broken off.
    pub(crate) cuts: bool,
    /// What is known of the connection, and of the way to the upstream, where a filter asks for it.
    #[cfg(feature = "wasm")]
    pub(crate) ways: Option<Box<Ways>>,
    /// How much of the body may be gathered before the request goes on, where a filter wants all of it.
    #[doc(hidden)]
    pub gathers: Option<usize>,
    /// A filter wants so much of the body before the request goes on to the next one.
    pub(crate) peeks: Option<usize>,
    pub(crate) peeked: Option<Peeked>,
}

/// A filter waits: it is asked again about the same once that is over. Until then nothing else of the request goes on, so that the
/// filter may have the request meanwhile.
pub(crate) struct Waits {
    /// Ready when the filter is to be asked again.
    pub until: BoxFuture<'static, ()>,
    /// Gives back what the filter has taken. Called however the wait ends, before anything else.
    pub back: GiveBack,
}

pub(crate) type GiveBack = Box<dyn FnOnce(&mut Exchange<'_>) + Send>;

impl fmt::Debug for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waits")
    }
}

/// Where a request came in, and where it goes. For filters that ask for it by name: plugins.
#[cfg(feature = "wasm")]
#[derive(Clone, Debug, Default)]
pub(crate) struct Ways {
    /// Which connection of this process's it is.
    pub connection: u64,
    /// Where the connection came to.
    pub local: Option<std::net::SocketAddr>,
    pub upstream: Option<UpstreamWay>,
    /// What an operator says of the route.
    pub metadata: Option<Arc<serde_json::Value>>,
    pub end: Option<Ended>,
}

/// The endpoint of the last try.
#[cfg(feature = "wasm")]
#[derive(Clone, Debug, Default)]
pub(crate) struct UpstreamWay {
    pub address: Option<std::net::SocketAddr>,
    pub tries: u32,
    pub endpoints: usize,
    pub tls: Option<&'static str>,
}

/// How a request ended.
#[cfg(feature = "wasm")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub reason: Option<&'static str>,
    pub received: u64,
    pub sent: u64,
    /// Of the upstream, until its answer began.
    pub backend: Option<std::time::Duration>,
}

/// What a client's TLS handshake has settled.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TlsFacts {
    /// Such as `TLSv1.3`.
    pub version: &'static str,
    /// The name that the client asked for, as it was sent.
    pub sni: Option<Arc<str>>,
    /// How the client has begun TLS (JA4), where a template asks for it.
    pub ja4: Option<Arc<str>>,
}

impl Default for Facts {
    fn default() -> Facts {
        Facts {
            peer: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            ipv6_prefix: Ipv6Prefix::default(),
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
            grpc: None,
            route: None,
            upstream: None,
            listener: None,
            tls: None,
            trace: None,
            called: Vec::new(),
            states: States::default(),
            peer_port: 0,
            local: None,
            is_bodiless: false,
            properties: Properties::default(),
            refused: None,
            plugin: None,
            instead: None,
            is_taken: false,
            waits: None,
            cuts: false,
            #[cfg(feature = "wasm")]
            ways: None,
            gathers: None,
            peeks: None,
            peeked: None,
        }
    }
}

impl Facts {
    /// Say in the access log why the request is refused: which rule, or what is wrong with its credentials. Never what they are. The
    /// first time counts.
    pub fn explain(&mut self, why: impl Into<Cow<'static, str>>) {
        self.refused.get_or_insert_with(|| why.into());
    }

    /// For the access log. The first that is said counts.
    #[cfg(feature = "wasm")]
    pub(crate) fn note_plugin(&mut self, name: &Arc<str>, detail: &str) {
        self.plugin.get_or_insert_with(|| Box::new((name.clone(), detail.to_owned())));
    }

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

    /// The query without the values of these names: `a=1&token=x` becomes `a=1&token=REDACTED`.
    pub fn query_without(&self, secrets: &[String]) -> Option<Cow<'_, str>> {
        let query = self.target.query()?;
        let is_secret = |pair: &str| {
            let name = QueryPredicate::name_of(pair);
            secrets.iter().any(|secret| name.eq_ignore_ascii_case(secret.as_bytes()))
        };
        if secrets.is_empty() || !query.split('&').any(is_secret) {
            return Some(query.into());
        }
        let pairs = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) if is_secret(pair) => format!("{name}=REDACTED"),
            _ => pair.to_owned(),
        });
        Some(pairs.collect::<Vec<_>>().join("&").into())
    }

    /// The path without what the route's template captured under one of the names of `secrets`, for all that is written
    /// down: `/reset/REDACTED`.
    pub fn path_without(&self, secrets: &[String]) -> Cow<'_, str> {
        let path = self.path();
        if secrets.is_empty() || self.params.is_empty() {
            return path.into();
        }
        let (mut shown, mut from) = (String::new(), 0);
        for (name, value) in self.params.iter(path) {
            if !value.is_empty() && secrets.iter().any(|secret| secret.eq_ignore_ascii_case(name)) {
                // It is a part of the path.
                let at = value.as_ptr().addr() - path.as_ptr().addr();
                shown.push_str(&path[from..at]);
                shown.push_str("REDACTED");
                from = at + value.len();
            }
        }
        if from == 0 { path.into() } else { (shown + &path[from..]).into() }
    }
}

/// What an answer says beyond is no message of a status.
const LONGEST_MESSAGE: usize = 256;

/// An answer of a filter's own.
///
/// ```
/// use tidegate::filter::{Flow, Response, http::{HeaderValue, StatusCode, header}};
///
/// let mut gone = Response::new(StatusCode::GONE);
/// gone.headers.push((header::CONTENT_TYPE, HeaderValue::from_static("text/plain")));
/// gone.body = "this moved to /v2\n".into();
/// let flow = Flow::Reply(gone);
/// ```
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

    /// The same as a client of gRPC understands it: a header that has the status of the call in it, and nothing more
    /// ("Trailers-Only"). What an operator wrote for such a client, or to say that all is well, stays as it is.
    #[doc(hidden)]
    pub fn for_call(mut self, call: &mut Call) -> Response {
        let told = self.headers.iter().find(|(name, _)| *name == grpc::STATUS);
        if let Some((_, status)) = told {
            call.status = status.to_str().ok().and_then(|status| status.parse().ok());
            return self;
        }
        if self.status.is_success() || self.status.is_informational() {
            return self;
        }
        let status = call.failure.or(self.reason.and_then(Reason::grpc_status));
        let status = status.unwrap_or_else(|| grpc::of_http(self.status));
        call.status = Some(status);
        let message = self.message();
        let type_name = header::CONTENT_TYPE;
        self.headers.retain(|(name, _)| *name != type_name);
        self.headers.push((type_name, HeaderValue::from_static(web::content_type(call.dialect))));
        self.headers.push((grpc::STATUS.clone(), u16::from(status).into()));
        if let Ok(message) = HeaderValue::from_str(&grpc::message(&message)) {
            self.headers.push((grpc::MESSAGE.clone(), message));
        }
        self.status = StatusCode::OK;
        self.body = Bytes::new();
        self
    }

    /// What its body says, if that is one line of text, else why it is.
    fn message(&self) -> String {
        let is_text = |(name, value): &(HeaderName, HeaderValue)| {
            *name == header::CONTENT_TYPE && value.as_bytes().starts_with(b"text/plain")
        };
        let line = std::str::from_utf8(&self.body)
            .ok()
            .map(str::trim)
            .filter(|line| (1..=LONGEST_MESSAGE).contains(&line.len()) && !line.contains('\n'));
        match (line.filter(|_| self.headers.iter().any(is_text)), self.reason) {
            (Some(line), _) => line.to_owned(),
            (None, Some(reason)) => reason.detail().to_owned(),
            (None, None) => self.status.canonical_reason().unwrap_or("unknown").to_lowercase(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_the_words_of_grpc() {
        let mut call = Call::new(grpc::Dialect::Http2, &HeaderMap::new());
        let mut refusal = Response::refusal(Reason::Unauthenticated, &HeaderMap::new());
        refusal.headers.push((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        let told = refusal.for_call(&mut call);
        let fields: Vec<_> =
            told.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let expected = [
            ("www-authenticate", "Bearer"),
            ("content-type", "application/grpc"),
            ("grpc-status", "16"),
            ("grpc-message", "valid credentials are needed"),
        ];
        assert_eq!((told.status, fields.as_slice(), told.body.len()), (StatusCode::OK, &expected[..], 0));
        assert_eq!((told.reason, call.status), (Some(Reason::Unauthenticated), Some(16)));
    }

    #[test]
    fn an_answer_without_a_reason_is_told_by_its_status_and_text() {
        let told = |status: u16, content_type: &'static str, body: &'static str| {
            let mut call = Call::new(grpc::Dialect::WebText, &HeaderMap::new());
            let mut response = Response::new(StatusCode::from_u16(status).unwrap());
            response.headers.push((header::CONTENT_TYPE, HeaderValue::from_static(content_type)));
            response.body = body.into();
            let told = response.for_call(&mut call);
            let message = told.headers.iter().find(|(name, _)| *name == grpc::MESSAGE);
            (call.status, message.map(|(_, value)| value.to_str().unwrap().to_owned()))
        };
        assert_eq!(told(503, "text/plain", "back at 100%\n"), (Some(14), Some("back at 100%25".into())));
        assert_eq!(told(404, "text/html", "<p>"), (Some(12), Some("not found".into())));
        assert_eq!(told(200, "text/plain", "fine"), (None, None));
    }

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
