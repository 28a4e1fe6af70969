//! Replicas of a control plane that share a real etcd, of both releases that there are to test with.

mod configs;
mod failures;
mod security;
mod tokens;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::fixture::{at, deregister, heartbeat, kill, register, registered, until_registered};
use crate::support::{
    Answer, Gateway,
    etcd::{Etcd, Release},
    get, metric, send, wait_for_metric, within_deadline,
};

/// Paces questions; whatever is waited for happens by itself.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

/// The configuration of a replica. `etcd` is what stands in its store beside the endpoints.
fn yaml(urls: &[String], etcd: &str, serve: &str, more: &str) -> String {
    let urls = urls.iter().map(|url| format!("'{url}'")).collect::<Vec<_>>().join(", ");
    // Whoever starts with nothing waits no longer than the usual TTL.
    format!(
        "admin: {{address: '127.0.0.1:0'}}\ncontrol:\n  serve:\n    address: '127.0.0.1:0'\n    advertise: '127.0.0.1:0'\n    \
         store: {{etcd: {{endpoints: [{urls}]{etcd}}}}}\n    registry: {{ttl: {{default: 2s}}}}\n{serve}\n{more}\n"
    )
}

/// One that has read the store.
async fn replica(urls: &[String]) -> Gateway {
    let replica = Gateway::start(&yaml(urls, "", "", "")).await;
    until_ready(&replica).await;
    replica
}

/// A control plane that shares it, alone as yet.
pub(super) async fn plane(etcd: &Etcd) -> super::Plane {
    super::Plane::of(replica(&[etcd.url()]).await)
}

async fn until_ready(replica: &Gateway) {
    let ready = async {
        while get(at(replica), "/readyz").await.status != 200 {
            tokio::time::sleep(PAUSE).await;
        }
    };
    within_deadline("a replica that has read the store", ready).await;
}

async fn post(replica: &Gateway, port: u16) -> Answer {
    let body = json!({"name": "users", "address": format!("127.0.0.1:{port}"), "ttl": "1h"}).to_string();
    send(at(replica), "POST", "/v1/services", &[("content-type", "application/json")], body).await
}

