//! A CA that asks for the proof that a name leads here (http-01, RFC 8555, section 8.3). Whoever asks for one that is not under way is
//! served as any other: there may be an ACME client behind.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use pingora_http::RequestHeader;

use super::Context;
use crate::{acme::Keeper, filter::Response};

impl Context {
    /// Who may know the answer, and the path that is asked for; `None` where it is no such question.
    pub(crate) fn challenge(&self, request: &RequestHeader) -> Option<(Arc<Keeper>, String)> {
        let keeper = self.snapshot.acme.as_ref()?;
        let path = request.uri.path();
        let asks = matches!(request.method, Method::GET | Method::HEAD) && Keeper::is_challenge(path);
        asks.then(|| (keeper.clone(), path.to_owned()))
    }
}

pub(crate) fn proof(answer: &str) -> Response {
    let content_type = HeaderValue::from_static("application/octet-stream");
    Response {
        status: StatusCode::OK,
        headers: vec![(header::CONTENT_TYPE, content_type)],
        body: Bytes::copy_from_slice(answer.as_bytes()),
        reason: None,
    }
}
