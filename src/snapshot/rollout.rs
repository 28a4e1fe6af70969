//! One canary at work: its state, what was observed of both sides, and the share that requests go by. It outlives
//! snapshots for as long as the route has the same canary.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    config,
    kept::Kept,
    policy::canary::{
        Decision, Event, Next, Observed, OnFailure, Outlook, PausedBy, Phase, Refusal, Require, Sample,
        Saved, Settings, Stale, State,
    },
};

/// The parts of a whole in which shares are counted: a hundredth of a per cent each.
const WHOLE: u32 = 10_000;
/// So many of the candidate's failures are each judged at once, and the rest at the next look. They are enough to stop one that
/// is dead, and a flood of failures costs no more.
const AT_ONCE: u32 = 16;

/// What a [`Rollout`] is made from. Who is sent where does not matter: `by` may change while it goes on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Basis {
    stable: Arc<str>,
    candidate: Arc<str>,
    settings: Settings,
}

pub(crate) type KeptRollout = Kept<Basis, Rollout>;

pub struct Rollout {
    pub route: Arc<str>,
    pub stable: Arc<str>,
    pub candidate: Arc<str>,
    settings: Settings,
    judge: Mutex<Judge>,
    /// Failures of the candidate since the last look.
    failures: AtomicU32,
    /// The candidate's share in parts of [`WHOLE`], for those who choose.
    share: AtomicU32,
    observed: [Observed; 2],
}

struct Judge {
    state: State,
    /// What was decided between two looks.
    untold: Option<Decision>,
}

/// The two sides of a canary; also their places in the split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Stable = 0,
    Candidate = 1,
}

/// What an operator may order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Promote,
    Rollback,
    Pause,
    Resume,
    Step,
}

impl Command {
    pub const ALL: [(&'static str, Command); 5] = [
        ("promote", Command::Promote),
        ("rollback", Command::Rollback),
        ("pause", Command::Pause),
        ("resume", Command::Resume),
        ("step", Command::Step),
    ];
}

/// How a canary stands.
pub struct Status {
    pub phase: Phase,
    /// 0 to 1.
    pub weight: f64,
    pub elapsed: Duration,
    pub why: Option<String>,
    pub candidate: Sample,
    pub stable: Sample,
    /// Of a canary that has a next step.
    pub outlook: Option<Outlook>,
    pub next: Next,
    /// The orders that make sense now.
    pub orders: Vec<&'static str>,
}

impl Status {
    /// Changes with what an operator decides on, and not with each request: where it stands, and at which share.
    pub fn etag(&self) -> String {
        format!("{}:{}", word(self.phase), self.weight)
    }
}

/// A phase in a word.
pub fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Progressing => "progressing",
        Phase::Paused(PausedBy::Operator) => "paused",
        Phase::Paused(PausedBy::Breach) => "paused_by_breach",
        Phase::Promoted => "promoted",
        Phase::RolledBack => "rolled_back",
    }
}

/// Why an order was not carried out.
#[derive(Debug)]
pub enum NotOrdered {
    /// It has moved since whoever orders has looked.
    Moved,
    Refused(Refusal),
}

impl Rollout {
    /// The one that `before` is, where it is the same canary; else a new one at its start.
    pub(super) fn under(
        route: &Arc<str>,
        config: &config::Canary,
        before: Option<&KeptRollout>,
        now: Instant,
    ) -> KeptRollout {
        Kept::keep_or(before, Basis::of(config), |basis| {
            let Basis { stable, candidate, settings } = basis.clone();
            let state = State::new(&settings, &stable, &candidate, now);
            Rollout {
                route: route.clone(),
                stable,
                candidate,
                share: AtomicU32::new(parts(state.weight())),
                settings,
                judge: Mutex::new(Judge { state, untold: None }),
                failures: AtomicU32::new(0),
                observed: Default::default(),
            }
        })
    }

    /// The weights of [stable, candidate].
    pub fn weights(&self) -> [u16; 2] {
        let share = self.share.load(Relaxed);
        [(WHOLE - share) as u16, share as u16]
    }

    /// One request of `side` is over. Failed are those answered with 500 and above, and those with no answer.
    pub fn record(&self, side: Side, succeeded: bool, duration: Duration, now: Instant) {
        self.observed[side as usize].record(succeeded, duration);
        let is_urgent = side == Side::Candidate && !succeeded;
        if is_urgent && self.failures.fetch_add(1, Relaxed) < AT_ONCE {
            self.judge_at_once(now);
        }
    }

