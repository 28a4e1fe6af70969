//! `redirect`: send the client elsewhere. A route's `redirect` is this filter at the end of its chain.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header::LOCATION};

use crate::{
    config::{Path, Redirect},
    filter::{Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason, Response, Template},
};

impl Options for Redirect {
    fn build(self, at: &Path, _live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let mut invalid = Vec::new();
        if !matches!(self.status, 301 | 302 | 303 | 307 | 308) {
            let message = format!("{} is not a redirect (301, 302, 303, 307 or 308)", self.status);
            invalid.push(Invalid::new(at.key("status"), message));
        }
        let to =
            Template::parse(&self.to).map_err(|message| invalid.push(Invalid::new(at.key("to"), message)));
        let status = StatusCode::from_u16(self.status);
        match (to, status) {
            (Ok(to), Ok(status)) if invalid.is_empty() => Ok(Arc::new(Elsewhere { to, status })),
            _ => Err(invalid),
        }
    }
}

struct Elsewhere {
    to: Template,
    status: StatusCode,
}

impl Filter for Elsewhere {
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        // The placeholders come from the request, which may hold what a header cannot.
        let to = HeaderValue::try_from(self.to.fill_url(exchange)?).map_err(|_| Reason::BadRequest)?;
        let mut response = Response::new(self.status);
        response.headers.push((LOCATION, to));
        Ok(Flow::Reply(response))
    }
}
