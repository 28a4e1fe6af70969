//! Which variant a request takes, and who stays where it was.

use std::collections::BTreeMap;

use super::{Client, Origin, yaml};
use crate::support::{Gateway, logged, metric};

async fn gateway(split: &str, a: &Origin, b: &Origin) -> Gateway {
    Gateway::start(&configuration(split, a, b)).await
}

fn configuration(split: &str, a: &Origin, b: &Origin) -> String {
    yaml(&format!("split: {{{split}}}"), &[("a", &[a], ""), ("b", &[b], "")])
}

/// Whom a request with these headers was sent to.
async fn taken(client: &mut Client, headers: &[(&str, &str)], a: &Origin) -> char {
    let before = a.requests();
    client.send("GET", "/", headers, "").await.assert_status(200);
    if a.requests() > before { 'a' } else { 'b' }
}

#[tokio::test(flavor = "multi_thread")]
async fn round_robin_gives_exact_shares_and_both_are_counted() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let split = "by: round_robin, to: [{name: old, upstream: a, weight: 90}, {upstream: b, weight: 10}]";
    let gateway = gateway(split, &a, &b).await;
    let mut client = Client::new(&gateway);
    for request in 0..200 {
        client.get(&format!("/{request}")).await.assert_status(200);
    }
    assert_eq!((a.requests(), b.requests()), (180, 20));
    for (variant, upstream, count) in [("old", "a", 180.0), ("b", "b", 20.0)] {
        let label = format!("variant=\"{variant}\"");
        assert_eq!(metric(&gateway, "tidegate_split_total", &["route=\"r\"", &label]).await, count);
        let label = format!("upstream=\"{upstream}\"");
        assert_eq!(metric(&gateway, "tidegate_requests_total", &["route=\"r\"", &label]).await, count);
    }
    let b_path = b.seen()[0].path.clone();
    let line = logged(&gateway, &b_path).await;
    assert_eq!((&line["variant"], &line["upstream"]), (&"b".into(), &"b".into()), "{line}");
    let line = logged(&gateway, &a.seen()[0].path).await;
    assert_eq!((&line["variant"], &line["upstream"]), (&"old".into(), &"a".into()), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn random_shares_are_near_their_weights() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let gateway = gateway("to: [{upstream: a, weight: 3}, {upstream: b}]", &a, &b).await;
    let mut client = Client::new(&gateway);
    for _ in 0..1000 {
        client.get("/").await.assert_status(200);
    }
    // Seven standard deviations: by chance, once in as many runs as there will never be.
    assert!(b.requests().abs_diff(250) < 96, "{}", b.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_takes_the_same_variant() {
    type Headers = fn(usize) -> (&'static str, String);
    let kinds: [(&str, Headers); 3] = [
        ("{header: x-user}", |key| ("x-user", format!("user-{key}"))),
        ("{cookie: side}", |key| ("cookie", format!("theme=dark; side=s{key}; x=y"))),
        ("client_ip", |key| ("x-forwarded-for", format!("198.51.100.{key}"))),
    ];
    for (by, header) in kinds {
        let (a, b) = (Origin::start().await, Origin::start().await);
        let gateway = gateway(&format!("by: {by}, to: [{{upstream: a}}, {{upstream: b}}]"), &a, &b).await;
        let mut client = Client::new(&gateway);
        let mut chosen = BTreeMap::new();
        for round in 0..3 {
            for key in 0..100 {
                let (name, value) = header(key);
                let taken = taken(&mut client, &[(name, &value)], &a).await;
                assert_eq!(*chosen.entry(key).or_insert(taken), taken, "{by}: key {key} in round {round}");
            }
        }
        let of_a = chosen.values().filter(|taken| **taken == 'a').count();
        assert!((20..=80).contains(&of_a), "{by}: {of_a}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_names_a_variant_gets_it_even_at_weight_zero() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let to = "to: [{upstream: a, weight: 1}, {name: beta, upstream: b, weight: 0}]";
    let by_header = gateway(&format!("by: {{header: x-side}}, {to}"), &a, &b).await;
    let by_cookie = gateway(&format!("by: {{cookie: side}}, {to}"), &a, &b).await;
    for (gateway, name, beta, other) in
        [(by_header, "x-side", "beta", "anyone"), (by_cookie, "cookie", "side=beta", "side=anyone")]
    {
        let mut client = Client::new(&gateway);
        for _ in 0..5 {
            assert_eq!(taken(&mut client, &[(name, beta)], &a).await, 'b');
            assert_eq!(taken(&mut client, &[(name, other)], &a).await, 'a');
            assert_eq!(taken(&mut client, &[], &a).await, 'a');
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_the_cookie_is_given_one_and_stays() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let gateway = gateway("by: {cookie: side}, to: [{upstream: a}, {upstream: b}]", &a, &b).await;
    let mut client = Client::new(&gateway);
    let mut sides = BTreeMap::new();
    for _ in 0..20 {
        let before = a.requests();
        let answer = client.get("/").await;
        let first = if a.requests() > before { 'a' } else { 'b' };
        let cookie = answer.header("set-cookie").unwrap();
        assert!(cookie.starts_with("side=") && cookie.contains("HttpOnly"), "{cookie}");
        let given = cookie.split(';').next().unwrap().to_owned();
        for _ in 0..3 {
            let before = a.requests();
            let again = client.send("GET", "/", &[("cookie", &given)], "").await;
            assert_eq!(again.header("set-cookie"), None);
            assert_eq!(if a.requests() > before { 'a' } else { 'b' }, first);
        }
        *sides.entry(first).or_insert(0) += 1;
    }
    assert!(sides.len() == 2, "{sides:?}");
    // The upstream sees what the client sent and no more.
    assert!(a.seen().iter().any(|seen| seen.header("cookie").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn raising_a_weight_moves_only_what_must_move() {
    const KEYS: usize = 1000;
    let (a, b) = (Origin::start().await, Origin::start().await);
    let split = |weight: u16| {
        let rest = 100 - weight;
        format!(
            "by: {{header: x-user}}, to: [{{upstream: a, weight: {rest}}}, {{upstream: b, weight: {weight}}}]"
        )
    };
    let gateway = gateway(&split(10), &a, &b).await;
    let mut client = Client::new(&gateway);
    let mut before = Vec::new();
    for key in 0..KEYS {
        before.push(taken(&mut client, &[("x-user", &format!("user-{key}"))], &a).await);
    }
    assert_eq!(gateway.reload(&configuration(&split(20), &a, &b)).await["msg"], "configuration reloaded");
    let mut moved = 0;
    for (key, before) in before.iter().enumerate() {
        let after = taken(&mut client, &[("x-user", &format!("user-{key}"))], &a).await;
        match (before, after) {
            ('a', 'b') => moved += 1,
            (before, after) => assert_eq!(*before, after, "user-{key} moved back"),
        }
    }
    let of_b = before.iter().filter(|side| **side == 'b').count();
    assert!((60..=140).contains(&of_b), "{of_b} of {KEYS} at 10 %");
    assert!((60..=140).contains(&moved), "{moved} of {KEYS} moved");
}

/// The variant `b` has these filters, and both are taken by name.
fn with_filters(filters: &str, a: &Origin, b: &Origin) -> String {
    let split =
        format!("by: {{header: x-variant}}, to: [{{upstream: a}}, {{upstream: b, filters: [{filters}]}}]");
    configuration(&split, a, b)
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_of_a_variant_see_its_requests_and_responses_alone() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let filters = "{headers: {request: {set: {x-trial: 'yes'}}, response: {set: {x-by: b}}}}, {rewrite: {path: '/v2{path}'}}";
    let gateway = Gateway::start(&with_filters(filters, &a, &b)).await;
    let mut client = Client::new(&gateway);
    let to_a = client.send("GET", "/x", &[("x-variant", "a")], "").await;
    assert_eq!(to_a.assert_status(200).header("x-by"), None);
    let to_b = client.send("GET", "/x", &[("x-variant", "b")], "").await;
    assert_eq!(to_b.assert_status(200).header("x-by"), Some("b"));
    assert_eq!((&*a.seen()[0].path, a.seen()[0].header("x-trial")), ("/x", None));
    assert_eq!((&*b.seen()[0].path, b.seen()[0].header("x-trial")), ("/v2/x", Some("yes")));
    assert_eq!((a.requests(), b.requests()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_of_a_variant_may_answer_and_runs_behind_the_routes() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let filters = "{respond: {status: 418, body: teapot}}";
    // The route's own filters say who that is, and the header is there when the variant is chosen.
    let yaml = with_filters(filters, &a, &b).replace("split:", "filters: [{request_id: {}}], split:");
    let gateway = Gateway::start(&yaml).await;
    let mut client = Client::new(&gateway);
    let refused = client.send("GET", "/b", &[("x-variant", "b")], "").await;
    assert_eq!(refused.assert_status(418).text(), "teapot");
    client.send("GET", "/a", &[("x-variant", "a")], "").await.assert_status(200);
    assert_eq!((a.requests(), b.requests()), (1, 0));
    assert_eq!(metric(&gateway, "tidegate_split_total", &["route=\"r\"", "variant=\"b\""]).await, 1.0);
    let line = logged(&gateway, "/b").await;
    assert_eq!((&line["variant"], &line["attempts"]), (&"b".into(), &0.into()), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_filter_of_a_variant_sees_bodies_and_counts_what_a_condition_says() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let filters = "{body_limit: 3B, when: {methods: [POST]}}";
    let gateway = Gateway::start(&with_filters(filters, &a, &b)).await;
    let mut client = Client::new(&gateway);
    client.send("POST", "/", &[("x-variant", "a")], "hello").await.assert_status(200);
    client.send("PUT", "/", &[("x-variant", "b")], "hello").await.assert_status(200);
    client.send("POST", "/", &[("x-variant", "b")], "hello").await.assert_status(413);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_and_a_hedge_stay_at_the_variant_whose_filters_have_run() {
    let (a, b) = (Origin::start().await, Origin::failing().await);
    let filters = "{headers: {request: {set: {x-trial: 'yes'}}}}";
    let yaml = with_filters(filters, &a, &b)
        .replace("split:", "retry: {attempts: 3, on: [5xx], backoff: {base: 1ms}}, split:");
    let gateway = Gateway::start(&yaml).await;
    Client::new(&gateway).send("GET", "/", &[("x-variant", "b")], "").await.assert_status(503);
    assert_eq!((a.requests(), b.requests()), (0, 3));
    assert!(b.seen().iter().all(|seen| seen.header("x-trial") == Some("yes")));
    let hedged = with_filters(filters, &b, &a).replace("split:", "hedge: {after: 10s}, split:");
    let gateway = Gateway::start(&hedged).await;
    Client::new(&gateway).send("GET", "/", &[("x-variant", "b")], "").await.assert_status(200);
    assert_eq!(a.seen()[0].header("x-trial"), Some("yes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_copies_what_the_route_says_and_not_what_a_variant_adds() {
    let (a, b, shadow) = (Origin::start().await, Origin::start().await, Origin::start().await);
    let split = "by: {header: x-variant}, to: [{upstream: a}, {upstream: b, filters: [{headers: {request: {set: {x-trial: 'yes'}}}}]}]";
    let route = format!("split: {{{split}}}, mirror: {{upstream: shadow}}");
    let upstreams: [(&str, &[&Origin], &str); 3] =
        [("a", &[&a], ""), ("b", &[&b], ""), ("shadow", &[&shadow], "")];
    let gateway = Gateway::start(&yaml(&route, &upstreams)).await;
    Client::new(&gateway).send("GET", "/", &[("x-variant", "b")], "").await.assert_status(200);
    shadow.wait_for_requests(1).await;
    assert_eq!((b.seen()[0].header("x-trial"), shadow.seen()[0].header("x-trial")), (Some("yes"), None));
}
