//! The end of a tunnel that strangers reach: who may come in, how far, and what becomes of those who say something else, or nothing.

use std::net::SocketAddr;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::support::{
    Gateway, TlsClient,
    certificates::{Issued, authority, server, svid},
    connect::Tls,
    metric,
    silent::Refusing,
};

const TUNNEL: &[u8] = b"\x11tidegate-tunnel/1";
/// The port that the connection was made to.
const AS_CONNECTED: [u8; 2] = [0, 0];

/// A sidecar for an application, who trusts whom `root` has signed.
struct Inbound {
    gateway: Gateway,
    root: Issued,
}

impl Inbound {
    /// `more` stands below `inbound`.
    async fn start(app: SocketAddr, more: &str) -> Inbound {
        let root = authority("mesh.local");
        let directory = TempDir::new().unwrap();
        root.issue(&svid("spiffe://mesh.local/payments")).write_to(directory.path(), &root);
        let yaml = format!(
            "admin: {{address: '127.0.0.1:0'}}\nmode: sidecar\nidentity: {{trust_domain: mesh.local, files: {{cert: svid.pem, key: \
             svid.key, bundle: bundle.pem}}}}\nsidecar:\n  inbound:\n    address: 127.0.0.1:0\n    app: {app}\n    allow: \
             [\"spiffe://mesh.local/orders\"]\n{more}"
        );
        Inbound { gateway: Gateway::start_in(directory, &yaml, &[]).await, root }
    }

    /// As `id`, asking for a tunnel by ALPN and by nothing else yet.
    async fn connect(&self, id: &str) -> Tls {
        let own = self.root.issue(&svid(id));
        let client = TlsClient::trusting_all().showing(&own).speaking(TUNNEL);
        let stream = client.connect(self.gateway.address("inbound"), "").await.unwrap();
        assert_eq!(stream.ssl().selected_alpn_protocol(), Some(&TUNNEL[1..]));
        stream
    }

    /// What is said back to this opening, until the end.
    async fn told(&self, id: &str, opening: &[u8]) -> Vec<u8> {
        let mut stream = self.connect(id).await;
        stream.write_all(opening).await.unwrap();
        rest_of(&mut stream).await
    }

    async fn tunnels(&self, result: &str) -> f64 {
        metric(
            &self.gateway,
            "tidegate_tunnels_total",
            &["listener=\"inbound\"", &format!("result=\"{result}\"")],
        )
        .await
    }
}

const ORDERS: &str = "spiffe://mesh.local/orders";

async fn rest_of(stream: &mut Tls) -> Vec<u8> {
    let mut said = Vec::new();
    within_deadline("the end", stream.read_to_end(&mut said)).await.unwrap();
    said
}

fn word(word: &str) -> Vec<u8> {
    [&[word.len() as u8], word.as_bytes()].concat()
}

async fn application() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap(), listener)
}

#[tokio::test]
async fn a_tunnel_leads_to_the_application() {
    let (app, listener) = application().await;
    tokio::spawn(echo(listener));
    let inbound = Inbound::start(app, "").await;
    for opening in [AS_CONNECTED, app.port().to_be_bytes()] {
        let mut stream = inbound.connect(ORDERS).await;
        // A caller that knows what to say need not wait.
        stream.write_all(&[&opening[..], b"hello"].concat()).await.unwrap();
        let mut answer = [0xff; 6];
        within_deadline("an answer", stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"\0hello");
        stream.shutdown().await.unwrap();
        assert_eq!(rest_of(&mut stream).await, b"");
        let line = inbound.gateway.wait_for_message("connection").await;
        let mut rest = line.as_object().unwrap().clone();
        assert!(rest.remove("ts").is_some() && rest.remove("duration_ms").is_some(), "{line}");
        let expected = json!({
            "level": "info", "msg": "connection", "listener": "inbound", "upstream": "inbound", "endpoint": app.to_string(),
            "attempts": 1, "bytes_in": 5, "bytes_out": 5, "client": "127.0.0.1", "peer": ORDERS, "tls": "TLSv1.3",
            "protocol": "tunnel",
        });
        assert_eq!(Value::from(rest), expected);
    }
    assert_eq!(inbound.tunnels("opened").await, 2.0);
}

