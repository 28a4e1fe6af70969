//! A request's turn: what is lent for it, the callback, and what the plugin wants to become of the request.

use std::{sync::Arc, time::Instant};

use tokio::sync::Notify;

use super::{Failure, Instance, small};
use crate::{
    config::PluginPhase,
    observe::metrics::PluginCallback,
    plugin::{
        callbacks::HeadCallback,
        state::{Answer, Context, Stream, Wish},
        view::View,
    },
};

/// What a request's turn came to.
#[derive(Debug)]
pub(crate) enum Verdict {
    Continue,
    /// The head is held, and the body looked at.
    HoldHead,
    Pause,
    Answer(Answer),
    /// The client's connection, or stream, is to be broken off.
    Reset,
}

/// One turn of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Turn {
    RequestHeaders { count: usize, is_last: bool },
    RequestBody { size: usize, is_last: bool },
    RequestTrailers { count: usize },
    ResponseHeaders { count: usize, is_last: bool },
    ResponseBody { size: usize, is_last: bool },
    ResponseTrailers { count: usize },
}

impl Turn {
    /// Whether the request waits where the plugin pauses: of a body, its next part is looked at first.
    fn waits(self) -> bool {
        match self {
            Turn::RequestBody { is_last, .. } | Turn::ResponseBody { is_last, .. } => is_last,
            _ => true,
        }
    }

    fn is_head(self) -> bool {
        matches!(self, Turn::RequestHeaders { .. } | Turn::ResponseHeaders { .. })
    }

    /// A head that can be held while the body is looked at.
    fn is_head_of_more(self) -> bool {
        matches!(
            self,
            Turn::RequestHeaders { is_last: false, .. } | Turn::ResponseHeaders { is_last: false, .. }
        )
    }
}

/// Of a plugin that pauses in a head: it is held, and the body looked at.
const STOP_HEAD: i32 = 1;
/// The C++ SDK's "go on, and end the stream": the first half of it is what hosts do.
const CONTINUE_AND_END: i32 = 2;

/// What a request's turn left behind: the request itself, unless it waits.
pub(crate) type Taken = (Result<Verdict, Failure>, Option<Box<dyn View>>);

impl Instance {
    /// A context for one request.
    pub(in crate::plugin) fn create(&mut self, root: u64, woken: Arc<Notify>) -> Result<u32, Failure> {
        if self.is_broken {
            return Err(Failure::of_another());
        }
        let Some(root) = self.roots.get(&root).copied() else {
            return Err(Failure {
                is_of_another: true,
                ..Failure::new("start", "this instance has no such root context")
            });
        };
        let id = self.next_id();
        let stream = Stream { root, view: None, wish: Wish::default(), woken };
        self.store.data_mut().contexts.insert(id, Context::Stream(stream));
        let Some(create) = self.callbacks.context_create.clone() else { return Ok(id) };
        self.call(id, PluginCallback::ContextCreate, &create, (id.cast_signed(), root.cast_signed()))?;
        Ok(id)
    }

    /// Let a request have its turn. What is lent comes back, unless the plugin pauses and the request waits for it: then it stays,
    /// as the next thing that happens in here may be what it waits for.
    pub(in crate::plugin) fn take_turn(&mut self, id: u32, view: Box<dyn View>, turn: Turn) -> Taken {
        let Some(stream) = self.stream(id) else {
            return (Err(Failure::new("trap", "the request's context is gone")), Some(view));
        };
        // What it has said since its last turn. That it may go on was for then.
        let before = std::mem::take(&mut stream.wish);
        if before.answer.is_some() || before.reset {
            return (Ok(verdict(true, before)), Some(view));
        }
        stream.view = Some(view);
        // Whatever else it may say than "continue" is some way to wait.
        let goes_on = |action| turn.is_head() && action == CONTINUE_AND_END;
        let action = self.call_turn(id, turn).map(|action| if goes_on(action) { 0 } else { action });
        let holds = turn.is_head_of_more() && self.holds_heads();
        let Some(stream) = self.stream(id) else {
            return (Err(Failure::new("trap", "the request's context is gone")), None);
        };
        let wish = std::mem::take(&mut stream.wish);
        let verdict = action.map(|action| match verdict(action != 0, wish) {
            Verdict::Pause if holds && action == STOP_HEAD => Verdict::HoldHead,
            verdict => verdict,
        });
        if matches!(verdict, Ok(Verdict::Pause)) && turn.waits() {
            return (verdict, None);
        }
        (verdict, stream.view.take())
    }

    fn stream(&mut self, id: u32) -> Option<&mut Stream> {
        match self.store.data_mut().contexts.get_mut(&id) {
            Some(Context::Stream(stream)) => Some(stream),
            _ => None,
        }
    }

