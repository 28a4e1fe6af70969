//! CAs that hang, lie and forget; strangers; and storage that is lost. Each has its reason, and nothing is ever worse than before.

use std::time::{Duration, SystemTime};

use futures::StreamExt;

use super::*;
use crate::support::{
    get,
    lying_ca::{Lie, LyingCa},
    metric, wait_for_metric,
};

/// A gateway with this CA, for these names.
fn with(ca: &LyingCa, account: &str, names: &str) -> String {
    format!(
        "admin: {{address: '127.0.0.1:0'}}\nlog: {{level: debug}}\nstate_dir: state\n\
         acme: {{default: {{cas: [{}], retry: {{base: 50ms, max: 200ms}}, {account}}}}}\n\
         listeners:\n- {{name: plain, address: '127.0.0.1:0'}}\n\
         - {{name: tls, address: '127.0.0.1:0', tls: {{acme: {{names: [{names}]}}}}}}\n\
         routes: [{{respond: {{body: hello}}}}]\n",
        ca.entry()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn each_lie_has_its_reason_and_the_truth_is_taken_afterwards() {
    let ca = LyingCa::start(Lie::Hangs).await;
    let account = "request_timeout: 300ms, order_timeout: 20s, orders: 1000000/h";
    let gateway = Gateway::start(&with(&ca, account, "a.example.com")).await;
    for (lie, reason) in [
        (Lie::Hangs, "timeout"),
        (Lie::ForeignCertificate, "foreign_url"),
        (Lie::WrongNames, "wrong_names"),
        (Lie::MoreNames, "wrong_names"),
        (Lie::WrongKey, "wrong_key"),
        (Lie::Ended, "bad_certificate"),
        (Lie::Nonces, "nonce_storm"),
        (Lie::WrongProof, "bad_answer"),
        (Lie::RateLimited(0), "rate_limited"),
    ] {
        ca.lie(lie.clone());
        let failed =
            gateway.wait_for_line(|line| line["msg"] == "no certificate" && line["reason"] == reason).await;
        assert_eq!(failed["name"], "a.example.com", "{lie:?}");
        assert!(failed["why"].as_str().unwrap().ends_with(')'), "it ends with a hint: {failed}");
        assert!(shown(gateway.address("tls"), "a.example.com").await.is_none(), "{lie:?}");
        let counted =
            metric(&gateway, "tidegate_acme_orders_total", &[&format!("result=\"{reason}\"")]).await;
        assert!(counted >= 1.0, "{lie:?}");
    }
    let ready = get(gateway.admin(), "/readyz?verbose").await;
    assert!(
        ready.assert_status(200).text().contains("error: certificate a.example.com is missing"),
        "{}",
        ready.text()
    );
    let listed = listed(&gateway).await;
    assert!(listed.contains("a.example.com: missing") && listed.contains("tried again at"), "{listed}");
    ca.lie(Lie::None);
    served(gateway.address("tls"), "a.example.com").await;
    let ready = get(gateway.admin(), "/readyz?verbose").await;
    assert!(ready.text().contains("ok: certificate a.example.com is valid"), "{}", ready.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_directory_has_its_reason() {
    for (lie, reason) in
        [(Lie::ForeignDirectory, "foreign_url"), (Lie::Huge, "bad_answer"), (Lie::Nonsense, "bad_answer")]
    {
        let ca = LyingCa::start(lie).await;
        let gateway = Gateway::start(&with(&ca, "", "a.example.com")).await;
        assert_eq!(gateway.wait_for_message("no certificate").await["reason"], reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_wants_to_be_left_alone_is() {
    let ca = LyingCa::start(Lie::RateLimited(1_000_000_000)).await;
    let gateway = Gateway::start(&with(&ca, "", "a.example.com")).await;
    let failed = gateway.wait_for_message("no certificate").await;
    assert_eq!(failed["reason"], "rate_limited");
    assert_eq!(failed["again_in"], "7days");
    ca.lie(Lie::None);
    // Neither a reload nor a new process forgets it.
    let next = gateway.upgrade().await;
    assert!(listed(&next).await.contains("a.example.com: missing"), "{}", listed(&next).await);
    assert_eq!(metric(&next, "tidegate_acme_orders_total", &[]).await, 0.0);
    assert!(ca.ordered().is_empty());
    // But an operator may know better.
    assert_eq!(asked(&next, &["certs", "renew", "a.example.com"]).await.0, 0);
    served(next.address("tls"), "a.example.com").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_nobody_configured_order_nothing() {
    let ca = LyingCa::start(Lie::None).await;
    let gateway = Gateway::start(&with(&ca, "", "a.example.com")).await;
    let tls = gateway.address("tls");
    served(tls, "a.example.com").await;
    let strangers = (0..1000).map(|n| async move {
        let name = format!("x{n}.evil.test");
        assert_eq!(shown(tls, &name).await.unwrap().0, ["a.example.com"]);
    });
    futures::stream::iter(strangers).buffer_unordered(50).collect::<Vec<()>>().await;
    assert_eq!(ca.ordered(), ["a.example.com"]);
    assert_eq!(metric(&gateway, "tidegate_acme_certificates", &[]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_ask_for_a_challenge_are_served_as_anybody() {
    let ca = LyingCa::start(Lie::None).await;
    let gateway = Gateway::start(&with(&ca, "", "a.example.com")).await;
    served(gateway.address("tls"), "a.example.com").await;
    for token in ["abc", "..%2f..%2fstate", &"a".repeat(2000), ""] {
        let answer = get(gateway.address("plain"), &format!("/.well-known/acme-challenge/{token}")).await;
        // The route's own answer, or what its paths allow.
        assert!(answer.status == 400 || answer.text() == "hello", "{token}: {}", answer.status);
    }
    let unknown = &["challenge=\"http-01\"", "result=\"unknown\""];
    assert_eq!(metric(&gateway, "tidegate_acme_challenges_total", unknown).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_and_broken_is_put_aside_and_ordered_anew() {
    let ca = LyingCa::start(Lie::None).await;
    let directory = TempDir::new().unwrap();
    let folder = directory.path().join("state/acme/certificates/default");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("a.example.com.json"), "{\"chain\": \"no\"").unwrap();
    std::fs::create_dir_all(directory.path().join("state/acme/attempts/default")).unwrap();
    std::fs::write(directory.path().join("state/acme/attempts/default/a.example.com.json"), "[[[").unwrap();
    let gateway = Gateway::start_in(directory, &with(&ca, "", "a.example.com"), &[]).await;
    let told = gateway.wait_for_message("a stored certificate is not used").await;
    assert!(told["moved"].as_str().unwrap().starts_with("kept as "), "{told}");
    served(gateway.address("tls"), "a.example.com").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_is_lost_while_it_runs_costs_nothing_that_is_shown() {
    let ca = LyingCa::start(Lie::None).await;
    let gateway = Gateway::start(&with(&ca, "", "a.example.com")).await;
    let tls = gateway.address("tls");
    let first = served(tls, "a.example.com").await;
    let state = gateway.directory().join("state");
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::write(&state, "a file in its place").unwrap();
    assert_eq!(asked(&gateway, &["certs", "renew", "a.example.com"]).await.0, 0);
    let failed = gateway.wait_for_message("no certificate").await;
    assert_eq!(failed["reason"], "storage");
    assert_eq!(served(tls, "a.example.com").await, first);
    std::fs::remove_file(&state).unwrap();
    served_other(tls, "a.example.com", &first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_shown_and_told() {
    let ca = LyingCa::start(Lie::None).await;
    let gateway = Gateway::start(&with(&ca, "", "a.example.com")).await;
    served(gateway.address("tls"), "a.example.com").await;
    let kept = gateway.directory().join("state/acme/certificates/default/a.example.com.json");
    // One that has ended, with its key.
    let root = crate::support::certificates::authority("old");
    let mut order = crate::support::certificates::server(&["a.example.com"]);
    order.not_after = SystemTime::now() - Duration::from_secs(60);
    let old = root.issue(&order);
    let pem = |pem: Vec<u8>| String::from_utf8(pem).unwrap();
    let record = serde_json::json!({
        "directory": "https://old.test/dir", "chain": pem(old.certificate.to_pem().unwrap()),
        "key": pem(old.key.private_key_to_pem_pkcs8().unwrap()),
    });
    std::fs::write(&kept, record.to_string()).unwrap();
    ca.lie(Lie::RateLimited(1000));
    let next = gateway.upgrade().await;
    next.wait_for_message("no certificate").await;
    assert_eq!(shown(next.address("tls"), "a.example.com").await.unwrap().0, ["a.example.com"]);
    wait_for_metric(&next, "tidegate_acme_certificates", &["state=\"expired\""], 1.0).await;
    let ready = get(next.admin(), "/readyz?verbose").await;
    let text = ready.assert_status(200).text();
    assert!(text.contains("error: certificate a.example.com is expired until"), "{text}");
    assert!(text.contains("the last order failed: rate_limited"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_may_have_one_renewed_earlier() {
    let ca = LyingCa::start(Lie::None).await;
    let gateway = Gateway::start(&with(&ca, "", "a.example.com")).await;
    let first = served(gateway.address("tls"), "a.example.com").await;
    let now = SystemTime::now();
    ca.suggest(now - Duration::from_secs(7200), now - Duration::from_secs(3600));
    let next = gateway.upgrade().await;
    served_other(next.address("tls"), "a.example.com", &first).await;
    assert_eq!(ca.asked_when().len(), 1, "one certificate was asked about, once");
    assert_eq!(ca.replaced(), ca.asked_when(), "and it is that one which is replaced");
    assert_eq!(ca.accounts(), 1, "the account is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_somebody_else_orders_is_waited_for() {
    let ca = LyingCa::start(Lie::None).await;
    let directory = TempDir::new().unwrap();
    let locks = directory.path().join("state/acme/locks");
    std::fs::create_dir_all(&locks).unwrap();
    let lock = std::fs::File::create(locks.join("certificates_default_a.example.com.lock")).unwrap();
    let held = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let gateway = Gateway::start_in(directory, &with(&ca, "", "a.example.com, b.example.com"), &[]).await;
    served(gateway.address("tls"), "b.example.com").await;
    assert_eq!(ca.ordered(), ["b.example.com"]);
    // Its holder is gone, however that ended.
    drop(held);
    served(gateway.address("tls"), "a.example.com").await;
    assert_eq!(metric(&gateway, "tidegate_acme_orders_total", &["result=\"issued\""]).await, 2.0);
}
