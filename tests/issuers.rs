//! Issuers that are found by their name (OpenID Connect Discovery, RFC 8414), and several of them beside each other.

use serde_json::json;

use crate::support::{
    Answer, Backend, Gateway, Yaml,
    issuer::{Issuer, Signer, set},
    metric, send,
};

const OPENID: &str = "/.well-known/openid-configuration";
const OAUTH: &str = "/.well-known/oauth-authorization-server";

/// One whose document, at this path, leads to its keys.
fn issuer(signer: &Signer, at: &str) -> Issuer {
    let issuer = Issuer::start(404, String::new());
    issuer.answer_at("/jwks.json", 200, set(&[signer]));
    issuer.answer_at(at, 200, document(&issuer.name(), &issuer));
    issuer
}

fn document(name: &str, issuer: &Issuer) -> String {
    json!({"issuer": name, "jwks_uri": issuer.url(), "token_endpoint": "x"}).to_string()
}

fn config(backend: &Backend, jwt: &str) -> Yaml {
    Yaml::to(backend.address()).route(&format!("filters: [{{jwt: {{{jwt}}}}}]"))
}

async fn ask(gateway: &Gateway, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    send(gateway.address("main"), "GET", "/", &[("authorization", &bearer)], "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_found_by_the_issuers_own_document() {
    for (at, asked) in [(OPENID, &[OPENID, "/jwks.json"][..]), (OAUTH, &[OPENID, OAUTH, "/jwks.json"])] {
        let signer = Signer::new("k");
        let (issuer, backend) = (issuer(&signer, at), Backend::start().await);
        let gateway = config(&backend, &format!("issuer: '{}'", issuer.name())).start().await;
        ask(&gateway, &signer.token_of(json!({"iss": issuer.name()}))).await.assert_status(200);
        ask(&gateway, &signer.token_of(json!({"iss": format!("{}/", issuer.name())})))
            .await
            .assert_status(401);
        assert_eq!(issuer.asked(), asked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_issuer_may_come_later_and_may_move_its_keys() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let (issuer, backend) = (Issuer::start(503, String::new()), Backend::start().await);
    let jwt = format!("issuer: '{}', keys: {{cooldown: 1ms, refresh: 1h, wait: 10s}}", issuer.name());
    let gateway = config(&backend, &jwt).start().await;
    let token = |signer: &Signer| signer.token_of(json!({"iss": issuer.name()}));
    let warning = gateway.wait_for_message("keys of the token issuer cannot be read, trying again").await;
    assert_eq!(warning["source"], issuer.name());
    issuer.answer_at(OPENID, 200, document(&issuer.name(), &issuer));
    issuer.answer_at("/jwks.json", 200, set(&[&old]));
    ask(&gateway, &token(&old)).await.assert_status(200);
    let moved = json!({"issuer": issuer.name(), "jwks_uri": format!("{}/keys", issuer.name())});
    issuer.answer_at("/keys", 200, set(&[&new]));
    issuer.answer_at(OPENID, 200, moved.to_string());
    ask(&gateway, &token(&new)).await.assert_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_not_the_issuers_leads_nowhere() {
    let signer = Signer::new("k");
    let (issuer, backend) = (issuer(&signer, OPENID), Backend::start().await);
    let name = issuer.name();
    let jwt = format!("issuer: '{name}', keys: {{refresh: 1h, cooldown: 1h, wait: 100ms}}");
    for (document, result, why) in [
        (document("https://evil.example", &issuer), "issuer", "the document is that of another issuer"),
        (document(&format!("{name}/"), &issuer), "issuer", "the document is that of another issuer"),
        (json!({"issuer": name}).to_string(), "parse", "`jwks_uri` in the issuer's document"),
        (
            json!({"issuer": name, "jwks_uri": "http://192.0.2.1/keys"}).to_string(),
            "parse",
            "`jwks_uri` in the issuer's document",
        ),
        ("x".repeat(70_000), "too_large", "the answer is too large"),
    ] {
        issuer.answer_at(OPENID, 200, document);
        let gateway = config(&backend, &jwt).start().await;
        ask(&gateway, &signer.token_of(json!({"iss": name}))).await.assert_reason(503, "auth_unavailable");
        let told = gateway.wait_for_message("keys of the token issuer cannot be read, trying again").await;
        assert!(told["why"].as_str().unwrap().starts_with(why), "{told}");
        let labels = [format!("result=\"{result}\""), format!("source=\"{name}\"")];
        let labels = labels.each_ref().map(String::as_str);
        assert!(metric(&gateway, "tidegate_jwks_fetches_total", &labels).await >= 1.0, "{labels:?}");
    }
    assert!(!issuer.asked().contains(&"/jwks.json".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_issuer_speaks_for_itself_alone() {
    let (shop, staff, away) = (Signer::new("k"), Signer::new("k"), Signer::new("k"));
    let (first, second, gone) =
        (issuer(&shop, OPENID), issuer(&staff, OPENID), Issuer::start(503, String::new()));
    let backend = Backend::start().await;
    let gateway = config(
        &backend,
        &format!(
            "issuers: [{{issuer: '{}', audience: web}}, {{issuer: '{}', audience: [api, ops], \
             keys: {{jwks: '{}'}}, algorithms: [ES256]}}, {{issuer: '{}', keys: {{wait: 100ms}}}}, \
             {{issuer: other, keys: {{jwks: '{}'}}, algorithms: [RS256]}}], forward_claims: {{iss: x-issuer}}",
            first.name(),
            second.name(),
            second.url(),
            gone.name(),
            second.url(),
        ),
    )
    .start()
    .await;
    let token = |signer: &Signer, iss: &str, aud: &str| signer.token_of(json!({"iss": iss, "aud": aud}));
    for (signer, iss, aud, status, why) in [
        (&shop, first.name(), "web", 200, ""),
        (&staff, second.name(), "ops", 200, ""),
        // What is good with one is not with the other.
        (&staff, second.name(), "web", 401, "another audience"),
        (&shop, first.name(), "api", 401, "another audience"),
        (&shop, second.name(), "api", 401, "signature is not valid"),
        (&staff, first.name(), "web", 401, "signature is not valid"),
        (&staff, "other".to_owned(), "api", 401, "algorithm is not accepted"),
        (&staff, "nobody".to_owned(), "api", 401, "issuer is not accepted"),
        // One that is away takes nobody with it.
        (&away, gone.name(), "web", 503, ""),
        (&shop, first.name(), "web", 200, ""),
    ] {
        for again in [false, true] {
            let answer = ask(&gateway, &token(signer, &iss, aud)).await;
            answer.assert_status(status);
            let challenge = answer.header("www-authenticate").unwrap_or_default();
            assert!(challenge.contains(why), "{iss} {aud} {again}: {challenge}");
        }
    }
    ask(&gateway, &shop.token_of(json!({"aud": "web"}))).await.assert_status(401);
    assert_eq!(gone.asked().iter().filter(|path| *path == "/jwks.json").count(), 0);
}
