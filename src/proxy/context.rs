//! What is known about one request while it passes through the stages.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::{
    accept::{Connection, Session},
    error::Reason,
    filter::{Decided, Exchange, Facts, Held, Phases, Response},
    forward::{self, Attempts, ClientAddresses, Copy, Ended, Why},
    grpc::{self, Call},
    policy::failure::{Failure, Kind, Outcome as AttemptOutcome, Stage},
    route::{self, Outcome, normalise},
    snapshot::{Listener, Route, Snapshot},
};

/// Fields that are written to most requests.
const MOST_WRITTEN: usize = 8;

pub(crate) struct Context {
    /// Pinned once: the request sees one whole configuration.
    pub snapshot: Arc<Snapshot>,
    pub started: Instant,
    /// The listener's settings in that snapshot; `None` until the request has been received.
    pub listener: Option<Arc<Listener>>,
    pub connection: Option<Arc<Connection>>,
    pub facts: Facts,
    pub route: Option<Arc<Route>>,
    /// Which conditional filters of the listener's chain run, and which of the route's.
    pub listener_steps: Decided,
    pub route_steps: Decided,
    pub attempts: Attempts,
    /// When the request had been received whole, body and all.
    pub sent: Option<Instant>,
    /// Bytes of the request body so far.
    pub body_read: u64,
    /// Why the gateway itself answered, if it did.
    pub reason: Option<Reason>,
    /// The copy for the route's mirror, while its body is read.
    pub mirror: Option<Copy>,
    /// What the filters that run do, with bodies above all.
    body_phases: Phases,
    held_request: Held,
    held_response: Held,
    /// The answer of a filter that saw a body.
    pub reply: Option<Response>,
    /// The connection speaks another protocol now.
    upgraded: bool,
    pub deadline: Deadline,
}

/// By when a request must have come further.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deadline {
    /// When the whole request must be done: the route's `timeout`, or the client's where that is sooner.
    done_by: Option<Instant>,
    is_clients: bool,
    /// When the head of the upstream's answer must be there: `per_try_timeout`.
    answered_by: Option<Instant>,
}

impl Deadline {
    /// The sooner of the two.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.done_by.into_iter().chain(self.answered_by).min()
    }

    /// What is late, if something is.
    pub(crate) fn overdue(&self, stage: Stage, now: Instant) -> Option<Failure> {
        let is_past = |by: Option<Instant>| by.is_some_and(|by| by <= now);
        match () {
            () if is_past(self.done_by) => Some(Failure::new(stage, Kind::Overdue)),
            () if is_past(self.answered_by) => Some(Failure::new(stage, Kind::TimedOut)),
            () => None,
        }
    }

    /// Whether the time of the request is what its client gave it. That it is over says nothing about an endpoint: else any
    /// client could have breakers open by giving none.
    pub(crate) fn is_clients(&self) -> bool {
        self.is_clients
    }

    /// Whether the whole request must be done by some time.
    pub(crate) fn is_set(&self) -> bool {
        self.done_by.is_some()
    }

    /// What of the request's time is left; `None` without a limit.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        self.done_by.map(|by| by.saturating_duration_since(now))
    }

    /// The head of the upstream's answer must be there by then.
    pub(crate) fn expect_answer(&mut self, by: Option<Instant>) {
        self.answered_by = by;
    }
}

impl Context {
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Context {
        Context {
            snapshot,
            started: Instant::now(),
            listener: None,
            connection: None,
            facts: Facts::default(),
            route: None,
            listener_steps: Decided::default(),
            route_steps: Decided::default(),
            attempts: Attempts::default(),
            sent: None,
            body_read: 0,
            reason: None,
            mirror: None,
            body_phases: Phases::empty(),
            held_request: Held::default(),
            held_response: Held::default(),
            reply: None,
            upgraded: false,
            deadline: Deadline::default(),
        }
    }

