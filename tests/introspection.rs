//! `introspection` with a server of RFC 7662 that answers by token: what is asked, what is remembered, and what becomes of requests while
//! the server is away or answers nonsense.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    filters::Echo,
    support::{Answer, Gateway, Yaml, metric, send},
};

/// `gateway` and `s3cr:t&`, each encoded for a form and joined.
const BASIC: &str = "Basic Z2F0ZXdheTpzM2NyJTNBdCUyNg==";

/// What the server answers, by token, and the bodies of what it was asked.
#[derive(Default)]
struct State {
    answers: HashMap<&'static str, (u16, String)>,
    asked: Vec<String>,
}

struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Server {
    async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                let answer = service_fn(move |request| answer(request, address, state.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        Server { address, state }
    }

    fn say(&self, token: &'static str, status: u16, answer: impl ToString) {
        self.state.lock().unwrap().answers.insert(token, (status, answer.to_string()));
    }

    /// Since it was last asked for.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    fn options(&self) -> String {
        format!("url: 'http://{}/introspect', client_id: gateway, client_secret: 's3cr:t&'", self.address)
    }
}

async fn answer(
    request: Request<Incoming>,
    address: SocketAddr,
    state: Arc<Mutex<State>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let respond =
        |status: u16, body: String| Ok(Response::builder().status(status).body(body.into()).unwrap());
    if request.uri().path() == "/.well-known/openid-configuration" {
        let issuer = format!("http://{address}");
        let document = json!({"issuer": issuer, "introspection_endpoint": format!("{issuer}/introspect")});
        state.lock().unwrap().asked.push("document".to_owned());
        return respond(200, document.to_string());
    }
    let by_header = request.headers().get("authorization").is_some_and(|value| value == BASIC);
    let is_question = request.method() == Method::POST
        && request.uri().path() == "/introspect"
        && request.headers()["content-type"] == "application/x-www-form-urlencoded";
    let form = request.into_body().collect().await.unwrap().to_bytes();
    let form = String::from_utf8(form.to_vec()).unwrap();
    let mut state = state.lock().unwrap();
    state.asked.push(form.clone());
    let by_body = form.ends_with("&client_id=gateway&client_secret=s3cr%3At%26");
    if !is_question || !(by_header || by_body) {
        return respond(401, String::new());
    }
    let token = form.split('&').next().unwrap().strip_prefix("token=").unwrap();
    let (status, answer) =
        state.answers.get(token).cloned().unwrap_or((200, json!({"active": false}).to_string()));
    respond(status, answer)
}

fn config(upstream: SocketAddr, options: &str, more: &str) -> Yaml {
    Yaml::to(upstream).route(&format!("filters: [{{introspection: {{{options}}}}}{more}]"))
}

async fn ask(gateway: &Gateway, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("x-user-id", "root"), ("connection", "x-user-id")];
    send(gateway.address("main"), "GET", "/", &headers, "").await
}

#[tokio::test]
async fn an_active_token_is_let_in_and_its_claims_are_told() {
    let (server, echo) = (Server::start().await, Echo::start().await);
    let claims = json!({
        "active": true, "sub": "u-7", "scope": "read write", "aud": ["api"], "client_id": "app", "exp": 4_102_444_800_u64,
    });
    server.say("good%2B1", 200, claims);
    let options = format!(
        "{}, audience: [api], require: {{scope: [read]}}, forward_claims: {{sub: x-user-id}}",
        server.options()
    );
    let more = ", {headers: {request: {set: {x-client: '{claim.client_id}'}}}}";
    let gateway = config(echo.address, &options, more).start().await;
    for _ in 0..3 {
        ask(&gateway, "good+1").await.assert_status(200);
    }
    for (_, headers) in echo.take() {
        assert_eq!(
            (headers["x-user-id"].to_str().unwrap(), &headers["x-client"]),
            ("u-7", &"app".parse().unwrap())
        );
    }
    assert_eq!(server.asked(), ["token=good%2B1&token_type_hint=access_token"], "it is asked once");
    let count = async |result: &str| {
        metric(&gateway, "tidegate_introspections_total", &[&format!("result=\"{result}\"")]).await
    };
    assert_eq!((count("active").await, count("remembered").await), (1.0, 2.0));
}

