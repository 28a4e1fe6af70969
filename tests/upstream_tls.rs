//! TLS towards upstreams, over a real gateway: who is trusted, and what reaches those who are not.

use std::path::Path;

use openssl::ssl::{SslAcceptorBuilder, SslVerifyMode, SslVersion};
use tempfile::TempDir;

use crate::support::{
    Backend, Gateway, Load, ScriptedUpstream, Step,
    certificates::{Issued, Order, authority, keep, self_signed, signer, svid, write},
    get, metric, send, send_h2c, series,
    tls::{BOTH, HTTP1, TlsServer, acceptor, speaks},
};

/// A root that signs for names.
fn root() -> Issued {
    self_signed(&Order { subject: "internal root".into(), uris: Vec::new(), ..signer("mesh.local") })
}

fn named(name: &str) -> Order {
    Order { subject: name.into(), uris: Vec::new(), dns: vec![name.into()], ..svid("spiffe://a/b") }
}

fn serving(issued: &Issued) -> SslAcceptorBuilder {
    acceptor(&issued.certificate, &issued.key, &[])
}

fn yaml(endpoints: &str, tls: &str, more: &str) -> String {
    let more = more.replace('\n', "\n    ");
    format!(
        "admin: {{address: '127.0.0.1:0'}}\nlisteners: [{{name: edge, address: '127.0.0.1:0'}}]\nroutes: \
         [{{upstream: users}}]\nupstreams:\n  users:\n    endpoints: {endpoints}\n    tls: {tls}\n    {more}\n"
    )
}

const BY_NAME: &str = "{verify: {name: users.internal, ca: ca.pem}}";

async fn start(root: &Issued, yaml: &str) -> Gateway {
    let directory = TempDir::new().unwrap();
    write(&directory.path().join("ca.pem"), &root.pem(), 0o644);
    Gateway::start_in(directory, yaml, &[]).await
}

fn ca(gateway: &Gateway) -> std::path::PathBuf {
    gateway.directory().join("ca.pem")
}

#[tokio::test]
async fn the_named_endpoint_answers_over_every_protocol() {
    let root = root();
    let own = root.issue(&named("users.internal"));
    for (protocol, offers, spoken) in [
        ("http1", BOTH, "HTTP/1.1"),
        ("http2", BOTH, "HTTP/2.0"),
        ("auto", BOTH, "HTTP/2.0"),
        ("auto", HTTP1, "HTTP/1.1"),
    ] {
        let mut builder = serving(&own);
        speaks(&mut builder, offers);
        let server = TlsServer::start(builder).await;
        let endpoints = format!("['{}']", server.address());
        let config = yaml(&endpoints, BY_NAME, &format!("protocol: {protocol}"));
        let gateway = start(&root, &format!("threads: 1\n{config}")).await;
        let edge = gateway.address("edge");
        for _ in 0..2 {
            assert_eq!(get(edge, "/a").await.assert_status(200).text(), "1", "{protocol}: kept");
            // By then the connection is back in its place.
            gateway.wait_for_message("request").await;
        }
        let host = edge.to_string();
        let expected = format!("{spoken} GET {host} /a");
        assert_eq!(server.record().requests, [expected.clone(), expected], "the host stays the client's");
    }
}

