//! Filters in their order: requests pass them as they are written, responses in reverse, so that the first is outermost. A
//! panic in one is caught here and becomes a 500: the process goes on
//! serving. A filter that panics may leave its own state half changed, so that state must be valid at every step; the
//! exchange belongs to this one request, which ends here.

mod body;

use std::{cell::Cell, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use bytes::Bytes;
use futures::FutureExt;
use http::HeaderMap;

pub use self::body::{Held, Passed};

use self::body::{Way, pass_body};
use super::{Exchange, Filter, Flow, Phases, Reason, Response, condition::Condition};
use crate::{observe::metrics::FilterMetrics, route::Request};

/// Of so many runs of a chain, one is timed: reading the clock twice for each filter of each request would cost more than
/// most of them. Odd, so that a listener's chain and a route's, which alternate, both get their turn.
const TIMED: u32 = 127;

/// The filters of a listener or a route.
#[derive(Clone, Default)]
pub struct Chain(Vec<Step>);

#[derive(Clone)]
struct Step {
    name: Arc<str>,
    phases: Phases,
    filter: Arc<dyn Filter>,
    condition: Option<Arc<Condition>>,
    /// `None` for a step that the gateway has added itself.
    metrics: Option<Arc<FilterMetrics>>,
}

/// Which of a chain's conditional steps run for one request, by their place in the chain. Decided once, so that all
/// phases of a filter agree although filters change the request. Until then, none do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decided(u64);

impl Chain {
    /// Places up to which a step may have a condition.
    pub const CONDITIONAL: usize = u64::BITS as usize;

    pub fn push(&mut self, name: &str, filter: Arc<dyn Filter>) {
        self.push_if(name, filter, None);
    }

    pub fn push_if(&mut self, name: &str, filter: Arc<dyn Filter>, condition: Option<Arc<Condition>>) {
        self.add(name, filter, condition, None);
    }

    /// The same for one whose time and refusals are counted.
    pub(super) fn push_counted(
        &mut self,
        name: &str,
        filter: Arc<dyn Filter>,
        condition: Option<Arc<Condition>>,
        metrics: Arc<FilterMetrics>,
    ) {
        self.add(name, filter, condition, Some(metrics));
    }

    fn add(
        &mut self,
        name: &str,
        filter: Arc<dyn Filter>,
        condition: Option<Arc<Condition>>,
        metrics: Option<Arc<FilterMetrics>>,
    ) {
        let name = match filter.detail() {
            Some(detail) => format!("{name}:{detail}").into(),
            None => name.into(),
        };
        self.0.push(Step { name, phases: filter.phases(), filter, condition, metrics });
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
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|step| &*step.name)
    }

    /// The names of those that run for one request.
    pub fn running(&self, decided: Decided) -> impl Iterator<Item = &str> {
        self.steps(decided).map(|step| &*step.name)
    }

    /// What the filters that run do.
    pub fn phases(&self, decided: Decided) -> Phases {
        self.steps(decided).fold(Phases::empty(), |all, step| all | step.phases)
    }

    /// Stops at the first filter that answers or refuses.
    pub async fn on_request(&self, decided: Decided, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        self.on_request_from(&mut None, decided, exchange).await
    }

    /// The same from the step that has waited, if one has: `from` is that step, and where another waits, that one.
    ///
    /// # Errors
    ///
    /// A filter refuses it.
    pub async fn on_request_from(
        &self,
        from: &mut Option<usize>,
        decided: Decided,
        exchange: &mut Exchange<'_>,
    ) -> Result<Flow, Reason> {
        let is_timed = !self.0.is_empty() && is_timed();
        for step in self.steps(decided) {
            if exchange.facts.is_taken {
                break;
            }
            if !step.phases.intersects(Phases::REQUEST | Phases::REQUEST_ASYNC)
                || from.is_some_and(|from| from != step.place())
            {
                continue;
            }
            *from = None;
            let began = is_timed.then(Instant::now);
            let flow = step.on_request(exchange).await;
            if let (Some(began), Some(metrics)) = (began, &step.metrics) {
                metrics.took(began.elapsed());
            }
            if !matches!(flow, Ok(Flow::Continue)) {
                step.refused();
                return flow;
            }
            if exchange.facts.waits.is_some() || exchange.facts.peeks.is_some() {
                *from = Some(step.place());
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
        trailers: Option<&mut HeaderMap>,
        held: &mut Held,
        most: usize,
    ) -> Result<Passed, Reason> {
        pass_body(Way::Request, self.steps(decided), exchange, data, trailers, held, most)
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
        trailers: Option<&mut HeaderMap>,
        held: &mut Held,
        most: usize,
    ) -> Result<Passed, Reason> {
        pass_body(Way::Response, self.steps(decided).rev(), exchange, data, trailers, held, most)
    }

    /// What of the chain is said by the configuration alone: redirects, answers and rewrites, on a request that is not sent. An answer ends
    /// it. Other filters are passed over, since they count, or ask somebody.
    pub fn rehearse(&self, decided: Decided, exchange: &mut Exchange<'_>) -> Option<Response> {
        const ANSWERS: [&str; 3] = ["https_redirect", "redirect", "respond"];
        const CHANGES: [&str; 2] = ["rewrite", "headers"];
        for step in self.steps(decided).filter(|step| ANSWERS.contains(&&*step.name)) {
            if let Ok(Flow::Reply(answer)) = Reason::catching(|| step.filter.on_request(exchange)) {
                return Some(answer);
            }
        }
        for step in self.steps(decided).filter(|step| CHANGES.contains(&&*step.name)) {
            if step.phases.contains(Phases::FORWARD) {
                Reason::catching(|| step.filter.on_forward(exchange)).ok()?;
            }
        }
        None
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
mod tests;
