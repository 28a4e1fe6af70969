//! The forms of an answer: JSON, problems as RFC 9457 has them, and streams.

use std::convert::Infallible;

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use schemars::JsonSchema;
use serde::Serialize;

use crate::control::{
    refused::{Located, Reason, Refused},
    store::Position,
};

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;
pub(super) type Answer = Response<Body>;

pub(super) const JSON: &str = "application/json";
pub(super) const PROBLEM: &str = "application/problem+json";
const REVISION: HeaderName = HeaderName::from_static("x-tidegate-revision");

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
    /// Each mistake, where it is a configuration that is refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<Located>,
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    typed(status, JSON, value)
}

pub(super) fn problem(refused: &Refused) -> Answer {
    let status = refused.status();
    let problem = Problem {
        title: status.canonical_reason().unwrap_or_default().to_owned(),
        status: status.as_u16(),
        detail: refused.why.clone(),
        reason: refused.reason.code(),
        problems: refused.problems.clone(),
    };
    let mut answer = typed(status, PROBLEM, &problem);
    if refused.reason == Reason::Unauthenticated {
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(after) = refused.reason.retry_after() {
        answer.headers_mut().insert(RETRY_AFTER, after.as_secs().into());
    }
    answer
}

/// The path is known, and not with this method.
pub(super) fn not_allowed(allowed: &str) -> Answer {
    let refused = Refused {
        status: Some(StatusCode::METHOD_NOT_ALLOWED),
        ..Reason::BadRequest.because(format!("use {allowed} here"))
    };
    let mut answer = problem(&refused);
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        answer.headers_mut().insert(ALLOW, allowed);
    }
    answer
}

pub(super) fn text(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Answer {
    with_type(status, content_type, Full::new(text.into()).boxed_unsync())
}

pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Empty::new().boxed_unsync());
    *answer.status_mut() = status;
    answer
}

pub(super) fn with_type(status: StatusCode, content_type: &'static str, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// As of which change the answer is.
pub(super) fn at(position: Position, mut answer: Answer) -> Answer {
    if let Ok(value) = HeaderValue::try_from(position.to_string()) {
        answer.headers_mut().insert(REVISION, value);
    }
    answer
}

fn typed(status: StatusCode, content_type: &'static str, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(json) => text(status, content_type, json),
        Err(error) => {
            log::error!("cannot write an answer of the control plane: {error}");
            empty(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}