#[tokio::test]
async fn nothing_reaches_whoever_is_not_trusted_and_the_log_says_why() {
    let root = root();
    let hour = std::time::Duration::from_secs(3600);
    let now = std::time::SystemTime::now();
    let expired = Order { not_after: now - hour / 2, ..named("users.internal") };
    let old = |builder: &mut SslAcceptorBuilder| {
        builder.set_min_proto_version(Some(SslVersion::TLS1_1)).unwrap();
        builder.set_max_proto_version(Some(SslVersion::TLS1_1)).unwrap();
        builder.set_cipher_list("ALL:@SECLEVEL=0").unwrap();
    };
    let (mismatch, failed) = ("upstream_identity_mismatch", "connect_failed");
    let plain = |_: &mut SslAcceptorBuilder| ();
    type Change<'a> = &'a dyn Fn(&mut SslAcceptorBuilder);
    let only_1_2 = |builder: &mut SslAcceptorBuilder| {
        builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    };
    let cases: [(Issued, Change<'_>, &str, &str, &str); 7] = [
        (root.issue(&named("orders.internal")), &plain, mismatch, "identity|certificate", "orders.internal"),
        (root.issue(&expired), &plain, mismatch, "certificate", "expired"),
        (self_signed(&named("users.internal")), &plain, mismatch, "certificate", "self-signed"),
        (authority("other").issue(&named("users.internal")), &plain, mismatch, "certificate", "issuer"),
        (root.issue(&named("users.internal")), &old, failed, "handshake|refused", "TLS"),
        (root.issue(&named("users.internal")), &only_1_2, mismatch, "version", "`min_version` is 1.3"),
        (
            root.issue(&named("users.internal")),
            &|builder| builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT),
            "",
            "refused",
            "client_identity",
        ),
    ];
    for protocol in ["http1", "http2"] {
        for (issued, change, reason, kinds, why) in &cases {
            let mut builder = serving(issued);
            change(&mut builder);
            let server = TlsServer::start(builder).await;
            let endpoints = format!("['{}']", server.address());
            let verified = match *kinds {
                "version" => BY_NAME.replace("}}", "}, min_version: \"1.3\"}"),
                _ => BY_NAME.to_owned(),
            };
            let gateway = start(&root, &yaml(&endpoints, &verified, &format!("protocol: {protocol}"))).await;
            let edge = gateway.address("edge");
            let answer = get(edge, "/secret").await;
            if reason.is_empty() {
                // Which of two it is depends on whether its alert comes before our request: see the documentation.
                answer.assert_status(502);
            } else {
                answer.assert_reason(502, reason);
            }
            let said = gateway.wait_for_message("endpoint is not trusted").await;
            assert!(said["why"].as_str().unwrap().contains(why), "{protocol} {why}: {said}");
            let before = server.record().connections;
            get(edge, "/secret").await.assert_status(502);
            assert!(server.record().connections > before, "a new connection");
            assert_eq!(server.record().requests, Vec::<String>::new(), "{protocol} {why}");
            let mut counted = None;
            for kind in kinds.split('|') {
                let labels = format!("endpoint=\"{}\",kind=\"{kind}\",upstream=\"users\"", server.address());
                let failures = series(&gateway, "tidegate_upstream_tls_failures_total", &[&labels]).await;
                counted = counted.or(failures);
            }
            assert!(counted.is_some(), "{protocol} {why}: none of {kinds}");
        }
    }
}

#[tokio::test]
async fn an_endpoint_without_tls_is_told_from_others() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("plain")]).await;
    let endpoints = format!("['{}']", upstream.address());
    let gateway = start(&root(), &yaml(&endpoints, BY_NAME, "connect_timeout: 500ms")).await;
    get(gateway.address("edge"), "/").await;
    assert!(upstream.heads().is_empty());
    let answering = ScriptedUpstream::start(vec![Step::write("HTTP/1.1 400 Bad Request\r\n\r\n")]).await;
    let endpoints = format!("['{}']", answering.address());
    let gateway = start(&root(), &yaml(&endpoints, BY_NAME, "")).await;
    get(gateway.address("edge"), "/").await.assert_reason(502, "connect_failed");
    let said = gateway.wait_for_message("endpoint is not trusted").await;
    assert!(said["why"].as_str().unwrap().contains("does not speak TLS"), "{said}");
}

#[tokio::test]
async fn another_endpoint_is_tried_and_learns_nothing_of_the_first() {
    let root = root();
    let wrong = TlsServer::start(serving(&root.issue(&named("orders.internal")))).await;
    let right = TlsServer::start(serving(&root.issue(&named("users.internal")))).await;
    for protocol in ["http1", "http2"] {
        let endpoints = format!("['{}', '{}']", wrong.address(), right.address());
        let gateway = start(&root, &yaml(&endpoints, BY_NAME, &format!("protocol: {protocol}"))).await;
        for _ in 0..4 {
            let answer = crate::support::send(gateway.address("edge"), "POST", "/", &[], "x").await;
            answer.assert_status(200);
        }
    }
    assert!(wrong.record().requests.is_empty());
}

#[tokio::test]
async fn a_host_name_is_verified_without_being_asked_for() {
    let root = root();
    for (name, status) in [("localhost", 200), ("other.internal", 502)] {
        let server = TlsServer::start(serving(&root.issue(&named(name)))).await;
        let endpoints = format!("['localhost:{}']", server.address().port());
        let gateway = start(&root, &yaml(&endpoints, "{verify: {ca: ca.pem}}", "")).await;
        get(gateway.address("edge"), "/").await.assert_status(status);
    }
}

