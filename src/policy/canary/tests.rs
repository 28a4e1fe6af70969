use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// The canary of the documentation: from 10 % by 10 % every five minutes.
fn settings() -> Settings {
    Settings {
        start: 0.1,
        step: 0.1,
        every: 5 * MINUTE,
        max: 1.0,
        require: Require {
            success_rate: Some(0.99),
            p99: Some(300 * MS),
            min_requests: 100,
            max_requests: 10_000,
            confidence: 0.99,
            max_error_increase: None,
            max_p99_increase: None,
        },
        on_failure: OnFailure::Rollback,
    }
}

fn comparing() -> Settings {
    let require = Require {
        success_rate: None,
        p99: None,
        min_requests: 100,
        max_requests: 10_000,
        confidence: 0.99,
        max_error_increase: Some(0.01),
        max_p99_increase: Some(0.2),
    };
    Settings { require, ..settings() }
}

/// All requests took equally long.
fn sample(requests: u64, failures: u64, ms: u32) -> Sample {
    let observed = Observed::default();
    (0..requests).for_each(|request| observed.record(request >= failures, ms * MS));
    observed.peek()
}

/// Enough to be sure.
fn good() -> Sample {
    sample(5000, 0, 20)
}

fn bad() -> Sample {
    sample(5000, 250, 20)
}

fn none() -> Sample {
    Sample::default()
}

/// A canary and the time, which only tests move.
struct Bench {
    state: State,
    now: Instant,
}

impl Bench {
    fn new(settings: Settings) -> Bench {
        let now = Instant::now();
        Bench { state: State::new(&settings, "v1", "v2", now), now }
    }

    fn after(&mut self, time: Duration) -> &mut Bench {
        self.now += time;
        self
    }

    fn judge(&mut self, candidate: Sample, stable: Sample) -> Decision {
        self.state.judge(&candidate, &stable, self.now)
    }

    /// One good step.
    fn pass(&mut self) -> Decision {
        self.after(5 * MINUTE).judge(good(), good())
    }

    fn standing(&self) -> (Phase, f64) {
        (self.state.phase(), self.state.weight())
    }

    fn restarted(&self, settings: &Settings) -> Result<State, Stale> {
        let json = serde_json::to_string(&self.state.save(self.now)).unwrap();
        let saved: Saved = serde_json::from_str(&json).unwrap();
        State::restore(saved, settings, "v1", "v2", self.now)
    }
}

#[test]
fn a_healthy_candidate_reaches_all_traffic_on_schedule() {
    let mut bench = Bench::new(settings());
    let mut weights = vec![bench.state.weight()];
    let (good, mut seconds) = (good(), 0);
    while bench.state.phase() == Phase::Progressing {
        seconds += 1;
        bench.after(SECOND);
        if let Decision::Advance { to, .. } = bench.judge(good.clone(), good.clone()) {
            assert_eq!(seconds % 300, 0);
            weights.push(to);
        }
    }
    assert_eq!(weights.len(), 10);
    for (index, weight) in weights.iter().enumerate() {
        assert!((weight - (index + 1) as f64 / 10.0).abs() < 1e-12, "{weight}");
    }
    assert_eq!(bench.standing(), (Phase::Promoted, 1.0));
    assert_eq!(seconds, 50 * 60, "nine steps up and one at 100 %");
}

#[test]
fn the_last_step_lands_exactly_on_max() {
    for (start, step, max) in [(0.1, 0.1, 0.3), (0.1, 0.3, 0.5), (0.05, 0.07, 1.0), (0.5, 0.1, 0.2)] {
        let mut bench = Bench::new(Settings { start, step, max, ..settings() });
        while bench.pass() != (Decision::Promote { weight: max }) {
            assert!(bench.state.weight() <= max);
        }
        assert_eq!(bench.state.weight(), max);
    }
}

