//! What is known about one request while it passes through the stages.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Method, Uri, header};
use pingora_http::RequestHeader;

use crate::{
    accept::Connection,
    error::Reason,
    filter::Facts,
    forward::{self, Attempts},
    route::{self, Outcome, normalise},
    snapshot::{Listener, Route, Snapshot},
};

pub struct Context {
    /// Pinned once: the request sees one whole configuration.
    pub snapshot: Arc<Snapshot>,
    pub started: Instant,
    /// The listener's settings in that snapshot; `None` until the request has been received.
    pub listener: Option<Arc<Listener>>,
    pub connection: Option<Arc<Connection>>,
    pub facts: Facts,
    pub route: Option<Arc<Route>>,
    pub attempts: Attempts,
    /// Bytes of the request body so far.
    pub body_read: u64,
    /// Why the gateway itself answered, if it did.
    pub reason: Option<Reason>,
}

impl Context {
    pub fn new(snapshot: Arc<Snapshot>) -> Context {
        Context {
            snapshot,
            started: Instant::now(),
            listener: None,
            connection: None,
            facts: Facts::default(),
            route: None,
            attempts: Attempts::default(),
            body_read: 0,
            reason: None,
        }
    }

    /// The request came in on `connection`.
    pub fn arrive(&mut self, connection: Arc<Connection>) {
        // A listener that a reload took away serves what is in flight with its last settings.
        let listener = self.snapshot.listeners.get(connection.port.key()).cloned();
        let listener = listener.unwrap_or_else(|| connection.port.settings().clone());
        listener.metrics.request_started();
        self.listener = Some(listener);
        self.connection = Some(connection);
    }

    /// Find out who asks for what, and bring the request into the one form that is matched *and* forwarded: a path in
    /// normal form, a target without scheme and authority, one `Host`.
    ///
    /// # Errors
    ///
    /// The target cannot be brought into that form.
    pub fn identify(&mut self, request: &mut RequestHeader) -> Result<(), Reason> {
        let peer = self.connection.as_ref().ok_or(Reason::Internal)?.peer.ip();
        let trusted = &self.snapshot.trusted_proxies;
        self.facts.from_trusted = !trusted.is_empty() && forward::is_trusted(peer, trusted);
        self.facts.client = forward::client(peer, &request.headers, trusted);
        self.facts.authority = authority(request);
        if self.facts.from_trusted
            && request.headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https")
        {
            self.facts.scheme = "https";
        }
        if !request.raw_path_is_utf8() {
            return Err(Reason::BadRequest);
        }
        let path =
            normalise(request.uri.path(), self.snapshot.encoded_slashes).map_err(|_| Reason::BadRequest)?;
        // Pingora keeps the authority of an absolute target out of the `Uri` and sends the target on as it came.
        let bare = matches!(request.raw_path(), [b'/', ..] | b"*") && request.uri.authority().is_none();
        let in_form = matches!(path, Cow::Borrowed(_)) && bare;
        if !in_form {
            let target = target(&path, &request.uri).parse().map_err(|_| Reason::BadRequest)?;
            // The authority moves into `Host`, from where Pingora takes it for either version upstream.
            if let Some(authority) = &self.facts.authority {
                request.insert_header(header::HOST, authority.clone()).map_err(|_| Reason::BadRequest)?;
            }
            request.set_uri(target);
        }
        self.facts.target = request.uri.clone();
        Ok(())
    }

    /// Choose the route.
    ///
    /// # Errors
    ///
    /// None matches, or the listener is unknown.
    pub fn find_route(&mut self, request: &RequestHeader) -> Result<(), Unrouted> {
        let listener = self.listener.as_ref().ok_or(Unrouted::because(Reason::Internal))?;
        let outcome = listener.table.find(&route::Request {
            host: self.facts.host(),
            path: self.facts.path(),
            query: request.uri.query(),
            method: &request.method,
            headers: &request.headers,
        });
        match outcome {
            Outcome::Found { id, params } => {
                self.facts.params = params;
                self.route = listener.routes.get(id).cloned();
                self.facts.route = self.route.as_ref().map(|route| route.name.clone());
                Ok(())
            }
            Outcome::MethodNotAllowed { allow } => Err(Unrouted { reason: Reason::MethodNotAllowed, allow }),
            Outcome::NotFound => Err(Unrouted::because(Reason::NoRoute)),
        }
    }

    /// True when the request says that its body is larger than the listener allows.
    pub fn announces_too_much(&self, headers: &HeaderMap) -> bool {
        let length =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        length.is_some_and(|length| self.is_too_much(length))
    }

    /// Count a part of the body. False when it is one too many.
    pub fn takes(&mut self, bytes: usize) -> bool {
        self.body_read += bytes as u64;
        !self.is_too_much(self.body_read)
    }

    fn is_too_much(&self, length: u64) -> bool {
        self.listener.as_ref().is_some_and(|listener| length > listener.limits.body_size)
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Why no route takes the request.
pub struct Unrouted {
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
            listener.metrics.request_ended();
        }
    }
}