/// RFC 9525, section 2: a name in the subject alone is none.
#[tokio::test]
async fn a_certificate_with_its_name_in_the_subject_alone_is_refused() {
    let root = root();
    let server =
        TlsServer::start(serving(&root.issue(&Order { dns: Vec::new(), ..named("users.internal") }))).await;
    let gateway = start(&root, &yaml(&format!("['{}']", server.address()), BY_NAME, "")).await;
    get(gateway.address("edge"), "/").await.assert_reason(502, "upstream_identity_mismatch");
    assert!(server.record().requests.is_empty());
    gateway.wait_for_line(|line| line.to_string().contains("its subject does not count")).await;
}

#[tokio::test]
async fn what_is_sent_as_the_server_name_is_not_what_is_verified() {
    let root = root();
    for (name, status) in [("users.internal", 200), ("front.internal", 502)] {
        let server = TlsServer::start(serving(&root.issue(&named(name)))).await;
        let endpoints = format!("['{}']", server.address());
        let tls = "{verify: {name: users.internal, ca: ca.pem}, server_name: front.internal}";
        let gateway = start(&root, &yaml(&endpoints, tls, "")).await;
        get(gateway.address("edge"), "/").await.assert_status(status);
    }
}

#[tokio::test]
async fn the_systems_authorities_are_those_the_environment_names() {
    let root = root();
    let server = TlsServer::start(serving(&root.issue(&named("users.internal")))).await;
    let endpoints = format!("['{}']", server.address());
    let config = yaml(&endpoints, "{verify: {name: users.internal}}", "");
    let directory = TempDir::new().unwrap();
    let ca = directory.path().join("ca.pem");
    write(&ca, &root.pem(), 0o644);
    let trusting = Gateway::start_in(directory, &config, &[("SSL_CERT_FILE", ca.to_str().unwrap())]).await;
    get(trusting.address("edge"), "/").await.assert_status(200);
    let not = Gateway::start(&config).await;
    get(not.address("edge"), "/").await.assert_reason(502, "upstream_identity_mismatch");
}

#[tokio::test]
async fn two_upstreams_at_one_address_share_nothing() {
    let root = root();
    let both = Order { dns: vec!["a.internal".into(), "b.internal".into()], ..named("a.internal") };
    let server = TlsServer::start(serving(&root.issue(&both))).await;
    let address = server.address();
    let upstream = |name: &str, verified: &str, protocol: &str| {
        format!(
            "  {name}: {{endpoints: ['{address}'], protocol: {protocol}, \
             tls: {{verify: {{name: {verified}, ca: ca.pem}}}}}}\n"
        )
    };
    for protocol in ["http1", "http2"] {
        let config = format!(
            "admin: false\nthreads: 1\nlisteners: [{{name: edge, address: '127.0.0.1:0'}}]\n\
             routes: [{{match: {{path: /a}}, upstream: a}}, {{match: {{path: /b}}, upstream: b}}, {{match: {{path: /c}}, upstream: c}}]\n\
             upstreams:\n{}{}{}",
            upstream("a", "a.internal", protocol),
            upstream("b", "b.internal", protocol),
            upstream("c", "c.internal", protocol)
        );
        let gateway = start(&root, &config).await;
        let edge = gateway.address("edge");
        let (a, b) = (get(edge, "/a").await, get(edge, "/b").await);
        assert_ne!(a.assert_status(200).text(), b.assert_status(200).text());
        get(edge, "/c").await.assert_reason(502, "upstream_identity_mismatch");
        assert_eq!(get(edge, "/a").await.text(), a.text());
        assert_eq!(get(edge, "/b").await.text(), b.text());
    }
    assert!(server.record().requests.iter().all(|request| !request.ends_with("/c")));
}

#[tokio::test]
async fn authorities_change_under_load_without_a_failure() {
    let (old, new) = (root(), root());
    let server = TlsServer::start(serving(&old.issue(&named("users.internal")))).await;
    let endpoints = format!("['{}']", server.address());
    let gateway = start(&old, &yaml(&endpoints, BY_NAME, "")).await;
    let edge = gateway.address("edge");
    let before: usize = get(edge, "/").await.text().parse().unwrap();
    let load = Load::start(edge, "/", 4);
    load.wait_for_requests(100).await;
    write(&ca(&gateway), &[old.pem(), new.pem()].concat(), 0o644);
    gateway.wait_for_message("certificate authorities reloaded").await;
    server.replace(serving(&new.issue(&named("users.internal"))));
    let after: usize = get(edge, "/").await.text().parse().unwrap();
    load.stop().await.assert_no_failures();
    assert!(after > before, "a new connection");
    write(&ca(&gateway), b"no certificates", 0o644);
    gateway.wait_for_message("certificate authorities cannot be read, the old ones stay").await;
    get(edge, "/").await.assert_status(200);
}

