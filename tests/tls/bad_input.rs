//! What no well-behaved client does, and clients of another age.

use openssl::ssl::SslVersion;

use super::*;
use crate::support::{RawConnection, raw};

#[tokio::test(flavor = "multi_thread")]
async fn old_protocols_and_weak_ciphers_are_refused() {
    let (gateway, root) = edge(EDGE, "").await;
    let address = gateway.address("main");
    let mut old = TlsClient::of(&root).context();
    old.set_security_level(0);
    old.set_min_proto_version(Some(SslVersion::TLS1)).unwrap();
    old.set_max_proto_version(Some(SslVersion::TLS1_1)).unwrap();
    old.set_cipher_list("ALL:@SECLEVEL=0").unwrap();
    let refused = shake(old, address, "a.example").await.unwrap_err();
    assert!(refused.contains("protocol version"), "{refused}");
    failed(&gateway, "protocol_version").await;
    for ciphers in ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "DHE-RSA-AES128-GCM-SHA256"] {
        let mut weak = TlsClient::of(&root).context();
        weak.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
        weak.set_cipher_list(ciphers).unwrap();
        let refused = shake(weak, address, "a.example").await.unwrap_err();
        assert!(refused.contains("handshake failure"), "{ciphers}: {refused}");
        failed(&gateway, "no_shared_cipher").await;
    }
    let strange =
        TlsClient::of(&root).speaking(b"\x05xmpp1").connect(address, "a.example").await.unwrap_err();
    assert!(strange.contains("no application protocol"), "{strange}");
    failed(&gateway, "no_application_protocol").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_version_can_be_raised() {
    let (gateway, root) = edge(&format!("{EDGE}, min_version: \"1.3\""), "").await;
    let mut old = TlsClient::of(&root).context();
    old.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    shake(old, gateway.address("main"), "a.example").await.unwrap_err();
    failed(&gateway, "protocol_version").await;
    TlsClient::of(&root).get(gateway.address("main"), "a.example", "/").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_on_a_tls_port_is_told_so() {
    let (gateway, _root) = edge(EDGE, "").await;
    let answer = raw(gateway.address("main"), "GET / HTTP/1.1\r\nhost: a.example\r\n\r\n");
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("HTTPS"), "{answer}");
    failed(&gateway, "plain_http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_place_of_a_handshake_ends_the_connection() {
    let (gateway, root) = edge(EDGE, "").await;
    let mut rng = fastrand::Rng::with_seed(4);
    for round in 0..200 {
        let mut bytes: Vec<u8> = (0..rng.usize(1..600)).map(|_| rng.u8(..)).collect();
        // Half of them look like a ClientHello from afar.
        if round % 2 == 0 {
            let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            bytes.splice(..0, [0x16, 3, 1, length[0], length[1], 1]);
        }
        let mut socket = std::net::TcpStream::connect(gateway.address("main")).unwrap();
        socket.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
        std::io::Write::write_all(&mut socket, &bytes).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        // An alert, an end or a reset, and that soon.
        let mut answer = Vec::new();
        let ended = std::io::Read::read_to_end(&mut socket, &mut answer);
        let is_late = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!is_late && answer.len() < 100, "{answer:?}");
    }
    TlsClient::of(&root).get(gateway.address("main"), "a.example", "/").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_shake_hands_is_not_waited_for() {
    let (gateway, _root) = edge(EDGE, ", limits: {handshake_timeout: 100ms}").await;
    let mut silent = RawConnection::open(gateway.address("main"));
    assert!(silent.read_to_end().is_empty());
    failed(&gateway, "timeout").await;
    let mut slow = RawConnection::open(gateway.address("main"));
    slow.write([0x16, 3, 1, 2, 0]);
    assert!(slow.read_to_end().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_count_before_they_have_shaken_hands() {
    let (gateway, root) = edge(EDGE, ", limits: {connections: 2}").await;
    let first = RawConnection::open(gateway.address("main"));
    let second = RawConnection::open(gateway.address("main"));
    wait_for_metric(&gateway, "tidegate_connections_active{listener=\"main\"}", &[], 2.0).await;
    TlsClient::of(&root).connect(gateway.address("main"), "a.example").await.unwrap_err();
    drop((first, second));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_does_not_wait_for_handshakes() {
    let (gateway, _root) = edge(EDGE, ", limits: {handshake_timeout: 1h}").await;
    let mut silent = RawConnection::open(gateway.address("main"));
    wait_for_metric(&gateway, "tidegate_connections_active{listener=\"main\"}", &[], 1.0).await;
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(silent.read_to_end().is_empty());
    assert!(gateway.wait_exit().await.success());
    assert!(
        gateway.lines().iter().any(|line| line["connections_cut"] == 0 || line["connections_cut"] == "0")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_needs_alpn_over_tls() {
    let (gateway, root) = edge(EDGE, "").await;
    let mut stream = TlsClient::of(&root).connect(gateway.address("main"), "a.example").await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    within_deadline("an answer", stream.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 4") || answer.starts_with(b"HTTP/1.1 5"), "{answer:?}");
}
