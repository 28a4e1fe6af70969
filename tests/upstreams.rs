//! Who is sent the next request, over a real gateway: balancers, health checks, names. Shares over many requests are
//! measured on the same types in process, where ten thousand picks take no time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use tidegate::names::SystemResolver;
use tidegate::policy::failure::Outcome;
use tidegate::upstream::{Live, Upstream};

use crate::support::{
    Backend, Connection, Gateway, RawConnection, ScriptedUpstream, Step, Yaml, get, metric, send, send_h2c,
    within_deadline,
};

/// One listener, one route, and an upstream with these settings, each on a line of its own.
fn pool(endpoints: &str, settings: &str) -> String {
    let settings = settings.replace('\n', "\n    ");
    format!(
        "admin: false\nlog: {{access: {{to: off}}}}\ntrusted_proxies: [127.0.0.0/8]\n\
         listeners: [{{name: edge, address: '127.0.0.1:0'}}]\nroutes: [{{upstream: pool}}]\n\
         upstreams:\n  pool:\n    endpoints: {endpoints}\n    {settings}\n"
    )
}

async fn backends(names: &[&str]) -> Vec<Backend> {
    let mut backends = Vec::new();
    for name in names {
        backends.push(Backend::named(name).await);
    }
    backends
}

fn addresses(backends: &[Backend]) -> String {
    format!("{:?}", backends.iter().map(Backend::address).collect::<Vec<_>>())
}

/// Who answers.
async fn who(gateway: SocketAddr, headers: &[(&str, &str)]) -> String {
    let answer = send(gateway, "GET", "/", headers, "").await;
    answer.assert_status(200).header("x-backend").unwrap().to_owned()
}

#[tokio::test]
async fn weights_five_one_one_are_interleaved_and_never_burst() {
    let backends = backends(&["a", "b", "c"]).await;
    let weighted: Vec<String> = backends
        .iter()
        .zip([5, 1, 1])
        .map(|(backend, weight)| format!("{{address: '{}', weight: {weight}}}", backend.address()))
        .collect();
    let gateway = Gateway::start(&pool(&format!("[{}]", weighted.join(", ")), "")).await;
    let edge = gateway.address("edge");
    let mut order = String::new();
    for _ in 0..14 {
        order += &who(edge, &[]).await;
    }
    assert_eq!(order, "aabacaaaabacaa");
}

#[test]
fn shares_over_ten_thousand_requests_follow_the_weights() {
    const WEIGHTS: [u16; 4] = [5, 3, 2, 0];
    let live = Live::offline(Arc::new(SystemResolver::new()), Arc::new(()));
    // How far a share may be from its weight's, in requests: round robin is exact, and so is the fewest in flight while
    // nothing ends; the others are random with a fixed seed.
    for (balancer, tolerance) in
        [("round_robin", 0), ("least_requests", 1), ("random", 200), ("{hash: {header: x-user}}", 100)]
    {
        let endpoints: Vec<String> = WEIGHTS
            .iter()
            .enumerate()
            .map(|(index, weight)| format!("{{address: '10.0.0.{}:80', weight: {weight}}}", index + 1))
            .collect();
        let yaml = pool(&format!("[{}]", endpoints.join(", ")), &format!("balancer: {balancer}"));
        let loaded = tidegate::config::parse(&yaml, "test").unwrap();
        let upstream =
            Upstream::new("pool", &loaded.config().unwrap().upstreams["pool"], &live, None).unwrap();
        let mut rng = fastrand::Rng::with_seed(7);
        let now = Instant::now();
        let mut in_flight = Vec::new();
        for request in 0..10_000 {
            let key = format!("user-{request}");
            let key = upstream.balancer_key().map(|_| key.as_bytes());
            in_flight.push(upstream.begin(key, &[], now, &mut rng).unwrap());
        }
        let picked: Vec<usize> = upstream.endpoints().iter().map(|endpoint| endpoint.active()).collect();
        for (picked_of, fair) in picked.iter().zip([5000, 3000, 2000, 0]) {
            assert!(picked_of.abs_diff(fair) <= tolerance, "{balancer}: {picked:?}");
        }
        assert_eq!(picked[3], 0, "weight 0 is sent nothing by {balancer}");
    }
}

