//! `hold`, in debug builds only: a filter that does with bodies all that a filter may, so that tests over real sockets can
//! prove what becomes of it. It holds every part back until the last, and then says how long the whole was.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{ByteSize, Path},
    filter::{BodyFlow, Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason, Response},
};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Hold {
    /// Hold the response's body instead of the request's.
    response: bool,
    /// The request does not go on before so much of its body is there.
    gather: Option<ByteSize>,
    /// A body that contains this is answered with 403.
    forbid: Option<String>,
    /// `on_request` changes the path to this.
    path: Option<String>,
}

impl Options for Hold {
    fn build(self, _at: &Path, _live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        Ok(Arc::new(self))
    }
}

impl Hold {
    fn see(&self, data: &mut Bytes, is_last: bool) -> BodyFlow {
        let text = String::from_utf8_lossy(data).into_owned();
        if self.forbid.as_ref().is_some_and(|forbidden| text.contains(forbidden)) {
            let mut refusal = Response::refusal(Reason::Forbidden, &HeaderMap::new());
            refusal.status = StatusCode::FORBIDDEN;
            return BodyFlow::Reply(refusal);
        }
        if !is_last {
            return BodyFlow::Hold;
        }
        *data = format!("{}:{text}", text.len()).into();
        BodyFlow::Pass
    }
}

impl Filter for Hold {
    fn phases(&self) -> Phases {
        let body = match self.response {
            true => Phases::RESPONSE | Phases::RESPONSE_BODY | Phases::RESPONSE_TRAILERS,
            false => Phases::FORWARD | Phases::REQUEST_BODY | Phases::REQUEST_TRAILERS,
        };
        let changes = if self.path.is_some() { Phases::CHANGES_REQUEST } else { Phases::empty() };
        Phases::REQUEST | body | changes
    }

    fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        if let Some(most) = self.gather {
            exchange.gather_body(most.bytes() as usize);
        }
        if let Some(path) = &self.path {
            exchange.request.set_uri(path.parse().map_err(|_| Reason::Internal)?);
        }
        Ok(Flow::Continue)
    }

    fn on_forward(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        exchange.request.remove_header(&header::CONTENT_LENGTH);
        Ok(())
    }

    fn on_response(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        if let Some(response) = &mut exchange.response {
            response.remove_header(&header::CONTENT_LENGTH);
        }
        Ok(())
    }

    fn on_request_body(
        &self,
        _: &mut Exchange<'_>,
        data: &mut Bytes,
        is_last: bool,
    ) -> Result<BodyFlow, Reason> {
        Ok(self.see(data, is_last))
    }

    fn on_request_trailers(&self, _: &mut Exchange<'_>, trailers: &mut HeaderMap) -> Result<(), Reason> {
        trailers.insert("x-held", HeaderValue::from_static("request"));
        Ok(())
    }

    fn on_response_body(
        &self,
        _: &mut Exchange<'_>,
        data: &mut Bytes,
        is_last: bool,
    ) -> Result<BodyFlow, Reason> {
        Ok(self.see(data, is_last))
    }

    fn on_response_trailers(&self, _: &mut Exchange<'_>, trailers: &mut HeaderMap) -> Result<Bytes, Reason> {
        trailers.insert("x-held", HeaderValue::from_static("response"));
        Ok(Bytes::from_static(b"."))
    }
}
