//! Upstreams whose heads have no end: one bound and one reason, whatever the request was.

use super::{Deed, scene};

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_end_is_502_for_the_same_reason_whatever_the_request_was() {
    let endless = [Deed::Hints, Deed::Header(2_000_000), Deed::Header(6_000_000), Deed::Fields(300)];
    for deed in endless {
        let stage = scene(&[deed]).start().await;
        for (way, _) in &stage.ways {
            let heard = stage.ask(way).await;
            let line = stage.logged(way).await;
            assert_eq!(line["reason"], "bad_upstream_response", "{deed:?}: {line}");
            heard.assert_refused(way, 502, "bad_upstream_response");
        }
    }
}