/// The certificate and key of an ordinary PKI, which no identity has to do with.
#[tokio::test]
async fn a_client_certificate_is_shown_and_follows_its_files() {
    let (root, stranger) = (root(), root());
    let server = TlsServer::start(demanding(&root.issue(&named("users.internal")), &[&root])).await;
    let tls = "{verify: {name: users.internal, ca: ca.pem}, client_cert: {cert: own.crt, key: own.key}}";
    let directory = TempDir::new().unwrap();
    write(&directory.path().join("ca.pem"), &root.pem(), 0o644);
    keep(directory.path(), "own", &stranger.issue(&named("gateway.internal")));
    let yaml = yaml(&format!("['{}']", server.address()), tls, "outlier: off");
    let gateway = Gateway::start_in(directory, &yaml, &[]).await;
    let edge = gateway.address("edge");
    assert!(get(edge, "/").await.status.is_server_error(), "not one that the endpoint knows");
    keep(gateway.directory(), "own", &root.issue(&named("gateway.internal")));
    gateway.wait_for_message("client certificate reloaded").await;
    get(edge, "/").await.assert_status(200);
    write(&gateway.directory().join("own.key"), b"no key", 0o600);
    gateway.wait_for_message("client certificate cannot be read, the old one stays").await;
    get(edge, "/").await.assert_status(200);
}

#[tokio::test]
async fn an_endpoint_is_known_by_a_uri_of_its_certificate() {
    let root = root();
    let order = Order { uris: vec!["urn:shop:users".into()], ..named("whatever.internal") };
    let server = TlsServer::start(serving(&root.issue(&order))).await;
    let endpoints = format!("['{}']", server.address());
    let tls = |uris: &str| yaml(&endpoints, &format!("{{verify: {{uri: [{uris}], ca: ca.pem}}}}"), "");
    let gateway = start(&root, &tls("'urn:shop:orders', 'urn:shop:users'")).await;
    get(gateway.address("edge"), "/").await.assert_status(200);
    let gateway = start(&root, &tls("'urn:shop:user'")).await;
    get(gateway.address("edge"), "/").await.assert_reason(502, "upstream_identity_mismatch");
    let said = gateway.wait_for_message("endpoint is not trusted").await;
    assert_eq!(said["why"], "expected urn:shop:user, got urn:shop:users, whatever.internal");
    // And by its authority, as ever.
    let gateway = start(&self::root(), &tls("'urn:shop:users'")).await;
    get(gateway.address("edge"), "/").await.assert_reason(502, "upstream_identity_mismatch");
}

#[tokio::test]
async fn of_several_names_an_endpoint_needs_one() {
    let root = root();
    let order = Order { uris: vec!["urn:shop:users".into()], ..named("users.internal") };
    let server = TlsServer::start(serving(&root.issue(&order))).await;
    let endpoints = format!("['{}']", server.address());
    for (verify, expected) in [
        ("dns: [orders.internal, Users.internal]", None),
        ("uri: ['urn:shop:orders'], dns: [users.internal]", None),
        ("uri: ['urn:shop:users'], dns: [orders.internal]", None),
        ("dns: [orders.internal, user.internal]", Some("orders.internal or user.internal")),
        ("uri: ['urn:shop:user'], dns: [orders.internal]", Some("urn:shop:user or orders.internal")),
    ] {
        let gateway =
            start(&root, &yaml(&endpoints, &format!("{{verify: {{{verify}, ca: ca.pem}}}}"), "")).await;
        let answer = get(gateway.address("edge"), "/").await;
        let Some(expected) = expected else {
            answer.assert_status(200);
            continue;
        };
        answer.assert_reason(502, "upstream_identity_mismatch");
        let said = gateway.wait_for_message("endpoint is not trusted").await;
        assert_eq!(said["why"], format!("expected {expected}, got urn:shop:users, users.internal"));
    }
}