    /// The request came in.
    pub(crate) fn arrive(&mut self, connection: Arc<Connection>) {
        // A listener that a reload took away serves what is in flight with its last settings.
        let listener = self.snapshot.listeners.get(connection.port.key()).cloned();
        let listener = listener.unwrap_or_else(|| connection.port.settings().clone());
        listener.metrics.request_started();
        self.attempts.original_destination = connection.original_destination();
        self.listener = Some(listener);
        self.connection = Some(connection);
    }

    /// The whole request, from its arrival to the end of the response, may take this long.
    pub(crate) fn limit(&mut self, timeout: Option<Duration>) {
        self.deadline.done_by = timeout.and_then(|timeout| self.started.checked_add(timeout));
    }

    /// The client of a call has said how long it waits: it is not waited longer than that. Where the route leads to gRPC,
    /// each message is bounded instead of the whole.
    pub(crate) fn limit_call(&mut self) {
        let Some(call) = &mut self.facts.grpc else { return };
        call.is_streamed = self.route.as_ref().is_some_and(|route| route.carries_grpc());
        let Some(waits) = call.timeout else { return };
        let allowed = self.route.as_ref().and_then(|route| route.timeout);
        if allowed.is_none_or(|allowed| waits < allowed) {
            self.deadline.is_clients = true;
            self.limit(Some(waits));
        }
    }

    /// The request has become a conversation in another protocol, which may be as long as it likes.
    pub(crate) fn upgrade(&mut self) {
        self.limit(None);
        if let (Some(connection), Some(listener), false) = (&self.connection, &self.listener, self.upgraded) {
            connection.upgrade(listener.limits.upgraded_idle_timeout);
            listener.metrics.upgraded();
            self.upgraded = true;
        }
    }

    /// Find out who asks for what, and bring the request into the one form that is matched *and* forwarded: a path in
    /// normal form, a target without scheme and authority, one `Host`.
    ///
    /// # Errors
    ///
    /// The target cannot be brought into that form.
    pub(crate) fn identify(&mut self, request: &mut RequestHeader) -> Result<(), Reason> {
        let connection = self.connection.as_ref().ok_or(Reason::Internal)?;
        let peer = connection.peer.ip();
        let trusted = &self.snapshot.trusted_proxies;
        self.facts.peer = peer;
        self.facts.from_trusted = !trusted.is_empty() && forward::is_trusted(peer, trusted);
        let forwarded = &self.snapshot.config.forwarded;
        let claim = forward::claim(peer, &request.headers, trusted, forwarded.trust);
        self.facts.client = claim.client;
        if let Some(tls) = connection.tls() {
            self.facts.spoken = "https";
            self.facts.caller.clone_from(&tls.caller);
            self.facts.client_cert.clone_from(&tls.client_cert);
        }
        self.facts.scheme = claim.scheme.unwrap_or(self.facts.spoken);
        forward::forget_client_cert(request, &self.facts, forwarded);
        if !request.raw_path_is_utf8() {
            return Err(Reason::BadRequest);
        }
        self.settle(request)?;
        self.facts.grpc = Call::of(request.version, &request.method, &request.headers);
        Ok(())
    }

    /// Bring the target into that form: once more, where a filter has changed it before the route is chosen.
    ///
    /// # Errors
    ///
    /// It cannot be.
    pub(crate) fn settle(&mut self, request: &mut RequestHeader) -> Result<(), Reason> {
        self.facts.authority = authority(request);
        let path =
            normalise(request.uri.path(), self.snapshot.encoded_slashes).map_err(|_| Reason::BadRequest)?;
        let bare = matches!(request.raw_path(), [b'/', ..] | b"*") && request.uri.authority().is_none();
        let in_form = matches!(path, Cow::Borrowed(_)) && bare;
        if !in_form {
            let target = target(&path, &request.uri).parse().map_err(|_| Reason::BadRequest)?;
            // The authority moves into `Host`, from where it is taken for either version upstream.
            if let Some(authority) = &self.facts.authority {
                request.insert_header(header::HOST, authority.clone()).map_err(|_| Reason::BadRequest)?;
            }
            request.set_uri(target);
        }
        self.facts.target = request.uri.clone();
        Ok(())
    }

