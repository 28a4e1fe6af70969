//! Filters in their order. A panic in one is caught here and becomes a 500: the process goes on
//! serving. A filter that panics may leave its own state half changed, so that state must be valid at every step; the
//! exchange belongs to this one request, which ends here.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;

use super::{Exchange, Filter, Flow, Phases, Reason, condition::Condition};
use crate::route::Request;

/// The filters of a listener or a route.
#[derive(Clone, Default)]
pub struct Chain(Vec<Step>);

#[derive(Clone)]
struct Step {
    name: &'static str,
    phases: Phases,
    filter: Arc<dyn Filter>,
    condition: Option<Arc<Condition>>,
}

/// Which of a chain's conditional steps run for one request, by their place in the chain. Decided once, so that all
/// phases of a filter agree although filters change the request. Until then, none do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decided(u64);

impl Chain {
    /// Places up to which a step may have a condition.
    pub const CONDITIONAL: usize = u64::BITS as usize;

    pub fn push(&mut self, name: &'static str, filter: Arc<dyn Filter>) {
        self.push_if(name, filter, None);
    }

    pub fn push_if(
        &mut self,
        name: &'static str,
        filter: Arc<dyn Filter>,
        condition: Option<Arc<Condition>>,
    ) {
        self.0.push(Step { name, phases: filter.phases(), filter, condition });
    }

    /// False when a step beyond [`Chain::CONDITIONAL`] has a condition.
    pub fn is_decidable(&self) -> bool {
        self.0.iter().skip(Self::CONDITIONAL).all(|step| step.condition.is_none())
    }

    /// `request` is the request as it came in, in normal form.
    pub fn decide(&self, request: &Request<'_>) -> Decided {
        let steps = self.0.iter().take(Self::CONDITIONAL).enumerate();
        let holds = |step: &Step| step.condition.as_ref().is_some_and(|condition| condition.holds(request));
        Decided(steps.filter(|(_, step)| holds(step)).fold(0, |bits, (place, _)| bits | 1 << place))
    }

    fn steps(&self, decided: Decided) -> impl Iterator<Item = &Step> {
        let runs = move |(place, step): &(usize, &Step)| {
            step.condition.is_none() || (*place < Self::CONDITIONAL && decided.0 >> place & 1 == 1)
        };
        self.0.iter().enumerate().filter(runs).map(|(_, step)| step)
    }

    pub fn extend(&mut self, other: &Chain) {
        self.0.extend(other.0.iter().cloned());
    }

    /// The filters' names in the order in which they run.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.iter().map(|step| step.name)
    }

    /// The names of those that run for one request.
    pub fn running(&self, decided: Decided) -> impl Iterator<Item = &'static str> + '_ {
        self.steps(decided).map(|step| step.name)
    }

    /// Stops at the first filter that answers or refuses.
    pub async fn on_request(&self, decided: Decided, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        for step in self.steps(decided) {
            let flow = if step.phases.contains(Phases::REQUEST) {
                Reason::catching(|| step.filter.on_request(exchange))?
            } else if step.phases.contains(Phases::REQUEST_ASYNC) {
                match Reason::catching(|| step.filter.on_request_at_once(exchange))? {
                    Some(flow) => flow,
                    None => {
                        let waiting = AssertUnwindSafe(step.filter.on_request_async(exchange));
                        waiting.catch_unwind().await.unwrap_or(Err(Reason::Panic))?
                    }
                }
            } else {
                continue;
            };
            if let Flow::Reply(_) = flow {
                return Ok(flow);
            }
        }
        Ok(Flow::Continue)
    }

    pub fn on_forward(&self, decided: Decided, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        let mut steps = self.steps(decided).filter(|step| step.phases.contains(Phases::FORWARD));
        steps.try_for_each(|step| Reason::catching(|| step.filter.on_forward(exchange)))
    }

    pub fn on_response(&self, decided: Decided, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        let mut steps = self.steps(decided).filter(|step| step.phases.contains(Phases::RESPONSE));
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
        let decided = Decided::default();
        let on_request = chain.on_request(decided, &mut exchange).now_or_never().unwrap().err();
        let on_forward = chain.on_forward(decided, &mut exchange).err();
        [on_request, on_forward, chain.on_response(decided, &mut exchange).err()]
    }

    struct MayWait(bool);

    #[async_trait]
    impl Filter for MayWait {
        fn phases(&self) -> Phases {
            Phases::REQUEST_ASYNC
        }
        fn on_request_at_once(&self, _: &mut Exchange<'_>) -> Result<Option<Flow>, Reason> {
            Ok((!self.0).then_some(Flow::Continue))
        }
        async fn on_request_async(&self, _: &mut Exchange<'_>) -> Result<Flow, Reason> {
            Err(Reason::Overloaded)
        }
    }

    #[test]
    fn a_filter_that_can_tell_at_once_is_not_waited_for() {
        for (waits, expected) in [(false, None), (true, Some(Reason::Overloaded))] {
            let mut chain = Chain::default();
            chain.push("may_wait", Arc::new(MayWait(waits)));
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            let mut facts = Facts::default();
            let mut exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
            let decided = chain.on_request(Decided::default(), &mut exchange).now_or_never().unwrap();
            assert_eq!(decided.err(), expected);
        }
    }

    #[test]
    fn a_panic_in_any_phase_becomes_a_reason() {
        let all = Phases::REQUEST | Phases::FORWARD | Phases::RESPONSE;
        assert_eq!(run(all), [Some(Reason::Panic); 3]);
        assert_eq!(run(Phases::REQUEST_ASYNC), [Some(Reason::Panic), None, None]);
        assert_eq!(run(Phases::empty()), [None; 3]);
    }

    struct Silent;

    impl Filter for Silent {
        fn phases(&self) -> Phases {
            Phases::RESPONSE
        }
    }

    fn on_get() -> Option<Arc<Condition>> {
        Some(Arc::new(Condition::on_method(http::Method::GET)))
    }

    fn chain(conditional: &[bool]) -> Chain {
        let mut chain = Chain::default();
        for is_conditional in conditional {
            chain.push_if("silent", Arc::new(Silent), on_get().filter(|_| *is_conditional));
        }
        chain
    }

    #[test]
    fn conditional_steps_run_when_it_was_decided_so_and_not_before() {
        let chain = chain(&[true, false, true, false]);
        let headers = http::HeaderMap::new();
        let decide = |method: &http::Method| {
            chain.decide(&Request { host: "", path: "/", query: None, method, headers: &headers })
        };
        for (decided, steps) in
            [(Decided::default(), 2), (decide(&http::Method::POST), 2), (decide(&http::Method::GET), 4)]
        {
            assert_eq!(chain.running(decided).count(), steps);
        }
    }

    #[test]
    fn no_step_beyond_the_bits_of_a_decision_may_have_a_condition() {
        let mut steps = [false; Chain::CONDITIONAL + 1];
        steps[Chain::CONDITIONAL - 1] = true;
        assert!(chain(&steps).is_decidable());
        steps[Chain::CONDITIONAL] = true;
        assert!(!chain(&steps).is_decidable());
    }
}
