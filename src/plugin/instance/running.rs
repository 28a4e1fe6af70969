//! One call into a plugin: how long it may take, and what became of it.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use wasmtime::{Store, TypedFunc, UpdateDeadline, WasmParams, WasmResults};

use crate::plugin::state::{Clock, State};

/// Why a plugin failed, in a word for the metric, and in its own words.
#[derive(Debug)]
pub(crate) struct Failure {
    pub why: &'static str,
    pub text: String,
    /// It was another request that made the instance fail.
    pub is_of_another: bool,
}

impl Failure {
    pub(crate) fn new(why: &'static str, text: impl Into<String>) -> Failure {
        Failure { why, text: text.into(), is_of_another: false }
    }

    pub(crate) fn of_another() -> Failure {
        Failure { is_of_another: true, ..Failure::new("trap", "the instance failed on another request") }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[derive(Debug)]
struct OutOfTime;

impl fmt::Display for OutOfTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it used up its CPU time")
    }
}

impl std::error::Error for OutOfTime {}

/// From now on it may run for so long.
pub(super) fn arm(store: &mut Store<State>, allowed: Duration) {
    let state = store.data_mut();
    state.clock = Clock { allowed, since: None };
    state.limiter.refused = false;
    store.set_epoch_deadline(1);
}

/// Asked once in a tick of the engine's clock, which hardly any callback lives to see. A busy machine fails nobody: it is the CPU time
/// of this thread that counts, from the first tick on.
pub(super) fn interrupt(clock: &mut Clock) -> wasmtime::Result<UpdateDeadline> {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default());
    let since = *clock.since.get_or_insert(now);
    match now.saturating_sub(since) < clock.allowed {
        true => Ok(UpdateDeadline::Continue(1)),
        false => Err(wasmtime::Error::new(OutOfTime)),
    }
}

pub(super) fn run<P: WasmParams, R: WasmResults>(
    store: &mut Store<State>,
    function: &TypedFunc<P, R>,
    arguments: P,
) -> Result<R, Failure> {
    let called = catch_unwind(AssertUnwindSafe(|| function.call(&mut *store, arguments)));
    match called {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(explain(store, &error)),
        // What is lent to the instance must come back, so it goes no further. The panic hook has told of it.
        Err(_) => Err(Failure::new("trap", "the gateway panicked in a function that it called")),
    }
}

pub(super) fn explain(store: &Store<State>, error: &wasmtime::Error) -> Failure {
    if error.downcast_ref::<OutOfTime>().is_some() {
        return Failure::new("time", format!("{error:?}"));
    }
    if store.data().limiter.refused {
        return Failure::new("memory", format!("it was refused more memory, and then: {error:?}"));
    }
    Failure::new("trap", format!("{error:?}"))
}
