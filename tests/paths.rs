//! A path that means one thing to the gateway and another to the upstream gets past nothing: not past a route, not past a
//! filter, and not out of where a rewrite leads.

use std::net::SocketAddr;

use tempfile::TempDir;

use crate::filters::Echo;
use crate::support::{Gateway, RawConnection, get, get_h2c, tidegate};

async fn gateway(upstream: SocketAddr, listener: &str, routes: &str) -> Gateway {
    Gateway::start(&format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0'{listener}}}]\n\
         routes: [{routes}]\nupstreams: {{app: {{endpoints: ['{upstream}']}}}}\n"
    ))
    .await
}

/// Over both versions, and the upstream sees nothing of it.
async fn refused(gateway: &Gateway, upstream: &Echo, path: &str, reason: &str) {
    get(gateway.address("main"), path).await.assert_reason(400, reason);
    get_h2c(gateway.address("main"), path).await.assert_reason(400, reason);
    assert!(upstream.take().is_empty(), "{path}");
}

async fn passes(gateway: &Gateway, upstream: &Echo, path: &str, seen: &str) {
    get(gateway.address("main"), path).await.assert_status(200);
    get_h2c(gateway.address("main"), path).await.assert_status(200);
    let paths: Vec<_> = upstream.take().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, [seen, seen], "{path}");
}

const GUARDED: &str =
    "{match: {path: /admin}, filters: [{ip_rules: {deny: [0.0.0.0/0]}}], upstream: app}, {upstream: app}";

