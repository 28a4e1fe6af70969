//! Why the gateway itself answered: one closed enum, the same word in the `x-tidegate-reason` header, the
//! access log and the metric label. Status, wording and what may be retried hang off it and nowhere else.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use http::StatusCode;
use pingora_core::{Error, ErrorType};

use crate::grpc;

/// The response header that carries [`Reason::code`].
pub const REASON_HEADER: &str = "x-tidegate-reason";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Malformed, ambiguous or unsafe request.
    BadRequest,
    /// The request header is larger than the listener's `header_size`, or has too many fields.
    HeaderTooLarge,
    /// The body is larger than the listener's `body_size`, or than a `body_limit` filter allows.
    RequestTooLarge,
    /// The client took longer than `header_timeout` or `body_timeout` to send its request.
    ClientTimeout,
    /// The client went away before it had the whole response.
    ClientClosed,
    NoRoute,
    MethodNotAllowed,
    /// The request carries no credentials, or not the right ones.
    Unauthenticated,
    /// Whether the credentials are right cannot be told just now.
    AuthUnavailable,
    /// A filter does not let this client, or this origin, in.
    Forbidden,
    /// A `fault` filter was told to fail the request.
    FaultInjected,
    /// A `rate_limit` filter said that it was one too many.
    RateLimited,
    /// The upstream has no endpoint that may be used.
    UpstreamUnhealthy,
    /// The circuit breakers of all healthy endpoints are open.
    CircuitOpen,
    /// As many requests as the upstream's limits allow are under way, and as many as may wait are waiting; or so many
    /// passwords are being verified.
    Overloaded,
    /// What a connection to the upstream needs, such as a certificate of our own, has not arrived yet.
    IdentityUnavailable,
    /// The connection was made to this gateway itself, so that where it was meant to go leads back here.
    LoopDetected,
    /// No connection could be made to any endpoint tried.
    ConnectFailed,
    /// The endpoint could not prove over TLS that it is who it should be. Nothing of the request was sent.
    UpstreamIdentityMismatch,
    /// The upstream closed or reset the connection before its response was complete.
    UpstreamReset,
    /// Connecting, or waiting for the upstream to read or answer, took too long.
    UpstreamTimeout,
    /// The request as a whole took longer than its route's `timeout`.
    RequestTimeout,
    /// Nothing was said on a TCP connection for as long as the listener's `idle_timeout`.
    IdleTimeout,
    /// The gateway stopped, and had waited for `shutdown.grace`.
    Draining,
    /// The upstream broke the connection, and the request could not be sent again: its body is too large to be kept.
    BodyNotReplayable,
    /// The upstream answered with something that is not HTTP.
    BadUpstreamResponse,
    /// Our own code panicked; the panic is in the log.
    Panic,
    /// Any other failure of our own.
    Internal,
}

impl Reason {
    pub const ALL: [Reason; 28] = [
        Reason::BadRequest,
        Reason::HeaderTooLarge,
        Reason::RequestTooLarge,
        Reason::ClientTimeout,
        Reason::ClientClosed,
        Reason::NoRoute,
        Reason::MethodNotAllowed,
        Reason::Unauthenticated,
        Reason::AuthUnavailable,
        Reason::Forbidden,
        Reason::FaultInjected,
        Reason::RateLimited,
        Reason::UpstreamUnhealthy,
        Reason::CircuitOpen,
        Reason::Overloaded,
        Reason::BodyNotReplayable,
        Reason::IdentityUnavailable,
        Reason::LoopDetected,
        Reason::ConnectFailed,
        Reason::UpstreamIdentityMismatch,
        Reason::UpstreamReset,
        Reason::UpstreamTimeout,
        Reason::RequestTimeout,
        Reason::IdleTimeout,
        Reason::Draining,
        Reason::BadUpstreamResponse,
        Reason::Panic,
        Reason::Internal,
    ];

