//! `wasm`: a plugin as a step of a chain. The request is lent to it, one callback at a time; what it wants is told in the words of
//! the chain, and where it fails, `fail` says what becomes of the request.

mod options;
mod property;
mod view;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use pingora_http::ResponseHeader;
use tokio::time::timeout;

pub(crate) use options::Wasm;

use self::view::{Lent, Phase};
use crate::{
    config::{PluginFail, PluginPhase},
    filter::{BodyFlow, Exchange, Filter, Flow, Phases, Reason, Response, Waits},
    grpc,
    observe::metrics::PluginMetrics,
    plugin::{Answer, Failure, Root, Side, Stream, Turn, Verdict, View, named},
};

pub(crate) struct Step {
    /// `None` where nothing is to run.
    root: Option<Arc<Root>>,
    phases: Phases,
    calls: Calls,
}

/// Which callbacks are made.
#[derive(Clone, Copy, Default)]
struct Calls {
    request_headers: bool,
    request_body: bool,
    request_trailers: bool,
    response_headers: bool,
    response_body: bool,
    response_trailers: bool,
}

/// What the step keeps of one request.
struct Kept {
    stream: Arc<Stream>,
    began: Instant,
    /// It failed, or answered: it hears no more but that the request is over.
    is_out: bool,
    /// The head of the request waits for its body.
    holds_head: bool,
    request: Passed,
    response: Passed,
    /// The head of the response, for those that ask for it later.
    head: Option<ResponseHeader>,
    /// What comes back after a wait that has begun.
    waiting: Option<Arc<Mutex<Option<Left>>>>,
}

/// What is left of a turn when the request has come back.
#[derive(Default)]
struct Left {
    part: Bytes,
    head: Option<ResponseHeader>,
}

/// What has passed of a body.
#[derive(Clone, Copy, Default)]
struct Passed {
    bytes: u64,
    /// So long it is said to be, to one who has been told.
    announced: Option<u64>,
}

impl Step {
    fn placeholder() -> Step {
        Step { root: None, phases: Phases::empty(), calls: Calls::default() }
    }

    fn new(root: Arc<Root>) -> Step {
        let plugin = root.plugin();
        let makes = |phase| plugin.settings().wants(phase) && plugin.exports(named(phase).1);
        let calls = Calls {
            request_headers: makes(PluginPhase::RequestHeaders),
            request_body: makes(PluginPhase::RequestBody),
            request_trailers: makes(PluginPhase::RequestTrailers),
            response_headers: makes(PluginPhase::ResponseHeaders),
            response_body: makes(PluginPhase::ResponseBody),
            response_trailers: makes(PluginPhase::ResponseTrailers),
        };
        // A plugin that never saw the request hears nothing of the response, so each begins with the request.
        let always = Phases::REQUEST_ASYNC | Phases::END;
        let phases = [
            (calls.request_headers, Phases::CHANGES_REQUEST),
            (calls.request_body, Phases::REQUEST_BODY),
            (calls.request_trailers, Phases::REQUEST_TRAILERS),
            (calls.response_headers || calls.response_body, Phases::RESPONSE),
            (calls.response_body, Phases::RESPONSE_BODY),
            (calls.response_trailers, Phases::RESPONSE_TRAILERS),
        ];
        let phases = phases.into_iter().filter(|(is_made, _)| *is_made);
        let phases = phases.fold(always, |all, (_, phase)| all | phase);
        Step { root: Some(root), phases, calls }
    }

    /// What a failure means for the request; `Ok` where it goes on.
    fn failed(&self, exchange: &mut Exchange<'_>, failure: &Failure) -> Result<(), Reason> {
        let Some(root) = &self.root else { return Ok(()) };
        if let Some(kept) = exchange.state::<Kept>(self) {
            kept.is_out = true;
        }
        let settings = root.plugin().settings();
        exchange.facts.note_plugin(&settings.name, failure.why);
        match settings.fail {
            PluginFail::Closed => Err(Reason::PluginError),
            PluginFail::Open => {
                root.plugin().metrics().skipped.inc();
                Ok(())
            }
        }
    }

