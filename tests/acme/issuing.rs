//! Orders that succeed, against pebble: which refuses three nonces in ten.

use openssl::pkey::Id;

use super::*;
use crate::support::{get, metric, pebble::Settings, send, series, wait_for_metric};

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
    // One key for each.
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
    let mut context = TlsClient::trusting_all().context();
    context.set_verify(SslVerifyMode::NONE);
    let stream = shake(context, tls, "a.example.com").await.unwrap();
    let key = stream.ssl().peer_certificate().unwrap().public_key().unwrap();
    assert_eq!((key.id(), key.bits()), (Id::RSA, 2048));
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
