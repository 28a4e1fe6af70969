//! Why a request comes to nothing, in words that say what to do. Below `/v1/` it is a problem as RFC 9457 has it; the older
//! paths answer in a line of text.

use http::{
    HeaderValue, StatusCode,
    header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::parts::tagged;
use crate::api::{
    guard::Denied,
    query::BadQuery,
    reply::{self, Reply},
};

/// Why an order, or any other request, is not carried out.
#[derive(Debug)]
pub(crate) struct Refused {
    pub reason: Reason,
    pub why: String,
    /// One a line, each with its place.
    pub problems: Vec<String>,
    /// Of what is there.
    pub etag: Option<String>,
    /// The methods that are there.
    pub allow: Option<Box<str>>,
    pub retry_after: Option<u64>,
    /// What it is about, as it is now.
    pub about: Option<Box<(&'static str, Value)>>,
}

/// A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    BadRequest,
    /// No credentials, or wrong ones.
    Unauthorized,
    /// No certificate where one is asked for.
    Certificate,
    /// A viewer does not order.
    Role,
    /// A web page of another origin.
    Origin,
    /// A browser that does not say that it is the console.
    Csrf,
    /// Another name than this address has.
    Host,
    NotFound,
    Method,
    /// The order makes no sense as things are; or the file says something of that name.
    Conflict,
    /// What was ordered about has moved since.
    Moved,
    Stale,
    TooLarge,
    ConfigRejected,
    Limit,
    /// Too many wrong tokens.
    Guessing,
    /// It could not be written down.
    StoreUnavailable,
    Busy,
    Draining,
    /// It is turned off here.
    Unavailable,
    Timeout,
    Internal,
}

/// Why not, as RFC 9457 writes it.
#[derive(Serialize, JsonSchema)]
pub(super) struct Problem {
    /// The status in words.
    title: String,
    status: u16,
    /// What is wrong, and what to do.
    detail: String,
    /// One word of a closed list.
    reason: &'static str,
    /// Each mistake with its place, where it is a configuration that is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
    /// What it is about as it is now: `canary` or `breaker`.
    #[serde(flatten)]
    about: Map<String, Value>,
}

impl Reason {
    pub(super) const ALL: [Reason; 22] = [
        Reason::BadRequest,
        Reason::Unauthorized,
        Reason::Certificate,
        Reason::Role,
        Reason::Origin,
        Reason::Csrf,
        Reason::Host,
        Reason::NotFound,
        Reason::Method,
        Reason::Conflict,
        Reason::Moved,
        Reason::Stale,
        Reason::TooLarge,
        Reason::ConfigRejected,
        Reason::Limit,
        Reason::Guessing,
        Reason::StoreUnavailable,
        Reason::Busy,
        Reason::Draining,
        Reason::Unavailable,
        Reason::Timeout,
        Reason::Internal,
    ];

    pub(crate) fn code(self) -> &'static str {
        match self {
            Reason::BadRequest => "bad_request",
            Reason::Unauthorized => "unauthorized",
            Reason::Certificate => "certificate",
            Reason::Role => "role",
            Reason::Origin => "origin",
            Reason::Csrf => "csrf",
            Reason::Host => "host",
            Reason::NotFound => "not_found",
            Reason::Method => "method",
            Reason::Conflict => "conflict",
            Reason::Moved | Reason::Stale => "stale",
            Reason::TooLarge => "too_large",
            Reason::ConfigRejected => "config_rejected",
            Reason::Limit => "limit",
            Reason::Guessing => "guessing",
            Reason::StoreUnavailable => "store_unavailable",
            Reason::Busy => "busy",
            Reason::Draining => "draining",
            Reason::Unavailable => "unavailable",
            Reason::Timeout => "timeout",
            Reason::Internal => "internal",
        }
    }

    pub(super) fn status(self) -> StatusCode {
        match self {
            Reason::BadRequest => StatusCode::BAD_REQUEST,
            Reason::Unauthorized => StatusCode::UNAUTHORIZED,
            Reason::Certificate | Reason::Role | Reason::Origin | Reason::Csrf | Reason::Unavailable => {
                StatusCode::FORBIDDEN
            }
            Reason::Host => StatusCode::MISDIRECTED_REQUEST,
            Reason::NotFound => StatusCode::NOT_FOUND,
            Reason::Method => StatusCode::METHOD_NOT_ALLOWED,
            Reason::Conflict | Reason::Moved | Reason::Draining => StatusCode::CONFLICT,
            Reason::Stale => StatusCode::PRECONDITION_FAILED,
            Reason::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Reason::ConfigRejected => StatusCode::UNPROCESSABLE_ENTITY,
            Reason::Limit | Reason::Guessing => StatusCode::TOO_MANY_REQUESTS,
            Reason::StoreUnavailable | Reason::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Reason::Timeout => StatusCode::REQUEST_TIMEOUT,
            Reason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(crate) fn because(self, why: impl Into<String>) -> Refused {
        Refused {
            reason: self,
            why: why.into(),
            problems: Vec::new(),
            etag: None,
            allow: None,
            retry_after: None,
            about: None,
        }
    }
}

impl Refused {
    /// As RFC 9457 has it.
    pub(super) fn problem(&self) -> Reply {
        self.problem_with(Map::new())
    }

    /// Of an order for a canary or a breaker: with the key that its answers have had for it before.
    pub(super) fn order_problem(&self) -> Reply {
        self.problem_with(Map::from_iter([("refused".to_owned(), self.why.clone().into())]))
    }

    fn problem_with(&self, mut about: Map<String, Value>) -> Reply {
        let status = self.reason.status();
        about.extend(self.about.iter().map(|about| (about.0.to_owned(), about.1.clone())));
        let problem = Problem {
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail: self.why.clone(),
            reason: self.reason.code(),
            problems: self.problems.clone(),
            retry_after_seconds: self.retry_after,
            about,
        };
        let mut reply = reply::json(status, &problem);
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        self.with_headers(tagged(reply, self.etag.as_deref()))
    }

    /// In a line.
    pub(super) fn text(&self) -> Reply {
        self.with_headers(reply::text(self.reason.status(), &self.why))
    }

    /// As whoever asks at `path` expects it.
    pub(super) fn reply(&self, path: &str) -> Reply {
        if path.starts_with("/v1/") { self.problem() } else { self.text() }
    }

    fn with_headers(&self, mut reply: Reply) -> Reply {
        let headers = reply.headers_mut();
        if self.reason == Reason::Unauthorized {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(allow) = self.allow.as_deref().and_then(|allow| HeaderValue::try_from(allow).ok()) {
            headers.insert(ALLOW, allow);
        }
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, after.into());
        }
        reply
    }
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Refused {
        let reason =
            if denied.status == StatusCode::MISDIRECTED_REQUEST { Reason::Host } else { Reason::Origin };
        reason.because(denied.why)
    }
}

impl From<BadQuery> for Refused {
    fn from(BadQuery(why): BadQuery) -> Refused {
        Reason::BadRequest.because(why)
    }
}
