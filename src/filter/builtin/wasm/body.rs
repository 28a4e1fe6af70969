//! Bodies, either way, and what is behind them.

use bytes::Bytes;
use http::HeaderMap;

use super::{
    Step,
    lending::{Kept, Left, Turned, news, seen},
    view::Phase,
};
use crate::{
    filter::{BodyFlow, Exchange, Reason, Waits},
    plugin::{Failure, Turn, Verdict},
};

impl Step {
    /// A part of a body.
    pub(super) fn on_part(
        &self,
        exchange: &mut Exchange<'_>,
        data: &mut Bytes,
        is_last: bool,
        phase: Phase,
    ) -> Result<BodyFlow, Reason> {
        // What it had changed before it was passed over counts all the same.
        let Some(stream) = self.stream(exchange) else { return self.pass(exchange, data, is_last, phase) };
        let turned = match self.after_wait(exchange) {
            Some(turned) => turned,
            None => {
                let whole = std::mem::take(data);
                let size = whole.len();
                match self.passed(exchange, phase, |passed| passed.held) {
                    // Nothing has come: it may go on, or was held back too long.
                    Some(held) if held == size && !is_last => {
                        Turned::Said(seen(&stream), Left { part: whole, ..Left::default() })
                    }
                    Some(_) if size > self.most() => {
                        return self.too_much(exchange, data, whole, is_last, phase);
                    }
                    _ => self.turn(exchange, &stream, phase, |lent| {
                        lent.part = whole;
                        match phase {
                            Phase::RequestBody => Turn::RequestBody { size, is_last },
                            _ => Turn::ResponseBody { size, is_last },
                        }
                    })?,
                }
            }
        };
        let Turned::Said(verdict, left) = turned else { return Ok(BodyFlow::Wait) };
        *data = left.part;
        let is_held = matches!(verdict, Ok(Verdict::Pause | Verdict::HoldHead)) && !is_last;
        self.passed(exchange, phase, |passed| passed.held = is_held.then_some(data.len()));
        if !is_held {
            return self.settle(exchange, data, is_last, phase, verdict);
        }
        // Each part is a pause of its own: how fast parts come is not for the plugin to say.
        exchange.facts.waits = Some(Waits { until: Box::pin(news(stream)), back: Box::new(|_| {}) });
        Ok(BodyFlow::Hold)
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
            Ok(Verdict::Continue | Verdict::Pause | Verdict::HoldHead) => {
                self.pass(exchange, data, is_last, phase)
            }
            // It answers to the body of its own answer, whose head is settled: the first counts.
            Ok(Verdict::Answer(_)) if exchange.state::<Kept>(self).is_some_and(|kept| kept.has_answered) => {
                self.pass(exchange, data, is_last, phase)
            }
            Ok(Verdict::Answer(answer)) => Ok(BodyFlow::Reply(self.answer(exchange, answer, phase))),
            Ok(Verdict::Reset) => Err(self.reset(exchange)),
            Err(failure) => {
                self.failed(exchange, &failure)?;
                // It may have changed the part before.
                self.pass(exchange, data, is_last, phase)
            }
        }
    }

    fn too_much(
        &self,
        exchange: &mut Exchange<'_>,
        data: &mut Bytes,
        whole: Bytes,
        is_last: bool,
        phase: Phase,
    ) -> Result<BodyFlow, Reason> {
        *data = whole;
        match phase {
            Phase::RequestBody => Err(Reason::RequestTooLarge),
            _ => {
                self.counted(exchange, "buffer")?;
                self.pass(exchange, data, is_last, phase)
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

    /// What is behind a body, if anything is.
    pub(super) fn on_trailers(
        &self,
        exchange: &mut Exchange<'_>,
        trailers: &mut HeaderMap,
        phase: Phase,
    ) -> Result<(), Reason> {
        let Some(stream) = self.stream(exchange) else { return Ok(()) };
        let turned = match self.after_wait(exchange) {
            Some(turned) => turned,
            None if trailers.is_empty() => return Ok(()),
            None => {
                let theirs = std::mem::take(trailers);
                self.turn(exchange, &stream, phase, |lent| {
                    let count = theirs.len();
                    lent.trailers = theirs;
                    match phase {
                        Phase::RequestTrailers => Turn::RequestTrailers { count },
                        _ => Turn::ResponseTrailers { count },
                    }
                })?
            }
        };
        let Turned::Said(verdict, Left { trailers: changed, .. }) = turned else { return Ok(()) };
        *trailers = changed;
        if phase == Phase::ResponseTrailers
            && let Some(lent) = exchange.state::<Kept>(self).and_then(|kept| kept.lent.as_mut())
        {
            lent.trailers_of_response.clone_from(trailers);
        }
        match verdict {
            Ok(Verdict::Continue | Verdict::Pause | Verdict::HoldHead) => Ok(()),
            Ok(Verdict::Answer(answer)) => Err(self.answer_instead(exchange, answer, phase)),
            Ok(Verdict::Reset) => Err(self.reset(exchange)),
            Err(failure) => self.failed(exchange, &failure),
        }
    }

    fn passed<T: Default>(
        &self,
        exchange: &mut Exchange<'_>,
        phase: Phase,
        look: impl FnOnce(&mut super::lending::Passed) -> T,
    ) -> T {
        let Some(kept) = exchange.state::<Kept>(self) else { return T::default() };
        look(match phase {
            Phase::RequestBody => &mut kept.request,
            _ => &mut kept.response,
        })
    }

    /// How much of a body it may hold back.
    pub(super) fn most(&self) -> usize {
        self.root.as_ref().map_or(0, |root| root.plugin().settings().limits.buffer)
    }
}
