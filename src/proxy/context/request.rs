//! Who asks for what: in the one form that is matched and forwarded, and as an endpoint is told.

use std::{borrow::Cow, net::SocketAddr, time::Instant};

use http::{HeaderMap, HeaderValue, Uri, header};
use pingora_http::RequestHeader;

use super::Context;
use crate::{
    config::Via,
    error::Reason,
    filter::{Exchange, TlsFacts},
    forward::{self, ClientAddresses},
    grpc::Call,
    route::{PathError, normalise},
};

/// Fields that are written to most requests.
const MOST_WRITTEN: usize = 8;

impl Context {
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
        (self.facts.peer, self.facts.peer_port) = (peer, connection.peer.port());
        self.facts.from_trusted = !trusted.is_empty() && forward::is_trusted(peer, trusted);
        let forwarded = &self.snapshot.config.forwarded;
        let claim = forward::claim(peer, &request.headers, trusted, forwarded.trust);
        self.facts.client = claim.client;
        self.facts.ipv6_prefix = self.listener.as_ref().map(|to| to.limits.ipv6_prefix).unwrap_or_default();
        if let Some(tls) = connection.tls() {
            self.facts.spoken = "https";
            self.facts.caller.clone_from(&tls.caller);
            self.facts.client_cert.clone_from(&tls.client_cert);
            self.facts.tls =
                Some(TlsFacts { version: tls.version, sni: tls.sni.clone(), ja4: tls.ja4.clone() });
        }
        self.facts.scheme = claim.scheme.unwrap_or(self.facts.spoken);
        forward::forget_forged(request, &self.facts, forwarded);
        // As it was asked for: where it cannot be brought into form, the log shows what was refused.
        self.facts.target = request.uri.clone();
        if !request.raw_path_is_utf8() {
            return Err(Reason::BadRequest);
        }
        self.settle(request)?;
        // A proxy of the operator's own may use one connection for all hosts.
        let tls = self
            .connection
            .as_ref()
            .and_then(|connection| connection.tls())
            .filter(|_| !self.facts.from_trusted);
        if tls.is_some_and(|tls| tls.is_misdirected(self.facts.host())) {
            return Err(Reason::Misdirected);
        }
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
        let path = match normalise(request.uri.path()) {
            Ok(path) => path,
            Err(error) => {
                // The log tells what was asked for, as it came.
                self.facts.target = request.uri.clone();
                return Err(refusal(error));
            }
        };
        let bare = matches!(request.raw_path(), [b'/', ..] | b"*")
            && request.uri.authority().is_none()
            && request.headers.get(header::HOST) == self.facts.authority.as_ref();
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

    /// True when the request says that its body is larger than the listener allows.
    pub(crate) fn announces_too_much(&self, headers: &HeaderMap) -> bool {
        let length =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        length.is_some_and(|length| self.is_too_much(length))
    }

    /// Tell the upstream who asks, which try this is, and what is left of the time.
    ///
    /// # Errors
    ///
    /// The request has too many header fields.
    pub(crate) fn write_forwarded(&mut self, header: &mut RequestHeader) -> Result<(), Reason> {
        let peer = &self.connection.as_ref().ok_or(Reason::Internal)?.peer_text;
        let left = self.deadline.is_set().then(|| self.deadline.left(Instant::now())).flatten();
        forward::count_forwards(header)?;
        if self.snapshot.config.forwarded.via == Via::On {
            let via = forward::via(header.version);
            header.append_header(header::VIA, via).map_err(|_| Reason::HeaderTooLarge)?;
        }
        with_headers(header, |headers| {
            // Once, for what is written here and by most filters.
            headers.reserve(MOST_WRITTEN);
            forward::hide_affinity(headers, self.route.as_ref());
            forward::write_forwarded(headers, &self.facts, peer, &self.snapshot.config.forwarded)?;
            if let (Some(current), Some(span)) = (&self.facts.trace, self.attempts.span()) {
                current.write(headers, span).map_err(|_| Reason::HeaderTooLarge)?;
            }
            forward::write_tries(headers, self.route.as_ref(), self.attempts.count().max(1), left)
        })
    }

    /// Run the filters of the listener, the route and the variant over a request as its endpoint will see it.
    ///
    /// # Errors
    ///
    /// A filter refused it.
    pub(crate) fn on_forward(&mut self, header: &mut RequestHeader) -> Result<(), Reason> {
        let mut exchange = Exchange { request: header, response: None, facts: &mut self.facts };
        let chains = [
            self.listener.as_ref().map(|listener| (&listener.chain, self.listener_steps)),
            self.route.as_ref().map(|route| (&route.chain, self.route_steps)),
            self.variant.as_ref().map(|(variant, steps)| (&variant.filters, *steps)),
        ];
        chains.into_iter().flatten().try_for_each(|(chain, steps)| chain.on_forward(steps, &mut exchange))
    }
}

/// Fields can be had as such only for a moment.
pub(super) fn with_headers<T>(header: &mut RequestHeader, edit: impl FnOnce(&mut HeaderMap) -> T) -> T {
    let nothing: RequestHeader = http::Request::new(()).into_parts().0.into();
    let mut parts: http::request::Parts = std::mem::replace(header, nothing).into();
    let edited = edit(&mut parts.headers);
    *header = parts.into();
    edited
}

/// The target's authority goes before the `Host` field (RFC 9112, section 3.2.2). A port that is left out takes its colon along,
/// which not everybody behind us would read.
fn authority(request: &RequestHeader) -> Option<HeaderValue> {
    let host = request.headers.get(header::HOST);
    let named = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    match (named.or(host.map(HeaderValue::as_bytes))?, host) {
        ([], _) => None,
        ([rest @ .., b':'], _) => HeaderValue::from_bytes(rest).ok(),
        (authority, Some(host)) if named.is_none() || host == authority => Some(host.clone()),
        (authority, _) => HeaderValue::from_bytes(authority).ok(),
    }
}

fn refusal(error: PathError) -> Reason {
    match error {
        PathError::DotSegment => Reason::DotSegment,
        _ => Reason::BadRequest,
    }
}

fn target(path: &str, uri: &Uri) -> String {
    match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}
