//! Failover: whether a request goes to its own upstream or to the one that stands in for it. An upstream that has failed gets
//! nothing more than single trials; once it can serve again it has to stay so for a while, and then gets its requests back
//! little by little. So one that comes and goes does not take all requests to and fro.
//!
//! It holds no clock and no random source: callers pass `now` and what they draw.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::slow_start;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long it has to be able to serve without a break before it gets anything back.
    pub stay: Duration,
    /// From then on, how long until it has all its requests; they grow as in a slow start.
    pub recover: Duration,
}

/// What is known of an upstream at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// An endpoint serves, and nothing is known against it.
    Usable,
    /// None does, but it is time for one request to find out whether one is back.
    Due,
    /// Nobody knows yet: none has been probed, or no name has resolved.
    Undecided,
    Out,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has all its requests.
    Serving,
    /// The other has them.
    Away,
    /// It has a share of them.
    Recovering,
}

/// One request's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// It stays at its own upstream.
    pub stays: bool,
    /// What this request has turned.
    pub turned: Option<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    pub phase: Phase,
    /// Of the requests, 0 to 1, that are its own as long as it can serve.
    pub share: f64,
    /// What looking has turned.
    pub turned: Option<Phase>,
}

/// Of one upstream, shared by all threads that send to it.
pub struct Failover {
    settings: Settings,
    state: Mutex<State>,
    /// The same as the state says, so that all is well without a lock.
    is_serving: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Serving,
    Away { usable_since: Option<Instant> },
    Recovering { since: Instant },
}

impl Failover {
    /// All is well.
    pub fn new(settings: Settings) -> Failover {
        Failover { settings, state: Mutex::new(State::Serving), is_serving: AtomicBool::new(true) }
    }

    /// Where a request goes that finds its upstream so. `draw` is from 0 to 1, and asked only while it recovers.
    pub fn decide(&self, standing: Standing, now: Instant, draw: impl FnOnce() -> f64) -> Decision {
        if standing == Standing::Usable && self.is_serving.load(Relaxed) {
            return Decision { stays: true, turned: None };
        }
        let View { share, turned, .. } = self.look(standing, now);
        let stays = match standing {
            Standing::Usable => share >= 1.0 || share > 0.0 && draw() < share,
            Standing::Due => true,
            Standing::Undecided | Standing::Out => false,
        };
        Decision { stays, turned }
    }

