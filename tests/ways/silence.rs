//! Endpoints whose SYNs go unanswered.

use super::{Deed, assert_whole, scene};
use crate::support::silent::Silent;

const TURNS: &str = "balancer: round_robin, connect_timeout: 200ms";

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_does_not_answer_its_syn_is_a_connect_error_and_another_is_tried_unasked() {
    let silent = Silent::start().await;
    let stage = scene(&[Deed::Answer(200)]).addresses(1).beside(&[silent.address()]).settings(TURNS);
    let stage = stage.start().await;
    for (way, origin) in &stage.ways {
        // One of them begins where nobody answers.
        for _ in 0..2 {
            stage.ask(way).await.assert_served(way);
        }
        origin.seen().iter().for_each(|seen| assert_whole(way, seen));
        assert_eq!(origin.seen().len(), 2, "{way:?}");
        stage.assert_attempts(way, "connect_failed", 1.0).await;
        assert_eq!(stage.retries(way, "connect_error").await, 1.0, "{way:?}");
    }
}