#[tokio::test]
async fn callers_are_told_why_they_get_no_tunnel() {
    let (app, listener) = application().await;
    tokio::spawn(echo(listener));
    let other = app.port() ^ 1;
    let inbound = Inbound::start(app, "").await;
    for (id, opening, reason, detail) in [
        ("spiffe://mesh.local/pets", AS_CONNECTED, "forbidden", "allow"),
        ("spiffe://mesh.local/pets", other.to_be_bytes(), "forbidden", "allow"),
        (ORDERS, other.to_be_bytes(), "no_route", "app"),
        // The first bytes of a request that is none of a tunnel's.
        (ORDERS, *b"GE", "no_route", "app"),
    ] {
        assert_eq!(inbound.told(id, &opening).await, word(reason));
        let line = inbound.gateway.wait_for_message("connection").await;
        let said =
            [&line["peer"], &line["reason"], &line["detail"]].map(|value| value.as_str().unwrap_or(""));
        assert_eq!(said, [id, reason, detail], "{line}");
    }
    assert_eq!((inbound.tunnels("forbidden").await, inbound.tunnels("no_route").await), (2.0, 2.0));
}

#[tokio::test]
async fn an_application_that_is_not_there_is_told_of() {
    let nobody = Refusing::start();
    let inbound = Inbound::start(nobody.address(), "").await;
    assert_eq!(inbound.told(ORDERS, &AS_CONNECTED).await, word("connect_failed"));
    assert_eq!(inbound.gateway.wait_for_message("connection").await["reason"], "connect_failed");
}

/// Filters see HTTP alone: what they keep out must not come in by a tunnel.
#[tokio::test]
async fn behind_other_access_filters_only_ports_that_are_named_are_reached() {
    let (app, listener) = application().await;
    tokio::spawn(echo(listener));
    let guard = "    filters: [{ip_rules: {deny: [192.0.2.1]}}]\n";
    for (more, opens) in [
        (guard.to_owned(), false),
        (format!("{guard}    tunnel_ports: [{}]\n", app.port()), true),
        ("    tunnel_ports: []\n".to_owned(), false),
        (format!("    tunnel_ports: [{}]\n", app.port() ^ 1), false),
        ("    filters: [{headers: {request: {set: {x-a: b}}}}]\n".to_owned(), true),
    ] {
        let inbound = Inbound::start(app, &more).await;
        let mut stream = inbound.connect(ORDERS).await;
        stream.write_all(&AS_CONNECTED).await.unwrap();
        let mut first = [0xff];
        within_deadline("an answer", stream.read_exact(&mut first)).await.unwrap();
        assert_eq!(first == [0], opens, "{more}");
        if !opens {
            assert_eq!(rest_of(&mut stream).await, b"forbidden");
            let line = inbound.gateway.wait_for_message("connection").await;
            assert_eq!(line["detail"], "tunnel_ports", "{line}");
        }
    }
}

#[tokio::test]
async fn nobody_gets_as_far_as_asking_without_a_certificate_of_the_mesh() {
    let (app, _listener) = application().await;
    let inbound = Inbound::start(app, "").await;
    let address = inbound.gateway.address("inbound");
    let stranger = authority("mesh.local").issue(&svid(ORDERS));
    for client in [TlsClient::trusting_all(), TlsClient::trusting_all().showing(&stranger)] {
        // With TLS 1.3 a client hears of it where it reads.
        if let Ok(mut stream) = client.speaking(TUNNEL).connect(address, "").await {
            let _ = stream.write_all(&AS_CONNECTED).await;
            let mut said = Vec::new();
            let ended = within_deadline("the end", stream.read_to_end(&mut said)).await;
            assert!(ended.is_err() && said.is_empty(), "{ended:?} {said:?}");
        }
    }
    assert_eq!(inbound.tunnels("opened").await, 0.0);
}

