//! Rate limits over real gateways: counts that survive a reload, and a real Redis that is shared, killed, stopped and
//! asked for its password. Numbers are exact, as an hour does not pass in a test.

use std::net::{SocketAddr, TcpListener};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    Backend, Gateway, Load, Redis, Totals, Yaml, get, issuer::token_by_secret, metric, send, series,
    within_deadline,
};

/// A route for each of `limits`, a path and the filter's options.
fn gateway(limits: &[(&str, &str)], backend: SocketAddr) -> String {
    let yaml = Yaml::new().top("log: {access: {to: off}}").with_upstream("origin", [backend], "");
    let yaml = limits.iter().fold(yaml, |yaml, (path, options)| {
        // The backend knows no other path.
        yaml.with_route(&format!(
            "match: {{path: {path}}}, filters: [{{rate_limit: {{{options}}}}}, {{rewrite: {{path: /}}}}], upstream: origin"
        ))
    });
    yaml.to_string()
}

/// How many of so many requests pass; the others must be refused for this reason and no other.
async fn passing(address: SocketAddr, path: &str, requests: usize) -> usize {
    let mut passed = 0;
    for _ in 0..requests {
        let answer = get(address, path).await;
        match answer.status.as_u16() {
            200 => passed += 1,
            _ => drop(answer.assert_reason(429, "rate_limited")),
        }
    }
    passed
}

#[tokio::test]
async fn a_reload_keeps_the_counts_of_limits_that_stay_as_they_are() {
    let backend = Backend::start().await;
    let gateway_of = |limits: &[(&str, &str)]| gateway(limits, backend.address());
    let (kept, changed) = (("/kept", "rate: 5/h"), ("/changed", "rate: 5/h, key: {header: x}"));
    let gateway = Gateway::start(&gateway_of(&[kept, changed])).await;
    let edge = gateway.address("main");
    assert_eq!(passing(edge, "/kept", 3).await, 3);
    assert_eq!(passing(edge, "/changed", 6).await, 5);
    let reloaded =
        gateway.reload(&gateway_of(&[("/new", "rate: 1/h"), ("/changed", "rate: 6/h"), kept])).await;
    assert_eq!(reloaded["msg"], "configuration reloaded");
    assert_eq!(passing(edge, "/kept", 6).await, 2);
    assert_eq!(passing(edge, "/changed", 7).await, 6);
    // A configuration that is refused touches nothing.
    let rejected = gateway.reload(&gateway_of(&[kept, ("/kept", "rate: 0/h")])).await;
    assert_eq!(rejected["msg"], "configuration rejected");
    assert_eq!(passing(edge, "/kept", 1).await, 0);
}

#[tokio::test]
async fn more_keys_than_are_counted_are_told_in_the_metrics() {
    let backend = Backend::start().await;
    let limit = ("/", "rate: 1/h, key: {header: x}, max_keys: 10, name: small");
    let gateway = Gateway::start(&gateway(&[limit], backend.address())).await;
    for key in 0..15 {
        let answer = send(gateway.address("main"), "GET", "/", &[("x", &key.to_string())], "").await;
        answer.assert_status(200);
    }
    let evicted = series(&gateway, "tidegate_rate_limit_evictions_total{limit=\"small\"}", &[]).await;
    assert_eq!(evicted, Some(5.0));
}

/// How many of so many requests with this header pass.
async fn passing_with(address: SocketAddr, path: &str, header: (&str, &str), requests: usize) -> usize {
    let mut passed = 0;
    for _ in 0..requests {
        let answer = send(address, "GET", path, &[header], "").await;
        match answer.status.as_u16() {
            200 => passed += 1,
            _ => drop(answer.assert_reason(429, "rate_limited")),
        }
    }
    passed
}

