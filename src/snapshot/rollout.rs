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
    policy::canary::{
        Decision, Event, Observed, OnFailure, Phase, Refusal, Require, Sample, Saved, Settings, Stale, State,
    },
};

/// The parts of a whole in which shares are counted: a hundredth of a per cent each.
const WHOLE: u32 = 10_000;

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
        before: Option<&Arc<Rollout>>,
        now: Instant,
    ) -> Arc<Rollout> {
        let settings = settings(config);
        let same = |before: &&Arc<Rollout>| {
            before.settings == settings
                && *before.stable == *config.stable
                && *before.candidate == *config.candidate
        };
        before.filter(same).cloned().unwrap_or_else(|| {
            let state = State::new(&settings, &config.stable, &config.candidate, now);
            Arc::new(Rollout {
                route: route.clone(),
                stable: config.stable.as_str().into(),
                candidate: config.candidate.as_str().into(),
                share: AtomicU32::new(parts(state.weight())),
                settings,
                state: Mutex::new(state),
                observed: Default::default(),
            })
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

fn settings(config: &config::Canary) -> Settings {
    let require = &config.require;
    let share = |ratio: Option<config::Ratio>| ratio.map(config::Ratio::as_f64);
    Settings {
        start: config.start.as_f64(),
        step: config.step.as_f64(),
        every: config.every.into(),
        max: config.max.as_f64(),
        require: Require {
            success_rate: share(require.success_rate),
            p99: require.p99.map(Into::into),
            min_requests: require.min_requests.get().into(),
            max_error_increase: share(require.max_error_increase),
            max_p99_increase: share(require.max_p99_increase),
        },
        on_failure: match config.on_failure {
            config::OnFailure::Rollback => OnFailure::Rollback,
            config::OnFailure::Pause => OnFailure::Pause,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(before: Option<&Arc<Rollout>>, yaml: &str, now: Instant) -> Arc<Rollout> {
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
        assert!(Arc::ptr_eq(&first, &rollout(Some(&first), CANARY, now)));
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
