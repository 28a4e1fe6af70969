//! A gateway with a filter that panics where a request asks for it.

use std::{process::ExitCode, sync::Arc};

use tidegate::filter::{
    Exchange, Filter, Flow, Invalid, Live, Options, Path, Phases, Reason, schemars::JsonSchema,
    serde::Deserialize,
};

/// Panics where a request asks for it.
#[derive(Deserialize, JsonSchema)]
#[serde(crate = "tidegate::filter::serde", deny_unknown_fields)]
#[schemars(crate = "tidegate::filter::schemars")]
struct Faulty {}

impl Options for Faulty {
    fn build(self, _at: &Path, _live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        Ok(Arc::new(self))
    }
}

impl Filter for Faulty {
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        assert!(!exchange.request.headers.contains_key("x-panic"), "as the request asked for");
        Ok(Flow::Continue)
    }
}

fn main() -> ExitCode {
    // A test of the name that is taken, too.
    let name = if std::env::var_os("FAULTY_IS_CORS").is_some() { "cors" } else { "faulty" };
    tidegate::Gateway::new().filter::<Faulty>(name).main()
}
