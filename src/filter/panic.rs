//! `panic`, in debug builds only: a filter that panics, so that a test over real sockets can prove that the gateway
//! answers 500 and goes on serving.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason};
use crate::config::Path;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Panic {
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Request,
    Forward,
    Response,
}

impl Options for Panic {
    fn build(self, _at: &Path, _live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        Ok(Arc::new(Panics(self.phase)))
    }
}

struct Panics(Phase);

impl Filter for Panics {
    fn phases(&self) -> Phases {
        match self.0 {
            Phase::Request => Phases::REQUEST,
            Phase::Forward => Phases::FORWARD,
            Phase::Response => Phases::RESPONSE,
        }
    }

    fn on_request(&self, _exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        panic!("the panic filter was asked to")
    }

    fn on_forward(&self, _exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        panic!("the panic filter was asked to")
    }

    fn on_response(&self, _exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        panic!("the panic filter was asked to")
    }
}
