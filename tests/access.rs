//! Who is let in. Every filter that authenticates or authorizes is a row of one table, and every row is asked in every
//! way in which a request can come: none gets by without credentials, and none is kept out with them. And what is
//! secret stays so, wherever the gateway speaks.

use std::{convert::Infallible, fs, net::SocketAddr};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::{
    filters::{Echo, Scenario},
    support::{
        Connection, Gateway, RawConnection, get, issuer::token_by_secret, logged, metric, send,
        within_deadline,
    },
};

/// One row: a filter, and what opens it.
struct Guarded {
    /// In YAML.
    filter: String,
    /// The header that opens it, and one that looks like it but does not.
    right: (&'static str, String),
    wrong: (&'static str, String),
    /// What a request without either is answered with.
    refused: (u16, &'static str),
}

const PASSWORD: &str = "open sesame";
const API_KEY: &str = "k-3f9c2a71-planted";

fn bcrypt_of(password: &str) -> String {
    bcrypt::hash_with_salt(password, 4, *b"0123456789abcdef").unwrap().to_string()
}

fn sha256_of(key: &str) -> String {
    let digits: Vec<String> =
        openssl::sha::sha256(key.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{}", digits.concat())
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

const SECRET: &str = "a secret of thirty-two bytes and more";

/// Good until 2100.
fn token(secret: &str) -> String {
    format!("Bearer {}", token_by_secret(secret, r#"{"sub":"alice","exp":4102444800}"#))
}

/// `service` is where the authorization service listens.
fn table(service: SocketAddr) -> Vec<Guarded> {
    const UNAUTHENTICATED: (u16, &str) = (401, "unauthenticated");
    vec![
        Guarded {
            filter: format!("{{basic_auth: {{users: [{{name: alice, hash: '{}'}}]}}}}", bcrypt_of(PASSWORD)),
            right: ("authorization", basic("alice", PASSWORD)),
            wrong: ("authorization", basic("alice", "open sesam")),
            refused: UNAUTHENTICATED,
        },
        Guarded {
            filter: format!("{{api_key: {{keys: [{{name: shop, hash: '{}'}}]}}}}", sha256_of(API_KEY)),
            right: ("x-api-key", API_KEY.to_owned()),
            wrong: ("x-api-key", "k-3f9c2a72".to_owned()),
            refused: UNAUTHENTICATED,
        },
        Guarded {
            filter: format!("{{ext_auth: {{url: 'http://{service}/check'}}}}"),
            right: ("cookie", "session=right".to_owned()),
            wrong: ("cookie", "session=wrong".to_owned()),
            refused: UNAUTHENTICATED,
        },
        Guarded {
            filter: format!("{{jwt: {{algorithms: [HS256], keys: {{secret: '{SECRET}'}}}}}}"),
            right: ("authorization", token(SECRET)),
            wrong: ("authorization", token("another secret of thirty-two bytes and more")),
            refused: UNAUTHENTICATED,
        },
        Guarded {
            filter: "{authz: {allow: [{headers: {x-team: ops}}]}}".to_owned(),
            right: ("x-team", "ops".to_owned()),
            wrong: ("x-team", "dev".to_owned()),
            refused: (403, "forbidden"),
        },
    ]
}

/// Lets in who has the session `right`, and says who that is.
async fn service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = service_fn(async |request: Request<Incoming>| {
                let is_right =
                    request.headers().get("cookie").is_some_and(|cookie| cookie == "session=right");
                let response = Response::builder().status(if is_right { 200 } else { 401 });
                let response = response.header("x-user", "alice").header("www-authenticate", "Session");
                Ok::<_, Infallible>(response.body(Full::<Bytes>::default()).unwrap())
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    address
}

/// Where a filter can stand, as `listeners` and `routes`.
fn places(filter: &str) -> [(&'static str, String); 2] {
    let listener = |filters: &str| format!("[{{name: main, address: '127.0.0.1:0', filters: [{filters}]}}]");
    [
        (
            "route",
            format!("{{listeners: {}, routes: [{{filters: [{filter}], upstream: echo}}]}}", listener("")),
        ),
        ("listener", format!("{{listeners: {}, routes: [{{upstream: echo}}]}}", listener(filter))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_of_asking_gets_by_a_filter() {
    for guarded in table(service().await) {
        for (place, config) in places(&guarded.filter) {
            let (status, reason) = guarded.refused;
            let refused = json!({"status": status, "headers": {"x-tidegate-reason": reason}});
            let let_in = json!({"status": 200, "absent": ["x-tidegate-reason"], "upstream": {}});
            let (right, wrong) = (&guarded.right, &guarded.wrong);
            let with = |(name, value): &(&str, String)| json!({"path": "/a", "headers": {*name: value}});
            let config: serde_yaml::Value = serde_yaml::from_str(&config).unwrap();
            let scenario = json!({"config": config, "requests": [
                {"send": {"path": "/a"}, "expect": refused, "every_way": true},
                {"send": with(wrong), "expect": refused, "every_way": true},
                {"send": {"method": "POST", "path": "/a", "body": "x=1"}, "expect": refused},
                {"send": {"method": "BREW", "path": "/a"}, "expect": refused},
                {"send": with(right), "expect": let_in, "every_way": true},
                // What was let in before opens nothing for the next.
                {"send": {"path": "/a"}, "expect": refused, "every_way": true},
            ]});
            let scenario: Scenario = serde_yaml::from_str(&scenario.to_string()).unwrap();
            println!("{} on a {place}", guarded.filter);
            scenario.run(&Echo::start().await).await;
        }
    }
}

/// Spellings that a client library does not send.
const ODD: [&str; 8] = [
    "GET / HTTP/1.0\r\n\r\n",
    "GET http://other.example/ HTTP/1.1\r\nhost: other.example\r\n",
    "GET //./a/%2e%2e HTTP/1.1\r\nhost: a.example\r\n",
    "OPTIONS * HTTP/1.1\r\nhost: a.example\r\n",
    "POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 5\r\nexpect: 100-continue\r\n",
    "GET / HTTP/1.1\r\nhost: a.example\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\nconnection: upgrade, http2-settings\r\n",
    "GET / HTTP/1.1\r\nhost: a.example\r\nconnection: authorization, x-api-key, cookie, x-team\r\n",
    "CONNECT a.example:80 HTTP/1.1\r\nhost: a.example:80\r\n",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_odd_spelling_gets_by_a_filter() {
    for guarded in table(service().await) {
        for (place, config) in places(&guarded.filter) {
            let upstream = Echo::start().await;
            let mut config: serde_yaml::Mapping = serde_yaml::from_str(&config).unwrap();
            let echo = format!("{{echo: {{endpoints: ['{}']}}}}", upstream.address);
            config.insert("upstreams".into(), serde_yaml::from_str(&echo).unwrap());
            config.insert("admin".into(), false.into());
            let gateway = Gateway::start(&serde_yaml::to_string(&config).unwrap()).await;
            for odd in ODD {
                let mut client = RawConnection::open(gateway.address("main"));
                client.write(if odd.ends_with("\r\n\r\n") { odd.to_owned() } else { format!("{odd}\r\n") });
                let status = client.read_head().status;
                let expected = if odd.starts_with("CONNECT") { 405 } else { guarded.refused.0 };
                assert_eq!(status, expected, "{} on a {place}: {odd:?}", guarded.filter);
                assert!(upstream.take().is_empty(), "{} on a {place}: {odd:?}", guarded.filter);
            }
            // A connection is nobody: each request speaks for itself.
            let mut client = Connection::http1(gateway.address("main")).await.unwrap();
            let right = [(guarded.right.0, guarded.right.1.as_str())];
            for (headers, status) in [(&right[..], 200), (&[], guarded.refused.0), (&right, 200)] {
                client.send("GET", "/", headers, "").await.unwrap().assert_status(status);
            }
        }
    }
}

#[tokio::test]
async fn a_path_that_no_route_takes_tells_nothing_to_strangers() {
    for guarded in table(service().await) {
        let yaml = format!(
            "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0', filters: [{}]}}]\n\
             routes: [{{match: {{path: /known, methods: [GET]}}, respond: {{}}}}]\n",
            guarded.filter
        );
        let gateway = Gateway::start(&yaml).await;
        for (method, path) in [("GET", "/known"), ("GET", "/unknown"), ("POST", "/known")] {
            let answer = send(gateway.address("main"), method, path, &[], "").await;
            answer.assert_reason(guarded.refused.0, guarded.refused.1);
        }
    }
}

#[tokio::test]
async fn an_authorization_service_tells_the_upstream_who_asks() {
    let service = service().await;
    let scenario = json!({
        "config": {"routes": [{
            "filters": [{"ext_auth": {"url": format!("http://{service}/"), "response_headers": ["x-user"]}}],
            "upstream": "echo",
        }]},
        "requests": [
            {"send": {"path": "/", "headers": {"cookie": "session=right", "x-user": "root", "x_user": "root", "connection": "x-user"}},
             "expect": {"status": 200, "upstream": {"headers": {"x-user": "alice"}, "absent": ["x_user"]}}},
            {"send": {"path": "/"}, "expect": {"status": 401, "headers": {"www-authenticate": "Session"}, "absent": ["x-user"]}},
        ],
    });
    let scenario: Scenario = serde_yaml::from_str(&scenario.to_string()).unwrap();
    scenario.run(&Echo::start().await).await;
}

/// Asks until the answer has that status.
async fn wait_for(gateway: &Gateway, authorization: &str, status: u16) {
    within_deadline("the file is read again", async {
        let headers = [("authorization", authorization)];
        while send(gateway.address("main"), "GET", "/", &headers, "").await.status != status {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_file_of_users_is_followed_and_a_bad_one_leaves_what_was() {
    let directory = TempDir::new().unwrap();
    let users = directory.path().join("users.htpasswd");
    fs::write(&users, format!("# ours\nalice:{}\n", bcrypt_of("one"))).unwrap();
    let yaml = "admin: {address: '127.0.0.1:0'}\nlisteners: [{name: main, address: '127.0.0.1:0'}]\n\
         routes: [{filters: [{basic_auth: {file: users.htpasswd, cache: 1h}}], respond: {}}]\n";
    let gateway = Gateway::start_in(directory, yaml, &[]).await;
    let (alice, bob) = (basic("alice", "one"), basic("bob", "two"));
    wait_for(&gateway, &alice, 200).await;
    wait_for(&gateway, &bob, 401).await;

    fs::write(&users, format!("bob:{}\n", bcrypt_of("two"))).unwrap();
    wait_for(&gateway, &bob, 200).await;
    wait_for(&gateway, &alice, 401).await;

    fs::write(&users, "bob:hunter2-planted\n").unwrap();
    let line = gateway
        .wait_for_message("credential file refused, what was read before stays in force")
        .await
        .to_string();
    assert!(line.contains("line 1") && line.contains("htpasswd -nB") && !line.contains("hunter2"), "{line}");
    wait_for(&gateway, &bob, 200).await;
    for result in ["success", "failure"] {
        let labels = ["file=", &format!("result=\"{result}\"")];
        assert_eq!(
            metric(&gateway, "tidegate_credential_file_reloads_total", &labels).await,
            1.0,
            "{result}"
        );
    }
    let rejected = gateway.reload(&yaml.replace("1h", "2h")).await.to_string();
    assert!(rejected.contains("rejected") && rejected.contains("users.htpasswd: line 1"), "{rejected}");
    assert!(!rejected.contains("hunter2"), "{rejected}");
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_have_refused() {
    let yaml = "admin: {address: '127.0.0.1:0'}\nlisteners: [{name: main, address: '127.0.0.1:0'}]\n\
         routes: [{name: pets, filters: [{authz: {allow: [{path: /a}], dry_run: true}}], respond: {}}]\n";
    let gateway = Gateway::start(yaml).await;
    get(gateway.address("main"), "/b").await.assert_status(200).assert_no_reason();
    get(gateway.address("main"), "/a").await.assert_status(200);
    let line = gateway.wait_for_message("authz would have refused a request").await;
    assert_eq!(
        (&line["rule"], &line["route"], &line["path"]),
        (&json!("default"), &json!("pets"), &json!("/b"))
    );
    for result in ["would_deny", "allowed"] {
        let series = format!("tidegate_authz_total{{filter=\"routes pets[0]\",result=\"{result}\"}}");
        assert_eq!(metric(&gateway, &series, &[]).await, 1.0, "{result}");
    }
}

#[tokio::test]
async fn no_password_key_or_hash_is_ever_told() {
    const TOKEN: &str = "admin-token-planted";
    const WRONG: &str = "wrong-password-planted";
    let (of_alice, of_bob, of_key) =
        (bcrypt_of(PASSWORD), bcrypt_of("bobs-password-planted"), sha256_of(API_KEY));
    let directory = TempDir::new().unwrap();
    let users = directory.path().join("users");
    fs::write(&users, format!("bob:{of_bob}\n")).unwrap();
    let service = service().await;
    let yaml = format!(
        "admin: {{address: '127.0.0.1:0', token: {TOKEN}}}\nlog: {{level: debug}}\n\
         listeners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes:\n\
         - {{match: {{path: /inline}}, filters: [{{basic_auth: {{users: [{{name: alice, hash: '{of_alice}'}}]}}}}], respond: {{}}}}\n\
         - {{match: {{path: /file}}, filters: [{{basic_auth: {{file: users}}}}], respond: {{}}}}\n\
         - {{match: {{path: /key}}, filters: [{{api_key: {{from: {{query: key}}, keys: [{{name: shop, hash: '{of_key}'}}]}}}}], respond: {{}}}}\n\
         - {{match: {{path: /ext}}, filters: [{{ext_auth: {{url: 'http://{service}/'}}}}], respond: {{}}}}\n\
         - {{match: {{path: /gone}}, filters: [{{ext_auth: {{url: 'http://127.0.0.1:1/'}}}}], respond: {{}}}}\n"
    );
    let gateway = Gateway::start_in(directory, &yaml, &[]).await;
    let main = gateway.address("main");
    let mut answers = Vec::new();
    for (path, authorization) in [
        ("/inline", basic("alice", PASSWORD)),
        ("/inline", basic("alice", WRONG)),
        ("/file", basic("bob", "bobs-password-planted")),
        ("/file", basic("bob", WRONG)),
        (&format!("/key?key={API_KEY}"), String::new()),
        (&format!("/key?key={WRONG}"), String::new()),
        (&format!("/ext?key={WRONG}"), basic("alice", WRONG)),
        (&format!("/gone?key={WRONG}"), basic("alice", WRONG)),
    ] {
        for accept in ["*/*", "application/json"] {
            let headers = [("authorization", authorization.as_str()), ("accept", accept), ("cookie", WRONG)];
            answers.push(format!("{:?}", send(main, "GET", path, &headers, "").await));
        }
    }
    let bearer = format!("Bearer {TOKEN}");
    for path in ["/config", "/config?format=yaml", "/routes", "/stats", "/upstreams", "/metrics", "/"] {
        for authorization in [&bearer, &basic("a", WRONG)] {
            let answer = send(gateway.admin(), "GET", path, &[("authorization", authorization)], "").await;
            answers.push(answer.text().to_owned());
        }
    }
    let shown = &answers[answers.len() - 14];
    assert!(shown.contains("basic_auth") && shown.contains("[redacted]"), "{shown}");
    gateway.reload(&yaml.replace(&of_alice, WRONG).replace(&of_key, API_KEY)).await;
    fs::write(&users, format!("{WRONG}\n")).unwrap();
    gateway.wait_for_message("credential file refused, what was read before stays in force").await;

    let encoded = [basic("alice", PASSWORD), basic("alice", WRONG), basic("bob", WRONG)];
    let encoded = encoded.iter().map(|basic| basic.trim_start_matches("Basic "));
    let logged =
        gateway.lines().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n") + &gateway.stderr();
    let told = answers.join("\n") + &logged;
    for secret in [PASSWORD, WRONG, "bobs-password-planted", API_KEY, TOKEN, &of_alice, &of_bob, &of_key[7..]]
        .into_iter()
        .chain(encoded)
    {
        let line = told.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is told");
    }
    assert!(logged.contains("rejected") && logged.contains("/inline"), "{logged}");
}

/// An answer of 2xx may have something to say to the client: a session is renewed.
#[tokio::test]
async fn an_authorization_service_tells_the_client_what_is_listed_when_it_lets_in() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = service_fn(async |_: Request<Incoming>| {
                let response = Response::builder().header("set-cookie", "s=new").header("set-cookie", "t=2");
                let response = response.header("x-kind", "guest").header("x-internal", "1");
                Ok::<_, Infallible>(response.body(Full::<Bytes>::default()).unwrap())
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    let yaml = format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes:\n  - filters:\n      \
         - ext_auth: {{url: 'http://{service}/', client_headers_allowed: [set-cookie, x-kind]}}\n      \
         - headers: {{response: {{set: {{set-cookie: own=1, x-kind: other}}}}}}\n    respond: {{body: here}}\n"
    );
    let gateway = Gateway::start(&yaml).await;
    let answer = send(gateway.address("main"), "GET", "/", &[], "").await;
    let all = |name: &str| answer.headers.get_all(name).iter().cloned().collect::<Vec<_>>();
    assert_eq!(all("set-cookie"), ["own=1", "s=new", "t=2"]);
    assert_eq!(all("x-kind"), ["guest"]);
    assert!(all("x-internal").is_empty());
}

#[tokio::test]
async fn the_access_log_says_why_without_a_word_of_the_secret() {
    let expired = format!("Bearer {}", token_by_secret(SECRET, r#"{"sub":"alice","exp":1}"#));
    let foreign = format!("Bearer {}", token_by_secret(SECRET, r#"{"aud":"other","exp":4102444800}"#));
    let jwt = format!("{{jwt: {{algorithms: [HS256], audience: [api], keys: {{secret: '{SECRET}'}}}}}}");
    let basic_auth = format!("{{basic_auth: {{users: [{{name: alice, hash: '{}'}}]}}}}", bcrypt_of(PASSWORD));
    let api_key = format!("{{api_key: {{keys: [{{name: shop, hash: '{}'}}]}}}}", sha256_of(API_KEY));
    // A filter, what is sent to it, and what the line says.
    type Row = (String, Vec<(&'static str, String)>, &'static str);
    let rows: Vec<Row> = vec![
        (jwt.clone(), vec![], "missing"),
        (jwt.clone(), vec![("authorization", expired)], "expired"),
        (jwt, vec![("authorization", foreign)], "audience"),
        (basic_auth.clone(), vec![], "missing"),
        (basic_auth, vec![("authorization", basic("alice", "planted-guess"))], "wrong_credentials"),
        (api_key.clone(), vec![], "missing"),
        (api_key, vec![("x-api-key", "planted-guess".to_owned())], "unknown_key"),
        ("{ip_rules: {deny: [192.0.2.1, 127.0.0.0/8]}}".to_owned(), vec![], "ip_rules.deny[1]"),
        ("{ip_rules: {allow: [192.0.2.1]}}".to_owned(), vec![], "ip_rules.allow"),
        ("{authz: {default: allow, deny: [{methods: [GET]}]}}".to_owned(), vec![], "authz.deny[0]"),
        ("{authz: {allow: [{methods: [PUT]}]}}".to_owned(), vec![], "authz.default"),
    ];
    let mut routes = String::new();
    for (index, (filter, ..)) in rows.iter().enumerate() {
        routes += &format!("  - {{match: {{path: /{index}}}, filters: [{filter}], respond: {{}}}}\n");
    }
    let yaml = format!(
        "listeners: [{{name: main, address: '127.0.0.1:0'}}]\nadmin: {{address: '127.0.0.1:0'}}\nroutes:\n{routes}  \
         - {{match: {{path: /gone}}, upstream: gone}}\nupstreams: {{gone: {{endpoints: ['127.0.0.1:1']}}}}\n"
    );
    let gateway = Gateway::start(&yaml).await;
    for (index, (filter, headers, detail)) in rows.iter().enumerate() {
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let path = format!("/{index}");
        send(gateway.address("main"), "GET", &path, &headers, "").await;
        let line = logged(&gateway, &path).await;
        assert_eq!(line["detail"], *detail, "{filter}");
        assert!(!line.to_string().contains("planted"), "{line}");
    }
    send(gateway.address("main"), "GET", "/gone", &[], "").await.assert_reason(502, "connect_failed");
    assert_eq!(logged(&gateway, "/gone").await["detail"], "connection refused");
}
