//! Tokens for first SVIDs are those of all replicas, and each use is counted once.

use serde_json::Value;
use tempfile::TempDir;

use super::PAUSE;
use crate::{
    control::authority::{Mesh, PAYMENTS, authority, request},
    support::{
        etcd::{Etcd, Release},
        wait_for_metric, within_deadline,
    },
};

/// Two replicas with the same CA.
async fn two(etcd: &Etcd) -> (Mesh, Mesh) {
    let authority = authority();
    let serve = format!(
        "advertise: '127.0.0.1:0'\n    store: {{etcd: {{endpoints: ['{}']}}}}\n    issue: {{ttl: 1h}}",
        etcd.url()
    );
    let meshes = (Mesh::of(&authority, &serve).await, Mesh::of(&authority, &serve).await);
    for mesh in [&meshes.0, &meshes.1] {
        wait_for_metric(&mesh.plane.gateway, "tidegate_store_up", &[], 1.0).await;
    }
    meshes
}

/// What is left of each token that a replica knows.
async fn left(mesh: &Mesh) -> Vec<u64> {
    let list = mesh.operate("GET", "/v1/tokens", &Value::Null).await.assert_status(200).json();
    let tokens = list["tokens"].as_array().unwrap().iter();
    let mut left: Vec<_> = tokens.map(|token| token["left"].as_u64().unwrap()).collect();
    // Their ids are random.
    left.sort_unstable();
    left
}

async fn until_left(mesh: &Mesh, expected: &[u64]) {
    let reached = async {
        while left(mesh).await != expected {
            tokio::time::sleep(PAUSE).await;
        }
    };
    within_deadline(&format!("tokens with {expected:?} uses left"), reached).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_one_replica_is_good_at_the_other_and_for_no_more_than_it_says() {
    let etcd = Etcd::start(Release::New).await;
    let (one, two) = two(&etcd).await;
    let directory = TempDir::new().unwrap();
    let (csr, _) = request(directory.path(), PAYMENTS);
    let (id, token) = one.token(PAYMENTS, 3).await;
    until_left(&two, &[3]).await;
    two.issue(&two.stranger(), &csr, &token).await.unwrap();
    until_left(&one, &[2]).await;
    // At both at the same time, more often than it is good for.
    let strangers = (one.stranger(), two.stranger());
    let issued = tokio::join!(
        one.issue(&strangers.0, &csr, &token),
        two.issue(&strangers.1, &csr, &token),
        one.issue(&strangers.0, &csr, &token),
        two.issue(&strangers.1, &csr, &token),
    );
    let issued = [issued.0, issued.1, issued.2, issued.3];
    assert_eq!(issued.iter().filter(|issued| issued.is_ok()).count(), 2, "{issued:?}");
    for refused in issued.iter().filter_map(|issued| issued.as_ref().err()) {
        assert!(refused.0 == "unauthenticated" && refused.1.contains("was used 3 times"), "{refused:?}");
    }
    let stored = etcd.ctl(&["get", "--prefix", "--print-value-only", "/tidegate/v1/tokens/"]).await;
    assert!(stored.contains(&id) && !stored.contains(token.split('_').nth(2).unwrap()), "{stored}");
    // What one makes the other revokes.
    let (id, token) = two.token(PAYMENTS, 1).await;
    until_left(&one, &[0, 1]).await;
    one.operate("DELETE", &format!("/v1/tokens/{id}"), &Value::Null).await.assert_status(204);
    until_left(&two, &[0]).await;
    let (reason, words) = two.issue(&two.stranger(), &csr, &token).await.unwrap_err();
    assert!(reason == "unauthenticated" && words.contains("revoked"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_not_used_while_that_cannot_be_written_and_a_backup_brings_no_use_back() {
    let mut etcd = Etcd::start(Release::New).await;
    let (one, two) = two(&etcd).await;
    let directory = TempDir::new().unwrap();
    let (csr, _) = request(directory.path(), PAYMENTS);
    let (_, token) = one.token(PAYMENTS, 2).await;
    until_left(&two, &[2]).await;
    let backup = etcd.home().join("backup");
    etcd.ctl(&["snapshot", "save", backup.to_str().unwrap()]).await;
    two.issue(&two.stranger(), &csr, &token).await.unwrap();
    until_left(&one, &[1]).await;
    etcd.kill().await;
    let (reason, words) = one.issue(&one.stranger(), &csr, &token).await.unwrap_err();
    assert!(reason == "store_unavailable" && words.contains("written down"), "{words}");
    etcd.start_again().await;
    for mesh in [&one, &two] {
        wait_for_metric(&mesh.plane.gateway, "tidegate_store_up", &[], 1.0).await;
        until_left(mesh, &[1]).await;
    }
    etcd.restore(backup.to_str().unwrap()).await;
    let written = async {
        while !etcd
            .ctl(&["get", "--prefix", "--print-value-only", "/tidegate/v1/tokens/"])
            .await
            .contains("\"left\":1")
        {
            tokio::time::sleep(PAUSE).await;
        }
    };
    within_deadline("the use that the backup does not know", written).await;
    for mesh in [&one, &two] {
        wait_for_metric(&mesh.plane.gateway, "tidegate_store_up", &[], 1.0).await;
    }
    one.issue(&one.stranger(), &csr, &token).await.unwrap();
    let (reason, words) = one.issue(&one.stranger(), &csr, &token).await.unwrap_err();
    assert!(reason == "unauthenticated" && words.contains("was used 2 times"), "{words}");
}
