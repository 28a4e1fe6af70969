//! Why the gateway itself answered: one closed enum, the same word in the `x-tidegate-reason` header, the
//! access log and the metric label. Status, wording and what may be retried hang off it and nowhere else.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use http::StatusCode;
use pingora_core::{Error, ErrorType};

use crate::grpc;

/// The response header that carries [`Reason::code`].
pub const REASON_HEADER: &str = "x-tidegate-reason";

/// What a [`Reason`] means to everyone it is told to.
struct Row {
    /// The stable word: response header, access log and metric label.
    code: &'static str,
    status: u16,
    /// 14 (unavailable) where another try may well succeed, and 8 (resource exhausted) where the client has used up a
    /// quota or sends more than is allowed. `None` where the HTTP status says more than the reason does.
    grpc_status: Option<u8>,
    /// Seconds after which trying again makes sense.
    retry_after: Option<u32>,
    /// One sentence for the client. It names no address, key or file.
    detail: &'static str,
}

/// One table is the enum, [`Reason::ALL`] and every accessor: a reason without a row, or a row that lacks a column, does
/// not compile.
macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident { $($row:tt)* })*) => {
        /// Why the gateway itself answered a request. The word, the status and what the client is told are the same
        /// everywhere: in the response, the access log and the metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $reason,)*
        }

        impl Reason {
            pub const ALL: [Reason; ROWS.len()] = [$(Reason::$reason),*];
        }

        /// In the order of the enum, so that a reason is its row's index.
        const ROWS: &[Row] = &[$(Row { $($row)* }),*];
    };
}