#[tokio::test]
async fn who_opens_a_tunnel_and_says_nothing_or_half_is_closed_by_the_deadline_of_the_handshake() {
    let (app, _listener) = application().await;
    let inbound = Inbound::start(app, "    limits: {handshake_timeout: 1s}\n").await;
    for said in [&b""[..], b"\0"] {
        let mut stream = inbound.connect(ORDERS).await;
        stream.write_all(said).await.unwrap();
        assert_eq!(rest_of(&mut stream).await, word("client_timeout"));
        let line = inbound.gateway.wait_for_message("connection").await;
        assert_eq!((&line["reason"], &line["peer"]), (&"client_timeout".into(), &ORDERS.into()), "{line}");
    }
    let mut stream = inbound.connect(ORDERS).await;
    stream.write_all(b"\0").await.unwrap();
    stream.shutdown().await.unwrap();
    drop(stream);
    let line = inbound.gateway.wait_for_message("connection").await;
    assert_eq!(line["reason"], "client_closed", "{line}");
}

/// A connection that is cut within TLS, by whomever, looks like a whole one to nobody.
#[tokio::test]
async fn a_caller_that_is_gone_without_a_word_has_broken_off() {
    let (app, listener) = application().await;
    let inbound = Inbound::start(app, "").await;
    let mut stream = inbound.connect(ORDERS).await;
    stream.write_all(&[&AS_CONNECTED[..], b"half a command"].concat()).await.unwrap();
    let (mut heard, _) = within_deadline("the application's connection", listener.accept()).await.unwrap();
    assert_eq!(hear(&mut heard, 14).await, "half a command");
    // The end of TCP, and not of TLS.
    stream.get_mut().shutdown().await.unwrap();
    assert_eq!(rest(&mut heard).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(inbound.gateway.wait_for_message("connection").await["reason"], "client_closed");
}

#[tokio::test]
async fn open_tunnels_count_against_the_limits_of_the_application() {
    let (app, listener) = application().await;
    tokio::spawn(echo(listener));
    let inbound = Inbound::start(app, "    limits: {connections: 1}\n").await;
    let mut stream = inbound.connect(ORDERS).await;
    stream.write_all(&AS_CONNECTED).await.unwrap();
    let mut first = [0xff];
    within_deadline("an answer", stream.read_exact(&mut first)).await.unwrap();
    let active = format!("endpoint=\"{app}\"");
    let active =
        metric(&inbound.gateway, "tidegate_upstream_active_requests", &["upstream=\"inbound\"", &active])
            .await;
    assert_eq!((first, active), ([0], 1.0));
    let own = inbound.root.issue(&svid(ORDERS));
    let client = TlsClient::trusting_all().showing(&own).speaking(TUNNEL);
    assert!(client.connect(inbound.gateway.address("inbound"), "").await.is_err(), "one more than may be");
}

#[tokio::test]
async fn listeners_that_are_no_sidecar_s_take_no_tunnels() {
    let root = authority("mesh.local");
    let directory = TempDir::new().unwrap();
    crate::support::certificates::keep(directory.path(), "edge", &root.issue(&server(&["edge.example"])));
    let yaml = "admin: false\nlisteners: [{name: edge, address: '127.0.0.1:0', tls: {certificates: [{cert: edge.crt, key: \
                edge.key}]}}]\nroutes: [{respond: {}}]\n";
    let gateway = Gateway::start_in(directory, yaml, &[]).await;
    let refused = TlsClient::trusting_all().speaking(TUNNEL).connect(gateway.address("edge"), "").await;
    assert!(refused.unwrap_err().contains("no application protocol"));
}
