//! One instance: a memory of its own, in which a plugin keeps its contexts. One callback runs in it at a time. After a trap its
//! memory is in no state that anybody knows, so it is never entered again.

use std::{
    collections::HashMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;
use wasmtime::{Store, TypedFunc, UpdateDeadline, WasmParams, WasmResults};

use super::{
    callbacks::{Callbacks, HeadCallback, function},
    module::Module,
    outbound::{Answered, Outcome},
    state::{Answer, Clock, Context, Kind, Own, Place, Root, State, Stream, Wish},
    view::View,
};
use crate::observe::metrics::PluginCallback;

pub(super) struct Instance {
    store: Store<State>,
    callbacks: Callbacks,
    /// The root contexts, by the numbers that they have in all instances.
    roots: HashMap<u64, u32>,
    next: u32,
}

/// What a request's turn came to.
#[derive(Debug)]
pub(crate) enum Verdict {
    Continue,
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

/// Why a plugin failed, in a word for the metric, and in its own words.
#[derive(Debug)]
pub(crate) struct Failure {
    pub why: &'static str,
    pub text: String,
}

impl Failure {
    pub(crate) fn new(why: &'static str, text: impl Into<String>) -> Failure {
        Failure { why, text: text.into() }
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

impl Instance {
    /// With these roots, each by its number and with its configuration.
    ///
    /// # Errors
    ///
    /// It traps, takes too long, or says no; with the last lines that it wrote.
    pub(super) fn start(
        module: &Module,
        own: &Arc<Own>,
        place: Place,
        roots: &[(u64, Arc<[u8]>)],
    ) -> Result<Instance, String> {
        let state = State::new(Some(own.clone()), module.abi, place);
        let mut store = Store::new(&module.runtime.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.epoch_deadline_callback(|mut context| interrupt(&mut context.data_mut().clock));
        arm(&mut store, own.settings.limits.start);
        let instance = module
            .pre
            .instantiate(&mut store)
            .map_err(|error| told("cannot be instantiated", &explain(&store, &error).text, &store))?;
        store.data_mut().memory = instance.get_memory(&mut store, "memory");
        let allocate = match function(&mut store, &instance, "proxy_on_memory_allocate")? {
            Some(allocate) => Some(allocate),
            None => function(&mut store, &instance, "malloc")?,
        };
        store.data_mut().allocate = allocate;
        let callbacks = Callbacks::find(&mut store, &instance)?;
        let mut instance =
            Instance { callbacks, roots: HashMap::new(), next: 1, store: initialised(store, &instance)? };
        for (number, config) in roots {
            instance.configured(*number, config)?;
        }
        Ok(instance)
    }

    /// One more root context.
    ///
    /// # Errors
    ///
    /// It traps, takes too long, or says no.
    pub(super) fn add_root(&mut self, number: u64, config: &Arc<[u8]>) -> Result<(), String> {
        let allowed = self.own().settings.limits.start;
        arm(&mut self.store, allowed);
        self.configured(number, config)
    }

    fn configured(&mut self, number: u64, config: &Arc<[u8]>) -> Result<(), String> {
        let id = self.next_id();
        let root = Root { config: config.clone(), tick: None, ticks_at: None };
        self.store.data_mut().contexts.insert(id, Context::Root(root));
        self.roots.insert(number, id);
        let failed = |what: &'static str| move |failure: Failure| format!("{what} failed: {failure}");
        let store = &mut self.store;
        store.data_mut().effective = id;
        let (context, vm_config) =
            (id.cast_signed(), self.callbacks.vm_start.as_ref().map(|_| own(store).settings.vm_config.len()));
        if let Some(create) = &self.callbacks.context_create {
            run(store, create, (context, 0)).map_err(|failure| {
                let hint = match store.data().asked_for_root && own(store).settings.root_id.is_empty() {
                    true => "it has asked for its `root_id`, and none is written",
                    false => "were no contexts registered? In Go, `SetVMContext` belongs in `init()`",
                };
                told("proxy_on_context_create failed", &format!("{failure} ({hint})"), store)
            })?;
        }
        if let (Some(vm_start), Some(length)) = (&self.callbacks.vm_start, vm_config) {
            let said = run(store, vm_start, (context, small(length))).map_err(failed("proxy_on_vm_start"))?;
            if said == 0 {
                return Err(told("proxy_on_vm_start", "it said that it cannot start", store));
            }
        }
        if let Some(configure) = &self.callbacks.configure {
            let said = run(store, configure, (context, small(config.len())))
                .map_err(|failure| told("proxy_on_configure failed", &failure.text, store))?;
            if said == 0 {
                return Err(told("proxy_on_configure", "it does not take its configuration", store));
            }
        }
        Ok(())
    }

    /// A root context is over.
    pub(super) fn remove_root(&mut self, number: u64) -> Result<(), Failure> {
        let Some(id) = self.roots.remove(&number) else { return Ok(()) };
        let done = self.over(id);
        self.store.data_mut().contexts.remove(&id);
        done
    }

    /// A context for one request.
    pub(super) fn create(&mut self, root: u64, woken: Arc<Notify>) -> Result<u32, Failure> {
        let Some(root) = self.roots.get(&root).copied() else {
            return Err(Failure::new("start", "this instance has no such root context"));
        };
        let id = self.next_id();
        let stream = Stream { root, view: None, wish: Wish::default(), woken };
        self.store.data_mut().contexts.insert(id, Context::Stream(stream));
        let Some(create) = self.callbacks.context_create.clone() else { return Ok(id) };
        self.begin(id);
        self.count(PluginCallback::ContextCreate);
        run(&mut self.store, &create, (id.cast_signed(), root.cast_signed()))?;
        Ok(id)
    }

    /// Let a request have its turn. What is lent comes back.
    pub(super) fn take_turn(
        &mut self,
        id: u32,
        view: Box<dyn View>,
        turn: Turn,
    ) -> (Result<Verdict, Failure>, Option<Box<dyn View>>) {
        if let Some(view) = self.lend(id, view) {
            return (Err(Failure::new("trap", "the request's context is gone")), Some(view));
        }
        let paused = self.call_turn(id, turn);
        let wish = self.wish(id);
        (paused.map(|paused| verdict(paused, wish)), self.take_back(id))
    }

    /// What is returned could not be lent.
    pub(super) fn lend(&mut self, id: u32, view: Box<dyn View>) -> Option<Box<dyn View>> {
        match self.store.data_mut().contexts.get_mut(&id) {
            Some(Context::Stream(stream)) => {
                stream.view = Some(view);
                None
            }
            _ => Some(view),
        }
    }

    pub(super) fn take_back(&mut self, id: u32) -> Option<Box<dyn View>> {
        match self.store.data_mut().contexts.get_mut(&id) {
            Some(Context::Stream(stream)) => stream.view.take(),
            _ => None,
        }
    }

    /// What was asked for of a paused request, by whichever callback.
    pub(super) fn wish(&mut self, id: u32) -> Wish {
        match self.store.data_mut().contexts.get_mut(&id) {
            Some(Context::Stream(stream)) => std::mem::take(&mut stream.wish),
            _ => Wish::default(),
        }
    }

    pub(super) fn has_wish(&self, id: u32) -> bool {
        match self.store.data().contexts.get(&id) {
            Some(Context::Stream(stream)) => !stream.wish.is_empty(),
            _ => false,
        }
    }

    fn call_turn(&mut self, id: u32, turn: Turn) -> Result<bool, Failure> {
        let (callbacks, context) = (&self.callbacks, id.cast_signed());
        let head = |callback: &Option<HeadCallback>| match callback {
            None => None,
            Some(HeadCallback::WithEnd(f)) => Some(HeadCallback::WithEnd(f.clone())),
            Some(HeadCallback::WithoutEnd(f)) => Some(HeadCallback::WithoutEnd(f.clone())),
        };
        let (name, callback, count, is_last) = match turn {
            Turn::RequestHeaders { count, is_last } => {
                (PluginCallback::RequestHeaders, head(&callbacks.request_headers), count, is_last)
            }
            Turn::ResponseHeaders { count, is_last } => {
                (PluginCallback::ResponseHeaders, head(&callbacks.response_headers), count, is_last)
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
        let Some(callback) = callback else { return Ok(false) };
        self.begin(id);
        self.count(name);
        let began = Instant::now();
        let answered = match callback {
            HeadCallback::WithEnd(f) => run(&mut self.store, &f, (context, small(count), i32::from(is_last))),
            HeadCallback::WithoutEnd(f) => run(&mut self.store, &f, (context, small(count))),
        };
        self.own().metrics.took(began.elapsed());
        // Whatever else it may say than "continue" is some way to wait.
        answered.map(|action| action != 0)
    }

    /// The request is over: it is logged, done and gone.
    pub(super) fn end(
        &mut self,
        id: u32,
        view: Option<Box<dyn View>>,
    ) -> (Result<(), Failure>, Option<Box<dyn View>>) {
        let view = match view {
            Some(view) => self.lend(id, view),
            None => None,
        };
        let logs = self.own().settings.wants(crate::config::PluginPhase::Log);
        let logged = match self.callbacks.log.clone().filter(|_| logs) {
            Some(log) => {
                self.begin(id);
                self.count(PluginCallback::Log);
                run(&mut self.store, &log, id.cast_signed())
            }
            None => Ok(()),
        };
        let ended = logged.and_then(|()| self.over(id));
        let view = view.or_else(|| self.take_back(id));
        self.store.data_mut().contexts.remove(&id);
        (ended, view)
    }

    /// What a context hears at its end.
    fn over(&mut self, id: u32) -> Result<(), Failure> {
        self.begin(id);
        if let Some(done) = self.callbacks.done.clone() {
            self.count(PluginCallback::Done);
            run(&mut self.store, &done, id.cast_signed())?;
        }
        self.begin(id);
        if let Some(delete) = self.callbacks.delete.clone() {
            self.count(PluginCallback::Delete);
            run(&mut self.store, &delete, id.cast_signed())?;
        }
        Ok(())
    }

    /// Let those roots hear a tick whose time it is. When the next one is due.
    pub(super) fn tick(&mut self, now: Instant) -> Result<Option<Instant>, Failure> {
        let mut due = Vec::new();
        for (id, context) in &mut self.store.data_mut().contexts {
            if let Context::Root(root) = context
                && let (Some(at), Some(period)) = (root.ticks_at, root.tick)
                && at <= now
            {
                root.ticks_at = Some(now + period);
                due.push(*id);
            }
        }
        if let Some(tick) = self.callbacks.tick.clone() {
            for id in due {
                self.begin(id);
                self.count(PluginCallback::Tick);
                run(&mut self.store, &tick, id.cast_signed())?;
            }
        }
        Ok(self.next_tick())
    }

    pub(super) fn next_tick(&self) -> Option<Instant> {
        let contexts = self.store.data().contexts.values();
        let ticks = contexts.filter_map(|context| match context {
            Context::Root(root) => root.ticks_at,
            Context::Stream(_) => None,
        });
        ticks.min()
    }

    pub(super) fn queue_ready(&mut self, root: u32, queue: u32) -> Result<(), Failure> {
        let Some(ready) = self.callbacks.queue_ready.clone() else { return Ok(()) };
        if !self.store.data().contexts.contains_key(&root) {
            return Ok(());
        }
        self.begin(root);
        self.count(PluginCallback::QueueReady);
        run(&mut self.store, &ready, (root.cast_signed(), queue.cast_signed()))
    }

    /// A call is over: the root that made it hears of it.
    pub(super) fn answered(&mut self, call: u32, outcome: Outcome) -> Result<(), Failure> {
        let state = self.store.data_mut();
        let Some(pending) = state.calls.remove(&call) else { return Ok(()) };
        if !state.contexts.contains_key(&pending.root) {
            return Ok(());
        }
        if pending.kind == Kind::Grpc {
            return self.grpc_answered(pending.root, call, outcome);
        }
        let (headers, body, trailers) = match outcome {
            Ok(answered) => {
                let sizes = (answered.headers.len() + 1, answered.body.len(), answered.trailers.len());
                (state.answered, state.status) = (Some(answered), (0, Vec::new()));
                sizes
            }
            Err(why) => {
                (state.answered, state.status) = (None, (UNAVAILABLE, why.as_bytes().to_vec()));
                (0, 0, 0)
            }
        };
        let Some(callback) = self.callbacks.call_answered.clone() else { return Ok(()) };
        self.begin(pending.root);
        self.count(PluginCallback::HttpCallResponse);
        let (root, call) = (pending.root.cast_signed(), call.cast_signed());
        let sizes = (small(headers), small(body), small(trailers));
        let heard = run(&mut self.store, &callback, (root, call, sizes.0, sizes.1, sizes.2));
        self.store.data_mut().answered = None;
        heard
    }

    /// Metadata, message, metadata behind it, and how it ended.
    fn grpc_answered(&mut self, root: u32, call: u32, outcome: Outcome) -> Result<(), Failure> {
        let callbacks =
            [&self.callbacks.grpc_metadata, &self.callbacks.grpc_message, &self.callbacks.grpc_trailers];
        let [metadata, message, trailers] = callbacks.map(Clone::clone);
        let mut told = Vec::new();
        let status = match outcome {
            Err(why) => {
                self.store.data_mut().status = (UNAVAILABLE, why.as_bytes().to_vec());
                UNAVAILABLE
            }
            Ok(mut answered) => {
                let message_of = message_in(&answered.body);
                let (status, text) = grpc_status(&answered);
                told.push((metadata, answered.headers.len()));
                if let Some(body) = message_of {
                    answered.body = body;
                    told.push((message, answered.body.len()));
                }
                told.push((trailers, answered.trailers.len()));
                let state = self.store.data_mut();
                (state.answered, state.status) = (Some(answered), (status, text));
                status
            }
        };
        let heard =
            told.into_iter().try_for_each(|(callback, size)| self.grpc_turn(callback, root, call, size));
        let closed = self.callbacks.grpc_close.clone();
        let heard =
            heard.and_then(|()| self.grpc_turn(closed, root, call, usize::try_from(status).unwrap_or(2)));
        self.store.data_mut().answered = None;
        heard
    }

    fn grpc_turn(
        &mut self,
        callback: Option<TypedFunc<(i32, i32, i32), ()>>,
        root: u32,
        call: u32,
        number: usize,
    ) -> Result<(), Failure> {
        let Some(callback) = callback else { return Ok(()) };
        self.begin(root);
        self.count(PluginCallback::GrpcReceive);
        run(&mut self.store, &callback, (root.cast_signed(), call.cast_signed(), small(number)))
    }

    /// Whoever waits inside it is to look.
    pub(super) fn wake_all(&mut self) {
        for context in self.store.data().contexts.values() {
            if let Context::Stream(stream) = context {
                stream.woken.notify_one();
            }
        }
    }

    /// Its memory, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.store.data().memory.map_or(0, |memory| memory.data_size(&self.store))
    }

    /// Its contexts, roots included.
    pub(super) fn contexts(&self) -> usize {
        self.store.data().contexts.len()
    }

    /// The last lines that it wrote.
    pub(super) fn lines(&self) -> String {
        lines(&self.store)
    }

    fn begin(&mut self, id: u32) {
        let allowed = self.own().settings.limits.call;
        self.store.data_mut().effective = id;
        arm(&mut self.store, allowed);
    }

    fn count(&self, callback: PluginCallback) {
        self.own().metrics.called(callback);
    }

    fn own(&self) -> &Arc<Own> {
        own(&self.store)
    }

    fn next_id(&mut self) -> u32 {
        let contexts = &self.store.data().contexts;
        let mut id = self.next;
        while id == 0 || contexts.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        self.next = id.wrapping_add(1);
        id
    }
}

/// The status of gRPC for what cannot be had now.
const UNAVAILABLE: i32 = 14;

/// The first message of a body, without what is in front of it. One that is compressed cannot be read here.
fn message_in(body: &Bytes) -> Option<Bytes> {
    let (flag, rest) = body.split_first()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length) as usize;
    (*flag == 0 && rest.len() >= length).then(|| body.slice(5..5 + length))
}

/// How a call ended, and what is said of it. Without a status nobody knows.
fn grpc_status(answered: &Answered) -> (i32, Vec<u8>) {
    const UNKNOWN: i32 = 2;
    let find = |name: &str| answered.trailers.get(name).or_else(|| answered.headers.get(name));
    let status = find("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok());
    let text = find("grpc-message").map(|text| text.as_bytes().to_vec());
    (status.filter(|status| (0..=16).contains(status)).unwrap_or(UNKNOWN), text.unwrap_or_default())
}

fn own(store: &Store<State>) -> &Arc<Own> {
    store.data().plugin.as_ref().expect("an instance is a plugin's")
}

/// What it does before it has contexts.
fn initialised(mut store: Store<State>, instance: &wasmtime::Instance) -> Result<Store<State>, String> {
    let initialise = function::<(), ()>(&mut store, instance, "_initialize")?;
    let begin = match &initialise {
        Some(_) => initialise,
        None => function::<(), ()>(&mut store, instance, "_start")?,
    };
    if let Some(begin) = &begin {
        run(&mut store, begin, ()).map_err(|failure| told("cannot be initialised", &failure.text, &store))?;
    }
    // A reactor may have one all the same, from which C++ and Rust of old register their filters.
    let is_reactor = instance.get_func(&mut store, "_initialize").is_some();
    if is_reactor {
        let failed = |store: &Store<State>, failure: Failure| told("main failed", &failure.text, store);
        if let Ok(Some(main)) = function::<(i32, i32), i32>(&mut store, instance, "main") {
            run(&mut store, &main, (0, 0)).map_err(|failure| failed(&store, failure))?;
        } else if let Ok(Some(main)) = function::<(), i32>(&mut store, instance, "__main_void") {
            run(&mut store, &main, ()).map_err(|failure| failed(&store, failure))?;
        }
    }
    store.data_mut().runs = true;
    Ok(store)
}

/// From now on it may run for so long.
fn arm(store: &mut Store<State>, allowed: Duration) {
    let state = store.data_mut();
    state.clock = Clock { allowed, since: None };
    state.limiter.refused = false;
    store.set_epoch_deadline(1);
}

/// Asked once in a tick of the engine's clock, which hardly any callback lives to see. A busy machine fails nobody: it is the CPU time
/// of this thread that counts, from the first tick on.
fn interrupt(clock: &mut Clock) -> wasmtime::Result<UpdateDeadline> {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default());
    let since = *clock.since.get_or_insert(now);
    match now.saturating_sub(since) < clock.allowed {
        true => Ok(UpdateDeadline::Continue(1)),
        false => Err(wasmtime::Error::new(OutOfTime)),
    }
}

fn run<P: WasmParams, R: WasmResults>(
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

fn explain(store: &Store<State>, error: &wasmtime::Error) -> Failure {
    if error.downcast_ref::<OutOfTime>().is_some() {
        return Failure::new("time", format!("{error:?}"));
    }
    if store.data().limiter.refused {
        return Failure::new("memory", format!("it was refused more memory, and then: {error:?}"));
    }
    Failure::new("trap", format!("{error:?}"))
}

fn told(what: &str, why: &str, store: &Store<State>) -> String {
    match lines(store) {
        lines if lines.is_empty() => format!("{what}: {why}"),
        lines => format!("{what}: {why}; its last lines: {lines}"),
    }
}

fn lines(store: &Store<State>) -> String {
    let lines: Vec<&str> = store.data().lines.iter().map(String::as_str).collect();
    lines.join(" | ")
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
pub(super) fn granted(wish: Wish) -> Option<Verdict> {
    match verdict(true, wish) {
        Verdict::Pause => None,
        verdict => Some(verdict),
    }
}

fn small(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
