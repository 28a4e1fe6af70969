//! Who may read and write etcd, and who may speak for a replica.

use serde_json::json;
use tempfile::TempDir;

use super::{PAUSE, at, post, post_until_written, registered, until_ready, yaml};
use crate::control::tls::{ask_at, status_of};
use crate::support::{
    Gateway, TlsClient,
    certificates::{Issued, authority, server, svid},
    etcd::{Etcd, Release},
    wait_for_metric, within_deadline,
};

const USER: &str = ", user: root, password: '${env:ETCD_PASSWORD}'";
const PASSWORD: &str = "hunter2hunter2";

async fn with_users(release: Release) {
    let mut etcd = Etcd::start(release).await;
    etcd.ctl(&["user", "add", &format!("root:{PASSWORD}")]).await;
    etcd.ctl(&["role", "add", "root"]).await;
    etcd.ctl(&["user", "grant-role", "root", "root"]).await;
    etcd.ctl(&["auth", "enable"]).await;
    let environment = [("ETCD_PASSWORD", PASSWORD)];
    let yaml = yaml(&[etcd.url()], USER, "", "");
    let one = Gateway::start_in(TempDir::new().unwrap(), &yaml, &environment).await;
    until_ready(&one).await;
    post_until_written(&one, 1).await;
    // Each of these makes tokens worthless, in ways that etcd has different words for.
    let as_root = ["--user".to_owned(), format!("root:{PASSWORD}")];
    for (port, change) in [(2, ["user", "add", "other:pw"]), (3, ["user", "delete", "other"])] {
        etcd.ctl(&[&as_root[0], &as_root[1], change[0], change[1], change[2]]).await;
        post_until_written(&one, port).await;
    }
    etcd.kill().await;
    etcd.start_again().await;
    post_until_written(&one, 4).await;
    assert_eq!(registered(&one, "users").await.len(), 4);
    // What is written is heard of, too: the watch is another one by now.
    etcd.ctl(&[&as_root[0], &as_root[1], "del", "/tidegate/v1/instances/users/users-127.0.0.1-4"]).await;
    let heard = async {
        while registered(&one, "users").await.len() > 3 {
            tokio::time::sleep(PAUSE).await;
        }
    };
    within_deadline("a removal that was heard of", heard).await;
    assert!(!one.output().contains(PASSWORD) && !one.stderr().contains(PASSWORD));
}

#[tokio::test]
async fn a_token_that_is_worthless_costs_another_session() {
    with_users(Release::New).await;
}

#[tokio::test]
async fn a_token_that_is_worthless_costs_another_session_with_an_earlier_etcd() {
    with_users(Release::Old).await;
}

#[tokio::test]
async fn a_wrong_password_is_told_without_being_shown() {
    let etcd = Etcd::start(Release::New).await;
    etcd.ctl(&["user", "add", "root:other"]).await;
    etcd.ctl(&["role", "add", "root"]).await;
    etcd.ctl(&["user", "grant-role", "root", "root"]).await;
    etcd.ctl(&["auth", "enable"]).await;
    let yaml = yaml(&[etcd.url()], USER, "", "");
    let one = Gateway::start_in(TempDir::new().unwrap(), &yaml, &[("ETCD_PASSWORD", PASSWORD)]).await;
    let told = one
        .wait_for_line(|line| {
            line["msg"].as_str().is_some_and(|message| message.starts_with("no session with etcd"))
        })
        .await;
    assert!(told["msg"].as_str().unwrap().contains("authentication failed"), "{told}");
    assert!(!one.output().contains(PASSWORD) && !one.stderr().contains(PASSWORD));
    post(&one, 1).await.assert_status(503);
}

/// `name`.pem and `name`.key, and the authority's ca.pem.
fn write(directory: &TempDir, name: &str, issued: &Issued, root: &Issued) {
    let at = |file: &str| directory.path().join(file);
    std::fs::write(at(&format!("{name}.pem")), issued.pem()).unwrap();
    std::fs::write(at(&format!("{name}.key")), issued.key_pem()).unwrap();
    std::fs::write(at("ca.pem"), root.pem()).unwrap();
}

