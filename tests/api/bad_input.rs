//! Whom the API keeps out, and what it does not read: pages of other origins, other names, and configurations that would
//! have it read this machine's files.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{OPEN, ask, assert_problem, show};
use crate::support::{EventStream, Gateway, RawConnection, Yaml, python};

async fn gateway() -> Gateway {
    Yaml::new().with_route("name: r, respond: {}").start().await
}

#[tokio::test]
async fn another_name_than_this_addresss_is_answered_nothing() {
    let gateway = gateway().await;
    for path in ["/v1/overview", "/v1/events", "/v1/access", "/v1/me", "/ui/", "/v1/openapi.json"] {
        let refused = ask(&gateway, "GET", path, &[("host", "rebound.example:9901")], "").await;
        assert_eq!(refused.assert_status(421).header("access-control-allow-origin"), None, "{path}");
    }
    let order = ask(&gateway, "POST", "/v1/drain", &[("host", "rebound.example")], "").await;
    assert_problem(&order, 421, "host");
}

#[tokio::test]
async fn pages_of_other_origins_neither_order_nor_listen() {
    let gateway = gateway().await;
    for headers in [
        &[("origin", "http://evil.example")][..],
        &[("origin", "null")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
    ] {
        for (method, path, body) in [
            ("POST", "/v1/drain", ""),
            ("POST", "/v1/explain", r#"{"url": "/"}"#),
            ("POST", "/v1/check", "routes: 1"),
            ("PUT", "/v1/upstreams/more", "{endpoints: []}"),
            ("GET", "/v1/events", ""),
            ("GET", "/v1/access", ""),
        ] {
            assert_problem(&ask(&gateway, method, path, headers, body).await, 403, "origin");
        }
    }
    let own = format!("http://{}", gateway.admin());
    let mut events = EventStream::open(
        gateway.admin(),
        "/v1/events",
        &[("origin", &own), ("sec-fetch-site", "same-origin")],
    )
    .await;
    assert_eq!(events.next().await.unwrap().kind, "hello");
    assert_eq!(show(&gateway, "/v1/overview").await["phase"], "ready");
}

async fn check(gateway: &Gateway, text: &str) -> Value {
    ask(gateway, "POST", "/v1/check", &[], text).await.assert_status(200).json()
}

#[tokio::test]
async fn a_configuration_is_checked_and_nothing_changes() {
    let gateway = gateway().await;
    let before = show(&gateway, "/v1/overview").await["config_hash"].clone();
    let good = format!(
        "admin: {OPEN}\nlisteners: [{{name: edge, address: 127.0.0.1:0}}]\n\
         routes: [{{name: more, match: {{path: /more}}, respond: {{}}}}, {{name: r, respond: {{}}}}]\n"
    );
    let told = check(&gateway, &good).await;
    assert_eq!((&told["valid"], &told["problems"]), (&json!(true), &json!([])), "{told}");
    assert!(told["changes"].as_str().unwrap().contains("route more"), "{told}");
    let told = check(&gateway, "listeners: [{address: '127.0.0.1:0'}]\nroutes: [{upstrem: a}]\n").await;
    let problem = &told["problems"][0];
    assert_eq!(
        (&told["valid"], &problem["file"], &problem["line"]),
        (&json!(false), &json!("given"), &json!(2))
    );
    assert!(problem["message"].as_str().unwrap().contains("did you mean `upstream`?"), "{told}");
    assert_eq!(show(&gateway, "/v1/overview").await["config_hash"], before);
}

#[tokio::test]
async fn a_check_reads_neither_files_nor_variables() {
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("planted"), "s3cret-of-a-file").unwrap();
    let planted = home.path().join("planted").display().to_string();
    let gateway = Gateway::start_in(
        home,
        &format!(
            "admin: {OPEN}\nlisteners: [{{name: edge, address: 127.0.0.1:0}}]\nroutes: [{{respond: {{}}}}]\n"
        ),
        &[("PLANTED", "s3cret-of-a-variable")],
    )
    .await;
    let with = |more: &str| {
        format!("listeners: [{{address: '127.0.0.1:0'}}]\nroutes: [{{respond: {{}}}}]\n{more}\n")
    };
    for (text, told) in [
        (with("include: [planted]"), "include"),
        (with("state_dir: '${file:planted}'"), "`${file:planted}` is not expanded here"),
        (with("state_dir: '${env:PLANTED}'"), "`${env:PLANTED}` is not expanded here"),
        (with("upstreams: {a: {endpoints: ['{env.PLANTED}:1']}}"), "is not filled in here"),
        (with("x: &a [1]"), "unknown key `x`"),
    ] {
        let answer = check(&gateway, &text).await;
        assert_eq!(answer["valid"], false, "{answer}");
        assert!(answer["problems"].to_string().contains(told), "{text}: {answer}");
        assert!(!answer.to_string().contains("s3cret"), "{answer}");
    }
    // What names a file is not looked at: not whether it is there, not what it holds, wherever it may be.
    for path in [planted.as_str(), "/etc/passwd", "/nowhere/at/all", "planted", "../../etc/passwd"] {
        for options in [
            format!("admin: {{tls: {{cert: {path}, key: {path}}}}}"),
            format!(
                "identity: {{trust_domain: mesh.local, source: {{files: {{cert: {path}, key: {path}, bundle: {path}}}}}}}"
            ),
            format!("filters: {{guard: [basic_auth: {{file: {path}}}]}}"),
            format!("filters: {{guard: [api_key: {{file: {path}}}]}}"),
            format!("upstreams: {{a: {{endpoints: ['127.0.0.1:1'], tls: {{verify: {{ca: {path}}}}}}}}}"),
            format!("plugins: {{waf: {{file: {path}}}}}"),
        ] {
            let answer = check(&gateway, &with(&options)).await;
            let text = answer.to_string().replace(&options, "");
            for word in ["s3cret", "root:", "no such file", "No such file", "PEM", "denied", "/dev/null"] {
                assert!(!text.contains(word), "{options}: {answer}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_large_or_grows_is_refused_in_time() {
    let gateway = gateway().await;
    let exactly = format!("# {}", "x".repeat(1024 * 1024 - 2));
    check(&gateway, &exactly).await;
    assert_problem(&ask(&gateway, "POST", "/v1/check", &[], &format!("{exactly}x")).await, 413, "too_large");
    let bomb: String = std::iter::once("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned())
        .chain((1..12).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(","))))
        .collect();
    assert_eq!(check(&gateway, &bomb).await["valid"], false);
    let deep = format!("routes: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(check(&gateway, &deep).await["valid"], false);
    assert_eq!(check(&gateway, "").await["valid"], false);
    assert_eq!(check(&gateway, "a\0b").await["valid"], false);
    let latin = crate::support::send(gateway.admin(), "POST", "/v1/check", &[], &b"routes: \xfc"[..]).await;
    assert_problem(&latin, 400, "bad_request");
    let large = format!("{{\"url\": \"/{}\"}}", "x".repeat(70 * 1024));
    assert_problem(&ask(&gateway, "POST", "/v1/explain", &[], &large).await, 413, "too_large");
    let mut cut = RawConnection::open(gateway.admin());
    cut.write("POST /v1/check HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\nroutes: ");
    drop(cut);
    assert_eq!(show(&gateway, "/v1/overview").await["phase"], "ready");
}

/// What the description says is what is answered: each endpoint is called with inputs that are made from it, good ones and
/// bad ones, always the same.
#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing() {
    let gateway = Gateway::start(
        "admin: {address: 127.0.0.1:0, tokens: [{name: wall, token: walls-token}]}\n\
         listeners: [{name: edge, address: 127.0.0.1:0}]\nroutes: [{name: r, respond: {}}]\n",
    )
    .await;
    let description = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let url = format!("http://{}", gateway.admin());
    let output = tokio::task::spawn_blocking(move || {
        let mut command = std::process::Command::new(python::python());
        command.args(["-m", "schemathesis.cli", "run"]).arg(description).args(["--url", &url]);
        command.args([
            "--phases",
            "examples,fuzzing",
            "--max-examples",
            "8",
            "--seed",
            "1",
            "--workers",
            "2",
        ]);
        // Streams do not end, and whoever guesses tokens has to wait.
        command.args(["--exclude-path-regex", "^/v1/(events|access|session)$"]);
        command.args([
            "--exclude-checks",
            "ignored_auth,unsupported_method,positive_data_acceptance,negative_data_rejection",
        ]);
        command.args(["-H", "Authorization: Bearer walls-token", "--no-color"]);
        command.current_dir(std::env::temp_dir()).output().unwrap()
    })
    .await
    .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    // It warns of what a viewer may not do.
    assert!(told.contains(" generated, "), "{told}");
    let me = ask(&gateway, "GET", "/v1/me", &[super::WALL], "").await;
    me.assert_status(200);
}
