//! TLS towards clients over real sockets: what is shown to whom, what is refused, and what changes without a connection
//! lost. The clients are OpenSSL's.

mod agreement;
mod bad_input;
mod callers;
mod certificates;

use std::net::SocketAddr;
use std::pin::Pin;

use hyper_util::rt::TokioIo;
use openssl::ssl::SslVerifyMode;
use pingora_core::tls::tokio_ssl::SslStream;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::certificates::{Issued, Order, authority, keep, server, svid, write};
use crate::support::connect::{shake, shown};
use crate::support::{Connection, Gateway, TlsClient, get, metric, series, wait_for_metric, within_deadline};

/// A gateway whose listener `main` has these TLS settings, and answers everything with its scheme.
fn configuration(tls: &str, more: &str) -> String {
    format!(
        "admin: {{address: \"127.0.0.1:0\"}}\nlog: {{level: debug}}\n\
         listeners: [{{name: main, address: \"127.0.0.1:0\", tls: {{{tls}}}{more}}}]\n\
         routes: [{{respond: {{body: hello}}}}]\n"
    )
}

const EDGE: &str = "certificates: [{cert: edge.crt, key: edge.key}]";

/// One that shows a certificate for `a.example`, and the authority that has issued it.
async fn edge(tls: &str, more: &str) -> (Gateway, Issued) {
    let directory = TempDir::new().unwrap();
    let root = authority("test");
    keep(directory.path(), "edge", &root.issue(&server(&["a.example"])));
    keep(directory.path(), "root", &root);
    (Gateway::start_in(directory, &configuration(tls, more), &[]).await, root)
}

