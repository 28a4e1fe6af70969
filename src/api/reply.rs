//! The forms an answer of the API takes: text for people, JSON for programs, and streams.

use std::convert::Infallible;

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use serde::Serialize;

/// There at once, or a stream.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;
pub(crate) type Reply = Response<Body>;

/// `body` as it is.
pub(crate) fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    with_body(status, content_type, Full::new(body.into()).boxed_unsync())
}

/// Nothing but the status.
pub(crate) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Empty::new().boxed_unsync());
    *reply.status_mut() = status;
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// `body` as it comes.
pub(crate) fn with_body(status: StatusCode, content_type: &'static str, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// One line or more; a line end is added.
pub(crate) fn text(status: StatusCode, text: impl AsRef<str>) -> Reply {
    with_type(status, "text/plain; charset=utf-8", format!("{}\n", text.as_ref().trim_end()))
}

pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    match serde_json::to_string_pretty(value) {
        Ok(json) => with_type(status, "application/json", json + "\n"),
        Err(error) => {
            log::error!("cannot write an API's answer: {error}");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be written (the log says why)")
        }
    }
}
