//! Lines to a server of syslog over TLS (RFC 5425): who is trusted, who is shown, and what becomes of lines meanwhile.

use std::{net::SocketAddr, pin::Pin};

use openssl::ssl::{Ssl, SslAcceptor, SslMethod, SslVerifyMode};
use pingora_core::tls::tokio_ssl::SslStream;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    Gateway, Yaml,
    certificates::{Issued, authority, keep, server, svid, write},
    get, metric, within_deadline,
};

/// A server that takes messages one connection after the other.
struct Server {
    listener: TcpListener,
    acceptor: SslAcceptor,
}

type Connection = BufReader<SslStream<TcpStream>>;

impl Server {
    /// It shows `own`, and asks for a certificate of `clients` where there is one.
    async fn start(own: &Issued, clients: Option<&Issued>) -> Server {
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
        builder.set_certificate(&own.certificate).unwrap();
        builder.set_private_key(&own.key).unwrap();
        if let Some(root) = clients {
            builder.cert_store_mut().add_cert(root.certificate.clone()).unwrap();
            builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Server { listener, acceptor: builder.build() }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The next connection; `None` where the handshake failed.
    async fn accept(&self) -> Option<Connection> {
        let (stream, _) = within_deadline("a connection", self.listener.accept()).await.unwrap();
        let mut stream = SslStream::new(Ssl::new(self.acceptor.context()).unwrap(), stream).unwrap();
        let shaken = within_deadline("a handshake", Pin::new(&mut stream).accept()).await;
        shaken.is_ok().then(|| BufReader::new(stream))
    }

    async fn accept_good(&self) -> Connection {
        self.accept().await.expect("a handshake that succeeds")
    }
}

/// What stands in front of a message, and the message.
async fn message(connection: &mut Connection) -> (String, Value) {
    let mut count = Vec::new();
    within_deadline("a count", connection.read_until(b' ', &mut count)).await.unwrap();
    let count: usize = std::str::from_utf8(&count).unwrap().trim_end().parse().unwrap();
    let mut message = vec![0; count];
    within_deadline("a message", connection.read_exact(&mut message)).await.unwrap();
    let message = String::from_utf8(message).unwrap();
    let (head, line) = message.split_once(" request - ").unwrap();
    (head.to_owned(), serde_json::from_str(line).unwrap())
}

fn yaml(address: SocketAddr, tls: &str, more: &str) -> String {
    Yaml::new()
        .top(&format!(
            "log: {{access: {{to: {{syslog: {{address: 'tls://{address}', tls: {{{tls}}}}}}}{more}}}}}"
        ))
        .with_route("respond: {status: 200, body: ok}")
        .to_string()
}

/// With the authority in `root.crt`, and a certificate of ours in `edge.crt`.
fn directory(root: &Issued) -> TempDir {
    let directory = TempDir::new().unwrap();
    keep(directory.path(), "root", root);
    keep(directory.path(), "edge", &root.issue(&svid("spiffe://test/edge")));
    directory
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_counted_and_both_sides_show_who_they_are() {
    let root = authority("test");
    let server = Server::start(&root.issue(&server(&["logs.example"])), Some(&root)).await;
    let tls = "ca: root.crt, cert: edge.crt, key: edge.key, name: logs.example";
    let gateway = Gateway::start_in(directory(&root), &yaml(server.address(), tls, ""), &[]).await;
    get(gateway.address("main"), "/1").await.assert_status(200);
    let mut connection = server.accept_good().await;
    let (head, line) = message(&mut connection).await;
    assert!(head.starts_with("<134>1 "), "{head}");
    assert_eq!(line["path"], "/1");
    get(gateway.address("main"), "/2").await.assert_status(200);
    assert_eq!(message(&mut connection).await.1["path"], "/2", "over the same connection");
    let shown = connection.get_ref().ssl().peer_certificate().expect("the client's certificate");
    assert_eq!(shown.subject_alt_names().unwrap().get(0).unwrap().uri(), Some("spiffe://test/edge"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_name_or_authority_gets_nothing_and_lines_wait_for_the_right_one() {
    let (root, other) = (authority("test"), authority("other"));
    for (own, tls) in [
        (other.issue(&server(&["logs.example"])), "ca: root.crt, name: logs.example"),
        (root.issue(&server(&["else.example"])), "ca: root.crt, name: logs.example"),
        (root.issue(&server(&["logs.example"])), "ca: root.crt"),
        (root.issue(&server(&["logs.example"])), "name: logs.example"),
    ] {
        let wrong = Server::start(&own, None).await;
        let gateway = Gateway::start_in(directory(&root), &yaml(wrong.address(), tls, ""), &[]).await;
        get(gateway.address("main"), "/1").await.assert_status(200);
        assert!(wrong.accept().await.is_none(), "{tls}");
        let told = gateway.wait_for_message("the syslog server cannot be reached, lines wait for it").await;
        assert!(told["error"].as_str().unwrap().contains("certificate verify failed"), "{told}");
        assert_eq!(metric(&gateway, "tidegate_access_log_dropped_total", &[]).await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_connection_follows_a_lost_one_and_reads_the_files_anew() {
    let (root, next) = (authority("test"), authority("next"));
    let first = Server::start(&root.issue(&server(&["logs.example"])), None).await;
    let address = first.address();
    let tls = "ca: root.crt, name: logs.example";
    let gateway = Gateway::start_in(directory(&root), &yaml(address, tls, ""), &[]).await;
    get(gateway.address("main"), "/1").await.assert_status(200);
    let mut connection = first.accept_good().await;
    assert_eq!(message(&mut connection).await.1["path"], "/1");
    // It says goodbye, and comes back with a certificate of another authority.
    connection.get_mut().shutdown().await.unwrap();
    let second = Server::start(&next.issue(&server(&["logs.example"])), None).await;
    let second = Server { listener: first.listener, acceptor: second.acceptor };
    write(&gateway.directory().join("root.crt"), &next.pem(), 0o644);
    get(gateway.address("main"), "/2").await.assert_status(200);
    let mut connection = second.accept_good().await;
    assert_eq!(message(&mut connection).await.1["path"], "/2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_while_no_server_is_there_is_dropped_and_counted() {
    let root = authority("test");
    // Nobody accepts here.
    let server = Server::start(&root.issue(&server(&["logs.example"])), None).await;
    let address = server.address();
    drop(server);
    let yaml = yaml(address, "ca: root.crt, name: logs.example", ", buffer: 1KiB");
    let gateway = Gateway::start_in(directory(&root), &yaml, &[]).await;
    for _ in 0..20 {
        get(gateway.address("main"), "/1").await.assert_status(200);
    }
    let dropped = async {
        while metric(&gateway, "tidegate_access_log_dropped_total", &[]).await == 0.0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    within_deadline("a line that is dropped", dropped).await;
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
}
