//! A CA that asks for the proof that a name leads here (http-01, RFC 8555, section 8.3). Whoever asks for one that is not under way is
//! served as any other: there may be an ACME client behind.

use http::{HeaderValue, Method, StatusCode, header};
use pingora_http::RequestHeader;

use super::Context;
use crate::filter::Response;

impl Context {
    pub(crate) async fn challenge(&self, request: &RequestHeader) -> Option<Response> {
        let keeper = self.snapshot.acme.as_ref()?;
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return None;
        }
        let answer = keeper.answer(request.uri.path()).await?;
        let text = HeaderValue::from_static("application/octet-stream");
        let headers = vec![(header::CONTENT_TYPE, text)];
        let body = bytes::Bytes::copy_from_slice(answer.as_bytes());
        Some(Response { status: StatusCode::OK, headers, body, reason: None })
    }
}