#[tokio::test]
async fn a_token_that_is_not_active_or_says_too_little_is_refused() {
    let (server, echo) = (Server::start().await, Echo::start().await);
    let issuer = format!("http://{}", server.address);
    let options =
        format!("{}, issuer: '{issuer}', audience: api, require: {{scope: read}}", server.options());
    let gateway = config(echo.address, &options, "").start().await;
    let good = json!({"active": true, "scope": "read", "aud": "api", "iss": issuer});
    let with = |change: Value| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        claims
    };
    for (token, answer, status, challenge) in [
        ("fine", good.clone(), 200, ""),
        (
            "a",
            json!({"active": false}),
            401,
            "error=\"invalid_token\", error_description=\"the token is not active\"",
        ),
        ("b", with(json!({"exp": 1})), 401, "the token has expired"),
        ("c", with(json!({"nbf": 4_102_444_800_u64})), 401, "the token is not valid yet"),
        ("d", with(json!({"aud": "other"})), 401, "the token is for another audience"),
        ("e", with(json!({"iss": "https://evil.test"})), 401, "the token's issuer is not accepted"),
        ("f", with(json!({"scope": "write"})), 403, "error=\"insufficient_scope\""),
    ] {
        server.say(token, 200, answer);
        for _ in 0..2 {
            let answer = ask(&gateway, token).await;
            answer.assert_status(status);
            let told = answer.header("www-authenticate").unwrap_or_default();
            assert!(told.contains(challenge), "{token}: {told}");
        }
    }
    assert_eq!(server.asked().len(), 7, "each is asked about once");
    let bare = send(gateway.address("main"), "GET", "/", &[], "").await;
    bare.assert_reason(401, "unauthenticated");
    assert_eq!(bare.header("www-authenticate"), Some("Bearer realm=\"api\""));
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn what_was_said_is_forgotten_in_time() {
    let (server, echo) = (Server::start().await, Echo::start().await);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    // Within the skew it is still let in, and no longer remembered.
    server.say("ending", 200, json!({"active": true, "exp": now - 5}));
    server.say("good", 200, json!({"active": true}));
    let gateway = config(echo.address, &format!("{}, ttl: 1h", server.options()), "").start().await;
    for token in ["ending", "ending", "good", "good"] {
        ask(&gateway, token).await.assert_status(200);
    }
    assert_eq!(server.asked().len(), 3);
    let each = format!("{}, ttl: 0s, inactive_ttl: 0s", server.options());
    let gateway = config(echo.address, &each, "").start().await;
    for (token, status) in [("good", 200), ("good", 200), ("bad", 401), ("bad", 401)] {
        ask(&gateway, token).await.assert_status(status);
    }
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn nobody_is_let_in_while_the_server_says_nothing_clear() {
    let (server, echo) = (Server::start().await, Echo::start().await);
    let gateway = config(echo.address, &server.options(), "").start().await;
    for (token, status, answer, why) in [
        ("a", 500, String::new(), "it answered 500"),
        ("b", 302, String::new(), "it answered 302"),
        ("c", 200, "active".to_owned(), "its answer is no object of JSON"),
        ("d", 200, r#"{"active": false, "active": true}"#.to_owned(), "its answer is no object of JSON"),
        ("e", 200, json!({"active": "true"}).to_string(), "its answer does not say"),
        ("f", 200, json!({}).to_string(), "its answer does not say"),
        ("g", 200, json!({"active": true, "x": "x".repeat(70_000)}).to_string(), "the answer is too large"),
    ] {
        server.say(token, status, answer);
        let answer = ask(&gateway, token).await;
        answer.assert_reason(503, "auth_unavailable");
        assert_eq!(answer.header("www-authenticate"), None);
        let line = gateway
            .wait_for_line(|line| line["detail"].as_str().is_some_and(|detail| detail.starts_with(why)))
            .await;
        assert_eq!(line["reason"], "auth_unavailable");
    }
    assert_eq!(metric(&gateway, "tidegate_introspections_total", &["result=\"failed\""]).await, 7.0);
    let options = "url: 'http://127.0.0.1:1/', client_id: a, client_secret: planted-secret";
    let gateway = config(echo.address, options, "").start().await;
    ask(&gateway, "planted-token").await.assert_reason(503, "auth_unavailable");
    let options = format!(
        "url: 'http://{}/introspect', client_id: gateway, client_secret: planted-secret",
        server.address
    );
    let other = config(echo.address, &options, "").start().await;
    ask(&other, "planted-token").await.assert_reason(503, "auth_unavailable");
    let told = other.wait_for_message("introspection cannot ask its server").await;
    assert!(told["problem"].as_str().unwrap().contains("`client_id` and `client_secret`"), "{told}");
    for gateway in [gateway, other] {
        assert!(!gateway.output().contains("planted"), "{}", gateway.output());
    }
    assert!(echo.take().is_empty());
}

#[tokio::test]
async fn the_endpoint_is_found_by_the_issuers_document_and_the_secret_may_go_in_the_body() {
    let (server, echo) = (Server::start().await, Echo::start().await);
    server.say("good", 200, json!({"active": true}));
    let options = format!(
        "issuer: 'http://{}', client_id: gateway, client_secret: 's3cr:t&', auth: post, from: {{cookie: token}}, forward_token: false",
        server.address
    );
    let gateway = config(echo.address, &options, "").start().await;
    for (token, status) in [("good", 200), ("bad", 401)] {
        let cookie = format!("a=1; token={token}");
        send(gateway.address("main"), "GET", "/", &[("cookie", &cookie)], "").await.assert_status(status);
    }
    let asked = server.asked();
    assert_eq!(asked[0], "document");
    assert_eq!(
        asked[1],
        "token=good&token_type_hint=access_token&client_id=gateway&client_secret=s3cr%3At%26"
    );
    assert_eq!(asked.len(), 3, "the document is asked for once: {asked:?}");
    let seen = echo.take();
    assert_eq!(seen[0].1["cookie"], "a=1");
}
