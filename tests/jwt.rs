//! Tokens over real gateways, with a real issuer: rotations under load, an issuer that is away, that answers nonsense or
//! that is not who it should be. What the filter says of each bad token is in its unit tests, and what it does with each
//! kind of request in `tests/filters/jwt.yaml`.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use openssl::{
    asn1::Asn1Time,
    hash::MessageDigest,
    ssl::{SslAcceptor, SslMethod},
    x509::{X509, X509Name, extension::SubjectAlternativeName},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    Answer, Backend, Connection, Gateway, Yaml, get,
    issuer::{Issuer, Signer, set, token_by_secret},
    metric, send, series, within_deadline,
};

fn config(backend: SocketAddr, keys: &str) -> Yaml {
    let route = format!("filters: [{{jwt: {{keys: {{{keys}}}}}}}]");
    Yaml::to(backend).top("log: {level: trace, access: {to: stdout}}").route(&route)
}

async fn ask(gateway: &Gateway, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    send(gateway.address("main"), "GET", "/", &[("authorization", &bearer)], "").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_under_load_without_a_request_refused() {
    let mut current = Signer::new("key-0");
    let (issuer, backend) = (Issuer::start(200, set(&[&current])), Backend::start().await);
    let keys = format!("jwks: '{}', refresh: 1h, cooldown: 1ms", issuer.url());
    let gateway = config(backend.address(), &keys).start().await;
    let token = Arc::new(Mutex::new(current.token("u")));
    let (stopping, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (token, stopping, asked) = (token.clone(), stopping.clone(), asked.clone());
            let address = gateway.address("main");
            tokio::spawn(async move {
                let mut connection = Connection::http1(address).await.unwrap();
                while !stopping.load(Relaxed) {
                    let bearer = format!("Bearer {}", token.lock().unwrap());
                    let answer =
                        connection.send("GET", "/", &[("authorization", &bearer)], "").await.unwrap();
                    answer.assert_status(200);
                    asked.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    for rotation in 1..=5 {
        let next = Signer::new(&format!("key-{rotation}"));
        issuer.answer(200, set(&[&current, &next]));
        *token.lock().unwrap() = next.token("u");
        let wanted = asked.load(Relaxed) + 300;
        within_deadline("requests after a rotation", async {
            while asked.load(Relaxed) < wanted && workers.iter().all(|worker| !worker.is_finished()) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        current = next;
    }
    stopping.store(true, Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(issuer.fetches(), 6, "one at the start and one for each rotation");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_who_wait_for_a_key_wait_for_one_fetch_and_strangers_cause_no_more() {
    let (known, new, stranger) = (Signer::new("known"), Signer::new("new"), Signer::new("stranger"));
    let (issuer, backend) = (Issuer::start(200, set(&[&known])), Backend::start().await);
    let keys = format!("jwks: '{}', refresh: 1h, cooldown: 1h, wait: 15s", issuer.url());
    let gateway = config(backend.address(), &keys).start().await;
    ask(&gateway, &known.token("u")).await.assert_status(200);
    assert_eq!(issuer.fetches(), 1);
    issuer.answer(200, set(&[&known, &new]));
    issuer.hold(true);
    let gateway = Arc::new(gateway);
    let waiting: Vec<_> = (0..40)
        .map(|n| {
            let (gateway, token) = (gateway.clone(), new.token(&n.to_string()));
            tokio::spawn(async move { ask(&gateway, &token).await.status.as_u16() })
        })
        .collect();
    // While they wait, others pass.
    ask(&gateway, &known.token("other")).await.assert_status(200);
    issuer.hold(false);
    for status in waiting {
        assert_eq!(status.await.unwrap(), 200);
    }
    for n in 0..10 {
        let token = stranger.token(&n.to_string());
        ask(&gateway, &token).await.assert_reason(401, "unauthenticated");
    }
    assert_eq!(issuer.fetches(), 2);
    let keys = format!("tidegate_jwks_keys{{source=\"{}\"}}", issuer.url());
    assert_eq!(metric(&gateway, &keys, &[]).await, 2.0);
    let unknown = "tidegate_jwt_verifications_total{result=\"unknown_key\"}";
    assert_eq!(metric(&gateway, unknown, &[]).await, 10.0);
}

#[tokio::test]
async fn an_issuer_that_is_away_keeps_nobody_from_starting_and_its_keys_stay() {
    let signer = Signer::new("k");
    let (issuer, backend) = (Issuer::start(500, String::new()), Backend::start().await);
    let keys = format!("jwks: '{}', refresh: 1s, cooldown: 1h", issuer.url());
    let gateway = config(backend.address(), &keys).start().await;
    ask(&gateway, &signer.token("u")).await.assert_reason(503, "auth_unavailable");
    let away = gateway.wait_for_message("keys of the token issuer cannot be read, trying again").await;
    assert_eq!(away["why"], "the issuer answers with status 500 Internal Server Error");
    issuer.answer(200, set(&[&signer]));
    gateway.wait_for_message("keys of the token issuer can be read again").await;
    ask(&gateway, &signer.token("u")).await.assert_status(200);
    // A redirect is not followed, an answer that is no key set changes nothing.
    for (status, body) in [(302, String::new()), (200, "{}".to_owned()), (503, String::new())] {
        issuer.answer(status, body);
        gateway.wait_for_message("keys of the token issuer cannot be read, trying again").await;
        ask(&gateway, &signer.token(&status.to_string())).await.assert_status(200);
        issuer.answer(200, set(&[&signer]));
        gateway.wait_for_message("keys of the token issuer can be read again").await;
    }
    let reloaded = gateway.reload(&config(backend.address(), &keys).top("watch: false").to_string()).await;
    assert!(reloaded["msg"] != "configuration rejected", "{reloaded}");
    ask(&gateway, &signer.token("after")).await.assert_status(200);
}

#[tokio::test]
async fn keys_that_are_too_old_are_not_used() {
    let signer = Signer::new("k");
    let (issuer, backend) = (Issuer::start(200, set(&[&signer])), Backend::start().await);
    let keys = format!("jwks: '{}', refresh: 100ms, cooldown: 1h, max_stale: 1s", issuer.url());
    let gateway = config(backend.address(), &keys).start().await;
    let token = signer.token("u");
    ask(&gateway, &token).await.assert_status(200);
    issuer.answer(404, String::new());
    gateway.wait_for_message("keys of the token issuer are too old to be used (see max_stale)").await;
    // Not even for a token that was verified before.
    ask(&gateway, &token).await.assert_reason(503, "auth_unavailable");
}

#[tokio::test]
async fn a_key_set_without_end_is_not_read_to_its_end() {
    let signer = Signer::new("k");
    let large = set(&[&signer]) + &" ".repeat(1024 * 1024);
    let (issuer, backend) = (Issuer::start(200, large), Backend::start().await);
    let keys = format!("jwks: '{}', cooldown: 1h", issuer.url());
    let gateway = config(backend.address(), &keys).start().await;
    gateway.wait_for_message("keys of the token issuer cannot be read, trying again").await;
    ask(&gateway, &signer.token("u")).await.assert_reason(503, "auth_unavailable");
    let refused = series(&gateway, "tidegate_jwks_fetches_total", &["result=\"too_large\""]).await;
    assert!(refused.is_some());
}

/// A certificate of its own authority for that name, and what serves it.
fn certificate(name: &str) -> (Vec<u8>, SslAcceptor) {
    let signer = Signer::new("tls");
    let mut subject = X509Name::builder().unwrap();
    subject.append_entry_by_text("CN", "issuer").unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(&subject).unwrap();
    builder.set_pubkey(&signer.key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    let alternative =
        SubjectAlternativeName::new().dns(name).build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(alternative).unwrap();
    builder.sign(&signer.key, MessageDigest::sha256()).unwrap();
    let certificate = builder.build();
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_private_key(&signer.key).unwrap();
    acceptor.set_certificate(&certificate).unwrap();
    (certificate.to_pem().unwrap(), acceptor.build())
}

#[tokio::test]
async fn an_issuer_must_prove_who_it_is() {
    let (signer, backend) = (Signer::new("k"), Backend::start().await);
    for (name, with_ca, status) in
        [("localhost", true, 200), ("localhost", false, 503), ("other.test", true, 503)]
    {
        let (ca, tls) = certificate(name);
        let issuer = Issuer::with(200, set(&[&signer]), Some(tls));
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("ca.pem"), ca).unwrap();
        let mut keys = format!("jwks: '{}', cooldown: 1h", issuer.url());
        if with_ca {
            keys += ", ca: ca.pem";
        }
        let gateway = Gateway::start_in(directory, &config(backend.address(), &keys).to_string(), &[]).await;
        assert_eq!(ask(&gateway, &signer.token("u")).await.status, status, "{name} {with_ca}");
        let refused = series(&gateway, "tidegate_jwks_fetches_total", &["result=\"connect\""]).await;
        assert_eq!(refused.is_some(), status != 200);
        assert_eq!(issuer.fetches() > 0, status == 200, "nothing is sent to somebody else");
    }
}

#[tokio::test]
async fn a_file_is_followed_and_a_broken_one_changes_nothing() {
    let (one, two, backend) = (Signer::new("one"), Signer::new("two"), Backend::start().await);
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("jwks.json");
    std::fs::write(&file, set(&[&one])).unwrap();
    let gateway = Gateway::start_in(
        directory,
        &config(backend.address(), "jwks: jwks.json, wait: 5s").to_string(),
        &[],
    )
    .await;
    ask(&gateway, &one.token("u")).await.assert_status(200);
    ask(&gateway, &two.token("u")).await.assert_reason(401, "unauthenticated");
    std::fs::write(&file, "{").unwrap();
    gateway.wait_for_message("keys of the token issuer cannot be read, trying again").await;
    ask(&gateway, &one.token("v")).await.assert_status(200);
    std::fs::write(&file, set(&[&two])).unwrap();
    gateway.wait_for_message("keys of the token issuer have changed").await;
    ask(&gateway, &two.token("u")).await.assert_status(200);
    // Its key is gone, so a token that was verified before is as good as any other.
    ask(&gateway, &one.token("v")).await.assert_reason(401, "unauthenticated");
}

#[tokio::test]
async fn neither_secrets_nor_tokens_are_anywhere_to_be_read() {
    const SECRET: &str = "hunter2-hunter2-hunter2-hunter2-hunter2";
    let backend = Backend::start().await;
    let good = token_by_secret(SECRET, r#"{"sub":"planted-subject","exp":4102444800}"#);
    let expired = token_by_secret(SECRET, r#"{"sub":"planted-subject","exp":1}"#);
    let keys = "secret: '${env:JWT_SECRET}'";
    let health = "match: {path: /health}, upstream: origin, \
                  filters: [{jwt: {keys: {jwks: 'http://127.0.0.1:1/?key=hunter2'}, from: {query: t}}}]";
    let yaml = config(backend.address(), keys).with_route(health).to_string();
    let gateway = Gateway::start_in(TempDir::new().unwrap(), &yaml, &[("JWT_SECRET", SECRET)]).await;
    ask(&gateway, &good).await.assert_status(200);
    let mut shown = String::new();
    for token in [&expired, &format!("{good}x"), &"planted-garbage".to_owned()] {
        let answer = ask(&gateway, token).await;
        shown += &format!("{:?}", answer.assert_reason(401, "unauthenticated"));
    }
    let answer = get(gateway.address("main"), &format!("/health?t={good}")).await;
    shown += &format!("{answer:?}");
    gateway.wait_for_message("keys of the token issuer cannot be read, trying again").await;
    for path in ["/config", "/config?format=yaml", "/metrics", "/stats", "/routes"] {
        shown += get(gateway.admin(), path).await.assert_status(200).text();
    }
    shown += &(gateway.lines().iter().map(Value::to_string).collect::<String>() + &gateway.stderr());
    let signature = good.rsplit('.').next().unwrap();
    for planted in ["hunter2", "planted", signature, expired.rsplit('.').next().unwrap(), "eyJ"] {
        assert!(!shown.contains(planted), "{planted} is in {shown}");
    }
}

#[tokio::test]
async fn a_secret_that_is_refused_is_not_repeated() {
    let yaml = config("127.0.0.1:1".parse().unwrap(), "secret: hunter2").to_string();
    let (code, stderr, stdout) = Gateway::start_expecting_failure(&yaml, &["check"]).await;
    assert_eq!(code, 3);
    assert!(
        stderr.contains("filters[0].jwt.keys.secret") && stderr.contains("at least 32 bytes"),
        "{stderr}"
    );
    assert!(!(stderr + &stdout).contains("hunter2"));
}

#[tokio::test]
async fn a_configuration_that_is_only_checked_asks_nobody() {
    let issuer = Issuer::start(200, set(&[&Signer::new("k")]));
    let yaml = config("127.0.0.1:1".parse().unwrap(), &format!("jwks: '{}'", issuer.url())).to_string();
    let (code, stderr, _) = Gateway::start_expecting_failure(&yaml, &["check"]).await;
    assert_eq!((code, issuer.fetches()), (0, 0), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_key_in_a_file_verifies() {
    let (ours, theirs) = (Signer::new("a"), Signer::new("a"));
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("issuer.pem"), ours.key.public_key_to_pem().unwrap()).unwrap();
    let yaml = "admin: false\nlisteners: [{name: main, address: \"127.0.0.1:0\"}]\nroutes:\n  - respond: {}\n    \
                filters:\n      - jwt:\n          keys:\n            public_key: issuer.pem\n";
    let gateway = Gateway::start_in(directory, yaml, &[]).await;
    let ask = async |signer: &Signer| {
        let token = format!("Bearer {}", signer.token("u-7"));
        send(gateway.address("main"), "GET", "/", &[("authorization", &token)], "").await
    };
    ask(&ours).await.assert_status(200);
    ask(&theirs).await.assert_reason(401, "unauthenticated");
}

#[tokio::test]
async fn keys_come_over_plain_http_from_elsewhere_only_where_that_is_allowed() {
    let yaml = |allow: bool| {
        format!(
            "listeners: [{{address: \"127.0.0.1:0\"}}]\nroutes:\n  - respond: {{}}\n    filters:\n      - jwt:\n          \
             keys:\n            jwks: http://issuer.invalid/keys\n            allow_http: {allow}\n"
        )
    };
    let (code, said, _) = Gateway::start_expecting_failure(&yaml(false), &["check"]).await;
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("allow_http"), "{said}");
    let (code, said, _) = Gateway::start_expecting_failure(&yaml(true), &["check"]).await;
    assert_eq!(code, 0, "{said}");
}
