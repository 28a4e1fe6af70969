//! The example plugins in a gateway, as `make plugins` built them from their sources. Where they are not built, there is
//! nothing to test.

use std::path::Path;

use crate::support::{Backend, Gateway, Yaml, get, send};

/// The settings of a plugin, if it was built.
fn built(name: &str, settings: &str) -> Option<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/plugins").join(format!("{name}.wasm"));
    let line = format!("plugins: {{{name}: {{file: '{}', {settings}}}}}", file.display());
    file.is_file().then_some(line)
}

/// A gateway in whose listener it stands.
async fn gateway(name: &str, plugin: &str, yaml: Yaml) -> Gateway {
    yaml.listener(&format!("filters: [{{wasm: {name}}}]")).top(plugin).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_in_accept_becomes_a_field_that_routes_match() {
    let Some(plugin) = built("api-version", "config: {vendor: shop, default: '1'}") else { return };
    let backend = Backend::start().await;
    let yaml = Yaml::to(backend.address())
        .with_route("match: {headers: {x-api-version: '2'}}, respond: {body: second}");
    let gateway = gateway("api-version", &plugin, yaml).await;
    let address = gateway.address("main");
    let second = send(address, "GET", "/", &[("accept", "application/vnd.shop.v2+json")], "").await;
    assert_eq!(second.assert_status(200).text(), "second");
    let forged = [("accept", "text/html"), ("x-api-version", "2")];
    let first = send(address, "GET", "/headers", &forged, "").await;
    assert!(first.assert_status(200).text().contains(r#"["x-api-version","1"]"#), "{first:?}");
    assert_eq!(first.header("vary"), Some("accept"));
    let third = send(address, "GET", "/headers", &[("accept", "application/vnd.shop.v3+json")], "").await;
    let seen = third.assert_status(200).text();
    let told = [r#"["x-api-version","3"]"#, r#"["accept","application/json"]"#];
    assert!(told.iter().all(|told| seen.contains(told)), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_pass_is_asked_of_an_upstream() {
    let settings = "config: {upstream: auth, path: /check, timeout_ms: 5000}, upstreams: [auth]";
    let Some(plugin) = built("auth", settings) else { return };
    let auth = Yaml::new()
        .with_route(
            "match: {path: /check, headers: {authorization: Bearer good}}, respond: {headers: {x-user: ada}}",
        )
        .with_route("match: {headers: {authorization: Bearer weak}}, respond: {status: 403}")
        .with_route("match: {headers: {authorization: Bearer bad}}, respond: {status: 401}")
        .with_route("match: {path: /}, respond: {status: 500}")
        .start()
        .await;
    let backend = Backend::start().await;
    let yaml = Yaml::to(backend.address()).with_upstream("auth", [auth.address("main")], "");
    let gateway = gateway("auth", &plugin, yaml).await;
    let ask = async |credentials: &str| {
        let fields = [("authorization", credentials), ("x-user", "root")];
        send(gateway.address("main"), "POST", "/headers", &fields, "body").await
    };
    let passed = ask("Bearer good").await;
    let seen = passed.assert_status(200).text();
    assert!(seen.contains(r#"["x-user","ada"]"#) && !seen.contains("root"), "{seen}");
    ask("Bearer weak").await.assert_status(403);
    assert_eq!(ask("Bearer bad").await.assert_status(401).header("www-authenticate"), Some("Bearer"));
    ask("Bearer unknown").await.assert_status(503);
    get(gateway.address("main"), "/").await.assert_status(401);
    drop(auth);
    ask("Bearer good").await.assert_status(503);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_cards_leave_masked() {
    let Some(plugin) = built("cards", "phases: [response_headers, response_body]") else { return };
    let backend = Backend::start().await;
    let body = r#"{"card":"4111-1111-1111-1111","order":"4111111111111112"}"#;
    let yaml = Yaml::to(backend.address())
        .with_route(&format!(
            "match: {{path: /own}}, respond: {{body: '{body}', headers: {{content-type: application/json}}}}"
        ))
        .with_route(&format!(
            "match: {{path: /image}}, respond: {{body: '{body}', headers: {{content-type: image/png}}}}"
        ));
    let gateway = gateway("cards", &plugin, yaml).await;
    let masked = body.replace("4111-1111-1111-1111", "****-****-****-1111");
    assert_eq!(get(gateway.address("main"), "/own").await.assert_status(200).text(), masked);
    assert_eq!(get(gateway.address("main"), "/image").await.assert_status(200).text(), body);
}

#[tokio::test(flavor = "multi_thread")]
async fn dotfiles_are_not_there() {
    let settings = "root_id: dotfiles, config: \"x-frame-options: DENY\\nreferrer-policy: no-referrer\"";
    let Some(plugin) = built("dotfiles", settings) else { return };
    let backend = Backend::start().await;
    let gateway = gateway("dotfiles", &plugin, Yaml::to(backend.address())).await;
    for path in ["/.git/config", "/a/.env?x=/", "/.well-known/.hidden"] {
        assert_eq!(get(gateway.address("main"), path).await.assert_status(404).text(), "not found\n");
    }
    for path in ["/status/200", "/status/200?file=/.env"] {
        let answer = get(gateway.address("main"), path).await;
        answer.assert_status(200);
        assert_eq!(answer.header("x-frame-options"), Some("DENY"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    }
}