#[tokio::test]
async fn health_checks_verify_as_requests_do() {
    let root = root();
    for check in ["http: {path: /health}", "tcp: {}"] {
        for protocol in ["http1", "http2", "auto"] {
            let wrong = TlsServer::start(serving(&root.issue(&named("orders.internal")))).await;
            let right = TlsServer::start(serving(&root.issue(&named("users.internal")))).await;
            let endpoints = format!("['{}', '{}']", wrong.address(), right.address());
            let settings = format!("protocol: {protocol}\nhealth_check: {{{check}, interval: 1h}}");
            let gateway = start(&root, &yaml(&endpoints, BY_NAME, &settings)).await;
            let said = gateway.wait_for_message("endpoint is unhealthy").await;
            assert_eq!(said["endpoint"], wrong.address().to_string());
            assert!(said["why"].as_str().unwrap().contains("orders.internal"), "{said}");
            get(gateway.address("edge"), "/").await.assert_status(200);
            assert!(wrong.record().requests.is_empty());
        }
    }
}

#[tokio::test]
async fn hedges_and_mirrors_verify_too() {
    let root = root();
    let right = TlsServer::start(serving(&root.issue(&named("users.internal")))).await;
    let wrong = TlsServer::start(serving(&root.issue(&named("orders.internal")))).await;
    let upstream = |name: &str, server: &TlsServer| {
        format!("  {name}: {{endpoints: ['{}'], tls: {BY_NAME}}}\n", server.address())
    };
    let config = format!(
        "admin: {{address: '127.0.0.1:0'}}\nlisteners: [{{name: edge, address: '127.0.0.1:0'}}]\nroutes:\n\
         - {{match: {{path: /hedged}}, upstream: users, hedge: {{after: 1s}}, mirror: {{upstream: shadow, ratio: 100%}}}}\n\
         - {{match: {{path: /astray}}, upstream: shadow, hedge: {{after: 1s}}}}\n\
         upstreams:\n{}{}",
        upstream("users", &right),
        upstream("shadow", &wrong)
    );
    let gateway = start(&root, &config).await;
    let edge = gateway.address("edge");
    get(edge, "/hedged").await.assert_status(200);
    wrong.wait_for("the mirror's copy", |record| record.connections > 0).await;
    get(edge, "/astray").await.assert_reason(502, "upstream_identity_mismatch");
    assert!(wrong.record().requests.is_empty());
}

#[tokio::test]
async fn not_verifying_is_loud() {
    let server = TlsServer::start(serving(&self_signed(&named("whoever")))).await;
    let config = yaml(&format!("['{}']", server.address()), "{insecure_skip_verify: true}", "");
    let gateway = Gateway::start(&config).await;
    let warning = |line: &serde_json::Value| {
        line["msg"].as_str().is_some_and(|message| message.contains("are not verified"))
    };
    gateway.wait_for_line(warning).await;
    get(gateway.address("edge"), "/").await.assert_status(200);
    let upstreams = get(gateway.admin(), "/upstreams").await.json();
    assert_eq!(upstreams[0]["tls"]["verified"], false);
    assert_eq!(metric(&gateway, "tidegate_upstream_insecure{upstream=\"users\"}", &[]).await, 1.0);
    gateway.reload(&config.replace("edge", "edge2")).await;
    gateway.wait_for_line(warning).await;
}

#[tokio::test]
async fn an_http2_client_reaches_an_http1_endpoint_over_tls() {
    let root = root();
    let mut builder = serving(&root.issue(&named("users.internal")));
    speaks(&mut builder, HTTP1);
    let server = TlsServer::start(builder).await;
    let gateway = start(&root, &yaml(&format!("['{}']", server.address()), BY_NAME, "")).await;
    send_h2c(gateway.address("edge"), "GET", "/", &[], "").await.assert_status(200);
    let gateway = start(&root, &yaml(&format!("['{}']", server.address()), BY_NAME, "protocol: grpc")).await;
    get(gateway.address("edge"), "/").await.assert_reason(502, "connect_failed");
}

