//! What a plugin does beside requests: ticks, queues, and instances in the place of those that failed. On a thread of its own,
//! which begins with the first of them and ends with the plugin.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use super::{Plugin, instance::Instance, outbound::Outcome, state::Place};
use crate::observe::log::event;

/// A plugin that does not start again is tried again after so long, then after twice as long, and so on.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// A plugin that always has more for itself leaves time for requests.
const BETWEEN_QUEUES: Duration = Duration::from_millis(1);
/// What comes into the queue of an instance that is starting, or is missing, waits, and is looked at again after this.
const UNTIL_STARTED: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Worker(Mutex<Work>);

/// An instance, a root in it, and a queue.
type Ready = (usize, u32, u32);

/// An instance, the number of its call, and what came of it.
type Answer = (Place, u32, Outcome);

#[derive(Default)]
struct Work {
    thread: Option<Thread>,
    queues: BTreeMap<Ready, u64>,
    answers: Vec<Answer>,
    /// Roots that nobody holds, and that have something left to do; until when they may.
    lingering: Vec<(u64, Instant)>,
    /// Those roots need it.
    keeps: Option<Arc<Plugin>>,
    /// When instances are to be made.
    mend_at: Option<Instant>,
    wait: Duration,
}

impl Worker {
    /// Instances are missing.
    pub(super) fn mend(&self, plugin: &OnceLock<Weak<Plugin>>) {
        let mut work = self.lock();
        work.mend_at.get_or_insert_with(Instant::now);
        work.wake(plugin);
    }

    /// A part has come into that queue.
    pub(super) fn queue(&self, plugin: &OnceLock<Weak<Plugin>>, ready: Ready) {
        let mut work = self.lock();
        *work.queues.entry(ready).or_default() += 1;
        work.wake(plugin);
    }

    /// A call is over whose instance is not there.
    pub(super) fn answer(&self, plugin: &OnceLock<Weak<Plugin>>, answer: Answer) {
        let mut work = self.lock();
        work.answers.push(answer);
        work.wake(plugin);
    }

    /// A root has something left to do, and the plugin lives until then.
    pub(super) fn linger(&self, plugin: &Arc<Plugin>, root: u64, until: Instant) {
        let mut work = self.lock();
        work.lingering.push((root, until));
        work.keeps = Some(plugin.clone());
        work.wake(&OnceLock::from(Arc::downgrade(plugin)));
    }

    /// There may be something earlier than was known.
    pub(super) fn look(&self, plugin: &OnceLock<Weak<Plugin>>) {
        self.lock().wake(plugin);
    }

    pub(super) fn stop(&self) {
        if let Some(thread) = &self.lock().thread {
            thread.unpark();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    fn wake(&mut self, plugin: &OnceLock<Weak<Plugin>>) {
        if let Some(thread) = &self.thread {
            return thread.unpark();
        }
        let Some(plugin) = plugin.get().cloned() else { return };
        let began = thread::Builder::new().name("plugin".into()).spawn(move || serve(&plugin));
        match began {
            Ok(began) => self.thread = Some(began.thread().clone()),
            Err(error) => event!(Error, "no thread for a plugin's ticks and queues", problem = error),
        }
    }
}

fn serve(plugin: &Weak<Plugin>) {
    while let Some(plugin) = plugin.upgrade() {
        let next = work(&plugin);
        // It may be the last who holds it.
        drop(plugin);
        match next {
            Some(at) => thread::park_timeout(at.saturating_duration_since(Instant::now())),
            None => thread::park(),
        }
    }
}

/// Does what is due. When there is more to do.
fn work(plugin: &Arc<Plugin>) -> Option<Instant> {
    let mend = mend(plugin);
    let answers = std::mem::take(&mut plugin.worker().lock().answers);
    for (place, call, outcome) in answers {
        plugin.answered_early(place, call, outcome);
    }
    let ends = end(plugin);
    let queues = std::mem::take(&mut plugin.worker().lock().queues);
    let (here, early): (Vec<_>, Vec<_>) =
        queues.into_iter().partition(|((slot, ..), _)| plugin.cell(*slot).is_some());
    for ((slot, root, queue), times) in here {
        for _ in 0..times {
            inside(plugin, slot, |instance| instance.queue_ready(root, queue));
        }
    }
    let pause = if early.is_empty() { BETWEEN_QUEUES } else { UNTIL_STARTED };
    for (ready, times) in early {
        *plugin.worker().lock().queues.entry(ready).or_default() += times;
    }
    let now = Instant::now();
    let slots = plugin.settings().instances;
    let ticks = (0..slots).filter_map(|slot| inside(plugin, slot, |instance| instance.tick(now)).flatten());
    let ticks = ticks.min();
    let has_more = !plugin.worker().lock().queues.is_empty();
    let more = has_more.then(|| now + pause);
    mend.into_iter().chain(ticks).chain(ends).chain(more).min()
}

/// Let go of roots that are done, or have had their time. When the next one has.
fn end(plugin: &Arc<Plugin>) -> Option<Instant> {
    let lingering = std::mem::take(&mut plugin.worker().lock().lingering);
    let now = Instant::now();
    let left: Vec<_> =
        lingering.into_iter().filter(|(root, until)| !plugin.ends_now(*root, *until, now)).collect();
    let mut work = plugin.worker().lock();
    work.lingering.extend(left);
    if work.lingering.is_empty() {
        // Whoever works has it as well.
        work.keeps = None;
    }
    work.lingering.iter().map(|(_, until)| *until).min()
}

fn inside<T>(
    plugin: &Arc<Plugin>,
    slot: usize,
    enter: impl FnOnce(&mut Instance) -> Result<T, super::Failure>,
) -> Option<T> {
    let cell = plugin.cell(slot)?;
    let entered = enter(&mut cell.lock());
    match entered {
        Ok(done) => Some(done),
        Err(failure) => {
            plugin.retire(&cell, &failure);
            None
        }
    }
}

/// When to try again, if it does not work.
fn mend(plugin: &Arc<Plugin>) -> Option<Instant> {
    let at = plugin.worker().lock().mend_at?;
    if at > Instant::now() {
        return Some(at);
    }
    // Those that fail meanwhile are for the next round.
    plugin.worker().lock().mend_at = None;
    let mended = plugin.mend();
    let mut work = plugin.worker().lock();
    match mended {
        Ok(()) => work.wait = Duration::ZERO,
        Err(problem) => {
            plugin.failed("start");
            work.wait = (work.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
            work.mend_at = Some(Instant::now() + work.wait);
            let (name, wait) = (&plugin.settings().name, work.wait.as_secs());
            event!(
                Error,
                "a plugin does not start again",
                plugin = name,
                problem = problem,
                next_try_in_seconds = wait
            );
        }
    }
    work.mend_at
}
