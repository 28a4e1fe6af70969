//! Who clients are, by the certificates they show.

use super::*;
use crate::support::collector::Collector;

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
    let client = TlsClient::of(&root);
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
    let client = TlsClient::of(&root);
    let address = gateway.address("main");
    let seen = client.get(address, "a.example", "/headers").await.unwrap().to_string();
    assert!(!seen.contains("x-forwarded-client-cert"), "{seen}");
    let stranger = authority("mesh.local").issue(&svid(ID));
    client.showing(&stranger).get(address, "a.example", "/headers").await.unwrap_err();
    let seen = client.showing(&root.issue(&svid(ID))).get(address, "a.example", "/headers").await.unwrap();
    assert!(seen.to_string().contains(ID), "{seen}");
}

/// It is nobody's word, so nothing that it says goes any further.
#[tokio::test(flavor = "multi_thread")]
async fn where_certificates_are_taken_leniently_a_bad_one_counts_as_none() {
    use openssl::ssl::SslVersion;

    let (gateway, root, _backend) = asking("lenient", "forwarded: {client_cert: write}").await;
    let address = gateway.address("main");
    let now = std::time::SystemTime::now();
    let expired = Order { not_after: now - std::time::Duration::from_secs(60), ..svid(ID) };
    let strangers = authority("mesh.local");
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        for (own, is_known) in [
            (None, false),
            (Some(strangers.issue(&svid(ID))), false),
            (Some(crate::support::certificates::self_signed(&svid(ID))), false),
            (Some(root.issue(&expired)), false),
            (Some(root.issue(&svid(ID))), true),
        ] {
            let client = TlsClient::of(&root);
            let client = own.map_or(client.clone(), |own| client.showing(&own));
            let mut context = client.context();
            context.set_max_proto_version(Some(version)).unwrap();
            let stream = shake(context, address, "a.example").await.unwrap();
            let connection = Connection::http1_over(TokioIo::new(stream), "a.example".into()).await;
            let seen = connection.unwrap().send("GET", "/headers", &[], "").await.unwrap().json().to_string();
            assert_eq!(seen.contains(ID), is_known, "{version:?} {seen}");
            let line = gateway.wait_for_line(|line| line["path"] == "/headers").await;
            assert_eq!(line["peer"] == ID, is_known, "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_and_logs_learn_who_the_client_is_and_nobody_can_forge_it() {
    let (gateway, root, _backend) = asking("require", "forwarded: {client_cert: write}").await;
    let own = root.issue(&Order { dns: vec!["payments.internal".into()], ..svid(ID) });
    let client = TlsClient::of(&root).showing(&own);
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
async fn templates_and_spans_know_the_handshake_and_the_client() {
    let collector = Collector::start().await;
    let otlp = format!("otlp: {{endpoint: '{}', every: 10ms}}", collector.url());
    let tracing = format!("tracing: {{attributes: {{sni: '{{tls.sni}}'}}, {otlp}}}");
    let (gateway, root, _backend) = asking("require", &tracing).await;
    let yaml = std::fs::read_to_string(gateway.directory().join("gateway.yaml")).unwrap();
    let told = "{headers: {request: {set: {x-tls: '{tls.version} {tls.sni} {peer}'}}}}";
    let yaml = yaml.replace("{upstream: origin}", &format!("{{upstream: origin, filters: [{told}]}}"));
    assert_eq!(gateway.reload(&yaml).await["msg"], "configuration reloaded");
    let client = TlsClient::of(&root).showing(&root.issue(&svid(ID)));
    let seen = client.get(gateway.address("main"), "a.example", "/headers").await.unwrap();
    let expected = format!(r#"["x-tls","TLSv1.3 a.example {ID}"]"#);
    assert!(seen["headers"].to_string().contains(&expected), "{seen}");
    let spans = collector.spans(2).await;
    let request = spans.iter().find(|span| span.is_server()).unwrap();
    assert_eq!((request.get("tidegate.peer"), request.get("url.scheme")), (ID, "https"));
    assert_eq!(request.get("sni"), "a.example");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_claims_to_be_a_client_certificate_goes_no_further_by_default() {
    let (gateway, root, _backend) = asking("request", "").await;
    let stream = TlsClient::of(&root).connect(gateway.address("main"), "a.example").await.unwrap();
    let mut connection = Connection::http1_over(TokioIo::new(stream), "a.example".into()).await.unwrap();
    let forged = [("x-forwarded-client-cert", "URI=spiffe://mesh.local/admin")];
    let seen = connection.send("GET", "/headers", &forged, "").await.unwrap().json().to_string();
    assert!(!seen.contains("admin"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_are_exchanged_without_a_restart() {
    let (gateway, root, _backend) = asking("require", "").await;
    let next = authority("mesh.local");
    let client = TlsClient::of(&root).showing(&next.issue(&svid(ID)));
    client.get(gateway.address("main"), "a.example", "/headers").await.unwrap_err();
    write(&gateway.directory().join("root.crt"), &next.pem(), 0o644);
    gateway.wait_for_message("certificates reloaded").await;
    client.get(gateway.address("main"), "a.example", "/headers").await.unwrap();
    let old = TlsClient::of(&root).showing(&root.issue(&svid(ID)));
    old.get(gateway.address("main"), "a.example", "/headers").await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_is_refused_and_a_new_list_is_taken_without_a_restart() {
    use crate::support::certificates::{HOUR, signer};

    let directory = TempDir::new().unwrap();
    let root = authority("mesh.local");
    keep(directory.path(), "edge", &root.issue(&server(&["a.example"])));
    keep(directory.path(), "root", &root);
    let [stolen, lost, own] = [(); 3].map(|()| root.issue(&svid(ID)));
    write(&directory.path().join("root.crl"), &root.crl(&[&stolen], HOUR), 0o644);
    let tls = CA.replace("MODE", "require").replace("}}", "}, crl: root.crl}");
    let gateway = Gateway::start_in(directory, &configuration(&tls, ""), &[]).await;
    let address = gateway.address("main");
    let client = TlsClient::of(&root);
    for good in [&lost, &own] {
        assert_eq!(client.showing(good).get(address, "a.example", "/").await.unwrap(), "hello");
    }
    let refused = client.showing(&stolen).get(address, "a.example", "/").await.unwrap_err();
    assert!(refused.contains("certificate revoked"), "{refused}");
    failed(&gateway, "certificate_revoked").await;
    // Whoever signs in between needs a list, too.
    let between = root.issue(&Order { subject: "between".into(), ..signer("mesh.local") });
    let mut chained = client.showing(&between.issue(&svid(ID))).context();
    chained.add_extra_chain_cert(between.certificate.clone()).unwrap();
    chained.set_max_proto_version(Some(openssl::ssl::SslVersion::TLS1_2)).unwrap();
    shake(chained, address, "a.example").await.unwrap_err();
    failed(&gateway, "no_crl").await;

    let file = gateway.directory().join("root.crl");
    write(&file, &root.crl(&[&stolen, &lost], HOUR), 0o644);
    gateway.wait_for_message("certificates reloaded").await;
    let refused = client.showing(&lost).get(address, "a.example", "/").await.unwrap_err();
    assert!(refused.contains("certificate revoked"), "{refused}");
    // One that has run out would shut everyone out.
    write(&file, &root.crl_that_has_run_out(), 0o644);
    gateway.wait_for_line(|line| line.to_string().contains("has run out on")).await;
    client.showing(&own).get(address, "a.example", "/").await.unwrap();
    let name = "tidegate_certificate_expiry_timestamp_seconds{subject=\"CRL of CN=mesh.local root\"}";
    assert!(series(&gateway, name, &[]).await.is_some());
}

/// Serves whatever list is in it at the time.
struct Lists(crate::support::ScriptedUpstream, std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl Lists {
    async fn publish(list: Vec<u8>) -> Lists {
        use crate::support::Step;

        let list = std::sync::Arc::new(std::sync::Mutex::new(list));
        let shown = list.clone();
        let script = move |_| {
            let list = shown.lock().unwrap().clone();
            let head =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", list.len());
            vec![Step::ReadHead, Step::write([head.as_bytes(), &list].concat()), Step::Close]
        };
        Lists(crate::support::ScriptedUpstream::with(script).await, list)
    }

    fn replace(&self, list: Vec<u8>) {
        *self.1.lock().unwrap() = list;
    }
}

/// Asks for certificates, and fetches its list from there.
async fn fetching(root: &Issued, lists: &Lists, more: &str) -> Gateway {
    let directory = TempDir::new().unwrap();
    keep(directory.path(), "edge", &root.issue(&server(&["a.example"])));
    keep(directory.path(), "root", root);
    let crl = format!("}}, crl: {{urls: ['http://{}/root.crl'], {more}}}}}", lists.0.address());
    let tls = CA.replace("MODE", "require").replace("}}", &crl);
    let yaml = format!("state_dir: state\n{}", configuration(&tls, ""));
    Gateway::start_in(directory, &yaml, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_by_url_are_fetched_kept_and_never_replaced_by_worse_ones() {
    use crate::support::{certificates::HOUR, get, metric, wait_for_metric};

    let root = authority("mesh.local");
    let [stolen, own] = [(); 2].map(|()| root.issue(&svid(ID)));
    // In DER, as authorities publish them.
    let der = openssl::x509::X509Crl::from_pem(&root.crl(&[&stolen], HOUR)).unwrap().to_der().unwrap();
    let lists = Lists::publish(der).await;
    let gateway = fetching(&root, &lists, "every: 1s, timeout: 2s, max_size: 64KiB").await;
    gateway.wait_for_message("certificates reloaded").await;
    let (client, address) = (TlsClient::of(&root), gateway.address("main"));
    assert_eq!(client.showing(&own).get(address, "a.example", "/").await.unwrap(), "hello");
    let refused = client.showing(&stolen).get(address, "a.example", "/").await.unwrap_err();
    assert!(refused.contains("certificate revoked"), "{refused}");
    let ready = get(gateway.admin(), "/readyz?verbose").await;
    assert!(
        ready.text().contains("ok: revocation list of CN=mesh.local root is valid until "),
        "{}",
        ready.text()
    );
    // Whoever is between may send what is no list, is somebody else's, is an old one, or never ends.
    for (worse, why) in [
        (b"<html>".to_vec(), "this is no revocation list"),
        (authority("mesh.local").crl(&[], HOUR), "not signed by one of our authorities"),
        (root.crl_of_yesterday(), "is older than the one we have"),
        (vec![b'-'; 100 * 1024], ""),
    ] {
        lists.replace(worse);
        let told = "a revocation list cannot be had, the old one stays";
        gateway
            .wait_for_line(|line| line["msg"] == told && line["why"].as_str().unwrap().contains(why))
            .await;
        client.showing(&stolen).get(address, "a.example", "/").await.unwrap_err();
        client.showing(&own).get(address, "a.example", "/").await.unwrap();
    }
    assert!(metric(&gateway, "tidegate_revocation_fetches_total", &["result=\"refused\""]).await >= 3.0);
    // A start without the authority has what was kept.
    drop(lists);
    let next = gateway.upgrade().await;
    let address = next.address("main");
    client.showing(&own).get(address, "a.example", "/").await.unwrap();
    client.showing(&stolen).get(address, "a.example", "/").await.unwrap_err();
    wait_for_metric(&next, "tidegate_revocation_fetches_total", &["result=\"fetched\""], 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_urls_forgets_no_list_that_was_fetched_before() {
    use crate::support::certificates::HOUR;

    let root = authority("mesh.local");
    let [stolen, own] = [(); 2].map(|()| root.issue(&svid(ID)));
    let lists = Lists::publish(root.crl(&[&stolen], HOUR)).await;
    let directory = TempDir::new().unwrap();
    keep(directory.path(), "edge", &root.issue(&server(&["a.example"])));
    keep(directory.path(), "root", &root);
    let urls = |urls: &str| {
        let tls = CA.replace("MODE", "require").replace("}}", &format!("}}, crl: {{urls: [{urls}]}}}}"));
        format!("state_dir: state\n{}", configuration(&tls, ""))
    };
    let first = format!("'http://{}/root.crl'", lists.0.address());
    let gateway = Gateway::start_in(directory, &urls(&first), &[]).await;
    gateway.wait_for_message("certificates reloaded").await;
    // There is nobody to fetch them from any more, by either name.
    drop(lists);
    let told = "a revocation list cannot be had, the old one stays";
    for (more, url) in [
        ("'http://127.0.0.1:1/new.crl'".to_owned(), "new"),
        (first.clone() + ", 'http://127.0.0.1:1/x.crl'", "x"),
    ] {
        gateway.reload(&urls(&more)).await;
        let is_tried = |line: &serde_json::Value| {
            line["msg"] == told && line["url"].as_str().unwrap().ends_with(&format!("/{url}.crl"))
        };
        gateway.wait_for_line(is_tried).await;
        let (client, address) = (TlsClient::of(&root), gateway.address("main"));
        assert_eq!(client.showing(&own).get(address, "a.example", "/").await.unwrap(), "hello");
        let refused = client.showing(&stolen).get(address, "a.example", "/").await.unwrap_err();
        assert!(refused.contains("certificate revoked"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_valid_list_clients_are_refused_unless_it_may_be_stale() {
    use crate::support::{certificates::HOUR, get};

    let root = authority("mesh.local");
    let [stolen, own] = [(); 2].map(|()| root.issue(&svid(ID)));
    let client = TlsClient::of(&root);
    let lists = Lists::publish(b"not yet".to_vec()).await;
    let strict = fetching(&root, &lists, "every: 1s").await;
    let lax = fetching(&root, &lists, "every: 1s, stale: allow").await;
    client.showing(&own).get(strict.address("main"), "a.example", "/").await.unwrap_err();
    failed(&strict, "no_crl").await;
    assert_eq!(client.showing(&own).get(lax.address("main"), "a.example", "/").await.unwrap(), "hello");
    let ready = get(strict.admin(), "/readyz?verbose").await;
    assert!(ready.text().contains("error: listener main has no revocation lists yet"), "{}", ready.text());
    // One that has run out already: the authority is late.
    lists.replace(root.crl_until(&[&stolen], std::time::SystemTime::now() - HOUR / 2));
    for gateway in [&strict, &lax] {
        gateway.wait_for_message("certificates reloaded").await;
    }
    client.showing(&own).get(strict.address("main"), "a.example", "/").await.unwrap_err();
    assert_eq!(client.showing(&own).get(lax.address("main"), "a.example", "/").await.unwrap(), "hello");
    let refused = client.showing(&stolen).get(lax.address("main"), "a.example", "/").await.unwrap_err();
    assert!(refused.contains("certificate revoked"), "{refused}");
    let ready = get(strict.admin(), "/readyz?verbose").await;
    assert!(
        ready.text().contains("error: revocation list of CN=mesh.local root has run out"),
        "{}",
        ready.text()
    );
    lists.replace(root.crl(&[&stolen], HOUR));
    strict.wait_for_message("certificates reloaded").await;
    crate::support::within_deadline("a good list", async {
        while client.showing(&own).get(strict.address("main"), "a.example", "/").await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_wrong_with_urls_of_lists_is_told_at_its_place() {
    for (crl, state_dir, expected) in [
        ("{urls: []}", "state_dir: state", "crl.urls: no URL, so no list is fetched"),
        (
            "{urls: [root.crl]}",
            "state_dir: state",
            "crl.urls[0]: \"root.crl\" is no URL (such as http://crl.example.com/root.crl)",
        ),
        ("{urls: ['http://a/', 'http://a/']}", "state_dir: state", "crl.urls[1]: this URL stands here twice"),
        (
            "{urls: ['http://a/'], every: 0s}",
            "state_dir: state",
            "crl.every: a duration of 0 makes no sense here",
        ),
        ("{urls: ['http://a/']}", "", "crl: lists that are fetched need a place where they are kept"),
        ("[]", "state_dir: state", "crl: expected a file as a string, or a map with `urls`"),
        (
            "{urls: ['http://a/'], stale: allow}",
            "state_dir: state",
            "crl.stale: `stale: allow` does not go with `mode: lenient` (use `stale: refuse`, or `mode: request`)",
        ),
    ] {
        let mode = if expected.contains("lenient") { "lenient" } else { "require" };
        let directory = TempDir::new().unwrap();
        let root = authority("mesh.local");
        keep(directory.path(), "edge", &root.issue(&server(&["a.example"])));
        keep(directory.path(), "root", &root);
        let path = |name: &str| directory.path().join(name).display().to_string();
        let tls = CA.replace("MODE", mode).replace("}}", &format!("}}, crl: {crl}}}"));
        let tls = tls.replace("edge.crt", &path("edge.crt")).replace("edge.key", &path("edge.key"));
        let tls = tls.replace("root.crt", &path("root.crt"));
        let yaml = format!("{state_dir}\n{}", configuration(&tls, ""));
        let (code, said, _) = Gateway::start_expecting_failure(&yaml, &["check"]).await;
        assert_eq!(code, 3, "{crl}\n{said}");
        assert!(said.contains(expected), "{crl}\n{said}");
    }
}

/// A gateway that shows its SVID and asks for others', with the authority of its mesh.
async fn member() -> (Gateway, Issued) {
    member_with("certificates: [identity], client_auth: {mode: require, trust: spiffe}").await
}

async fn member_with(tls: &str) -> (Gateway, Issued) {
    let directory = TempDir::new().unwrap();
    let root = authority("mesh.local");
    let own = root.issue(&Order { dns: vec!["a.example".into()], ..svid("spiffe://mesh.local/gateway") });
    own.write_to(directory.path(), &root);
    let yaml = format!(
        "identity: {{trust_domain: mesh.local, files: {{cert: svid.pem, key: svid.key, bundle: bundle.pem}}}}\n{}",
        configuration(tls, "")
    );
    (Gateway::start_in(directory, &yaml, &[]).await, root)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_svids_shows_its_own_without_being_told_so() {
    let (gateway, root) = member_with("client_auth: {mode: require, trust: spiffe}").await;
    let (client, address) = (TlsClient::of(&root), gateway.address("main"));
    let known = client.showing(&root.issue(&svid(ID)));
    assert_eq!(known.get(address, "a.example", "/").await.unwrap(), "hello");
    assert!(client.get(address, "a.example", "/").await.unwrap_err().contains("certificate required"));
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_the_mesh_are_known_by_their_svids() {
    use crate::support::certificates::signer;

    let (gateway, root) = member().await;
    let client = TlsClient::of(&root);
    let address = gateway.address("main");
    assert_eq!(client.showing(&root.issue(&svid(ID))).get(address, "a.example", "/").await.unwrap(), "hello");
    let line = gateway.wait_for_line(|line| line["msg"] == "request").await;
    assert_eq!(line["peer"], ID);
    // Through one who signs in between.
    let between = root.issue(&Order { subject: "between".into(), ..signer("mesh.local") });
    let mut chained = client.showing(&between.issue(&svid("spiffe://mesh.local/deep"))).context();
    chained.add_extra_chain_cert(between.certificate.clone()).unwrap();
    let mut stream = shake(chained, address, "a.example").await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
}

/// Each with the alert that tells the client, and the reason that tells the operator.
#[tokio::test(flavor = "multi_thread")]
async fn svids_that_are_none_are_refused_in_the_handshake() {
    let (gateway, root) = member().await;
    let client = TlsClient::of(&root);
    let address = gateway.address("main");
    let now = std::time::SystemTime::now();
    let minute = std::time::Duration::from_secs(60);
    let two = vec![ID.to_owned(), "spiffe://mesh.local/orders".to_owned()];
    let foreign = authority("other.org");
    let others: [(Issued, &str, &str); 7] = [
        (root.issue(&Order { uris: two, ..svid(ID) }), "bad certificate", "certificate_invalid"),
        (root.issue(&Order { uris: Vec::new(), ..svid(ID) }), "bad certificate", "certificate_invalid"),
        (root.issue(&Order { ca: Some(None), ..svid(ID) }), "bad certificate", "certificate_invalid"),
        (
            root.issue(&Order { not_after: now - minute, ..svid(ID) }),
            "certificate expired",
            "certificate_expired",
        ),
        (authority("mesh.local").issue(&svid(ID)), "unknown ca", "certificate_untrusted"),
        (foreign.issue(&svid("spiffe://other.org/x")), "unknown ca", "certificate_untrusted"),
        (crate::support::certificates::self_signed(&svid(ID)), "unknown ca", "certificate_untrusted"),
    ];
    for (own, alert, reason) in others {
        let refused = client.showing(&own).get(address, "a.example", "/").await.unwrap_err();
        assert!(refused.contains(alert), "{reason}: {refused}");
        failed(&gateway, reason).await;
    }
    let refused = client.get(address, "a.example", "/").await.unwrap_err();
    assert!(refused.contains("certificate required"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_identity_is_shown_and_judged_by_without_a_restart() {
    let (gateway, root) = member().await;
    let client = TlsClient::of(&root).showing(&root.issue(&svid(ID)));
    let mut open = {
        let stream = client.connect(gateway.address("main"), "a.example").await.unwrap();
        Connection::http1_over(TokioIo::new(stream), "a.example".into()).await.unwrap()
    };
    open.send("GET", "/", &[], "").await.unwrap();
    let next = authority("mesh.local");
    let own = next.issue(&Order { dns: vec!["a.example".into()], ..svid("spiffe://mesh.local/gateway") });
    own.write_to(gateway.directory(), &next);
    let renewed = TlsClient::of(&next).showing(&next.issue(&svid(ID)));
    // The files are three, and not all of them are seen at once.
    let shown = async { while renewed.get(gateway.address("main"), "a.example", "/").await.is_err() {} };
    within_deadline("the renewed identity", shown).await;
    // Who opened a connection when it was trusted keeps it; it cannot open another.
    assert_eq!(open.send("GET", "/", &[], "").await.unwrap().text(), "hello");
    let client = client.showing(&root.issue(&svid(ID)));
    let again = client.trusting(&next).get(gateway.address("main"), "a.example", "/").await;
    assert!(again.unwrap_err().contains("unknown ca"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_is_not_there_is_refused_at_check() {
    let (code, stderr, _) = Gateway::start_expecting_failure(
        &configuration("certificates: [identity], client_auth: {mode: require, trust: spiffe}", ""),
        &["check"],
    )
    .await;
    assert_eq!(code, 3);
    assert!(stderr.contains("listeners[0].tls.certificates[0]: this gateway has no identity"), "{stderr}");
    assert!(stderr.contains("listeners[0].tls.client_auth.trust"), "{stderr}");
}
