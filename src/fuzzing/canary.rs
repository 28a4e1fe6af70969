//! The file in which a canary's progress survives a restart. We write it, and anybody may edit it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::policy::canary::{Decision, Observed, OnFailure, Phase, Require, Sample, Saved, Settings, State};

/// Whatever the file says, a canary that goes on with it keeps its promises and its wits.
pub(super) fn state(bytes: &[u8]) {
    let now = Instant::now();
    let Some(saved) = ours(bytes, now) else { return };
    let Ok(mut state) = State::restore(saved, &settings(), "v1", "v2", now) else { return };
    check(&state);
    let again = State::restore(state.save(now), &settings(), "v1", "v2", now).expect("what we write we read");
    assert_eq!(again.save(now), state.save(now));
    let (good, bad) = (sample(200, 0), sample(200, 100));
    let mut later = now;
    for (candidate, stable) in [(&good, &good), (&bad, &good), (&good, &Sample::default())] {
        let _ = state.outlook(candidate, stable, later);
        let _ = state.convict(candidate, stable, later);
        later += Duration::from_secs(3600);
        check(&state);
        let decision = state.judge(candidate, stable, later);
        assert!(!decision.to_string().is_empty());
        assert!(!matches!(decision, Decision::Rollback { .. }) || state.weight() == 0.0);
        check(&state);
        let _ = (state.sure(), state.step(later), state.resume(later));
        check(&state);
    }
}

/// With the fingerprint of our settings, which nobody would guess.
fn ours(bytes: &[u8], now: Instant) -> Option<Saved> {
    // What comes in is read as it is as well.
    let _ = serde_json::from_slice::<Saved>(bytes);
    let mut value: Value = serde_json::from_slice(bytes).ok()?;
    let fresh = serde_json::to_value(State::new(&settings(), "v1", "v2", now).save(now)).ok()?;
    value.as_object_mut()?.insert("fingerprint".into(), fresh["fingerprint"].clone());
    serde_json::from_value(value).ok()
}

fn check(state: &State) {
    let weight = state.weight();
    assert!((0.0..=settings().max).contains(&weight), "a weight of {weight}");
    assert!(state.phase() != Phase::RolledBack || weight == 0.0, "rolled back at {weight}");
    assert!((0.0..=1.0).contains(&state.sure()), "sure by {}", state.sure());
}

fn settings() -> Settings {
    Settings {
        start: 0.1,
        step: 0.2,
        every: Duration::from_secs(60),
        max: 0.5,
        require: Require {
            success_rate: Some(0.99),
            p99: Some(Duration::from_millis(300)),
            min_requests: 100,
            max_requests: 10_000,
            confidence: 0.99,
            max_error_increase: Some(0.01),
            max_p99_increase: Some(0.2),
        },
        on_failure: OnFailure::Rollback,
    }
}

fn sample(requests: u64, failures: u64) -> Sample {
    let observed = Observed::default();
    (0..requests).for_each(|request| observed.record(request >= failures, Duration::from_millis(20)));
    observed.peek()
}