/// One request after the other, none in flight beside it: where a balancer that goes by load sees no difference.
#[tokio::test]
async fn least_requests_keeps_to_the_weights_while_little_is_in_flight() {
    let backends = backends(&["heavy", "light"]).await;
    let [heavy, light] = [0, 1].map(|index: usize| backends[index].address());
    let endpoints = format!("[{{address: '{heavy}', weight: 2}}, {{address: '{light}', weight: 1}}]");
    let gateway = Gateway::start(&pool(&endpoints, "balancer: least_requests")).await;
    let mut heavy = 0;
    for _ in 0..30 {
        heavy += usize::from(who(gateway.address("edge"), &[]).await == "heavy");
    }
    assert!(heavy.abs_diff(20) <= 1, "{heavy} of 30");
}

/// One of two answers nothing but errors, twenty times as fast as the other answers at all.
#[test]
fn an_endpoint_that_fails_at_once_gets_less_than_one_percent() {
    const REQUESTS: usize = 50_000;
    let live = Live::offline(Arc::new(SystemResolver::new()), Arc::new(()));
    for balancer in ["least_requests", "p2c_ewma"] {
        let yaml = pool("['10.0.0.1:80', '10.0.0.2:80']", &format!("balancer: {balancer}"));
        let loaded = tidegate::config::parse(&yaml, "test").unwrap();
        let upstream =
            Upstream::new("pool", &loaded.config().unwrap().upstreams["pool"], &live, None).unwrap();
        let (start, mut rng) = (Instant::now(), fastrand::Rng::with_seed(7));
        // What is under way, by when it ends. Sixteen clients, each of which asks again as soon as it is answered.
        let mut under_way = BTreeMap::new();
        let (mut now, mut failed) = (start, 0);
        for request in 0..REQUESTS {
            if under_way.len() == 16 {
                let ((ends, _), (mut attempt, began)): (_, (tidegate::upstream::InFlight, Instant)) =
                    under_way.pop_first().unwrap();
                now = ends;
                let fails = &*attempt.endpoint().name == "10.0.0.1:80";
                let (outcome, took) = match fails {
                    true => (Outcome::ServerError, Duration::from_secs(1)),
                    false => (Outcome::Success, now - began),
                };
                attempt.endpoint().observe(took, now);
                upstream.report(&mut attempt, outcome, now);
                failed += usize::from(fails);
            }
            let attempt = upstream.begin(None, &[], now, &mut rng).unwrap();
            let takes = if &*attempt.endpoint().name == "10.0.0.1:80" { 1 } else { 20 };
            under_way.insert((now + Duration::from_millis(takes), request), (attempt, now));
        }
        assert!(failed * 100 < REQUESTS, "{balancer}: {failed} of {REQUESTS} failed");
    }
}

