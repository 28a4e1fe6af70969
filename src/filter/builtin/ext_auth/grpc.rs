//! The service as one of gRPC that speaks Envoy's `ext_authz`: what is asked, and what its answer means.
//!
//! What an answer says that is not done here, and without which the request would not be what the service let in, is no
//! permission: the service counts as one that cannot be asked.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, TE, USER_AGENT},
};
use prost::Message;

use super::{
    decision::{Allowed, Change, Decision, Edit, Undecided, undecided},
    http::PARTIAL,
    message::{
        self, Address, AttributeContext, CheckRequest, CheckResponse, DeniedResponse, HeaderOption,
        HttpRequest, OkResponse, Peer, SocketAddress, Timestamp, TlsSession,
    },
};
use crate::{
    filter::{
        Exchange, Facts, Peeked, Reason, Response, builtin::headers::header_name,
        shared::proven::ProvenHeader,
    },
    grpc,
};

pub(super) struct Grpc {
    /// The method itself.
    pub url: Uri,
    pub timeout: Duration,
    pub context_extensions: BTreeMap<String, String>,
    /// Bodies go along as bytes, also where they are text.
    pub body_as_bytes: bool,
    pub request_headers: Names<HeaderName>,
    pub response_headers: Names<ProvenHeader>,
    pub client_headers: Names<HeaderName>,
    pub client_headers_allowed: Names<HeaderName>,
}

/// Of which fields something may be said.
pub(super) enum Names<T> {
    All,
    Listed(Vec<T>),
}

impl Names<HeaderName> {
    fn contain(&self, name: &HeaderName) -> bool {
        match self {
            Names::All => true,
            Names::Listed(names) => names.contains(name),
        }
    }
}

/// Flag and length before a message.
const PREFIX: usize = 5;