    /// The same for one that is no fault of the instance.
    fn counted(&self, exchange: &mut Exchange<'_>, why: &'static str) -> Result<(), Reason> {
        if let Some(root) = &self.root {
            root.plugin().failed(why);
        }
        self.failed(exchange, &Failure::new(why, why))
    }

    /// The stream, where the plugin takes part in this request.
    fn stream(&self, exchange: &mut Exchange<'_>) -> Option<Arc<Stream>> {
        let kept = exchange.state::<Kept>(self)?;
        (!kept.is_out).then(|| kept.stream.clone())
    }

    fn lend(&self, exchange: &mut Exchange<'_>, phase: Phase) -> Box<Lent> {
        let kept = exchange.state::<Kept>(self).map(|kept| (kept.began, kept.holds_head, kept.head.take()));
        let mut lent = Lent::of(exchange, phase);
        if let Some((began, holds_head, head)) = kept {
            lent.began = began;
            lent.head_is_here |= holds_head && phase == Phase::RequestBody;
            if lent.response.is_none() {
                lent.response = head;
            }
        }
        lent
    }

    /// What is lent comes back; the parts that are of this turn are handed on.
    fn take_back(
        &self,
        exchange: &mut Exchange<'_>,
        view: Option<Box<dyn View>>,
    ) -> Option<(Bytes, HeaderMap)> {
        let view: Box<dyn std::any::Any> = view?;
        let mut lent = view.downcast::<Lent>().ok()?;
        let (part, trailers) = (std::mem::take(&mut lent.part), std::mem::take(&mut lent.trailers));
        let later = if exchange.response.is_none() { lent.response.take() } else { None };
        lent.give_back(exchange);
        if let Some(kept) = exchange.state::<Kept>(self) {
            kept.head = later.or(kept.head.take());
        }
        Some((part, trailers))
    }

    /// One callback.
    fn turn(
        &self,
        exchange: &mut Exchange<'_>,
        stream: &Stream,
        phase: Phase,
        turn: impl FnOnce(&mut Lent) -> Turn,
    ) -> Result<(Result<Verdict, Failure>, Bytes, HeaderMap), Reason> {
        let mut lent = self.lend(exchange, phase);
        let turn = turn(&mut lent);
        let (verdict, view) = stream.take_turn(lent, turn);
        let (part, trailers) = self.take_back(exchange, view).ok_or(Reason::Internal)?;
        Ok((verdict, part, trailers))
    }

    /// A plugin's own answer. To one that it gives in the place of a response, it is not asked again.
    fn answer(&self, exchange: &mut Exchange<'_>, answer: Answer, phase: Phase) -> Response {
        let in_request = matches!(phase, Phase::RequestHeaders | Phase::RequestBody | Phase::RequestTrailers);
        if let Some(kept) = exchange.state::<Kept>(self) {
            kept.is_out |= !in_request;
        }
        if let Some(root) = &self.root {
            root.plugin().metrics().replies.inc();
            exchange.facts.note_plugin(&root.plugin().settings().name, &answer.detail);
        }
        response(answer, exchange.facts.grpc.is_some())
    }

    /// In the request's head; `None` where it is to wait.
    fn decide(
        &self,
        exchange: &mut Exchange<'_>,
        verdict: Result<Verdict, Failure>,
    ) -> Result<Option<Flow>, Reason> {
        match verdict {
            Ok(Verdict::Continue) => Ok(Some(Flow::Continue)),
            Ok(Verdict::Pause) => Ok(None),
            Ok(Verdict::Answer(answer)) => {
                Ok(Some(Flow::Reply(self.answer(exchange, answer, Phase::RequestHeaders))))
            }
            Ok(Verdict::Reset) => Err(self.reset(exchange)),
            Err(failure) => self.failed(exchange, &failure).map(|()| Some(Flow::Continue)),
        }
    }

    fn reset(&self, exchange: &mut Exchange<'_>) -> Reason {
        if let Some(kept) = exchange.state::<Kept>(self) {
            kept.is_out = true;
        }
        exchange.facts.cuts = true;
        Reason::PluginError
    }

    fn most(&self) -> usize {
        self.root.as_ref().map_or(0, |root| root.plugin().settings().limits.buffer)
    }