/// Registers, however long it takes until that can be written.
async fn post_until_written(replica: &Gateway, port: u16) {
    let written = async {
        while !post(replica, port).await.status.is_success() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    within_deadline("a registration that is written", written).await;
}

async fn epoch(replica: &Gateway) -> Value {
    get(at(replica), "/v1/services").await.json()["epoch"].clone()
}

fn address(port: u16) -> std::net::SocketAddr {
    ([127, 0, 0, 1], port).into()
}

async fn replicas_know_the_same(release: Release) {
    let etcd = Etcd::start(release).await;
    let urls = [etcd.url()];
    let (one, two) = (replica(&urls).await, replica(&urls).await);
    let id = register(&one, address(1), json!({"tags": ["v2"]})).await;
    until_registered(&two, "users", &["healthy"]).await;
    let record = async |replica| get(at(replica), &format!("/v1/services/{id}")).await.json();
    let (here, there) = (record(&one).await, record(&two).await);
    assert_eq!((&here["revision"], &here["tags"]), (&there["revision"], &json!(["v2"])));
    assert_eq!(epoch(&one).await, epoch(&two).await, "whoever goes from one to the other resumes");
    // What is said at the other one is in force at both.
    heartbeat(&two, &id, json!({"health": "critical"})).await;
    until_registered(&one, "users", &["critical"]).await;
    until_registered(&two, "users", &["critical"]).await;
    deregister(&two, &id).await;
    until_registered(&one, "users", &[]).await;
    let late = replica(&urls).await;
    assert_eq!(registered(&late, "users").await, []);
    assert_eq!(metric(&late, "tidegate_store_relists_total", &["why=\"start\""]).await, 1.0);
    assert_eq!(metric(&late, "tidegate_store_up", &[]).await, 1.0);
}

#[tokio::test]
async fn what_one_replica_is_told_the_other_knows() {
    replicas_know_the_same(Release::Old).await;
}

#[tokio::test]
async fn what_one_replica_is_told_the_other_knows_with_a_later_etcd() {
    replicas_know_the_same(Release::New).await;
}

#[tokio::test]
async fn an_upstream_of_a_replica_follows_what_another_was_told() {
    let etcd = Etcd::start(Release::New).await;
    let urls = [etcd.url()];
    let gateway = yaml(
        &urls,
        "",
        "",
        "listeners: [{name: main, address: '127.0.0.1:0'}]\nroutes: [{upstream: users}]\n\
         upstreams: {users: {endpoints: [{registry: users}]}}",
    );
    let (gateway, other) = (Gateway::start(&gateway).await, replica(&urls).await);
    register(&other, address(1), json!({})).await;
    super::fixture::until_endpoints(&gateway, &[(address(1), 1)]).await;
}

#[tokio::test]
async fn heartbeats_to_another_replica_are_passed_on() {
    let etcd = Etcd::start(Release::New).await;
    let urls = [etcd.url()];
    let (keeper, other) = (replica(&urls).await, replica(&urls).await);
    let id = register(&keeper, address(1), json!({"ttl": "4s"})).await;
    until_registered(&other, "users", &["healthy"]).await;
    let passed = async {
        // Once a second each: more than two TTLs.
        while metric(&other, "tidegate_control_renewals_total", &["result=\"passed_on\""]).await < 9.0 {
            heartbeat(&other, &id, json!({})).await;
            tokio::time::sleep(PAUSE).await;
        }
    };
    within_deadline("heartbeats that are passed on", passed).await;
    assert_eq!(registered(&keeper, "users").await.len(), 1);
    assert_eq!(metric(&keeper, "tidegate_registry_events_total", &["event=\"registered\""]).await, 1.0);
    // With nobody who renews it, its keeper lets it expire, for both.
    until_registered(&other, "users", &[]).await;
}

#[tokio::test]
async fn the_instances_of_a_dead_replica_are_renewed_through_another() {
    let etcd = Etcd::start(Release::New).await;
    let urls = [etcd.url()];
    let (dying, other) = (replica(&urls).await, replica(&urls).await);
    let id = register(&dying, address(1), json!({"ttl": "10s"})).await;
    let silent = register(&dying, address(2), json!({"ttl": "5s"})).await;
    until_registered(&other, "users", &["healthy", "healthy"]).await;
    kill(&dying).await;
    // The one that is renewed is there at each look.
    let beat = async || {
        heartbeat(&other, &id, json!({})).await;
        let there: Vec<_> = registered(&other, "users").await.into_iter().map(|(id, _)| id).collect();
        assert!(there.contains(&id), "{there:?}");
        tokio::time::sleep(PAUSE).await;
        there
    };
    let missed = async {
        while etcd
            .ctl(&["get", "--prefix", "--keys-only", "/tidegate/v1/replicas/"])
            .await
            .trim()
            .lines()
            .count()
            > 1
        {
            beat().await;
        }
    };
    within_deadline("a replica that is missed", missed).await;
    let expired = async { while beat().await.contains(&silent) {} };
    within_deadline("the leader's look at what belongs to nobody", expired).await;
    assert_eq!(metric(&other, "tidegate_registry_events_total", &["event=\"expired\""]).await, 1.0);
    assert!(metric(&other, "tidegate_control_renewals_total", &["result=\"kept_here\""]).await >= 1.0);
}

#[tokio::test]
async fn a_replica_that_ends_says_so() {
    let etcd = Etcd::start(Release::New).await;
    let urls = [etcd.url()];
    let ending = replica(&urls).await;
    let replicas = async || etcd.ctl(&["get", "--prefix", "--keys-only", "/tidegate/v1/replicas/"]).await;
    assert_eq!(replicas().await.trim().lines().count(), 1);
    ending.signal(Signal::SIGTERM);
    assert!(ending.wait_exit().await.success());
    assert_eq!(replicas().await.trim(), "", "its lease would have held it for seconds");
}

#[tokio::test]
async fn many_changes_at_once_are_all_written() {
    let etcd = Etcd::start(Release::New).await;
    let urls = [etcd.url()];
    let (one, two) = (replica(&urls).await, replica(&urls).await);
    let all = (1..=300).map(|port| {
        let replica = if port % 2 == 0 { &one } else { &two };
        async move { post(replica, port).await.assert_status(201).json()["id"].clone() }
    });
    let ids: std::collections::BTreeSet<String> =
        futures::future::join_all(all).await.iter().map(ToString::to_string).collect();
    assert_eq!(ids.len(), 300);
    for replica in [&one, &two] {
        let all = async {
            while registered(replica, "users").await.len() < 300 {
                tokio::time::sleep(PAUSE).await;
            }
        };
        within_deadline("all of them", all).await;
    }
    wait_for_metric(&one, "tidegate_store_operations_total", &["operation=\"put\"", "result=\"ok\""], 150.0)
        .await;
}
