//! Who may what: tokens with roles, certificates with roles, and browsers that log in.

use serde_json::json;
use tempfile::TempDir;

use super::{ALICE, KEYS, WALL, ask, assert_problem};
use crate::support::{EventStream, Gateway};

const ROUTES: &str = "listeners: [{name: edge, address: 127.0.0.1:0}]\nroutes: [{name: r, respond: {}}]\n";
const CONSOLE: (&str, &str) = ("x-tidegate-console", "1");

async fn guarded() -> Gateway {
    Gateway::start(&format!("admin: {KEYS}\n{ROUTES}")).await
}

/// The cookie that a browser would send after this answer.
fn cookie(answer: &crate::support::Answer) -> String {
    let set = answer.header("set-cookie").expect("a cookie is set");
    for attribute in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(set.contains(attribute), "{set}");
    }
    set.split(';').next().unwrap().to_owned()
}

async fn login(gateway: &Gateway, token: &str) -> String {
    let body = json!({ "token": token }).to_string();
    cookie(ask(gateway, "POST", "/v1/session", &[CONSOLE], &body).await.assert_status(200))
}

#[tokio::test]
async fn a_viewer_looks_and_does_not_order() {
    let gateway = guarded().await;
    for path in ["/v1/overview", "/v1/routes", "/metrics", "/config", "/v1/openapi.json"] {
        ask(&gateway, "GET", path, &[WALL], "").await.assert_status(200);
    }
    ask(&gateway, "POST", "/v1/explain", &[WALL], r#"{"url": "/"}"#).await.assert_status(200);
    ask(&gateway, "POST", "/v1/check", &[WALL], "routes: 1").await.assert_status(200);
    for (method, path, body) in [
        ("POST", "/v1/reload", ""),
        ("POST", "/v1/drain", ""),
        ("POST", "/v1/canaries/r/promote", ""),
        ("POST", "/v1/breakers/u/e/open", ""),
        ("PUT", "/v1/upstreams/more", "{endpoints: ['127.0.0.1:1']}"),
        ("DELETE", "/v1/routes/r", ""),
        ("PUT", "/v1/upstreams/u/endpoints/e", "{drain: true}"),
    ] {
        assert_problem(&ask(&gateway, method, path, &[WALL], body).await, 403, "role");
    }
    ask(&gateway, "POST", "/reload", &[WALL], "").await.assert_status(403);
    ask(&gateway, "POST", "/v1/reload", &[ALICE], "").await.assert_status(200);
    let me = ask(&gateway, "GET", "/v1/me", &[WALL], "").await.json();
    assert_eq!(
        (&me["name"], &me["role"], &me["may_order"]),
        (&json!("wall"), &json!("viewer"), &json!(false))
    );
    let me = ask(&gateway, "GET", "/v1/me", &[ALICE], "").await.json();
    assert_eq!(
        (&me["name"], &me["role"], &me["via"]),
        (&json!("alice"), &json!("operator"), &json!("token"))
    );
}

#[tokio::test]
async fn a_browser_logs_in_orders_and_logs_out() {
    let gateway = guarded().await;
    assert_problem(&ask(&gateway, "GET", "/v1/me", &[], "").await, 401, "unauthorized");
    let cookie = login(&gateway, "alices-token").await;
    let cookie = ("cookie", cookie.as_str());
    let me = ask(&gateway, "GET", "/v1/me", &[cookie], "").await.assert_status(200).json();
    assert_eq!((&me["name"], &me["via"]), (&json!("alice"), &json!("session")));
    assert!(me["session"]["ends_at"].is_string(), "{me}");
    assert_problem(&ask(&gateway, "POST", "/v1/reload", &[cookie], "").await, 403, "csrf");
    ask(&gateway, "POST", "/v1/reload", &[cookie, CONSOLE], "").await.assert_status(200);
    let told = ask(&gateway, "GET", "/v1/orders", &[cookie], "").await.json();
    assert!(told[0]["by"].as_str().unwrap().starts_with("alice at 127.0.0.1:"), "{told}");
    let mut events = EventStream::open(gateway.admin(), "/v1/events", &[cookie]).await;
    assert_eq!(events.next().await.unwrap().kind, "hello");
    assert_problem(&ask(&gateway, "DELETE", "/v1/session", &[cookie], "").await, 403, "csrf");
    ask(&gateway, "DELETE", "/v1/session", &[cookie, CONSOLE], "").await.assert_status(204);
    assert_problem(&ask(&gateway, "GET", "/v1/me", &[cookie], "").await, 401, "unauthorized");
}

#[tokio::test]
async fn a_login_needs_a_token_and_the_consoles_word() {
    let gateway = guarded().await;
    let right = r#"{"token": "walls-token"}"#;
    assert_problem(&ask(&gateway, "POST", "/v1/session", &[], right).await, 403, "csrf");
    let foreign = [CONSOLE, ("origin", "http://evil.example")];
    assert_problem(&ask(&gateway, "POST", "/v1/session", &foreign, right).await, 403, "origin");
    let wrong = ask(&gateway, "POST", "/v1/session", &[CONSOLE], r#"{"token": "wall"}"#).await;
    assert_problem(&wrong, 401, "unauthorized");
    assert_eq!(wrong.header("set-cookie"), None);
    for body in ["", "{}", r#"{"token": 1}"#, r#"{"token": "walls-token", "more": 1}"#] {
        assert_problem(&ask(&gateway, "POST", "/v1/session", &[CONSOLE], body).await, 400, "bad_request");
    }
    let cookie = login(&gateway, "walls-token").await;
    let me = ask(&gateway, "GET", "/v1/me", &[("cookie", &cookie)], "").await.json();
    assert_eq!(me["role"], "viewer");
    let order = ask(&gateway, "POST", "/v1/reload", &[("cookie", &cookie), CONSOLE], "").await;
    assert_problem(&order, 403, "role");
    for forged in [format!("{cookie}0"), cookie.replace('=', "=0"), "tidegate=x".to_owned()] {
        let refused = ask(&gateway, "GET", "/v1/me", &[("cookie", &forged)], "").await;
        assert_problem(&refused, 401, "unauthorized");
    }
}

#[tokio::test]
async fn whoever_guesses_tokens_has_to_wait() {
    let gateway = guarded().await;
    // The same wrong one again and again is a mistake, and no guess.
    for _ in 0..30 {
        let old = ask(&gateway, "GET", "/v1/me", &[("authorization", "Bearer old")], "").await;
        assert_problem(&old, 401, "unauthorized");
    }
    let cookie = login(&gateway, "alices-token").await;
    for n in 0..9 {
        let guess = format!("Bearer {n}");
        assert_problem(
            &ask(&gateway, "GET", "/v1/me", &[("authorization", &guess)], "").await,
            401,
            "unauthorized",
        );
    }
    let told = assert_problem(&ask(&gateway, "GET", "/v1/me", &[ALICE], "").await, 429, "guessing");
    assert!(told["retry_after_seconds"].as_u64().is_some_and(|seconds| seconds <= 61), "{told}");
    let login = ask(&gateway, "POST", "/v1/session", &[CONSOLE], r#"{"token": "alices-token"}"#).await;
    assert_problem(&login, 429, "guessing");
    assert!(login.header("retry-after").is_some());
    // Whoever is in already goes on, and so do probes.
    ask(&gateway, "GET", "/v1/me", &[("cookie", &cookie)], "").await.assert_status(200);
    ask(&gateway, "GET", "/readyz", &[], "").await.assert_status(200);
    gateway.wait_for_message("wrong admin tokens").await;
}

#[tokio::test]
async fn what_the_configuration_says_of_roles_has_to_make_sense() {
    for (admin, said) in [
        (
            "{tokens: [{name: a, token: x}, {name: a, token: y}]}",
            "admin.tokens[1].name: \"a\" is somebody else's name",
        ),
        ("{token: x, tokens: [{name: token, token: y}]}", "somebody else's name"),
        (
            "{tokens: [{name: a, token: x}, {name: b, token: x}]}",
            "admin.tokens[1].token: is somebody else's token",
        ),
        ("{tokens: [{name: 'a b', token: x}]}", "is not a name here"),
        ("{tokens: [{name: a, role: root, token: x}]}", "admin.tokens[0].role"),
        ("{tokens: [{name: a, token: ''}]}", "a secret cannot be empty"),
        ("{console: {history: 5s}}", "admin.console.history: 5s is not between 1m and 24h"),
        ("{console: {history: 25h}}", "is not between 1m and 24h"),
        ("{session: {idle: 0s, max: 1h}}", "admin.session.idle: a duration of 0"),
        (
            "{tls: {cert: a.crt, key: a.key, roles: {operator: ['*']}}}",
            "nobody shows a certificate without `client_ca`",
        ),
        ("{tls: {cert: a.crt, key: a.key, client_ca: b, roles: {viewer: ['ops']}}}", "is not a SPIFFE ID"),
    ] {
        let yaml = format!("admin: {admin}\n{ROUTES}");
        let (code, stderr, _) = Gateway::start_expecting_failure(&yaml, &["check"]).await;
        assert!(code == 3 && stderr.contains(said), "{admin}: {stderr}");
    }
}

#[tokio::test]
async fn secrets_of_tokens_are_shown_nowhere() {
    let gateway = guarded().await;
    for path in ["/config", "/v1/config?format=yaml", "/v1/me", "/v1/config/places", "/v1/reloads"] {
        let answer = ask(&gateway, "GET", path, &[ALICE], "").await;
        let text = answer.assert_status(200).text();
        assert!(!text.contains("alices-token") && !text.contains("walls-token"), "{path}: {text}");
    }
    let logged = gateway.lines();
    assert!(logged.iter().all(|line| !line.to_string().contains("-token")), "{logged:?}");
}

#[tokio::test]
async fn without_a_console_there_is_no_page_no_tail_and_no_history() {
    let gateway = Gateway::start_in(
        TempDir::new().unwrap(),
        &format!("admin: {{address: 127.0.0.1:0, console: false}}\n{ROUTES}"),
        &[],
    )
    .await;
    ask(&gateway, "GET", "/ui/", &[], "").await.assert_status(404);
    ask(&gateway, "GET", "/", &[("accept", "text/html")], "").await.assert_status(200);
    assert_problem(&ask(&gateway, "GET", "/v1/access", &[], "").await, 403, "unavailable");
    assert_problem(&ask(&gateway, "GET", "/v1/history", &[], "").await, 403, "unavailable");
    let overview = ask(&gateway, "GET", "/v1/overview", &[], "").await.assert_status(200).json();
    assert_eq!(overview["traffic"], json!(null));
    let me = ask(&gateway, "GET", "/v1/me", &[], "").await.json();
    assert_eq!(me["console"]["enabled"], false);
}

#[tokio::test]
async fn browsers_are_sent_to_the_console_and_programs_to_the_list() {
    let gateway = Gateway::start(&format!(
        "admin: {{address: 127.0.0.1:0, session: {{idle: 30m, max: 8h}}}}\n{ROUTES}"
    ))
    .await;
    let browser =
        ask(&gateway, "GET", "/", &[("accept", "text/html,application/xhtml+xml,*/*;q=0.8")], "").await;
    assert_eq!(browser.assert_status(303).header("location"), Some("/ui/"));
    assert!(
        ask(&gateway, "GET", "/", &[("accept", "*/*")], "")
            .await
            .assert_status(200)
            .text()
            .contains("/v1/me")
    );
    assert_eq!(
        ask(&gateway, "GET", "/ui", &[], "").await.assert_status(308).header("location"),
        Some("/ui/")
    );
}
