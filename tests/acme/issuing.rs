//! Orders that succeed, against pebble: which refuses three nonces in ten.

use std::sync::{Arc, Mutex};

use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use openssl::{
    nid::Nid,
    pkey::{Id, PKey, Public},
};
use serde_json::{Value, json};

use super::*;
use crate::support::{
    connect::{Pieces, agreed_group, asking_for, shake_scattered},
    get, metric,
    pebble::Settings,
    send, series, wait_for_metric,
};

/// Of the certificate that is shown to who asks for `name`.
async fn public_key(address: SocketAddr, name: &str) -> PKey<Public> {
    let mut context = TlsClient::trusting_all().context();
    context.set_verify(SslVerifyMode::NONE);
    let stream = shake(context, address, name).await.unwrap();
    stream.ssl().peer_certificate().unwrap().public_key().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_an_empty_folder_to_https_for_each_host_of_the_routes() {
    let pebble = Pebble::start().await;
    let gateway = Gateway::start(&configuration(&pebble, "challenges: [http-01]", "", "")).await;
    let tls = pebble.listener(8443);
    let (a, b) = (served(tls, "a.example.com").await, served(tls, "b.example.com").await);
    assert_ne!(a, b, "each has its own");
    // Whoever asks for something else is shown the first, as ever, and a wildcard is not ordered without dns-01.
    assert_eq!(shown(tls, "x.c.example.com").await.unwrap().0, ["a.example.com"]);
    let client = TlsClient::trusting_all();
    assert_eq!(client.get(tls, "a.example.com", "/").await.unwrap(), "hello");
    let orders = &["account=\"default\"", "result=\"issued\""];
    wait_for_metric(&gateway, "tidegate_acme_orders_total", orders, 2.0).await;
    wait_for_metric(&gateway, "tidegate_acme_certificates", &["state=\"valid\""], 2.0).await;
    // The redirect stood in nobody's way.
    let answered = &["challenge=\"http-01\"", "result=\"answered\""];
    assert!(metric(&gateway, "tidegate_acme_challenges_total", answered).await >= 2.0);
    let expiry = "tidegate_certificate_expiry_timestamp_seconds";
    assert!(series(&gateway, expiry, &["a.example.com"]).await.is_some());
    let issued = gateway.wait_for_message("certificate issued").await;
    assert_eq!(issued["account"], "default");
    assert_eq!(issued["ca"], pebble.ip.to_string());
    let listed = listed(&gateway).await;
    assert!(listed.contains("a.example.com: valid, until ") && listed.contains("renewed at "), "{listed}");
    let ready = get(gateway.admin(), "/readyz?verbose").await;
    assert!(
        ready.assert_status(200).text().contains("ok: certificate b.example.com is valid"),
        "{}",
        ready.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_the_ca_serves_what_was_kept() {
    let mut pebble = Pebble::start().await;
    let gateway =
        Gateway::start(&configuration(&pebble, "challenges: [http-01]", "names: [a.example.com]", "")).await;
    let tls = pebble.listener(8443);
    let serial = served(tls, "a.example.com").await;
    pebble.stop();
    let next = gateway.upgrade().await;
    assert_eq!(shown(tls, "a.example.com").await.unwrap().1, serial, "from the first connection on");
    assert_eq!(metric(&next, "tidegate_acme_orders_total", &[]).await, 0.0);
    // Nobody else can read the keys.
    use std::os::unix::fs::MetadataExt;
    let kept = next.directory().join("state/acme/certificates/default/a.example.com.json");
    assert_eq!(std::fs::metadata(kept).unwrap().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_alpn_01_needs_no_plain_listener() {
    let pebble = Pebble::start().await;
    let tls = pebble.listener(8443);
    let (entry, state) = (pebble.entry(), "state_dir: state");
    let yaml = format!(
        "admin: {{address: '127.0.0.1:0'}}\n{state}\nacme: {{default: {{cas: [{entry}]}}}}\n\
         listeners: [{{name: tls, address: '{tls}', tls: {{certificates: [{{acme: default, names: [a.example.com]}}]}}}}]\n\
         routes: [{{respond: {{body: hello}}}}]\n"
    );
    let gateway = Gateway::start(&yaml).await;
    served(tls, "a.example.com").await;
    let answered = &["challenge=\"tls-alpn-01\"", "result=\"answered\""];
    assert!(metric(&gateway, "tidegate_acme_challenges_total", answered).await >= 1.0);
    // What is looked at for that protocol may come in pieces, as it does with ML-KEM.
    for pieces in [Pieces { record: None, segment: 1 }, Pieces { record: Some(9), segment: 700 }] {
        let asking = asking_for(TlsClient::trusting_all().context(), "a.example.com");
        let stream = shake_scattered(tls, asking, b"", pieces).unwrap();
        assert_eq!(agreed_group(stream.ssl()), "X25519MLKEM768");
        assert_eq!(crate::support::connect::shown(stream.ssl()), ["a.example.com"]);
    }
    // With no order under way, whoever comes with that protocol is refused as anybody else.
    let mut context = TlsClient::trusting_all().speaking(b"\x0aacme-tls/1").context();
    context.set_verify(SslVerifyMode::NONE);
    assert!(shake(context, tls, "a.example.com").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_before_it_ends_and_no_handshake_fails_meanwhile() {
    let pebble = Pebble::start_with(Settings { validity: 6, ..Settings::default() }).await;
    let gateway = Gateway::start(&configuration(&pebble, "", "names: [a.example.com]", "")).await;
    let tls = pebble.listener(8443);
    let first = served(tls, "a.example.com").await;
    let first_key = public_key(tls, "a.example.com").await;
    assert_eq!(first_key.id(), Id::EC, "where nothing is said");
    assert_eq!(first_key.ec_key().unwrap().group().curve_name(), Some(Nid::X9_62_PRIME256V1));
    // Until it was there, nobody could be served.
    let failures = metric(&gateway, "tidegate_tls_handshake_failures_total", &[]).await;
    let mut last = first.clone();
    let renewed = async {
        while last == first {
            last = shown(tls, "a.example.com").await.expect("there is always one to show").1;
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    within_deadline("a renewed certificate", renewed).await;
    assert!(metric(&gateway, "tidegate_acme_orders_total", &["result=\"issued\""]).await >= 2.0);
    assert!(!public_key(tls, "a.example.com").await.public_eq(&first_key), "each has a key of its own");
    assert_eq!(metric(&gateway, "tidegate_tls_handshake_failures_total", &[]).await, failures);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_may_have_one_renewed() {
    let pebble = Pebble::start().await;
    let gateway = Gateway::start(&configuration(&pebble, "", "names: [a.example.com]", "")).await;
    let tls = pebble.listener(8443);
    let first = served(tls, "a.example.com").await;
    let (code, said) = asked(&gateway, &["certs", "renew", "a.example.com"]).await;
    assert_eq!((code, said.contains("ordered")), (0, true), "{said}");
    served_other(tls, "a.example.com", &first).await;
    let (code, said) = asked(&gateway, &["certs", "renew", "a.example.org"]).await;
    assert_eq!((code, said.contains("did you mean a.example.com?")), (1, true), "{said}");
    let denied = send(gateway.admin(), "GET", "/v1/certificates/a.example.com/renew", &[], "").await;
    assert_eq!(denied.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_may_have_to_be_bound_and_a_key_may_be_rsa() {
    let eab = Some(("kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"));
    let pebble = Pebble::start_with(Settings { eab, ..Settings::default() }).await;
    let account = "key: rsa2048, email: ops@example.com";
    let gateway = Gateway::start(&configuration(&pebble, account, "names: [a.example.com]", "")).await;
    let tls = pebble.listener(8443);
    served(tls, "a.example.com").await;
    let key = public_key(tls, "a.example.com").await;
    assert_eq!((key.id(), key.bits()), (Id::RSA, 2048));
    // Another one after a renewal, of the same kind.
    let serial = shown(tls, "a.example.com").await.unwrap().1;
    assert_eq!(asked(&gateway, &["certs", "renew", "a.example.com"]).await.0, 0);
    served_other(tls, "a.example.com", &serial).await;
    let next = public_key(tls, "a.example.com").await;
    assert_eq!((next.id(), next.public_eq(&key)), (Id::RSA, false));
    let shown = get(gateway.admin(), "/config").await;
    assert!(!shown.text().contains("zWNDZM6e"), "the secret is shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_first_ca_gives_nothing_the_next_is_asked() {
    let pebble = Pebble::start().await;
    let nobody = crate::support::own_address().ip();
    let cas = format!("cas: ['https://{nobody}:14000/dir', {}]", pebble.entry());
    let yaml = configuration(&pebble, "", "names: [a.example.com]", "");
    let yaml = yaml.replacen(&format!("cas: [{}]", pebble.entry()), &cas, 1);
    let gateway = Gateway::start(&yaml).await;
    served(pebble.listener(8443), "a.example.com").await;
    let failed = gateway.wait_for_message("no certificate").await;
    assert_eq!(failed["reason"], "unreachable");
    assert_eq!(failed["ca"], nobody.to_string());
    assert_eq!(metric(&gateway, "tidegate_acme_orders_total", &["result=\"unreachable\""]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_01_by_a_command_gets_a_wildcard() {
    let pebble = Pebble::start().await;
    let hook = format!(
        "#!/bin/sh\nexec >/dev/null\ncase $1 in present) curl -sf http://{ip}:8055/set-txt -d \"{{\\\"host\\\":\\\"$2.\\\",\\\"value\\\":\\\"$3\\\"}}\";; \
         cleanup) curl -sf http://{ip}:8055/clear-txt -d \"{{\\\"host\\\":\\\"$2.\\\"}}\"; echo $2 >> cleaned;; esac\n",
        ip = pebble.ip
    );
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("hook");
    std::fs::write(&file, hook).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).unwrap();
    let account = format!("dns: {{command: ['{}'], wait: 0s}}", file.display());
    let yaml = configuration(&pebble, &account, "names: ['*.c.example.com']", "");
    let gateway = Gateway::start_in(directory, &yaml, &[]).await;
    let tls = pebble.listener(8443);
    let serving = async {
        while shown(tls, "x.c.example.com").await.is_none_or(|(names, _)| names != ["*.c.example.com"]) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within_deadline("a certificate for all names below one", serving).await;
    let cleaned = std::fs::read_to_string(gateway.directory().join("cleaned")).unwrap();
    assert_eq!(cleaned.trim(), "_acme-challenge.c.example.com");
}

/// A web service that writes records to pebble's DNS server, but refuses what it is asked first.
struct Webhook {
    address: SocketAddr,
    /// Path, `Authorization`, `Content-Type` and body of each request.
    asked: Arc<Mutex<Vec<[String; 4]>>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Webhook {
    async fn start(pebble: &Pebble) -> Webhook {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let (dns, seen) = (pebble.listener(8055), asked.clone());
        let accepting = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let seen = seen.clone();
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let seen = seen.clone();
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes();
                        let field = |name: &str| {
                            head.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned()
                        };
                        let first = head.method.to_string() + " " + head.uri.path();
                        let told = String::from_utf8(body.to_vec()).unwrap();
                        let number = {
                            let mut seen = seen.lock().unwrap();
                            seen.push([first, field("authorization"), field("content-type"), told.clone()]);
                            seen.len()
                        };
                        let status = match number {
                            1 => 500,
                            _ => write_record(dns, &serde_json::from_str(&told).unwrap()).await,
                        };
                        let answer = Response::builder().status(status).body(Full::<bytes::Bytes>::default());
                        Ok::<_, hyper::Error>(answer.unwrap())
                    }
                });
                serving.spawn(async move {
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Webhook { address, asked, accepting }
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn write_record(dns: SocketAddr, told: &Value) -> u16 {
    let host = format!("{}.", told["name"].as_str().unwrap());
    let (path, what) = match told["action"].as_str() {
        Some("present") => ("/set-txt", json!({"host": host, "value": told["value"]})),
        _ => ("/clear-txt", json!({"host": host})),
    };
    send(dns, "POST", path, &[], what.to_string()).await.status.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_01_by_a_webhook_says_which_record_and_is_asked_again_where_it_failed() {
    let pebble = Pebble::start().await;
    let webhook = Webhook::start(&pebble).await;
    let account = format!(
        "dns: {{webhook: 'http://{}/records', authorization: Bearer of-the-zone, wait: 0s}}",
        webhook.address
    );
    let yaml = configuration(&pebble, &account, "names: ['*.c.example.com']", "");
    let gateway = Gateway::start(&yaml).await;
    let failed = gateway.wait_for_line(|line| line["reason"] == "hook_failed").await;
    assert!(failed["why"].as_str().unwrap().contains("the webhook of dns-01 answers 500"), "{failed}");
    let tls = pebble.listener(8443);
    let serving = async {
        while shown(tls, "x.c.example.com").await.is_none_or(|(names, _)| names != ["*.c.example.com"]) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within_deadline("a certificate for all names below one", serving).await;
    assert_eq!(metric(&gateway, "tidegate_acme_orders_total", &["result=\"hook_failed\""]).await, 1.0);
    let asked = webhook.asked.lock().unwrap().clone();
    let told: Vec<Value> = asked.iter().map(|request| serde_json::from_str(&request[3]).unwrap()).collect();
    let actions: Vec<&str> = told.iter().map(|told| told["action"].as_str().unwrap()).collect();
    assert_eq!(actions[0], "present");
    // On a busy machine an order may fail for other reasons.
    assert!(actions[1..].chunks(2).all(|order| order == ["present", "cleanup"]), "{actions:?}");
    for [path, authorization, kind, body] in &asked {
        assert_eq!([path, authorization, kind], ["POST /records", "Bearer of-the-zone", "application/json"]);
        let told: Value = serde_json::from_str(body).unwrap();
        // A digest in base64url, which pebble has compared with its own.
        let value = told["value"].as_str().unwrap();
        assert_eq!(value.len(), 43, "{value}");
        let record = json!({"action": told["action"], "name": "_acme-challenge.c.example.com", "type": "TXT", "value": value});
        assert_eq!(told, record);
    }
    assert_eq!(told[1]["value"], told[2]["value"], "what was written goes");
    assert_ne!(told[0]["value"], told[1]["value"], "each order has a proof of its own");
    let config = get(gateway.admin(), "/config").await;
    assert!(!config.text().contains("of-the-zone"), "the secret is shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_come_and_go_with_reloads_and_what_is_there_stays() {
    let pebble = Pebble::start().await;
    let yaml = |names: &str| configuration(&pebble, "", &format!("names: [{names}]"), "");
    let gateway = Gateway::start(&yaml("a.example.com")).await;
    let tls = pebble.listener(8443);
    let first = served(tls, "a.example.com").await;
    gateway.reload(&yaml("a.example.com, b.example.com")).await;
    served(tls, "b.example.com").await;
    assert_eq!(shown(tls, "a.example.com").await.unwrap().1, first, "it is not ordered again");
    gateway.reload(&yaml("b.example.com")).await;
    assert_eq!(shown(tls, "a.example.com").await.unwrap().0, ["b.example.com"]);
    gateway.reload(&yaml("a.example.com, b.example.com")).await;
    assert_eq!(served(tls, "a.example.com").await, first, "it was kept");
    assert_eq!(metric(&gateway, "tidegate_acme_orders_total", &["result=\"issued\""]).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_without_a_file_gets_a_certificate_too() {
    let pebble = Pebble::start().await;
    let backend = crate::support::Backend::start().await;
    let home = TempDir::new().unwrap();
    let mut command = crate::support::tidegate(home.path());
    command.args(["proxy", "--from", "https://a.example.com", "--to", &backend.address().to_string()]);
    command.args([
        "--https",
        &pebble.listener(8443).to_string(),
        "--http",
        &pebble.listener(8080).to_string(),
    ]);
    command.args(["--directory", &pebble.directory(), "--directory-ca"]).arg(pebble.ca());
    let _process = crate::support::Process::spawn(command);
    served(pebble.listener(8443), "a.example.com").await;
    let redirected = send(pebble.listener(8080), "GET", "/x", &[("host", "a.example.com")], "").await;
    assert_eq!(redirected.status, 308);
    assert!(home.path().join(".local/state/tidegate/acme/certificates/default/a.example.com.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_may_stand_together_in_one_certificate_which_is_shown_while_names_come_and_go() {
    let pebble = Pebble::start().await;
    let yaml = |names: &str| configuration(&pebble, "", &format!("together: true, names: [{names}]"), "");
    let gateway = Gateway::start(&yaml("a.example.com, b.example.com")).await;
    let tls = pebble.listener(8443);
    let first = served_with(tls, &["a.example.com", "b.example.com"], "").await;
    assert_eq!(shown(tls, "b.example.com").await.unwrap().1, first, "it is one");
    assert_eq!(metric(&gateway, "tidegate_acme_orders_total", &["result=\"issued\""]).await, 1.0);
    let listed = listed(&gateway).await;
    assert!(listed.contains("a.example.com: valid") && listed.contains("b.example.com: valid"), "{listed}");
    gateway.reload(&yaml("a.example.com, b.example.com, d.example.com")).await;
    assert_eq!(shown(tls, "b.example.com").await.unwrap().1, first, "until there is another");
    let second = served_with(tls, &["a.example.com", "b.example.com", "d.example.com"], "").await;
    assert_eq!(asked(&gateway, &["certs", "renew", "d.example.com"]).await.0, 0);
    served_with(tls, &["a.example.com", "b.example.com", "d.example.com"], &second).await;
    // A start with other names has what was kept.
    let next = gateway.upgrade().await;
    next.reload(&yaml("a.example.com")).await;
    assert!(shown(tls, "a.example.com").await.is_some());
    served(tls, "a.example.com").await;
}
