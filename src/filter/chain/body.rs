//! A part of a body on its way through a chain, in either direction: what steps hold back of it, and who waits with it.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::Step;
use crate::filter::{BodyFlow, Exchange, Phases, Reason, Response, Waits};

/// Parts of one body that filters hold back.
#[derive(Debug, Default)]
pub struct Held {
    parts: Vec<Part>,
    bytes: usize,
    /// The step that waits, and is asked again.
    waiting: Option<usize>,
    /// It has passed the last part, and waits with what is behind it.
    behind: Option<Bytes>,
}

#[derive(Debug)]
struct Part {
    /// Whose it is.
    step: usize,
    bytes: BytesMut,
    /// When that step is asked again, even if nothing more has come.
    waits: Option<Waits>,
}

/// Which way a body goes.
#[derive(Clone, Copy)]
pub(super) enum Way {
    Request,
    Response,
}

impl Way {
    fn phases(self) -> (Phases, Phases) {
        match self {
            Way::Request => (Phases::REQUEST_BODY, Phases::REQUEST_TRAILERS),
            Way::Response => (Phases::RESPONSE_BODY, Phases::RESPONSE_TRAILERS),
        }
    }

    fn too_much(self) -> Reason {
        match self {
            Way::Request => Reason::RequestBufferFull,
            Way::Response => Reason::ResponseBufferFull,
        }
    }
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
struct TooMuch;

impl Held {
    /// What this step has held back of the body, and in front of which the next part belongs.
    fn release(&mut self, step: usize) -> Option<BytesMut> {
        let at = self.parts.iter().position(|part| part.step == step)?;
        let part = self.parts.swap_remove(at);
        self.bytes -= part.bytes.len();
        Some(part.bytes)
    }

    fn hold(&mut self, part: Part, most: usize) -> Result<(), TooMuch> {
        self.bytes += part.bytes.len();
        self.parts.push(part);
        if self.bytes > most { Err(TooMuch) } else { Ok(()) }
    }

    /// Ready when a step that holds a part back is to be asked again, with no more than that: an empty part then finds it.
    pub(crate) fn poll_ends(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut ends = |part: &mut Part| {
            part.waits.as_mut().is_some_and(|waits| waits.until.as_mut().poll(cx).is_ready())
        };
        let Some(part) = self.parts.iter_mut().find_map(|part| ends(part).then_some(part)) else {
            return Poll::Pending;
        };
        part.waits = None;
        self.waiting = Some(part.step);
        Poll::Ready(())
    }
}

/// A part of a body through the steps of a chain, either way.
pub(super) fn pass_body<'s>(
    way: Way,
    steps: impl Iterator<Item = &'s Step>,
    exchange: &mut Exchange<'_>,
    data: &mut Bytes,
    mut trailers: Option<&mut HeaderMap>,
    held: &mut Held,
    most: usize,
) -> Result<Passed, Reason> {
    let (of_body, of_trailers) = way.phases();
    let mut from = held.waiting.take();
    for step in steps.filter(|step| step.phases.intersects(of_body | of_trailers)) {
        if from.is_some_and(|from| from != step.place()) {
            continue;
        }
        let is_again = from.take().is_some();
        let is_last = trailers.is_some();
        // Nothing has come as far as here.
        if data.is_empty() && !is_last && !is_again {
            continue;
        }
        let stepped = match held.behind.take().filter(|_| is_again) {
            Some(passed) => {
                *data = passed;
                Stepped::On
            }
            None => step.on_body(way, exchange, data, is_last, held, most)?,
        };
        match stepped {
            Stepped::On => {}
            Stepped::Replied(answer) => return Ok(Passed::Replied(answer)),
            Stepped::Waits => {
                held.waiting = Some(step.place());
                return Ok(Passed::Waits);
            }
        }
        if let Some(trailers) = trailers.as_deref_mut()
            && step.phases.intersects(of_trailers)
        {
            let end = step.on_trailers(way, exchange, trailers)?;
            if exchange.facts.waits.is_some() {
                held.waiting = Some(step.place());
                held.behind = Some(std::mem::take(data));
                return Ok(Passed::Waits);
            }
            *data = joined(std::mem::take(data), end);
        }
    }
    // It is a step of another chain.
    held.waiting = from;
    Ok(Passed::On)
}

impl Step {
    /// What the step makes of a part of a body. Nothing is left of it where the step waits for more.
    fn on_body(
        &self,
        way: Way,
        exchange: &mut Exchange<'_>,
        data: &mut Bytes,
        is_last: bool,
        held: &mut Held,
        most: usize,
    ) -> Result<Stepped, Reason> {
        if !self.phases.intersects(way.phases().0) {
            return Ok(Stepped::On);
        }
        let place = self.place();
        if let Some(before) = held.release(place) {
            *data = joined(before.freeze(), std::mem::take(data));
        }
        let seen = Reason::catching(|| match way {
            Way::Request => self.filter.on_request_body(exchange, data, is_last),
            Way::Response => self.filter.on_response_body(exchange, data, is_last),
        });
        match self.counted(seen)? {
            BodyFlow::Pass => Ok(Stepped::On),
            // There is nothing more to wait for.
            BodyFlow::Hold if is_last => Ok(Stepped::On),
            BodyFlow::Wait => Ok(Stepped::Waits),
            BodyFlow::Hold => {
                let bytes = BytesMut::from(std::mem::take(data));
                let part = Part { step: place, bytes, waits: exchange.facts.waits.take() };
                held.hold(part, most).map_err(|TooMuch| way.too_much())?;
                Ok(Stepped::On)
            }
            BodyFlow::Reply(response) => {
                self.refused();
                Ok(Stepped::Replied(response))
            }
        }
    }

    /// What is behind a body. What it answers goes in front of that.
    fn on_trailers(
        &self,
        way: Way,
        exchange: &mut Exchange<'_>,
        trailers: &mut HeaderMap,
    ) -> Result<Bytes, Reason> {
        self.counted(Reason::catching(|| match way {
            Way::Request => self.filter.on_request_trailers(exchange, trailers).map(|()| Bytes::new()),
            Way::Response => self.filter.on_response_trailers(exchange, trailers),
        }))
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