    /// The stable word: response header, access log and metric label.
    pub const fn code(self) -> &'static str {
        match self {
            Reason::BadRequest => "bad_request",
            Reason::HeaderTooLarge => "header_too_large",
            Reason::RequestTooLarge => "request_too_large",
            Reason::ClientTimeout => "client_timeout",
            Reason::ClientClosed => "client_closed",
            Reason::NoRoute => "no_route",
            Reason::MethodNotAllowed => "method_not_allowed",
            Reason::Unauthenticated => "unauthenticated",
            Reason::AuthUnavailable => "auth_unavailable",
            Reason::Forbidden => "forbidden",
            Reason::FaultInjected => "fault_injected",
            Reason::RateLimited => "rate_limited",
            Reason::UpstreamUnhealthy => "upstream_unhealthy",
            Reason::CircuitOpen => "circuit_open",
            Reason::Overloaded => "overloaded",
            Reason::BodyNotReplayable => "body_not_replayable",
            Reason::IdentityUnavailable => "identity_unavailable",
            Reason::LoopDetected => "loop_detected",
            Reason::ConnectFailed => "connect_failed",
            Reason::UpstreamIdentityMismatch => "upstream_identity_mismatch",
            Reason::UpstreamReset => "upstream_reset",
            Reason::UpstreamTimeout => "upstream_timeout",
            Reason::RequestTimeout => "request_timeout",
            Reason::IdleTimeout => "idle_timeout",
            Reason::Draining => "draining",
            Reason::BadUpstreamResponse => "bad_upstream_response",
            Reason::Panic => "panic",
            Reason::Internal => "internal",
        }
    }

    pub const fn status(self) -> StatusCode {
        match self {
            Reason::BadRequest => StatusCode::BAD_REQUEST,
            Reason::HeaderTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Reason::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Reason::ClientTimeout | Reason::IdleTimeout => StatusCode::REQUEST_TIMEOUT,
            // Never sent, only logged: the client is gone. nginx made 499 the field's number for it.
            Reason::ClientClosed => match StatusCode::from_u16(499) {
                Ok(status) => status,
                Err(_) => StatusCode::BAD_REQUEST,
            },
            Reason::NoRoute => StatusCode::NOT_FOUND,
            Reason::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Reason::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            // Whoever refuses adds the challenge that RFC 9110, section 11.6.1, asks for.
            Reason::Unauthenticated => StatusCode::UNAUTHORIZED,
            Reason::Forbidden => StatusCode::FORBIDDEN,
            // The filter's options may say another.
            Reason::FaultInjected => StatusCode::SERVICE_UNAVAILABLE,
            Reason::AuthUnavailable
            | Reason::Draining
            | Reason::IdentityUnavailable
            | Reason::UpstreamUnhealthy
            | Reason::CircuitOpen
            | Reason::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Reason::LoopDetected => StatusCode::LOOP_DETECTED,
            Reason::ConnectFailed
            | Reason::UpstreamIdentityMismatch
            | Reason::UpstreamReset
            | Reason::BodyNotReplayable
            | Reason::BadUpstreamResponse => StatusCode::BAD_GATEWAY,
            Reason::UpstreamTimeout | Reason::RequestTimeout => StatusCode::GATEWAY_TIMEOUT,
            Reason::Panic | Reason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What it is to a client of gRPC. A status that a filter chose (`fault`) says more than its reason: that is `None`.
    pub const fn grpc_status(self) -> Option<u8> {
        Some(match self {
            Reason::ClientTimeout | Reason::ClientClosed | Reason::IdleTimeout => 1,
            Reason::RequestTimeout => grpc::DEADLINE_EXCEEDED,
            Reason::Forbidden => 7,
            // A quota of the client's is used up, or what it sends is larger than is allowed.
            Reason::RateLimited | Reason::HeaderTooLarge | Reason::RequestTooLarge => 8,
            Reason::NoRoute | Reason::MethodNotAllowed => 12,
            Reason::BadRequest | Reason::LoopDetected | Reason::Panic | Reason::Internal => 13,
            // Another try may well succeed.
            Reason::AuthUnavailable
            | Reason::Draining
            | Reason::IdentityUnavailable
            | Reason::UpstreamUnhealthy
            | Reason::CircuitOpen
            | Reason::Overloaded
            | Reason::ConnectFailed
            | Reason::UpstreamIdentityMismatch
            | Reason::UpstreamReset
            | Reason::UpstreamTimeout
            | Reason::BodyNotReplayable
            | Reason::BadUpstreamResponse => 14,
            Reason::Unauthenticated => 16,
            Reason::FaultInjected => return None,
        })
    }

    /// One sentence for the client. It names no address, key or file.
    pub const fn detail(self) -> &'static str {
        match self {
            Reason::BadRequest => "the request is malformed",
            Reason::HeaderTooLarge => "the request header is too large",
            Reason::RequestTooLarge => "the request body is too large",
            Reason::ClientTimeout => "the request took too long to arrive",
            Reason::ClientClosed => "the client closed the connection",
            Reason::NoRoute => "no route matches this request",
            Reason::MethodNotAllowed => "this method is not allowed here",
            Reason::Unauthenticated => "valid credentials are needed",
            Reason::AuthUnavailable => "the credentials cannot be checked just now",
            Reason::Forbidden => "this request is not allowed here",
            Reason::FaultInjected => "a fault was injected",
            Reason::RateLimited => "too many requests",
            Reason::UpstreamUnhealthy => "no healthy endpoint is available",
            Reason::CircuitOpen => "the upstream keeps failing and is left alone for a while",
            Reason::Overloaded => "too many requests are under way",
            Reason::BodyNotReplayable => {
                "the upstream closed the connection, and the request body is too large to be sent again"
            }
            Reason::IdentityUnavailable => "the gateway has no identity to show to the upstream yet",
            Reason::LoopDetected => "the request would come back to this gateway",
            Reason::ConnectFailed => "the upstream cannot be reached",
            Reason::UpstreamIdentityMismatch => "the upstream did not prove that it is who it should be",
            Reason::UpstreamReset => "the upstream closed the connection",
            Reason::UpstreamTimeout => "the upstream took too long",
            Reason::RequestTimeout => "the request took too long",
            Reason::IdleTimeout => "nothing was said for too long",
            Reason::Draining => "the gateway is stopping",
            Reason::BadUpstreamResponse => "the upstream sent an invalid response",
            Reason::Panic | Reason::Internal => "the gateway failed to handle this request",
        }
    }

    /// Seconds after which trying again makes sense, for `Retry-After`.
    pub const fn retry_after(self) -> Option<u32> {
        match self {
            Reason::AuthUnavailable
            | Reason::IdentityUnavailable
            | Reason::UpstreamUnhealthy
            | Reason::CircuitOpen
            | Reason::Overloaded => Some(1),
            _ => None,
        }
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
