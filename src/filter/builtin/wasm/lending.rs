//! A request is taken out of the exchange, lent to the plugin for one callback, and put back. Where the plugin pauses, the request
//! stays with it, and the exchange says what is waited for.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::timeout;

use super::{
    Step,
    view::{Lent, Phase},
};
use crate::{
    filter::{Exchange, Reason, Waits, address_of},
    observe::metrics::PluginMetrics,
    plugin::{Failure, Stream, Turn, Verdict, View},
};

/// What the step keeps of one request.
pub(super) struct Kept {
    pub stream: Arc<Stream>,
    /// It failed, or answered: it hears no more but that the request is over.
    pub is_out: bool,
    /// It has answered the request, and hears its own answer as a response.
    pub has_answered: bool,
    /// The head of the request waits for its body.
    pub holds_head: bool,
    pub request: Passed,
    pub response: Passed,
    /// What the request is lent in. Between turns it has the head of the response, and what was behind its body, for those that
    /// ask for it later.
    pub lent: Option<Box<Lent>>,
    /// A wait is over, and this has come back.
    pub left: Option<Left>,
}

impl Kept {
    pub(super) fn new(stream: Arc<Stream>, announced: Option<u64>) -> Kept {
        Kept {
            stream,
            is_out: false,
            has_answered: false,
            holds_head: false,
            request: Passed { announced, ..Passed::default() },
            response: Passed::default(),
            lent: Some(Lent::nothing_yet()),
            left: None,
        }
    }
}

/// What is left of a turn when the request has come back.
#[derive(Default)]
pub(super) struct Left {
    pub part: Bytes,
    pub trailers: HeaderMap,
}

/// What has passed of a body.
#[derive(Clone, Copy, Default)]
pub(super) struct Passed {
    pub bytes: u64,
    /// So long it is said to be, to one who has been told.
    pub announced: Option<u64>,
    /// The plugin holds so many bytes back.
    pub held: Option<usize>,
}

/// What a turn came to.
#[expect(
    clippy::large_enum_variant,
    reason = "looked at and gone at once: a box would be one more allocation for each turn"
)]
pub(super) enum Turned {
    Said(Result<Verdict, Failure>, Left),
    /// The request stays with the plugin.
    Waits,
}

impl Step {
    /// The stream, where the plugin takes part in this request.
    pub(super) fn stream(&self, exchange: &mut Exchange<'_>) -> Option<Arc<Stream>> {
        let kept = exchange.state::<Kept>(self)?;
        (!kept.is_out).then(|| kept.stream.clone())
    }

    pub(super) fn lend(&self, exchange: &mut Exchange<'_>, phase: Phase) -> Box<Lent> {
        let kept = exchange.state::<Kept>(self);
        let holds_head = kept.as_ref().is_some_and(|kept| kept.holds_head);
        let mut lent = kept.and_then(|kept| kept.lent.take()).unwrap_or_else(Lent::nothing_yet);
        lent.take(exchange, phase);
        lent.head_is_here |= holds_head && phase == Phase::RequestBody;
        lent
    }

    /// What is lent comes back; what is of this turn is handed on.
    pub(super) fn take_back(&self, exchange: &mut Exchange<'_>, view: Option<Box<dyn View>>) -> Option<Left> {
        let view: Box<dyn Any> = view?;
        let lent = view.downcast::<Lent>().ok()?;
        Some(put_back(lent, exchange, address_of(self)))
    }

    /// One callback.
    pub(super) fn turn(
        &self,
        exchange: &mut Exchange<'_>,
        stream: &Arc<Stream>,
        phase: Phase,
        turn: impl FnOnce(&mut Lent) -> Turn,
    ) -> Result<Turned, Reason> {
        let mut lent = self.lend(exchange, phase);
        let turn = turn(&mut lent);
        let (verdict, view) = stream.take_turn(lent, turn);
        if view.is_none() && matches!(verdict, Ok(Verdict::Pause)) {
            let (waits, gives, owner) = (stream.clone(), stream.clone(), address_of(self));
            let ends = Arc::new(AtomicBool::new(false));
            let ended = ends.clone();
            exchange.facts.waits = Some(Waits {
                until: Box::pin(async move {
                    until(waits).await;
                    ends.store(true, Relaxed);
                }),
                back: Box::new(move |exchange| give_back(&gives, exchange, owner, ended.load(Relaxed))),
            });
            return Ok(Turned::Waits);
        }
        let left = self.take_back(exchange, view).ok_or(Reason::Internal)?;
        Ok(Turned::Said(verdict, left))
    }

    /// What has come back, where a wait is over, and what the plugin has said meanwhile.
    pub(super) fn after_wait(&self, exchange: &mut Exchange<'_>) -> Option<Turned> {
        let kept = exchange.state::<Kept>(self)?;
        let left = kept.left.take()?;
        Some(Turned::Said(seen(&kept.stream), left))
    }
}

/// The exchange is as the plugin has left it.
fn put_back(mut lent: Box<Lent>, exchange: &mut Exchange<'_>, owner: usize) -> Left {
    let left = Left { part: std::mem::take(&mut lent.part), trailers: std::mem::take(&mut lent.trailers) };
    lent.give_back(exchange);
    if let Some(kept) = exchange.state_at::<Kept>(owner) {
        kept.lent = Some(lent);
    }
    left
}

/// A wait is over, or was given up for a reason of the gateway's own: the request comes back.
fn give_back(stream: &Stream, exchange: &mut Exchange<'_>, owner: usize, is_over: bool) {
    let Some(view) = stream.take_back() else { return };
    let view: Box<dyn Any> = view;
    let Ok(lent) = view.downcast::<Lent>() else { return };
    let phase = lent.phase;
    let left = put_back(lent, exchange, owner);
    if let Some(kept) = exchange.state_at::<Kept>(owner) {
        kept.lent.iter_mut().for_each(|lent| lent.renew());
        kept.left = is_over.then_some(left);
        // What it was to say of the response does not matter any more: there will be another.
        if !is_over && !phase.is_of_request() {
            (kept.is_out, kept.response) = (true, Passed::default());
        }
    }
}

/// What has come of a wait.
pub(super) fn seen(stream: &Stream) -> Result<Verdict, Failure> {
    stream.look().unwrap_or_else(|| {
        stream.root().plugin().failed("pause");
        Err(Failure::new("pause", "the request was paused too long"))
    })
}

async fn until(stream: Arc<Stream>) {
    let _paused = Paused::begin(stream.root().plugin().metrics().clone());
    news(stream).await;
}

/// Until the plugin has said what is to become of the request, or it has waited long enough.
pub(super) async fn news(stream: Arc<Stream>) {
    let said = async {
        while !stream.has_news() {
            stream.woken().await;
        }
    };
    // What it has come to is looked at afterwards.
    let _ = timeout(stream.root().plugin().settings().limits.pause, said).await;
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