#[test]
fn a_step_is_not_over_before_its_time() {
    let mut bench = Bench::new(settings());
    assert_eq!(bench.after(5 * MINUTE - MS).judge(good(), good()), Decision::Wait);
    assert_eq!(bench.after(MS).judge(good(), good()), Decision::Advance { from: 0.1, to: 0.2 });
}

#[test]
fn too_few_requests_hold_the_step_for_as_long_as_it_takes() {
    for min_requests in [0, 1, 1000] {
        let mut settings = settings();
        settings.require.min_requests = min_requests;
        let need = min_requests.max(1);
        let mut bench = Bench::new(settings);
        let why = Unknown::Requests(TooFewRequests { side: Side::Candidate, have: need - 1, need });
        for _ in 0..100 {
            assert_eq!(
                bench.after(MINUTE * 60).judge(sample(need - 1, 0, 1), good()),
                Decision::Hold { why }
            );
        }
        assert!(matches!(bench.judge(sample(1000, 0, 1), good()), Decision::Advance { .. }));
    }
}

#[test]
fn a_dead_candidate_is_rolled_back_after_five_failures_whatever_a_step_needs() {
    let mut bench = Bench::new(settings());
    for failures in 1..5 {
        assert_eq!(bench.after(MS).judge(sample(failures, failures, 20), good()), Decision::Wait);
    }
    assert!(matches!(bench.after(MS).judge(sample(5, 5, 20), good()), Decision::Rollback { from: 0.1, .. }));
    assert_eq!(bench.standing(), (Phase::RolledBack, 0.0));
    let why = "success rate 0% is below 99% (5 of 5 requests, more than 99.99% sure)";
    assert_eq!(bench.state.why(), Some(why));
    for _ in 0..10 {
        assert_eq!(bench.pass(), Decision::Wait);
    }
    assert_eq!(bench.standing(), (Phase::RolledBack, 0.0));
}

#[test]
fn a_candidate_that_dies_late_is_rolled_back_after_a_few_failures_too() {
    let mut bench = Bench::new(settings());
    let (stable, candidate) = (good(), Observed::default());
    for _ in 0..290 {
        (0..100).for_each(|_| candidate.record(true, MS));
        assert_eq!(bench.after(SECOND).judge(candidate.peek(), stable.clone()), Decision::Wait);
    }
    let failures = (1..20).find(|_| {
        candidate.record(false, MS);
        bench.state.convict(&candidate.peek(), &stable, bench.now).is_some()
    });
    assert!(failures.unwrap() <= 8, "{failures:?}");
    let why = bench.state.why().unwrap();
    assert!(why.starts_with("success rate 0% is below 99% (") && why.ends_with("% sure)"), "{why}");
}

/// A hundred requests with one failure more than required may be chance: more of them tell.
#[test]
fn a_doubt_holds_the_step_and_says_what_is_missing() {
    let mut bench = Bench::new(settings());
    bench.after(5 * MINUTE);
    let decision = bench.judge(sample(100, 2, 20), good());
    let Decision::Hold { why: Unknown::Doubt(doubt) } = decision else { panic!("{decision:?}") };
    assert_eq!((doubt.requirement, doubt.kept, doubt.missing), ("success_rate", false, Some(100)));
    let decision = bench.judge(sample(250, 2, 20), good());
    let Decision::Hold { why: Unknown::Doubt(doubt) } = decision else { panic!("{decision:?}") };
    let more = doubt.missing.unwrap();
    assert!(doubt.kept && doubt.sure < doubt.needed && more > 0, "{doubt:?}");
    let outlook = bench.state.outlook(&sample(250, 2, 20), &good(), bench.now).unwrap();
    assert_eq!((outlook.requirement, outlook.missing), ("success_rate", Some(more)));
    let expected = more as f64 / 250.0 * 300.0;
    assert!((outlook.decides_in.unwrap().as_secs_f64() - expected).abs() < 1e-6);
    // It was told the truth, to a few per cent.
    let failures = 2 + more * 2 / 250;
    let decision = bench.judge(sample(260 + more + more / 20, failures, 20), good());
    assert!(matches!(decision, Decision::Advance { .. }), "{decision}");
}