reasons! {
    /// Malformed, ambiguous or unsafe request.
    BadRequest {
        code: "bad_request", status: 400, grpc_status: Some(13), retry_after: None,
        detail: "the request is malformed",
    }
    /// The path holds `%2F` or `%5C`, which are kept only where `paths.encoded_slashes: keep` says so.
    EncodedSlash {
        code: "encoded_slash", status: 400, grpc_status: Some(13), retry_after: None,
        detail: "the path holds an encoded slash or backslash",
    }
    /// A segment of the path, as it came or as a `rewrite` made it, is one that some servers read as `.` or `..`.
    DotSegment {
        code: "dot_segment", status: 400, grpc_status: Some(13), retry_after: None,
        detail: "the path holds a hidden dot segment",
    }
    /// What a `headers` filter was to write of the request cannot stand in a field.
    UnwritableField {
        code: "unwritable_field", status: 400, grpc_status: Some(13), retry_after: None,
        detail: "the request holds what a header field cannot",
    }
    /// The request header is larger than the listener's `header_size`, or has too many fields.
    HeaderTooLarge {
        code: "header_too_large", status: 431, grpc_status: Some(8), retry_after: None,
        detail: "the request header is too large",
    }
    /// The body is larger than the listener's `body_size`, or than a `body_limit` filter allows.
    RequestTooLarge {
        code: "request_too_large", status: 413, grpc_status: Some(8), retry_after: None,
        detail: "the request body is too large",
    }
    /// A filter held back more of the request's body than the listener's `filter_buffer` allows.
    RequestBufferFull {
        code: "request_buffer_full", status: 413, grpc_status: Some(8), retry_after: None,
        detail: "the request body is too large to be looked at as a whole",
    }
    /// A filter held back more of the response's body than the listener's `filter_buffer` allows.
    ResponseBufferFull {
        code: "response_buffer_full", status: 502, grpc_status: Some(14), retry_after: None,
        detail: "the response body is too large to be looked at as a whole",
    }
    /// The client took longer than `header_timeout` or `body_timeout` to send its request.
    ClientTimeout {
        code: "client_timeout", status: 408, grpc_status: Some(1), retry_after: None,
        detail: "the request took too long to arrive",
    }
    /// The client sends its request, or reads the response, more slowly than the listener's `min_rate`.
    ClientTooSlow {
        code: "client_too_slow", status: 408, grpc_status: Some(1), retry_after: None,
        detail: "the request or the response went too slowly",
    }
    /// The client went away before it had the whole response.
    // The status is never sent, only logged: the client is gone. nginx made 499 the field's number for it.
    ClientClosed {
        code: "client_closed", status: 499, grpc_status: Some(1), retry_after: None,
        detail: "the client closed the connection",
    }
    /// The host has another certificate than the one that the name in the TLS handshake led to (RFC 9110, section 15.5.20).
    Misdirected {
        code: "misdirected", status: 421, grpc_status: Some(14), retry_after: None,
        detail: "this host needs a connection of its own",
    }
    NoRoute {
        code: "no_route", status: 404, grpc_status: Some(12), retry_after: None,
        detail: "no route matches this request",
    }
    MethodNotAllowed {
        code: "method_not_allowed", status: 405, grpc_status: Some(12), retry_after: None,
        detail: "this method is not allowed here",
    }
    /// The request carries no credentials, or not the right ones.
    // Whoever refuses adds the challenge that RFC 9110, section 11.6.1, asks for.
    Unauthenticated {
        code: "unauthenticated", status: 401, grpc_status: Some(16), retry_after: None,
        detail: "valid credentials are needed",
    }
    /// Whether the credentials are right cannot be told just now.
    AuthUnavailable {
        code: "auth_unavailable", status: 503, grpc_status: Some(14), retry_after: Some(1),
        detail: "the credentials cannot be checked just now",
    }
    /// A login at a provider came to nothing: it was refused, is another browser's, took too long, or was tampered with.
    LoginFailed {
        code: "login_failed", status: 403, grpc_status: Some(16), retry_after: None,
        detail: "the login failed; open the page again to start over",
    }
    /// A filter does not let this client, or this origin, in.
    Forbidden {
        code: "forbidden", status: 403, grpc_status: Some(7), retry_after: None,
        detail: "this request is not allowed here",
    }
    /// A `fault` filter was told to fail the request.
    // The filter's options may name another status.
    FaultInjected {
        code: "fault_injected", status: 503, grpc_status: None, retry_after: None,
        detail: "a fault was injected",
    }
    /// A `rate_limit` or `concurrency_limit` filter said that it was one too many.
    RateLimited {
        code: "rate_limited", status: 429, grpc_status: Some(8), retry_after: None,
        detail: "too many requests",
    }
    /// The route wants endpoints with certain tags, and the upstream has none now.
    EmptySubset {
        code: "empty_subset", status: 503, grpc_status: Some(14), retry_after: Some(1),
        detail: "no endpoint of the kind that is wanted is there",
    }
    /// The upstream has no endpoint that may be used.
    UpstreamUnhealthy {
        code: "upstream_unhealthy", status: 503, grpc_status: Some(14), retry_after: Some(1),
        detail: "no healthy endpoint is available",
    }
    /// The endpoint that has this session cannot be used, and `when_lost: not_found` stands for it.
    SessionLost {
        code: "session_lost", status: 404, grpc_status: Some(5), retry_after: None,
        detail: "this session is lost: begin a new one",
    }
    /// The circuit breakers of all healthy endpoints are open.
    CircuitOpen {
        code: "circuit_open", status: 503, grpc_status: Some(14), retry_after: Some(1),
        detail: "the upstream keeps failing and is left alone for a while",
    }
    /// As many requests as the upstream's limits allow are under way, and as many as may wait are waiting; or so many
    /// passwords are being verified.
    Overloaded {
        code: "overloaded", status: 503, grpc_status: Some(14), retry_after: Some(1),
        detail: "too many requests are under way",
    }
    /// The upstream broke the connection, and the request could not be sent again: its body is too large to be kept.
    BodyNotReplayable {
        code: "body_not_replayable", status: 502, grpc_status: Some(14), retry_after: None,
        detail: "the upstream closed the connection, and the request body is too large to be sent again",
    }
    /// A plugin failed, or has no instance to run in, and `fail: closed` stands for it.
    PluginError {
        code: "plugin_error", status: 503, grpc_status: Some(14), retry_after: Some(1),
        detail: "a plugin failed on this request",
    }
    /// What a connection to the upstream needs, such as a certificate of our own, has not arrived yet.
    IdentityUnavailable {
        code: "identity_unavailable", status: 503, grpc_status: Some(14), retry_after: Some(1),
        detail: "the gateway has no identity to show to the upstream yet",
    }
    /// The connection was made to this gateway itself, so that where it was meant to go leads back here.
    LoopDetected {
        code: "loop_detected", status: 508, grpc_status: Some(13), retry_after: None,
        detail: "the request would come back to this gateway",
    }
    /// No connection could be made to any endpoint tried.
    ConnectFailed {
        code: "connect_failed", status: 502, grpc_status: Some(14), retry_after: None,
        detail: "the upstream cannot be reached",
    }
    /// The sidecar at the other end would not carry the connection; its own reason is the log's `detail`.
    TunnelRefused {
        code: "tunnel_refused", status: 502, grpc_status: Some(14), retry_after: None,
        detail: "the sidecar at the other end refused the connection",
    }
    /// The endpoint could not prove over TLS that it is who it should be. Nothing of the request was sent.
    UpstreamIdentityMismatch {
        code: "upstream_identity_mismatch", status: 502, grpc_status: Some(14), retry_after: None,
        detail: "the upstream did not prove that it is who it should be",
    }
    /// The upstream closed or reset the connection before its response was complete.
    UpstreamReset {
        code: "upstream_reset", status: 502, grpc_status: Some(14), retry_after: None,
        detail: "the upstream closed the connection",
    }
    /// Connecting, or waiting for the upstream to read or answer, took too long.
    UpstreamTimeout {
        code: "upstream_timeout", status: 504, grpc_status: Some(14), retry_after: None,
        detail: "the upstream took too long",
    }
    /// The request as a whole took longer than its route's `timeout`.
    RequestTimeout {
        code: "request_timeout", status: 504, grpc_status: Some(grpc::DEADLINE_EXCEEDED), retry_after: None,
        detail: "the request took too long",
    }
    /// Nothing was said on a TCP connection for as long as the listener's `idle_timeout`.
    IdleTimeout {
        code: "idle_timeout", status: 408, grpc_status: Some(1), retry_after: None,
        detail: "nothing was said for too long",
    }
    /// A `maintenance` filter is switched on.
    Maintenance {
        code: "maintenance", status: 503, grpc_status: Some(14), retry_after: Some(300),
        detail: "the service is under maintenance",
    }
    /// The gateway stopped, and had waited for `shutdown.grace`.
    Draining {
        code: "draining", status: 503, grpc_status: Some(14), retry_after: None,
        detail: "the gateway is stopping",
    }
    /// The upstream answered with something that is not HTTP.
    BadUpstreamResponse {
        code: "bad_upstream_response", status: 502, grpc_status: Some(14), retry_after: None,
        detail: "the upstream sent an invalid response",
    }
    /// Our own code panicked; the panic is in the log.
    Panic {
        code: "panic", status: 500, grpc_status: Some(13), retry_after: None,
        detail: "the gateway failed to handle this request",
    }
    /// Any other failure of our own.
    Internal {
        code: "internal", status: 500, grpc_status: Some(13), retry_after: None,
        detail: "the gateway failed to handle this request",
    }
}

