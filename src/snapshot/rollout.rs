//! One canary at work: its state, what was observed of both sides, and the share that requests go by. It outlives
//! snapshots for as long as the route has the same canary.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    config,
    kept::Kept,
    policy::canary::{
        Decision, Event, Observed, OnFailure, Phase, Refusal, Require, Sample, Saved, Settings, Stale, State,
    },
};

/// The parts of a whole in which shares are counted: a hundredth of a per cent each.
const WHOLE: u32 = 10_000;

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
    state: Mutex<State>,
    /// The candidate's share in parts of [`WHOLE`], for those who choose.
    share: AtomicU32,
    observed: [Observed; 2],
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
                state: Mutex::new(state),
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
    pub fn record(&self, side: Side, succeeded: bool, duration: Duration) {
        self.observed[side as usize].record(succeeded, duration);
    }

    /// Look at what was observed and act on it. To be called about once a second.
    pub fn judge(&self, now: Instant) -> Decision {
        let [stable, candidate] = self.observed.each_ref().map(Observed::peek);
        let mut state = self.state();
        let decision = state.judge(candidate, stable, now);
        self.follow(&state, decision.begins_step());
        decision
    }

    /// # Errors
    ///
    /// The order makes no sense as the canary stands.
    pub fn order(&self, command: Command, now: Instant) -> Result<Event, Refusal> {
        let mut state = self.state();
        let event = match command {
            Command::Promote => state.promote(now),
            Command::Rollback => state.rollback(now),
            Command::Pause => state.pause(),
            Command::Resume => state.resume(now),
            Command::Step => state.step(now),
        }?;
        self.follow(&state, event.begins_step());
        Ok(event)
    }

    pub fn status(&self, now: Instant) -> Status {
        let [stable, candidate] = self.observed.each_ref().map(Observed::peek);
        let state = self.state();
        Status {
            phase: state.phase(),
            weight: state.weight(),
            elapsed: state.elapsed(now),
            why: state.why().map(str::to_owned),
            candidate,
            stable,
        }
    }

    /// The candidate's share, 0 to 1.
    pub fn weight(&self) -> f64 {
        f64::from(self.share.load(Relaxed)) / f64::from(WHOLE)
    }

    /// What must be known to go on after a restart.
    pub fn save(&self, now: Instant) -> Saved {
        self.state().save(now)
    }

    /// Go on where `saved` stopped.
    ///
    /// # Errors
    ///
    /// It is the progress of another canary.
    pub fn restore(&self, saved: Saved, now: Instant) -> Result<(), Stale> {
        let restored = State::restore(saved, &self.settings, &self.stable, &self.candidate, now)?;
        let mut state = self.state();
        *state = restored;
        self.follow(&state, true);
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

    /// The state is valid after each of its methods, so a panic elsewhere does not spoil it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
    let &config::CanaryRequire { success_rate, p99, min_requests, max_error_increase, max_p99_increase } =
        config;
    Require {
        success_rate: share(success_rate),
        p99: p99.map(Into::into),
        min_requests: min_requests.get().into(),
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

    #[test]
    fn a_failing_candidate_gets_nothing_after_the_next_look() {
        let now = Instant::now();
        let rollout = rollout(None, CANARY, now);
        assert_eq!(rollout.weights(), [9000, 1000]);
        (0..10).for_each(|_| rollout.record(Side::Candidate, false, Duration::from_millis(1)));
        rollout.judge(now + Duration::from_secs(1));
        assert_eq!(rollout.weights(), [10_000, 0]);
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
