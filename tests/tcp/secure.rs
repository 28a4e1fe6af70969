//! TLS on either side of a connection that is carried.

use openssl::ssl::AlpnError;
use tempfile::TempDir;

use super::*;
use crate::support::{
    TlsClient,
    certificates::{Issued, Order, authority, keep, self_signed, server, signer, svid, write},
    tls::{TlsServer, acceptor},
};

#[tokio::test]
async fn tls_ends_here_and_what_is_in_it_goes_on() {
    let directory = TempDir::new().unwrap();
    let root = authority("mesh.local");
    keep(directory.path(), "db", &root.issue(&server(&["db.example"])));
    keep(directory.path(), "root", &root);
    let echo = Server::echo().await;
    let tls = ", tls: {certificates: [{cert: db.crt, key: db.key}], client_auth: {mode: request, trust: {ca: root.crt}}}";
    let gateway = Gateway::start_in(directory, &yaml(&[echo.address], tls, ""), &[]).await;
    let own = root.issue(&svid("spiffe://mesh.local/orders"));
    let client = TlsClient::of(&root).showing(&own).speaking(b"\x0apostgresql");
    let mut client = client.connect(gateway.address("db"), "db.example").await.unwrap();
    assert_eq!(client.ssl().selected_alpn_protocol(), None, "that is between the client and the server");
    let said: Vec<u8> = (0..1_000_000_u32).map(|n| (n ^ (n >> 8)) as u8).collect();
    let (mut from, mut to) = tokio::io::split(client);
    let sent = said.clone();
    let sending = tokio::spawn(async move {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
        to
    });
    let mut heard = Vec::new();
    within_deadline("all of it", from.read_to_end(&mut heard)).await.unwrap();
    assert!(heard == said, "what came back is not what was sent");
    client = from.unsplit(sending.await.unwrap());
    drop(client);
    let line = gateway.wait_for_message("connection").await;
    let expected = ["TLSv1.3", "spiffe://mesh.local/orders"];
    assert_eq!([line["tls"].as_str(), line["peer"].as_str()], expected.map(Some));
    assert_eq!((&line["bytes_in"], line.get("reason")), (&1_000_000.into(), None));
}

/// One request over TCP, as any other bytes.
const REQUEST: &str = "GET /a HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";

async fn ask(gateway: &Gateway) -> String {
    let mut client = connect(gateway).await;
    client.write_all(REQUEST.as_bytes()).await.unwrap();
    rest(&mut client).await.unwrap_or_default()
}

#[tokio::test]
async fn tls_begins_here_and_nothing_is_said_to_an_impostor() {
    let root =
        self_signed(&Order { subject: "internal root".into(), uris: Vec::new(), ..signer("mesh.local") });
    for (name, reason) in [("users.internal", None), ("orders.internal", Some("upstream_identity_mismatch"))]
    {
        let issued = root.issue(&server(&[name]));
        let mut builder = acceptor(&issued.certificate, &issued.key, &[]);
        // Asked only where something was offered.
        builder.set_alpn_select_callback(|_, _| Err(AlpnError::ALERT_FATAL));
        let far = TlsServer::start(builder).await;
        let directory = TempDir::new().unwrap();
        write(&directory.path().join("ca.pem"), &root.pem(), 0o644);
        let tls = ", tls: {verify: {name: users.internal, ca: ca.pem}}";
        let gateway = Gateway::start_in(directory, &yaml(&[far.address()], "", tls), &[]).await;
        let answer = ask(&gateway).await;
        let line = gateway.wait_for_message("connection").await;
        assert_eq!(line.get("reason").and_then(Value::as_str), reason, "{name}: {answer}");
        match reason {
            None => assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n1"), "{answer}"),
            Some(_) => {
                assert_eq!((answer.as_str(), &line["bytes_in"]), ("", &0.into()));
                let said = gateway.wait_for_message("endpoint is not trusted").await;
                assert!(said["why"].as_str().unwrap().contains(name), "{said}");
                assert_eq!(far.record().requests, Vec::<String>::new());
            }
        }
    }
}