    fn pauses_headers_only(&self) -> bool {
        self.root.as_ref().is_some_and(|root| root.plugin().settings().pause_headers_only)
    }

    /// A part of a body, either way.
    fn on_part(
        &self,
        exchange: &mut Exchange<'_>,
        data: &mut Bytes,
        is_last: bool,
        phase: Phase,
    ) -> Result<BodyFlow, Reason> {
        let Some(stream) = self.stream(exchange) else { return Ok(BodyFlow::Pass) };
        if let Some(part) = self.after_wait(exchange) {
            *data = part;
            return self.settle(exchange, data, is_last, phase, seen(&stream));
        }
        let whole = std::mem::take(data);
        if whole.len() > self.most() && !is_last {
            // It held the first of it back.
            return self.too_much(exchange, data, whole, phase);
        }
        let size = whole.len();
        let (verdict, part, _) = self.turn(exchange, &stream, phase, |lent| {
            lent.part = whole;
            match phase {
                Phase::RequestBody => Turn::RequestBody { size, is_last },
                _ => Turn::ResponseBody { size, is_last },
            }
        })?;
        *data = part;
        match verdict {
            Ok(Verdict::Pause) if !is_last => Ok(BodyFlow::Hold),
            Ok(Verdict::Pause) => match self.wait(exchange, &stream, phase, std::mem::take(data)) {
                Ok(()) => Ok(BodyFlow::Wait),
                Err(part) => {
                    *data = part;
                    self.settle(exchange, data, is_last, phase, seen(&stream))
                }
            },
            verdict => self.settle(exchange, data, is_last, phase, verdict),
        }
    }

    /// What a plugin wants to become of a part.
    fn settle(
        &self,
        exchange: &mut Exchange<'_>,
        data: &mut Bytes,
        is_last: bool,
        phase: Phase,
        verdict: Result<Verdict, Failure>,
    ) -> Result<BodyFlow, Reason> {
        match verdict {
            Ok(Verdict::Continue | Verdict::Pause) => self.pass(exchange, data, is_last, phase),
            Ok(Verdict::Answer(answer)) => {
                Ok(BodyFlow::Reply(self.answer(exchange, answer, Phase::RequestHeaders)))
            }
            Ok(Verdict::Reset) => Err(self.reset(exchange)),
            Err(failure) => {
                self.failed(exchange, &failure)?;
                Ok(BodyFlow::Pass)
            }
        }
    }

    /// The request waits, and the plugin has it meanwhile. What it was about comes back where the instance is gone.
    fn wait(
        &self,
        exchange: &mut Exchange<'_>,
        stream: &Arc<Stream>,
        phase: Phase,
        part: Bytes,
    ) -> Result<(), Bytes> {
        let left = Arc::<Mutex<Option<Left>>>::default();
        if let Some(kept) = exchange.state::<Kept>(self) {
            kept.waiting = Some(left.clone());
        }
        let mut lent = self.lend(exchange, phase);
        lent.part = part;
        if let Some(view) = stream.pause(lent) {
            let part = self.take_back(exchange, Some(view)).map(|(part, _)| part).unwrap_or_default();
            if let Some(kept) = exchange.state::<Kept>(self) {
                kept.waiting = None;
            }
            return Err(part);
        }
        let (waits, gives) = (stream.clone(), stream.clone());
        exchange.facts.waits = Some(Waits {
            until: Box::pin(until(waits)),
            back: Box::new(move |exchange| give_back(&gives, &left, exchange)),
        });
        Ok(())
    }

    /// The part that was waited with, where that is over.
    fn after_wait(&self, exchange: &mut Exchange<'_>) -> Option<Bytes> {
        let kept = exchange.state::<Kept>(self)?;
        let left = kept.waiting.take()?;
        let Left { part, head } =
            left.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        kept.head = head.or(kept.head.take());
        Some(part)
    }

