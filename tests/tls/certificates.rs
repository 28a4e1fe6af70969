//! Which certificate is shown to whom, and how new ones come into use.

use std::fs;

use openssl::pkey::Id;
use openssl::ssl::SslVersion;

use super::*;

/// An RSA key in place of the ECDSA key that certificates made to order have.
fn with_rsa(root: &Issued, names: &[&str]) -> Issued {
    use openssl::asn1::Asn1Time;
    use openssl::bn::BigNum;
    use openssl::hash::MessageDigest;
    use openssl::pkey::PKey;
    use openssl::rsa::Rsa;
    use openssl::x509::{X509, X509NameBuilder, extension::SubjectAlternativeName};

    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(7).unwrap().to_asn1_integer().unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", names[0]).unwrap();
    builder.set_subject_name(&name.build()).unwrap();
    builder.set_issuer_name(root.certificate.subject_name()).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    let mut alternatives = SubjectAlternativeName::new();
    for name in names {
        alternatives.dns(name);
    }
    let context = builder.x509v3_context(Some(&root.certificate), None);
    let alternatives = alternatives.build(&context).unwrap();
    builder.append_extension(alternatives).unwrap();
    builder.sign(&root.key, MessageDigest::sha256()).unwrap();
    Issued { certificate: builder.build(), key }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_a_client_asks_for_chooses_the_certificate() {
    let directory = TempDir::new().unwrap();
    let root = authority("test");
    keep(directory.path(), "default", &root.issue(&server(&["default.example", "www.b.example"])));
    keep(directory.path(), "a", &root.issue(&server(&["a.example"])));
    keep(directory.path(), "wild", &root.issue(&server(&["*.b.example"])));
    let tls = "certificates: [{cert: default.crt, key: default.key}, {cert: a.crt, key: a.key}, \
               {cert: wild.crt, key: wild.key}]";
    let gateway = Gateway::start_in(directory, &configuration(tls, ""), &[]).await;
    let default = ["default.example", "www.b.example"].as_slice();
    for (name, expected) in [
        ("a.example", ["a.example"].as_slice()),
        ("A.Example", &["a.example"]),
        // The dot of the root, which some clients send although RFC 6066, section 3, does not have it.
        ("a.example.", &["a.example"]),
        ("x.b.example.", &["*.b.example"]),
        ("x.b.example", &["*.b.example"]),
        // A wildcard stands for one label, and what is named exactly goes before it.
        ("x.y.b.example", default),
        ("www.b.example", default),
        ("b.example", default),
        ("unknown.example", default),
        ("", default),
    ] {
        for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
            let mut context = TlsClient::of(&root).context();
            context.set_verify(SslVerifyMode::NONE);
            context.set_max_proto_version(Some(version)).unwrap();
            let stream = shake(context, gateway.address("main"), name).await.unwrap();
            assert_eq!(shown(stream.ssl()), expected, "{name} {version:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_another_certificate_is_not_served_on_a_connection_for_the_first() {
    let directory = TempDir::new().unwrap();
    let root = authority("test");
    keep(directory.path(), "default", &root.issue(&server(&["default.example", "also.example"])));
    keep(directory.path(), "a", &root.issue(&server(&["a.example"])));
    keep(directory.path(), "wild", &root.issue(&server(&["*.b.example"])));
    let tls = "certificates: [{cert: default.crt, key: default.key}, {cert: a.crt, key: a.key}, \
               {cert: wild.crt, key: wild.key}]";
    let gateway = Gateway::start_in(directory, &configuration(tls, ""), &[]).await;
    for (name, host, misdirected) in [
        ("a.example", "a.example", false),
        ("a.example", "A.Example:443", false),
        ("a.example", "default.example", true),
        ("a.example", "x.b.example", true),
        ("default.example", "a.example", true),
        ("default.example", "also.example", false),
        ("x.b.example", "y.b.example", false),
        // Who is shown the default for want of anything better, and a host that has no certificate.
        ("unknown.example", "default.example", false),
        ("unknown.example", "a.example", true),
        ("a.example", "unknown.example", false),
        ("", "a.example", false),
    ] {
        assert_eq!(is_misdirected(&gateway, &root, name, host).await, misdirected, "{name} {host}");
    }
}

/// Whether a request for `host` is answered so, where the connection was opened for `name`.
async fn is_misdirected(gateway: &Gateway, root: &Issued, name: &str, host: &str) -> bool {
    let mut context = TlsClient::of(root).context();
    context.set_verify(SslVerifyMode::NONE);
    let mut stream = shake(context, gateway.address("main"), name).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within_deadline("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    answer.starts_with("HTTP/1.1 421 ") && answer.contains("x-tidegate-reason: misdirected")
}

/// One certificate has all the names, so that it is said in so many words which of them belong together.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_isolated_share_no_connection_with_others() {
    let directory = TempDir::new().unwrap();
    let root = authority("test");
    let names = ["first.example", "second.example", "*.wild.example"];
    keep(directory.path(), "all", &root.issue(&server(&names)));
    let tls = "certificates: [{cert: all.crt, key: all.key}], \
               isolated_hosts: [second.example, '*.wild.example', fourth.wild.example]";
    let gateway = Gateway::start_in(directory, &configuration(tls, ""), &[]).await;
    for (name, host, misdirected) in [
        ("first.example", "first.example", false),
        ("first.example", "Second.Example:443", true),
        ("first.example", "unknown.example", false),
        ("second.example", "second.example", false),
        ("second.example", "first.example", true),
        ("second.example", "unknown.example", true),
        ("third.wild.example", "fifth.wild.example", false),
        ("third.wild.example", "fourth.wild.example", true),
        ("fourth.wild.example", "fifth.wild.example", true),
        ("unknown.example", "first.example", false),
        // Whoever names nobody knows the gateway by its address.
        ("", "second.example", false),
    ] {
        assert_eq!(is_misdirected(&gateway, &root, name, host).await, misdirected, "{name} {host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_the_kind_of_key_that_they_can_verify() {
    let directory = TempDir::new().unwrap();
    let root = authority("test");
    keep(directory.path(), "ecdsa", &root.issue(&server(&["a.example"])));
    keep(directory.path(), "rsa", &with_rsa(&root, &["a.example"]));
    let tls = "certificates: [{cert: rsa.crt, key: rsa.key}, {cert: ecdsa.crt, key: ecdsa.key}]";
    let gateway = Gateway::start_in(directory, &configuration(tls, ""), &[]).await;
    for (ciphers, signatures, version, kind) in [
        ("ECDHE-RSA-AES128-GCM-SHA256", "RSA-PSS+SHA256:ECDSA+SHA256", SslVersion::TLS1_2, Id::RSA),
        ("ECDHE-ECDSA-AES128-GCM-SHA256", "RSA-PSS+SHA256:ECDSA+SHA256", SslVersion::TLS1_2, Id::EC),
        ("DEFAULT", "rsa_pss_rsae_sha256", SslVersion::TLS1_3, Id::RSA),
        ("DEFAULT", "ecdsa_secp256r1_sha256", SslVersion::TLS1_3, Id::EC),
    ] {
        let mut context = TlsClient::of(&root).context();
        context.set_verify(SslVerifyMode::NONE);
        context.set_max_proto_version(Some(version)).unwrap();
        context.set_cipher_list(ciphers).unwrap();
        context.set_sigalgs_list(signatures).unwrap();
        let stream = shake(context, gateway.address("main"), "a.example").await.unwrap();
        let key = stream.ssl().peer_certificate().unwrap().public_key().unwrap();
        assert_eq!(key.id(), kind, "{ciphers} {signatures}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_chain_is_sent_and_no_more() {
    use crate::support::certificates::signer;

    let directory = TempDir::new().unwrap();
    let root = authority("test");
    let between = root.issue(&Order { subject: "between".into(), ..signer("test") });
    let leaf = between.issue(&server(&["a.example"]));
    write(&directory.path().join("edge.key"), &leaf.key_pem(), 0o600);
    write(&directory.path().join("edge.crt"), &[leaf.pem(), between.pem()].concat(), 0o644);
    let gateway = Gateway::start_in(directory, &configuration(EDGE, ""), &[]).await;
    let stream = TlsClient::of(&root).connect(gateway.address("main"), "a.example").await.unwrap();
    assert_eq!(stream.ssl().peer_cert_chain().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_files_are_shown_and_no_connection_is_lost() {
    let (gateway, root) = edge(EDGE, "").await;
    let client = TlsClient::of(&root);
    let stream = client.connect(gateway.address("main"), "a.example").await.unwrap();
    let mut open = Connection::http1_over(TokioIo::new(stream), "a.example".into()).await.unwrap();
    open.send("GET", "/", &[], "").await.unwrap();
    let gauge = "tidegate_certificate_expiry_timestamp_seconds{subject=\"CN=a.example\"}";
    let before = series(&gateway, gauge, &[]).await.unwrap();

    let soon = server(&["a.example", "new.example"]);
    let later = Order { not_after: soon.not_after + std::time::Duration::from_secs(3600), ..soon };
    keep(gateway.directory(), "edge", &root.issue(&later));
    gateway.wait_for_message("certificates reloaded").await;
    let stream = client.connect(gateway.address("main"), "new.example").await.unwrap();
    assert_eq!(shown(stream.ssl()), ["a.example", "new.example"]);
    assert_eq!(open.send("GET", "/", &[], "").await.unwrap().text(), "hello");
    let after = series(&gateway, gauge, &[]).await.unwrap();
    assert!(after > before + 3000.0, "{before} {after}");
    assert_eq!(
        series(&gateway, "tidegate_certificate_reloads_total{result=\"success\"}", &[]).await,
        Some(1.0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_renewed_files_is_told_and_changes_nothing() {
    let (gateway, root) = edge(EDGE, "").await;
    let client = TlsClient::of(&root);
    let other = root.issue(&server(&["a.example"]));
    let expired = Order {
        not_after: std::time::SystemTime::now() - std::time::Duration::from_secs(60),
        ..server(&["a.example"])
    };
    let expired = root.issue(&expired);
    let key = fs::read(gateway.directory().join("edge.key")).unwrap();
    for (cert, key, complaint) in [
        (other.pem(), key.clone(), "edge.key is not the key of"),
        (b"garbage".to_vec(), key, "holds no certificate"),
        (expired.pem(), expired.key_pem(), "has expired"),
    ] {
        write(&gateway.directory().join("edge.crt"), &cert, 0o644);
        write(&gateway.directory().join("edge.key"), &key, 0o600);
        let line = gateway
            .wait_for_line(|line| {
                line["msg"] == "changed certificates rejected, the old ones stay"
                    && line["problems"].as_str().is_some_and(|problems| problems.contains(complaint))
            })
            .await;
        assert_eq!(line["listener"], "main");
        assert_eq!(client.get(gateway.address("main"), "a.example", "/").await.unwrap(), "hello");
    }
    let failures = metric(&gateway, "tidegate_certificate_reloads_total{result=\"failure\"}", &[]).await;
    assert!(failures >= 3.0);
}

/// Each is refused at its place before anything runs.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_cannot_be_shown_are_refused_at_start() {
    let directory = TempDir::new().unwrap();
    let root = authority("test");
    let good = root.issue(&server(&["a.example"]));
    let now = std::time::SystemTime::now();
    let hour = std::time::Duration::from_secs(3600);
    keep(directory.path(), "good", &good);
    keep(directory.path(), "second", &root.issue(&server(&["a.example"])));
    keep(
        directory.path(),
        "expired",
        &root.issue(&Order { not_after: now - hour / 2, ..server(&["a.example"]) }),
    );
    keep(
        directory.path(),
        "early",
        &root.issue(&Order { not_before: now + hour / 2, ..server(&["a.example"]) }),
    );
    keep(directory.path(), "nameless", &root.issue(&server(&[])));
    fs::write(directory.path().join("garbage"), "garbage").unwrap();
    let locked =
        good.key.private_key_to_pem_pkcs8_passphrase(openssl::symm::Cipher::aes_128_cbc(), b"x").unwrap();
    fs::write(directory.path().join("locked.key"), locked).unwrap();
    let pair = |cert: &str, key: &str| format!("certificates: [{{cert: {cert}, key: {key}}}]");
    for (tls, path, message) in [
        (pair("none.crt", "good.key"), "certificates[0].cert", "cannot read"),
        (pair("good.crt", "none.key"), "certificates[0].key", "cannot read"),
        (pair("garbage", "good.key"), "certificates[0].cert", "holds no certificate"),
        (pair("good.crt", "garbage"), "certificates[0].key", "holds no private key"),
        (pair("good.crt", "locked.key"), "certificates[0].key", "without a passphrase"),
        (pair("good.crt", "second.key"), "certificates[0].key", "is not the key of"),
        (pair("expired.crt", "expired.key"), "certificates[0].cert", "has expired on"),
        (pair("early.crt", "early.key"), "certificates[0].cert", "is not valid before"),
        (pair("/dev/zero", "good.key"), "certificates[0].cert", "it is not a file"),
        ("certificates: []".into(), "certificates", "needs a certificate"),
        ("certificates: [mine]".into(), "certificates[0]", "expected `identity`"),
        (
            "certificates: [{cert: good.crt, key: good.key}, {cert: second.crt, key: second.key}]".into(),
            "certificates[1]",
            "would never be shown",
        ),
        (
            "certificates: [{cert: good.crt, key: good.key}, {cert: nameless.crt, key: nameless.key}]".into(),
            "certificates[1]",
            "would never be shown",
        ),
        (format!("{}, min_version: \"1.1\"", pair("good.crt", "good.key")), "min_version", "1.1"),
        (
            format!("{}, isolated_hosts: [a.example, 'a b']", pair("good.crt", "good.key")),
            "isolated_hosts[1]",
            "is not a host name",
        ),
        (
            format!("{}, isolated_hosts: [a.example, A.example]", pair("good.crt", "good.key")),
            "isolated_hosts[1]",
            "stands there twice",
        ),
        (
            format!("{}, client_auth: {{mode: lenient, trust: spiffe}}", pair("good.crt", "good.key")),
            "client_auth.mode",
            "`lenient` does not go with `trust: spiffe`",
        ),
        (
            format!("{}, client_auth: {{mode: require}}", pair("good.crt", "good.key")),
            "client_auth",
            "none is trusted",
        ),
        (
            format!("{}, client_auth: {{trust: {{ca: good.crt}}}}", pair("good.crt", "good.key")),
            "client_auth",
            "asked for nothing",
        ),
        (
            format!(
                "{}, client_auth: {{mode: require, trust: {{ca: garbage}}}}",
                pair("good.crt", "good.key")
            ),
            "client_auth.trust.ca",
            "holds no certificate",
        ),
        (
            format!("{}, client_auth: {{mode: require, crl: garbage}}", pair("good.crt", "good.key")),
            "client_auth.crl",
            "there is no authority whose list this could be",
        ),
        (
            format!(
                "{}, client_auth: {{mode: require, trust: {{ca: good.crt}}, crl: garbage}}",
                pair("good.crt", "good.key")
            ),
            "client_auth.crl",
            "holds no revocation list",
        ),
    ] {
        fs::write(directory.path().join("gateway.yaml"), configuration(&tls, "")).unwrap();
        let output = crate::support::tidegate(directory.path())
            .args(["check", "-c"])
            .arg(directory.path().join("gateway.yaml"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(3), "{tls}\n{said}");
        assert!(said.contains(&format!("listeners[0].tls.{path}")), "{tls}\n{said}");
        assert!(said.contains(message) && said.contains("gateway.yaml:3:"), "{tls}\n{said}");
    }
}