    /// Whose request it is, as far as that is believed: an upstream may be told.
    pub(crate) fn addresses(&self) -> ClientAddresses {
        let client = self.facts.client;
        let unknown = SocketAddr::from(([0; 8], 0));
        let (peer, local) = match &self.connection {
            Some(connection) => (connection.peer, connection.local),
            None => (unknown, unknown),
        };
        // The port is known only of one who comes directly.
        let is_peer = peer.ip().to_canonical() == client.to_canonical();
        ClientAddresses { client: if is_peer { peer } else { (client, 0).into() }, local }
    }

    /// Choose the route, and which of its filters and of the listener's run.
    ///
    /// # Errors
    ///
    /// None matches, or the listener is unknown.
    pub(crate) fn find_route(&mut self, request: &RequestHeader) -> Result<(), Unrouted> {
        if let Some(listener) = self.listener.clone() {
            self.listener_steps = listener.chain.decide(&self.to_match(request));
        }
        self.find_route_anew(request)
    }

    /// The same once the listener's filters have run, and one of them may have changed the request.
    ///
    /// # Errors
    ///
    /// None matches.
    pub(crate) fn find_route_anew(&mut self, request: &RequestHeader) -> Result<(), Unrouted> {
        (self.route, self.facts.route) = (None, None);
        let listener = self.listener.clone().ok_or(Unrouted::because(Reason::Internal))?;
        let request = self.to_match(request);
        match listener.table.find(&request) {
            Outcome::Found { id, params } => {
                let route = listener.routes.get(id).cloned();
                let steps = route.as_ref().map(|route| route.chain.decide(&request));
                (self.route, self.route_steps) = (route, steps.unwrap_or_default());
                self.facts.params = params;
                self.facts.route = self.route.as_ref().map(|route| route.name.clone());
                Ok(())
            }
            Outcome::MethodNotAllowed { allow } => Err(Unrouted { reason: Reason::MethodNotAllowed, allow }),
            Outcome::NotFound => Err(Unrouted::because(Reason::NoRoute)),
        }
    }

    fn to_match<'r>(&'r self, request: &'r RequestHeader) -> route::Request<'r> {
        route::Request {
            host: self.facts.host(),
            path: self.facts.path(),
            query: request.uri.query(),
            method: &request.method,
            headers: &request.headers,
        }
    }

    /// True when the request says that its body is larger than the listener allows.
    pub(crate) fn announces_too_much(&self, headers: &HeaderMap) -> bool {
        let length =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        length.is_some_and(|length| self.is_too_much(length))
    }

    /// Count a part of the body. False when it is one too many. The stream of a call may go on for ever: there it is each
    /// message that may not be too large.
    pub(crate) fn takes(&mut self, part: &[u8]) -> bool {
        self.body_read += part.len() as u64;
        let length = match self.stream() {
            None => self.body_read,
            Some(call) => call.longest_message(part),
        };
        !self.is_too_much(length)
    }

    /// The call, where it may be a stream without end.
    pub(crate) fn stream(&mut self) -> Option<&mut Call> {
        self.facts.grpc.as_mut().filter(|call| call.is_streamed)
    }

    /// A part of the request's body as its upstream is to get it; with `trailers` it is the last.
    ///
    /// # Errors
    ///
    /// A filter refuses it, or answers: [`Ended::Replied`].
    pub(crate) fn filter_request_body(
        &mut self,
        session: &mut Session,
        data: &mut Bytes,
        mut trailers: Option<&mut HeaderMap>,
    ) -> Result<(), Ended> {
        if !self.body_phases.intersects(Phases::REQUEST_BODY | Phases::REQUEST_TRAILERS) {
            return Ok(());
        }
        let Context { facts, listener, listener_steps, route, route_steps, held_request, .. } = self;
        let most = listener.as_ref().map_or(0, |listener| listener.limits.filter_buffer);
        let mut exchange = Exchange { request: session.request_mut(), response: None, facts };
        let chains = [
            listener.as_ref().map(|listener| (&listener.chain, *listener_steps)),
            route.as_ref().map(|route| (&route.chain, *route_steps)),
        ];
        for (chain, steps) in chains.into_iter().flatten() {
            let trailers = trailers.as_deref_mut();
            let answer = chain.on_request_body(steps, &mut exchange, data, trailers, held_request, most)?;
            if let Some(answer) = answer {
                self.reply = Some(answer);
                return Err(Ended::Replied);
            }
        }
        Ok(())
    }

