//! `respond`: a fixed answer from the gateway itself. A route's `respond` is this filter at the end of its chain.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE};

use crate::{
    config::{Path, Respond},
    filter::{Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason, Response},
};

impl Options for Respond {
    fn build(self, at: &Path, _live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let mut invalid = Vec::new();
        if !(200..=599).contains(&self.status) {
            invalid.push(Invalid::new(
                at.key("status"),
                format!("{} is not a status from 200 to 599", self.status),
            ));
        }
        let mut headers = Vec::new();
        for (name, value) in &self.headers {
            match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                (Ok(name), Ok(value)) => headers.push((name, value)),
                _ => invalid.push(Invalid::new(at.key("headers").key(name), "not a header field")),
            }
        }
        if !self.body.is_empty() && !headers.iter().any(|(name, _)| *name == CONTENT_TYPE) {
            headers.push((CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")));
        }
        if !invalid.is_empty() {
            return Err(invalid);
        }
        let status = StatusCode::from_u16(self.status).map_err(|_| Vec::new())?;
        Ok(Arc::new(Fixed(Response { status, headers, body: self.body.into(), reason: None })))
    }
}

struct Fixed(Response);

impl Filter for Fixed {
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    fn on_request(&self, _exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        Ok(Flow::Reply(self.0.clone()))
    }
}
