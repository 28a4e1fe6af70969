//! When a failed request is tried again, where, how often, and what the two sides are told of it.

use std::time::Instant;

use tempfile::TempDir;

use super::{Client, Origin, gateway, yaml};
use crate::support::{
    Backend, Gateway, RawConnection, ScriptedUpstream, Step, logged, metric, send, send_h2c, wait_for_metric,
};

/// Retries without a wait, and as many as are asked for.
const EAGER: &str = "backoff: {base: 1ms, max: 1ms}, budget: {ratio: 100%, min_per_second: 1000}";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_error_is_retried_elsewhere_and_the_client_sees_nothing_of_it() {
    for protocol in ["http1", "http2"] {
        let (bad, good) = (Origin::failing().await, Origin::start().await);
        let route = format!("retry: {{attempts: 3, on: [5xx], {EAGER}}}");
        let gateway = gateway(&route, &[&bad, &good], &format!("protocol: {protocol}")).await;
        let mut client = Client::new(&gateway);
        for request in 0..10 {
            let answer = client.get(&format!("/{request}")).await;
            assert_eq!(answer.assert_status(200).text(), "origin says 200");
        }
        assert_eq!((bad.requests(), good.requests()), (5, 10), "{protocol}");
        for seen in good.seen() {
            let tries: u32 = seen.header("x-tidegate-attempts").unwrap().parse().unwrap();
            assert_eq!(logged(&gateway, &seen.path).await["attempts"], tries);
        }
        let labels = ["route=\"r\"", "reason=\"5xx\""];
        assert_eq!(metric(&gateway, "tidegate_retries_total", &labels).await, 5.0);
        send_h2c(gateway.address("main"), "GET", "/h2", &[], "").await.assert_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_answer_passes_as_it_is() {
    let origins = [Origin::failing().await, Origin::failing().await];
    let route = format!("retry: {{attempts: 2, on: [5xx], {EAGER}}}");
    let gateway = gateway(&route, &[&origins[0], &origins[1]], "").await;
    let answer = Client::new(&gateway).get("/last").await;
    assert_eq!(answer.assert_no_reason().assert_status(503).text(), "origin says 503");
    assert_eq!((origins[0].requests(), origins[1].requests()), (1, 1));
    let line = logged(&gateway, "/last").await;
    assert_eq!((&line["attempts"], &line["reason"]), (&2.into(), &serde_json::Value::Null), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_try_goes_to_another_endpoint_while_there_is_one() {
    for balancer in ["round_robin", "least_requests", "random", "p2c_ewma", "{hash: client_ip}"] {
        let mut origins = Vec::new();
        for _ in 0..4 {
            origins.push(Origin::failing().await);
        }
        let all: Vec<&Origin> = origins.iter().collect();
        let route = format!("retry: {{attempts: 4, on: [5xx], {EAGER}}}");
        let gateway = gateway(&route, &all, &format!("balancer: {balancer}")).await;
        for round in 1..=5 {
            Client::new(&gateway).get("/").await.assert_status(503);
            let requests: Vec<usize> = origins.iter().map(Origin::requests).collect();
            assert_eq!(requests, [round; 4], "{balancer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_conditions_name_is_retried() {
    const CASES: [(&str, &str, usize); 14] = [
        ("5xx", "/status/500", 2),
        ("5xx", "/status/404", 1),
        ("gateway_error", "/status/502", 2),
        ("gateway_error", "/status/504", 2),
        ("gateway_error", "/status/500", 1),
        ("retryable_4xx", "/status/409", 2),
        ("retryable_4xx", "/status/429", 1),
        ("429", "/status/429", 2),
        ("503", "/status/503", 2),
        ("503", "/status/502", 1),
        ("connect_error, reset, timeout, refused_stream", "/status/503", 1),
        ("'grpc:unavailable'", "/grpc/14", 2),
        ("'grpc:unavailable'", "/grpc/5", 1),
        ("5xx", "/status/200", 1),
    ];
    let origin = Origin::start().await;
    let routes: Vec<String> = CASES
        .iter()
        .enumerate()
        .map(|(case, (on, ..))| {
            format!(
                "- {{name: c{case}, match: {{headers: {{x-case: 'c{case}'}}}}, upstream: u, \
                 retry: {{attempts: 2, on: [{on}], {EAGER}}}}}\n"
            )
        })
        .collect();
    let yaml = yaml("upstream: u", &[("u", &[&origin], "")]);
    let gateway = Gateway::start(&yaml.replace("routes:\n", &format!("routes:\n{}", routes.concat()))).await;
    let mut client = Client::new(&gateway);
    for (case, (on, path, tries)) in CASES.iter().enumerate() {
        let before = origin.requests();
        client.send("GET", path, &[("x-case", &format!("c{case}"))], "").await;
        assert_eq!(origin.requests() - before, *tries, "{on}: {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_takes_too_long_is_given_up_for_another() {
    for protocol in ["http1", "http2"] {
        let (slow, quick) = (Origin::start().await, Origin::start().await);
        let route = format!("retry: {{attempts: 2, per_try_timeout: 500ms, on: [timeout], {EAGER}}}");
        let gateway = gateway(&route, &[&slow, &quick], &format!("protocol: {protocol}")).await;
        let mut client = Client::new(&gateway);
        // Both are known, and take turns.
        while slow.requests() == 0 || quick.requests() == 0 {
            client.get("/").await.assert_status(200);
        }
        let before = (slow.requests(), quick.requests());
        slow.hold();
        for _ in 0..4 {
            client.get("/").await.assert_status(200);
        }
        let asked = (slow.requests() - before.0, quick.requests() - before.1);
        assert_eq!(asked, (2, 4), "{protocol}");
        slow.wait_for("the end of what was given up", |counts| counts.in_flight == 0).await;

        quick.hold();
        let answer = client.get("/both").await;
        answer.assert_reason(504, "upstream_timeout");
        assert_eq!(logged(&gateway, "/both").await["attempts"], 2);
        // A request that may have had its effect is not sent twice.
        client.send("POST", "/post", &[], "x").await.assert_reason(504, "upstream_timeout");
        assert_eq!(logged(&gateway, "/post").await["attempts"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_that_are_not_idempotent_are_retried_when_listed_and_with_their_body() {
    for protocol in ["http1", "http2"] {
        let (bad, good) = (Origin::failing().await, Origin::start().await);
        let base = format!("attempts: 2, on: [5xx], {EAGER}");
        let settings = format!("protocol: {protocol}");
        let unlisted = gateway(&format!("retry: {{{base}}}"), &[&bad, &good], &settings).await;
        let mut statuses = Vec::new();
        for _ in 0..4 {
            statuses.push(Client::new(&unlisted).send("POST", "/", &[], "x").await.status.as_u16());
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 200, 503, 503], "{protocol}");

        let (bad, good) = (Origin::failing().await, Origin::start().await);
        let listed = gateway(&format!("retry: {{methods: [POST], {base}}}"), &[&bad, &good], &settings).await;
        let body: String = (0..60 * 1024).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
        for _ in 0..4 {
            Client::new(&listed).send("POST", "/", &[], body.clone()).await.assert_status(200);
        }
        assert_eq!((bad.requests(), good.requests()), (2, 4), "{protocol}");
        assert!(good.seen().iter().all(|seen| seen.body == body), "{protocol}: the body is whole");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_the_buffer_is_not_sent_again_and_the_reason_says_so() {
    let body = "x".repeat(70 * 1024);
    let route = format!("retry: {{attempts: 3, methods: [POST], on: [5xx, reset], {EAGER}}}");
    let origins = [Origin::failing().await, Origin::failing().await];
    let refusing = gateway(&route, &[&origins[0], &origins[1]], "").await;
    let answer = Client::new(&refusing).send("POST", "/", &[], body.clone()).await;
    answer.assert_no_reason().assert_status(503);
    assert_eq!(origins[0].requests() + origins[1].requests(), 1);

    let script = vec![Step::ReadHead, Step::ReadBody(body.len()), Step::Reset];
    let resetting = ScriptedUpstream::start(script).await;
    let yaml = yaml(&format!("upstream: u, {route}"), &[])
        + &format!("  u: {{endpoints: ['{}']}}\n", resetting.address());
    let gateway = Gateway::start(&yaml).await;
    let answer = send(gateway.address("main"), "POST", "/reset", &[], body).await;
    answer.assert_reason(502, "body_not_replayable");
    assert_eq!(logged(&gateway, "/reset").await["attempts"], 1);
    assert_eq!(resetting.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_larger_buffer_keeps_larger_bodies_and_one_of_nothing_keeps_none() {
    for (buffer, length, tries) in [("128KiB", 100 * 1024, 2), ("0B", 1, 1), ("0B", 0, 2)] {
        let (bad, good) = (Origin::failing().await, Origin::start().await);
        let route = format!("retry: {{methods: [POST], on: [5xx], body_buffer: {buffer}, {EAGER}}}");
        let gateway = gateway(&route, &[&bad, &good], "balancer: round_robin").await;
        let body = "x".repeat(length);
        for _ in 0..2 {
            Client::new(&gateway).send("POST", "/", &[], body.clone()).await;
        }
        assert_eq!(bad.requests() + good.requests(), 1 + tries, "{buffer} {length}");
        assert!(good.seen().iter().all(|seen| seen.body == body), "{buffer} {length}: the body is whole");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_failures_stays_within_the_budget() {
    const CLIENTS: usize = 16;
    const EACH: usize = 50;
    const FLOOR: usize = 10;
    let origins = [Origin::failing().await, Origin::failing().await];
    let route = "retry: {attempts: 5, on: [5xx], backoff: {base: 1ms, max: 2ms}}";
    let gateway = gateway(route, &[&origins[0], &origins[1]], "").await;
    let began = Instant::now();
    let clients = (0..CLIENTS).map(|_| {
        let mut client = Client::new(&gateway);
        tokio::spawn(async move {
            for _ in 0..EACH {
                client.get("/").await.assert_no_reason().assert_status(503);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let tries = origins[0].requests() + origins[1].requests();
    let requests = CLIENTS * EACH;
    // The floor is for each second that was begun.
    let seconds = began.elapsed().as_secs() as usize + 2;
    assert!(tries * 10 <= requests * 12 + FLOOR * seconds * 10, "{tries} tries in {seconds} s");
    assert!(tries * 100 > requests * 115, "only {tries} tries");
    let exhausted = metric(&gateway, "tidegate_retry_budget_exhausted_total", &["route=\"r\""]).await;
    assert!(exhausted > 0.0);
    let retries = metric(&gateway, "tidegate_retries_total", &["route=\"r\""]).await;
    assert_eq!(retries as usize, tries - requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_being_asked_for_only_what_is_safe_is_tried_again() {
    let (bad, good) = (Origin::failing().await, Origin::start().await);
    let plain = gateway("", &[&bad, &good], "").await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(Client::new(&plain).get("/").await.status.as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503, 503], "an answer is an answer");
    assert!(good.seen().iter().all(|seen| seen.header("x-tidegate-attempts").is_none()));

    // Nobody listens at the one: nothing was sent, so a POST goes elsewhere too.
    let gone = Backend::start().await;
    gone.kill().await;
    let yaml = format!(
        "admin: {{address: '127.0.0.1:0'}}\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\n\
         routes: [{{name: r, upstream: u}}]\nupstreams: {{u: {{endpoints: ['{}', '{}']}}}}\n",
        gone.address(),
        good.address
    );
    let gateway = Gateway::start(&yaml).await;
    for _ in 0..4 {
        Client::new(&gateway).send("POST", "/", &[], "x").await.assert_status(200);
    }

    // The connection breaks under the request: a GET is tried once more and no more than once, a POST is not.
    let origins = [(); 4].map(|()| ScriptedUpstream::start(vec![Step::ReadHead, Step::Reset]));
    let origins = futures::future::join_all(origins).await;
    let addresses: Vec<String> = origins.iter().map(|origin| origin.address().to_string()).collect();
    let yaml = yaml.replace(
        &format!("'{}', '{}'", gone.address(), good.address),
        &format!("{addresses:?}")[1..].replace(']', ""),
    );
    let gateway = Gateway::start(&yaml).await;
    for (method, tries) in [("GET", 2), ("POST", 1)] {
        let before: usize = origins.iter().map(ScriptedUpstream::connections).sum();
        let answer = send(gateway.address("main"), method, "/", &[], "").await;
        answer.assert_reason(502, "upstream_reset");
        let after: usize = origins.iter().map(ScriptedUpstream::connections).sum();
        assert_eq!(after - before, tries, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_server_is_told_how_much_time_is_left() {
    let origin = Origin::start().await;
    let gateway = gateway("timeout: 5s", &[&origin], "protocol: grpc").await;
    let (grpc, te) = (("content-type", "application/grpc"), ("te", "trailers"));
    for (given, longest) in [(Some("1H"), 5), (None, 5), (Some("nonsense"), 5), (Some("2S"), 2)] {
        let headers: Vec<_> =
            [grpc, te].into_iter().chain(given.map(|given| ("grpc-timeout", given))).collect();
        send_h2c(gateway.address("main"), "POST", "/grpc/0", &headers, "").await.assert_status(200);
        let told = origin.seen().last().unwrap().header("grpc-timeout").unwrap().to_owned();
        let left: u64 = told.strip_suffix('u').unwrap().parse().unwrap();
        assert!((1..=longest * 1_000_000).contains(&left), "{told} for {headers:?}");
    }
    send_h2c(gateway.address("main"), "POST", "/plain", &[], "").await.assert_status(200);
    assert_eq!(origin.seen().last().unwrap().header("grpc-timeout"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_outlives_a_reload() {
    let origin = Origin::failing().await;
    let route = "retry: {attempts: 5, on: [5xx], backoff: {base: 1ms, max: 1ms}, budget: {ratio: 1%, min_per_second: 0}}";
    let yaml = yaml(&format!("upstream: u, {route}"), &[("u", &[&origin], "")]);
    let gateway = Gateway::start_in(TempDir::new().unwrap(), &yaml, &[]).await;
    let mut client = Client::new(&gateway);
    let until_paid = async |client: &mut Client| {
        let before = origin.requests();
        let mut requests = 0;
        while origin.requests() - before == requests {
            client.get("/").await.assert_status(503);
            requests += 1;
        }
        requests
    };
    // 1 % of a hundred requests is the first retry. Those before a reload pay for one after it.
    assert_eq!(until_paid(&mut client).await, 100);
    for _ in 0..60 {
        client.get("/").await;
    }
    gateway.reload(&yaml.replace("routes:\n", "routes:\n- {match: {path: /new}, respond: {}}\n")).await;
    assert_eq!(until_paid(&mut client).await, 40);
}

/// The first endpoint says no before the body is there: the second is sent all of it, whenever it comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_still_coming_goes_to_the_next_endpoint_whole() {
    for (protocol, status) in [("http1", "503 Service Unavailable"), ("http1", "500 Internal")] {
        let hasty = ScriptedUpstream::start(vec![
            Step::ReadHead,
            Step::write(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")),
            Step::ReadToEnd,
        ])
        .await;
        let good = Origin::start().await;
        let route = format!("upstream: u, retry: {{attempts: 2, methods: [POST], on: [5xx], {EAGER}}}");
        let upstream =
            format!("  u: {{protocol: {protocol}, endpoints: ['{}', '{}']}}\n", hasty.address(), good.name());
        let gateway = Gateway::start(&(yaml(&route, &[]) + &upstream)).await;
        let mut client = RawConnection::open(gateway.address("main"));
        client.write("POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: 20\r\n\r\n0123456789");
        hasty.wait_for_heads(1).await;
        let labels = ["reason=\"5xx\""];
        wait_for_metric(&gateway, "tidegate_retries_total", &labels, 1.0).await;
        client.write("abcdefghij");
        let answer = client.read_response();
        assert_eq!((answer.status, answer.text()), (200, "origin says 200"));
        assert_eq!(good.seen()[0].body, "0123456789abcdefghij");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_client_has_its_body_sent_again_too() {
    for protocol in ["http1", "http2"] {
        let (bad, good) = (Origin::failing().await, Origin::start().await);
        let route = format!("retry: {{attempts: 2, methods: [POST], on: [5xx], {EAGER}}}");
        let gateway = gateway(&route, &[&bad, &good], &format!("protocol: {protocol}")).await;
        let body = "y".repeat(40_000);
        for _ in 0..4 {
            let answer = send_h2c(gateway.address("main"), "POST", "/", &[], body.clone()).await;
            answer.assert_status(200);
        }
        assert_eq!((bad.requests(), good.requests()), (2, 4), "{protocol}");
        assert!(good.seen().iter().all(|seen| seen.body == body), "{protocol}");
    }
}

/// Answers each request with `status` and this field, on a connection of its own.
async fn asking(status: &str, field: &str) -> ScriptedUpstream {
    let answer = format!("HTTP/1.1 {status} No\r\n{field}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    ScriptedUpstream::start(vec![Step::ReadHead, Step::write(&answer)]).await
}

fn asked(upstreams: &[&ScriptedUpstream], backoff: &str) -> String {
    let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address()).collect();
    format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\n\
         routes: [{{upstream: u, retry: {{attempts: 3, on: [429, 503], backoff: {{base: 1ms, max: 1ms{backoff}}}}}}}]\n\
         upstreams: {{u: {{endpoints: {addresses:?}}}}}\n"
    )
}

#[tokio::test]
async fn a_pause_that_the_upstream_asks_for_is_made_before_another_try() {
    let upstream = asking("429", "retry-after: 1").await;
    let gateway = Gateway::start(&asked(&[&upstream], "")).await;
    let began = Instant::now();
    let answer = send(gateway.address("main"), "GET", "/", &[], "").await;
    assert_eq!(answer.assert_status(429).header("retry-after"), Some("1"));
    assert_eq!(upstream.heads().len(), 3);
    assert!(began.elapsed().as_secs() >= 2, "a second before each of two more tries");
}

#[tokio::test]
async fn nobody_waits_longer_for_the_upstream_than_the_operator_allows() {
    for (status, field) in
        [("429", "retry-after: 2"), ("503", "retry-after: 2"), ("429", "ratelimit-reset: 2")]
    {
        let upstream = asking(status, field).await;
        let gateway = Gateway::start(&asked(&[&upstream], ", max_retry_after: 1s")).await;
        let answer = send(gateway.address("main"), "GET", "/", &[], "").await;
        assert_eq!(answer.assert_no_reason().status.as_str(), status);
        assert_eq!(upstream.heads().len(), 1, "{status} {field}");
    }
}

/// One that is not available speaks for itself, and one that has too many requests for all.
#[tokio::test]
async fn another_endpoint_is_asked_at_once_unless_there_are_too_many_requests() {
    for (status, tries) in [("503", 2), ("429", 1)] {
        let upstreams = [asking(status, "retry-after: 60").await, asking(status, "retry-after: 60").await];
        let gateway = Gateway::start(&asked(&[&upstreams[0], &upstreams[1]], "")).await;
        let answer = send(gateway.address("main"), "GET", "/", &[], "").await;
        assert_eq!(answer.status.as_str(), status);
        let heads: Vec<usize> = upstreams.iter().map(|upstream| upstream.heads().len()).collect();
        assert_eq!(heads.iter().sum::<usize>(), tries, "{status}: {heads:?}");
    }
}
