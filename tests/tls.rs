//! TLS towards clients over real sockets: what is shown to whom, what is refused, and what changes without a connection
//! lost. The clients are OpenSSL's.

mod bad_input;
mod callers;
mod certificates;

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;

use hyper_util::rt::TokioIo;
use openssl::ssl::{SslContext, SslContextBuilder, SslMethod, SslRef, SslVerifyMode};
use openssl::x509::store::X509StoreBuilder;
use pingora_core::tls::tokio_ssl::SslStream;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::certificates::{Issued, Order, authority, svid, write};
use crate::support::{Connection, Gateway, get, metric, series, wait_for_metric, within_deadline};

type Tls = SslStream<TcpStream>;

/// A certificate of a web server.
fn server(names: &[&str]) -> Order {
    let dns = names.iter().map(|name| (*name).to_owned()).collect();
    Order {
        subject: names.first().copied().unwrap_or("server").to_owned(),
        dns,
        uris: Vec::new(),
        ..svid("")
    }
}

/// `NAME.crt` and `NAME.key` in `directory`.
fn keep(directory: &Path, name: &str, issued: &Issued) {
    write(&directory.join(format!("{name}.key")), &issued.key_pem(), 0o600);
    write(&directory.join(format!("{name}.crt")), &issued.pem(), 0o644);
}

/// What clients trust and show.
#[derive(Clone)]
struct Client {
    root: Issued,
    own: Option<Issued>,
    alpn: &'static [u8],
}

impl Client {
    fn of(root: &Issued) -> Client {
        Client { root: root.clone(), own: None, alpn: b"" }
    }

    fn showing(&self, own: &Issued) -> Client {
        Client { own: Some(own.clone()), ..self.clone() }
    }

    fn speaking(&self, alpn: &'static [u8]) -> Client {
        Client { alpn, ..self.clone() }
    }

    fn context(&self) -> SslContextBuilder {
        let mut context = SslContext::builder(SslMethod::tls_client()).unwrap();
        let mut store = X509StoreBuilder::new().unwrap();
        store.add_cert(self.root.certificate.clone()).unwrap();
        context.set_cert_store(store.build());
        context.set_verify(SslVerifyMode::PEER);
        if !self.alpn.is_empty() {
            context.set_alpn_protos(self.alpn).unwrap();
        }
        if let Some(own) = &self.own {
            context.set_certificate(&own.certificate).unwrap();
            context.set_private_key(&own.key).unwrap();
        }
        context
    }

    async fn connect(&self, address: SocketAddr, name: &str) -> Result<Tls, String> {
        shake(self.context(), address, name).await
    }

    /// One request on a connection of its own; what went wrong says so in OpenSSL's words.
    async fn get(&self, address: SocketAddr, name: &str, path: &str) -> Result<Value, String> {
        let mut stream = self.connect(address, name).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
        // One that is refused meanwhile is told why where it reads.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = String::new();
        let read = within_deadline("an answer", stream.read_to_string(&mut answer)).await;
        read.map_err(|error| error.to_string())?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
        Ok(serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())))
    }
}

async fn shake(context: SslContextBuilder, address: SocketAddr, name: &str) -> Result<Tls, String> {
    let mut ssl = openssl::ssl::Ssl::new(&context.build()).unwrap();
    if !name.is_empty() {
        ssl.set_hostname(name).unwrap();
        ssl.param_mut().set_host(name).unwrap();
    }
    let socket = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let mut stream = SslStream::new(ssl, socket).unwrap();
    let shaken = within_deadline("a handshake", Pin::new(&mut stream).connect()).await;
    shaken.map(|()| stream).map_err(|error| error.to_string())
}

/// The names in the certificate that was shown.
fn shown(ssl: &SslRef) -> Vec<String> {
    let names = ssl.peer_certificate().unwrap().subject_alt_names();
    names.iter().flatten().filter_map(|name| name.dnsname().map(str::to_owned)).collect()
}

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
    let client = Client::of(&root);
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
    let seen = Client::of(&root).get(gateway.address("main"), "a.example", "/headers").await.unwrap();
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
        let client = Client::of(&root).speaking(alpn);
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
    let mut context = Client::of(root).context();
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
    let client = Client::of(&root);
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
    let client = Client::of(&root);
    let address = gateway.address("main");
    assert_eq!(client.get(address, "a.example", "/").await.unwrap(), "hello");
    let successor = gateway.upgrade().await;
    assert_eq!(client.get(address, "a.example", "/").await.unwrap(), "hello");
    drop(successor);
}
