//! `panic`, in debug builds only: a filter that panics, so that a test over real sockets can prove that the gateway
//! answers 500 and goes on serving.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::Path,
    filter::{BodyFlow, Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason},
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Panic {
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Request,
    Forward,
    Response,
    RequestBody,
    RequestTrailers,
    ResponseBody,
    ResponseTrailers,
    End,
}

impl Options for Panic {
    fn build(self, _at: &Path, _live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        Ok(Arc::new(Panics(self.phase)))
    }
}

struct Panics(Phase);

const WHY: &str = "the panic filter was asked to";

impl Filter for Panics {
    fn phases(&self) -> Phases {
        match self.0 {
            Phase::Request => Phases::REQUEST,
            Phase::Forward => Phases::FORWARD,
            Phase::Response => Phases::RESPONSE,
            Phase::RequestBody => Phases::REQUEST_BODY,
            Phase::RequestTrailers => Phases::REQUEST_TRAILERS,
            Phase::ResponseBody => Phases::RESPONSE_BODY,
            Phase::ResponseTrailers => Phases::RESPONSE_TRAILERS,
            Phase::End => Phases::END,
        }
    }

    fn on_request(&self, _: &mut Exchange<'_>) -> Result<Flow, Reason> {
        panic!("{WHY}")
    }

    fn on_forward(&self, _: &mut Exchange<'_>) -> Result<(), Reason> {
        panic!("{WHY}")
    }

    fn on_response(&self, _: &mut Exchange<'_>) -> Result<(), Reason> {
        panic!("{WHY}")
    }

    fn on_request_body(&self, _: &mut Exchange<'_>, _: &mut Bytes, _: bool) -> Result<BodyFlow, Reason> {
        panic!("{WHY}")
    }

    fn on_request_trailers(&self, _: &mut Exchange<'_>, _: &mut HeaderMap) -> Result<(), Reason> {
        panic!("{WHY}")
    }

    fn on_response_body(&self, _: &mut Exchange<'_>, _: &mut Bytes, _: bool) -> Result<BodyFlow, Reason> {
        panic!("{WHY}")
    }

    fn on_response_trailers(&self, _: &mut Exchange<'_>, _: &mut HeaderMap) -> Result<Bytes, Reason> {
        panic!("{WHY}")
    }

    fn on_end(&self, _: &mut Exchange<'_>) {
        panic!("{WHY}")
    }
}
