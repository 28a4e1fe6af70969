//! What is tried again, and what is not.

use super::{Deed, Only, Refusing, WAYS, Way, assert_whole, scene};

/// As often as it takes, without a wait, whatever the method.
fn retry(on: &str) -> String {
    format!(
        "retry: {{attempts: 4, on: [{on}], methods: [GET, POST], backoff: {{base: 1ms, max: 1ms}}, \
         budget: {{ratio: 100%, min_per_second: 1000}}}}"
    )
}

fn speaks_http2(way: &Way) -> bool {
    way.upstream != "http1"
}

fn any(_: &Way) -> bool {
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_once_is_tried_again_with_all_of_its_body_where_that_is_asked_for() {
    let cases: [(Deed, _, _, _, Only); 3] = [
        (Deed::Reset, "reset", "reset", "reset", any),
        (Deed::Answer(503), "5xx", "5xx", "5xx", any),
        (Deed::Refuse, "refused_stream", "refused_stream", "reset", speaks_http2),
    ];
    for (deed, on, reason, outcome, only) in cases {
        let (deeds, route) = ([deed, Deed::Answer(200)], retry(on));
        let stage = scene(&deeds).route(&route).only(only).start().await;
        for (way, origin) in &stage.ways {
            stage.ask(way).await.assert_served(way);
            let seen = origin.seen();
            assert_eq!(seen.len(), 2, "{on}: {way:?}");
            assert_whole(way, &seen[1]);
            for (number, seen) in (1..).zip(&seen) {
                assert_eq!(seen.field("x-tidegate-attempts"), Some(&*format!("{number}")), "{on}: {way:?}");
            }
            let line = stage.logged(way).await;
            assert_eq!((&line["attempts"], line.get("reason")), (&2.into(), None), "{on}: {line}");
            assert_eq!(stage.retries(way, reason).await, 1.0, "{on}: {way:?}");
            stage.assert_attempts(way, outcome, 1.0).await;
            stage.assert_attempts(way, "success", 1.0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_takes_too_long_is_given_up_for_another() {
    let route = retry("timeout").replace("attempts: 4", "attempts: 10, per_try_timeout: 300ms");
    let stage = scene(&[Deed::Hold, Deed::Answer(200)]).addresses(10).route(&route).start().await;
    for (way, origin) in &stage.ways {
        stage.ask(way).await.assert_served(way);
        // On a busy machine one that answers may be late as well.
        let seen = origin.seen();
        assert!(seen.len() > 1 && seen[0].body.is_none(), "{way:?}");
        let line = stage.logged(way).await;
        assert_eq!(line["attempts"], seen.len(), "{line}");
        assert_eq!(stage.retries(way, "timeout").await, seen.len() as f64 - 1.0, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_nobody_listens_at_is_passed_over_asked_or_not() {
    let dead = Refusing::start();
    let asked = retry("connect_error");
    for route in ["", &asked] {
        let settings = "balancer: round_robin";
        let stage = scene(&[Deed::Answer(200)]).addresses(1).beside(&[dead.address()]).settings(settings);
        let stage = stage.route(route).start().await;
        for (way, origin) in &stage.ways {
            // One of them begins where nobody is.
            for _ in 0..2 {
                stage.ask(way).await.assert_served(way);
            }
            assert_eq!(origin.seen().len(), 2, "{way:?}");
            origin.seen().iter().for_each(|seen| assert_whole(way, seen));
            assert_eq!(stage.retries(way, "connect_error").await, 1.0, "{route}: {way:?}");
            stage.assert_attempts(way, "connect_failed", 1.0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_asked_for_is_not_tried_again() {
    let slow = retry("reset, 5xx").replace("attempts: 4", "attempts: 4, per_try_timeout: 300ms");
    let cases: [(Deed, String, _, _, Only); 4] = [
        (Deed::Reset, retry("connect_error, timeout, gateway_error"), "upstream_reset", "reset", any),
        (Deed::Answer(503), retry("connect_error, reset, timeout, 502"), "", "5xx", any),
        (Deed::Refuse, retry("none"), "upstream_reset", "reset", speaks_http2),
        (Deed::Hold, slow, "upstream_timeout", "timeout", any),
    ];
    for (deed, route, reason, outcome, only) in cases {
        let stage = scene(&[deed]).route(&route).only(only).start().await;
        for (way, origin) in &stage.ways {
            let heard = stage.ask(way).await;
            match reason {
                "" => _ = heard.answer.assert_no_reason(),
                "upstream_timeout" => heard.assert_refused(way, 504, reason),
                _ => heard.assert_refused(way, 502, reason),
            }
            assert_eq!(origin.seen().len(), 1, "{deed:?}: {way:?}");
            let line = stage.logged(way).await;
            let told = line.get("reason").and_then(|told| told.as_str()).unwrap_or_default();
            assert_eq!((&line["attempts"], told), (&1.into(), reason), "{deed:?}: {line}");
            stage.assert_attempts(way, outcome, 1.0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_tried_elsewhere_unless_nothing_is_and_again_where_the_conditions_name_it() {
    let dead: Vec<Refusing> = (0..3).map(|_| Refusing::start()).collect();
    let addresses: Vec<_> = dead.iter().map(Refusing::address).collect();
    for (on, tries) in [("none", 1), ("timeout", 3), ("connect_error", 4)] {
        let route = retry(on);
        let stage = scene(&[Deed::Hold]).addresses(0).beside(&addresses).route(&route).start().await;
        for way in &WAYS {
            stage.ask(way).await.assert_refused(way, 502, "connect_failed");
            let line = stage.logged(way).await;
            assert_eq!(
                (&line["attempts"], &line["reason"]),
                (&tries.into(), &"connect_failed".into()),
                "{way:?}"
            );
        }
    }
}

/// What is kept may have ended meanwhile, which costs neither a try nor the request.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_connection_is_replaced_and_counted_whatever_the_shape() {
    let route = retry("reset");
    let deeds = [Deed::Answer(200), Deed::Close, Deed::Answer(200)];
    let stage = scene(&deeds).addresses(1).route(&route).start().await;
    for (way, origin) in &stage.ways {
        for _ in 0..2 {
            stage.ask(way).await.assert_served(way);
        }
        assert_eq!((origin.seen().len(), origin.connections()), (3, 2), "{way:?}");
        assert_whole(way, &origin.seen()[2]);
        assert_eq!(stage.retries(way, "stale_connection").await, 1.0, "{way:?}");
        assert_eq!(stage.retries(way, "reset").await, 0.0, "{way:?}");
        stage.assert_attempts(way, "reset", 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_connection_costs_none_of_the_tries() {
    let route = retry("5xx").replace("attempts: 4", "attempts: 2");
    let deeds = [Deed::Answer(200), Deed::Close, Deed::Answer(503), Deed::Answer(200)];
    // The kept connection is to be taken.
    let only = |way: &Way| way.upstream == "http1";
    let stage = scene(&deeds).addresses(1).route(&route).only(only).start().await;
    for (way, origin) in &stage.ways {
        for _ in 0..2 {
            stage.ask(way).await.assert_served(way);
        }
        assert_eq!(origin.seen().len(), 4, "{way:?}");
    }
}