    /// Look at what was observed and act on it. To be called about once a second.
    pub fn judge(&self, now: Instant) -> Decision {
        self.failures.store(0, Relaxed);
        let mut judge = self.lock();
        if let Some(decision) = judge.untold.take() {
            return decision;
        }
        let [stable, candidate] = self.observe();
        let decision = judge.state.judge(&candidate, &stable, now);
        self.follow(&judge.state, decision.begins_step());
        decision
    }

    /// A candidate that is dead would fail all its requests until the next look.
    fn judge_at_once(&self, now: Instant) {
        let mut judge = match self.judge.try_lock() {
            Ok(judge) => judge,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody is at it.
            Err(TryLockError::WouldBlock) => return,
        };
        if judge.untold.is_some() {
            return;
        }
        let [stable, candidate] = self.observe();
        let Some(decision) = judge.state.convict(&candidate, &stable, now) else { return };
        self.follow(&judge.state, decision.begins_step());
        judge.untold = (decision != Decision::Wait).then_some(decision);
    }

    /// # Errors
    ///
    /// The order makes no sense as the canary stands.
    pub fn order(&self, command: Command, now: Instant) -> Result<Event, Refusal> {
        let state = &mut self.lock().state;
        let event = carry_out(state, command, now)?;
        self.follow(state, event.begins_step());
        Ok(event)
    }