// A status that is none stops the build here, so that `Reason::status` cannot meet one.
const _: () = {
    let mut reason = 0;
    while reason < ROWS.len() {
        assert!(StatusCode::from_u16(ROWS[reason].status).is_ok());
        reason += 1;
    }
};

impl Reason {
    const fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// The stable word: response header, access log and metric label.
    pub const fn code(self) -> &'static str {
        self.row().code
    }

    pub const fn status(self) -> StatusCode {
        match StatusCode::from_u16(self.row().status) {
            Ok(status) => status,
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether it is the client that has to do something else.
    pub const fn is_the_clients(self) -> bool {
        self.row().status < 500
    }

    /// What it is to a client of gRPC. A status that a filter chose (`fault`) says more than its reason: that is `None`.
    pub const fn grpc_status(self) -> Option<u8> {
        self.row().grpc_status
    }

    /// One sentence for the client. It names no address, key or file.
    pub const fn detail(self) -> &'static str {
        self.row().detail
    }

    /// Seconds after which trying again makes sense, for `Retry-After`.
    pub const fn retry_after(self) -> Option<u32> {
        self.row().retry_after
    }

    /// Runs `step`, of which a panic ends this one request and nothing else. Whatever outlives the request must be valid
    /// at every point of `step`: it may end anywhere.
    ///
    /// # Errors
    /// [`Reason::Panic`], or what `step` answers.
    pub fn catching<T>(step: impl FnOnce() -> Result<T, Reason>) -> Result<T, Reason> {
        catch_unwind(AssertUnwindSafe(step)).unwrap_or(Err(Reason::Panic))
    }

    /// The reason that an error of the proxy engine was made of, if it was.
    #[doc(hidden)]
    pub fn told_by(error: &Error) -> Option<Reason> {
        // The engine has types of its own that are `Custom` too: "InvalidChunk".
        match error.etype() {
            ErrorType::Custom(code) => Reason::from_code(code),
            _ => None,
        }
    }

    pub fn from_code(code: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// As an error of the proxy engine that ends the current request.
    #[doc(hidden)]
    pub fn into_error(self) -> Box<Error> {
        Error::new(ErrorType::Custom(self.code()))
    }

    /// The body of an answer of our own: problem details (RFC 9457) when the client accepts JSON, else one line.
    pub fn body(self, accepts_json: bool) -> (&'static str, Bytes) {
        self.body_with(self.status(), accepts_json)
    }

    /// The same for an answer whose status is another than the reason's own.
    pub fn body_with(self, status: StatusCode, accepts_json: bool) -> (&'static str, Bytes) {
        if accepts_json {
            let body = format!(
                r#"{{"type":"about:blank","title":"{}","status":{},"detail":"{}","reason":"{}"}}"#,
                status.canonical_reason().unwrap_or("Error"),
                status.as_u16(),
                self.detail(),
                self.code()
            );
            ("application/problem+json", body.into())
        } else {
            ("text/plain; charset=utf-8", format!("{}\n", self.detail()).into())
        }
    }
}

/// True when an `Accept` field value asks for JSON by name; `*/*` alone gets plain text.
pub fn accepts_json(accept: Option<&[u8]>) -> bool {
    accept.is_some_and(|value| {
        memchr::memmem::find(value, b"application/json").is_some()
            || memchr::memmem::find(value, b"application/problem+json").is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_as_its_reason() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
        }
    }

    #[test]
    fn a_json_body_parses_and_names_the_reason() {
        for reason in Reason::ALL {
            let (content_type, body) = reason.body(true);
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(content_type, "application/problem+json");
            assert_eq!(body["reason"], reason.code());
            assert_eq!(body["status"], reason.status().as_u16());
        }
    }

    #[test]
    fn a_reason_survives_the_way_through_the_engine() {
        assert_eq!(Reason::told_by(&Reason::RequestTooLarge.into_error()), Some(Reason::RequestTooLarge));
        assert_eq!(Reason::told_by(&Error::new(ErrorType::Custom("InvalidChunk"))), None);
    }

    #[test]
    fn json_is_sent_only_to_those_who_name_it() {
        assert!(accepts_json(Some(b"text/html, application/json;q=0.9")));
        assert!(!accepts_json(Some(b"*/*")));
        assert!(!accepts_json(None));
    }
}
