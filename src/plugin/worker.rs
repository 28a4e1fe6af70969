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
    backoff: Backoff,
}

/// How long until instances are made again.
#[derive(Default)]
struct Backoff {
    wait: Duration,
    mended: Option<Instant>,
}

impl Backoff {
    /// One failed without a request: the next may do so as soon, unless this one has lived for long.
    fn after_failure(&mut self, now: Instant) -> Instant {
        match self.has_lived(now) {
            true => now,
            false => self.longer(now),
        }
    }

    /// One did not start.
    fn longer(&mut self, now: Instant) -> Instant {
        self.wait = (self.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
        now + self.wait
    }

    /// Whether what was made before has lived for so long that its failures are forgotten.
    fn has_lived(&mut self, now: Instant) -> bool {
        let has_lived = self.mended.is_none_or(|at| now.saturating_duration_since(at) >= LONGEST_WAIT);
        if has_lived {
            self.wait = Duration::ZERO;
        }
        has_lived
    }
}

impl Worker {
    /// Instances are missing.
    pub(super) fn mend(&self, plugin: &OnceLock<Weak<Plugin>>) {
        let mut work = self.lock();
        if work.mend_at.is_none() {
            let now = Instant::now();
            work.backoff.has_lived(now);
            work.mend_at = Some(now);
        }
        work.wake(plugin);
    }

    /// An instance has failed without a request, as it may again and again.
    fn wait_to_mend(&self, now: Instant) {
        let mut work = self.lock();
        if work.mend_at.is_none() {
            work.mend_at = Some(work.backoff.after_failure(now));
        }
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
    let ticks = (0..slots).filter_map(|slot| {
        let ticked = |instance: &mut Instance| {
            let ticked = instance.tick(now);
            // Requests must not be able to have instances wait: only a tick is all the plugin's own.
            if ticked.as_ref().is_err_and(|failure| !failure.is_of_another) {
                plugin.worker().wait_to_mend(Instant::now());
            }
            ticked
        };
        inside(plugin, slot, ticked).flatten()
    });
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
        Ok(()) => work.backoff.mended = Some(Instant::now()),
        Err(problem) => {
            plugin.failed("start");
            work.mend_at = Some(work.backoff.longer(Instant::now()));
            let (name, wait) = (&plugin.settings().name, work.backoff.wait.as_secs());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_soon_after_it_was_made_is_made_again_later_and_later() {
        let (mut backoff, start) = (Backoff::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(backoff.after_failure(start), start, "at once for the first time");
        for (now, next) in [(0, 1), (1, 3), (3, 7), (7, 15), (15, 31), (31, 63), (63, 123), (123, 183)] {
            backoff.mended = Some(at(now));
            assert_eq!(backoff.after_failure(at(now)), at(next));
        }
        assert_eq!(backoff.after_failure(at(183)), at(183), "it has lived for a minute");
        backoff.mended = Some(at(183));
        assert_eq!(backoff.after_failure(at(184)), at(185));
    }
}