#[test]
fn what_is_known_in_time_is_decided_at_the_end_of_the_step() {
    let mut bench = Bench::new(settings());
    bench.after(MINUTE);
    let outlook = bench.state.outlook(&good(), &good(), bench.now).unwrap();
    assert_eq!((outlook.missing, outlook.decides_in), (Some(0), Some(4 * MINUTE)));
    assert!(outlook.sure >= 0.99 && outlook.needed < 0.7, "{outlook:?}");
    assert_eq!(bench.state.outlook(&none(), &none(), bench.now).unwrap().decides_in, None, "no traffic");
    bench.state.rollback(bench.now).unwrap();
    assert_eq!(bench.state.outlook(&good(), &good(), bench.now), None);
}

/// No finite number of requests shows that there will never be a failure.
#[test]
fn a_step_with_max_requests_needs_no_more_evidence_and_must_meet_the_requirement() {
    let mut settings = settings();
    settings.require.success_rate = Some(1.0);
    let mut bench = Bench::new(settings);
    bench.after(5 * MINUTE);
    assert!(matches!(bench.judge(sample(9999, 0, 20), good()), Decision::Hold { .. }));
    assert!(matches!(bench.judge(sample(10_000, 0, 20), good()), Decision::Advance { .. }));
    let decision = bench.after(5 * MINUTE).judge(sample(10_000, 1, 20), good());
    let Decision::Hold { why: Unknown::Doubt(doubt) } = decision else { panic!("{decision:?}") };
    assert_eq!((doubt.kept, doubt.missing), (false, None));
}

#[test]
fn each_requirement_is_breached_on_its_own() {
    for (settings, candidate, words) in [
        (
            settings(),
            sample(5000, 100, 20),
            "success rate 98% is below 99% (100 of 5000 requests, more than 99.99% sure)",
        ),
        (
            settings(),
            sample(1000, 0, 310),
            "p99 is above 300ms: 100% took longer (1000 of 1000 requests, more than 99.99% sure)",
        ),
        (
            comparing(),
            sample(5000, 250, 20),
            "failure rate 5% is more than 1% above stable's 1% (250 of 5000 requests, more than 99.99% sure)",
        ),
        (
            comparing(),
            sample(5000, 50, 26),
            "p99 is more than 20% above stable's 20.5ms: 100% took longer (5000 of 5000 requests, more than \
             99.99% sure)",
        ),
    ] {
        match Bench::new(settings).judge(candidate, sample(5000, 50, 20)) {
            Decision::Rollback { why, .. } => assert_eq!(why.to_string(), words),
            other => panic!("{other:?} instead of {words}"),
        }
    }
}

#[test]
fn comparisons_wait_for_stable_and_remember_it_where_it_has_no_traffic_left() {
    let mut bench = Bench::new(Settings { start: 0.9, ..comparing() });
    let why = Unknown::Requests(TooFewRequests { side: Side::Stable, have: 99, need: 100 });
    assert_eq!(bench.after(5 * MINUTE).judge(good(), sample(99, 0, 20)), Decision::Hold { why });
    assert_eq!(bench.judge(good(), good()), Decision::Advance { from: 0.9, to: 1.0 });
    let slow = sample(5000, 0, 40);
    let restored = bench.restarted(&Settings { start: 0.9, ..comparing() }).unwrap();
    for mut state in [bench.state, restored] {
        assert!(matches!(state.judge(&slow, &none(), bench.now), Decision::Rollback { from: 1.0, .. }));
    }
}

#[test]
fn a_candidate_that_starts_with_all_traffic_has_nothing_to_be_compared_with() {
    let mut bench = Bench::new(Settings { start: 1.0, ..comparing() });
    assert_eq!(bench.after(5 * MINUTE).judge(good(), none()), Decision::Promote { weight: 1.0 });
}

