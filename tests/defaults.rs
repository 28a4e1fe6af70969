//! `defaults`, and addresses where names of upstreams stand: what is said once is in force everywhere, and nowhere else.

use crate::filters::Echo;
use crate::support::{Gateway, ScriptedUpstream, Step, get, issuer::token_by_secret, metric, send};

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_a_route_is_an_upstream_of_that_name() {
    let (one, two) = (Echo::start().await, Echo::start().await);
    let (a, b) = (one.address, two.address);
    let gateway = Gateway::start(&format!(
        "admin: {{address: '127.0.0.1:0'}}\nlisteners:\n- {{name: main, address: '127.0.0.1:0'}}\n- {{name: bytes, address: '127.0.0.1:0', protocol: tcp, upstream: '{a}'}}\n\
         routes:\n- {{name: one, upstream: '{a}'}}\n- {{name: both, match: {{path: /both}}, upstream: ['{a}', '{b}']}}\n\
         - {{name: split, match: {{path: /split}}, split: {{to: [{{upstream: '{b}'}}]}}}}\n"
    ))
    .await;
    let main = gateway.address("main");
    get(main, "/one").await.assert_status(200);
    assert_eq!((one.take().len(), two.take().len()), (1, 0));
    for _ in 0..4 {
        get(main, "/both").await.assert_status(200);
    }
    assert_eq!((one.take().len(), two.take().len()), (2, 2));
    get(main, "/split").await.assert_status(200);
    assert_eq!(two.take().len(), 1);
    get(gateway.address("bytes"), "/bytes").await.assert_status(200);
    assert_eq!(one.take().len(), 1);
    let both = format!("upstream=\"{a},{b}\"");
    assert_eq!(metric(&gateway, "tidegate_requests_total", &[&both, "route=\"both\""]).await, 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_is_in_force_where_the_route_says_nothing() {
    let silent = ScriptedUpstream::start(vec![Step::ReadHead, Step::Stall]).await;
    let yaml = |defaults: &str| {
        format!(
            "{defaults}admin: {{address: '127.0.0.1:0'}}\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes:\n- {{name: all, upstream: '{}'}}\n\
             - {{name: own, match: {{path: /own}}, upstream: app, filters: [{{headers: {{response: {{set: {{x-own: 'yes'}}}}}}}}]}}\n\
             - {{name: none, match: {{path: /none}}, defaults: false, upstream: app}}\n\
             - {{name: self, match: {{path: /self}}, respond: {{body: here}}}}\nupstreams: {{app: {{endpoints: ['{}']}}}}\n",
            silent.address(),
            silent.address()
        )
    };
    const SECRET: &str = "a-secret-of-thirty-two-bytes-or-more";
    let guarded = format!(
        "defaults:\n  route:\n    timeout: 300ms\n    filters: [{{jwt: {{audience: [a], keys: {{secret: {SECRET}}}}}}}]\n"
    );
    let gateway = Gateway::start(&yaml(&guarded)).await;
    let main = gateway.address("main");
    // A filter of its own does not take the guard away, nor does an answer of its own.
    for path in ["/", "/own", "/self"] {
        get(main, path).await.assert_reason(401, "unauthenticated");
    }
    let token = format!("Bearer {}", token_by_secret(SECRET, r#"{"sub":"s","aud":"a","exp":4102444800}"#));
    let key = [("authorization", token.as_str())];
    send(main, "GET", "/", &key, "").await.assert_reason(504, "request_timeout");
    let own = send(main, "GET", "/own", &key, "").await;
    own.assert_reason(504, "request_timeout");
    assert_eq!(own.header("x-own"), Some("yes"));
    send(main, "GET", "/self", &key, "").await.assert_status(200);
    assert!(!gateway.lines().iter().any(|line| line.to_string().contains(SECRET)));
    let shown = get(gateway.admin(), "/config").await;
    assert!(!shown.text().contains(SECRET), "{}", shown.text());
    // Another default, and another rule is in force.
    let line = gateway.reload(&yaml("defaults: {route: {timeout: 200ms}}\n")).await;
    assert_eq!(line["msg"], "configuration reloaded");
    get(main, "/").await.assert_reason(504, "request_timeout");
    get(main, "/self").await.assert_status(200);
    // A mistake is told with its place in the defaults, and the last good configuration stays.
    let line = gateway.reload(&yaml("defaults: {route: {timeout: 0s}}\n")).await;
    assert_eq!(line["msg"], "configuration rejected");
    let told = line.to_string();
    assert!(
        told.contains("gateway.yaml:1:29: defaults.route.timeout: a duration of 0 makes no sense"),
        "{told}"
    );
    get(main, "/").await.assert_reason(504, "request_timeout");
}

#[tokio::test]
async fn what_the_defaults_give_is_explained_and_warned_of_once() {
    let yaml = "defaults:\n  route: {timeout: 5s, retry: {attempts: 3, methods: [POST]}}\n  upstream: {connect_timeout: 300ms}\n  listener: \
                {limits: {connections_per_ip: 9}}\nlisteners: [{name: main, address: ':8000'}]\nroutes:\n- {name: a, upstream: '10.0.0.1:80', \
                retry: {on: [503]}}\n- {name: b, match: {path: /b}, upstream: '10.0.0.2:80', defaults: false, timeout: 1s}\n";
    let (code, error, explained) = Gateway::start_expecting_failure(yaml, &["explain", "GET", "/x"]).await;
    assert_eq!(code, 0, "{error}");
    let line = "defaults  listener.limits.connections_per_ip, route.retry.attempts, route.retry.methods, route.timeout, \
                upstream.connect_timeout";
    assert!(explained.contains(line), "{explained}");
    let (_, _, explained) = Gateway::start_expecting_failure(yaml, &["explain", "GET", "/b"]).await;
    assert!(
        explained.contains("defaults  listener.limits.connections_per_ip, upstream.connect_timeout"),
        "{explained}"
    );
    let (_, said, printed) = Gateway::start_expecting_failure(yaml, &["check"]).await;
    let all = format!("{said}{printed}");
    assert_eq!(all.matches("a POST that an upstream has acted on may be sent again").count(), 1, "{all}");
    assert!(all.contains("gateway.yaml:2:55: defaults.route.retry.methods[0]"), "{all}");
}