    fn too_much(
        &self,
        exchange: &mut Exchange<'_>,
        data: &mut Bytes,
        whole: Bytes,
        phase: Phase,
    ) -> Result<BodyFlow, Reason> {
        *data = whole;
        match phase {
            Phase::RequestBody => Err(Reason::RequestTooLarge),
            _ => {
                self.counted(exchange, "buffer")?;
                Ok(BodyFlow::Pass)
            }
        }
    }

    /// A changed body never goes on with another length than was announced.
    fn pass(
        &self,
        exchange: &mut Exchange<'_>,
        data: &Bytes,
        is_last: bool,
        phase: Phase,
    ) -> Result<BodyFlow, Reason> {
        let Some(kept) = exchange.state::<Kept>(self) else { return Ok(BodyFlow::Pass) };
        let (passed, head_waits) = match phase {
            Phase::RequestBody => (&mut kept.request, kept.holds_head),
            // The head of a response waits for the first part that passes; one that is whole sets its length.
            _ => {
                let is_whole = kept.response.bytes == 0 && is_last;
                (&mut kept.response, is_whole)
            }
        };
        passed.bytes += data.len() as u64;
        let fits = match passed.announced {
            Some(announced) if is_last => passed.bytes == announced,
            Some(announced) => passed.bytes <= announced,
            None => true,
        };
        if fits || head_waits {
            return Ok(BodyFlow::Pass);
        }
        if let Some(root) = &self.root {
            root.plugin().failed("length");
            exchange.facts.note_plugin(&root.plugin().settings().name, "length");
        }
        // Also where it is to fail open: what has gone cannot be called back.
        Err(Reason::PluginError)
    }
}

