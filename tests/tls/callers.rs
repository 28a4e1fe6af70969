//! Who clients are, by the certificates they show.

use super::*;

const CA: &str =
    "certificates: [{cert: edge.crt, key: edge.key}], client_auth: {mode: MODE, trust: {ca: root.crt}}";

/// A gateway that asks for certificates, in front of a backend that says which headers it has seen.
async fn asking(mode: &str, more: &str) -> (Gateway, Issued, crate::support::Backend) {
    let directory = TempDir::new().unwrap();
    let root = authority("mesh.local");
    keep(directory.path(), "edge", &root.issue(&server(&["a.example"])));
    keep(directory.path(), "root", &root);
    let backend = crate::support::Backend::start().await;
    let tls = CA.replace("MODE", mode);
    let yaml = format!(
        "admin: {{address: \"127.0.0.1:0\"}}\nlog: {{level: debug}}\n{more}\n\
         listeners: [{{name: main, address: \"127.0.0.1:0\", tls: {{{tls}}}}}]\n\
         routes: [{{upstream: origin}}]\nupstreams: {{origin: {{endpoints: [\"{}\"]}}}}\n",
        backend.address()
    );
    (Gateway::start_in(directory, &yaml, &[]).await, root, backend)
}

const ID: &str = "spiffe://mesh.local/payments";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_must_show_a_certificate_and_cannot_is_refused_with_an_alert() {
    let (gateway, root, _backend) = asking("require", "").await;
    let client = Client::of(&root);
    let address = gateway.address("main");
    // With TLS 1.3 the client's own part is done before the server sees its certificate: the alert comes with the answer.
    let refused = client.get(address, "a.example", "/headers").await.unwrap_err();
    assert!(refused.contains("certificate required"), "{refused}");
    failed(&gateway, "certificate_missing").await;

    let stranger = authority("mesh.local").issue(&svid(ID));
    let refused = client.showing(&stranger).get(address, "a.example", "/headers").await.unwrap_err();
    assert!(refused.contains("unknown ca"), "{refused}");
    failed(&gateway, "certificate_untrusted").await;

    let now = std::time::SystemTime::now();
    let expired = Order { not_after: now - std::time::Duration::from_secs(60), ..svid(ID) };
    let expired = client.showing(&root.issue(&expired));
    let refused = expired.get(address, "a.example", "/headers").await.unwrap_err();
    assert!(refused.contains("certificate expired"), "{refused}");
    failed(&gateway, "certificate_expired").await;

    // With TLS 1.2 the handshake itself fails.
    let mut context = client.showing(&stranger).context();
    context.set_max_proto_version(Some(openssl::ssl::SslVersion::TLS1_2)).unwrap();
    let refused = shake(context, address, "a.example").await.unwrap_err();
    assert!(refused.contains("unknown ca"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_certificates_are_optional_a_bad_one_is_refused_all_the_same() {
    let (gateway, root, _backend) = asking("request", "forwarded: {client_cert: write}").await;
    let client = Client::of(&root);
    let address = gateway.address("main");
    let seen = client.get(address, "a.example", "/headers").await.unwrap().to_string();
    assert!(!seen.contains("x-forwarded-client-cert"), "{seen}");
    let stranger = authority("mesh.local").issue(&svid(ID));
    client.showing(&stranger).get(address, "a.example", "/headers").await.unwrap_err();
    let seen = client.showing(&root.issue(&svid(ID))).get(address, "a.example", "/headers").await.unwrap();
    assert!(seen.to_string().contains(ID), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_and_logs_learn_who_the_client_is_and_nobody_can_forge_it() {
    let (gateway, root, _backend) = asking("require", "forwarded: {client_cert: write}").await;
    let own = root.issue(&Order { dns: vec!["payments.internal".into()], ..svid(ID) });
    let client = Client::of(&root).showing(&own);
    let forged =
        [("x-forwarded-client-cert", "URI=spiffe://mesh.local/admin"), ("X-FORWARDED-CLIENT-CERT", "URI=x")];
    for alpn in [&b"\x02h2"[..], b"\x08http/1.1"] {
        let stream = client.speaking(alpn).connect(gateway.address("main"), "a.example").await.unwrap();
        let io = TokioIo::new(stream);
        let mut connection = match alpn {
            b"\x02h2" => Connection::http2_over(io, "a.example".into()).await.unwrap(),
            _ => Connection::http1_over(io, "a.example".into()).await.unwrap(),
        };
        let seen = connection.send("GET", "/headers", &forged, "").await.unwrap().json();
        let fields: Vec<&Value> = seen["headers"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|field| field[0] == "x-forwarded-client-cert")
            .collect();
        let hash = own.certificate.digest(openssl::hash::MessageDigest::sha256()).unwrap();
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = format!("Hash={hash};Subject=\"CN=svid\";URI={ID};DNS=payments.internal");
        assert_eq!(fields.len(), 1, "{seen}");
        assert_eq!(fields[0][1], expected.as_str());
    }
    let line = gateway.wait_for_line(|line| line["protocol"] == "HTTP/2").await;
    assert_eq!((&line["peer"], &line["tls"]), (&ID.into(), &"TLSv1.3".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_claims_to_be_a_client_certificate_goes_no_further_by_default() {
    let (gateway, root, _backend) = asking("request", "").await;
    let stream = Client::of(&root).connect(gateway.address("main"), "a.example").await.unwrap();
    let mut connection = Connection::http1_over(TokioIo::new(stream), "a.example".into()).await.unwrap();
    let forged = [("x-forwarded-client-cert", "URI=spiffe://mesh.local/admin")];
    let seen = connection.send("GET", "/headers", &forged, "").await.unwrap().json().to_string();
    assert!(!seen.contains("admin"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_are_exchanged_without_a_restart() {
    let (gateway, root, _backend) = asking("require", "").await;
    let next = authority("mesh.local");
    let client = Client::of(&root).showing(&next.issue(&svid(ID)));
    client.get(gateway.address("main"), "a.example", "/headers").await.unwrap_err();
    write(&gateway.directory().join("root.crt"), &next.pem(), 0o644);
    gateway.wait_for_message("certificates reloaded").await;
    client.get(gateway.address("main"), "a.example", "/headers").await.unwrap();
    let old = Client::of(&root).showing(&root.issue(&svid(ID)));
    old.get(gateway.address("main"), "a.example", "/headers").await.unwrap_err();
}