#[tokio::test]
async fn over_tls_both_sides_prove_who_they_are() {
    let root = authority("etcd.local");
    let (home, files) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    write(&home, "server", &root.issue(&server(&["localhost"])), &root);
    write(&files, "client", &root.issue(&server(&["tidegate"])), &root);
    let arguments = [
        "--cert-file",
        "server.pem",
        "--key-file",
        "server.key",
        "--client-cert-auth",
        "--trusted-ca-file",
        "ca.pem",
    ];
    let etcd = Etcd::start_with(Release::New, home, "https", &arguments).await;
    let url = [etcd.url().replace("127.0.0.1", "localhost")];
    let known = yaml(&url, ", tls: {ca: ca.pem, cert: client.pem, key: client.key}", "", "");
    let one = Gateway::start_in(files, &known, &[]).await;
    until_ready(&one).await;
    post(&one, 1).await.assert_status(201);
    // A server that another authority vouches for is not etcd, and whoever shows nothing is not let in.
    let other = TempDir::new().unwrap();
    let another = authority("etcd.local");
    write(&other, "client", &root.issue(&server(&["tidegate"])), &another);
    let unknown = TempDir::new().unwrap();
    std::fs::write(unknown.path().join("ca.pem"), root.pem()).unwrap();
    for (directory, tls) in
        [(other, ", tls: {ca: ca.pem, cert: client.pem, key: client.key}"), (unknown, ", tls: {ca: ca.pem}")]
    {
        let stranger = Gateway::start_in(directory, &yaml(&url, tls, "", ""), &[]).await;
        stranger
            .wait_for_line(|line| {
                line["msg"].as_str().is_some_and(|message| message.starts_with("no session with etcd"))
            })
            .await;
        post(&stranger, 2).await.assert_status(503);
    }
}

const SPIFFE: &str = "    tls: {certificates: [identity], client_auth: {mode: request, trust: spiffe}}\n    \
    authorize: [{spiffe: ['spiffe://mesh.local/*'], register: own, discover: ['*']}, {token: op, operate: true, register: ['*'], discover: ['*']}]";
const IDENTITY: &str =
    "identity: {trust_domain: mesh.local, files: {cert: svid.pem, key: svid.key, bundle: bundle.pem}}";

#[tokio::test]
async fn replicas_prove_to_each_other_that_they_are_replicas() {
    let etcd = Etcd::start(Release::New).await;
    let root = authority("mesh.local");
    let start = async || {
        let directory = TempDir::new().unwrap();
        root.issue(&svid("spiffe://mesh.local/control")).write_to(directory.path(), &root);
        Gateway::start_in(directory, &yaml(&[etcd.url()], "", SPIFFE, IDENTITY), &[]).await
    };
    let (keeper, other) = (start().await, start().await);
    for replica in [&keeper, &other] {
        wait_for_metric(replica, "tidegate_store_up", &[], 1.0).await;
    }
    let users = TlsClient::of(&root).showing(&root.issue(&svid("spiffe://mesh.local/users")));
    let registration = json!({"name": "users", "address": "127.0.0.1:1", "ttl": "1h"}).to_string();
    let ask = async |replica: &Gateway, method: &str, path: &str, body: &str| {
        ask_at(at(replica), &users, method, path, &[], body).await.unwrap()
    };
    ask(&keeper, "POST", "/v1/services", &registration).await.assert_status(201);
    let beat = "/v1/services/users-127.0.0.1-1/heartbeat";
    let known = async {
        while ask(&other, "PUT", beat, "").await.status != 200 {
            tokio::time::sleep(PAUSE).await;
        }
    };
    within_deadline("a heartbeat to the other replica", known).await;
    wait_for_metric(&other, "tidegate_control_renewals_total", &["result=\"passed_on\""], 1.0).await;
}

#[tokio::test]
async fn whoever_is_no_replica_renews_nothing() {
    let root = authority("mesh.local");
    let etcd = Etcd::start(Release::New).await;
    let directory = TempDir::new().unwrap();
    root.issue(&svid("spiffe://mesh.local/control")).write_to(directory.path(), &root);
    let one = Gateway::start_in(directory, &yaml(&[etcd.url()], "", SPIFFE, IDENTITY), &[]).await;
    wait_for_metric(&one, "tidegate_store_up", &[], 1.0).await;
    for (id, code) in [("spiffe://mesh.local/users", "7"), ("spiffe://mesh.local/control", "0")] {
        let client = TlsClient::of(&root).showing(&root.issue(&svid(id)));
        let status = status_of(at(&one), &client, "/tidegate.control.v1.Peers/Renew").await;
        assert_eq!(status, code, "{id}");
    }
}