impl Grpc {
    pub(super) fn question(
        &self,
        exchange: &Exchange<'_>,
        body: Option<&Peeked>,
    ) -> Result<Request<Bytes>, Reason> {
        let facts = &*exchange.facts;
        let asked = CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(source(facts)),
                destination: facts.local.map(|local| peer(local, String::new())),
                request: Some(message::Request {
                    time: Some(now()),
                    http: Some(self.http_request(exchange, body)),
                }),
                context_extensions: self.context_extensions.clone(),
                tls_session: facts
                    .tls
                    .as_ref()
                    .map(|tls| TlsSession { sni: tls.sni.as_deref().unwrap_or_default().to_owned() }),
            }),
        };
        let mut framed = BytesMut::with_capacity(PREFIX + asked.encoded_len());
        framed.put_u8(0);
        framed.put_u32(u32::try_from(asked.encoded_len()).map_err(|_| Reason::RequestTooLarge)?);
        asked.encode(&mut framed).map_err(|_| Reason::Internal)?;
        Request::post(self.url.clone())
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            .header(&grpc::TIMEOUT, grpc::format_timeout(self.timeout))
            .body(framed.freeze())
            .map_err(|_| Reason::Internal)
    }

    fn http_request(&self, exchange: &Exchange<'_>, body: Option<&Peeked>) -> HttpRequest {
        let (request, facts) = (&*exchange.request, &*exchange.facts);
        let announced =
            request.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let whole = body.filter(|body| body.is_whole).and_then(|body| i64::try_from(body.bytes.len()).ok());
        let unknown = if facts.is_bodiless { 0 } else { -1 };
        let mut asked = HttpRequest {
            id: facts.request_id.clone().unwrap_or_default(),
            method: request.method.as_str().to_owned(),
            headers: self.headers(exchange),
            path: facts.target.to_string(),
            host: facts.authority().to_owned(),
            scheme: facts.scheme.to_owned(),
            size: announced.or(whole).unwrap_or(unknown),
            protocol: protocol(request.version).to_owned(),
            body: String::new(),
            raw_body: Bytes::new(),
        };
        if let Some(body) = body {
            asked.headers.insert(PARTIAL.as_str().to_owned(), (!body.is_whole).to_string());
            match text(body).filter(|_| !self.body_as_bytes) {
                Some(text) => asked.body = text.to_owned(),
                None => asked.raw_body = body.bytes.clone(),
            }
        }
        asked
    }

    /// As Envoy has them: with what HTTP/2 says in fields of its own, and one value for each name.
    fn headers(&self, exchange: &Exchange<'_>) -> BTreeMap<String, String> {
        let (request, facts) = (&*exchange.request, &*exchange.facts);
        let mut all = BTreeMap::new();
        let named: Vec<&HeaderName> = match &self.request_headers {
            Names::Listed(names) => names.iter().collect(),
            Names::All => {
                let target = facts.target.to_string();
                for (name, value) in [
                    (":method", request.method.as_str()),
                    (":scheme", facts.scheme),
                    (":authority", facts.authority()),
                    (":path", target.as_str()),
                ] {
                    all.insert(name.to_owned(), value.to_owned());
                }
                request.headers.keys().filter(|name| **name != HOST && **name != PARTIAL).collect()
            }
        };
        for name in named {
            let values = request.headers.get_all(name).iter().map(HeaderValue::as_bytes);
            let values: Vec<Cow<'_, str>> = values.map(String::from_utf8_lossy).collect();
            if !values.is_empty() {
                let between = if *name == COOKIE { "; " } else { "," };
                all.insert(name.as_str().to_owned(), values.join(between));
            }
        }
        all
    }

    /// # Errors
    ///
    /// Why nothing can be told from it.
    pub(super) fn judge(
        &self,
        answer: &http::Response<Bytes>,
        trailers: Option<&HeaderMap>,
    ) -> Result<Decision, Undecided> {
        let message = unframed(answer, trailers)?;
        let said = CheckResponse::decode(message).map_err(|_| "its answer is no `CheckResponse`")?;
        let is_ok = said.status.as_ref().is_none_or(|status| status.code == 0);
        match (is_ok, said.denied_response, said.ok_response, said.error_response) {
            (_, _, _, Some(_)) => Err(Undecided::Away("it says that it has failed".to_owned())),
            (true, Some(_), _, _) => Err("its answer allows and denies at once".into()),
            (true, None, ok, None) => Ok(Decision::Allowed(self.allowed(ok.unwrap_or_default())?)),
            // It has denied it, whatever may be wrong with its words.
            (false, denied, _, None) => {
                Ok(self.refused(denied.unwrap_or_default()).map_or(Decision::Forbidden, Decision::Refused))
            }
        }
    }

    fn allowed(&self, ok: OkResponse) -> Result<Allowed, String> {
        if !ok.query_parameters_to_set.is_empty() || !ok.query_parameters_to_remove.is_empty() {
            return Err("it wants the query edited, which is not supported (use a `rewrite`)".to_owned());
        }
        let mut allowed = Allowed::default();
        let edits = edits(&ok.headers, Change::Set)?;
        match &self.response_headers {
            Names::All => allowed.for_upstream = edits,
            Names::Listed(headers) => {
                for header in headers {
                    let of_it = edits.iter().filter(|edit| edit.name == *header.name());
                    let values: Vec<&[u8]> = of_it.filter_map(|edit| edit.change.value()).collect();
                    let joined = HeaderValue::from_bytes(&values.join(&b", "[..]));
                    if let (false, Ok(value)) = (values.is_empty(), joined) {
                        allowed.proven.push((header.clone(), value));
                    }
                }
            }
        }
        // Behind what is written: a field that stands in both goes.
        let removed = ok.headers_to_remove.iter().filter_map(|name| editable(name));
        allowed.for_upstream.extend(removed.map(|name| Edit { name, change: Change::Remove }));
        allowed.for_client =
            edits_for(&self.client_headers_allowed, &ok.response_headers_to_add, Change::Add)?;
        Ok(allowed)
    }

    fn refused(&self, denied: DeniedResponse) -> Result<Response, String> {
        let status = denied.status.and_then(|status| u16::try_from(status.code).ok());
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        let status = status.filter(|status| (200..600).contains(&status.as_u16()));
        let mut response = Response::new(status.unwrap_or(StatusCode::FORBIDDEN));
        for Edit { name, change } in edits_for(&self.client_headers, &denied.headers, Change::Set)? {
            let is_there = response.headers.iter().any(|(other, _)| *other == name);
            let value = match change {
                Change::Add(value) => value,
                Change::SetIfAbsent(value) if !is_there => value,
                Change::Set(value) => {
                    response.headers.retain(|(other, _)| *other != name);
                    value
                }
                Change::SetIfPresent(value) if is_there => {
                    response.headers.retain(|(other, _)| *other != name);
                    value
                }
                Change::SetIfAbsent(_) | Change::SetIfPresent(_) | Change::Remove => continue,
            };
            response.headers.push((name, value));
        }
        if !denied.body.is_empty() && !response.headers.iter().any(|(name, _)| *name == CONTENT_TYPE) {
            response.headers.push((CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")));
        }
        response.body = denied.body;
        response.reason = Some(match response.status {
            status if status == StatusCode::UNAUTHORIZED || status.is_redirection() => {
                Reason::Unauthenticated
            }
            _ => Reason::Forbidden,
        });
        Ok(response)
    }
}

impl Change {
    fn value(&self) -> Option<&[u8]> {
        match self {
            Change::Add(value)
            | Change::SetIfAbsent(value)
            | Change::Set(value)
            | Change::SetIfPresent(value) => Some(value.as_bytes()),
            Change::Remove => None,
        }
    }
}

fn source(facts: &Facts) -> Peer {
    // The connection's port is not that of a client whom a proxy has named.
    let port = if facts.client == facts.peer { facts.peer_port } else { 0 };
    let principal = facts.caller.as_ref().map(|caller| {
        let names = caller.uris.iter().chain(&caller.dns).chain([&caller.subject]);
        names.into_iter().find(|name| !name.is_empty()).cloned().unwrap_or_default()
    });
    peer(SocketAddr::new(facts.client, port), principal.unwrap_or_default())
}

fn peer(at: SocketAddr, principal: String) -> Peer {
    let address: IpAddr = at.ip().to_canonical();
    let socket = SocketAddress { address: address.to_string(), port_value: Some(at.port().into()) };
    Peer { address: Some(Address { socket_address: Some(socket) }), principal }
}

fn now() -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    Timestamp { seconds, nanos: now.subsec_nanos().cast_signed() }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// `None` for what is no text. The beginning of one may end within a character, which is left out.
fn text(body: &Peeked) -> Option<&str> {
    match std::str::from_utf8(&body.bytes) {
        Ok(text) => Some(text),
        Err(error) if !body.is_whole && error.error_len().is_none() => {
            std::str::from_utf8(&body.bytes[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    }
}

/// The name of the status that a call failed with. One that ends without a status has failed, unless HTTP's own says so.
pub(super) fn failure(answer: &http::Response<Bytes>, trailers: Option<&HeaderMap>) -> Option<&'static str> {
    match status(answer, trailers) {
        Some(0) => None,
        Some(code) => Some(grpc::name(code).unwrap_or("UNKNOWN")),
        None => (answer.status() == StatusCode::OK).then_some("UNKNOWN"),
    }
}

/// In the header of an answer that has nothing else.
fn status(answer: &http::Response<Bytes>, trailers: Option<&HeaderMap>) -> Option<u8> {
    let status = trailers.and_then(|trailers| trailers.get(&grpc::STATUS));
    let status = status.or_else(|| answer.headers().get(&grpc::STATUS))?;
    status.to_str().ok()?.parse().ok()
}

/// The message that an answer of gRPC is, where the call has ended well.
fn unframed(answer: &http::Response<Bytes>, trailers: Option<&HeaderMap>) -> Result<Bytes, Undecided> {
    if answer.status() != StatusCode::OK {
        return Err(undecided(answer.status()));
    }
    match status(answer, trailers) {
        Some(0) => {}
        // Its message may repeat what it was asked.
        Some(code) => {
            let name = grpc::name(code).unwrap_or("unknown");
            let why = format!("it answered with gRPC status {code} ({name})");
            // Unknown, deadline exceeded, internal, unavailable: the like of 5xx.
            return Err(match code {
                2 | 4 | 13 | 14 => Undecided::Away(why),
                _ => Undecided::Unclear(why),
            });
        }
        None => return Err("its answer has no `grpc-status`, so it is no service of gRPC".into()),
    }
    let body = answer.body();
    let length = body.len().checked_sub(PREFIX);
    match (body.first(), length) {
        (Some(0), Some(length)) if body[1..PREFIX] == u32::try_from(length).unwrap_or(0).to_be_bytes() => {
            Ok(body.slice(PREFIX..))
        }
        (Some(1), Some(_)) => Err("its answer is compressed, which it was not asked for".into()),
        _ => Err("its answer is not one message of gRPC".into()),
    }
}

/// `None` for what belongs to the connection, and what says where the request goes: that is passed over, as Envoy does.
fn editable(name: &str) -> Option<HeaderName> {
    header_name(name).ok().filter(|name| *name != HOST)
}

fn edits_for(
    names: &Names<HeaderName>,
    options: &[HeaderOption],
    unless_said: fn(HeaderValue) -> Change,
) -> Result<Vec<Edit>, String> {
    let mut edits = edits(options, unless_said)?;
    edits.retain(|edit| names.contain(&edit.name));
    Ok(edits)
}

/// # Errors
///
/// One cannot be done, without which the request would not be what the service let in.
fn edits(options: &[HeaderOption], unless_said: fn(HeaderValue) -> Change) -> Result<Vec<Edit>, String> {
    let mut edits = Vec::with_capacity(options.len());
    for option in options {
        let Some(header) = &option.header else { continue };
        let Some(name) = editable(&header.key) else {
            if header.key.starts_with(':') || HeaderName::try_from(&header.key).is_ok() {
                continue;
            }
            return Err("a header in its answer has no name of a header".to_owned());
        };
        let value = if header.raw_value.is_empty() { &header.value } else { &header.raw_value };
        let value = HeaderValue::from_bytes(value)
            .map_err(|_| format!("the value of `{name}` in its answer cannot stand in a header"))?;
        let change = match (option.append.map(|append| append.value), option.append_action) {
            (Some(true), _) => Change::Add(value),
            (Some(false), _) | (None, 2) => Change::Set(value),
            (None, 0) => unless_said(value),
            (None, 1) => Change::SetIfAbsent(value),
            (None, 3) => Change::SetIfPresent(value),
            (None, other) => {
                return Err(format!("`{name}` in its answer has the unknown append_action {other}"));
            }
        };
        edits.push(Edit { name, change });
    }
    Ok(edits)
}