/// Waits until a handshake of that kind has failed.
async fn failed(gateway: &Gateway, reason: &str) {
    let said = format!("failed ({reason})");
    gateway.wait_for_line(|line| line["msg"].as_str().is_some_and(|msg| msg.contains(&said))).await;
    let name = format!("tidegate_tls_handshake_failures_total{{listener=\"main\",reason=\"{reason}\"}}");
    assert!(series(gateway, &name, &[]).await.is_some(), "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_and_http2_are_agreed_on_by_alpn() {
    let (gateway, root) = edge(EDGE, "").await;
    let client = TlsClient::of(&root);
    for (offered, agreed, version) in [
        (&b"\x02h2\x08http/1.1"[..], Some(&b"h2"[..]), http::Version::HTTP_2),
        (b"\x08http/1.1\x02h2", Some(b"h2"), http::Version::HTTP_2),
        (b"\x08http/1.1", Some(b"http/1.1"), http::Version::HTTP_11),
        (b"", None, http::Version::HTTP_11),
    ] {
        let stream = client.speaking(offered).connect(gateway.address("main"), "a.example").await.unwrap();
        assert_eq!(stream.ssl().selected_alpn_protocol(), agreed);
        assert_eq!(stream.ssl().version_str(), "TLSv1.3");
        let io = TokioIo::new(stream);
        let mut connection = match agreed {
            Some(b"h2") => Connection::http2_over(io, "a.example".into()).await.unwrap(),
            _ => Connection::http1_over(io, "a.example".into()).await.unwrap(),
        };
        for _ in 0..2 {
            let answer = connection.send("GET", "/", &[], "").await.unwrap();
            assert_eq!((answer.version, answer.text()), (version, "hello"));
        }
    }
    let line = gateway.wait_for_line(|line| line["protocol"] == "HTTP/2").await;
    assert_eq!(line["tls"], "TLSv1.3");
    let name = "tidegate_tls_handshakes_total{listener=\"main\",version=\"TLSv1.3\"}";
    assert_eq!(series(&gateway, name, &[]).await, Some(4.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_learn_that_the_client_spoke_tls() {
    let directory = TempDir::new().unwrap();
    let root = authority("test");
    keep(directory.path(), "edge", &root.issue(&server(&["a.example"])));
    let backend = crate::support::Backend::start().await;
    let yaml = format!(
        "admin: false\nforwarded: {{forwarded: true}}\n\
         listeners: [{{name: main, address: \"127.0.0.1:0\", tls: {{{EDGE}}}, filters: [{{https_redirect: {{}}}}]}}]\n\
         routes: [{{upstream: origin}}]\nupstreams: {{origin: {{endpoints: [\"{}\"]}}}}\n",
        backend.address()
    );
    let gateway = Gateway::start_in(directory, &yaml, &[]).await;
    let seen = TlsClient::of(&root).get(gateway.address("main"), "a.example", "/headers").await.unwrap();
    let fields = seen["headers"].to_string();
    assert!(fields.contains(r#"["x-forwarded-proto","https"]"#), "{fields}");
    assert!(fields.contains("proto=https"), "{fields}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_in_both_directions() {
    let directory = TempDir::new().unwrap();
    let root = authority("test");
    keep(directory.path(), "edge", &root.issue(&server(&["a.example"])));
    let backend = crate::support::Backend::start().await;
    let yaml = format!(
        "admin: false\nlisteners: [{{name: main, address: \"127.0.0.1:0\", tls: {{{EDGE}}}}}]\n\
         routes: [{{upstream: origin}}]\nupstreams: {{origin: {{endpoints: [\"{}\"]}}}}\n",
        backend.address()
    );
    let gateway = Gateway::start_in(directory, &yaml, &[]).await;
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    for alpn in [&b"\x02h2"[..], b"\x08http/1.1"] {
        let client = TlsClient::of(&root).speaking(alpn);
        let io = TokioIo::new(client.connect(gateway.address("main"), "a.example").await.unwrap());
        let mut connection = match alpn {
            b"\x02h2" => Connection::http2_over(io, "a.example".into()).await.unwrap(),
            _ => Connection::http1_over(io, "a.example".into()).await.unwrap(),
        };
        let sent = connection.send("POST", "/echo", &[], body.clone());
        let answer = within_deadline("an echo", sent).await.unwrap();
        assert!(answer.body == body, "{} bytes", answer.body.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed_where_clients_are_not_known() {
    for (tls, expected) in [
        (EDGE.to_owned(), true),
        (format!("{EDGE}, client_auth: {{mode: request, trust: {{ca: root.crt}}}}"), false),
    ] {
        let (gateway, root) = edge(&tls, "").await;
        for version in [openssl::ssl::SslVersion::TLS1_2, openssl::ssl::SslVersion::TLS1_3] {
            let resumed =
                within_deadline("resumption", resumes(gateway.address("main"), &root, version)).await;
            assert_eq!(resumed, expected, "{tls} {version:?}");
        }
    }
}

/// Whether a second connection goes on with the session of the first.
async fn resumes(address: SocketAddr, root: &Issued, version: openssl::ssl::SslVersion) -> bool {
    let mut context = TlsClient::of(root).context();
    context.set_max_proto_version(Some(version)).unwrap();
    let context = context.build();
    let mut kept: Option<openssl::ssl::SslSession> = None;
    let mut reused = false;
    for _ in 0..2 {
        let mut ssl = openssl::ssl::Ssl::new(&context).unwrap();
        ssl.set_hostname("a.example").unwrap();
        if let Some(session) = &kept {
            // SAFETY: it is of the same context.
            unsafe { ssl.set_session(session) }.unwrap();
        }
        let mut stream = SslStream::new(ssl, TcpStream::connect(address).await.unwrap()).unwrap();
        Pin::new(&mut stream).connect().await.unwrap();
        reused = stream.ssl().session_reused();
        // Tickets come with the first answer at the latest.
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.ends_with(b"hello"), "{}", String::from_utf8_lossy(&answer));
        kept = stream.ssl().session().map(|session| session.to_owned());
        // OpenSSL forgets the session of a connection that was not ended by both sides.
        let _ = stream.shutdown().await;
    }
    reused
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_switches_a_listener_between_plain_text_and_tls() {
    let directory = TempDir::new().unwrap();
    let root = authority("test");
    keep(directory.path(), "edge", &root.issue(&server(&["a.example"])));
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let yaml = |tls: &str| {
        format!(
            "admin: false\nlisteners: [{{name: main, address: \"{address}\"{tls}}}]\n\
             routes: [{{respond: {{body: hello}}}}]\n"
        )
    };
    let secret = format!(", tls: {{{EDGE}}}");
    let gateway = Gateway::start_in(directory, &yaml(""), &[]).await;
    let mut plain = Connection::http1(address).await.unwrap();
    assert_eq!(plain.send("GET", "/", &[], "").await.unwrap().text(), "hello");
    gateway.reload(&yaml(&secret)).await;
    let client = TlsClient::of(&root);
    let stream = client.connect(address, "a.example").await.unwrap();
    let mut kept = Connection::http1_over(TokioIo::new(stream), "a.example".into()).await.unwrap();
    assert_eq!(kept.send("GET", "/", &[], "").await.unwrap().text(), "hello");
    // What was open goes on as it was.
    assert_eq!(plain.send("GET", "/", &[], "").await.unwrap().text(), "hello");
    gateway.reload(&yaml("")).await;
    assert_eq!(get(address, "/").await.text(), "hello");
    assert_eq!(kept.send("GET", "/", &[], "").await.unwrap().text(), "hello");
    assert!(client.connect(address, "a.example").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_hands_a_tls_listener_over() {
    let (gateway, root) = edge(EDGE, "").await;
    let client = TlsClient::of(&root);
    let address = gateway.address("main");
    assert_eq!(client.get(address, "a.example", "/").await.unwrap(), "hello");
    let successor = gateway.upgrade().await;
    assert_eq!(client.get(address, "a.example", "/").await.unwrap(), "hello");
    drop(successor);
}
