//! Key sets that several filters use: fetched once for all of them, and as old as each one bears. What becomes of tokens is
//! in `jwt.rs`.

use crate::support::{
    Answer, Backend, Gateway, Yaml,
    issuer::{Issuer, Signer, set},
    metric, send, within_deadline,
};

/// A route for each of these, `/0` and so on, that says when it wants its keys.
fn routes(issuer: &Issuer, backend: &Backend, schedules: &[&str]) -> Yaml {
    let yaml = Yaml::new().with_upstream("origin", [backend.address()], "");
    schedules.iter().enumerate().fold(yaml, |yaml, (number, schedule)| {
        yaml.with_route(&format!(
            "match: {{path: /{number}}}, upstream: origin, \
             filters: [{{jwt: {{keys: {{jwks: '{}', {schedule}}}}}}}, {{rewrite: {{path: /}}}}]",
            issuer.url()
        ))
    })
}

async fn ask(gateway: &Gateway, route: usize, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    send(gateway.address("main"), "GET", &format!("/{route}"), &[("authorization", &bearer)], "").await
}

async fn wait_for_fetches(issuer: &Issuer, least: usize) {
    let fetched = async {
        while issuer.fetches() < least {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    within_deadline(&format!("{least} fetches"), fetched).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_fetch_serves_all_filters_whatever_their_schedules() {
    let signer = Signer::new("k");
    let (issuer, backend) = (Issuer::start(200, set(&[&signer])), Backend::start().await);
    let schedules = ["refresh: 1h", "refresh: 2h, timeout: 9s", "cooldown: 1h", "max_stale: 1h", "wait: 9s"];
    let gateway = routes(&issuer, &backend, &schedules).start().await;
    for route in 0..schedules.len() {
        ask(&gateway, route, &signer.token("u")).await.assert_status(200);
    }
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_with_a_shorter_schedule_is_served_at_once() {
    let signer = Signer::new("k");
    let (issuer, backend) = (Issuer::start(200, set(&[&signer])), Backend::start().await);
    let seldom = "refresh: 1h, cooldown: 1h";
    let gateway = routes(&issuer, &backend, &[seldom]).start().await;
    ask(&gateway, 0, &signer.token("u")).await.assert_status(200);
    assert_eq!(issuer.fetches(), 1);
    let both = routes(&issuer, &backend, &[seldom, "refresh: 100ms, cooldown: 1h"]);
    assert_eq!(gateway.reload(&both.to_string()).await["msg"], "configuration reloaded");
    ask(&gateway, 1, &signer.token("v")).await.assert_status(200);
    wait_for_fetches(&issuer, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_filter_bears_old_keys_for_as_long_as_it_says() {
    let signer = Signer::new("k");
    let (issuer, backend) = (Issuer::start(200, set(&[&signer])), Backend::start().await);
    let schedules = ["refresh: 100ms, max_stale: 1s", "refresh: 100ms, max_stale: 1h"];
    let gateway = routes(&issuer, &backend, &schedules).start().await;
    for route in [0, 1] {
        ask(&gateway, route, &signer.token("u")).await.assert_status(200);
    }
    issuer.answer(404, String::new());
    gateway.wait_for_message("keys of the token issuer are too old to be used (see max_stale)").await;
    ask(&gateway, 0, &signer.token("u")).await.assert_reason(503, "auth_unavailable");
    ask(&gateway, 1, &signer.token("u")).await.assert_status(200);
    issuer.answer(200, set(&[&signer]));
    gateway.wait_for_message("keys of the token issuer can be read again").await;
    for route in [0, 1] {
        ask(&gateway, route, &signer.token("u")).await.assert_status(200);
    }
}

const SAID: &str = "keys of the token issuer cannot be used, the others are";

fn said(gateway: &Gateway) -> usize {
    gateway.lines().iter().filter(|line| line["msg"] == SAID).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_used_are_named_once_and_counted() {
    let signer = Signer::new("k");
    let with = |more: &[serde_json::Value]| {
        let keys: Vec<_> = [&[signer.jwk()][..], more].concat();
        serde_json::json!({"keys": keys}).to_string()
    };
    let odd = |kid: &str| serde_json::json!({"kty": "RSA", "kid": kid, "n": "AQAB", "e": "AQAB"});
    let (issuer, backend) = (Issuer::start(200, with(&[odd("first")])), Backend::start().await);
    let gateway = routes(&issuer, &backend, &["refresh: 100ms, cooldown: 1h"]).start().await;
    let line = gateway.wait_for_message(SAID).await;
    assert!(line["why"].as_str().unwrap().starts_with("\"first\": an RSA key has"), "{line}");
    ask(&gateway, 0, &signer.token("u")).await.assert_status(200);
    // Not at each fetch.
    wait_for_fetches(&issuer, issuer.fetches() + 3).await;
    assert_eq!(said(&gateway), 1);
    issuer.answer(200, with(&[odd("first"), odd("second")]));
    let line = gateway.wait_for_message(SAID).await;
    assert!(line["why"].as_str().unwrap().contains("; \"second\": an RSA key has"), "{line}");
    assert_eq!(said(&gateway), 2);
    assert_eq!(metric(&gateway, "tidegate_jwks_unusable_keys", &[]).await, 2.0);
    assert_eq!(metric(&gateway, "tidegate_jwks_keys", &[]).await, 1.0);
}
