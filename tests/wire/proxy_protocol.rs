//! PROXY headers, read and written, and what is closed instead of believed.

use std::net::SocketAddr;

use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::*;
use crate::support::{
    Backend, Connection, RawConnection, ScriptedUpstream, Step, TlsClient, Yaml,
    certificates::{Issued, authority, write},
    connect::{Tls, asking_for, shake_over},
    raw,
};

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 443\r\n";
const REQUEST: &[u8] = b"GET /headers HTTP/1.1\r\nhost: h\r\n\r\n";

/// A header of version 2.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, body].concat()
}

/// What [`LINE`] says, in version 2, with these fields behind it.
fn binary(fields: &[u8]) -> Vec<u8> {
    let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0x01, 0xbb];
    v2(0x21, 0x11, &[&addresses, fields].concat())
}

/// The listener `main` takes headers from this machine, and goes to `endpoint`.
fn yaml(listener: &str, endpoint: SocketAddr, upstream: &str) -> String {
    let top = "log: {level: debug}\ntrusted_proxies: [127.0.0.1/32]";
    Yaml::to(endpoint).top(top).listener(listener).settings(upstream).to_string()
}

const ACCEPT: &str = "proxy_protocol: accept";

/// Whom `answer`, the backend's to `/headers`, takes for the client.
#[track_caller]
fn client_in(answer: &str) -> String {
    let (_, rest) = answer.split_once(r#"["x-forwarded-for",""#).unwrap_or_else(|| panic!("{answer}"));
    rest.split('"').next().unwrap().to_owned()
}

async fn refused(gateway: &Gateway, reason: &str) -> f64 {
    let series = format!("tidegate_connections_refused_total{{listener=\"main\",reason=\"{reason}\"}}");
    metric(gateway, &series, &[]).await
}

/// `edge.crt` in `directory`, and the authority that has signed it as `root.crt`.
fn certificates(directory: &TempDir) -> Issued {
    let root = authority("test");
    keep(directory.path(), "edge", &root.issue(&server(&["a.example"])));
    keep(directory.path(), "root", &root);
    root
}

const TLS: &str = "tls: {certificates: [{cert: edge.crt, key: edge.key}]}";

async fn shaken(socket: TcpStream, root: &Issued, alpn: &'static [u8]) -> Tls {
    let mut ssl = asking_for(TlsClient::of(root).speaking(alpn).context(), "a.example");
    ssl.param_mut().set_host("a.example").unwrap();
    shake_over(socket, ssl).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_whom_the_header_names_however_it_is_cut_up() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&yaml(ACCEPT, backend.address(), "")).await;
    let six = [&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7][..], &[0; 20]].concat();
    for (header, client) in [
        (LINE.to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n".to_vec(), "2001:db8::7"),
        (binary(b""), "192.0.2.7"),
        // An authority, as proxies that terminate TLS tell it, and padding.
        (binary(b"\x02\0\x03a.b\x04\0\0"), "192.0.2.7"),
        (v2(0x21, 0x21, &six), "2001:db8::7"),
        // The proxy speaks for itself.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x20, 0x00, b""), "127.0.0.1"),
        (v2(0x20, 0x11, &[7; 12]), "127.0.0.1"),
    ] {
        for piece in [1, 7, 1000] {
            let mut connection = RawConnection::open(gateway.address("main"));
            for part in [&header, REQUEST].concat().chunks(piece) {
                connection.write(part);
            }
            assert_eq!(client_in(connection.read_response().text()), client, "{header:?}");
            connection.write(REQUEST);
            assert_eq!(client_in(connection.read_response().text()), client, "of the next request");
            for _ in 0..2 {
                assert_eq!(gateway.wait_for_message("request").await["client"], client);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_and_tls_follow_the_header_as_http1_does() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&yaml(ACCEPT, backend.address(), "")).await;
    let mut socket = TcpStream::connect(gateway.address("main")).await.unwrap();
    socket.write_all(&binary(b"")).await.unwrap();
    let mut http2 = Connection::http2_over(TokioIo::new(socket), "h".into()).await.unwrap();
    let answer = http2.send("GET", "/headers", &[], "").await.unwrap();
    assert_eq!(client_in(answer.text()), "192.0.2.7");

    let directory = TempDir::new().unwrap();
    let root = certificates(&directory);
    let settings = yaml(&format!("{ACCEPT}, {TLS}"), backend.address(), "");
    let gateway = Gateway::start_in(directory, &settings, &[]).await;
    for (header, alpn) in [(LINE.to_vec(), &b"\x02h2"[..]), (binary(b""), b"\x08http/1.1")] {
        let mut socket = TcpStream::connect(gateway.address("main")).await.unwrap();
        socket.write_all(&header).await.unwrap();
        let stream = TokioIo::new(shaken(socket, &root, alpn).await);
        let mut connection = match alpn {
            b"\x02h2" => Connection::http2_over(stream, "a.example".into()).await.unwrap(),
            _ => Connection::http1_over(stream, "a.example".into()).await.unwrap(),
        };
        let answer = connection.send("GET", "/headers", &[], "").await.unwrap();
        assert_eq!(client_in(answer.text()), "192.0.2.7");
    }
    let (port, certificate) = (gateway.address("main").port(), gateway.directory().join("root.crt"));
    let (to, url) = (format!("a.example:{port}:127.0.0.1"), format!("https://a.example:{port}/headers"));
    let asked = ["--haproxy-protocol", "--resolve", &to, "--cacert", certificate.to_str().unwrap(), &url];
    assert_eq!(client_in(&curl(&asked).unwrap()), "127.0.0.1");
    curl(&asked[1..]).expect_err("there is no header before its handshake");
    assert_eq!(refused(&gateway, "proxy_missing").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_count_whom_the_header_names() {
    let backend = Backend::start().await;
    let limits = format!("{ACCEPT}, limits: {{connections_per_ip: 1}}");
    let gateway = Gateway::start(&yaml(&limits, backend.address(), "")).await;
    let come = |client: u8| {
        let mut connection = RawConnection::open(gateway.address("main"));
        connection.write(format!("PROXY TCP4 192.0.2.{client} 198.51.100.1 1 2\r\n"));
        connection.write(REQUEST);
        connection
    };
    let (mut one, mut other) = (come(1), come(2));
    assert_eq!((one.read_response().status, other.read_response().status), (200, 200));
    assert!(come(1).is_closed());
    assert_eq!(refused(&gateway, "connections_per_ip").await, 1.0);
    one.write(REQUEST);
    assert_eq!(one.read_response().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_an_upstream_is_used_again_for_the_same_client_alone() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("ok"), Step::Again]).await;
    let settings = yaml("", upstream.address(), "proxy_protocol: v1");
    let gateway = Gateway::start(&settings).await;
    let address = gateway.address("main");
    let ask = |connection: &mut RawConnection, path: &str, more: &str| {
        connection.write(format!("GET {path} HTTP/1.1\r\nhost: h\r\n{more}\r\n"));
        assert_eq!(connection.read_response().text(), "ok");
    };
    let (mut one, mut other) = (RawConnection::open(address), RawConnection::open(address));
    ask(&mut one, "/1", "");
    ask(&mut other, "/2", "");
    ask(&mut one, "/3", "");
    ask(&mut other, "/4", "");
    // Of two clients of a proxy on one connection, each is told as itself; only the proxy knows their ports.
    ask(&mut one, "/5", "x-forwarded-for: 192.0.2.1\r\n");
    ask(&mut one, "/6", "x-forwarded-for: 192.0.2.2\r\n");
    ask(&mut one, "/7", "x-forwarded-for: 192.0.2.1\r\n");
    let told = |client: SocketAddr| {
        format!("PROXY TCP4 {} 127.0.0.1 {} {}\r\n", client.ip(), client.port(), address.port())
    };
    let begins = [
        told(one.local_address()),
        told(other.local_address()),
        String::new(),
        String::new(),
        told("192.0.2.1:0".parse().unwrap()),
        told("192.0.2.2:0".parse().unwrap()),
        String::new(),
    ];
    let heads = upstream.heads();
    assert_eq!(heads.len(), begins.len());
    for (index, (head, begins)) in heads.iter().zip(begins).enumerate() {
        let expected = format!("{begins}GET /{} HTTP/1.1\r\n", index + 1);
        assert!(head.starts_with(&expected), "{expected:?} in {head:?}");
    }
    assert_eq!(upstream.connections(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_is_told_in_version_2_as_well_and_probes_speak_for_themselves() {
    let serve = vec![Step::ReadBody(28), Step::ReadHead, Step::respond("ok"), Step::ReadToEnd];
    let upstream = ScriptedUpstream::start(serve).await;
    let gateway = Gateway::start(&yaml("", upstream.address(), "proxy_protocol: v2")).await;
    let address = gateway.address("main");
    let mut client = RawConnection::open(address);
    client.write(REQUEST);
    assert_eq!(client.read_response().text(), "ok");
    let ports = [client.local_address().port().to_be_bytes(), address.port().to_be_bytes()].concat();
    let told = v2(0x21, 0x11, &[&[127, 0, 0, 1, 127, 0, 0, 1][..], &ports].concat());
    assert_eq!(upstream.received(0)[..told.len()], told);

    for (version, own) in [("v1", b"PROXY UNKNOWN\r\n".to_vec()), ("v2", v2(0x20, 0, b""))] {
        let serve = vec![Step::ReadBody(own.len()), Step::ReadHead, Step::respond("ok")];
        let upstream = ScriptedUpstream::start(serve).await;
        let check =
            format!("proxy_protocol: {version}, health_check: {{http: {{path: /health}}, interval: 1h}}");
        let gateway = Gateway::start(&yaml("", upstream.address(), &check)).await;
        gateway.wait_for_message("endpoint is healthy").await;
        assert!(upstream.received(0).starts_with(&[&own[..], b"GET /health "].concat()), "{version}");
    }
}

/// From one gateway to the next, where it can be seen that what one writes is what the other reads. The client comes from
/// an address that only the first gateway sees.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_what_is_read() {
    const CLIENT: &str = "127.0.0.9";
    let backend = Backend::start().await;
    let directory = TempDir::new().unwrap();
    let root = certificates(&directory);
    let plain = Gateway::start(&yaml(ACCEPT, backend.address(), "")).await;
    let settings = yaml(&format!("{ACCEPT}, {TLS}"), backend.address(), "");
    let secured = Gateway::start_in(directory, &settings, &[]).await;
    let (plain, secured) = (plain.address("main"), secured.address("main"));
    let tls = ", tls: {verify: {name: a.example, ca: root.crt}}";
    for (listener, to, upstream, speaks_tls) in [
        ("", plain, "proxy_protocol: v1", false),
        ("", secured, &*format!("proxy_protocol: v2{tls}"), false),
        ("protocol: tcp, upstream: origin", plain, "proxy_protocol: v2", false),
        ("protocol: tcp, upstream: origin", secured, &*format!("proxy_protocol: v1{tls}"), false),
        ("protocol: tls_passthrough, sni: {a.example: origin}", secured, "proxy_protocol: v1", true),
        ("protocol: tls_passthrough, sni: {a.example: origin}", secured, "proxy_protocol: v2", true),
    ] {
        let directory = TempDir::new().unwrap();
        write(&directory.path().join("root.crt"), &root.pem(), 0o644);
        let first = Gateway::start_in(directory, &yaml(listener, to, upstream), &[]).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(CLIENT.parse().unwrap(), 0)).unwrap();
        let socket = socket.connect(first.address("main")).await.unwrap();
        let mut connection = match speaks_tls {
            true => {
                let stream = TokioIo::new(shaken(socket, &root, b"\x02h2").await);
                Connection::http2_over(stream, "h".into()).await.unwrap()
            }
            false => Connection::http1_over(TokioIo::new(socket), "h".into()).await.unwrap(),
        };
        let answer = connection.send("GET", "/headers", &[], "").await.unwrap();
        // What the first says in `X-Forwarded-For` counts for nothing: it comes from the client, as far as the second can tell.
        assert_eq!(client_in(answer.text()), CLIENT, "{listener} {upstream}");
    }
}

/// Bad input: truncated PROXY headers.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_header_is_closed_with_its_reason_and_holds_nothing() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead]).await;
    let limits = format!("{ACCEPT}, limits: {{handshake_timeout: 1s}}");
    let gateway = Gateway::start(&yaml(&limits, upstream.address(), "")).await;
    let address = gateway.address("main");
    // Whatever is opened once and kept is open by then.
    raw(address, "x");
    refused(&gateway, "proxy_missing").await;
    let before = descriptors(&gateway);
    let mut cuts = 0;
    for header in [LINE.to_vec(), binary(b"\x02\0\x03a.b")] {
        for end in [1, 6, 11, 12, 15, 16, 20, header.len() - 1] {
            let mut connection = RawConnection::open(address);
            connection.write(&header[..end]);
            connection.finish_writing();
            assert_eq!(connection.read_to_end(), b"", "{:?}", &header[..end]);
            cuts += 1;
        }
    }
    for _ in 0..cuts {
        let line = gateway.wait_for_line(|line| line["reason"] == "client_closed").await;
        assert_eq!([&line["msg"], &line["protocol"], &line["client"]], ["connection", "PROXY", "127.0.0.1"]);
    }
    assert_eq!(refused(&gateway, "proxy_truncated").await, f64::from(cuts));
    // Those who go on saying nothing are not waited for.
    let mut waiting: Vec<_> = (0..20).map(|_| RawConnection::open(address)).collect();
    waiting.iter_mut().for_each(|connection| connection.write(&LINE[..20]));
    waiting.iter_mut().for_each(|connection| assert_eq!(connection.read_to_end(), b""));
    for _ in 0..waiting.len() {
        gateway.wait_for_line(|line| line["reason"] == "client_timeout").await;
    }
    assert_eq!(refused(&gateway, "proxy_timeout").await, 20.0);
    wait_for_descriptors(&gateway, before).await;
    assert_eq!(upstream.connections(), 0);
}

/// Bad input: PROXY headers from addresses that are not trusted.
#[tokio::test(flavor = "multi_thread")]
async fn a_spoofed_header_is_not_believed_and_its_sender_not_served() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead]).await;
    let settings = yaml(ACCEPT, upstream.address(), "").replace("127.0.0.1/32", "192.0.2.0/24");
    let gateway = Gateway::start(&settings).await;
    let address = gateway.address("main");
    let said = [[LINE, REQUEST].concat(), [&binary(b""), REQUEST].concat(), REQUEST.to_vec()];
    assert_eq!(raw(address, &said[0]), b"");
    refused(&gateway, "proxy_untrusted").await;
    let before = descriptors(&gateway);
    for round in 0..30 {
        assert_eq!(raw(address, &said[round % 3]), b"");
    }
    for _ in 0..31 {
        let line = gateway.wait_for_line(|line| line["reason"] == "forbidden").await;
        // Not whom the header names.
        assert_eq!([&line["protocol"], &line["client"]], ["PROXY", "127.0.0.1"]);
    }
    assert_eq!(refused(&gateway, "proxy_untrusted").await, 31.0);
    let explained = |line: &serde_json::Value| {
        line["msg"].as_str().is_some_and(|msg| msg.contains("not one of `trusted_proxies`"))
    };
    gateway.wait_for_line(explained).await;
    wait_for_descriptors(&gateway, before).await;

    // Where no header is expected, it is a request that is none.
    let gateway = Gateway::start(&yaml("", upstream.address(), "")).await;
    for said in &said[..2] {
        let answer = String::from_utf8_lossy(&raw(gateway.address("main"), said)).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert_eq!(gateway.wait_for_message("request").await["client"], "127.0.0.1");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_header_is_closed_with_its_reason() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead]).await;
    let gateway = Gateway::start(&yaml(ACCEPT, upstream.address(), "")).await;
    let address = gateway.address("main");
    raw(address, "x");
    assert_eq!(gateway.wait_for_message("connection").await["reason"], "bad_request");
    refused(&gateway, "proxy_missing").await;
    let before = descriptors(&gateway);
    for said in [
        &b"PROXY TCP4 192.0.2.7 198.51.100.1 12345\r\n"[..],
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 70000\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n",
        &[b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat(),
        &v2(0x31, 0x11, &[0; 12]),
        &v2(0x21, 0x11, &[0; 11]),
        &v2(0x21, 0x51, &[0; 12]),
        &v2(0x21, 0x11, &[0; 60_000]),
        // A checksum that is wrong.
        &binary(&[3, 0, 4, 1, 2, 3, 4]),
        // A field that says it is longer than there is room for.
        &binary(&[2, 0xff, 0xff, 1]),
    ] {
        assert_eq!(raw(address, [said, REQUEST].concat()), b"", "{said:?}");
        assert_eq!(gateway.wait_for_message("connection").await["reason"], "bad_request", "{said:?}");
    }
    assert_eq!(refused(&gateway, "proxy_malformed").await, 11.0);
    // Somebody who only looks whether anybody listens is counted, and is no news.
    RawConnection::open(address).finish_writing();
    raw(address, REQUEST);
    assert_eq!(gateway.wait_for_message("connection").await["reason"], "bad_request");
    wait_for_descriptors(&gateway, before).await;
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn what_would_refuse_everybody_or_do_nothing_is_refused() {
    for (trusted, listener, expected) in [
        ("", "proxy_protocol: accept", "listeners[0].proxy_protocol: nobody's PROXY header is believed"),
        ("trusted_proxies: [10.0.0.0/8]\n", "proxy_protocol: v2", "listeners[0].proxy_protocol"),
        (
            "trusted_proxies: [10.0.0.0/8]\n",
            "proxy_protocol: accept, original_destination: true",
            "goes with no `original_destination`",
        ),
    ] {
        let yaml = format!(
            "{trusted}listeners: [{{address: '127.0.0.1:1', {listener}}}]\nroutes: [{{respond: {{}}}}]\n"
        );
        let (code, said, _) = Gateway::start_expecting_failure(&yaml, &["check"]).await;
        assert!(code == 3 && said.contains(expected), "{listener}: {said}");
    }
}

/// Bytes behind the header are the connection's own, whatever it speaks.
#[tokio::test]
async fn tcp_begins_behind_the_header() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadToEnd]).await;
    let listener = format!("{ACCEPT}, protocol: tcp, upstream: origin");
    let gateway = Gateway::start(&yaml(&listener, upstream.address(), "")).await;
    let mut client = TcpStream::connect(gateway.address("main")).await.unwrap();
    client.write_all(&[&binary(b"")[..], b"PROXY and so on"].concat()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within_deadline("the end", client.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(upstream.received(0), b"PROXY and so on");
    assert_eq!(gateway.wait_for_message("connection").await["client"], "192.0.2.7");
}