#[test]
fn on_failure_pause_keeps_the_weight_until_the_operator_decides() {
    let mut bench = Bench::new(Settings { on_failure: OnFailure::Pause, ..settings() });
    bench.pass();
    assert!(matches!(bench.judge(bad(), good()), Decision::Pause { weight: 0.2, .. }));
    assert_eq!(bench.after(MINUTE * 60).judge(bad(), good()), Decision::Wait, "said once");
    assert_eq!(bench.standing(), (Phase::Paused(PausedBy::Breach), 0.2));
    assert_eq!(bench.state.resume(bench.now), Ok(Event::Resumed { weight: 0.2 }));
    assert_eq!(bench.after(SECOND).judge(good(), good()), Decision::Wait, "resuming begins a new step");
    assert_eq!(bench.pass(), Decision::Advance { from: 0.2, to: 0.3 });
}

#[test]
fn a_paused_canary_does_not_rise_and_still_rolls_back() {
    let mut bench = Bench::new(settings());
    assert_eq!(bench.state.pause(), Ok(Event::Paused { weight: 0.1 }));
    for _ in 0..5 {
        assert_eq!(bench.pass(), Decision::Keep { weight: 0.1 });
        assert_eq!(bench.after(5 * MINUTE).judge(none(), good()), Decision::Wait);
    }
    assert!(matches!(bench.judge(bad(), good()), Decision::Rollback { from: 0.1, .. }));
    assert_eq!(bench.standing(), (Phase::RolledBack, 0.0));
}

#[test]
fn promoted_at_all_traffic_is_final_and_below_it_stays_armed() {
    let mut bench = Bench::new(Settings { start: 1.0, ..settings() });
    assert_eq!(bench.pass(), Decision::Promote { weight: 1.0 });
    assert_eq!(bench.judge(bad(), none()), Decision::Wait);
    assert_eq!(bench.standing(), (Phase::Promoted, 1.0));

    let mut bench = Bench::new(Settings { start: 0.5, max: 0.5, ..settings() });
    assert_eq!(bench.pass(), Decision::Promote { weight: 0.5 });
    assert_eq!(bench.pass(), Decision::Keep { weight: 0.5 });
    assert!(matches!(bench.judge(bad(), good()), Decision::Rollback { from: 0.5, .. }));
}

#[test]
fn commands_do_what_they_say_or_say_why_not() {
    type Command = fn(&mut State, Instant) -> Result<Event, Refusal>;
    let commands: [Command; 5] =
        [State::promote, State::rollback, |state, _| state.pause(), State::resume, State::step];
    type Outcomes = [Result<Event, Refusal>; 5];
    let cases: [(Phase, f64, Outcomes); 5] = [
        (
            Phase::Progressing,
            0.2,
            [
                Ok(Event::Promoted { weight: 1.0 }),
                Ok(Event::RolledBack { from: 0.2 }),
                Ok(Event::Paused { weight: 0.2 }),
                Err(Refusal::Progressing),
                Ok(Event::Advanced { from: 0.2, to: 0.3 }),
            ],
        ),
        (
            Phase::Paused(PausedBy::Operator),
            0.2,
            [
                Ok(Event::Promoted { weight: 1.0 }),
                Ok(Event::RolledBack { from: 0.2 }),
                Err(Refusal::Paused),
                Ok(Event::Resumed { weight: 0.2 }),
                Ok(Event::Advanced { from: 0.2, to: 0.3 }),
            ],
        ),
        (
            Phase::Paused(PausedBy::Breach),
            1.0,
            [
                Ok(Event::Promoted { weight: 1.0 }),
                Ok(Event::RolledBack { from: 1.0 }),
                Err(Refusal::Paused),
                Ok(Event::Resumed { weight: 1.0 }),
                Ok(Event::Promoted { weight: 1.0 }),
            ],
        ),
        (
            Phase::Promoted,
            1.0,
            [
                Err(Refusal::Promoted),
                Ok(Event::RolledBack { from: 1.0 }),
                Err(Refusal::Promoted),
                Err(Refusal::Promoted),
                Err(Refusal::Promoted),
            ],
        ),
        (
            Phase::RolledBack,
            0.0,
            [
                Ok(Event::Promoted { weight: 1.0 }),
                Err(Refusal::RolledBack),
                Err(Refusal::RolledBack),
                Ok(Event::Resumed { weight: 0.1 }),
                Err(Refusal::RolledBack),
            ],
        ),
    ];
    let now = Instant::now();
    for (phase, weight, expected) in cases {
        for (command, expected) in commands.iter().zip(expected) {
            let mut state = State { phase, weight, ..State::new(&settings(), "v1", "v2", now) };
            assert_eq!(command(&mut state, now), expected, "{phase:?}");
            if expected.is_err() {
                assert_eq!((state.phase(), state.weight()), (phase, weight), "refused, and yet changed");
            }
        }
    }
}

