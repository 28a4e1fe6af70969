//! What holds for every chain.

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
