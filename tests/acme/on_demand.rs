//! Certificates for names that nobody has configured, where a service of the operator's allows them; and what ten thousand strangers' names
//! come to: nothing.

use super::*;
use crate::support::{
    lying_ca::{Lie, LyingCa},
    metric, wait_for_metric,
};

/// A gateway that asks itself: names that begin with `ok` may have a certificate, while `allowed` says so.
fn with(ca: &LyingCa, allowed: u16, on_demand: &str, names: &str) -> String {
    let ask = own_ask();
    format!(
        "admin: {{address: '127.0.0.1:0'}}\nstate_dir: state\n\
         acme: {{default: {{cas: [{}], retry: {{base: 50ms, max: 200ms}}, orders: 1000000/h,\n  \
           on_demand: {{ask: 'http://{ask}/allowed?by=tidegate', {on_demand}}}}}}}\n\
         listeners:\n- {{name: plain, address: '{ask}'}}\n\
         - {{name: tls, address: '127.0.0.1:0', tls: {{acme: {{on_demand: true, {names}}}}}}}\n\
         routes:\n\
         - {{match: {{path: /allowed, query: {{by: tidegate, domain: {{regex: '^ok.*'}}}}}}, respond: {{status: {allowed}}}}}\n\
         - {{match: {{path: /allowed}}, respond: {{status: 403}}}}\n\
         - {{respond: {{body: hello}}}}\n",
        ca.entry()
    )
}

fn own_ask() -> SocketAddr {
    let listener = std::net::TcpListener::bind(crate::support::own_address()).unwrap();
    listener.local_addr().unwrap()
}