    /// A part of the response's body as the client is to get it; with `trailers` it is the last.
    ///
    /// # Errors
    ///
    /// A filter refuses it, or answers: [`Ended::Replied`].
    pub(crate) fn filter_response_body(
        &mut self,
        session: &mut Session,
        data: &mut Bytes,
        mut trailers: Option<&mut HeaderMap>,
    ) -> Result<(), Ended> {
        if !self.filters_response_body() {
            return Ok(());
        }
        let Context { facts, listener, listener_steps, route, route_steps, held_response, .. } = self;
        let most = listener.as_ref().map_or(0, |listener| listener.limits.filter_buffer);
        let mut exchange = Exchange { request: session.request_mut(), response: None, facts };
        // The first filter is outermost: it hears a response last.
        let chains = [
            route.as_ref().map(|route| (&route.chain, *route_steps)),
            listener.as_ref().map(|listener| (&listener.chain, *listener_steps)),
        ];
        for (chain, steps) in chains.into_iter().flatten() {
            let trailers = trailers.as_deref_mut();
            let answer = chain.on_response_body(steps, &mut exchange, data, trailers, held_response, most)?;
            if let Some(answer) = answer {
                self.reply = Some(answer);
                return Err(Ended::Replied);
            }
        }
        Ok(())
    }

    /// Whether a filter may change the response's body.
    pub(crate) fn filters_response_body(&self) -> bool {
        self.body_phases.intersects(Phases::RESPONSE_BODY | Phases::RESPONSE_TRAILERS)
    }

    /// Which filters run is known: what they do with bodies.
    pub(crate) fn settle_phases(&mut self) {
        let listener = self.listener.as_ref().map(|listener| listener.chain.phases(self.listener_steps));
        let route = self.route.as_ref().map(|route| route.chain.phases(self.route_steps));
        self.body_phases = listener.unwrap_or(Phases::empty()) | route.unwrap_or(Phases::empty());
    }

    /// The head of an endpoint's answer is there. What came of a call may be known only with its trailers.
    pub(crate) fn judge(&mut self, response: &ResponseHeader, grpc: Option<u8>, now: Instant) {
        if let Some(call) = &mut self.facts.grpc {
            call.status = grpc;
            if forward::is_told_by_trailers(response) {
                return self.attempts.begins_to_answer(now);
            }
            if self.gave_no_time(grpc, now) {
                return self.attempts.finish();
            }
        }
        self.attempts.answered(AttemptOutcome::of_answer(response.status.as_u16(), grpc), now);
    }

    /// The trailers of the answer are there, which say what came of a call.
    pub(crate) fn end_call(&mut self, trailers: &HeaderMap) {
        let Some(call) = self.facts.grpc.as_mut() else { return };
        let status = grpc::status_in(trailers);
        call.status = Some(status.unwrap_or(grpc::UNKNOWN));
        let now = Instant::now();
        if self.attempts.is_undecided() {
            match self.gave_no_time(status, now) {
                true => self.attempts.finish(),
                false => {
                    let outcome = AttemptOutcome::of_answer(200, status.or(Some(grpc::UNKNOWN)));
                    self.attempts.concluded(outcome, now);
                }
            }
        }
    }

    /// The endpoint says that the deadline has passed, and it was the client who set it.
    fn gave_no_time(&self, status: Option<u8>, now: Instant) -> bool {
        const CLOCKS_DIFFER: Duration = Duration::from_millis(50);
        status == Some(grpc::DEADLINE_EXCEEDED)
            && self.deadline.is_clients
            && self.deadline.done_by.is_some_and(|by| by <= now + CLOCKS_DIFFER)
    }

