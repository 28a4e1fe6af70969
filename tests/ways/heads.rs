//! What the two sides see of each other's heads.

use http::StatusCode;

use super::{Deed, Speaks, assert_whole, scene};

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_reach_the_client_before_the_final_one() {
    let stage = scene(&[Deed::Hint]).start().await;
    for (way, _) in &stage.ways {
        let heard = stage.ask(way).await;
        heard.assert_served(way);
        let statuses: Vec<_> = heard.interim.iter().map(|(status, _)| *status).collect();
        assert_eq!(statuses, [StatusCode::EARLY_HINTS], "{way:?}");
        assert!(heard.interim.iter().all(|(_, fields)| fields["link"] == "</a.css>"), "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_learns_who_asks_and_nothing_of_the_client_s_connection() {
    let retries = "retry: {attempts: 2}";
    for (route, attempts) in [("", None), (retries, Some("1"))] {
        let stage = scene(&[Deed::Answer(200)]).route(route).start().await;
        for (way, origin) in &stage.ways {
            let claims = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https"), ("x-end", "1")];
            let hops = [("connection", "keep-alive, x-hop"), ("keep-alive", "timeout=5"), ("x-hop", "1")];
            // HTTP/2 has no such fields.
            let hops = if way.client == Speaks::Http1 { &hops[..] } else { &[] };
            stage.ask_with(way, &[&claims[..], hops].concat()).await.assert_served(way);
            let seen = &origin.seen()[0];
            assert_whole(way, seen);
            for (name, expected) in [
                ("host", Some("shop.example")),
                ("x-forwarded-for", Some("127.0.0.1")),
                ("x-forwarded-proto", Some("http")),
                ("x-forwarded-host", Some("shop.example")),
                ("x-end", Some("1")),
                ("x-tidegate-attempts", attempts),
                ("connection", None),
                ("keep-alive", None),
                ("x-hop", None),
            ] {
                assert_eq!(seen.field(name), expected, "{name}: {way:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_learns_nothing_of_the_upstream_s_connection() {
    let stage = scene(&[Deed::Answer(200)]).start().await;
    for (way, _) in &stage.ways {
        let heard = stage.ask(way).await;
        heard.assert_served(way);
        for (name, expected) in
            [("x-end", Some("1")), ("x-hop", None), ("keep-alive", None), ("connection", None)]
        {
            assert_eq!(heard.answer.header(name), expected, "{name}: {way:?}");
        }
    }
}
