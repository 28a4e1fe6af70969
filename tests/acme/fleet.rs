//! Several gateways with one storage: one orders, all serve, and each can be asked for any proof.

use std::collections::BTreeSet;

use super::*;
use crate::support::{
    DEADLINE, Redis,
    lying_ca::{Lie, LyingCa},
    metric, own_address, wait_for_metric, within,
};

fn storage(redis: &Redis) -> String {
    format!("storage: {{redis: '{}', secret: 0123456789abcdef0123456789abcdef, timeout: 2s}}", redis.url())
}

/// One of a fleet, with these listeners.
fn one(ca: &str, redis: &Redis, account: &str, listeners: &str) -> String {
    let storage = storage(redis);
    format!(
        "admin: {{address: '127.0.0.1:0'}}\nstate_dir: state\n\
         acme: {{default: {{cas: [{ca}], retry: {{base: 100ms, max: 500ms}}, {storage}, {account}}}}}\n\
         listeners:\n{listeners}routes: [{{respond: {{body: hello}}}}]\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn three_gateways_order_each_of_a_hundred_names_once_though_half_of_the_orders_fail() {
    let (ca, redis) = (LyingCa::start(Lie::Half).await, Redis::start().await);
    let names: Vec<String> = (0..100).map(|n| format!("n{n}.example.com")).collect();
    let tls = format!(
        "- {{name: tls, address: '127.0.0.1:0', tls: {{acme: {{names: [{}]}}}}}}\n",
        names.join(", ")
    );
    let yaml = one(&ca.entry(), &redis, "orders: 1000000/h, at_once: 8", &tls);
    let gateways = futures::future::join_all((0..3).map(|_| Gateway::start(&yaml))).await;
    for gateway in &gateways {
        wait_for_metric(gateway, "tidegate_acme_certificates", &["state=\"valid\""], 100.0).await;
    }
    let ordered = ca.ordered();
    assert_eq!((ordered.len(), ordered.iter().collect::<BTreeSet<_>>().len()), (100, 100), "{ordered:?}");
    let mut serials = BTreeSet::new();
    for gateway in &gateways {
        let tls = gateway.address("tls");
        let serial = served(tls, "n42.example.com").await;
        serials.insert(serial);
        assert_eq!(shown(tls, "n99.example.com").await.unwrap().0, ["n99.example.com"]);
    }
    assert_eq!(serials.len(), 1, "all show the same");
    let mut taken = 0.0;
    for gateway in &gateways {
        taken += metric(gateway, "tidegate_acme_taken_total", &[]).await;
    }
    // What was there before a gateway began is found, and not taken.
    assert!(taken <= 200.0, "no more than two of three have taken each: {taken}");
}

/// With half of its nonces refused. All the while each name that has a certificate is asked for. A few orders at once: Pebble now and
/// then stands still where many are under way, and answers nobody any more. Orders by the hundred, and those that fail, are `LyingCa`'s.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_ca_costs_thirty_names_no_second_order_and_no_handshake() {
    let settings = crate::support::pebble::Settings { bad_nonces: 50, ..Default::default() };
    let (pebble, redis) = (Pebble::start_with(settings).await, Redis::start().await);
    let names: Vec<String> = (0..30).map(|n| format!("n{n}.example.com")).collect();
    let ips = [pebble.ip, own_address().ip(), own_address().ip()];
    for name in &names {
        pebble.lead(name, &ips).await;
    }
    let account = "challenges: [http-01], orders: 1000000/h, at_once: 1";
    let starting = ips.map(|ip| {
        let names = names.join(", ");
        let listeners = format!(
            "- {{name: plain, address: '{ip}:8080'}}\n\
             - {{name: tls, address: '{ip}:8443', tls: {{acme: {{names: [{names}]}}}}}}\n"
        );
        let yaml = one(&pebble.entry(), &redis, account, &listeners);
        async move { Gateway::start(&yaml).await }
    });
    let gateways = futures::future::join_all(starting).await;
    let result = async |result: &str| {
        let mut sum = 0.0;
        for gateway in &gateways {
            let label = format!("result=\"{result}\"");
            sum += metric(gateway, "tidegate_acme_orders_total", &[&label]).await;
        }
        sum
    };
    let asking = async {
        let (mut served, mut handshakes) = (BTreeSet::new(), 0);
        for round in 0.. {
            for gateway in &gateways {
                let tls = gateway.address("tls");
                // Of those that are served, each in its turn: a handshake takes a machine without a core to spare long.
                let asked = names.iter().enumerate().filter(|(n, _)| n % 5 == round % 5);
                let missing = names.iter().enumerate().filter(|(n, _)| n % 5 != round % 5);
                let missing: Vec<_> = missing.filter(|(_, name)| !served.contains(&(tls, *name))).collect();
                for (_, name) in asked.chain(missing) {
                    let is_own = shown(tls, name).await.is_some_and(|(names, _)| names == [name.as_str()]);
                    let is_first = is_own && served.insert((tls, name));
                    handshakes += usize::from(is_own && !is_first);
                    assert!(
                        is_own || !served.contains(&(tls, name)),
                        "{name} at {tls} was there and is gone"
                    );
                }
            }
            if served.len() == 3 * names.len() && handshakes > names.len() {
                return handshakes;
            }
        }
        unreachable!()
    };
    let handshakes = within(2 * DEADLINE, "thirty names everywhere", asking).await;
    println!("{handshakes} handshakes");
    assert_eq!(result("issued").await, 30.0, "each once");
    let mut taken = 0.0;
    for gateway in &gateways {
        let throttled = &["challenge=\"http-01\"", "result=\"throttled\""];
        assert_eq!(
            metric(gateway, "tidegate_acme_challenges_total", throttled).await,
            0.0,
            "all were looked for"
        );
        taken += metric(gateway, "tidegate_acme_taken_total", &[]).await;
    }
    // What was there before a gateway began is found, and not taken.
    assert!(taken <= 60.0, "no more than two of three have taken each: {taken}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_shown_by_whichever_gateway_is_asked() {
    for challenge in ["http-01", "tls-alpn-01"] {
        let (pebble, redis) = (Pebble::start().await, Redis::start().await);
        let account = format!("challenges: [{challenge}]");
        // All names lead to the one that orders something else.
        let listeners = |ip: std::net::IpAddr, name: &str| {
            format!(
                "- {{name: plain, address: '{ip}:8080'}}\n\
                 - {{name: tls, address: '{ip}:8443', tls: {{acme: {{names: [{name}]}}}}}}\n"
            )
        };
        let here = listeners(pebble.ip, "here.example.com");
        let asked = Gateway::start(&one(&pebble.entry(), &redis, &account, &here)).await;
        served(pebble.listener(8443), "here.example.com").await;
        let elsewhere = own_address().ip();
        let there = listeners(elsewhere, "there.example.com");
        let ordering = Gateway::start(&one(&pebble.entry(), &redis, &account, &there)).await;
        served(SocketAddr::new(elsewhere, 8443), "there.example.com").await;
        let of = format!("challenge=\"{challenge}\"");
        let answered = &[of.as_str(), "result=\"answered\""];
        assert!(metric(&asked, "tidegate_acme_challenges_total", answered).await >= 2.0, "{challenge}");
        assert_eq!(metric(&ordering, "tidegate_acme_challenges_total", answered).await, 0.0, "{challenge}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_is_down_costs_nothing_that_is_there_and_no_key_stands_in_it() {
    let (ca, mut redis) = (LyingCa::start(Lie::None).await, Redis::start().await);
    let tls = "- {name: tls, address: '127.0.0.1:0', tls: {acme: {names: [a.example.com]}}}\n";
    let yaml = one(&ca.entry(), &redis, "", tls);
    let gateway = Gateway::start(&yaml).await;
    let first = served(gateway.address("tls"), "a.example.com").await;
    let stored: Vec<u8> = redis.command("GET tidegate:acme:certificates/default/a.example.com").await;
    assert!(!stored.is_empty() && !stored.windows(5).any(|part| part == b"BEGIN"), "it is encrypted");
    redis.kill().await;
    let next = gateway.upgrade().await;
    assert_eq!(shown(next.address("tls"), "a.example.com").await.unwrap().1, first, "by its copy");
    assert_eq!(asked(&next, &["certs", "renew", "a.example.com"]).await.0, 0);
    assert_eq!(next.wait_for_message("no certificate").await["reason"], "storage");
    assert_eq!(ca.ordered().len(), 1, "who cannot lock does not order");
    redis.start_again().await;
    served_other(next.address("tls"), "a.example.com", &first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_has_refused_one_gateway_is_left_alone_by_all() {
    let (ca, redis) = (LyingCa::start(Lie::RateLimited(100_000)).await, Redis::start().await);
    let tls = "- {name: tls, address: '127.0.0.1:0', tls: {acme: {names: [a.example.com]}}}\n";
    let yaml = one(&ca.entry(), &redis, "", tls);
    let gateways = futures::future::join_all((0..3).map(|_| Gateway::start(&yaml))).await;
    let all_wait = async || {
        for gateway in &gateways {
            while !asked(gateway, &["certs", "list"]).await.1.contains("tried again at") {}
        }
    };
    let all_wait = async || within_deadline("all of them wait", all_wait()).await;
    all_wait().await;
    assert_eq!(ca.refused(), 1);
    // An operator's word counts, once.
    assert_eq!(asked(&gateways[1], &["certs", "renew", "a.example.com"]).await.0, 0);
    let refused = async {
        while ca.refused() < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within_deadline("it is asked again", refused).await;
    all_wait().await;
    assert_eq!(ca.refused(), 2);
    ca.lie(Lie::None);
    assert_eq!(asked(&gateways[2], &["certs", "renew", "a.example.com"]).await.0, 0);
    served(gateways[2].address("tls"), "a.example.com").await;
    assert_eq!(ca.ordered(), ["a.example.com"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_another_secret_neither_reads_nor_orders() {
    let (ca, redis) = (LyingCa::start(Lie::None).await, Redis::start().await);
    let tls = "- {name: tls, address: '127.0.0.1:0', tls: {acme: {names: [a.example.com]}}}\n";
    let yaml = one(&ca.entry(), &redis, "", tls);
    let gateway = Gateway::start(&yaml).await;
    served(gateway.address("tls"), "a.example.com").await;
    let other = Gateway::start(&yaml.replace("0123456789abcdef0123", "another456789abcdef0123")).await;
    let failed = other.wait_for_message("no certificate").await;
    assert_eq!(failed["reason"], "storage");
    assert!(failed["why"].as_str().unwrap().contains("the same `secret`"), "{failed}");
    assert_eq!(ca.ordered().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_a_dead_gateway_ends_by_itself() {
    let (ca, redis) = (LyingCa::start(Lie::None).await, Redis::start().await);
    let tls = "- {name: tls, address: '127.0.0.1:0', tls: {acme: {names: [a.example.com, b.example.com]}}}\n";
    let lock = "tidegate:acme:locks/certificates/default/a.example.com";
    let _: String = redis.command(&format!("SET {lock} somebody-else")).await;
    let gateway = Gateway::start(&one(&ca.entry(), &redis, "", tls)).await;
    served(gateway.address("tls"), "b.example.com").await;
    assert_eq!(ca.ordered(), ["b.example.com"]);
    // As its time would.
    let _: i64 = redis.command(&format!("DEL {lock}")).await;
    served(gateway.address("tls"), "a.example.com").await;
    // Ours is let go, and never outlives an order by much.
    let ours: i64 = redis.command(&format!("PTTL {lock}")).await;
    assert!(ours < 361_000, "{ours}");
}