    fn holds_heads(&self) -> bool {
        self.own().settings.pause_headers_only || self.store.data().abi.holds_heads()
    }

    /// What is returned could not be lent.
    pub(super) fn lend(&mut self, id: u32, view: Box<dyn View>) -> Option<Box<dyn View>> {
        match self.stream(id) {
            Some(stream) => {
                stream.view = Some(view);
                None
            }
            None => Some(view),
        }
    }

    pub(in crate::plugin) fn take_back(&mut self, id: u32) -> Option<Box<dyn View>> {
        self.stream(id).and_then(|stream| stream.view.take())
    }

    /// What was asked for of a paused request, by whichever callback.
    pub(in crate::plugin) fn wish(&mut self, id: u32) -> Wish {
        self.stream(id).map(|stream| std::mem::take(&mut stream.wish)).unwrap_or_default()
    }

    pub(in crate::plugin) fn has_wish(&self, id: u32) -> bool {
        match self.store.data().contexts.get(&id) {
            Some(Context::Stream(stream)) => !stream.wish.is_empty(),
            _ => false,
        }
    }

    fn call_turn(&mut self, id: u32, turn: Turn) -> Result<i32, Failure> {
        let (callbacks, context) = (&self.callbacks, id.cast_signed());
        let (counted, callback, count, is_last) = match turn {
            Turn::RequestHeaders { count, is_last } => {
                (PluginCallback::RequestHeaders, callbacks.request_headers.clone(), count, is_last)
            }
            Turn::ResponseHeaders { count, is_last } => {
                (PluginCallback::ResponseHeaders, callbacks.response_headers.clone(), count, is_last)
            }
            Turn::RequestBody { size, is_last } => {
                let callback = callbacks.request_body.clone().map(HeadCallback::WithEnd);
                (PluginCallback::RequestBody, callback, size, is_last)
            }
            Turn::ResponseBody { size, is_last } => {
                let callback = callbacks.response_body.clone().map(HeadCallback::WithEnd);
                (PluginCallback::ResponseBody, callback, size, is_last)
            }
            Turn::RequestTrailers { count } => {
                let callback = callbacks.request_trailers.clone().map(HeadCallback::WithoutEnd);
                (PluginCallback::RequestTrailers, callback, count, true)
            }
            Turn::ResponseTrailers { count } => {
                let callback = callbacks.response_trailers.clone().map(HeadCallback::WithoutEnd);
                (PluginCallback::ResponseTrailers, callback, count, true)
            }
        };
        let Some(callback) = callback else { return Ok(0) };
        let began = Instant::now();
        let count = small(count);
        let answered = match callback {
            HeadCallback::WithEnd(f) => self.call(id, counted, &f, (context, count, i32::from(is_last))),
            HeadCallback::WithoutEnd(f) => self.call(id, counted, &f, (context, count)),
        };
        self.own().metrics.took(began.elapsed());
        answered
    }

    /// The request is over: it is logged, done and gone.
    pub(in crate::plugin) fn end(
        &mut self,
        id: u32,
        view: Option<Box<dyn View>>,
    ) -> (Result<(), Failure>, Option<Box<dyn View>>) {
        let view = match view {
            Some(view) => self.lend(id, view),
            None => None,
        };
        let ended = self.log_and_delete(id);
        let view = view.or_else(|| self.take_back(id));
        self.store.data_mut().contexts.remove(&id);
        (ended, view)
    }

    fn log_and_delete(&mut self, id: u32) -> Result<(), Failure> {
        let logs = self.own().settings.wants(PluginPhase::Log);
        if let Some(log) = self.callbacks.log.clone().filter(|_| logs) {
            self.call(id, PluginCallback::Log, &log, id.cast_signed())?;
        }
        // Of a request's context, what it answers does not matter.
        if let Some(done) = self.callbacks.done.clone() {
            self.call(id, PluginCallback::Done, &done, id.cast_signed())?;
        }
        self.delete(id)
    }
}

fn verdict(paused: bool, wish: Wish) -> Verdict {
    match wish {
        Wish { reset: true, .. } => Verdict::Reset,
        Wish { answer: Some(answer), .. } => Verdict::Answer(answer),
        Wish { resume: true, .. } => Verdict::Continue,
        Wish { .. } if paused => Verdict::Pause,
        Wish { .. } => Verdict::Continue,
    }
}

/// What was wished for while a request is paused; `None` where it goes on to wait.
pub(in crate::plugin) fn granted(wish: Wish) -> Option<Verdict> {
    match verdict(true, wish) {
        Verdict::Pause => None,
        verdict => Some(verdict),
    }
}
