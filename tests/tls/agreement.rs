//! What client and server agree on: versions, groups, ciphers; and sessions that go on, at another gateway too.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use base64::{Engine, prelude::BASE64_STANDARD};
use openssl::ssl::{SslSession, SslSessionCacheMode, SslSessionRef, SslVersion};

use super::*;
use crate::support::connect::{Pieces, agreed_group, asking_for, connect, shake_over, shake_scattered};

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_exchanged_by_a_group_that_quantum_computers_do_not_break_with_clients_that_have_it() {
    let (gateway, root) = edge(EDGE, "").await;
    let client = TlsClient::of(&root);
    // A star has the client send its key at once. Without one that is the first's alone, and the gateway asks for another.
    for (offered, agreed) in [
        ("X25519MLKEM768", "X25519MLKEM768"),
        ("X25519MLKEM768:X25519", "X25519MLKEM768"),
        ("X25519:X25519MLKEM768", "X25519MLKEM768"),
        ("*X25519:*X25519MLKEM768", "X25519MLKEM768"),
        ("P-384:P-256:X25519MLKEM768", "X25519MLKEM768"),
        ("X25519", "x25519"),
        ("P-256:X25519", "secp256r1"),
        ("P-384", "secp384r1"),
    ] {
        let mut context = client.context();
        context.set_groups_list(offered).unwrap();
        let stream = shake(context, gateway.address("main"), "a.example").await;
        let stream = stream.unwrap_or_else(|error| panic!("{offered}: {error}"));
        assert_eq!(agreed_group(stream.ssl()), agreed, "{offered}");
    }
    let mut context = client.context();
    context.set_groups_list("P-521").unwrap();
    assert!(shake(context, gateway.address("main"), "a.example").await.is_err());
    failed(&gateway, "no_shared_cipher").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_ciphers_and_versions_are_those_that_are_named() {
    let tls = format!(
        "{EDGE}, groups: [P-384], max_version: '1.2', ciphers: [ECDHE-ECDSA-CHACHA20-POLY1305, ECDHE-ECDSA-AES256-GCM-SHA384]"
    );
    let (gateway, root) = edge(&tls, "").await;
    let client = TlsClient::of(&root);
    let stream = client.connect(gateway.address("main"), "a.example").await.unwrap();
    assert_eq!(stream.ssl().version_str(), "TLSv1.2");
    let cipher = stream.ssl().current_cipher().unwrap().name();
    assert!(cipher.starts_with("ECDHE-ECDSA-"), "{cipher}");
    for (cipher, is_spoken) in
        [("ECDHE-ECDSA-AES256-GCM-SHA384", true), ("ECDHE-ECDSA-AES128-GCM-SHA256", false)]
    {
        let mut context = client.context();
        context.set_cipher_list(cipher).unwrap();
        let stream = shake(context, gateway.address("main"), "a.example").await;
        assert_eq!(stream.is_ok(), is_spoken, "{cipher}");
    }
    let mut context = client.context();
    context.set_groups_list("X25519").unwrap();
    assert!(shake(context, gateway.address("main"), "a.example").await.is_err(), "only P-384 is named");
    let mut context = client.context();
    context.set_min_proto_version(Some(SslVersion::TLS1_3)).unwrap();
    assert!(shake(context, gateway.address("main"), "a.example").await.is_err(), "1.2 is the newest");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_names_a_classical_group_before_the_others_has_it_first() {
    for (named, agreed) in
        [("X25519, X25519MLKEM768", "x25519"), ("X25519MLKEM768, X25519", "X25519MLKEM768")]
    {
        let (gateway, root) = edge(&format!("{EDGE}, groups: [{named}]"), "").await;
        for offered in ["X25519:X25519MLKEM768", "X25519MLKEM768:X25519"] {
            let mut context = TlsClient::of(&root).context();
            context.set_groups_list(offered).unwrap();
            let stream = shake(context, gateway.address("main"), "a.example").await.unwrap();
            assert_eq!(agreed_group(stream.ssl()), agreed, "{named}, and {offered} are offered");
        }
    }
}

fn key(byte: u8) -> String {
    BASE64_STANDARD.encode([byte; 80])
}

/// One request on a connection that shows `session`, if it is given: whether that went on, and what the next may show.
async fn visit(
    client: &TlsClient,
    address: SocketAddr,
    version: SslVersion,
    session: Option<&SslSession>,
) -> (bool, SslSession) {
    let mut context = client.context();
    context.set_max_proto_version(Some(version)).unwrap();
    context.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
    // Copies: OpenSSL spoils the session of a connection that it takes to have ended badly, and one of TLS 1.3 that was shown.
    let copy = |session: &SslSessionRef| SslSession::from_der(&session.to_der().unwrap()).unwrap();
    let given = Arc::new(Mutex::new(Vec::new()));
    let keep = given.clone();
    context.set_new_session_callback(move |_, session| keep.lock().unwrap().push(copy(&session)));
    let mut ssl = asking_for(context, "a.example");
    if let Some(session) = session {
        // SAFETY: contexts of clients are all made alike here, and the session outlives the call.
        unsafe { ssl.set_session(&copy(session)).unwrap() };
    }
    let mut stream = shake_over(connect(address).await.unwrap(), ssl).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within_deadline("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    let went_on = stream.ssl().session_reused();
    // TLS 1.2: one that goes on with a ticket is given none anew.
    let newest = given.lock().unwrap().pop();
    (went_on, newest.or_else(|| stream.ssl().session().map(copy)).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_go_on_at_another_gateway_that_has_the_keys_and_at_none_that_asks_for_certificates() {
    let root = authority("test");
    let certificate = root.issue(&server(&["a.example"]));
    let shared = format!("{EDGE}, ticket_keys: keys");
    let other = "- {name: known, address: \"127.0.0.1:0\", tls: {certificates: [{cert: edge.crt, key: edge.key}], \
                 client_auth: {mode: request, trust: {ca: root.crt}}}}";
    let start = async |keys: &str, tls: &str| {
        let directory = TempDir::new().unwrap();
        keep(directory.path(), "edge", &certificate);
        keep(directory.path(), "root", &root);
        std::fs::write(directory.path().join("keys"), keys).unwrap();
        let yaml = configuration(tls, "")
            .replace("listeners: [", "listeners:\n- ")
            .replace("}]\nroutes", &format!("}}\n{other}\nroutes"));
        (Gateway::start_in(directory, &yaml, &[]).await, yaml)
    };
    let (first, yaml) = start(&key(1), &shared).await;
    let (second, _) = start(&format!("{}\n{}", key(2), key(1)), &shared).await;
    let (stranger, _) = start(&key(3), &shared).await;
    let (alone, _) = start(&key(1), EDGE).await;
    let client = TlsClient::of(&root);
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let at = |gateway: &Gateway| gateway.address("main");
        let (went_on, session) = visit(&client, at(&first), version, None).await;
        assert!(!went_on);
        assert!(visit(&client, at(&first), version, Some(&session)).await.0);
        let (went_on, renewed) = visit(&client, at(&second), version, Some(&session)).await;
        assert!(went_on, "it has the first's key, too");
        assert!(visit(&client, at(&second), version, Some(&renewed)).await.0);
        assert!(
            !visit(&client, at(&first), version, Some(&renewed)).await.0,
            "tickets are written with the first key"
        );
        assert!(!visit(&client, at(&stranger), version, Some(&session)).await.0);
        assert!(
            !visit(&client, at(&alone), version, Some(&session)).await.0,
            "without a file keys are the process's own"
        );
        let guarded = first.address("known");
        assert!(
            !visit(&client, guarded, version, Some(&session)).await.0,
            "who must be known is looked at anew"
        );
    }
    // Rotated: what the new key has written goes on here, and there.
    std::fs::write(first.directory().join("keys"), format!("{}\n{}", key(2), key(1))).unwrap();
    first.reload(&yaml).await;
    let (_, session) = visit(&client, second.address("main"), SslVersion::TLS1_3, None).await;
    let rotated =
        async { while !visit(&client, first.address("main"), SslVersion::TLS1_3, Some(&session)).await.0 {} };
    within_deadline("the new keys", rotated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_logged_only_where_the_environment_and_the_command_say_so() {
    let root = authority("test");
    let certificate = root.issue(&server(&["a.example"]));
    for (args, logs) in [(&["--insecure-keylog"][..], true), (&[], false)] {
        let directory = TempDir::new().unwrap();
        keep(directory.path(), "edge", &certificate);
        let file = directory.path().join("secrets");
        let environment = [("SSLKEYLOGFILE", file.to_str().unwrap())];
        let gateway = Gateway::start_with(directory, &configuration(EDGE, ""), &environment, args).await;
        TlsClient::of(&root).get(gateway.address("main"), "a.example", "/").await.unwrap();
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(written.contains("SERVER_TRAFFIC_SECRET_0 "), logs, "{written}");
        if logs {
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
            gateway
                .wait_for_line(|line| {
                    line["msg"].as_str().is_some_and(|msg| msg.contains("secrets of all TLS sessions"))
                })
                .await;
        }
    }
    let (code, stderr, _) =
        Gateway::start_expecting_failure(&configuration(EDGE, ""), &["run", "--insecure-keylog"]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("SSLKEYLOGFILE names no file"), "{stderr}");
}

/// One of a fleet that makes its own keys.
async fn of_fleet(certificate: &Issued, storage: &str, rotate: &str) -> Gateway {
    let directory = TempDir::new().unwrap();
    keep(directory.path(), "edge", certificate);
    let keys = format!(
        "ticket_keys: {{rotate: {rotate}, storage: {{{storage}, timeout: 2s, secret: 0123456789abcdef0123456789abcdef}}}}"
    );
    let yaml = format!("state_dir: state\n{}", configuration(&format!("{EDGE}, {keys}"), ""));
    Gateway::start_in(directory, &yaml, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_makes_its_ticket_keys_itself_and_keeps_them_while_their_storage_is_away() {
    use crate::support::{
        Redis,
        etcd::{Etcd, Release},
        wait_for_metric,
    };

    let root = authority("test");
    let certificate = root.issue(&server(&["a.example"]));
    let client = TlsClient::of(&root);
    let (mut redis, etcd) = (Redis::start().await, Etcd::start(Release::New).await);
    let stores = [format!("redis: '{}'", redis.url()), format!("etcd: {{endpoints: ['{}']}}", etcd.url())];
    for store in &stores {
        let gateways = futures::future::join_all((0..3).map(|_| of_fleet(&certificate, store, "1h"))).await;
        let mut rotated = 0.0;
        for gateway in &gateways {
            wait_for_metric(gateway, "tidegate_ticket_keys_total", &["result=\"taken\""], 1.0).await;
            gateway.wait_for_message("certificates reloaded").await;
            rotated +=
                crate::support::metric(gateway, "tidegate_ticket_keys_total", &["result=\"rotated\""]).await;
        }
        assert_eq!(rotated, 1.0, "one of them makes the keys");
        for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
            let (_, session) = visit(&client, gateways[0].address("main"), version, None).await;
            for gateway in &gateways {
                assert!(visit(&client, gateway.address("main"), version, Some(&session)).await.0, "{store}");
            }
        }
    }
    let stored: Vec<u8> = redis.command("GET tidegate:tickets:ring").await;
    assert!(!stored.is_empty() && !stored.starts_with(b"# rotated"), "it is encrypted");
    // A start without the storage has what was kept, and a storage that has lost it gets it back.
    let gateway = of_fleet(&certificate, &stores[0], "1h").await;
    gateway.wait_for_message("certificates reloaded").await;
    let (_, session) = visit(&client, gateway.address("main"), SslVersion::TLS1_3, None).await;
    redis.kill().await;
    let next = gateway.upgrade().await;
    next.wait_for_message("session ticket keys cannot be had, the old ones stay").await;
    assert!(visit(&client, next.address("main"), SslVersion::TLS1_3, Some(&session)).await.0);
    redis.start_again().await;
    let other = of_fleet(&certificate, &stores[0], "1h").await;
    other.wait_for_message("certificates reloaded").await;
    let kept = std::fs::read_dir(next.directory().join("state/tickets")).unwrap().next().unwrap().unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(kept.metadata().unwrap().mode() & 0o777, 0o600);
}

/// What a fleet shares goes on when the Redis moves.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_shares_its_ticket_keys_in_a_cluster_and_behind_sentinels() {
    use crate::support::{
        redis::{RedisCluster, Sentinel},
        wait_for_metric,
    };

    let root = authority("test");
    let certificate = root.issue(&server(&["a.example"]));
    let (cluster, sentinel) = tokio::join!(RedisCluster::start(0, &[]), Sentinel::start("pw", "spw"));
    let of_sentinel = format!(
        "redis: {{sentinel: {{nodes: ['{}'], master: primary, password: spw}}, password: pw}}",
        sentinel.address()
    );
    for store in [format!("redis: {{cluster: {}}}", cluster.seeds()), of_sentinel] {
        let gateways =
            [of_fleet(&certificate, &store, "2s").await, of_fleet(&certificate, &store, "2s").await];
        for gateway in &gateways {
            gateway.wait_for_message("shared storage is connected").await;
            gateway.wait_for_message("certificates reloaded").await;
            wait_for_metric(gateway, "tidegate_fleet_store_up", &[], 1.0).await;
        }
        if store.contains("sentinel") {
            sentinel.servers[0].kill().await;
            let rotated = async |gateway: &Gateway| {
                crate::support::metric(gateway, "tidegate_ticket_keys_total", &["result=\"rotated\""]).await
            };
            let before = rotated(&gateways[0]).await + rotated(&gateways[1]).await;
            for gateway in &gateways {
                gateway.wait_for_message("shared storage is away, trying again").await;
                gateway.wait_for_message("shared storage is connected").await;
            }
            let going_on = async {
                while rotated(&gateways[0]).await + rotated(&gateways[1]).await <= before {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            };
            within_deadline("keys from the new master", going_on).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_a_fleet_rotates_come_to_all_of_it() {
    use crate::support::{Redis, wait_for_metric};

    let root = authority("test");
    let certificate = root.issue(&server(&["a.example"]));
    let (client, redis) = (TlsClient::of(&root), Redis::start().await);
    let store = format!("redis: '{}'", redis.url());
    let (one, two) = (of_fleet(&certificate, &store, "2s").await, of_fleet(&certificate, &store, "2s").await);
    for gateway in [&one, &two] {
        let rotated = async {
            while crate::support::metric(gateway, "tidegate_ticket_keys_total", &["result=\"taken\""]).await
                < 3.0
            {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        within_deadline("two rotations", rotated).await;
    }
    wait_for_metric(&one, "tidegate_ticket_keys_total", &["result=\"failed\""], 0.0).await;
    let going_on = async {
        loop {
            let (_, session) = visit(&client, one.address("main"), SslVersion::TLS1_3, None).await;
            if visit(&client, two.address("main"), SslVersion::TLS1_3, Some(&session)).await.0 {
                return;
            }
        }
    };
    within_deadline("a session that goes on at the other", going_on).await;
}

#[tokio::test]
async fn what_is_wrong_with_the_keys_of_a_fleet_is_told_at_its_place() {
    let secret = "secret: 0123456789abcdef0123456789abcdef";
    for (keys, state_dir, expected) in [
        (
            format!("{{storage: {{{secret}}}}}"),
            "state_dir: state",
            "ticket_keys.storage: expected exactly one of `redis` and `etcd`",
        ),
        (
            "{storage: {redis: 'redis://127.0.0.1', secret: short}}".to_owned(),
            "state_dir: state",
            "ticket_keys.storage.secret: a secret of fewer than 32 characters can be guessed",
        ),
        (
            format!("{{storage: {{redis: 'redis://127.0.0.1', {secret}}}, rotate: 0s}}"),
            "state_dir: state",
            "ticket_keys.rotate: a duration of 0 makes no sense here",
        ),
        (
            format!("{{storage: {{redis: 'redis://127.0.0.1', {secret}}}}}"),
            "",
            "ticket_keys: keys that gateways share need a place where they are kept (add `state_dir: /var/lib/tidegate` at the top level)",
        ),
        ("{}".to_owned(), "state_dir: state", "ticket_keys: missing key `storage`"),
    ] {
        let directory = TempDir::new().unwrap();
        let root = authority("test");
        keep(directory.path(), "edge", &root.issue(&server(&["a.example"])));
        let path = |name: &str| directory.path().join(name).display().to_string();
        let edge = EDGE.replace("edge.crt", &path("edge.crt")).replace("edge.key", &path("edge.key"));
        let yaml = format!("{state_dir}\n{}", configuration(&format!("{edge}, ticket_keys: {keys}"), ""));
        let (code, said, _) = Gateway::start_expecting_failure(&yaml, &["check"]).await;
        assert_eq!(code, 3, "{keys}\n{said}");
        assert!(said.contains(expected), "{keys}\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_client_begins_is_known_where_a_template_asks_for_it() {
    let (gateway, root) = edge(EDGE, "").await;
    let client = TlsClient::of(&root);
    let yaml = std::fs::read_to_string(gateway.directory().join("gateway.yaml")).unwrap();
    let asking = yaml.replace(
        "respond: {body: hello}",
        "filters: [headers: {response: {set: {x-ja4: '{tls.ja4}'}}}], respond: {body: hello}",
    );
    gateway.reload(&asking).await;
    let seen = async |ciphers: &str| {
        let mut context = client.context();
        context.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
        context.set_cipher_list(ciphers).unwrap();
        let mut stream = shake(context, gateway.address("main"), "a.example").await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        within_deadline("an answer", stream.read_to_string(&mut answer)).await.unwrap();
        let answer = answer.to_ascii_lowercase();
        answer.lines().find_map(|line| line.strip_prefix("x-ja4: ")).unwrap_or_default().to_owned()
    };
    let found = seen("ECDHE-ECDSA-AES128-GCM-SHA256").await;
    // Its name and one cipher, 0xc02b; what more it says is OpenSSL's.
    assert!(found.starts_with("t12d01") && found.contains("00_648b5c445417_"), "{found}");
    assert_eq!(seen("ECDHE-ECDSA-AES128-GCM-SHA256").await, found);
    assert_ne!(seen("ECDHE-ECDSA-AES256-GCM-SHA384").await, found);
}

/// With ML-KEM it is larger than a packet, so it comes in two at least.
#[tokio::test(flavor = "multi_thread")]
async fn a_hello_in_many_pieces_ends_in_a_handshake_and_looks_as_it_does_in_one() {
    let fingerprint = "filters: [{headers: {response: {set: {x-ja4: '{tls.ja4}'}}}}], respond: {body: hello}";
    let proxied = (", proxy_protocol: accept", &b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 443\r\n"[..]);
    for ((more, before), respond) in [
        (("", &b""[..]), "respond: {body: hello}"),
        (("", b""), fingerprint),
        (proxied, "respond: {body: hello}"),
        (proxied, fingerprint),
    ] {
        let (root, directory) = (authority("test"), TempDir::new().unwrap());
        keep(directory.path(), "edge", &root.issue(&server(&["a.example"])));
        let trusted = if before.is_empty() { "" } else { "trusted_proxies: [127.0.0.1/32]\n" };
        let yaml = configuration(EDGE, more).replace("respond: {body: hello}", respond) + trusted;
        let gateway = Gateway::start_in(directory, &yaml, &[]).await;
        let client = TlsClient::of(&root);
        let mut looks = Vec::new();
        for (record, segment) in [
            (None, 16_384),
            (None, 1),
            (None, 3),
            (None, 100),
            (None, 700),
            (Some(9), 11),
            (Some(500), 16_384),
        ] {
            let pieces = Pieces { record, segment };
            let asking = asking_for(client.context(), "a.example");
            let mut stream = shake_scattered(gateway.address("main"), asking, before, pieces)
                .unwrap_or_else(|error| panic!("{pieces:?}, {more}, {respond}: {error}"));
            assert_eq!(agreed_group(stream.ssl()), "X25519MLKEM768");
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.ends_with("\r\n\r\nhello"), "{pieces:?}: {answer}");
            let answer = answer.to_ascii_lowercase();
            looks.push(answer.lines().find_map(|line| line.strip_prefix("x-ja4: ")).map(str::to_owned));
        }
        assert_eq!(looks[0].is_some(), respond == fingerprint);
        assert!(looks.iter().all(|look| *look == looks[0]), "{looks:?}");
    }
}
