//! Filters in their order. A panic in one is caught here and becomes a 500: the process goes on
//! serving. A filter that panics may leave its own state half changed, so that state must be valid at every step; the
//! exchange belongs to this one request, which ends here.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;

use super::{Exchange, Filter, Flow, Phases, Reason};

/// The filters of a listener or a route.
#[derive(Clone, Default)]
pub struct Chain(Vec<Step>);

#[derive(Clone)]
struct Step {
    name: &'static str,
    phases: Phases,
    filter: Arc<dyn Filter>,
}

impl Chain {
    pub fn push(&mut self, name: &'static str, filter: Arc<dyn Filter>) {
        self.0.push(Step { name, phases: filter.phases(), filter });
    }

    pub fn extend(&mut self, other: &Chain) {
        self.0.extend(other.0.iter().cloned());
    }

    /// The filters' names in the order in which they run.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.iter().map(|step| step.name)
    }

    /// Stops at the first filter that answers or refuses.
    pub async fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        for step in &self.0 {
            let flow = if step.phases.contains(Phases::REQUEST) {
                Reason::catching(|| step.filter.on_request(exchange))?
            } else if step.phases.contains(Phases::REQUEST_ASYNC) {
                let waiting = AssertUnwindSafe(step.filter.on_request_async(exchange));
                waiting.catch_unwind().await.unwrap_or(Err(Reason::Panic))?
            } else {
                continue;
            };
            if let Flow::Reply(_) = flow {
                return Ok(flow);
            }
        }
        Ok(Flow::Continue)
    }

    pub fn on_forward(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        let mut steps = self.0.iter().filter(|step| step.phases.contains(Phases::FORWARD));
        steps.try_for_each(|step| Reason::catching(|| step.filter.on_forward(exchange)))
    }

    pub fn on_response(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        let mut steps = self.0.iter().filter(|step| step.phases.contains(Phases::RESPONSE));
        steps.try_for_each(|step| Reason::catching(|| step.filter.on_response(exchange)))
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use pingora_http::RequestHeader;

    use super::{super::Facts, *};

    struct Panics(Phases);

    #[async_trait]
    impl Filter for Panics {
        fn phases(&self) -> Phases {
            self.0
        }
        fn on_request(&self, _: &mut Exchange<'_>) -> Result<Flow, Reason> {
            panic!("on_request")
        }
        async fn on_request_async(&self, _: &mut Exchange<'_>) -> Result<Flow, Reason> {
            panic!("on_request_async")
        }
        fn on_forward(&self, _: &mut Exchange<'_>) -> Result<(), Reason> {
            panic!("on_forward")
        }
        fn on_response(&self, _: &mut Exchange<'_>) -> Result<(), Reason> {
            panic!("on_response")
        }
    }

    fn run(phases: Phases) -> [Option<Reason>; 3] {
        let mut chain = Chain::default();
        chain.push("panics", Arc::new(Panics(phases)));
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        let mut facts = Facts::default();
        let mut exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
        let on_request = chain.on_request(&mut exchange).now_or_never().unwrap().err();
        [on_request, chain.on_forward(&mut exchange).err(), chain.on_response(&mut exchange).err()]
    }

    #[test]
    fn a_panic_in_any_phase_becomes_a_reason() {
        let all = Phases::REQUEST | Phases::FORWARD | Phases::RESPONSE;
        assert_eq!(run(all), [Some(Reason::Panic); 3]);
        assert_eq!(run(Phases::REQUEST_ASYNC), [Some(Reason::Panic), None, None]);
        assert_eq!(run(Phases::empty()), [None; 3]);
    }
}