#[tokio::test]
async fn the_plan_in_a_token_has_its_rate_and_so_has_the_owner_of_an_api_key() {
    const SECRET: &str = "a-secret-of-thirty-two-bytes-or-more";
    let backend = Backend::start().await;
    let key_of = |name: &str| format!("the-key-of-{name}-which-nobody-guesses");
    let keys = ["shop", "bank", "lab", "club"].map(|name| {
        let hash = hex(&openssl::sha::sha256(key_of(name).as_bytes()));
        format!("{{name: {name}, hash: 'sha256:{hash}'}}")
    });
    let route = |path: &str, filters: &str| {
        format!("match: {{path: {path}}}, filters: [{filters}, {{rewrite: {{path: /}}}}], upstream: origin")
    };
    let by_claim =
        "{rate_limit: {rate: {by: {claim: plan}, free: 1/h, pro: 3/h, other: 2/h}, key: {claim: sub}}}";
    let by_user = "{rate_limit: {rate: {by: user, shop: 2/h, bank: 3/h}, key: route}}";
    let yaml = Yaml::new()
        .with_upstream("origin", [backend.address()], "")
        .with_route(&route("/claim", &format!("{{jwt: {{keys: {{secret: {SECRET}}}}}}}, {by_claim}")))
        .with_route(&route("/user", &format!("{{api_key: {{keys: [{}]}}}}, {by_user}", keys.join(", "))));
    let gateway = yaml.start().await;
    let address = gateway.address("main");
    for (claims, expected) in [
        (r#"{"sub":"alice","plan":"free","exp":9999999999}"#, 1),
        (r#"{"sub":"bob","plan":"pro","exp":9999999999}"#, 3),
        (r#"{"sub":"carol","plan":"free","exp":9999999999}"#, 1),
        (r#"{"sub":"dave","plan":"gold","exp":9999999999}"#, 2),
        (r#"{"sub":"erin","exp":9999999999}"#, 2),
        // Whoever changes the plan begins anew.
        (r#"{"sub":"alice","plan":"pro","exp":9999999999}"#, 3),
        (r#"{"sub":"alice","plan":"free","exp":9999999999}"#, 0),
    ] {
        let token = format!("Bearer {}", token_by_secret(SECRET, claims));
        let passed = passing_with(address, "/claim", ("authorization", &token), 4).await;
        assert_eq!(passed, expected, "{claims}");
    }
    // A stranger has no plan: it is refused before it is counted.
    get(address, "/claim").await.assert_reason(401, "unauthenticated");
    // Those that are not named share the lowest.
    for (name, expected) in [("shop", 2), ("bank", 3), ("lab", 2), ("club", 0)] {
        let passed = passing_with(address, "/user", ("x-api-key", &key_of(name)), 4).await;
        assert_eq!(passed, expected, "{name}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_dry_run_lets_all_pass_and_counts_those_it_would_have_refused() {
    let (backend, redis) = (Backend::start().await, Redis::start().await);
    let shared =
        format!("rate: 1/h, dry_run: true, name: shared, store: {{redis: '{}', timeout: 10s}}", redis.url());
    let limits = [
        ("/own", "rate: 2/h, dry_run: true, name: own"),
        ("/window", "rate: 3/h, dry_run: true, name: window, algorithm: sliding_window"),
        ("/shared", shared.as_str()),
        ("/real", "rate: 2/h, name: real"),
    ];
    let gateway = Gateway::start(&gateway(&limits, backend.address())).await;
    for (path, passed) in [("/own", 5), ("/window", 5), ("/shared", 5), ("/real", 2)] {
        assert_eq!(passing(gateway.address("main"), path, 5).await, passed, "{path}");
    }
    for (name, beyond) in [("own", 3.0), ("window", 2.0), ("shared", 4.0)] {
        let series_of_it = format!("tidegate_rate_limit_dry_run_total{{limit=\"{name}\"}}");
        assert_eq!(series(&gateway, &series_of_it, &[]).await, Some(beyond), "{name}");
    }
    // Only what was refused is an error, and only a dry run counts what was not.
    assert_eq!(metric(&gateway, "tidegate_errors_total", &["reason=\"rate_limited\""]).await, 3.0);
    assert_eq!(series(&gateway, "tidegate_rate_limit_dry_run_total{limit=\"real\"}", &[]).await, None);
}

#[tokio::test]
async fn gateways_with_one_redis_share_one_limit() {
    let (backend, redis) = (Backend::start().await, Redis::start().await);
    let store = format!("rate: 1/h, burst: 10, store: {{redis: '{}', timeout: 10s}}", redis.url());
    let yaml = gateway(&[("/a", &store), ("/b", &store)], backend.address());
    let (one, two) = (Gateway::start(&yaml).await, Gateway::start(&yaml).await);
    let mut passed = 0;
    for _ in 0..10 {
        passed += passing(one.address("main"), "/a", 1).await;
        passed += passing(two.address("main"), "/a", 1).await;
    }
    assert_eq!(passed, 10);
    // Another place is another limit.
    assert_eq!(passing(two.address("main"), "/b", 12).await, 10);
    let keys: Vec<String> = redis.command("KEYS *").await;
    assert_eq!(keys.len(), 2);
    assert!(keys.iter().all(|key| key.starts_with("tidegate:") && key.len() == 9 + 32), "{keys:?}");
    let store = format!("tidegate_rate_limit_store_up{{store=\"{}\"}}", redis.socket().display());
    assert_eq!(series(&one, &store, &[]).await, Some(1.0));
}

#[tokio::test]
async fn gateways_with_one_redis_share_a_quota_of_the_month() {
    let (backend, redis) = (Backend::start().await, Redis::start().await);
    let store = format!("rate: 10/month, store: {{redis: '{}', timeout: 10s}}", redis.url());
    let yaml = gateway(&[("/", &store)], backend.address());
    let (one, two) = (Gateway::start(&yaml).await, Gateway::start(&yaml).await);
    let passed = passing(one.address("main"), "/", 6).await + passing(two.address("main"), "/", 6).await;
    assert_eq!(passed, 10);
    let refused = get(two.address("main"), "/").await;
    let back_in: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=31 * 86_400).contains(&back_in), "{back_in}");
    let keys: Vec<String> = redis.command("KEYS *").await;
    let [key] = keys.as_slice() else { panic!("{keys:?}") };
    let forgotten_in: i64 = redis.command(&format!("PTTL {key}")).await;
    assert!((1..=31 * 86_400_000).contains(&forgotten_in), "{forgotten_in}");
}

#[tokio::test]
async fn sixty_four_connections_to_two_gateways_get_what_one_redis_allows() {
    let (backend, redis) = (Backend::start().await, Redis::start().await);
    let limit =
        format!("rate: 1/h, burst: 300, store: {{redis: '{}', timeout: 10s, prefix: x}}", redis.url());
    let yaml = gateway(&[("/", &limit)], backend.address());
    let (one, two) = (Gateway::start(&yaml).await, Gateway::start(&yaml).await);
    let loads = [&one, &two].map(|gateway| Load::start(gateway.address("main"), "/", 32));
    for load in &loads {
        // All of them come after what is allowed is gone.
        load.wait_for_failure().await;
    }
    let [Totals { requests: a, .. }, Totals { requests: b, .. }] =
        futures::future::join_all(loads.map(Load::stop)).await.try_into().unwrap();
    assert_eq!(a + b, 300);
}

#[tokio::test]
async fn what_redis_denied_is_not_asked_again() {
    let (backend, redis) = (Backend::start().await, Redis::start().await);
    let limit = format!("rate: 1/h, store: {{redis: '{}', timeout: 10s}}", redis.url());
    let gateway = Gateway::start(&gateway(&[("/", &limit)], backend.address())).await;
    assert_eq!(passing(gateway.address("main"), "/", 50).await, 1);
    let stats: String = redis.command("INFO commandstats").await;
    let asked = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")).unwrap();
    assert!(asked.contains("calls=2,"), "{asked}");
}

#[tokio::test]
async fn a_redis_that_forgot_the_script_is_told_again() {
    let (backend, redis) = (Backend::start().await, Redis::start().await);
    let limit = format!("rate: 5/h, store: {{redis: '{}', timeout: 10s, on_error: deny}}", redis.url());
    let gateway = Gateway::start(&gateway(&[("/", &limit)], backend.address())).await;
    assert_eq!(passing(gateway.address("main"), "/", 2).await, 2);
    let () = redis.command("SCRIPT FLUSH").await;
    assert_eq!(passing(gateway.address("main"), "/", 4).await, 3);
}

#[tokio::test]
async fn killing_redis_under_load_does_what_on_error_says() {
    let (backend, mut redis) = (Backend::start().await, Redis::start().await);
    let store = |rate: &str, on_error: &str| {
        format!("rate: {rate}, store: {{redis: '{}', timeout: 10s, on_error: {on_error}}}", redis.url())
    };
    let yaml = gateway(
        &[
            ("/allow", &store("1000000/s", "allow")),
            ("/local", &store("1000000/s", "local")),
            ("/deny", &store("1000000/s", "deny")),
            ("/strict", &store("4/h", "local")),
        ],
        backend.address(),
    );
    let gateway = Gateway::start(&yaml).await;
    let edge = gateway.address("main");
    assert_eq!(passing(edge, "/strict", 5).await, 4);
    let unharmed = ["/allow", "/local"].map(|path| Load::start(edge, path, 4));
    let denied = Load::start(edge, "/deny", 4);
    for load in unharmed.iter().chain([&denied]) {
        load.wait_for_requests(100).await;
    }
    assert_eq!(denied.totals().failed, 0);
    redis.kill().await;
    gateway.wait_for_message("rate limit store is away, trying again").await;
    denied.wait_for_failure().await;
    for load in &unharmed {
        load.wait_for_requests(500).await;
    }
    let refused = get(edge, "/deny").await;
    assert_eq!(refused.assert_reason(429, "rate_limited").header("retry-after"), Some("1"));
    // What Redis denied, it would still deny; another key is counted here.
    assert_eq!(passing(edge, "/strict", 1).await, 0);
    let store = redis.socket().display().to_string();
    assert_eq!(
        series(&gateway, &format!("tidegate_rate_limit_store_up{{store=\"{store}\"}}"), &[]).await,
        Some(0.0)
    );
    let away = format!("tidegate_rate_limit_store_errors_total{{error=\"away\",store=\"{store}\"}}");
    assert!(metric(&gateway, &away, &[]).await > 0.0);

    redis.start_again().await;
    gateway.wait_for_message("rate limit store is connected").await;
    gateway.wait_for_message("rate limit store is connected").await;
    get(edge, "/deny").await.assert_status(200);
    for load in unharmed {
        load.stop().await.assert_no_failures();
    }
    denied.stop().await;
}

#[tokio::test]
async fn without_redis_from_the_start_each_gateway_counts_by_itself() {
    let backend = Backend::start().await;
    let limit = "rate: 1/h, burst: 3, store: {redis: 'redis://127.0.0.1:1'}";
    let yaml = gateway(&[("/", limit)], backend.address());
    let gateway = Gateway::start(&yaml).await;
    assert_eq!(passing(gateway.address("main"), "/", 10).await, 3);
}

#[tokio::test]
async fn a_redis_that_hangs_holds_requests_up_for_the_timeout_and_then_not_at_all() {
    let (backend, redis) = (Backend::start().await, Redis::start().await);
    let limit = format!("rate: 1000000/s, store: {{redis: '{}', on_error: allow}}", redis.url());
    let gateway = Gateway::start(&gateway(&[("/", &limit)], backend.address())).await;
    let load = Load::start(gateway.address("main"), "/", 8);
    gateway.wait_for_message("rate limit store is connected").await;
    redis.signal(Signal::SIGSTOP);
    let away = gateway.wait_for_message("rate limit store is away, trying again").await;
    assert_eq!(away["why"], "it does not answer");
    load.wait_for_requests(200).await;
    redis.signal(Signal::SIGCONT);
    gateway.wait_for_message("rate limit store is connected").await;
    load.stop().await.assert_no_failures();
}

#[tokio::test]
async fn the_password_is_nowhere_to_be_read() {
    const PASSWORD: &str = "hunter2-and-a-half";
    let (backend, redis) = (Backend::start().await, Redis::with(&["--requirepass", PASSWORD]).await);
    let limit = |url: &str| format!("rate: 1/h, burst: 7, store: {{redis: {url}, timeout: 10s}}");
    let right = format!("'redis+unix://{}?pass={PASSWORD}'", redis.socket().display());
    let wrong = format!("'redis+unix://{}?pass={PASSWORD}x'", redis.socket().display());
    let limits = [("/right", limit(&right)), ("/wrong", limit(&wrong)), ("/env", limit("'${env:REDIS}'"))];
    let limits: Vec<_> = limits.iter().map(|(path, limit)| (*path, limit.as_str())).collect();
    let yaml = gateway(&limits, backend.address());
    let url = right.trim_matches('\'');
    let gateway = Gateway::start_in(TempDir::new().unwrap(), &yaml, &[("REDIS", url)]).await;
    let edge = gateway.address("main");
    for path in ["/right", "/env"] {
        assert_eq!(passing(edge, path, 9).await, 7);
    }
    assert_eq!(passing(edge, "/wrong", 1).await, 1);
    gateway.wait_for_message("rate limit store is away, trying again").await;
    let keys: Vec<String> = {
        let client = redis::Client::open(url).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap()
    };
    assert_eq!(keys.len(), 2);
    let mut shown = gateway.lines().iter().map(Value::to_string).collect::<String>() + &gateway.stderr();
    for path in ["/config", "/config?format=yaml", "/metrics", "/stats", "/routes"] {
        shown += get(gateway.admin(), path).await.assert_status(200).text();
    }
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn a_url_that_is_none_is_refused_in_its_place_without_being_repeated() {
    let yaml =
        gateway(&[("/", "rate: 1/s, store: {redis: 'redis:/u:hunter2@h'}")], "127.0.0.1:1".parse().unwrap());
    let (code, stderr, stdout) = Gateway::start_expecting_failure(&yaml, &["check"]).await;
    assert_eq!((code, stdout.as_str()), (3, ""));
    assert!(stderr.contains("gateway.yaml:6:"), "{stderr}");
    assert!(
        stderr.contains("routes[0].filters[0].rate_limit.store.redis: not the URL of a Redis"),
        "{stderr}"
    );
    assert!(stderr.contains("try \"redis://127.0.0.1:6379\""), "{stderr}");
    assert!(!stderr.contains("hunter2"), "{stderr}");
}

#[tokio::test]
async fn nothing_connects_to_redis_before_a_request_asks() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let backend = Backend::start().await;
    let limit = format!("rate: 9/s, store: {{redis: '{url}'}}");
    let yaml = gateway(&[("/", &limit), ("/other", "rate: 9/s")], backend.address());
    let (code, stderr, _) = Gateway::start_expecting_failure(&yaml, &["check"]).await;
    assert_eq!(code, 0, "{stderr}");
    let gateway = Gateway::start(&yaml).await;
    assert_eq!(passing(gateway.address("main"), "/other", 1).await, 1);
    assert!(listener.accept().is_err(), "somebody connected");
    assert_eq!(passing(gateway.address("main"), "/", 1).await, 1);
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    within_deadline("a connection to Redis", listener.accept()).await.unwrap();
}

/// A clock of Redis that goes back by an hour leaves such values as well.
#[tokio::test]
async fn no_bucket_in_redis_is_emptier_than_empty() {
    let (backend, redis) = (Backend::start().await, Redis::start().await);
    let store = format!("store: {{redis: '{}', timeout: 10s, on_error: deny}}", redis.url());
    let yaml = gateway(&[("/", &format!("rate: 5/s, burst: 1, {store}"))], backend.address());
    for forged in ["9223372036854775807", "99999999999999999999999"] {
        let gateway = Gateway::start(&yaml).await;
        let mut keys: Vec<String> = Vec::new();
        // A full bucket is forgotten.
        while keys.is_empty() {
            assert!(recovers(&gateway).await);
            keys = redis.command("KEYS *").await;
        }
        for key in &keys {
            let () = redis.command(&format!("SET {key} {forged}")).await;
        }
        assert!(recovers(&gateway).await, "{forged}");
    }
}

/// Whether a request passes before long. A bucket of five a second is full in a fifth of one.
async fn recovers(gateway: &Gateway) -> bool {
    for _ in 0..200 {
        if passing(gateway.address("main"), "/", 1).await == 1 {
            return true;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    false
}