#[test]
fn stepping_a_paused_canary_leaves_it_paused_and_tells_of_the_next_breach() {
    let mut bench = Bench::new(Settings { on_failure: OnFailure::Pause, ..settings() });
    assert!(matches!(bench.judge(bad(), good()), Decision::Pause { weight: 0.1, .. }));
    bench.state.step(bench.now).unwrap();
    assert_eq!(bench.standing(), (Phase::Paused(PausedBy::Operator), 0.2));
    assert!(matches!(bench.judge(bad(), good()), Decision::Pause { weight: 0.2, .. }));
}

#[test]
fn progress_survives_a_restart_without_losing_the_time_of_the_step() {
    let mut bench = Bench::new(settings());
    bench.pass();
    bench.after(3 * MINUTE);
    bench.state = bench.restarted(&settings()).unwrap();
    assert_eq!(bench.standing(), (Phase::Progressing, 0.2));
    assert_eq!(bench.after(2 * MINUTE - MS).judge(good(), good()), Decision::Wait);
    assert_eq!(bench.after(MS).judge(good(), good()), Decision::Advance { from: 0.2, to: 0.3 });
    assert_eq!(bench.after(5 * MINUTE - MS).judge(good(), good()), Decision::Wait, "counted once");
}

#[test]
fn every_phase_survives_a_restart() {
    for phase in [
        Phase::Progressing,
        Phase::Paused(PausedBy::Operator),
        Phase::Paused(PausedBy::Breach),
        Phase::Promoted,
        Phase::RolledBack,
    ] {
        let mut bench = Bench::new(settings());
        bench.state.phase = phase;
        bench.state.weight = if phase == Phase::RolledBack { 0.0 } else { 0.4 };
        bench.state.why = Some("p99 1.0s is above 300ms".into());
        let restored = bench.restarted(&settings()).unwrap();
        assert_eq!((restored.phase(), restored.weight()), bench.standing());
        assert_eq!(restored.why(), bench.state.why());
    }
}

#[test]
fn progress_of_another_canary_is_refused() {
    let changes: [fn(&mut Settings); 12] = [
        |settings| settings.start = 0.2,
        |settings| settings.step = 0.2,
        |settings| settings.every *= 2,
        |settings| settings.max = 0.5,
        |settings| settings.on_failure = OnFailure::Pause,
        |settings| settings.require.success_rate = None,
        |settings| settings.require.p99 = None,
        |settings| settings.require.min_requests = 1,
        |settings| settings.require.max_requests = 1000,
        |settings| settings.require.confidence = 0.999,
        |settings| settings.require.max_error_increase = Some(0.0),
        |settings| settings.require.max_p99_increase = Some(0.0),
    ];
    let bench = Bench::new(settings());
    for change in changes {
        let mut changed = settings();
        change(&mut changed);
        assert_eq!(bench.restarted(&changed).err(), Some(Stale::Settings), "{changed:?}");
    }
    let saved = bench.state.save(bench.now);
    let stale = State::restore(saved, &settings(), "v1", "v3", bench.now).unwrap_err();
    assert_eq!(stale.to_string(), "saved progress is from `v1` to `v2` (the canary starts over)");
}

