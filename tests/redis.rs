//! A Redis as operators run it: over TLS, as a cluster, behind sentinels. Limits and what a fleet shares go on while it moves, and no password
//! is shown anywhere.

use std::{path::Path, time::Duration};

use tempfile::TempDir;

use crate::support::{
    Backend, Gateway, Redis, Yaml,
    certificates::{authority, keep, server, write},
    get, metric,
    redis::{RedisCluster, Sentinel},
    series, wait_for_metric, within_deadline,
};

/// A limit of five in an hour that only the store counts, in a gateway with files beside it.
async fn limited(directory: TempDir, redis: &str, backend: &Backend) -> Gateway {
    Gateway::start_in(directory, &configuration(redis, backend), &[]).await
}

fn configuration(redis: &str, backend: &Backend) -> String {
    let limit = format!("rate: 5/h, store: {{redis: {redis}, timeout: 10s, on_error: deny}}");
    let route = format!(
        "match: {{path: /}}, upstream: origin, filters: [{{rate_limit: {{{limit}}}}}, {{rewrite: {{path: /}}}}]"
    );
    Yaml::new()
        .top("log: {access: {to: off}}")
        .with_upstream("origin", [backend.address()], "")
        .with_route(&route)
        .to_string()
}

async fn passing(gateway: &Gateway, requests: usize) -> usize {
    let mut passed = 0;
    for _ in 0..requests {
        passed += usize::from(get(gateway.address("main"), "/").await.status == 200);
    }
    passed
}