fn response(answer: Answer, is_call: bool) -> Response {
    let mut response = Response::new(answer.status);
    response.headers = answer.fields;
    response.body = answer.body.into();
    if let (Some(status), true) = (answer.grpc_status, is_call) {
        response.status = StatusCode::OK;
        response.headers.push((grpc::STATUS.clone(), u16::from(status).into()));
        if let Ok(message) = HeaderValue::from_str(&grpc::message(&answer.detail)) {
            response.headers.push((grpc::MESSAGE.clone(), message));
        }
        response.headers.retain(|(name, _)| *name != header::CONTENT_TYPE);
        response.headers.push((header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")));
        response.body = Bytes::new();
    }
    let is_typed = response.headers.iter().any(|(name, _)| *name == header::CONTENT_TYPE);
    if !response.body.is_empty() && !is_typed {
        response.headers.push((header::CONTENT_TYPE, HeaderValue::from_static("text/plain")));
    }
    response
}

fn gone() -> Failure {
    Failure::new("trap", "the instance failed on another request")
}

/// What has come of a wait.
fn seen(stream: &Stream) -> Result<Verdict, Failure> {
    stream.look().unwrap_or_else(|| {
        stream.root().plugin().failed("pause");
        Err(Failure::new("pause", "the request was paused too long"))
    })
}

/// Until the plugin has said what is to become of the request, or it has waited long enough.
async fn until(stream: Arc<Stream>) {
    let plugin = stream.root().plugin().clone();
    let _paused = Paused::begin(plugin.metrics().clone());
    let said = async {
        while !stream.has_news() {
            stream.woken().await;
        }
    };
    // What it has come to is looked at afterwards.
    let _ = timeout(plugin.settings().limits.pause, said).await;
}

/// One more request waits.
struct Paused(PluginMetrics);

impl Paused {
    fn begin(metrics: PluginMetrics) -> Paused {
        metrics.paused.inc();
        Paused(metrics)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.0.paused.dec();
    }
}

/// A wait is over: the request comes back.
fn give_back(stream: &Stream, left: &Mutex<Option<Left>>, exchange: &mut Exchange<'_>) {
    let Some(view) = stream.take_back() else { return };
    let view: Box<dyn std::any::Any> = view;
    let Ok(mut lent) = view.downcast::<Lent>() else { return };
    let part = std::mem::take(&mut lent.part);
    let head = if exchange.response.is_none() { lent.response.take() } else { None };
    lent.give_back(exchange);
    *left.lock().unwrap_or_else(PoisonError::into_inner) = Some(Left { part, head });
}

fn length_in(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A request that waits. However the wait ends, what is lent comes back.
struct Waiting<'w, 'e> {
    step: &'w Step,
    exchange: &'w mut Exchange<'e>,
    stream: Arc<Stream>,
    is_lent: bool,
}

impl Waiting<'_, '_> {
    fn end(&mut self) {
        if std::mem::take(&mut self.is_lent) {
            let view = self.stream.take_back();
            let _ = self.step.take_back(self.exchange, view);
        }
    }
}

impl Drop for Waiting<'_, '_> {
    fn drop(&mut self) {
        self.end();
    }
}

#[async_trait]
impl Filter for Step {
    fn phases(&self) -> Phases {
        self.phases
    }

    fn on_request_at_once(&self, exchange: &mut Exchange<'_>) -> Result<Option<Flow>, Reason> {
        let Some(root) = &self.root else { return Ok(Some(Flow::Continue)) };
        let stream = match root.enter() {
            Ok(stream) => Arc::new(stream),
            Err(failure) => return self.failed(exchange, &failure).map(|()| Some(Flow::Continue)),
        };
        let announced = length_in(&exchange.request.headers);
        let kept = Kept {
            stream: stream.clone(),
            began: Instant::now(),
            is_out: false,
            holds_head: false,
            request: Passed { bytes: 0, announced },
            response: Passed::default(),
            head: None,
            waiting: None,
        };
        exchange.keep(self, kept);
        if !self.calls.request_headers {
            return Ok(Some(Flow::Continue));
        }
        let is_last = exchange.facts.is_bodiless;
        let (verdict, ..) = self.turn(exchange, &stream, Phase::RequestHeaders, |lent| {
            Turn::RequestHeaders { count: lent.count(Side::Request), is_last }
        })?;
        let pauses = matches!(verdict, Ok(Verdict::Pause));
        let has_length = exchange.request.headers.contains_key(header::CONTENT_LENGTH);
        if let Some(kept) = exchange.state::<Kept>(self) {
            // Who takes it off is going to change the body.
            kept.request.announced = kept.request.announced.filter(|_| has_length);
            kept.holds_head = pauses && !is_last && self.pauses_headers_only();
            if kept.holds_head {
                exchange.gather_body(self.most());
                return Ok(Some(Flow::Continue));
            }
        }
        self.decide(exchange, verdict)
    }

    /// The plugin has paused in the request's head.
    async fn on_request_async(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let Some(stream) = self.stream(exchange) else { return Ok(Flow::Continue) };
        let lent = self.lend(exchange, Phase::RequestHeaders);
        let mut waiting = Waiting { step: self, exchange, stream, is_lent: true };
        let could_not = waiting.stream.pause(lent);
        let verdict = match could_not {
            Some(view) => {
                waiting.is_lent = false;
                self.take_back(waiting.exchange, Some(view)).ok_or(Reason::Internal)?;
                Err(gone())
            }
            None => {
                until(waiting.stream.clone()).await;
                waiting.end();
                seen(&waiting.stream)
            }
        };
        let flow = self.decide(waiting.exchange, verdict)?;
        Ok(flow.unwrap_or(Flow::Continue))
    }

    fn on_request_body(
        &self,
        exchange: &mut Exchange<'_>,
        data: &mut Bytes,
        is_last: bool,
    ) -> Result<BodyFlow, Reason> {
        // Where there is no body there is no callback.
        if exchange.facts.is_bodiless {
            return Ok(BodyFlow::Pass);
        }
        self.on_part(exchange, data, is_last, Phase::RequestBody)
    }

    fn on_request_trailers(
        &self,
        exchange: &mut Exchange<'_>,
        trailers: &mut HeaderMap,
    ) -> Result<(), Reason> {
        if trailers.is_empty() {
            return Ok(());
        }
        self.on_trailers(exchange, trailers, Phase::RequestTrailers)
    }

    fn on_response(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        let Some(stream) = self.stream(exchange) else { return Ok(()) };
        let Some(response) = exchange.response.as_deref() else { return Ok(()) };
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        let is_last = is_bodiless(&exchange.request.method, response);
        if self.calls.response_headers {
            let verdict = match self.after_wait(exchange) {
                Some(_) => seen(&stream),
                None => {
                    self.turn(exchange, &stream, Phase::ResponseHeaders, |lent| Turn::ResponseHeaders {
                        count: lent.count(Side::Response),
                        is_last,
                    })?
                    .0
                }
            };
            match verdict {
                Ok(Verdict::Continue) => {}
                // The head waits for the body in any case.
                Ok(Verdict::Pause) if self.pauses_headers_only() && !is_last => {}
                Ok(Verdict::Pause) => {
                    if self.wait(exchange, &stream, Phase::ResponseHeaders, Bytes::new()).is_ok() {
                        return Ok(());
                    }
                    self.failed(exchange, &gone())?;
                }
                Ok(Verdict::Answer(answer)) => {
                    let answer = self.answer(exchange, answer, Phase::ResponseHeaders);
                    exchange.facts.instead = Some(Box::new(answer));
                    return Err(Reason::PluginError);
                }
                Ok(Verdict::Reset) => return Err(self.reset(exchange)),
                Err(failure) => self.failed(exchange, &failure)?,
            }
        }
        let head = exchange.response.as_deref();
        let announced = head.and_then(|head| length_in(&head.headers)).filter(|_| !is_last);
        let head = head.filter(|_| !is_last || self.calls.response_headers).cloned();
        if let Some(kept) = exchange.state::<Kept>(self) {
            kept.response = Passed { bytes: 0, announced };
            kept.head = head;
        }
        Ok(())
    }

    fn on_response_body(
        &self,
        exchange: &mut Exchange<'_>,
        data: &mut Bytes,
        is_last: bool,
    ) -> Result<BodyFlow, Reason> {
        let method = exchange.request.method.clone();
        let Some(kept) = exchange.state::<Kept>(self) else { return Ok(BodyFlow::Pass) };
        // Where there is no body there is no callback.
        let has_none =
            kept.waiting.is_none() && kept.head.as_ref().is_none_or(|head| is_bodiless(&method, head));
        if has_none {
            return Ok(BodyFlow::Pass);
        }
        self.on_part(exchange, data, is_last, Phase::ResponseBody)
    }

    fn on_response_trailers(
        &self,
        exchange: &mut Exchange<'_>,
        trailers: &mut HeaderMap,
    ) -> Result<Bytes, Reason> {
        if !trailers.is_empty() {
            self.on_trailers(exchange, trailers, Phase::ResponseTrailers)?;
        }
        Ok(Bytes::new())
    }

    fn on_end(&self, exchange: &mut Exchange<'_>) {
        let Some(stream) = exchange.state::<Kept>(self).map(|kept| kept.stream.clone()) else { return };
        let lent = self.lend(exchange, Phase::End);
        let view = stream.end(lent);
        let _ = self.take_back(exchange, view);
    }
}

impl Step {
    fn on_trailers(
        &self,
        exchange: &mut Exchange<'_>,
        trailers: &mut HeaderMap,
        phase: Phase,
    ) -> Result<(), Reason> {
        let Some(stream) = self.stream(exchange) else { return Ok(()) };
        let theirs = std::mem::take(trailers);
        let (verdict, _, changed) = self.turn(exchange, &stream, phase, |lent| {
            let count = theirs.len();
            lent.trailers = theirs;
            match phase {
                Phase::RequestTrailers => Turn::RequestTrailers { count },
                _ => Turn::ResponseTrailers { count },
            }
        })?;
        *trailers = changed;
        match verdict {
            Ok(Verdict::Continue) => Ok(()),
            Ok(Verdict::Pause) => self.counted(exchange, "pause"),
            Ok(Verdict::Answer(answer)) => {
                let answer = self.answer(exchange, answer, phase);
                exchange.facts.instead = Some(Box::new(answer));
                Err(Reason::PluginError)
            }
            Ok(Verdict::Reset) => Err(self.reset(exchange)),
            Err(failure) => self.failed(exchange, &failure),
        }
    }
}

/// Whether this head is all that there is of a response.
fn is_bodiless(method: &Method, head: &ResponseHeader) -> bool {
    *method == Method::HEAD
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || length_in(&head.headers) == Some(0)
}