#[test]
fn what_was_saved_keeps_its_form() {
    let bench = Bench::new(settings());
    let json = serde_json::to_string(&bench.state.save(bench.now)).unwrap();
    let nothing = r#"{"evidence":{"breach":[0.0,0.0,0.0,0.0,0.0,0.0],"keeps":[0.0,0.0,0.0,0.0,0.0]},"counts":{"candidate":{"requests":0,"hits":0},"stable":null}}"#;
    let known = format!(
        r#"{{"version":2,"fingerprint":"69524988dae6f7d2","stable":"v1","candidate":"v2","phase":"progressing","weight":0.1,"elapsed_ms":0,"measured":{{"looks":0,"baseline":null,"known":{{"p99":{nothing},"success_rate":{nothing}}}}},"why":null}}"#
    );
    assert_eq!(json, known, "another form needs another version, or canaries start over with the release");
}

/// A canary that had been rolled back must not come back with a release.
#[test]
fn progress_from_before_there_was_evidence_goes_on_without_any() {
    let json = r#"{"version":1,"fingerprint":"9bb24a21a4fed587","stable":"v1","candidate":"v2","phase":"rolled_back","weight":0.0,"elapsed_ms":1000,"baseline":{"requests":1000,"failures":0,"p99":{"secs":0,"nanos":20000000}},"why":"success rate 0% is below 99%"}"#;
    let now = Instant::now();
    let restored = State::restore(serde_json::from_str(json).unwrap(), &settings(), "v1", "v2", now).unwrap();
    assert_eq!((restored.phase(), restored.why()), (Phase::RolledBack, Some("success rate 0% is below 99%")));
    let restored = State::restore(serde_json::from_str(json).unwrap(), &comparing(), "v1", "v2", now);
    assert_eq!(restored.err(), Some(Stale::Settings));
}

#[test]
fn what_the_steps_before_showed_survives_a_restart() {
    let mut bench = Bench::new(settings());
    bench.pass();
    let restored = bench.restarted(&settings()).unwrap();
    let few = sample(100, 0, 20);
    for state in [&bench.state, &restored] {
        let outlook = state.outlook(&few, &few, bench.now).unwrap();
        assert!(outlook.sure > 0.99, "{outlook:?}");
    }
}

#[test]
fn a_tampered_weight_or_another_version_is_refused() {
    let bench = Bench::new(Settings { max: 0.5, ..settings() });
    let json = serde_json::to_string(&bench.state.save(bench.now)).unwrap();
    for (from, to) in [
        ("\"weight\":0.1", "\"weight\":0.6"),
        ("\"weight\":0.1", "\"weight\":-1.0"),
        ("\"progressing\"", "\"rolled_back\""),
        ("\"version\":2", "\"version\":3"),
    ] {
        let tampered = json.replace(from, to);
        assert_ne!(tampered, json);
        let saved = serde_json::from_str(&tampered).unwrap();
        let restored = State::restore(saved, &bench.state.settings, "v1", "v2", bench.now);
        assert!(matches!(restored, Err(Stale::Weight { .. } | Stale::Version { .. })), "{to}");
    }
}