#[test]
fn what_would_verify_less_than_was_meant_is_refused() {
    let directory = TempDir::new().unwrap();
    write(&directory.path().join("ca.pem"), &root().pem(), 0o644);
    write(&directory.path().join("empty.pem"), b"", 0o644);
    let table = [
        ("['10.0.0.1:1']", "{}", "upstreams.users.tls: needs a name or SPIFFE IDs to verify"),
        ("['a.b:1', '10.0.0.1:1']", "{verify: {ca: ca.pem}}", "tls: needs a name or SPIFFE IDs to verify"),
        ("['a.b:1']", "{verify: {name: 10.0.0.1}}", "tls.verify.name: \"10.0.0.1\" is an address"),
        ("['a.b:1']", "{verify: {name: 'a b'}}", "tls.verify.name: \"a b\" is not a host name"),
        ("['a.b:1']", "{verify: {ca: none.pem}}", "tls.verify.ca: cannot read"),
        ("['a.b:1']", "{verify: {ca: empty.pem}}", "tls.verify.ca:"),
        ("['a.b:1']", "{verify: {spiffe: ['spiffe://m/a'], name: a}}", "`spiffe` goes with neither"),
        (
            "['a.b:1']",
            "{verify: {spiffe: ['http://m/a']}}",
            "tls.verify.spiffe[0]: \"http://m/a\" is not a SPIFFE ID",
        ),
        (
            "['a.b:1']",
            "{verify: {spiffe: registered}}",
            "tls.verify.spiffe: `registered` is for endpoints of a registry: a.b:1 is not from a registry",
        ),
        ("['a.b:1']", "{verify: {spiffe: registerd}}", "expected `registered`, or a list of SPIFFE IDs"),
        ("['a.b:1']", "{insecure_skip_verify: true, verify: {name: a}}", "goes with no `verify`"),
        ("['a.b:1']", "{verify: {uri: ['urn:a:b']}}", "tls.verify.uri: needs `ca`"),
        ("['a.b:1']", "{verify: {uri: ['urn:a:b'], ca: ca.pem, name: a}}", "`uri` goes with neither"),
        ("['a.b:1']", "{verify: {uri: [users], ca: ca.pem}}", "tls.verify.uri[0]: \"users\" is not a URI"),
        ("['a.b:1']", "{verify: {dns: [a.b], name: a}}", "`dns` goes with neither `spiffe` nor `name`"),
        ("['a.b:1']", "{verify: {dns: [a.b, 10.0.0.1]}}", "tls.verify.dns[1]: \"10.0.0.1\" is an address"),
        ("['a.b:1']", "{client_cert: {cert: none.pem, key: none.key}}", "tls.client_cert.cert: cannot read"),
        ("['a.b:1']", "{client_cert: {cert: ca.pem, key: ca.pem}}", "tls.client_cert.key:"),
        (
            "['a.b:1']",
            "{insecure_skip_verify: true, client_cert: {cert: ca.pem, key: ca.pem}}",
            "goes with no `client_cert`",
        ),
        (
            "['a.b:1']",
            "{insecure_skip_verify: true, client_identity: true}",
            "goes with no `client_identity`",
        ),
        ("['a.b:1']", "{server_name: ''}", "tls.server_name: \"\" is not a host name"),
        ("['a.b:1']", "{min_version: '1.1'}", "min_version"),
    ];
    for (endpoints, tls, expected) in table {
        let problems = problems(directory.path(), &yaml(endpoints, tls, ""));
        assert!(problems.contains(expected), "{tls}: {problems}");
    }
    let plain = yaml("['a.b:1']", "null", "protocol: auto");
    assert!(problems(directory.path(), &plain).contains("`auto` is negotiated over TLS"));
    for (endpoints, tls) in [
        ("['a.b:1']", "{}"),
        ("['10.0.0.1:1']", "{verify: {name: a.b}}"),
        ("['a.b:1']", "{verify: {ca: ca.pem}, min_version: '1.3'}"),
        ("['10.0.0.1:1']", "{insecure_skip_verify: true}"),
    ] {
        assert_eq!(problems(directory.path(), &yaml(endpoints, tls, "protocol: auto")), "", "{tls}");
    }
}

fn problems(directory: &Path, yaml: &str) -> String {
    let file = directory.join("gateway.yaml");
    std::fs::write(&file, yaml).unwrap();
    let loaded = match tidegate::config::load(&file) {
        Ok(loaded) => loaded,
        Err(problems) => return problems.to_string(),
    };
    let compiled = tidegate::snapshot::compile(loaded, &tidegate::filter::Live::offline());
    compiled.err().map(|problems| problems.to_string()).unwrap_or_default()
}

const USERS: &str = "spiffe://mesh.local/users";

/// A gateway with an identity of its own in `svid.pem`, `svid.key` and `bundle.pem`.
async fn start_as_member(root: &Issued, yaml: &str) -> Gateway {
    let directory = TempDir::new().unwrap();
    root.issue(&svid("spiffe://mesh.local/tidegate")).write_to(directory.path(), root);
    let yaml = format!(
        "identity: {{trust_domain: mesh.local, files: {{cert: svid.pem, key: svid.key, bundle: bundle.pem}}}}\n{yaml}"
    );
    Gateway::start_in(directory, &yaml, &[]).await
}