    /// The same, only where it still stands as one of `etags` says ([`Status::etag`]).
    ///
    /// # Errors
    ///
    /// It has moved, or the order makes no sense.
    pub fn order_if(&self, etags: &[String], command: Command, now: Instant) -> Result<Event, NotOrdered> {
        let state = &mut self.lock().state;
        let stands = format!("{}:{}", word(state.phase()), state.weight());
        if !etags.contains(&stands) {
            return Err(NotOrdered::Moved);
        }
        let event = carry_out(state, command, now).map_err(NotOrdered::Refused)?;
        self.follow(state, event.begins_step());
        Ok(event)
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn status(&self, now: Instant) -> Status {
        let [stable, candidate] = self.observe();
        let state = &self.lock().state;
        Status {
            phase: state.phase(),
            weight: state.weight(),
            elapsed: state.elapsed(now),
            why: state.why().map(str::to_owned),
            outlook: state.outlook(&candidate, &stable, now),
            next: state.next(&candidate, &stable, now),
            orders: {
                let makes_sense =
                    |(_, command): &(_, Command)| carry_out(&mut state.clone(), *command, now).is_ok();
                Command::ALL.into_iter().filter(makes_sense).map(|(word, _)| word).collect()
            },
            candidate,
            stable,
        }
    }

    /// The candidate's share, 0 to 1.
    pub fn weight(&self) -> f64 {
        f64::from(self.share.load(Relaxed)) / f64::from(WHOLE)
    }

    /// How sure the steps that are over make of the candidate, 0 to 1.
    pub fn sure(&self) -> f64 {
        self.lock().state.sure()
    }

    /// What must be known to go on after a restart.
    pub fn save(&self, now: Instant) -> Saved {
        self.lock().state.save(now)
    }

    /// Go on where `saved` stopped.
    ///
    /// # Errors
    ///
    /// It is the progress of another canary.
    pub fn restore(&self, saved: Saved, now: Instant) -> Result<(), Stale> {
        let restored = State::restore(saved, &self.settings, &self.stable, &self.candidate, now)?;
        let state = &mut self.lock().state;
        *state = restored;
        self.follow(state, true);
        Ok(())
    }

    fn follow(&self, state: &State, begins_step: bool) {
        self.share.store(parts(state.weight()), Relaxed);
        if begins_step {
            for observed in &self.observed {
                // Begins anew; what it was counts no more.
                let _ = observed.take();
            }
        }
    }

    fn observe(&self) -> [Sample; 2] {
        self.observed.each_ref().map(Observed::peek)
    }

    /// The state is valid after each of its methods, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn carry_out(state: &mut State, command: Command, now: Instant) -> Result<Event, Refusal> {
    match command {
        Command::Promote => state.promote(now),
        Command::Rollback => state.rollback(now),
        Command::Pause => state.pause(),
        Command::Resume => state.resume(now),
        Command::Step => state.step(now),
    }
}

fn parts(weight: f64) -> u32 {
    ((weight * f64::from(WHOLE)).round() as u32).min(WHOLE)
}

impl Basis {
    /// Every setting is named, so that the compiler asks of a new one whether it makes another canary.
    fn of(config: &config::Canary) -> Basis {
        let config::Canary { stable, candidate, by: _, start, step, every, max, require, on_failure } =
            config;
        let settings = Settings {
            start: start.as_f64(),
            step: step.as_f64(),
            every: (*every).into(),
            max: max.as_f64(),
            require: required(require),
            on_failure: match on_failure {
                config::OnFailure::Rollback => OnFailure::Rollback,
                config::OnFailure::Pause => OnFailure::Pause,
            },
        };
        Basis { stable: stable.as_str().into(), candidate: candidate.as_str().into(), settings }
    }
}

fn required(config: &config::CanaryRequire) -> Require {
    let share = |ratio: Option<config::Ratio>| ratio.map(config::Ratio::as_f64);
    let &config::CanaryRequire {
        success_rate,
        p99,
        min_requests,
        max_requests,
        confidence,
        max_error_increase,
        max_p99_increase,
    } = config;
    Require {
        success_rate: share(success_rate),
        p99: p99.map(Into::into),
        min_requests: min_requests.get().into(),
        max_requests: max_requests.get().into(),
        confidence: confidence.as_f64(),
        max_error_increase: share(max_error_increase),
        max_p99_increase: share(max_p99_increase),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(before: Option<&KeptRollout>, yaml: &str, now: Instant) -> KeptRollout {
        let config = serde_yaml::from_str(yaml).unwrap();
        Rollout::under(&"search".into(), &config, before, now)
    }

    const CANARY: &str = "{stable: v1, candidate: v2, require: {min_requests: 10}}";

    fn fail(rollout: &Rollout, times: u32, now: Instant) {
        let each = Duration::from_millis(1);
        (0..times).for_each(|_| rollout.record(Side::Candidate, false, each, now));
    }

    #[test]
    fn a_dead_candidate_gets_nothing_after_five_failures_and_it_is_told_at_the_next_look() {
        let now = Instant::now();
        let rollout = rollout(None, CANARY, now);
        fail(&rollout, 4, now);
        assert_eq!(rollout.weights(), [9000, 1000]);
        fail(&rollout, 1, now);
        assert_eq!(rollout.weights(), [10_000, 0]);
        assert!(matches!(rollout.judge(now), Decision::Rollback { .. }));
        assert_eq!(rollout.judge(now), Decision::Wait, "told once");
    }

    #[test]
    fn a_pause_by_a_breach_between_two_looks_is_told_once_whatever_fails_after_it() {
        let now = Instant::now();
        let rollout = rollout(None, &CANARY.replace("stable:", "on_failure: pause, stable:"), now);
        fail(&rollout, 12, now);
        assert!(matches!(rollout.judge(now), Decision::Pause { .. }));
        fail(&rollout, 12, now);
        assert_eq!(rollout.judge(now), Decision::Wait);
    }

    #[test]
    fn the_same_canary_goes_on_over_a_reload_and_another_begins() {
        let now = Instant::now();
        let first = rollout(None, CANARY, now);
        first.order(Command::Step, now).unwrap();
        let goes_on = |yaml: &str| Arc::ptr_eq(first.shared(), rollout(Some(&first), yaml, now).shared());
        assert!(goes_on(CANARY));
        assert!(goes_on(&CANARY.replace("stable:", "by: client_ip, stable:")));
        assert!(!goes_on(&CANARY.replace("min_requests: 10", "min_requests: 11")));
        assert!(!goes_on(&CANARY.replace("stable:", "on_failure: pause, stable:")));
        let other = rollout(Some(&first), &CANARY.replace("v2", "v3"), now);
        assert_eq!((first.weight(), other.weight()), (0.2, 0.1));
    }

    #[test]
    fn an_order_for_one_that_has_moved_is_not_carried_out() {
        let now = Instant::now();
        let rollout = rollout(None, CANARY, now);
        let seen = [rollout.status(now).etag()];
        assert_eq!(seen[0], "progressing:0.1");
        rollout.order(Command::Step, now).unwrap();
        assert!(matches!(rollout.order_if(&seen, Command::Promote, now), Err(NotOrdered::Moved)));
        assert_eq!(rollout.weight(), 0.2);
        let seen = [rollout.status(now).etag()];
        rollout.order_if(&seen, Command::Pause, now).unwrap();
        assert_eq!(rollout.status(now).orders, ["promote", "rollback", "resume", "step"]);
    }

    #[test]
    fn goes_on_where_it_was_saved() {
        let now = Instant::now();
        let first = rollout(None, CANARY, now);
        first.order(Command::Step, now).unwrap();
        let second = rollout(None, CANARY, now);
        second.restore(first.save(now), now).unwrap();
        assert_eq!(second.weights(), [8000, 2000]);
        let other = rollout(None, &CANARY.replace("v2", "v3"), now);
        assert!(other.restore(first.save(now), now).is_err());
    }
}
