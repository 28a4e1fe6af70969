//! TLS that passes through: where it goes by what the client asks for, that not a byte is changed, and what is turned away.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
};

use openssl::ssl::Ssl;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::support::{
    RawConnection, ScriptedUpstream, Step, TlsClient,
    certificates::{Issued, authority, write},
    connect::{Pieces, Tls, asking_for, connect, in_records, shake_over, shake_scattered, shown},
    raw,
    tls::{TlsServer, acceptor},
};

/// Servers that show certificates of their own names, and the authority that has issued them.
struct Servers {
    root: Issued,
    all: Vec<(&'static str, TlsServer)>,
}

impl Servers {
    async fn start(names: &[&'static str]) -> Servers {
        let root = authority("test");
        let mut all = Vec::new();
        for name in names {
            let issued = root.issue(&server(&[name]));
            all.push((*name, TlsServer::start(acceptor(&issued.certificate, &issued.key, &[])).await));
        }
        Servers { root, all }
    }

    /// One upstream for each, under the first label of its name.
    fn upstreams(&self) -> String {
        let each = self.all.iter().map(|(name, server)| {
            format!("  {}: {{endpoints: ['{}']}}\n", name.split('.').next().unwrap(), server.address())
        });
        each.collect()
    }

    /// A client that trusts them, offers `alpn` and asks for `name`, whichever of them it then meets.
    fn asking(&self, name: &str, alpn: &'static [u8]) -> Ssl {
        asking_for(TlsClient::of(&self.root).speaking(alpn).context(), name)
    }

    async fn connect(&self, address: SocketAddr, name: &str, alpn: &'static [u8]) -> Result<Tls, String> {
        shake_over(connect(address).await.unwrap(), self.asking(name, alpn)).await
    }

    /// What the server shows to one who asks for `name` and offers `alpn`, by an answer that only it can have given.
    async fn met(&self, address: SocketAddr, name: &str, alpn: &'static [u8]) -> Result<String, String> {
        let mut stream = self.connect(address, name, alpn).await?;
        if stream.ssl().selected_alpn_protocol() != Some(b"h2") {
            let request = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
            let mut answer = String::new();
            within_deadline("an answer", stream.read_to_string(&mut answer)).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        Ok(shown(stream.ssl()).remove(0))
    }
}

/// The listener `main` passes through what `sni` says.
fn yaml(sni: &str, listener: &str, upstreams: &str) -> String {
    format!(
        "admin: {{address: '127.0.0.1:0'}}\nlog: {{level: debug}}\n\
         listeners:\n- {{name: main, address: '127.0.0.1:0', protocol: tls_passthrough{listener},\n   sni: {{{sni}}}}}\n\
         upstreams:\n{upstreams}"
    )
}

async fn failures(gateway: &Gateway, reason: &str) -> f64 {
    let series = format!("tidegate_tls_handshake_failures_total{{listener=\"main\",reason=\"{reason}\"}}");
    metric(gateway, &series, &[]).await
}

/// What OpenSSL's client says first.
fn client_hello(name: &str, alpn: &'static [u8]) -> Vec<u8> {
    #[derive(Debug)]
    struct Deaf(Vec<u8>);
    impl Read for Deaf {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
    impl Write for Deaf {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let context = TlsClient::trusting_all().speaking(alpn).context();
    match asking_for(context, name).connect(Deaf(Vec::new())) {
        Err(openssl::ssl::HandshakeError::WouldBlock(unfinished)) => unfinished.get_ref().0.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_where_the_name_and_the_protocol_lead() {
    let servers = Servers::start(&["db.example", "web.test", "grpc.test", "other.test"]).await;
    let sni = "DB.example: db, '*.apps.example': web, split.example: {alpn: {h2: grpc, http/1.1: web}, default: db}, \
               strict.example: {alpn: {h2: grpc}}, '*': other";
    let gateway = Gateway::start(&yaml(sni, "", &servers.upstreams())).await;
    let address = gateway.address("main");
    for (name, alpn, expected) in [
        ("db.example", &b""[..], "db.example"),
        ("dB.EXAMPLE", b"\x02h2", "db.example"),
        ("a.apps.example", b"", "web.test"),
        ("a.b.apps.example", b"", "web.test"),
        ("apps.example", b"", "other.test"),
        ("split.example", b"\x02h2\x08http/1.1", "grpc.test"),
        ("split.example", b"\x08http/1.1\x02h2", "web.test"),
        // GREASE (RFC 8701), as browsers offer it.
        ("split.example", b"\x02\x5a\x5a\x08http/1.1", "web.test"),
        ("split.example", b"", "db.example"),
        ("strict.example", b"\x02h2", "grpc.test"),
        ("nobody.example", b"", "other.test"),
        ("", b"", "other.test"),
    ] {
        assert_eq!(servers.met(address, name, alpn).await.as_deref(), Ok(expected), "{name} {alpn:?}");
        let line = gateway.wait_for_message("connection").await;
        let host = Some(name.to_ascii_lowercase()).filter(|name| !name.is_empty());
        assert_eq!(line.get("host").and_then(Value::as_str), host.as_deref(), "{line}");
        assert_eq!((&line["protocol"], line.get("tls")), (&"TLS".into(), None));
        assert_eq!(line["upstream"], expected.split('.').next().unwrap());
    }
    let strange = servers.met(address, "strict.example", b"\x05xmpp1").await.unwrap_err();
    assert!(strange.contains("no application protocol"), "{strange}");
    assert_eq!(failures(&gateway, "no_application_protocol").await, 1.0);
    let line = gateway.wait_for_message("connection").await;
    assert_eq!([&line["reason"], &line["host"]], ["no_route", "strict.example"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_port_passes_some_names_through_and_terminates_the_others() {
    let servers = Servers::start(&["db.example", "web.test"]).await;
    let directory = TempDir::new().unwrap();
    keep(directory.path(), "edge", &servers.root.issue(&server(&["edge.example"])));
    let settings = format!(
        "admin: {{address: '127.0.0.1:0'}}\nlog: {{level: debug}}\n\
         listeners:\n- name: main\n  address: '127.0.0.1:0'\n  tls: {{certificates: [{{cert: edge.crt, key: edge.key}}]}}\n  \
         sni: {{db.example: db, '*.web.test': {{alpn: {{h2: web}}}}}}\n\
         routes: [{{respond: {{body: terminated}}}}]\nupstreams:\n{}",
        servers.upstreams()
    );
    let gateway = Gateway::start_in(directory, &settings, &[]).await;
    let address = gateway.address("main");
    for (name, alpn, expected) in [
        ("db.example", &b""[..], "db.example"),
        ("a.web.test", b"\x02h2", "web.test"),
        ("edge.example", b"", "edge.example"),
        ("web.test", b"\x08http/1.1", "edge.example"),
        ("", b"", "edge.example"),
    ] {
        assert_eq!(servers.met(address, name, alpn).await.as_deref(), Ok(expected), "{name}");
    }
    let refused = servers.met(address, "a.web.test", b"\x08http/1.1").await.unwrap_err();
    assert!(
        refused.contains("no application protocol"),
        "a name that passes through is never terminated: {refused}"
    );
    for (bytes, reason) in [(&b"GET / HTTP/1.1\r\n\r\n"[..], "plain_http"), (b"SSH-2.0-x\r\n", "not_tls")] {
        let answer = String::from_utf8_lossy(&raw(address, bytes)).into_owned();
        assert_eq!(answer.starts_with("HTTP/1.1 400 "), reason == "plain_http", "{answer}");
        assert_eq!(failures(&gateway, reason).await, 1.0, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_openssl_get_through() {
    let servers = Servers::start(&["db.example", "web.example"]).await;
    let sni = "db.example: db, '*.example': web";
    let gateway = Gateway::start(&yaml(sni, "", &servers.upstreams())).await;
    let address = gateway.address("main").to_string();
    let trusted = gateway.directory().join("root.crt");
    write(&trusted, &servers.root.pem(), 0o644);
    let trusted = trusted.to_str().unwrap();
    let to = format!("web.example:443:{address}");
    for version in ["--http1.1", "--http2"] {
        let asked = [version, "--connect-to", &to, "--cacert", trusted, "https://web.example/"];
        assert!(curl(&asked).unwrap().parse::<u32>().is_ok());
    }
    for version in ["-tls1_2", "-tls1_3"] {
        let named = ["-servername", "db.example", "-verify_hostname", "db.example", "-alpn", "h2"];
        let common = ["s_client", "-connect", &address, "-CAfile", trusted, "-verify_return_error", version];
        let said = run("openssl", &[&common[..], &named].concat()).unwrap();
        assert!(said.contains("Verify return code: 0 (ok)") && said.contains("ALPN protocol: h2"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_in_many_pieces_is_understood_and_arrives_as_it_came() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadToEnd]).await;
    let upstreams = format!("  db: {{endpoints: ['{}']}}\n", upstream.address());
    let gateway = Gateway::start(&yaml("db.example: db", "", &upstreams)).await;
    let hello = client_hello("db.example", b"\x02h2");
    for (number, (records, piece)) in [(1, 1), (7, 100), (100, 13), (16_000, 1)].into_iter().enumerate() {
        // What follows is not looked at.
        let said = [&in_records(&hello, records)[..], b"\x14\x03\x03\0\x01\x01", &[0xff; 5000]].concat();
        let mut connection = RawConnection::open(gateway.address("main"));
        said.chunks(piece).for_each(|part| connection.write(part));
        connection.finish_writing();
        assert_eq!(connection.read_to_end(), b"");
        assert!(upstream.received(number) == said, "records of {records} in pieces of {piece}");
        assert_eq!(gateway.wait_for_message("connection").await["bytes_in"], said.len());
    }
}

/// A real handshake whose ClientHello is spread over records and segments as no client does who is not after something.
#[tokio::test(flavor = "multi_thread")]
async fn a_scattered_handshake_comes_to_its_end() {
    let servers = Servers::start(&["db.example"]).await;
    let gateway = Gateway::start(&yaml("db.example: db", "", &servers.upstreams())).await;
    let pieces = Pieces { record: Some(9), segment: 11 };
    let asking = servers.asking("db.example", b"");
    let shaken = shake_scattered(gateway.address("main"), asking, b"", pieces).unwrap();
    assert_eq!(shaken.ssl().verify_result(), openssl::x509::X509VerifyResult::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_the_names_and_leaves_open_connections_alone() {
    let servers = Servers::start(&["db.example", "new.example"]).await;
    let gateway = Gateway::start(&yaml("db.example: db", "", &servers.upstreams())).await;
    let address = gateway.address("main");
    let mut open = servers.connect(address, "db.example", b"\x08http/1.1").await.unwrap();
    let outcome = gateway.reload(&yaml("'*.example': new", "", &servers.upstreams())).await;
    assert_eq!(outcome["msg"], "configuration reloaded");
    open.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within_deadline("an answer", open.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(servers.met(address, "db.example", b"").await.as_deref(), Ok("new.example"));
}

/// Bad input: an SNI that matches nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_matches_nothing_is_told_so_and_holds_nothing() {
    let servers = Servers::start(&["db.example"]).await;
    let gateway = Gateway::start(&yaml("db.example: db", "", &servers.upstreams())).await;
    let address = gateway.address("main");
    servers.met(address, "nobody.example", b"").await.unwrap_err();
    failures(&gateway, "unrecognized_name").await;
    let before = descriptors(&gateway);
    for round in 0..20 {
        let name = ["other.example", "", "sub.db.example", "example"][round % 4];
        let refused = servers.met(address, name, b"").await.unwrap_err();
        assert!(refused.contains("unrecognized name"), "{refused}");
    }
    for round in 0..21 {
        let line = gateway.wait_for_message("connection").await;
        assert_eq!([&line["reason"], &line["protocol"], &line["client"]], ["no_route", "TLS", "127.0.0.1"]);
        if round == 1 {
            assert_eq!(line["host"], "other.example");
        }
    }
    assert_eq!(failures(&gateway, "unrecognized_name").await, 21.0);
    assert_eq!(metric(&gateway, "tidegate_errors_total{route=\"\",reason=\"no_route\"}", &[]).await, 21.0);
    wait_for_descriptors(&gateway, before).await;
    assert_eq!(servers.all[0].1.record().connections, 0);
}

const UNEXPECTED_MESSAGE: &[u8] = &[21, 3, 1, 0, 2, 2, 10];
const ILLEGAL_PARAMETER: &[u8] = &[21, 3, 1, 0, 2, 2, 47];
const DECODE_ERROR: &[u8] = &[21, 3, 1, 0, 2, 2, 50];

/// Bad input: garbage where a ClientHello should be, fragmented garbage, and one that is too long.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_for_a_hello_is_closed_with_its_reason_and_holds_nothing() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadToEnd]).await;
    let upstreams = format!("  db: {{endpoints: ['{}']}}\n", upstream.address());
    let gateway = Gateway::start(&yaml("db.example: db", "", &upstreams)).await;
    let address = gateway.address("main");
    raw(address, "x");
    assert_eq!(gateway.wait_for_message("connection").await["reason"], "bad_request");
    failures(&gateway, "not_tls").await;
    let before = descriptors(&gateway);
    let hello = client_hello("db.example", b"\x02h2");
    let with = |at: usize, byte: u8| {
        let mut hello = hello.clone();
        hello[at] = byte;
        hello
    };
    // A message as long as this would take a megabyte to be whole.
    let endless = [&[22, 3, 1, 0x40, 0, 1, 0x10, 0, 0][..], &[0; 16_380]].concat();
    // One that is not as long, but with a header around each byte.
    let sprawling = in_records(&[&[0; 5][..], &[1, 0, 0xf0, 0], &[0; 30_000]].concat(), 1);
    for (said, reason, answer) in [
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(), "plain_http", None),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), "plain_http", None),
        (b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), "not_tls", Some(&b""[..])),
        (vec![0x80, 0x2e, 1, 3, 1, 0, 0x15], "not_tls", Some(b"")),
        (vec![0xff; 3000], "not_tls", Some(b"")),
        (vec![21, 3, 3, 0, 2, 2, 40], "malformed_hello", Some(UNEXPECTED_MESSAGE)),
        (with(5, 2), "malformed_hello", Some(UNEXPECTED_MESSAGE)),
        (vec![22, 3, 1, 0, 0], "malformed_hello", Some(DECODE_ERROR)),
        (with(7, 0), "malformed_hello", Some(DECODE_ERROR)),
        (with(77, hello[77] | 1), "malformed_hello", Some(DECODE_ERROR)),
        (in_records(&with(77, hello[77] | 1), 1), "malformed_hello", Some(DECODE_ERROR)),
        (
            [&in_records(&hello, 40)[..45], &[23, 3, 3, 0, 1, 0]].concat(),
            "malformed_hello",
            Some(UNEXPECTED_MESSAGE),
        ),
        (endless, "hello_too_long", Some(ILLEGAL_PARAMETER)),
        (sprawling, "hello_too_long", Some(ILLEGAL_PARAMETER)),
    ] {
        let counted = failures(&gateway, reason).await;
        let heard = raw(address, &said);
        match answer {
            Some(alert) => assert_eq!(heard, alert, "{reason}: {:?}", &said[..said.len().min(60)]),
            None => assert!(heard.starts_with(b"HTTP/1.1 400 ") && heard.ends_with(b"HTTPS, not HTTP.\r\n")),
        }
        let line = gateway.wait_for_message("connection").await;
        assert_eq!([&line["reason"], &line["protocol"]], ["bad_request", "TLS"], "{reason}");
        assert_eq!(failures(&gateway, reason).await, counted + 1.0, "{reason}");
    }
    let mut rng = fastrand::Rng::with_seed(5);
    for round in 0..100 {
        let mut said: Vec<u8> = (0..rng.usize(1..900)).map(|_| rng.u8(..)).collect();
        // Half of them look like a ClientHello from afar, and a quarter nearly are one.
        match round % 4 {
            0 | 1 => said.splice(..0, [22, 3, 1, 0, said.len().min(255) as u8, 1, 0, 0]).for_each(drop),
            2 => {
                said = in_records(&hello, rng.usize(1..60));
                let at = rng.usize(..said.len());
                said.truncate(at);
            }
            _ => {}
        }
        let mut connection = RawConnection::open(address);
        connection.write_what_goes(&said);
        connection.finish_writing();
        connection.read_to_end();
        gateway.wait_for_message("connection").await;
    }
    wait_for_descriptors(&gateway, before).await;
    assert_eq!(upstream.connections(), 0);
}

/// Bad input: a ClientHello that never becomes whole.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_hello_is_waited_for_no_longer_than_it_may_take() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadToEnd]).await;
    let upstreams = format!("  db: {{endpoints: ['{}']}}\n", upstream.address());
    let limits = ", limits: {handshake_timeout: 1s}";
    let gateway = Gateway::start(&yaml("db.example: db", limits, &upstreams)).await;
    let address = gateway.address("main");
    raw(address, "x");
    failures(&gateway, "not_tls").await;
    let before = descriptors(&gateway);
    let hello = client_hello("db.example", b"\x02h2");
    let mut waiting: Vec<_> = [0, 1, 5, 60, hello.len() - 1]
        .into_iter()
        .cycle()
        .take(30)
        .map(|end| {
            let mut connection = RawConnection::open(address);
            connection.write(&hello[..end]);
            connection
        })
        .collect();
    waiting.iter_mut().for_each(|connection| assert_eq!(connection.read_to_end(), b""));
    for _ in 0..waiting.len() {
        gateway.wait_for_line(|line| line["reason"] == "client_timeout").await;
    }
    assert_eq!(failures(&gateway, "timeout").await, 30.0);
    // One that leaves instead.
    let mut leaving = RawConnection::open(address);
    leaving.write(&hello[..60]);
    leaving.finish_writing();
    assert_eq!(leaving.read_to_end(), b"");
    gateway.wait_for_line(|line| line["reason"] == "client_closed").await;
    assert_eq!(failures(&gateway, "closed").await, 1.0);
    wait_for_descriptors(&gateway, before).await;
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn what_could_not_be_meant_is_refused() {
    for (listener, expected) in [
        ("protocol: tls_passthrough", "no names, so nothing would be passed through"),
        ("sni: {a.example: db}", "listeners[0].sni: without TLS no client names a server"),
        ("protocol: tls_passthrough, sni: {a.example: bd}", "(did you mean `db`?)"),
        ("protocol: tls_passthrough, sni: {'a..example': db}", "listeners[0].sni.\"a..example\""),
        (
            "protocol: tls_passthrough, sni: {a.example: db, A.example: db}",
            "is named twice, in another spelling",
        ),
        ("protocol: tls_passthrough, sni: {a.example: {alpn: {}}}", "no protocols to choose by"),
        ("protocol: tls_passthrough, sni: {a.example: secure}", "is spoken to in TLS of our own"),
        ("protocol: tls_passthrough, sni: {a.example: db}, routes: [r]", "only HTTP has routes"),
        (
            "tls: {certificates: [{cert: edge.crt, key: edge.key}]}, sni: {'*': db}",
            "would leave nothing to terminate",
        ),
    ] {
        let yaml = format!(
            "listeners:\n- {{address: '127.0.0.1:1', {listener}}}\nroutes: [{{name: r, respond: {{}}}}]\n\
             upstreams: {{db: {{endpoints: ['127.0.0.1:2']}}, secure: {{endpoints: ['127.0.0.1:2'], tls: {{verify: {{name: a}}}}}}}}\n"
        );
        let (code, said, _) = Gateway::start_expecting_failure(&yaml, &["check"]).await;
        assert!(code == 3 && said.contains(expected), "{listener}: {said}");
    }
}

/// A PROXY header and the ClientHello in one packet, on a port that passes one name through and terminates the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_header_may_stand_before_the_hello_and_goes_on_as_one_of_ours() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadToEnd]).await;
    let directory = TempDir::new().unwrap();
    let root = authority("test");
    keep(directory.path(), "edge", &root.issue(&server(&["edge.example"])));
    let settings = format!(
        "admin: {{address: '127.0.0.1:0'}}\ntrusted_proxies: [127.0.0.1/32]\n\
         listeners:\n- name: main\n  address: '127.0.0.1:0'\n  proxy_protocol: accept\n  \
         tls: {{certificates: [{{cert: edge.crt, key: edge.key}}]}}\n  sni: {{db.example: db}}\n\
         routes: [{{respond: {{body: terminated}}}}]\n\
         upstreams: {{db: {{endpoints: ['{}'], proxy_protocol: v1}}}}\n",
        upstream.address()
    );
    let gateway = Gateway::start_in(directory, &settings, &[]).await;
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 443\r\n";
    let hello = client_hello("db.example", b"");
    let mut client = RawConnection::open(gateway.address("main"));
    client.write([&header[..], &hello].concat());
    client.finish_writing();
    assert_eq!(client.read_to_end(), b"");
    assert!(upstream.received(0) == [&header[..], &hello].concat());
    assert_eq!(gateway.wait_for_message("connection").await["client"], "192.0.2.7");

    let mut socket = TcpStream::connect(gateway.address("main")).await.unwrap();
    socket.write_all(header).await.unwrap();
    let mut stream =
        shake_over(socket, asking_for(TlsClient::of(&root).context(), "edge.example")).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within_deadline("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with("\r\n\r\nterminated"), "{answer}");
    assert_eq!(gateway.wait_for_message("request").await["client"], "192.0.2.7");
}
