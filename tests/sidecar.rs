//! Two gateways as sidecars: an application, its outbound sidecar, mTLS, the other's inbound sidecar, its application.

use std::{net::SocketAddr, path::Path};

use tempfile::TempDir;

use crate::support::{
    Backend, Gateway, RawConnection, observe::leaves_nothing_open, send, send_h2c, tidegate,
};

/// A certificate authority of its own for the test.
pub(crate) async fn authority() -> TempDir {
    let directory = TempDir::new().unwrap();
    let mut command = tidegate(directory.path());
    command.args(["ca", "init", "--trust-domain", "mesh.local", "--out"]).arg(directory.path().join("ca"));
    assert!(command.status().unwrap().success());
    directory
}

fn identity(authority: &TempDir, service: &str) -> String {
    let ca = authority.path().join("ca");
    format!("identity: {{trust_domain: mesh.local, ca: {:?}, id: \"spiffe://mesh.local/{service}\"}}\n", ca)
}

/// The sidecar that takes requests of the mesh for `service`, and lets in orders alone.
async fn inbound(authority: &TempDir, service: &str, application: SocketAddr) -> Gateway {
    Gateway::start(&inbound_yaml(authority, service, application)).await
}

pub(crate) fn inbound_yaml(authority: &TempDir, service: &str, application: SocketAddr) -> String {
    format!(
        "{}mode: sidecar\nadmin: false\nsidecar:\n  inbound:\n    address: 127.0.0.1:0\n    app: {application}\n    \
         allow: [\"spiffe://mesh.local/orders\"]\n",
        identity(authority, service)
    )
}

/// The sidecar through which `service` reaches payments, at `address`.
async fn outbound(authority: &TempDir, service: &str, address: SocketAddr) -> Gateway {
    Gateway::start(&outbound_yaml(authority, service, address)).await
}

pub(crate) fn outbound_yaml(authority: &TempDir, service: &str, address: SocketAddr) -> String {
    format!(
        "{}mode: sidecar\nadmin: false\nsidecar: {{outbound: {{address: \"127.0.0.1:0\"}}}}\nupstreams:\n  payments:\n    endpoints: [\"{address}\"]\n    protocol: \
         auto\n    tls: {{verify: {{spiffe: [\"spiffe://mesh.local/payments\"]}}, client_identity: true}}\n",
        identity(authority, service)
    )
}

const TO_PAYMENTS: [(&str, &str); 1] = [("host", "payments")];

