//! The same with etcd, in both releases: one orders, all serve, and nothing that becomes of the storage is worse than before.

use nix::sys::signal::Signal;

use super::*;
use crate::support::{
    etcd::{Etcd, Release},
    lying_ca::{Lie, LyingCa},
    metric, own_address, wait_for_metric,
};

fn storage(etcd: &Etcd) -> String {
    let url = etcd.url();
    format!(
        "storage: {{etcd: {{endpoints: ['{url}']}}, secret: 0123456789abcdef0123456789abcdef, timeout: 2s}}"
    )
}

/// One of a fleet, with these listeners.
fn one(ca: &str, storage: &str, account: &str, listeners: &str) -> String {
    format!(
        "admin: {{address: '127.0.0.1:0'}}\nstate_dir: state\n\
         acme: {{default: {{cas: [{ca}], retry: {{base: 100ms, max: 500ms}}, {storage}, {account}}}}}\n\
         listeners:\n{listeners}routes: [{{respond: {{body: hello}}}}]\n"
    )
}

fn tls(names: &str) -> String {
    format!("- {{name: tls, address: '127.0.0.1:0', tls: {{acme: {{names: [{names}]}}}}}}\n")
}

const CERTIFICATE: &str = "/tidegate/acme/certificates/default/a.example.com";
const LOCK: &str = "/tidegate/acme/locks/certificates/default/a.example.com";

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_orders_each_name_and_all_serve_it() {
    for release in [Release::Old, Release::New] {
        let (ca, etcd) = (LyingCa::start(Lie::Half).await, Etcd::start(release).await);
        let names: Vec<String> = (0..20).map(|n| format!("n{n}.example.com")).collect();
        let yaml =
            one(&ca.entry(), &storage(&etcd), "orders: 1000000/h, at_once: 8", &tls(&names.join(", ")));
        let gateways = futures::future::join_all((0..3).map(|_| Gateway::start(&yaml))).await;
        for gateway in &gateways {
            wait_for_metric(gateway, "tidegate_acme_certificates", &["state=\"valid\""], 20.0).await;
        }
        let mut ordered = ca.ordered();
        ordered.sort();
        let mut expected = names.clone();
        expected.sort();
        assert_eq!(ordered, expected, "{release:?}: each once");
        let mut serials = std::collections::BTreeSet::new();
        for gateway in &gateways {
            serials.insert(served(gateway.address("tls"), "n7.example.com").await);
        }
        assert_eq!(serials.len(), 1, "all show the same");
        assert!(!etcd.ctl(&["get", "--prefix", "/tidegate/"]).await.contains("BEGIN"), "it is encrypted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_shown_by_whichever_gateway_is_asked() {
    let (pebble, etcd) = (Pebble::start().await, Etcd::start(Release::New).await);
    // All names lead to the one that orders something else.
    let listeners = |ip: std::net::IpAddr, name: &str| {
        format!(
            "- {{name: plain, address: '{ip}:8080'}}\n\
             - {{name: tls, address: '{ip}:8443', tls: {{acme: {{names: [{name}]}}}}}}\n"
        )
    };
    let yaml =
        |ip, name| one(&pebble.entry(), &storage(&etcd), "challenges: [http-01]", &listeners(ip, name));
    let asked = Gateway::start(&yaml(pebble.ip, "here.example.com")).await;
    served(pebble.listener(8443), "here.example.com").await;
    let elsewhere = own_address().ip();
    let ordering = Gateway::start(&yaml(elsewhere, "there.example.com")).await;
    served(SocketAddr::new(elsewhere, 8443), "there.example.com").await;
    let answered = &["challenge=\"http-01\"", "result=\"answered\""];
    assert!(metric(&asked, "tidegate_acme_challenges_total", answered).await >= 2.0);
    assert_eq!(metric(&ordering, "tidegate_acme_challenges_total", answered).await, 0.0);
    let withdrawn = async {
        while !etcd.ctl(&["get", "--prefix", "/tidegate/acme/challenges/"]).await.is_empty()
            || etcd.ctl(&["lease", "list"]).await.lines().count() > 1
        {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    within_deadline("challenges and leases that are gone", withdrawn).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_is_down_or_emptied_costs_nothing_that_was_there() {
    let (ca, mut etcd) = (LyingCa::start(Lie::None).await, Etcd::start(Release::New).await);
    let yaml = one(&ca.entry(), &storage(&etcd), "", &tls("a.example.com"));
    let gateway = Gateway::start(&yaml).await;
    let first = served(gateway.address("tls"), "a.example.com").await;
    // Else its lock would outlive it.
    let let_go = async {
        while !etcd.ctl(&["get", LOCK]).await.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    within_deadline("the lock to be let go", let_go).await;
    etcd.kill().await;
    let next = gateway.upgrade().await;
    assert_eq!(shown(next.address("tls"), "a.example.com").await.unwrap().1, first, "by its copy");
    assert_eq!(asked(&next, &["certs", "renew", "a.example.com"]).await.0, 0);
    assert_eq!(next.wait_for_message("no certificate").await["reason"], "storage");
    assert_eq!(ca.ordered().len(), 1, "who cannot lock does not order");
    etcd.start_again().await;
    let second = served_other(next.address("tls"), "a.example.com", &first).await;
    // Somebody takes all of it away.
    etcd.ctl(&["del", "--prefix", "/tidegate/"]).await;
    let last = next.upgrade().await;
    assert_eq!(shown(last.address("tls"), "a.example.com").await.unwrap().1, second);
    assert!(etcd.ctl(&["get", "--keys-only", CERTIFICATE]).await.contains(CERTIFICATE), "it is given back");
    let other = Gateway::start(&yaml).await;
    assert_eq!(served(other.address("tls"), "a.example.com").await, second);
    assert_eq!(ca.ordered().len(), 2, "the renewal was the last order");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_damaged_in_the_storage_is_neither_shown_nor_written_over() {
    let (ca, etcd) = (LyingCa::start(Lie::None).await, Etcd::start(Release::Old).await);
    let yaml = one(&ca.entry(), &storage(&etcd), "", &tls("a.example.com"));
    etcd.ctl(&["put", CERTIFICATE, "no certificate at all"]).await;
    let gateway = Gateway::start(&yaml).await;
    let failed = gateway.wait_for_message("no certificate").await;
    assert_eq!(failed["reason"], "storage");
    assert!(failed["why"].as_str().unwrap().contains("it is damaged: remove it there"), "{failed}");
    assert!(ca.ordered().is_empty());
    etcd.ctl(&["del", CERTIFICATE]).await;
    served(gateway.address("tls"), "a.example.com").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_a_dead_gateway_ends_with_its_lease() {
    let (ca, etcd) = (LyingCa::start(Lie::Hangs).await, Etcd::start(Release::New).await);
    let account = "request_timeout: 60s, order_timeout: 60s";
    let yaml = one(&ca.entry(), &storage(&etcd), account, &tls("a.example.com"));
    let holder = Gateway::start(&yaml).await;
    let locked = async {
        while !etcd.ctl(&["get", LOCK]).await.contains("held") {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    within_deadline("a lock", locked).await;
    holder.signal(Signal::SIGKILL);
    holder.wait_exit().await;
    ca.lie(Lie::None);
    let other = Gateway::start(&yaml.replace("[a.example.com]", "[a.example.com, b.example.com]")).await;
    served(other.address("tls"), "b.example.com").await;
    assert_eq!(ca.ordered(), ["b.example.com"], "the dead one has the lock of the other");
    let held: serde_json::Value =
        serde_json::from_str(&etcd.ctl(&["get", LOCK, "-w", "json"]).await).unwrap();
    let lease = format!("{:x}", held["kvs"][0]["lease"].as_i64().unwrap());
    // Nobody keeps it, and it never outlives an order by much.
    let left = etcd.ctl(&["lease", "timetolive", &lease]).await;
    assert!(left.contains("granted with TTL(120s)"), "{left}");
    // As its time would.
    etcd.ctl(&["lease", "revoke", &lease]).await;
    served(other.address("tls"), "a.example.com").await;
    let let_go = async {
        while !etcd.ctl(&["get", LOCK]).await.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    within_deadline("ours to be let go", let_go).await;
}
