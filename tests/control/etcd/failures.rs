//! What is in force when etcd is away, without a quorum, compacted, restored or edited by hand.

use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;

use super::{PAUSE, address, epoch, post, post_until_written, replica, until_ready, yaml};
use crate::{
    control::{
        assert_refused,
        fixture::{at, heartbeat, register, registered, until_registered},
    },
    support::{
        Gateway,
        etcd::{Cluster, Etcd, Release},
        get, metric, wait_for_metric, within_deadline,
    },
};

/// Reads, heartbeats and readiness go on, and what cannot be written is refused as such.
async fn goes_on(replica: &Gateway, id: &str) {
    let refused = async {
        loop {
            let answer = post(replica, 9).await;
            if answer.status == 503 {
                return answer;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let refused = within_deadline("a registration that is refused", refused).await;
    assert_refused(&refused, 503, "store_unavailable", "cannot be written");
    assert!(refused.header("retry-after").is_some());
    heartbeat(replica, id, json!({})).await;
    assert!(registered(replica, "users").await.iter().any(|(there, _)| there == id));
    get(at(replica), "/readyz").await.assert_status(200);
}

async fn survives_a_kill(release: Release) {
    let mut etcd = Etcd::start(release).await;
    let urls = [etcd.url()];
    let (one, two) = (replica(&urls).await, replica(&urls).await);
    let id = register(&one, address(1), json!({"ttl": "15s"})).await;
    until_registered(&two, "users", &["healthy"]).await;
    etcd.kill().await;
    goes_on(&one, &id).await;
    wait_for_metric(&one, "tidegate_store_up", &[], 0.0).await;
    etcd.start_again().await;
    post_until_written(&one, 2).await;
    let both = async {
        loop {
            heartbeat(&one, &id, json!({})).await;
            if registered(&two, "users").await.len() >= 2 {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    within_deadline("what was registered since", both).await;
    assert_eq!(metric(&one, "tidegate_registry_events_total", &["event=\"expired\""]).await, 0.0);
    // It was the same store all along: nothing was read again.
    assert_eq!(metric(&two, "tidegate_store_relists_total", &["why=\"start\""]).await, 1.0);
    assert_eq!(metric(&two, "tidegate_store_relists_total", &["why=\"restored\""]).await, 0.0);
}

#[tokio::test]
async fn without_etcd_all_goes_on_but_registrations() {
    survives_a_kill(Release::Old).await;
}

#[tokio::test]
async fn without_a_later_etcd_all_goes_on_but_registrations() {
    survives_a_kill(Release::New).await;
}

#[tokio::test]
async fn without_a_quorum_all_goes_on_but_registrations() {
    let cluster = Cluster::start(Release::New).await;
    let one = replica(&cluster.urls).await;
    let id = register(&one, address(1), json!({})).await;
    for member in &cluster.members[..2] {
        member.signal(Signal::SIGKILL);
        member.wait_exit().await;
    }
    goes_on(&one, &id).await;
}

#[tokio::test]
async fn nothing_is_said_before_the_store_was_read() {
    let mut etcd = Etcd::start(Release::New).await;
    let before = replica(&[etcd.url()]).await;
    register(&before, address(1), json!({})).await;
    etcd.kill().await;
    let late = Gateway::start(&yaml(&[etcd.url()], "", "", "")).await;
    get(at(&late), "/readyz").await.assert_status(503);
    get(at(&late), "/livez").await.assert_status(200);
    for path in ["/v1/services?name=users", "/v1/watch", "/v1/catalog"] {
        assert_refused(&get(at(&late), path).await, 503, "warming", "was not read yet");
    }
    etcd.start_again().await;
    until_ready(&late).await;
    assert_eq!(registered(&late, "users").await.len(), 1);
}

#[tokio::test]
async fn what_was_compacted_meanwhile_is_found_by_the_difference() {
    let mut etcd = Etcd::start(Release::Old).await;
    let urls = [etcd.url()];
    let (one, stopped) = (replica(&urls).await, replica(&urls).await);
    let kept = register(&one, address(1), json!({})).await;
    let gone = register(&one, address(2), json!({})).await;
    until_registered(&stopped, "users", &["healthy", "healthy"]).await;
    stopped.signal(Signal::SIGSTOP);
    // Its watch is no more when it goes on.
    etcd.kill().await;
    etcd.start_again().await;
    post_until_written(&one, 3).await;
    super::deregister(&one, &gone).await;
    let status: serde_json::Value =
        serde_json::from_str(&etcd.ctl(&["endpoint", "status", "-w", "json"]).await).unwrap();
    let revision = status[0]["Status"]["header"]["revision"].to_string();
    etcd.ctl(&["compact", &revision]).await;
    stopped.signal(Signal::SIGCONT);
    let same = async {
        loop {
            let there: Vec<_> = registered(&stopped, "users").await.into_iter().map(|(id, _)| id).collect();
            if there == [kept.as_str(), "users-127.0.0.1-3"] {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    within_deadline("what changed meanwhile", same).await;
    assert_eq!(metric(&stopped, "tidegate_store_relists_total", &["why=\"compacted\""]).await, 1.0);
    let events = async |event: &str| {
        metric(&stopped, "tidegate_registry_events_total", &[&format!("event=\"{event}\"")]).await
    };
    assert_eq!(
        (events("registered").await, events("updated").await),
        (3.0, 0.0),
        "nobody is told of what is the same"
    );
}

async fn survives_a_restored_backup(release: Release) {
    let mut etcd = Etcd::start(release).await;
    let one = replica(&[etcd.url()]).await;
    let ttl = |tag: &str| json!({"tags": [tag], "ttl": "8s"});
    let first = register(&one, address(1), ttl("old")).await;
    let withdrawn = register(&one, address(2), ttl("withdrawn")).await;
    let backup = etcd.home().join("backup");
    etcd.ctl(&["snapshot", "save", backup.to_str().unwrap()]).await;
    register(&one, address(1), ttl("new")).await;
    super::deregister(&one, &withdrawn).await;
    let later = register(&one, address(3), ttl("later")).await;
    let before = epoch(&one).await;
    let there = async || registered(&one, "users").await.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    // They are heard all the time, and never gone.
    let beating = async {
        loop {
            for id in [&first, &later] {
                heartbeat(&one, id, json!({})).await;
            }
            let ids = there().await;
            assert!(ids.contains(&first) && ids.contains(&later), "{ids:?}");
            tokio::time::sleep(PAUSE).await;
        }
    };
    let restored = async {
        etcd.restore(backup.to_str().unwrap()).await;
        wait_for_metric(&one, "tidegate_store_relists_total", &["why=\"restored\""], 1.0).await;
        assert_ne!(epoch(&one).await, before, "what is told from now on is of another store");
        // The store has again what it had lost, and as it was; what the backup brought back is not renewed and leaves.
        let settled = async {
            loop {
                let keys = etcd.ctl(&["get", "--prefix", "/tidegate/v1/instances/"]).await;
                let is_whole = keys.contains(&later) && keys.contains("\"new\"") && !keys.contains("\"old\"");
                if is_whole && !there().await.contains(&withdrawn) {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        within_deadline("a store that is whole again", settled).await;
    };
    tokio::select! {
        () = restored => {}
        _ = beating => {}
    }
}

#[tokio::test]
async fn a_restored_backup_takes_nobody_out() {
    survives_a_restored_backup(Release::New).await;
}

#[tokio::test]
async fn a_restored_backup_of_an_earlier_etcd_takes_nobody_out() {
    survives_a_restored_backup(Release::Old).await;
}

#[tokio::test]
async fn a_key_that_was_written_by_hand_is_passed_over() {
    let etcd = Etcd::start(Release::New).await;
    let one = replica(&[etcd.url()]).await;
    register(&one, address(1), json!({})).await;
    for (key, value) in [
        ("instances/users/users-127.0.0.1-2", "garbage"),
        ("instances/users/other", "{\"replica\":\"r\",\"instance\":{\"id\":\"x\"}}"),
        ("instances/a/b/c", "1"),
        ("replicas/somebody", "1"),
        ("gone", "1"),
    ] {
        etcd.ctl(&["put", &format!("/tidegate/v1/{key}"), value]).await;
    }
    wait_for_metric(&one, "tidegate_store_unreadable_total", &[], 3.0).await;
    one.wait_for_line(|line| {
        line["msg"].as_str().is_some_and(|message| message.contains("that is passed over"))
    })
    .await;
    // Also by one that finds it there.
    let two = replica(&[etcd.url()]).await;
    for replica in [&one, &two] {
        assert_eq!(registered(replica, "users").await.len(), 1);
    }
    // Whoever registers there writes over it.
    post(&two, 2).await.assert_status(201);
    until_registered(&one, "users", &["healthy", "healthy"]).await;
    etcd.ctl(&["del", "--prefix", "/tidegate/v1/instances/"]).await;
    until_registered(&one, "users", &[]).await;
    until_registered(&two, "users", &[]).await;
}

#[tokio::test]
async fn an_etcd_that_is_full_refuses_registrations_and_nothing_else() {
    let etcd =
        Etcd::start_with(Release::New, TempDir::new().unwrap(), "http", &["--quota-backend-bytes", "262144"])
            .await;
    let one = replica(&[etcd.url()]).await;
    let id = register(&one, address(1), json!({})).await;
    let large = "x".repeat(100_000);
    let full = async {
        for _ in 0..200 {
            let mut put = Release::New.program("etcdctl");
            put.env("ETCDCTL_API", "3").args(["--endpoints", &etcd.url(), "put", "elsewhere", &large]);
            let done = tokio::task::spawn_blocking(move || put.output().unwrap()).await.unwrap();
            if !done.status.success() {
                return;
            }
        }
        panic!("etcd takes more than it may");
    };
    within_deadline("an etcd that is full", full).await;
    goes_on(&one, &id).await;
    assert_eq!(metric(&one, "tidegate_store_up", &[]).await, 1.0, "it is there, and says why not");
}