#[test]
fn p2c_ewma_sends_most_to_the_fastest_and_something_to_all() {
    let live = Live::offline(Arc::new(SystemResolver::new()), Arc::new(()));
    let yaml = pool("['10.0.0.1:80', '10.0.0.2:80', '10.0.0.3:80']", "balancer: p2c_ewma");
    let loaded = tidegate::config::parse(&yaml, "test").unwrap();
    let upstream = Upstream::new("pool", &loaded.config().unwrap().upstreams["pool"], &live, None).unwrap();
    let mut rng = fastrand::Rng::with_seed(7);
    let now = Instant::now();
    let mut picked = BTreeMap::from([("10.0.0.1:80", 0_i32), ("10.0.0.2:80", 0), ("10.0.0.3:80", 0)]);
    for _ in 0..10_000 {
        let endpoint = upstream.pick(None, &[], now, &mut rng).unwrap();
        let (count, milliseconds) = match &*endpoint.name {
            "10.0.0.1:80" => (picked.get_mut("10.0.0.1:80"), 1),
            "10.0.0.2:80" => (picked.get_mut("10.0.0.2:80"), 5),
            _ => (picked.get_mut("10.0.0.3:80"), 20),
        };
        *count.unwrap() += 1;
        endpoint.observe(std::time::Duration::from_millis(milliseconds), now);
    }
    // Two of three are drawn and the faster is taken: the fastest wins every draw it is in.
    assert!((picked["10.0.0.1:80"] - 6667).abs() < 200, "{picked:?}");
    assert!((picked["10.0.0.2:80"] - 3333).abs() < 200, "{picked:?}");
    assert_ne!(picked["10.0.0.3:80"], 0, "it was asked until it had answered once: {picked:?}");
}

#[tokio::test]
async fn a_hash_keeps_a_client_with_its_endpoint() {
    let backends = backends(&["a", "b", "c", "d"]).await;
    type Headers = fn(usize) -> (&'static str, String);
    let kinds: [(&str, Headers); 3] = [
        ("{header: x-user}", |client| ("x-user", format!("user-{client}"))),
        ("{cookie: session}", |client| ("cookie", format!("theme=dark; session=s{client}; x=y"))),
        ("client_ip", |client| ("x-forwarded-for", format!("198.51.100.{client}"))),
    ];
    let gateway = Gateway::start(&pool(&addresses(&backends), "")).await;
    let edge = gateway.address("edge");
    for (kind, header) in kinds {
        gateway.reload(&pool(&addresses(&backends), &format!("balancer: {{hash: {kind}}}"))).await;
        let mut chosen = BTreeMap::new();
        for round in 0..3 {
            for client in 0..20 {
                let (name, value) = header(client);
                let backend = who(edge, &[(name, &value)]).await;
                let before = chosen.entry(client).or_insert_with(|| backend.clone());
                assert_eq!(*before, backend, "{kind}: client {client} in round {round}");
            }
        }
        let mut used: Vec<_> = chosen.into_values().collect();
        used.sort();
        used.dedup();
        assert!(used.len() > 2, "{kind}: only {used:?}");
    }
}

#[tokio::test]
async fn a_client_without_the_cookie_of_a_hash_is_given_it_and_stays_where_it_was() {
    let backends = backends(&["a", "b", "c", "d"]).await;
    let settings = "balancer: {hash: {cookie: {name: at, path: /, max_age: 1h, same_site: strict, secure: true, issue: true}}}";
    let gateway = Gateway::start(&pool(&addresses(&backends), settings)).await;
    let edge = gateway.address("edge");
    for _ in 0..8 {
        let first = send(edge, "GET", "/", &[], "").await;
        let set_cookie = first.assert_status(200).header("set-cookie").unwrap().to_owned();
        let (cookie, attributes) = set_cookie.split_once(';').unwrap();
        assert_eq!(attributes, " Path=/; Max-Age=3600; HttpOnly; SameSite=Strict; Secure");
        let headers = [("cookie", cookie)];
        for _ in 0..3 {
            let next = send(edge, "GET", "/", &headers, "").await;
            assert_eq!(next.header("x-backend"), first.header("x-backend"));
            assert_eq!(next.header("set-cookie"), None);
        }
    }
    gateway
        .reload(&pool(&addresses(&backends), "balancer: {hash: {cookie: {name: at, issue: false}}}"))
        .await;
    assert_eq!(send(edge, "GET", "/", &[], "").await.assert_status(200).header("set-cookie"), None);
}

#[tokio::test]
async fn the_upstream_s_own_cookie_counts_and_not_one_of_the_gateway() {
    let answer = "HTTP/1.1 200 OK\r\nset-cookie: session=its-own; Path=/\r\ncontent-length: 0\r\n\r\n";
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::write(answer)]).await;
    let settings = "balancer: {hash: {cookie: session}}";
    let gateway = Gateway::start(&pool(&format!("[{:?}]", upstream.address()), settings)).await;
    let answer = send(gateway.address("edge"), "GET", "/", &[], "").await;
    let cookies: Vec<_> = answer.assert_status(200).headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["session=its-own; Path=/"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn least_requests_sends_to_the_endpoint_with_the_fewest_in_flight() {
    let stalled = || vec![Step::ReadHead, Step::Stall];
    let (a, b) = (ScriptedUpstream::start(stalled()).await, ScriptedUpstream::start(stalled()).await);
    let yaml = pool(&format!("{:?}", [a.address(), b.address()]), "balancer: least_requests");
    let gateway = Gateway::start(&yaml).await;
    let edge = gateway.address("edge");
    let mut waiting = Vec::new();
    for pair in 1..=3 {
        for _ in 0..2 {
            let before = a.heads().len() + b.heads().len();
            waiting.push(tokio::spawn(async move {
                Connection::http1(edge).await?.send("GET", "/", &[], "").await
            }));
            let arrived = async {
                while a.heads().len() + b.heads().len() == before {
                    tokio::task::yield_now().await;
                }
            };
            within_deadline("the request upstream", arrived).await;
        }
        assert_eq!((a.heads().len(), b.heads().len()), (pair, pair));
    }
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn an_http_check_asks_as_configured() {
    let answer = Step::write("HTTP/1.1 204 No Content\r\n\r\n");
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, answer]).await;
    let check = |expect: &str| {
        format!(
            "health_check: {{http: {{path: '/probe?deep=1', expect: {expect}, host: probe.example, headers: {{x-probe: 'yes'}}}}, interval: 1h}}"
        )
    };
    let endpoints = format!("[{:?}]", upstream.address());
    let gateway = Gateway::start(&pool(&endpoints, &check("[200, 204]"))).await;
    let line = gateway.wait_for_message("endpoint is healthy").await;
    assert_eq!(
        (&line["upstream"], &line["endpoint"]),
        (&"pool".into(), &upstream.address().to_string().into())
    );
    let probe = upstream.heads()[0].to_lowercase();
    assert!(probe.starts_with("get /probe?deep=1 http/1.1\r\n"), "{probe}");
    assert!(
        probe.contains("\r\nhost: probe.example\r\n") && probe.contains("\r\nx-probe: yes\r\n"),
        "{probe}"
    );
    let gateway = Gateway::start(&pool(&endpoints, &check("200-203"))).await;
    let line = gateway.wait_for_message("endpoint is unhealthy").await;
    assert_eq!(line["why"], "status 204 is not as expected");
    get(gateway.address("edge"), "/").await.assert_reason(503, "upstream_unhealthy");
}

