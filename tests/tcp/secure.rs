//! TLS on either side of a connection that is carried.

use openssl::ssl::AlpnError;
use tempfile::TempDir;

use super::*;
use crate::support::{
    TlsClient,
    certificates::{Order, authority, keep, self_signed, server, signer, svid, write},
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
