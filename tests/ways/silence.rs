//! Endpoints whose SYNs go unanswered, as those of a host that is off: whatever ends the wait for a connection, nothing was
//! sent, and that is what is said of it.

use std::time::{Duration, Instant};

use super::{Deed, Stage, assert_whole, scene};
use crate::support::{logged, silent::Silent};

/// The origin beside one that is silent. `on` is all that is tried again.
async fn stage(silent: &Silent, route: &str, connect_timeout: &str) -> Stage {
    let settings = format!("balancer: round_robin, connect_timeout: {connect_timeout}");
    let beside = [silent.address()];
    scene(&[Deed::Answer(200)]).addresses(1).beside(&beside).route(route).settings(&settings).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_ends_the_wait_for_a_connection_is_a_connect_error_and_another_endpoint_is_tried() {
    let silent = Silent::start().await;
    let per_try = "retry: {per_try_timeout: 300ms, on: [connect_error], methods: [GET, POST]}";
    for (route, connect_timeout) in [("", "300ms"), (per_try, "1h")] {
        let stage = stage(&silent, route, connect_timeout).await;
        for (way, origin) in &stage.ways {
            // One of them begins where nobody answers.
            for _ in 0..2 {
                stage.ask(way).await.assert_served(way);
            }
            origin.seen().iter().for_each(|seen| assert_whole(way, seen));
            assert_eq!(origin.seen().len(), 2, "{route}: {way:?}");
            stage.assert_attempts(way, "connect_failed", 1.0).await;
            stage.assert_attempts(way, "timeout", 0.0).await;
            assert_eq!(stage.retries(way, "connect_error").await, 1.0, "{route}: {way:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_connection_is_bounded_and_the_endpoint_could_not_be_connected_to() {
    let silent = Silent::start().await;
    // A connection that is not there in time is no `timeout`.
    let per_try = "retry: {attempts: 3, per_try_timeout: 300ms, on: [timeout, reset], methods: [GET, POST]}";
    for (route, connect_timeout, reason) in [
        ("", "300ms", "upstream_timeout"),
        (per_try, "1h", "upstream_timeout"),
        ("timeout: 1s", "1h", "request_timeout"),
    ] {
        let settings = format!("connect_timeout: {connect_timeout}");
        let stage = scene(&[Deed::Hold]).addresses(0).beside(&[silent.address()]);
        let stage = stage.route(route).settings(&settings).start().await;
        for (way, _) in &stage.ways {
            stage.ask(way).await.assert_refused(way, 504, reason);
            let line = stage.logged(way).await;
            assert_eq!((&line["attempts"], &line["reason"]), (&1.into(), &reason.into()), "{route}: {line}");
            stage.assert_attempts(way, "connect_failed", 1.0).await;
            stage.assert_attempts(way, "timeout", 0.0).await;
        }
    }
}

/// Where the machine is so busy that the second is over, it is begun again.
#[tokio::test(flavor = "multi_thread")]
async fn who_did_not_answer_is_chosen_last_for_a_second() {
    /// Of a second.
    const SURELY: Duration = Duration::from_millis(900);
    let silent = Silent::start().await;
    let stage = stage(&silent, "", "300ms").await;
    for (way, _) in &stage.ways {
        let mut passed_over = 0;
        let mut avoided_since = None::<Instant>;
        while passed_over < 6 {
            let before = Instant::now();
            let asked = stage.gateway.lines().len();
            stage.ask(way).await.assert_served(way);
            let line = logged_after(&stage, asked, &way.path()).await;
            if line["attempts"] != 1 {
                let surely = avoided_since.is_some_and(|since| since.elapsed() < SURELY);
                assert!(!surely, "{line}");
                // Not before: so the second is over later than it seems from here.
                (avoided_since, passed_over) = (Some(before), 0);
            } else if avoided_since.is_some() {
                passed_over += 1;
            }
        }
    }
}

/// The access log's line of a path, past so many others.
async fn logged_after(stage: &Stage, lines: usize, path: &str) -> serde_json::Value {
    loop {
        if let Some(line) = stage.gateway.lines().into_iter().skip(lines).find(|line| line["path"] == path) {
            return line;
        }
        logged(&stage.gateway, path).await;
        tokio::task::yield_now().await;
    }
}