#[tokio::test(flavor = "multi_thread")]
async fn encoded_slashes_are_refused_unless_they_are_asked_for() {
    let upstream = Echo::start().await;
    let gateway = gateway(upstream.address, "", GUARDED).await;
    for path in ["/admin%2fx", "/admin%2Fx", "/%61dmin%2fx", "/admin%5cx", "/a%2Fb", "/%2f"] {
        refused(&gateway, &upstream, path, "encoded_slash").await;
    }
    passes(&gateway, &upstream, "/a?b=%2f..%2f", "/a?b=%2f..%2f").await;
    passes(&gateway, &upstream, "/a%252Fb", "/a%252Fb").await;
    let line = gateway.wait_for_line(|line| line["reason"] == "encoded_slash").await;
    assert_eq!(line["status"], 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dot_segment_is_refused_whatever_hides_it_and_whoever_keeps_slashes() {
    let upstream = Echo::start().await;
    for listener in ["", ", paths: {encoded_slashes: keep}"] {
        let gateway = gateway(upstream.address, listener, GUARDED).await;
        for path in [
            "/api/public/..;/private",
            "/api/public/..;v=1/private",
            "/api/.;/x",
            "/static/..%2fadmin/x",
            "/static/..%5cadmin/x",
            "/static%2f..%2Fadmin",
            "/static/%2e%2e%2fadmin/x",
            "/static/..%3b/admin",
            "/static/x%2f..",
        ] {
            refused(&gateway, &upstream, path, "dot_segment").await;
        }
        passes(&gateway, &upstream, "/a;x=..;y/...;/b..", "/a;x=..;y/...;/b..").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_route_says_before_its_listener_which_slashes_are_kept() {
    let upstream = Echo::start().await;
    let routes = "{match: {path: /files}, paths: {encoded_slashes: keep}, upstream: app}, \
                  {match: {path: /strict}, paths: {encoded_slashes: refuse}, upstream: app}, \
                  {match: {path: /other}, upstream: app}";
    let strict = gateway(upstream.address, "", routes).await;
    passes(&strict, &upstream, "/files/a%2fb", "/files/a%2Fb").await;
    for path in ["/other/a%2fb", "/strict/a%2fb", "/files%2fa", "/none%2f"] {
        refused(&strict, &upstream, path, "encoded_slash").await;
    }
    let keeping = gateway(upstream.address, ", paths: {encoded_slashes: keep}", routes).await;
    passes(&keeping, &upstream, "/files/a%5cb", "/files/a%5Cb").await;
    passes(&keeping, &upstream, "/other/a%2fb", "/other/a%2Fb").await;
    refused(&keeping, &upstream, "/strict/a%2fb", "encoded_slash").await;
    get(keeping.address("main"), "/none%2f").await.assert_reason(404, "no_route");
}

/// What `tidegate check` says of it.
#[track_caller]
fn checked(listener: &str, routes: &str, more: &str) -> String {
    let directory = TempDir::new().unwrap();
    let yaml = format!(
        "admin: false\nlisteners:\n- {{address: '127.0.0.1:8000'{listener}}}\nroutes:\n{routes}\n\
         upstreams: {{app: {{endpoints: ['127.0.0.1:9']}}}}\n{more}\n"
    );
    std::fs::write(directory.path().join("gateway.yaml"), &yaml).unwrap();
    let output = tidegate(directory.path()).args(["check", "-c", "gateway.yaml"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{yaml}\n{said}");
    said
}

#[test]
fn check_warns_where_slashes_are_kept_beside_what_is_bound_to_a_path() {
    let keep = ", paths: {encoded_slashes: keep}";
    let one = "- {upstream: app}";
    for (listener, routes, more, expected) in [
        (keep, "- {upstream: app}\n- {match: {path: /admin}, upstream: app}", "", "path `/admin`"),
        (
            "",
            "- {upstream: app, paths: {encoded_slashes: keep}}\n- {match: {path: /admin}, upstream: app}",
            "",
            "path `/admin`",
        ),
        (
            "",
            "- {upstream: app}\n- {match: {path: {regex: '^/adm'}}, upstream: app}",
            "paths: {encoded_slashes: keep}",
            "path `^/adm`",
        ),
        (
            keep,
            "- {upstream: app, filters: [{when: {path: /admin}, ip_rules: {allow: [10.0.0.0/8]}}]}",
            "",
            "filter `ip_rules`",
        ),
        (
            keep,
            "- {upstream: app, filters: [guard]}",
            "filters: {guard: [{authz: {allow: [{path: /x}]}}]}",
            "filter `authz`",
        ),
        (
            "",
            "- {match: {path: /a}, upstream: app, paths: {encoded_slashes: keep}}\n- {match: {path: /a/b}, upstream: app}",
            "",
            "path `/a/b`",
        ),
    ] {
        let said = checked(listener, routes, more);
        let warnings: Vec<_> = said.lines().filter(|line| line.starts_with("warning: ")).collect();
        assert_eq!(warnings.len(), 1, "{said}");
        assert!(warnings[0].contains("paths.encoded_slashes") && warnings[0].contains(expected), "{said}");
    }
    for (listener, routes) in [
        (keep, one),
        ("", "- {upstream: app}\n- {match: {path: /admin}, upstream: app}"),
        // Dot segments lead nowhere, so nothing below /files is /admin.
        (
            "",
            "- {match: {path: /files}, upstream: app, paths: {encoded_slashes: keep}}\n- {match: {path: /admin}, upstream: app}",
        ),
        (
            keep,
            "- {match: {hosts: [a.test]}, upstream: app}\n- {match: {hosts: [b.test], path: /admin}, upstream: app, paths: {encoded_slashes: refuse}}",
        ),
    ] {
        let said = checked(listener, routes, "");
        assert!(!said.contains("warning"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_leads_nowhere_but_where_the_operator_points() {
    let upstream = Echo::start().await;
    let routes = "{match: {path: /search}, filters: [{rewrite: {path: '/find/{query}'}}], upstream: app}, \
                  {match: {path: {template: '/u/{id}'}}, filters: [{rewrite: {path: '/user?id={path.id}&{query}'}}], upstream: app}, \
                  {match: {path: {template: '/own/{id}'}}, filters: [{rewrite: {path: '/user?id={path.id}'}}], upstream: app}, \
                  {filters: [{rewrite: {regex: {pattern: '^/ry(.*)$', replacement: '/files/$1'}}}], upstream: app}";
    let gateway = gateway(upstream.address, "", routes).await;
    for path in ["/ry../secret", "/ry..", "/ry./x", "/search?../../admin", "/search?..", "/search?..;/x"] {
        refused(&gateway, &upstream, path, "dot_segment").await;
    }
    for (path, seen) in [
        ("/ry/a//b?c=d", "/files/a/b?c=d"),
        ("/ryx%7e", "/files/x~"),
        ("/search?/x?y=1", "/find/%2Fx%3Fy=1?/x?y=1"),
        // An escape is text there, too.
        ("/search?..%2f", "/find/..%252f?..%2f"),
        ("/u/7?a=b", "/user?id=7&a=b"),
        ("/u/7&admin=1", "/user?id=7%26admin%3D1"),
        ("/u/a%20b", "/user?id=a%20b"),
        // The operator's parameters are no client's to say again, however their names are written.
        ("/own/7?id=8", "/user?id=7"),
        ("/own/7?a=b&%69d=8&ID=9&id[]=1&x;id=2&c", "/user?id=7&a=b&c"),
    ] {
        passes(&gateway, &upstream, path, seen).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_path_does_not_cost_the_client_its_connection() {
    let upstream = Echo::start().await;
    let gateway = gateway(upstream.address, "", GUARDED).await;
    let mut connection = RawConnection::open(gateway.address("main"));
    // The connection lives on: the request was read whole.
    for path in ["/a%2Fb", "/..;/"] {
        connection.write(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert_eq!(connection.read_response().status, 400, "{path}");
    }
    connection.write("GET /fine HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(connection.read_response().status, 200);
}