    fn is_too_much(&self, length: u64) -> bool {
        self.listener.as_ref().is_some_and(|listener| length > listener.limits.body_size)
    }

    /// Tell the upstream who asks, which try this is, and what is left of the time.
    ///
    /// # Errors
    ///
    /// The request has too many header fields.
    pub(crate) fn write_forwarded(&mut self, header: &mut RequestHeader) -> Result<(), Reason> {
        let peer = &self.connection.as_ref().ok_or(Reason::Internal)?.peer_text;
        let nothing: RequestHeader = http::Request::new(()).into_parts().0.into();
        let mut parts: http::request::Parts = std::mem::replace(header, nothing).into();
        // Once, for what is written here and by most filters.
        parts.headers.reserve(MOST_WRITTEN);
        forward::write_forwarded(&mut parts.headers, &self.facts, peer, &self.snapshot.config.forwarded)?;
        let left = self.deadline.is_set().then(|| self.deadline.left(Instant::now())).flatten();
        forward::write_tries(&mut parts.headers, self.route.as_ref(), self.attempts.count().max(1), left)?;
        *header = parts.into();
        Ok(())
    }

    /// Run the listener's and the route's filters over a request as its endpoint will see it.
    ///
    /// # Errors
    ///
    /// A filter refused it.
    pub(crate) fn on_forward(&mut self, header: &mut RequestHeader) -> Result<(), Reason> {
        let mut exchange = Exchange { request: header, response: None, facts: &mut self.facts };
        let chains = [
            self.listener.as_ref().map(|listener| (&listener.chain, self.listener_steps)),
            self.route.as_ref().map(|route| (&route.chain, self.route_steps)),
        ];
        chains.into_iter().flatten().try_for_each(|(chain, steps)| chain.on_forward(steps, &mut exchange))
    }

    /// Tell the filters that the request is over.
    pub(crate) fn on_end(&mut self, session: &mut Session) {
        if !self.body_phases.contains(Phases::END) {
            return;
        }
        let mut exchange =
            Exchange { request: session.request_mut(), response: None, facts: &mut self.facts };
        if let Some(listener) = &self.listener {
            listener.chain.on_end(self.listener_steps, &mut exchange);
        }
        if let Some(route) = &self.route {
            route.chain.on_end(self.route_steps, &mut exchange);
        }
    }

    /// A call of gRPC whose status is still to come: in trailers, or not at all.
    pub(crate) fn is_call_open(&self) -> bool {
        self.facts.grpc.is_some() && self.attempts.is_undecided()
    }

    /// Whether another try follows the one that ended so. `replayable` says that the request can be sent again.
    pub(crate) fn tries_again(
        &mut self,
        why: Why,
        session: &Session,
        replayable: bool,
        now: Instant,
    ) -> bool {
        let Some(route) = self.route.clone() else { return false };
        let request = forward::Request {
            method: &session.request().method,
            replayable: replayable && session.responded().is_none(),
            left: self.deadline.left(now),
        };
        self.attempts.again(why, &route, &request, now)
    }
}

/// Why no route takes the request.
pub(crate) struct Unrouted {
    pub reason: Reason,
    /// For `Allow`, where other methods are served.
    pub allow: Vec<Method>,
}

impl Unrouted {
    fn because(reason: Reason) -> Unrouted {
        Unrouted { reason, allow: Vec::new() }
    }
}

/// The target's authority goes before the `Host` field (RFC 9112, section 3.2.2).
fn authority(request: &RequestHeader) -> Option<HeaderValue> {
    match request.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => request.headers.get(header::HOST).filter(|host| !host.is_empty()).cloned(),
    }
}

fn target(path: &str, uri: &Uri) -> String {
    match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

impl Drop for Context {
    /// Also when the request ends in a panic.
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            if self.upgraded {
                listener.metrics.upgraded_ended();
            }
            listener.metrics.request_ended();
        }
    }
}