#[tokio::test(flavor = "multi_thread")]
async fn two_sidecars_know_each_other() {
    let authority = authority().await;
    let application = Backend::named("payments").await;
    let inbound = inbound(&authority, "payments", application.address()).await;
    let outbound = outbound(&authority, "orders", inbound.address("inbound")).await;
    for answer in [
        send(outbound.address("outbound"), "POST", "/echo", &TO_PAYMENTS, "42 euros").await,
        send_h2c(outbound.address("outbound"), "POST", "/echo", &TO_PAYMENTS, "42 euros").await,
    ] {
        answer.assert_status(200).assert_no_reason();
        assert_eq!(answer.text(), "42 euros");
        let line = inbound.wait_for_message("request").await;
        assert_eq!(line["peer"], "spiffe://mesh.local/orders", "{line}");
        assert_eq!(line["protocol"], "HTTP/2", "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_be_as_large_as_the_applications_like() {
    let authority = authority().await;
    let application = Backend::named("payments").await;
    let inbound = inbound(&authority, "payments", application.address()).await;
    let outbound = outbound(&authority, "orders", inbound.address("inbound")).await;
    let large = "x".repeat(11 * 1024 * 1024);
    let answer = send(outbound.address("outbound"), "POST", "/echo", &TO_PAYMENTS, large.clone()).await;
    answer.assert_status(200).assert_no_reason();
    assert!(answer.text() == large);
    let yaml = inbound_yaml(&authority, "payments", application.address());
    let bounded = Gateway::start(&format!("{yaml}    limits: {{body_size: 1MiB}}\n")).await;
    let outbound = self::outbound(&authority, "orders", bounded.address("inbound")).await;
    let answer = send(outbound.address("outbound"), "POST", "/echo", &TO_PAYMENTS, large).await;
    answer.assert_status(413);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_with_a_good_certificate_and_the_wrong_id_is_refused_as_a_caller() {
    let authority = authority().await;
    let application = Backend::named("payments").await;
    let inbound = inbound(&authority, "payments", application.address()).await;
    let outbound = outbound(&authority, "stranger", inbound.address("inbound")).await;
    let answer = send(outbound.address("outbound"), "GET", "/", &TO_PAYMENTS, "").await;
    // The answer is the other sidecar's, and only this one's reasons are told here.
    answer.assert_status(403).assert_no_reason();
    let there = inbound.wait_for_message("request").await;
    assert_eq!(there["reason"], "forbidden", "{there}");
    assert_eq!(there["peer"], "spiffe://mesh.local/stranger", "{there}");
    let here = outbound.wait_for_message("request").await;
    assert_eq!(here["status"], 403, "{here}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_with_a_good_certificate_and_the_wrong_id_is_refused_as_a_server() {
    let authority = authority().await;
    let application = Backend::named("stranger").await;
    let stranger = inbound(&authority, "stranger", application.address()).await;
    let outbound = outbound(&authority, "orders", stranger.address("inbound")).await;
    for _ in 0..3 {
        let answer = send(outbound.address("outbound"), "POST", "/echo", &TO_PAYMENTS, "42 euros").await;
        answer.assert_reason(502, "upstream_identity_mismatch");
    }
    let line = outbound.wait_for_message("request").await;
    assert_eq!(line["reason"], "upstream_identity_mismatch", "{line}");
    // It never saw a request.
    assert!(stranger.lines().iter().all(|line| line["msg"] != "request"), "{:?}", stranger.lines());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_answers_for_its_own_health_where_that_is_asked_for() {
    let authority = authority().await;
    let application = Backend::named("payments").await;
    let inbound = inbound_yaml(&authority, "payments", application.address())
        .replace("    address:", "    health: /health\n    address:");
    let inbound = Gateway::start(&inbound).await;
    let outbound = outbound_yaml(&authority, "orders", inbound.address("inbound"))
        .replace("{outbound: {", "{outbound: {health: /healthz, ");
    let outbound = Gateway::start(&outbound).await;
    let at = outbound.address("outbound");
    // Whoever is on this host asks this sidecar; the host of a service leads to that, path or no path.
    for host in ["localhost", &at.to_string()] {
        let own = send(at, "GET", "/healthz", &[("host", host)], "").await;
        assert_eq!(own.assert_status(200).text(), "ready\n", "{host}");
        assert_eq!(own.header("x-backend"), None);
    }
    send(at, "POST", "/healthz", &[("host", "localhost")], "").await.assert_status(405);
    let of_service = send(at, "GET", "/healthz", &TO_PAYMENTS, "").await;
    assert_eq!(of_service.assert_status(200).header("x-backend"), Some("payments"));
    // The other sidecar answers in place of its application, to those that it lets in.
    let theirs = send(at, "GET", "/health", &TO_PAYMENTS, "").await;
    assert_eq!((theirs.assert_status(200).text(), theirs.header("x-backend")), ("ready\n", None));
    let line = inbound.wait_for_message("request").await;
    assert_eq!(line["peer"], "spiffe://mesh.local/orders", "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_has_no_health_of_its_own_unless_that_is_said() {
    let authority = authority().await;
    let application = Backend::named("payments").await;
    let inbound = inbound(&authority, "payments", application.address()).await;
    let outbound = outbound(&authority, "orders", inbound.address("inbound")).await;
    let at = outbound.address("outbound");
    send(at, "GET", "/health", &[("host", "localhost")], "").await.assert_status(404);
    let theirs = send(at, "GET", "/health", &TO_PAYMENTS, "").await;
    assert_eq!(theirs.assert_status(200).header("x-backend"), Some("payments"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_a_certificate_of_the_mesh() {
    let (ours, theirs) = (authority().await, authority().await);
    let application = Backend::named("payments").await;
    let inbound = inbound(&ours, "payments", application.address()).await;
    // The same name, from another authority.
    let outbound = outbound(&theirs, "orders", inbound.address("inbound")).await;
    let answer = send(outbound.address("outbound"), "GET", "/", &TO_PAYMENTS, "").await;
    answer.assert_reason(502, "upstream_identity_mismatch");
    let plain = send(inbound.address("inbound"), "GET", "/", &TO_PAYMENTS, "").await;
    assert_ne!(plain.status, 200, "{plain:?}");
}

/// The examples of the documentation, as they are, but for their addresses.
#[tokio::test(flavor = "multi_thread")]
async fn the_examples_talk_to_each_other() {
    let authority = authority().await;
    let ca = authority.path().join("ca");
    let application = Backend::named("payments").await;
    let started = |name: &str, places: Vec<(&str, String)>| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/examples").join(name);
        let mut yaml = std::fs::read_to_string(file).unwrap();
        for (place, with) in places {
            assert!(yaml.contains(place), "{name}: {place}");
            yaml = yaml.replace(place, &with);
        }
        async move { Gateway::start(&yaml).await }
    };
    let anywhere = || "127.0.0.1:0".to_owned();
    let places = vec![
        ("ca: ca", format!("ca: {ca:?}")),
        ("127.0.0.1:15100", anywhere()),
        ("/tmp/tidegate-payments.sock", authority.path().join("payments.sock").display().to_string()),
        ("127.0.0.1:15443", anywhere()),
        ("127.0.0.1:8080", application.address().to_string()),
    ];
    let payments = started("sidecar-payments.yaml", places).await;
    let places = vec![
        ("ca: ca", format!("ca: {ca:?}")),
        ("127.0.0.1:15000", anywhere()),
        ("/tmp/tidegate-orders.sock", authority.path().join("orders.sock").display().to_string()),
        ("127.0.0.1:15001", anywhere()),
        ("127.0.0.1:15443", payments.address("inbound").to_string()),
    ];
    let orders = started("sidecar-orders.yaml", places).await;
    let answer = send(orders.address("outbound"), "GET", "/", &TO_PAYMENTS, "").await;
    answer.assert_status(200).assert_no_reason();
    send(orders.address("outbound"), "DELETE", "/", &TO_PAYMENTS, "").await.assert_status(403);
}

/// The host is the upstream's name, whatever port stands behind it; nobody else is reached that way.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_finds_services_by_their_names() {
    let (payments, users) = (Backend::named("payments").await, Backend::named("users").await);
    let gateway = Gateway::start(&format!(
        "mode: sidecar\nadmin: false\nsidecar: {{outbound: {{address: \"127.0.0.1:0\"}}}}\nupstreams:\n  payments: {{endpoints: \
         [\"{}\"]}}\n  users: {{endpoints: [\"{}\"]}}\n",
        payments.address(),
        users.address()
    ))
    .await;
    let outbound = gateway.address("outbound");
    for (host, name) in [("payments", "payments"), ("Users:8080", "users"), ("payments.", "payments")] {
        for answer in [
            send(outbound, "GET", "/", &[("host", host)], "").await,
            send_h2c(outbound, "GET", "/", &[("host", host)], "").await,
        ] {
            answer.assert_status(200).assert_no_reason();
            assert_eq!(answer.header("x-backend"), Some(name), "{host}");
        }
    }
    send(outbound, "GET", "/", &[("host", "payments.example")], "").await.assert_reason(404, "no_route");
}

/// Without iptables a connection was meant for the listener itself: what would be passed on leads back to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_the_listener_itself_is_no_loop_and_leaks_nothing() {
    let payments = Backend::named("payments").await;
    let gateway = Gateway::start(&format!(
        "mode: sidecar\nadmin: false\nthreads: 1\nsidecar:\n  outbound: {{address: \"127.0.0.1:0\", original_destination: {{detection_timeout: \
         500ms}}}}\nupstreams: {{payments: {{endpoints: [\"{}\"]}}}}\n",
        payments.address()
    ))
    .await;
    let outbound = gateway.address("outbound");
    leaves_nothing_open(&gateway, async || {
        send(outbound, "GET", "/", &TO_PAYMENTS, "").await.assert_status(200);
        send(outbound, "GET", "/", &[("host", "elsewhere")], "").await.assert_reason(508, "loop_detected");
        for said in [&b""[..], b"SSH-2.0-x\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
            let mut connection = RawConnection::open(outbound);
            connection.write(said);
            assert!(connection.is_closed(), "{said:?}");
            let line = gateway.wait_for_message("connection").await;
            assert_eq!(line["reason"], "loop_detected", "{line}");
        }
    })
    .await;
}