/// Random settings, samples, commands and restarts: what must hold whatever happens.
#[test]
fn the_weight_never_exceeds_max_and_never_rises_without_enough_requests() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..150 {
        let max = 0.1 + 0.9 * random.f64();
        let settings = Settings {
            start: random.f64(),
            step: 0.01 + random.f64() / 2.0,
            every: MINUTE * random.u32(0..5),
            max: if random.bool() { 1.0 } else { max },
            on_failure: if random.bool() { OnFailure::Rollback } else { OnFailure::Pause },
            require: if random.bool() { self::settings().require } else { comparing().require },
        };
        let mut bench = Bench::new(settings.clone());
        for _ in 0..100 {
            let (phase, weight) = bench.standing();
            bench.after(SECOND * random.u32(0..300));
            if random.u32(0..20) == 0 {
                let now = bench.now;
                let state = &mut bench.state;
                let _refused_or_not = match random.u32(0..5) {
                    0 => state.promote(now),
                    1 => state.rollback(now),
                    2 => state.pause(),
                    3 => state.resume(now),
                    _ => state.step(now),
                };
            } else {
                let requests = random.u64(0..300);
                let failures = if random.u32(0..10) == 0 { random.u64(0..=requests) } else { 0 };
                let candidate = sample(requests, failures, random.u32(15..24));
                let decision = bench.judge(candidate, sample(random.u64(0..300), 0, 20));
                if bench.state.weight() > weight {
                    assert!(requests >= 100 && phase == Phase::Progressing, "{decision}");
                }
                let success_rate_required = settings.require.success_rate.is_some();
                let breached = success_rate_required && failures >= 5 && failures * 5 > requests;
                if breached && settings.on_failure == OnFailure::Rollback && phase == Phase::Progressing {
                    assert_eq!(bench.standing(), (Phase::RolledBack, 0.0), "{decision}");
                }
            }
            let (phase, weight) = bench.standing();
            assert!((0.0..=settings.max).contains(&weight), "{weight} of {}", settings.max);
            assert_eq!(phase == Phase::RolledBack, weight == 0.0);
            if random.u32(0..10) == 0 {
                bench.state = bench.restarted(&settings).unwrap();
                assert_eq!(bench.standing().0, phase);
                assert!((bench.standing().1 - weight).abs() < EPSILON);
            }
        }
    }
}

/// The whole loop, as its caller runs it, against a candidate that begins to fail at a random moment.
#[test]
fn a_failure_injected_into_live_traffic_is_rolled_back_within_the_promised_time() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20 {
        let mut bench = Bench::new(settings());
        let (candidate, stable) = (Observed::default(), Observed::default());
        let fails_at = random.u32(0..2400);
        let mut rolled_back_at = None;
        for second in 0..3000 {
            for _ in 0..100 {
                let latency = MS * random.u32(5..30);
                if random.f64() < bench.state.weight() {
                    candidate.record(second < fails_at, latency);
                } else {
                    stable.record(true, latency);
                }
            }
            let decision = bench.after(SECOND).judge(candidate.peek(), stable.peek());
            if decision.begins_step() {
                candidate.take();
                stable.take();
            }
            if let Decision::Rollback { .. } = decision {
                rolled_back_at = Some(second);
                break;
            }
        }
        let delay = rolled_back_at.unwrap() - fails_at;
        assert!(delay <= 1, "{delay} s after failing at {fails_at} s");
    }
}

#[test]
fn saved_counts_that_would_not_fit_begin_the_canary_over() {
    let mut bench = Bench::new(comparing());
    bench.after(5 * MINUTE);
    assert!(matches!(bench.judge(good(), good()), Decision::Advance { .. }));
    let saved = serde_json::to_value(bench.state.save(bench.now)).unwrap();
    for (place, impossible) in [
        ("/measured/looks", serde_json::json!(u64::MAX)),
        ("/measured/baseline/failures/requests", serde_json::json!(u64::MAX)),
        ("/measured/baseline/p99/secs", serde_json::json!(u64::MAX)),
        ("/measured/known/max_error_increase/counts/candidate/requests", serde_json::json!(u64::MAX)),
        ("/measured/known/max_error_increase/evidence/breach/0", serde_json::json!(1e308)),
    ] {
        let mut edited = saved.clone();
        *edited.pointer_mut(place).unwrap_or_else(|| panic!("{place} of {saved}")) = impossible;
        let edited = serde_json::from_value(edited).unwrap();
        let restored = State::restore(edited, &comparing(), "v1", "v2", bench.now);
        assert_eq!(restored.err(), Some(Stale::Measured), "{place}");
    }
}