/// Asks for a certificate by any of `authorities`.
fn demanding(issued: &Issued, authorities: &[&Issued]) -> SslAcceptorBuilder {
    let mut builder = serving(issued);
    for authority in authorities {
        builder.cert_store_mut().add_cert(authority.certificate.clone()).unwrap();
    }
    builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    builder.set_session_id_context(b"test").unwrap();
    builder
}

#[tokio::test]
async fn members_know_each_other_and_strangers_get_nothing() {
    let root = authority("mesh.local");
    let tls = format!("{{verify: {{spiffe: ['{USERS}']}}, client_identity: true}}");
    for protocol in ["http1", "http2", "auto"] {
        let server = TlsServer::start(demanding(&root.issue(&svid(USERS)), &[&root])).await;
        let config = yaml(&format!("['{}']", server.address()), &tls, &format!("protocol: {protocol}"));
        let gateway = start_as_member(&root, &format!("threads: 1\n{config}")).await;
        let edge = gateway.address("edge");
        get(edge, "/").await.assert_status(200);
        // By then the connection is back in its place.
        gateway.wait_for_message("request").await;
        assert_eq!(get(edge, "/").await.assert_status(200).text(), "1");
        let other = root.issue(&svid("spiffe://mesh.local/orders"));
        let stranger = TlsServer::start(demanding(&other, &[&root])).await;
        let config = yaml(&format!("['{}']", stranger.address()), &tls, &format!("protocol: {protocol}"));
        let gateway = start_as_member(&root, &config).await;
        let edge = gateway.address("edge");
        for _ in 0..2 {
            get(edge, "/").await.assert_reason(502, "upstream_identity_mismatch");
        }
        let said = gateway.wait_for_message("endpoint is not trusted").await;
        assert_eq!(said["why"], "expected spiffe://mesh.local/users, got spiffe://mesh.local/orders");
        stranger.wait_for("closed", |record| record.connections >= 2 && record.closed >= 2).await;
        assert!(stranger.record().requests.is_empty());
    }
}

#[tokio::test]
async fn svid_and_bundle_are_rotated_under_load_without_a_failure() {
    let (old, new) = (authority("mesh.local"), authority("mesh.local"));
    let tls = format!("{{verify: {{spiffe: ['{USERS}']}}, client_identity: true}}");
    for protocol in ["http1", "http2"] {
        let server = TlsServer::start(demanding(&old.issue(&svid(USERS)), &[&old, &new])).await;
        let config = yaml(&format!("['{}']", server.address()), &tls, &format!("protocol: {protocol}"));
        let gateway = start_as_member(&old, &config).await;
        let edge = gateway.address("edge");
        let load = Load::start(edge, "/", 4);
        load.wait_for_requests(50).await;
        let directory = gateway.directory();
        let shown = |issued: &Issued| {
            issued.certificate.digest(openssl::hash::MessageDigest::sha256()).unwrap().to_vec()
        };
        // The SVID, then a bundle with both authorities, then one of the new authority.
        let second = old.issue(&svid("spiffe://mesh.local/tidegate"));
        second.write_to(directory, &old);
        let (first_shown, second_shown) = (server.record().clients[0].clone(), shown(&second));
        server.wait_for("the new SVID", |record| record.clients.contains(&second_shown)).await;
        assert_ne!(first_shown, second_shown);
        gateway.wait_for_message("new trust bundles").await;
        write(&directory.join("bundle.pem"), &[old.pem(), new.pem()].concat(), 0o644);
        gateway.wait_for_message("new trust bundles").await;
        server.replace(demanding(&new.issue(&svid(USERS)), &[&old, &new]));
        let third = new.issue(&svid("spiffe://mesh.local/tidegate"));
        let third_shown = shown(&third);
        write(&directory.join("svid.key"), &third.key_pem(), 0o600);
        write(&directory.join("svid.pem"), &third.pem(), 0o644);
        server.wait_for("the new authority's SVID", |record| record.clients.contains(&third_shown)).await;
        load.stop().await.assert_no_failures();
    }
}

