//! `https_redirect`: who comes without TLS is sent to the same place with it.

use std::{num::NonZeroU16, sync::Arc};

use http::{HeaderValue, StatusCode, header::LOCATION};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::Path,
    filter::{Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason, Response},
};

/// Redirects plain-HTTP requests to the same host, path and query over HTTPS.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HttpsRedirect {
    /// 301, 302, 307 or 308.
    status: u16,
    /// Where HTTPS is served.
    port: NonZeroU16,
}

impl HttpsRedirect {
    const STANDARD_PORT: NonZeroU16 = NonZeroU16::new(443).unwrap();
}

impl Default for HttpsRedirect {
    fn default() -> Self {
        HttpsRedirect { status: 308, port: HttpsRedirect::STANDARD_PORT }
    }
}

impl Options for HttpsRedirect {
    fn build(self, at: &Path, _live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let status = StatusCode::from_u16(self.status).ok();
        match status.filter(|_| matches!(self.status, 301 | 302 | 307 | 308)) {
            Some(status) => Ok(Arc::new(ToHttps { status, port: self.port })),
            None => {
                let message =
                    format!("{} does not send on the same request (301, 302, 307 or 308)", self.status);
                Err(vec![Invalid::new(at.key("status"), message)])
            }
        }
    }
}

struct ToHttps {
    status: StatusCode,
    port: NonZeroU16,
}

impl Filter for ToHttps {
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let facts = &exchange.facts;
        if facts.scheme == "https" {
            return Ok(Flow::Continue);
        }
        let host = facts.host();
        if host.is_empty() {
            return Err(Reason::BadRequest);
        }
        let target = facts.target.path_and_query().map_or("/", |target| target.as_str());
        let to = match self.port {
            HttpsRedirect::STANDARD_PORT => format!("https://{host}{target}"),
            port => format!("https://{host}:{port}{target}"),
        };
        let mut response = Response::new(self.status);
        let to = HeaderValue::try_from(to).map_err(|_| Reason::BadRequest)?;
        response.headers.push((LOCATION, to));
        Ok(Flow::Reply(response))
    }
}
