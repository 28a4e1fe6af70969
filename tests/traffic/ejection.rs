//! Endpoints whose requests fail are left out for a while, never too many of them, and come back slowly.

use super::{Client, Origin, gateway, yaml};
use crate::support::{Gateway, Yaml, get, metric, silent::Refusing, wait_for_metric};

const EJECTED: &str = "tidegate_upstream_ejected";

async fn origins(statuses: &[u16]) -> Vec<Origin> {
    let mut origins = Vec::new();
    for status in statuses {
        let origin = Origin::start().await;
        origin.answer(*status);
        origins.push(origin);
    }
    origins
}

fn counts(origins: &[Origin]) -> Vec<usize> {
    origins.iter().map(Origin::requests).collect()
}

/// What each was sent of so many more requests.
async fn shares(client: &mut Client, origins: &[Origin], requests: usize) -> Vec<usize> {
    let before = counts(origins);
    for _ in 0..requests {
        client.get("/").await.assert_no_reason();
    }
    counts(origins).iter().zip(before).map(|(after, before)| after - before).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_in_a_row_gets_no_more_requests() {
    let origins = origins(&[500, 200, 200]).await;
    let all: Vec<&Origin> = origins.iter().collect();
    let gateway =
        gateway("", &all, "outlier: {consecutive_failures: 3, eject_for: 1h, max_eject_for: 2h}").await;
    let mut client = Client::new(&gateway);
    assert_eq!(shares(&mut client, &origins, 9).await, [3, 3, 3]);
    assert_eq!(shares(&mut client, &origins, 30).await, [0, 15, 15]);
    let line = gateway.wait_for_message("endpoint is ejected").await;
    assert_eq!((&line["upstream"], &line["endpoint"]), (&"u".into(), &origins[0].name().into()), "{line}");
    let name = origins[0].name();
    let endpoint = format!("endpoint=\"{name}\"");
    assert_eq!(metric(&gateway, EJECTED, &[&endpoint]).await, 1.0);
    assert_eq!(metric(&gateway, EJECTED, &[]).await, 1.0);
    assert_eq!(metric(&gateway, "tidegate_upstream_ejections_total", &[&endpoint]).await, 1.0);
    let shown = get(gateway.admin(), "/upstreams").await.json();
    let ejected: Vec<_> = shown[0]["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|endpoint| endpoint["ejected"] == true)
        .collect();
    assert_eq!((ejected.len(), &ejected[0]["name"]), (1, &name.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_in_between_begins_the_count_anew() {
    let origins = origins(&[500, 200]).await;
    let gateway = gateway(
        "",
        &[&origins[0], &origins[1]],
        "outlier: {consecutive_failures: 3, eject_for: 1h, max_eject_for: 1h}",
    )
    .await;
    let mut client = Client::new(&gateway);
    for _ in 0..5 {
        origins[0].answer(500);
        assert_eq!(shares(&mut client, &origins, 4).await, [2, 2]);
        origins[0].answer(200);
        assert_eq!(shares(&mut client, &origins, 2).await, [1, 1]);
    }
    assert_eq!(metric(&gateway, EJECTED, &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn comes_back_when_its_time_is_over() {
    let origins = origins(&[500, 200]).await;
    let gateway = gateway(
        "",
        &[&origins[0], &origins[1]],
        "outlier: {consecutive_failures: 2, eject_for: 200ms, max_eject_for: 1h}",
    )
    .await;
    let mut client = Client::new(&gateway);
    assert_eq!(shares(&mut client, &origins, 4).await, [2, 2]);
    wait_for_metric(&gateway, EJECTED, &[], 0.0).await;
    origins[0].answer(200);
    assert_eq!(shares(&mut client, &origins, 20).await, [10, 10]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_are_left_out_than_may_be() {
    let origins = origins(&[500, 500, 500, 200]).await;
    let all: Vec<&Origin> = origins.iter().collect();
    let settings = "outlier: {consecutive_failures: 2, eject_for: 1h, max_eject_for: 1h, max_ejected: 50%}";
    let gateway = gateway("", &all, settings).await;
    let mut client = Client::new(&gateway);
    assert_eq!(shares(&mut client, &origins, 8).await, [2, 2, 2, 2]);
    assert_eq!(metric(&gateway, EJECTED, &[]).await, 2.0);
    assert_eq!(shares(&mut client, &origins, 20).await, [0, 0, 10, 10]);
    assert_eq!(metric(&gateway, EJECTED, &[]).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn below_the_panic_threshold_all_are_used_again() {
    let origins = origins(&[500, 500, 200, 200]).await;
    let all: Vec<&Origin> = origins.iter().collect();
    let outlier = "outlier: {consecutive_failures: 2, eject_for: 1h, max_eject_for: 1h, max_ejected: 100%}";
    // Half are left: not less than half, and less than 60 %.
    for (threshold, expected) in [("50%", [0, 0, 10, 10]), ("60%", [5, 5, 5, 5])] {
        let before = counts(&origins);
        let gateway = gateway("", &all, &format!("{outlier}, panic_threshold: {threshold}")).await;
        let mut client = Client::new(&gateway);
        shares(&mut client, &origins, 8).await;
        assert_eq!(metric(&gateway, EJECTED, &[]).await, 2.0, "{threshold} after {before:?}");
        assert_eq!(shares(&mut client, &origins, 20).await, expected, "{threshold}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_one_is_never_left_out() {
    let origins = origins(&[500]).await;
    let settings = "outlier: {consecutive_failures: 1, eject_for: 1h, max_eject_for: 1h, max_ejected: 100%}";
    let gateway = gateway("", &[&origins[0]], settings).await;
    assert_eq!(shares(&mut Client::new(&gateway), &origins, 10).await, [10]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stays_that_alone_can_be_reached_and_none_is_left_out_where_all_fail() {
    let origins = origins(&[500, 500]).await;
    let dead = Refusing::start();
    let settings = "outlier: {consecutive_failures: 2, eject_for: 1h, max_eject_for: 1h, max_ejected: 100%}";
    let endpoints = [origins[0].address, origins[1].address, dead.address()];
    for endpoints in [&endpoints[..2], &endpoints[1..]] {
        let gateway = Yaml::to_all(endpoints).settings(settings).start().await;
        let mut client = Client::new(&gateway);
        for _ in 0..20 {
            client.get("/").await.assert_no_reason().assert_status(500);
        }
        assert_eq!(metric(&gateway, "tidegate_upstream_ejections_total", &[]).await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_comes_back_starts_slowly() {
    let origins = origins(&[500, 200]).await;
    let outlier = "outlier: {consecutive_failures: 2, eject_for: 100ms, max_eject_for: 1h}";
    let configuration = |settings: &str| {
        yaml("upstream: u", &[("u", &[&origins[0], &origins[1]], &format!("{outlier}{settings}"))])
    };
    let gateway = Gateway::start(&configuration("")).await;
    // Both have served before, so neither is new to it.
    gateway.reload(&configuration(", slow_start: 10h")).await;
    let mut client = Client::new(&gateway);
    assert_eq!(shares(&mut client, &origins, 4).await, [2, 2]);
    wait_for_metric(&gateway, EJECTED, &[], 0.0).await;
    origins[0].answer(200);
    // A tenth of the other's share.
    let shares = shares(&mut client, &origins, 110).await;
    assert!((9..=11).contains(&shares[0]), "{shares:?}");
}