    /// The same for whoever only looks.
    pub fn look(&self, standing: Standing, now: Instant) -> View {
        let mut state = self.lock();
        let next = state.next(standing, now, &self.settings);
        let turned = (next.phase() != state.phase()).then(|| next.phase());
        *state = next;
        self.is_serving.store(next == State::Serving, Relaxed);
        View { phase: next.phase(), share: next.share(now, &self.settings), turned }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(self, standing: Standing, now: Instant, settings: &Settings) -> State {
        let for_long = |since: Instant, long: Duration| now.saturating_duration_since(since) >= long;
        match (self, standing) {
            (_, Standing::Out) => State::Away { usable_since: None },
            (state, Standing::Undecided) => state,
            // The one request that found nobody may have been the last for long: the next one finds out.
            (State::Serving, Standing::Due | Standing::Usable) => State::Serving,
            (State::Away { .. } | State::Recovering { .. }, Standing::Due) => {
                State::Away { usable_since: None }
            }
            (State::Away { usable_since }, Standing::Usable) => {
                let since = usable_since.unwrap_or(now);
                match for_long(since, settings.stay) {
                    true => State::Recovering { since: now }.next(standing, now, settings),
                    false => State::Away { usable_since: Some(since) },
                }
            }
            (State::Recovering { since }, Standing::Usable) if for_long(since, settings.recover) => {
                State::Serving
            }
            (state @ State::Recovering { .. }, Standing::Usable) => state,
        }
    }

    fn phase(self) -> Phase {
        match self {
            State::Serving => Phase::Serving,
            State::Away { .. } => Phase::Away,
            State::Recovering { .. } => Phase::Recovering,
        }
    }

    fn share(self, now: Instant, settings: &Settings) -> f64 {
        match self {
            State::Serving => 1.0,
            State::Away { .. } => 0.0,
            State::Recovering { since } => {
                slow_start::factor(now.saturating_duration_since(since), settings.recover)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STAY: Duration = Duration::from_secs(10);
    const RECOVER: Duration = Duration::from_secs(30);

    fn failover() -> Failover {
        Failover::new(Settings { stay: STAY, recover: RECOVER })
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn goes_over_at_once_and_comes_back_late_and_little_by_little() {
        let (failover, start) = (failover(), Instant::now());
        let steps = [
            (0.0, Standing::Usable, Phase::Serving, 1.0),
            (1.0, Standing::Out, Phase::Away, 0.0),
            (2.0, Standing::Usable, Phase::Away, 0.0),
            (11.9, Standing::Usable, Phase::Away, 0.0),
            (12.0, Standing::Usable, Phase::Recovering, 0.1),
            (27.0, Standing::Usable, Phase::Recovering, 0.55),
            (41.9, Standing::Usable, Phase::Recovering, 0.997),
            (42.0, Standing::Usable, Phase::Serving, 1.0),
        ];
        for (at, standing, phase, share) in steps {
            let view = failover.look(standing, start + seconds(at));
            assert_eq!(view.phase, phase, "{at}");
            assert!((view.share - share).abs() < 1e-6, "{at}: {view:?}");
        }
    }

    #[test]
    fn one_that_comes_and_goes_gets_nothing() {
        let (failover, start) = (failover(), Instant::now());
        failover.look(Standing::Out, start);
        for second in 1..600 {
            // Away for a moment each nine seconds.
            let standing = if second % 9 == 0 { Standing::Out } else { Standing::Usable };
            let decision = failover.decide(standing, start + seconds(f64::from(second)), || 0.0);
            assert_eq!(decision, Decision { stays: false, turned: None }, "{second}");
        }
    }

    #[test]
    fn a_relapse_while_it_recovers_begins_anew() {
        let (failover, start) = (failover(), Instant::now());
        let at = |second: u64| start + Duration::from_secs(second);
        failover.look(Standing::Out, at(0));
        failover.look(Standing::Usable, at(1));
        assert_eq!(failover.look(Standing::Usable, at(11)).turned, Some(Phase::Recovering));
        assert_eq!(failover.look(Standing::Out, at(20)).turned, Some(Phase::Away));
        assert_eq!(failover.look(Standing::Usable, at(21)).phase, Phase::Away);
        assert_eq!(failover.look(Standing::Usable, at(30)).phase, Phase::Away, "from when it was back");
        assert_eq!(failover.look(Standing::Usable, at(31)).share, 0.1);
    }

    #[test]
    fn a_trial_is_let_through_and_counts_for_nothing_until_it_has_succeeded() {
        let (failover, now) = (failover(), Instant::now());
        failover.look(Standing::Out, now);
        for second in 0..100 {
            let decision = failover.decide(Standing::Due, now + Duration::from_secs(second), || 0.0);
            assert_eq!(decision, Decision { stays: true, turned: None });
        }
        assert_eq!(failover.look(Standing::Usable, now + Duration::from_secs(100)).phase, Phase::Away);
    }

    #[test]
    fn what_nobody_knows_yet_is_sent_elsewhere_and_held_against_nobody() {
        let (failover, now) = (failover(), Instant::now());
        let elsewhere = Decision { stays: false, turned: None };
        assert_eq!(failover.decide(Standing::Undecided, now, || 0.0), elsewhere);
        let here = Decision { stays: true, turned: None };
        assert_eq!(failover.decide(Standing::Usable, now, || 1.0), here);
    }

    #[test]
    fn without_times_it_is_back_at_once() {
        let failover = Failover::new(Settings { stay: Duration::ZERO, recover: Duration::ZERO });
        let now = Instant::now();
        assert_eq!(failover.look(Standing::Out, now).turned, Some(Phase::Away));
        assert_eq!(failover.look(Standing::Usable, now).turned, Some(Phase::Serving));
    }

    fn standings() -> impl Strategy<Value = Standing> {
        prop_oneof![
            Just(Standing::Usable),
            Just(Standing::Due),
            Just(Standing::Undecided),
            Just(Standing::Out)
        ]
    }

    proptest! {
        /// Whatever happens to it in whatever order.
        #[test]
        fn never_flaps_and_never_sends_to_nobody(
            steps in prop::collection::vec((0_u64..20_000, standings(), 0.0..1.0_f64), 1..200),
        ) {
            let failover = failover();
            let mut now = Instant::now();
            let (mut usable_since, mut last) = (None, Phase::Serving);
            for (millis, standing, draw) in steps {
                now += Duration::from_millis(millis);
                match standing {
                    Standing::Usable => { usable_since.get_or_insert(now); }
                    Standing::Out | Standing::Due => usable_since = None,
                    Standing::Undecided => {}
                }
                let Decision { stays, turned } = failover.decide(standing, now, || draw);
                let phase = turned.unwrap_or(last);
                prop_assert!(turned != Some(last), "a turn is one");
                prop_assert!(!stays || matches!(standing, Standing::Usable | Standing::Due));
                prop_assert!(standing != Standing::Out || phase == Phase::Away);
                if last == Phase::Away && phase != Phase::Away {
                    prop_assert!(now - usable_since.unwrap() >= STAY, "it stayed away for long enough");
                    prop_assert_eq!(phase, Phase::Recovering);
                }
                prop_assert!(!(last == Phase::Serving && phase == Phase::Recovering));
                let view = failover.look(standing, now);
                prop_assert_eq!((view.phase, view.turned), (phase, None), "looking twice is looking once");
                prop_assert!((0.0..=1.0).contains(&view.share));
                prop_assert_eq!(view.share == 0.0, phase == Phase::Away);
                if standing == Standing::Usable {
                    prop_assert_eq!(stays, draw < view.share || view.share >= 1.0);
                }
                last = phase;
            }
        }

        /// In small steps of time the share of one that stays usable never falls.
        #[test]
        fn grows_while_nothing_happens(steps in prop::collection::vec(1_u64..2_000, 1..100)) {
            let failover = failover();
            let mut now = Instant::now();
            failover.look(Standing::Out, now);
            let mut last = 0.0;
            for millis in steps {
                now += Duration::from_millis(millis);
                let share = failover.look(Standing::Usable, now).share;
                prop_assert!(share >= last, "{share} after {last}");
                last = share;
            }
        }
    }
}