async fn demands(gateway: &Gateway, result: &str) -> f64 {
    metric(gateway, "tidegate_acme_demands_total", &[&format!("result=\"{result}\"")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_handshake_for_an_allowed_name_waits_for_its_certificate() {
    let ca = LyingCa::start(Lie::None).await;
    let gateway = Gateway::start(&with(&ca, 200, "", "")).await;
    let tls = gateway.address("tls");
    let (first, second) = tokio::join!(shown(tls, "ok.example.com"), shown(tls, "OK.example.com"));
    assert_eq!(first.as_ref().unwrap().0, ["ok.example.com"], "from the first connection on");
    assert_eq!(first, second, "both have waited for the same");
    assert_eq!(TlsClient::trusting_all().get(tls, "ok.example.com", "/").await.unwrap(), "hello");
    assert_eq!((ca.ordered(), demands(&gateway, "allowed").await), (vec!["ok.example.com".to_owned()], 1.0));
    assert!(listed(&gateway).await.contains("ok.example.com: valid"));
    // Nobody is shown what was not asked for, and there is no default.
    for stranger in ["no.example.com", "ok", "10.0.0.1", "ok..example.com", "ok-.example.com"] {
        assert_eq!(shown(tls, stranger).await, None, "{stranger}");
    }
    assert_eq!(ca.ordered().len(), 1);
    // A reload keeps it, and a start finds it without asking.
    let yaml = std::fs::read_to_string(gateway.directory().join("gateway.yaml")).unwrap();
    gateway.reload(&yaml.replace("body: hello", "body: again")).await;
    assert_eq!(shown(tls, "ok.example.com").await, first);
    let next = gateway.upgrade().await;
    assert_eq!(shown(next.address("tls"), "ok.example.com").await, first);
    assert_eq!((demands(&next, "stored").await, demands(&next, "allowed").await), (1.0, 0.0));
    assert_eq!(ca.ordered().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_names_of_strangers_are_not_ordered_not_kept_and_in_nobodys_way() {
    let ca = LyingCa::start(Lie::None).await;
    let gateway = Gateway::start(&with(&ca, 200, "rate: 5/m", "names: [a.example.com]")).await;
    let tls = gateway.address("tls");
    let serial = served(tls, "a.example.com").await;
    let memory = metric(&gateway, "process_resident_memory_bytes", &[]).await;
    for hundred in 0..100 {
        let handshakes = async {
            let shown_to_strangers = (0..100).map(|n| async move {
                let name = format!("n{}.stranger.example", hundred * 100 + n);
                assert_eq!(shown(tls, &name).await.unwrap().0, ["a.example.com"], "{name}");
            });
            futures::future::join_all(shown_to_strangers).await;
            assert_eq!(shown(tls, "a.example.com").await.unwrap().1, serial, "it is served meanwhile");
        };
        within_deadline("a hundred handshakes", handshakes).await;
    }
    assert_eq!(ca.ordered(), ["a.example.com"]);
    assert!(demands(&gateway, "refused").await >= 1.0);
    assert!(demands(&gateway, "throttled").await >= 1.0, "not everybody is asked about");
    assert_eq!(metric(&gateway, "tidegate_acme_certificates", &[]).await, 1.0);
    assert!(!listed(&gateway).await.contains("stranger"));
    let grown = metric(&gateway, "process_resident_memory_bytes", &[]).await - memory;
    assert!(grown < 64.0 * 1024.0 * 1024.0, "{grown} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_names_are_under_way_or_kept_than_may_be() {
    let ca = LyingCa::start(Lie::Hangs).await;
    let bounds = "rate: 1000/m, pending: 2, most: 3";
    let yaml = with(&ca, 200, bounds, "").replace("on_demand: {ask", "request_timeout: 1s, on_demand: {ask");
    let gateway = Gateway::start(&yaml).await;
    let tls = gateway.address("tls");
    let first = tokio::spawn(async move { shown(tls, "ok0.example.com").await });
    let second = tokio::spawn(async move { shown(tls, "ok1.example.com").await });
    wait_for_metric(&gateway, "tidegate_acme_demands_total", &["result=\"allowed\""], 2.0).await;
    assert_eq!(shown(tls, "ok2.example.com").await, None);
    assert_eq!(demands(&gateway, "busy").await, 1.0);
    // Whose order has failed waits no longer; it is tried again without them.
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (None, None));
    ca.lie(Lie::None);
    for n in 0..3 {
        served(tls, &format!("ok{n}.example.com")).await;
    }
    assert_eq!(shown(tls, "ok3.example.com").await, None);
    assert_eq!(demands(&gateway, "full").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_put_off_keeps_nobody_waiting_takes_no_place_and_leaves_room_for_others() {
    let ca = LyingCa::start(Lie::None).await;
    let yaml = with(&ca, 200, "rate: 1000/m, pending: 1", "");
    let yaml = yaml.replace("orders: 1000000/h", "orders: 2/h");
    let gateway = Gateway::start(&yaml).await;
    let tls = gateway.address("tls");
    served(tls, "ok0.example.com").await;
    for n in 1..4 {
        assert_eq!(shown(tls, &format!("ok{n}.example.com")).await, None);
    }
    assert_eq!((demands(&gateway, "allowed").await, demands(&gateway, "busy").await), (4.0, 0.0));
    assert_eq!(ca.ordered(), ["ok0.example.com"]);
    // What is configured has the other half.
    gateway.reload(&yaml.replace("on_demand: true, ", "on_demand: true, names: [a.example.com]")).await;
    served(tls, "a.example.com").await;
    assert_eq!(ca.ordered(), ["ok0.example.com", "a.example.com"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_allowed_any_more_is_not_renewed() {
    let ca = LyingCa::start(Lie::None).await;
    let yaml = with(&ca, 200, "", "");
    let gateway = Gateway::start(&yaml).await;
    let tls = gateway.address("tls");
    served(tls, "ok.example.com").await;
    gateway.reload(&yaml.replace("respond: {status: 200}", "respond: {status: 404}")).await;
    assert_eq!(asked(&gateway, &["certs", "renew", "ok.example.com"]).await.0, 0);
    wait_for_metric(&gateway, "tidegate_acme_certificates", &["state=\"valid\""], 0.0).await;
    assert_eq!(ca.ordered().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_answers_nothing_is_ordered() {
    let ca = LyingCa::start(Lie::None).await;
    let yaml = with(&ca, 200, "timeout: 1s", "");
    // Its routes are for others.
    let yaml = yaml.replacen("ask: 'http://", "ask: 'https://", 1);
    let gateway = Gateway::start(&yaml).await;
    assert_eq!(shown(gateway.address("tls"), "ok.example.com").await, None);
    assert_eq!(demands(&gateway, "ask_failed").await, 1.0);
    let said = gateway.wait_for_message("nobody says whether a name may have a certificate").await;
    assert_eq!(said["name"], "ok.example.com");
    assert!(ca.ordered().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_configured_is_not_asked_about_while_its_certificate_is_still_to_come() {
    let ca = LyingCa::start(Lie::Nonces).await;
    let names = "together: true, names: [ok.example.com, ok2.example.com]";
    let gateway = Gateway::start(&with(&ca, 200, "", names)).await;
    gateway.wait_for_message("no certificate").await;
    for name in ["ok.example.com", "ok2.example.com"] {
        assert_eq!(shown(gateway.address("tls"), name).await, None);
    }
    assert_eq!(metric(&gateway, "tidegate_acme_demands_total", &[]).await, 0.0);
}
