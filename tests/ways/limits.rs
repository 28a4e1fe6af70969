//! What bounds a request, what keeps it from an upstream, and what else comes of it.

use super::{ACTIVE, Deed, Origin, WAYS, assert_whole, scene};
use crate::support::{metric, wait_for_metric};

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_timeout_is_504_and_the_upstream_is_told_how_much_of_it_is_left() {
    let route = "timeout: 1s, timeout_header: x-time-left";
    let stage = scene(&[Deed::Hold]).route(route).start().await;
    for (way, origin) in &stage.ways {
        stage.ask(way).await.assert_refused(way, 504, "request_timeout");
        let line = stage.logged(way).await;
        assert_eq!((&line["attempts"], &line["reason"]), (&1.into(), &"request_timeout".into()), "{line}");
        let left: u64 = origin.seen()[0].field("x-time-left").unwrap().parse().unwrap();
        assert!((1..=1000).contains(&left), "{left}: {way:?}");
        stage.assert_attempts(way, "timeout", 1.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_gets_the_same_request() {
    let mut shadows = Vec::new();
    let mut scene = scene(&[Deed::Answer(200)]).route("mirror: {upstream: shadow_WAY, ratio: 100%}");
    for way in &WAYS {
        let shadow = Origin::start(1, &[Deed::Answer(200)]).await;
        let settings = format!("protocol: {}", way.upstream);
        scene = scene.upstream(&format!("shadow_{}", way.name), shadow.addresses(), &settings);
        shadows.push(shadow);
    }
    let stage = scene.start().await;
    for ((way, origin), shadow) in stage.ways.iter().zip(&shadows) {
        stage.ask_with(way, &[("x-end", "1")]).await.assert_served(way);
        shadow.wait_for_whole(1).await;
        let labels = [&way.label("route"), "outcome=\"answered\""];
        wait_for_metric(&stage.gateway, "tidegate_mirrored_total", &labels, 1.0).await;
        let (seen, copied) = (&origin.seen()[0], &shadow.seen()[0]);
        assert_whole(way, copied);
        for name in ["host", "x-forwarded-for", "x-end", "content-type", "te"] {
            assert_eq!(copied.field(name), seen.field(name), "{name}: {way:?}");
        }
        assert_eq!(shadow.seen().len(), 1, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_opens_after_so_many_failures_and_refuses_what_follows() {
    for (deed, outcome) in [(Deed::Reset, "reset"), (Deed::Answer(500), "5xx")] {
        let settings = "circuit_breaker: {consecutive_failures: 3, open_for: 1h}";
        let retry = "retry: {attempts: 1}";
        let stage = scene(&[deed]).addresses(1).settings(settings).route(retry).start().await;
        for (way, origin) in &stage.ways {
            for _ in 0..3 {
                assert_ne!(stage.ask(way).await.answer.header("x-tidegate-reason"), Some("circuit_open"));
            }
            stage.ask(way).await.assert_refused(way, 503, "circuit_open");
            assert_eq!(origin.seen().len(), 3, "{deed:?}: {way:?}");
            stage.assert_attempts(way, outcome, 3.0).await;
            let refused = stage
                .gateway
                .wait_for_line(|line| line["path"] == way.path() && line["reason"] == "circuit_open");
            assert_eq!(refused.await["attempts"], 0);
        }
        let retries = metric(&stage.gateway, "tidegate_retries_total", &[]).await;
        assert_eq!(retries, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_s_stale_connection_is_replaced_and_counted() {
    let shadow = Origin::start(1, &[Deed::Answer(200), Deed::Close, Deed::Answer(200)]).await;
    let stage = scene(&[Deed::Answer(200)]).route("mirror: {upstream: shadow, ratio: 100%}");
    let stage = stage.upstream("shadow", shadow.addresses(), "").only(|way| way.name == "bare").start().await;
    let (way, _) = &stage.ways[0];
    for copies in [1.0, 2.0] {
        stage.ask(way).await.assert_served(way);
        let labels = ["outcome=\"answered\""];
        wait_for_metric(&stage.gateway, "tidegate_mirrored_total", &labels, copies).await;
    }
    assert_eq!((shadow.seen().len(), shadow.connections()), (3, 2));
    assert_eq!(stage.retries(way, "stale_connection").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_request_and_nothing_is_held_against_the_endpoint() {
    let settings = "circuit_breaker: {consecutive_failures: 1, open_for: 1h}";
    let stage = scene(&[Deed::Hold, Deed::Answer(200)]).addresses(1).settings(settings).start().await;
    for (way, origin) in &stage.ways {
        stage.leave(way, origin).await;
        assert_eq!(stage.logged(way).await["reason"], "client_closed", "{way:?}");
        wait_for_metric(&stage.gateway, ACTIVE, &[&way.label("upstream")], 0.0).await;
        stage.ask(way).await.assert_served(way);
        for outcome in ["reset", "timeout", "connect_failed", "5xx"] {
            stage.assert_attempts(way, outcome, 0.0).await;
        }
    }
}
