//! Filters in their order: requests pass them as they are written, responses in reverse, so that the first is outermost. A
//! panic in one is caught here and becomes a 500: the process goes on
//! serving. A filter that panics may leave its own state half changed, so that state must be valid at every step; the
//! exchange belongs to this one request, which ends here.

use std::{cell::Cell, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use http::HeaderMap;

use super::{BodyFlow, Exchange, Filter, Flow, Phases, Reason, Response, condition::Condition};
use crate::{observe::metrics::FilterMetrics, route::Request};

/// Of so many runs of a chain, one is timed: reading the clock twice for each filter of each request would cost more than
/// most of them. Odd, so that a listener's chain and a route's, which alternate, both get their turn.
const TIMED: u32 = 127;

/// The filters of a listener or a route.
#[derive(Clone, Default)]
pub struct Chain(Vec<Step>);

#[derive(Clone)]
struct Step {
    name: &'static str,
    phases: Phases,
    filter: Arc<dyn Filter>,
    condition: Option<Arc<Condition>>,
    /// `None` for a step that the gateway has added itself.
    metrics: Option<Arc<FilterMetrics>>,
}

/// Parts of one body that filters hold back, each with whose they are.
#[derive(Debug, Default)]
pub struct Held {
    parts: Vec<(usize, BytesMut)>,
    bytes: usize,
    /// The step that waits, and is asked again.
    waiting: Option<usize>,
}

/// What came of a part of a body.
#[derive(Debug)]
pub enum Passed {
    On,
    Replied(Response),
    /// A filter waits, and has the part.
    Waits,
}

/// The same at one step.
enum Stepped {
    On,
    Replied(Response),
    Waits,
}

/// A filter holds back more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMuch;

impl Held {
    /// What this step has held back of the body, and in front of which the next part belongs.
    fn release(&mut self, step: usize) -> Option<BytesMut> {
        let at = self.parts.iter().position(|(of, _)| *of == step)?;
        let (_, part) = self.parts.swap_remove(at);
        self.bytes -= part.len();
        Some(part)
    }

    fn hold(&mut self, step: usize, part: BytesMut, most: usize) -> Result<(), TooMuch> {
        self.bytes += part.len();
        self.parts.push((step, part));
        if self.bytes > most { Err(TooMuch) } else { Ok(()) }
    }
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
        self.0.push(Step { name, phases: filter.phases(), filter, condition, metrics: None });
    }

    /// The same for one whose time and refusals are counted.
    pub(super) fn push_counted(
        &mut self,
        name: &'static str,
        filter: Arc<dyn Filter>,
        condition: Option<Arc<Condition>>,
        metrics: Arc<FilterMetrics>,
    ) {
        self.0.push(Step { name, phases: filter.phases(), filter, condition, metrics: Some(metrics) });
    }

    /// No more will come.
    pub(super) fn seal(&mut self) {
        self.0.shrink_to_fit();
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

    fn steps(&self, decided: Decided) -> impl DoubleEndedIterator<Item = &Step> {
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

    /// What the filters that run do.
    pub fn phases(&self, decided: Decided) -> Phases {
        self.steps(decided).fold(Phases::empty(), |all, step| all | step.phases)
    }

    /// Stops at the first filter that answers or refuses.
    pub async fn on_request(&self, decided: Decided, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let is_timed = !self.0.is_empty() && is_timed();
        for step in self.steps(decided) {
            if !step.phases.intersects(Phases::REQUEST | Phases::REQUEST_ASYNC) {
                continue;
            }
            let began = is_timed.then(Instant::now);
            let flow = step.on_request(exchange).await;
            if let (Some(began), Some(metrics)) = (began, &step.metrics) {
                metrics.took(began.elapsed());
            }
            if !matches!(flow, Ok(Flow::Continue)) {
                step.refused();
                return flow;
            }
        }
        Ok(Flow::Continue)
    }

    pub fn on_forward(&self, decided: Decided, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        let mut steps = self.steps(decided).filter(|step| step.phases.contains(Phases::FORWARD));
        steps.try_for_each(|step| step.counted(Reason::catching(|| step.filter.on_forward(exchange))))
    }

    pub fn on_response(&self, decided: Decided, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        self.on_response_from(&mut None, decided, exchange)
    }

    /// The same from the step that has waited, if one has: `from` is that step, and where another waits, that one.
    ///
    /// # Errors
    ///
    /// A filter refuses it.
    pub fn on_response_from(
        &self,
        from: &mut Option<usize>,
        decided: Decided,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), Reason> {
        for step in self.steps(decided).rev().filter(|step| step.phases.contains(Phases::RESPONSE)) {
            if from.is_some_and(|from| from != step.place()) {
                continue;
            }
            *from = None;
            step.counted(Reason::catching(|| step.filter.on_response(exchange)))?;
            if exchange.facts.waits.is_some() {
                *from = Some(step.place());
                return Ok(());
            }
        }
        Ok(())
    }

    /// A part of the request's body; with `trailers` it is the last. What is left in `data` goes on. An answer ends the
    /// exchange. After a wait the same is said again, and the step that waited has the part.
    ///
    /// # Errors
    ///
    /// A filter refuses it, or holds back more than `most` bytes.
    pub fn on_request_body(
        &self,
        decided: Decided,
        exchange: &mut Exchange<'_>,
        data: &mut Bytes,
        mut trailers: Option<&mut HeaderMap>,
        held: &mut Held,
        most: usize,
    ) -> Result<Passed, Reason> {
        let phases = Phases::REQUEST_BODY | Phases::REQUEST_TRAILERS;
        let mut from = held.waiting.take();
        for step in self.steps(decided).filter(|step| step.phases.intersects(phases)) {
            if from.is_some_and(|from| from != step.place()) {
                continue;
            }
            let is_again = from.take().is_some();
            let is_last = trailers.is_some();
            // Nothing has come as far as here.
            if data.is_empty() && !is_last && !is_again {
                continue;
            }
            let stepped = step.on_body(data, is_last, held, most, Reason::RequestBufferFull, |data| {
                match step.phases.contains(Phases::REQUEST_BODY) {
                    true => step.filter.on_request_body(exchange, data, is_last),
                    false => Ok(BodyFlow::Pass),
                }
            })?;
            match stepped {
                Stepped::On => {}
                Stepped::Replied(answer) => return Ok(Passed::Replied(answer)),
                Stepped::Waits => {
                    held.waiting = Some(step.place());
                    return Ok(Passed::Waits);
                }
            }
            if let Some(trailers) = trailers.as_deref_mut()
                && step.phases.contains(Phases::REQUEST_TRAILERS)
            {
                step.counted(Reason::catching(|| step.filter.on_request_trailers(exchange, trailers)))?;
            }
        }
        // It is a step of another chain.
        held.waiting = from;
        Ok(Passed::On)
    }

    /// The same of the response, in reverse order.
    ///
    /// # Errors
    ///
    /// A filter refuses it, or holds back more than `most` bytes.
    pub fn on_response_body(
        &self,
        decided: Decided,
        exchange: &mut Exchange<'_>,
        data: &mut Bytes,
        mut trailers: Option<&mut HeaderMap>,
        held: &mut Held,
        most: usize,
    ) -> Result<Passed, Reason> {
        let phases = Phases::RESPONSE_BODY | Phases::RESPONSE_TRAILERS;
        let mut from = held.waiting.take();
        for step in self.steps(decided).rev().filter(|step| step.phases.intersects(phases)) {
            if from.is_some_and(|from| from != step.place()) {
                continue;
            }
            let is_again = from.take().is_some();
            let is_last = trailers.is_some();
            // Nothing has come as far as here.
            if data.is_empty() && !is_last && !is_again {
                continue;
            }
            let stepped = step.on_body(data, is_last, held, most, Reason::ResponseBufferFull, |data| {
                match step.phases.contains(Phases::RESPONSE_BODY) {
                    true => step.filter.on_response_body(exchange, data, is_last),
                    false => Ok(BodyFlow::Pass),
                }
            })?;
            match stepped {
                Stepped::On => {}
                Stepped::Replied(answer) => return Ok(Passed::Replied(answer)),
                Stepped::Waits => {
                    held.waiting = Some(step.place());
                    return Ok(Passed::Waits);
                }
            }
            if let Some(trailers) = trailers.as_deref_mut()
                && step.phases.contains(Phases::RESPONSE_TRAILERS)
            {
                let end = Reason::catching(|| step.filter.on_response_trailers(exchange, trailers));
                let end = step.counted(end)?;
                *data = joined(std::mem::take(data), end);
            }
        }
        // It is a step of another chain.
        held.waiting = from;
        Ok(Passed::On)
    }

    /// The request is over.
    pub fn on_end(&self, decided: Decided, exchange: &mut Exchange<'_>) {
        for step in self.steps(decided).filter(|step| step.phases.contains(Phases::END)) {
            // The panic hook has told of it, and the request is over.
            let _ = Reason::catching(|| {
                step.filter.on_end(exchange);
                Ok(())
            });
        }
    }
}

impl Step {
    async fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        if self.phases.contains(Phases::REQUEST) {
            return Reason::catching(|| self.filter.on_request(exchange));
        }
        match Reason::catching(|| self.filter.on_request_at_once(exchange))? {
            Some(flow) => Ok(flow),
            None => {
                let waiting = AssertUnwindSafe(self.filter.on_request_async(exchange));
                waiting.catch_unwind().await.unwrap_or(Err(Reason::Panic))
            }
        }
    }

    /// What the step makes of a part of a body. Nothing is left of it where the step waits for more.
    fn on_body(
        &self,
        data: &mut Bytes,
        is_last: bool,
        held: &mut Held,
        most: usize,
        full: Reason,
        see: impl FnOnce(&mut Bytes) -> Result<BodyFlow, Reason>,
    ) -> Result<Stepped, Reason> {
        let place = self.place();
        if let Some(before) = held.release(place) {
            *data = joined(before.freeze(), std::mem::take(data));
        }
        match self.counted(Reason::catching(|| see(data)))? {
            BodyFlow::Pass => Ok(Stepped::On),
            // There is nothing more to wait for.
            BodyFlow::Hold if is_last => Ok(Stepped::On),
            BodyFlow::Wait => Ok(Stepped::Waits),
            BodyFlow::Hold => {
                let part = BytesMut::from(std::mem::take(data));
                held.hold(place, part, most).map_err(|TooMuch| full)?;
                Ok(Stepped::On)
            }
            BodyFlow::Reply(response) => {
                self.refused();
                Ok(Stepped::Replied(response))
            }
        }
    }

    /// By which it is known while a request is under way.
    fn place(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    fn refused(&self) {
        if let Some(metrics) = &self.metrics {
            metrics.refused();
        }
    }

    fn counted<T>(&self, result: Result<T, Reason>) -> Result<T, Reason> {
        if result.is_err() {
            self.refused();
        }
        result
    }
}

fn joined(front: Bytes, back: Bytes) -> Bytes {
    match (front.is_empty(), back.is_empty()) {
        (_, true) => front,
        (true, _) => back,
        _ => {
            let mut joined = BytesMut::from(front);
            joined.extend_from_slice(&back);
            joined.freeze()
        }
    }
}

thread_local! {
    static REQUESTS: Cell<u32> = const { Cell::new(0) };
}

fn is_timed() -> bool {
    let count = REQUESTS.get();
    REQUESTS.set(count.wrapping_add(1));
    count.is_multiple_of(TIMED)
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