/// Each probe is a connection of its own, so the script of a connection is the outcome of a probe. Two failures in a
/// row, and one success, must change nothing here.
#[tokio::test]
async fn only_a_row_of_outcomes_turns_an_endpoint() {
    const FAILS: [bool; 15] =
        [false, true, true, false, false, true, true, true, false, true, true, true, false, false, false];
    let upstream = ScriptedUpstream::with(|number| {
        let status = if FAILS.get(number) == Some(&true) { "500 No" } else { "200 OK" };
        vec![Step::ReadHead, Step::write(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"))]
    })
    .await;
    let check = "health_check: {http: {}, interval: 5ms, unhealthy_after: 3, healthy_after: 2}";
    let gateway = Gateway::start(&pool(&format!("[{:?}]", upstream.address()), check)).await;
    gateway.wait_for_message("endpoint is healthy").await;
    gateway.wait_for_message("endpoint is unhealthy").await;
    assert!(upstream.connections() >= 8);
    gateway.wait_for_message("endpoint is healthy").await;
    upstream.wait_for_connections(20).await;
    let turns: Vec<_> = gateway
        .lines()
        .into_iter()
        .filter_map(|line| line["msg"].as_str()?.strip_prefix("endpoint is ").map(str::to_owned))
        .collect();
    assert_eq!(turns, ["healthy", "unhealthy", "healthy"]);
}

#[tokio::test]
async fn the_first_probe_decides_alone() {
    let backends = backends(&["good", "bad"]).await;
    send(backends[1].address(), "POST", "/health/fail", &[], "").await.assert_status(200);
    let check = "health_check: {http: {path: /health}, interval: 1h, unhealthy_after: 5, healthy_after: 5}";
    let gateway = Gateway::start(&pool(&addresses(&backends), check)).await;
    for _ in 0..6 {
        assert_eq!(who(gateway.address("edge"), &[]).await, "good");
    }
}

#[tokio::test]
async fn an_endpoint_leaves_and_returns_as_its_health_does() {
    let backend = Backend::start().await;
    let at = backend.address();
    let kinds = [
        ("http1", "http: {path: /health}", "status 503 is not as expected"),
        ("http2", "http: {path: /health}", "status 503 is not as expected"),
        ("grpc", "grpc: {service: users.Users}", "NOT_SERVING"),
    ];
    for (protocol, kind, why) in kinds {
        let settings = format!(
            "protocol: {protocol}\nhealth_check: {{{kind}, interval: 20ms, unhealthy_after: 2, healthy_after: 2}}"
        );
        let gateway = Gateway::start(&pool(&format!("[{at:?}]"), &settings)).await;
        let edge = gateway.address("edge");
        gateway.wait_for_message("endpoint is healthy").await;
        send_h2c(edge, "GET", "/", &[], "").await.assert_status(200);
        send(at, "POST", "/health/fail", &[], "").await.assert_status(200);
        let line = gateway.wait_for_message("endpoint is unhealthy").await;
        assert!(line["why"].as_str().unwrap().contains(why), "{line}");
        let refusal = get(edge, "/").await;
        refusal.assert_reason(503, "upstream_unhealthy");
        let retry_after: u64 = refusal.header("retry-after").unwrap().parse().unwrap();
        assert!(retry_after > 0, "{refusal:?}");
        send(at, "POST", "/health/ok", &[], "").await.assert_status(200);
        gateway.wait_for_message("endpoint is healthy").await;
        get(edge, "/").await.assert_status(200);
    }
}

#[tokio::test]
async fn a_tcp_check_sees_a_process_die_and_return() {
    let backends = backends(&["a", "b"]).await;
    let check = "health_check: {tcp: {}, interval: 20ms, unhealthy_after: 2, healthy_after: 1}";
    let gateway = Gateway::start(&pool(&addresses(&backends), check)).await;
    let edge = gateway.address("edge");
    for _ in 0..2 {
        gateway.wait_for_message("endpoint is healthy").await;
    }
    backends[0].kill().await;
    let line = gateway.wait_for_message("endpoint is unhealthy").await;
    assert_eq!(line["endpoint"], backends[0].address().to_string());
    for _ in 0..4 {
        assert_eq!(who(edge, &[]).await, "b");
    }
    let back = Backend::named_at("a", backends[0].address()).await;
    let line = gateway.wait_for_message("endpoint is healthy").await;
    assert_eq!(line["endpoint"], back.address().to_string());
    let mut answered = [who(edge, &[]).await, who(edge, &[]).await];
    answered.sort();
    assert_eq!(answered, ["a", "b"]);
}

#[tokio::test]
async fn a_probe_that_gets_no_answer_fails_in_time() {
    let silent = ScriptedUpstream::start(vec![Step::ReadHead, Step::Stall]).await;
    let check = "health_check: {http: {}, interval: 1h, timeout: 50ms}";
    let gateway = Gateway::start(&pool(&format!("[{:?}]", silent.address()), check)).await;
    let line = gateway.wait_for_message("endpoint is unhealthy").await;
    assert_eq!(line["why"], "no answer within 50ms");
}

#[tokio::test]
async fn an_endpoint_may_be_a_host_name() {
    let backend = Backend::at_localhost("backend").await;
    let endpoints = format!("['localhost:{}']", backend.address().port());
    let gateway = Gateway::start(&pool(&endpoints, "")).await;
    // It may stand for an IPv6 address as well, where nobody listens.
    for _ in 0..4 {
        assert_eq!(who(gateway.address("edge"), &[]).await, "backend");
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve_keeps_its_upstream_out_and_nothing_else() {
    let backend = Backend::start().await;
    let yaml = pool("['nowhere.invalid:80']", "")
        .replace("routes: [", "routes: [{match: {path: /there}, upstream: there}, ");
    let yaml = format!("{yaml}  there:\n    endpoints: [{:?}]\n", backend.address());
    let gateway = Gateway::start(&yaml).await;
    let edge = gateway.address("edge");
    get(edge, "/there").await.assert_status(200).assert_no_reason();
    let refusal = get(edge, "/").await;
    refusal.assert_reason(503, "upstream_unhealthy");
    assert!(refusal.header("retry-after").is_some(), "{refusal:?}");
    let line = gateway.wait_for_message("host does not resolve, trying again").await;
    assert_eq!((&line["upstream"], &line["host"]), (&"pool".into(), &"nowhere.invalid".into()));
}

#[tokio::test]
async fn a_request_goes_elsewhere_when_an_endpoint_refuses() {
    let backends = backends(&["a", "b"]).await;
    let gateway = Gateway::start(&pool(&addresses(&backends), "")).await;
    backends[0].kill().await;
    for _ in 0..4 {
        assert_eq!(who(gateway.address("edge"), &[]).await, "b");
    }
}

#[tokio::test]
async fn every_form_of_match_leads_to_its_route() {
    let matches = [
        ("exact", "path: {exact: /a}"),
        ("prefix", "path: {prefix: /a}"),
        ("regex", "path: {regex: '^/\\d+$'}"),
        ("template", "path: {template: '/users/{id}'}"),
        ("query", "path: /q, query: {beta: {exact: '1'}}"),
        ("query-regex", "path: /q, query: {beta: {regex: '^2'}}"),
        ("header", "path: /h, headers: {x-debug: {present: true}}"),
        ("no-header", "path: /h, headers: {x-debug: {present: false}}"),
        ("method", "path: /m, methods: [POST]"),
        ("host", "hosts: [api.example.com, '*.example.org'], path: /a"),
    ];
    let routes: Vec<String> = matches
        .iter()
        .map(|(name, matching)| format!("{{name: {name}, match: {{{matching}}}, respond: {{body: {name}}}}}"))
        .collect();
    let gateway = Gateway::start(&format!(
        "admin: false\nlisteners: [{{name: edge, address: '127.0.0.1:0'}}]\nroutes: [{}]\n",
        routes.join(", ")
    ))
    .await;
    for (method, path, headers, route) in [
        ("GET", "/a", [("host", "x")], "exact"),
        ("GET", "/a/b", [("host", "x")], "prefix"),
        ("GET", "/42", [("host", "x")], "regex"),
        ("GET", "/users/7", [("host", "x")], "template"),
        ("GET", "/q?beta=1", [("host", "x")], "query"),
        ("GET", "/q?beta=22", [("host", "x")], "query-regex"),
        ("GET", "/h", [("x-debug", "1")], "header"),
        ("GET", "/h", [("host", "x")], "no-header"),
        ("POST", "/m", [("host", "x")], "method"),
        ("GET", "/a", [("host", "api.example.com")], "host"),
        ("GET", "/a", [("host", "www.example.org")], "host"),
    ] {
        let answer = send(gateway.address("edge"), method, path, &headers, "").await;
        assert_eq!(answer.assert_status(200).text(), route, "{method} {path} {headers:?}");
    }
    send(gateway.address("edge"), "GET", "/q?beta=3", &[], "").await.assert_reason(404, "no_route");
    send(gateway.address("edge"), "GET", "/m", &[], "").await.assert_reason(405, "method_not_allowed");
}

#[tokio::test]
async fn idle_connections_are_kept_as_many_as_the_pool_may() {
    for (settings, connections) in [("pool: {idle_connections: 0}", 4), ("", 1)] {
        let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("hi"), Step::Again]).await;
        let gateway = Gateway::start(&pool(&format!("[{:?}]", upstream.address()), settings)).await;
        let mut client = Connection::http1(gateway.address("edge")).await.unwrap();
        for _ in 0..4 {
            within_deadline("an answer", client.send("GET", "/", &[], "")).await.unwrap().assert_status(200);
        }
        assert_eq!(upstream.connections(), connections, "{settings:?}");
    }
}

/// None takes the places of the others: one connection each, and each is used again.
#[tokio::test]
async fn idle_connections_are_kept_to_each_endpoint_so_that_all_are_used_again() {
    let mut upstreams = Vec::new();
    for _ in 0..4 {
        upstreams.push(ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("hi"), Step::Again]).await);
    }
    let addresses: Vec<_> = upstreams.iter().map(ScriptedUpstream::address).collect();
    let settings = "pool: {idle_connections: 4, idle_per_endpoint: 1}";
    let gateway = Gateway::start(&pool(&format!("{addresses:?}"), settings)).await;
    let mut client = Connection::http1(gateway.address("edge")).await.unwrap();
    for _ in 0..12 {
        within_deadline("an answer", client.send("GET", "/", &[], "")).await.unwrap().assert_status(200);
    }
    let connections: Vec<usize> = upstreams.iter().map(ScriptedUpstream::connections).collect();
    assert_eq!(connections, [1; 4]);
}

