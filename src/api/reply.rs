//! The forms an answer of the API takes: text for people, JSON for programs, and refusals that say what to do.

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use http_body_util::Full;
use serde::Serialize;

pub(crate) type Reply = Response<Full<Bytes>>;

/// Rare and large, so that it does not travel by value.
pub(crate) type Refusal = Box<Reply>;

/// Why not, and what to do instead.
pub(crate) fn refuse(status: StatusCode, why: impl AsRef<str>) -> Refusal {
    Box::new(text(status, why))
}

/// `body` as it is.
pub(crate) fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
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