#[tokio::test]
async fn only_the_spiffe_id_that_is_expected_hears_anything() {
    let root = authority("mesh.local");
    for (id, answers) in [("spiffe://mesh.local/db", true), ("spiffe://mesh.local/mail", false)] {
        let issued = root.issue(&svid(id));
        let far = TlsServer::start(acceptor(&issued.certificate, &issued.key, &[])).await;
        let directory = TempDir::new().unwrap();
        root.issue(&svid("spiffe://mesh.local/gateway")).write_to(directory.path(), &root);
        let identity = "identity: {trust_domain: mesh.local, files: {cert: svid.pem, key: svid.key, bundle: bundle.pem}}\n";
        let tls = ", tls: {verify: {spiffe: ['spiffe://mesh.local/db']}, client_identity: true}";
        let yaml = format!("{identity}{}", yaml(&[far.address()], "", tls));
        let gateway = Gateway::start_in(directory, &yaml, &[]).await;
        let answer = ask(&gateway).await;
        assert_eq!(answer.starts_with("HTTP/1.1 200"), answers, "{id}: {answer}");
        assert_eq!(far.record().requests.len(), usize::from(answers), "{id}");
        let reason = gateway.wait_for_message("connection").await.get("reason").cloned();
        assert_eq!(reason, (!answers).then(|| "upstream_identity_mismatch".into()), "{id}");
    }
}

/// Each name leads to a server that says who it is.
async fn by_name(more: &str) -> (Gateway, Issued, [Server; 3]) {
    let directory = TempDir::new().unwrap();
    let root = authority("mesh.local");
    keep(
        directory.path(),
        "mq",
        &root.issue(&server(&["*.mq.example", "orders.mq.example", "a.b.mq.example"])),
    );
    let servers = [Server::named("orders").await, Server::named("others").await, Server::named("rest").await];
    let [orders, others, rest] = servers.each_ref().map(|server| server.address);
    let yaml = format!(
        "admin: {{address: '127.0.0.1:0'}}\nlisteners:\n- {{name: db, address: '127.0.0.1:0', protocol: tcp, \
         tls: {{certificates: [{{cert: mq.crt, key: mq.key}}]}}, \
         sni: {{orders.mq.example: orders, '*.mq.example': others}}{more}}}\n\
         upstreams: {{orders: {{endpoints: ['{orders}']}}, others: {{endpoints: ['{others}']}}, rest: {{endpoints: ['{rest}']}}}}\n"
    );
    (Gateway::start_in(directory, &yaml, &[]).await, root, servers)
}

async fn heard(gateway: &Gateway, root: &Issued, name: &str) -> Result<String, String> {
    let mut client = TlsClient::of(root).connect(gateway.address("db"), name).await?;
    client.write_all(b"!").await.map_err(|error| error.to_string())?;
    let mut said = vec![0; 7];
    let read = within_deadline("what the server says", client.read_exact(&mut said)).await;
    read.map_err(|error| error.to_string())?;
    Ok(String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn tls_ends_here_and_the_name_in_it_chooses_the_upstream() {
    let (gateway, root, _servers) = by_name("").await;
    assert_eq!(heard(&gateway, &root, "orders.mq.example").await.unwrap(), "orders!");
    let line = gateway.wait_for_message("connection").await;
    let shown = ["host", "upstream", "tls", "protocol"].map(|key| line[key].as_str().unwrap_or_default());
    assert_eq!(shown, ["orders.mq.example", "orders", "TLSv1.3", "TCP"], "{line}");
    assert_eq!(heard(&gateway, &root, "ORDERS.mq.example").await.unwrap(), "orders!", "in any case");
    assert_eq!(heard(&gateway, &root, "a.b.mq.example").await.unwrap(), "others!");
}

#[tokio::test]
async fn a_name_without_an_upstream_is_refused_in_the_handshake() {
    let (gateway, _, _servers) = by_name("").await;
    for name in ["elsewhere.example", ""] {
        let refused = TlsClient::trusting_all().connect(gateway.address("db"), name).await.map(drop);
        assert!(refused.unwrap_err().contains("unrecognized name"), "{name}");
    }
    let counted = "tidegate_tls_handshake_failures_total{listener=\"db\",reason=\"unrecognized_name\"}";
    assert_eq!(series(&gateway, counted, &[]).await, Some(2.0));
    let line = gateway.wait_for_message("connection").await;
    assert_eq!((&line["host"], &line["reason"]), (&"elsewhere.example".into(), &"no_route".into()), "{line}");
}

#[tokio::test]
async fn upstream_is_for_all_names_that_have_none_of_their_own() {
    let (gateway, _, _servers) = by_name(", upstream: rest").await;
    for name in ["elsewhere.example", ""] {
        let mut client = TlsClient::trusting_all().connect(gateway.address("db"), name).await.unwrap();
        let mut said = [0; 4];
        within_deadline("what the server says", client.read_exact(&mut said)).await.unwrap();
        assert_eq!(&said, b"rest", "{name}");
    }
}