/// Each of them is another address of this host, and the same server.
#[tokio::test]
async fn a_thousand_endpoints_are_used_again_by_default() {
    const ENDPOINTS: usize = 1000;
    let server = Backend::named_at("all", SocketAddr::from(([0, 0, 0, 0], 0))).await;
    let port = server.address().port();
    let addresses = (0..ENDPOINTS).map(|n| format!("127.1.{}.{}:{port}", n / 250, 1 + n % 250));
    let gateway = Yaml::to_all(addresses).start().await;
    let mut client = Connection::http1(gateway.address("main")).await.unwrap();
    for _ in 0..2 * ENDPOINTS {
        within_deadline("an answer", client.send("GET", "/", &[], "")).await.unwrap().assert_status(200);
    }
    let made = |how: &str| {
        let how = format!("connection=\"{how}\"");
        let gateway = &gateway;
        async move { metric(gateway, "tidegate_upstream_connections_total", &[&how]).await }
    };
    assert_eq!([made("new").await, made("reused").await], [ENDPOINTS as f64; 2]);
}

/// One limit for all of an upstream's connections, whatever they have carried.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_counted_once_for_requests_with_and_without_bodies() {
    const HEAD: &str = "host: a\r\n";
    let bare = || format!("GET / HTTP/1.1\r\n{HEAD}\r\n");
    let with_body = || format!("POST / HTTP/1.1\r\n{HEAD}content-length: 1\r\n\r\nx");
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    for requests in [[bare(), with_body(), bare(), with_body()], [with_body(), bare(), with_body(), bare()]] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap();
        let gateway = Gateway::start(&pool(&format!("[{endpoint:?}]"), "pool: {idle_connections: 1}")).await;
        // All are under way before the first is answered, so each has a connection.
        let (mut clients, mut connections) = (Vec::new(), Vec::new());
        for request in &requests {
            let mut client = RawConnection::open(gateway.address("edge"));
            client.write(request);
            let (mut stream, _) = within_deadline("a connection", listener.accept()).await.unwrap();
            read_whole(&mut stream, request).await;
            clients.push(client);
            connections.push(stream);
        }
        for (client, stream) in clients.iter_mut().zip(&mut connections) {
            stream.write_all(answer).await.unwrap();
            assert_eq!(client.read_response().text(), "ok");
        }
        // All but one are closed.
        for _ in 1..requests.len() {
            let ends = connections.iter_mut().map(|stream| Box::pin(stream.read_u8()));
            let (ended, at, _) =
                within_deadline("the end of a connection", futures::future::select_all(ends)).await;
            ended.unwrap_err();
            connections.remove(at);
        }
        // And that one serves both kinds.
        let mut kept = connections.remove(0);
        for (client, request) in clients.iter_mut().zip(&requests) {
            client.write(request);
            read_whole(&mut kept, request).await;
            kept.write_all(answer).await.unwrap();
            assert_eq!(client.read_response().text(), "ok");
        }
    }
}