/// Once the store can be asked again.
async fn asked_again(gateway: &Gateway) {
    let again = async {
        while get(gateway.address("main"), "/").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within_deadline("a request that passes", again).await;
}

/// A directory with `ca.crt`, and `own.crt` with its key.
fn files(root: &crate::support::certificates::Issued) -> TempDir {
    let directory = TempDir::new().unwrap();
    write(&directory.path().join("ca.crt"), &root.pem(), 0o644);
    keep(directory.path(), "own", &root.issue(&server(&["gateway"])));
    directory
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_counted_over_tls() {
    let (root, backend) = (authority("test"), Backend::start().await);
    let (by_address, by_name, mutual) = tokio::join!(
        Redis::over_tls_for_its_address(&root, &["--tls-auth-clients", "no", "--requirepass", "p w"]),
        Redis::over_tls(&root, &["redis.test"], &["--tls-auth-clients", "no"]),
        Redis::over_tls_for_its_address(&root, &["--tls-auth-clients", "yes"]),
    );
    for (redis, store) in [
        (&by_address, format!("{{url: 'rediss://:p%20w@{}/1', tls: {{ca: ca.crt}}}}", by_address.address())),
        (
            &by_name,
            format!(
                "{{url: 'rediss://{}', tls: {{ca: ca.crt, server_name: redis.test}}}}",
                by_name.address()
            ),
        ),
        (
            &mutual,
            format!(
                "{{url: 'rediss://{}', tls: {{ca: ca.crt, cert: own.crt, key: own.key}}}}",
                mutual.address()
            ),
        ),
    ] {
        let gateways =
            [limited(files(&root), &store, &backend).await, limited(files(&root), &store, &backend).await];
        assert_eq!(passing(&gateways[0], 3).await, 3, "{store}");
        assert_eq!(passing(&gateways[1], 5).await, 2, "{store}");
        let label = format!("store=\"{}\"", redis.address());
        wait_for_metric(&gateways[0], "tidegate_rate_limit_store_up", &[&label], 1.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_cannot_be_verified_is_not_asked() {
    let (root, other, backend) = (authority("test"), authority("other"), Backend::start().await);
    let (secure, of_another_name, plain) = tokio::join!(
        Redis::over_tls_for_its_address(&root, &["--tls-auth-clients", "yes"]),
        Redis::over_tls(&root, &["redis.test"], &["--tls-auth-clients", "no"]),
        Redis::listening(&[]),
    );
    let trusted = "ca: ca.crt";
    for (redis, tls, ca, why) in [
        (&secure, trusted, &other, "its certificate is refused"),
        (&of_another_name, trusted, &root, "its certificate is refused"),
        (&of_another_name, "ca: ca.crt, server_name: another.test", &root, "expected one for another.test"),
        (&plain, trusted, &root, "it does not answer"),
        (&secure, trusted, &root, "if it asks for a certificate"),
    ] {
        let store = format!("{{url: 'rediss://{}', tls: {{{tls}}}}}", redis.address());
        let gateway = limited(files(ca), &store, &backend).await;
        get(gateway.address("main"), "/").await.assert_reason(429, "rate_limited");
        let away = gateway.wait_for_message("rate limit store is away, trying again").await;
        assert!(away["why"].as_str().unwrap().contains(why), "{away}");
        let label = format!("store=\"{}\"", redis.address());
        assert_eq!(series(&gateway, "tidegate_rate_limit_store_up", &[&label]).await, Some(0.0));
    }
    for redis in [&secure, &of_another_name, &plain] {
        assert_eq!(redis.command::<usize>("DBSIZE").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_the_connection_over_tls_and_a_new_certificate_is_used_by_the_next_one() {
    let (root, backend) = (authority("test"), Backend::start().await);
    let redis = Redis::over_tls_for_its_address(&root, &["--tls-auth-clients", "yes"]).await;
    let tls = "tls: {ca: ca.crt, cert: own.crt, key: own.key}";
    let yaml = configuration(&format!("{{url: 'rediss://{}', {tls}}}", redis.address()), &backend);
    let gateway = Gateway::start_in(files(&root), &yaml, &[]).await;
    assert_eq!(passing(&gateway, 1).await, 1);
    let connections = async || {
        let list: String = redis.command("CLIENT LIST TYPE normal").await;
        list.lines().filter(|line| line.contains("laddr=127")).count()
    };
    assert_eq!(connections().await, 1);
    let reloaded = gateway.reload(&yaml.replace("rate: 5/h,", "rate: 5/h, headers: false,")).await;
    assert_eq!(reloaded["msg"], "configuration reloaded");
    assert_eq!(passing(&gateway, 1).await, 1);
    assert_eq!(connections().await, 1);
    assert!(!gateway.output().contains("store is away"));
    // One that nobody trusts shows that it is read again.
    keep(gateway.directory(), "own", &authority("other").issue(&server(&["gateway"])));
    let _: i64 = redis.command("CLIENT KILL TYPE normal SKIPME yes").await;
    gateway.wait_for_message("rate limit store is away, trying again").await;
    get(gateway.address("main"), "/").await.assert_reason(429, "rate_limited");
    keep(gateway.directory(), "own", &root.issue(&server(&["gateway"])));
    asked_again(&gateway).await;
    assert_eq!(passing(&gateway, 3).await, 2, "five in all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_follows_its_slot_from_node_to_node() {
    let (root, backend) = (authority("test"), Backend::start().await);
    let cluster = RedisCluster::over_tls(
        &root,
        &["--tls-auth-clients", "no", "--requirepass", "pw", "--masterauth", "pw"],
    )
    .await;
    let store = format!("{{cluster: {}, password: pw, tls: {{ca: ca.crt}}}}", cluster.seeds());
    let gateway = limited(files(&root), &store, &backend).await;
    assert_eq!(passing(&gateway, 1).await, 1);
    let [key] = &cluster.keys().await[..] else { panic!("one key") };
    let from = cluster.holder(key).await;
    let (to, other) = ((from + 1) % 3, (from + 2) % 3);
    let [from, to, other] = [from, to, other].map(|number| &cluster.nodes[number]);
    let slot: u16 = from.command(&format!("CLUSTER KEYSLOT {key}")).await;
    let (id, target): (String, String) =
        (from.command("CLUSTER MYID").await, to.command("CLUSTER MYID").await);
    // While it moves, the node that has it sends those to the other whose key has gone already.
    let () = to.command(&format!("CLUSTER SETSLOT {slot} IMPORTING {id}")).await;
    let () = from.command(&format!("CLUSTER SETSLOT {slot} MIGRATING {target}")).await;
    assert_eq!(passing(&gateway, 1).await, 1, "the key is there still");
    let address = to.address();
    let moved: String =
        from.command(&format!("MIGRATE {} {} {key} 0 5000 AUTH pw", address.ip(), address.port())).await;
    assert_eq!(moved, "OK");
    assert_eq!(passing(&gateway, 1).await, 1, "the key is there already");
    for node in [to, from, other] {
        let () = node.command(&format!("CLUSTER SETSLOT {slot} NODE {target}")).await;
    }
    assert_eq!(passing(&gateway, 4).await, 2, "five in all");
    assert_eq!(to.command::<Vec<String>>("KEYS *").await, [key.as_str()]);
    assert_eq!(metric(&gateway, "tidegate_rate_limit_store_errors_total", &[]).await, 0.0);
    wait_for_metric(&gateway, "tidegate_rate_limit_store_up", &[], 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_goes_on_when_a_replica_takes_over_in_the_cluster() {
    let (cluster, backend) = (RedisCluster::start(1, &[]).await, Backend::start().await);
    // The first has a replica, and the second knows of both.
    let store = format!("{{cluster: ['{}']}}", cluster.nodes[1].address());
    let limits = |on_error: &str| {
        let limit = format!(
            "rate: 1000000/s, key: '{{header.k}}', store: {{redis: {store}, timeout: 10s, on_error: {on_error}}}"
        );
        format!(
            "match: {{path: /{on_error}}}, upstream: origin, filters: [{{rate_limit: {{{limit}}}}}, {{rewrite: {{path: /}}}}]"
        )
    };
    let yaml = Yaml::new().top("log: {access: {to: off}}").with_upstream("origin", [backend.address()], "");
    let yaml = ["deny", "allow"].iter().fold(yaml, |yaml, on_error| yaml.with_route(&limits(on_error)));
    let gateway = yaml.start().await;
    let edge = gateway.address("main");
    let ask = async |path: &str, key: usize| {
        crate::support::send(edge, "GET", path, &[("k", &key.to_string())], "").await.status.as_u16()
    };
    // Keys of all nodes.
    for key in 0..30 {
        assert_eq!(ask("/deny", key).await, 200, "{key}");
    }
    gateway.wait_for_message("rate limit store is connected").await;
    cluster.nodes[0].kill().await;
    // Long before its replica takes over.
    let mut refused = 0;
    for key in 0..30 {
        assert_eq!(ask("/allow", key).await, 200, "{key}");
        refused += usize::from(ask("/deny", key).await == 429);
    }
    assert!(refused > 0, "the policy holds for the keys that are away");
    let away = gateway.wait_for_message("rate limit store is away, trying again").await;
    assert!(away["why"].as_str().unwrap().starts_with(&cluster.nodes[0].address().to_string()), "{away}");
    gateway.wait_for_message("rate limit store is connected").await;
    // Not all nodes hear at the same moment that the cluster is whole again.
    let again = async {
        for key in 0..30 {
            while ask("/deny", key).await != 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    within_deadline("all keys again", again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_follows_the_master_that_sentinels_name() {
    let (sentinel, backend) = (Sentinel::start("of-servers", "of-sentinels").await, Backend::start().await);
    // The first of them is away.
    let nodes = format!("['127.0.0.1:1', '{}']", sentinel.address());
    let store = format!(
        "{{sentinel: {{nodes: {nodes}, master: primary, password: of-sentinels}}, password: of-servers}}"
    );
    let gateway = limited(TempDir::new().unwrap(), &store, &backend).await;
    assert_eq!(passing(&gateway, 2).await, 2);
    let label = format!("store=\"primary@127.0.0.1:1,{}\"", sentinel.address());
    wait_for_metric(&gateway, "tidegate_rate_limit_store_up", &[&label], 1.0).await;
    let [master, replica] = &sentinel.servers;
    let copied = async {
        while replica.command::<usize>("DBSIZE").await != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within_deadline("the replica has the count", copied).await;
    master.kill().await;
    // Long before the replica takes over.
    get(gateway.address("main"), "/").await.assert_reason(429, "rate_limited");
    gateway.wait_for_message("rate limit store is away, trying again").await;
    gateway.wait_for_message("rate limit store is connected").await;
    gateway.wait_for_message("rate limit store is connected").await;
    assert_eq!(passing(&gateway, 4).await, 3, "five in all");
    wait_for_metric(&gateway, "tidegate_rate_limit_store_up", &[&label], 1.0).await;
}

#[tokio::test]
async fn what_cannot_be_of_a_redis_is_told_at_its_place() {
    let backend = Backend::start().await;
    for (redis, expected) in [
        ("{clusters: ['a:1']}", "redis: unknown key `clusters` (did you mean `cluster`?)"),
        ("{cluster: ['a:1'], sentinel: {nodes: ['b:1'], masters: x}}", "did you mean `master`?"),
        (
            "{cluster: ['a:1'], url: 'redis://b'}",
            "redis: expected exactly one of `url`, `cluster` and `sentinel`",
        ),
        (
            "['redis://:hunter2@a', 'redis://:hunter2@b']",
            "redis: several servers are a cluster, or have sentinels",
        ),
        ("[{url: hunter2}]", "redis[0]: expected a string"),
        ("{cluster: ['redis://:hunter2@a']}", "redis.cluster[0]: this is not `host:port`"),
        ("{cluster: ['a:1'], tls: {ca: none.crt}}", "redis.tls.ca: cannot read "),
        ("'rediss://:hunter2@a#insecure'", "redis: verification cannot be turned off"),
        ("{url: 'redis://:hunter2@a', tls: {}}", "redis.tls: this Redis is not reached over TLS"),
        ("{url: 'http://u:hunter2@h'}", "redis.url: not the URL of a Redis"),
        (
            "{url: 'redis://:hunter2@h', password: hunter2}",
            "redis.url: a user or a password stands in it and beside it",
        ),
        ("{sentinel: {nodes: ['a:1'], master: x}, password: [hunter2]}", "redis.password"),
    ] {
        let yaml = configuration(redis, &backend);
        let (code, stderr, stdout) = Gateway::start_expecting_failure(&yaml, &["check"]).await;
        assert_eq!((code, stdout.as_str()), (3, ""), "{redis}");
        let told = stderr.lines().find(|line| line.contains(expected));
        assert!(told.is_some_and(|line| line.contains("gateway.yaml:")), "{redis}: {stderr}");
        assert!(!stderr.contains("hunter2"), "{redis}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_of_a_redis_is_shown_anywhere() {
    let (backend, redis) = (Backend::start().await, Redis::listening(&["--requirepass", "right"]).await);
    let address = redis.address();
    let sentinel = "sentinel: {nodes: ['127.0.0.1:1'], master: m, user: u, password: hunter2}";
    let stores = [
        format!("'redis://u:hunter2@{address}'"),
        format!("{{url: 'redis://:hunter2@{address}'}}"),
        format!("{{url: 'redis://{address}', password: hunter2, database: 2}}"),
        format!("{{url: 'redis+unix://{}?pass=hunter2'}}", redis.socket().display()),
        format!("{{cluster: ['{address}'], user: u, password: hunter2}}"),
        format!("{{{sentinel}, password: hunter2}}"),
    ];
    let of = |stores: &[String]| {
        let yaml = Yaml::new().with_upstream("origin", [backend.address()], "");
        let yaml = stores.iter().enumerate().fold(yaml, |yaml, (number, store)| {
            let limit = format!("rate: 5/h, store: {{redis: {store}, timeout: 10s}}");
            yaml.with_route(&format!(
                "match: {{path: /{number}}}, upstream: origin, filters: [{{rate_limit: {{{limit}}}}}]"
            ))
        });
        let storage =
            format!("storage: {{redis: {}, secret: hunter2hunter2hunter2hunter2hunter2}}", stores[0]);
        let tls = format!("acme: {{default: {{{storage}}}}}\nstate_dir: state");
        yaml.top(&tls).to_string()
    };
    let yaml = of(&stores);
    let gateway = Gateway::start(&yaml).await;
    let mut shown = String::new();
    for number in 0..stores.len() {
        get(gateway.address("main"), &format!("/{number}")).await;
        gateway.wait_for_message("rate limit store is away, trying again").await;
    }
    let fewer = yaml.replace("hunter2", "hunter22").replace("rate: 5/h", "rate: 6/h");
    assert_eq!(gateway.reload(&fewer).await["msg"], "configuration reloaded");
    for path in [
        "/v1/config",
        "/v1/config?format=yaml",
        "/v1/config/places",
        "/v1/reloads",
        "/v1/routes",
        "/metrics",
        "/stats",
        "/v1/overview",
        "/v1/orders",
    ] {
        shown += get(gateway.admin(), path).await.text();
    }
    let admin = gateway.admin().to_string();
    write(&gateway.directory().join("other.yaml"), yaml.replace("rate: 5/h", "rate: 7/h").as_bytes(), 0o644);
    for words in [
        &["config", "diff", "other.yaml"][..],
        &["config", "diff"],
        &["check", "-c", "other.yaml"],
        &["explain", "-c", "other.yaml", "GET", "/1"],
        &["explain", "--live", "GET", "/1"],
        &["status"],
    ] {
        let told = told(gateway.directory(), words, &admin).await;
        shown += &told;
    }
    shown += &gateway.output();
    shown += &gateway.stderr();
    assert!(shown.contains("[redacted]"), "{shown}");
    assert!(!shown.contains("hunter2"), "{}", around(&shown));
}

/// What a command says, both ways.
async fn told(directory: &Path, words: &[&str], admin: &str) -> String {
    let mut command = crate::support::tidegate(directory);
    command.args(words);
    if !words.contains(&"-c") {
        command.args(["--admin", admin]);
    }
    let process = crate::support::Process::spawn(command);
    process.wait_exit().await;
    process.output() + &process.stderr()
}

fn around(shown: &str) -> String {
    shown.lines().filter(|line| line.contains("hunter2")).collect::<Vec<_>>().join("\n")
}