#[test]
fn an_identity_is_needed_for_what_uses_it_and_goes_with_no_insecurity() {
    let directory = TempDir::new().unwrap();
    let root = authority("mesh.local");
    root.issue(&svid("spiffe://mesh.local/tidegate")).write_to(directory.path(), &root);
    let identity =
        "identity: {trust_domain: mesh.local, files: {cert: svid.pem, key: svid.key, bundle: bundle.pem}}\n";
    for (tls, without, with) in [
        (format!("{{verify: {{spiffe: ['{USERS}']}}}}"), "spiffe: needs the section `identity`", ""),
        ("{client_identity: true}".into(), "client_identity: needs the section `identity`", ""),
        ("{insecure_skip_verify: true}".into(), "", "goes with no `identity`"),
    ] {
        let config = yaml("['a.b:1']", &tls, "");
        for (config, expected) in [(config.clone(), without), (format!("{identity}{config}"), with)] {
            let found = problems(directory.path(), &config);
            assert!(if expected.is_empty() { found.is_empty() } else { found.contains(expected) }, "{found}");
        }
    }
}

#[tokio::test]
async fn check_online_looks_as_requests_would() {
    let root = authority("mesh.local");
    let right = TlsServer::start(demanding(&root.issue(&svid(USERS)), &[&root])).await;
    let wrong = TlsServer::start(demanding(&root.issue(&svid("spiffe://mesh.local/orders")), &[&root])).await;
    let directory = TempDir::new().unwrap();
    root.issue(&svid("spiffe://mesh.local/tidegate")).write_to(directory.path(), &root);
    let tls = format!("{{verify: {{spiffe: ['{USERS}']}}, client_identity: true}}");
    let endpoints = format!("['{}', '{}']", right.address(), wrong.address());
    let config = yaml(&endpoints, &tls, "health_check: {http: {path: /health}}");
    let identity =
        "identity: {trust_domain: mesh.local, files: {cert: svid.pem, key: svid.key, bundle: bundle.pem}}\n";
    std::fs::write(directory.path().join("g.yaml"), format!("{identity}{config}")).unwrap();
    let mut command = crate::support::tidegate(directory.path());
    command.args(["check", "--online", "-c", "g.yaml"]);
    let process = crate::support::Process::spawn(command);
    process.wait_for_output(&format!("users  {}  ok", right.address())).await;
    let refused = format!("users  {}  failed: expected {USERS}, got", wrong.address());
    process.wait_for_output(&refused).await;
    assert_eq!(process.wait_exit().await.code(), Some(1));
    assert_eq!(right.record().requests.len(), 1, "its health check");
    assert!(wrong.record().requests.is_empty());
}

/// The gateway itself ends TLS before a backend that knows the gRPC health protocol.
#[tokio::test]
async fn a_grpc_health_check_goes_over_tls_too() {
    let root = root();
    let own = root.issue(&named("users.internal"));
    let backend = Backend::start().await;
    let directory = TempDir::new().unwrap();
    write(&directory.path().join("own.key"), &own.key_pem(), 0o600);
    write(&directory.path().join("own.pem"), &own.pem(), 0o644);
    let terminating = format!(
        "admin: false\nlisteners: [{{name: edge, address: '127.0.0.1:0', tls: {{certificates: [{{cert: own.pem, key: \
         own.key}}]}}}}]\nroutes: [{{upstream: u}}]\nupstreams: {{u: {{endpoints: ['{}'], protocol: grpc}}}}\n",
        backend.address()
    );
    let server = Gateway::start_in(directory, &terminating, &[]).await;
    let check = "protocol: grpc\nhealth_check: {grpc: {service: users.Users}, interval: 20ms, unhealthy_after: 2, \
                 healthy_after: 2}";
    let endpoints = format!("['{}']", server.address("edge"));
    let gateway = start(&root, &yaml(&endpoints, BY_NAME, check)).await;
    gateway.wait_for_message("endpoint is healthy").await;
    get(gateway.address("edge"), "/").await.assert_status(200);
    send(backend.address(), "POST", "/health/fail", &[], "").await.assert_status(200);
    let line = gateway.wait_for_message("endpoint is unhealthy").await;
    assert!(line["why"].as_str().unwrap().contains("NOT_SERVING"), "{line}");
    send(backend.address(), "POST", "/health/ok", &[], "").await.assert_status(200);
    gateway.wait_for_message("endpoint is healthy").await;
    // Somebody else is not asked how he is.
    let stranger = start(&authority("other"), &yaml(&endpoints, BY_NAME, check)).await;
    let line = stranger.wait_for_message("endpoint is unhealthy").await;
    assert!(line["why"].as_str().unwrap().contains("certificate"), "{line}");
}