/// Reads what the gateway makes of `request`, which ends as that does.
async fn read_whole(stream: &mut TcpStream, request: &str) {
    let end = &request.as_bytes()[request.find("\r\n\r\n").unwrap()..];
    let mut received = Vec::new();
    while !received.ends_with(end) {
        let read = within_deadline("a request", stream.read_buf(&mut received)).await.unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&received));
    }
}

/// Ten thousand requests before the first of four endpoints dies, which its ejection notices, and as many after that,
/// when the other three share what it had.
#[test]
fn shares_are_as_they_should_be_when_an_endpoint_dies_midway() {
    const HALF: usize = 10_000;
    const IN_FLIGHT: usize = 64;
    let live = Live::offline(Arc::new(SystemResolver::new()), Arc::new(()));
    for balancer in ["round_robin", "least_requests", "random", "p2c_ewma", "{hash: {header: x-user}}"] {
        let settings = format!(
            "balancer: {balancer}\noutlier: {{consecutive_failures: 3, eject_for: 1h, max_eject_for: 1h}}"
        );
        let yaml = pool("['10.0.0.1:80', '10.0.0.2:80', '10.0.0.3:80', '10.0.0.4:80']", &settings);
        let loaded = tidegate::config::parse(&yaml, "test").unwrap();
        let upstream =
            Upstream::new("pool", &loaded.config().unwrap().upstreams["pool"], &live, None).unwrap();
        let mut rng = fastrand::Rng::with_seed(7);
        let mut now = Instant::now();
        let mut under_way = std::collections::VecDeque::new();
        let mut shares = [[0_usize; 4]; 2];
        for request in 0..2 * HALF {
            now += Duration::from_millis(1);
            let key = format!("user-{request}");
            let key = upstream.balancer_key().map(|_| key.as_bytes());
            let begun = upstream.begin(key, &[], now, &mut rng).unwrap();
            let index =
                upstream.endpoints().iter().position(|one| one.id() == begun.endpoint().id()).unwrap();
            shares[request / HALF][index] += 1;
            under_way.push_back((begun, now));
            if under_way.len() > IN_FLIGHT {
                let (mut ended, began) = under_way.pop_front().unwrap();
                let dead = request >= HALF && ended.endpoint().name.starts_with("10.0.0.1:");
                if !dead {
                    ended.endpoint().observe(now - began, now);
                }
                let outcome = if dead { Outcome::ConnectFailed } else { Outcome::Success };
                upstream.report(&mut ended, outcome, now);
            }
        }
        let near = |count: usize, fair: usize| count.abs_diff(fair) * 100 <= fair * 5;
        let [before, after] = shares;
        assert!(before.iter().all(|count| near(*count, HALF / 4)), "{balancer}: {shares:?}");
        assert!(after[0] <= 3 + IN_FLIGHT, "{balancer}: {shares:?}");
        assert!(after[1..].iter().all(|count| near(*count, HALF / 3)), "{balancer}: {shares:?}");
    }
}
