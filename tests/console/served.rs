//! How the console's files are sent, seen from a socket.

use crate::support::{Gateway, get, send};

const ANSWERS: &str =
    "listeners: [{name: main, address: '127.0.0.1:0'}]\nroutes: [{respond: {status: 200}}]\n";

#[tokio::test]
async fn files_come_with_what_keeps_a_page_safe() {
    let gateway = Gateway::start(&format!("admin: {{address: '127.0.0.1:0'}}\n{ANSWERS}")).await;
    for (path, kind) in [
        ("/ui/", "text/html; charset=utf-8"),
        ("/ui/app.css", "text/css; charset=utf-8"),
        ("/ui/app.js", "text/javascript; charset=utf-8"),
        ("/ui/views/map.js", "text/javascript; charset=utf-8"),
    ] {
        let answer = get(gateway.admin(), path).await;
        answer.assert_status(200);
        for (name, value) in [
            ("content-type", kind),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cache-control", "no-cache"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path} {name}");
        }
        let policy = answer.header("content-security-policy").unwrap();
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        let tag = answer.header("etag").unwrap().to_owned();
        let known = send(gateway.admin(), "GET", path, &[("if-none-match", &tag)], "").await;
        assert!(known.assert_status(304).body.is_empty());
        let zipped = send(gateway.admin(), "GET", path, &[("accept-encoding", "gzip")], "").await;
        assert_eq!(zipped.header("content-encoding"), Some("gzip"));
        assert!(zipped.body.len() < answer.body.len());
    }
}

#[tokio::test]
async fn what_is_no_file_is_not_found() {
    let gateway = Gateway::start(&format!("admin: {{address: '127.0.0.1:0'}}\n{ANSWERS}")).await;
    for path in ["/ui/none.js", "/ui/../metrics", "/ui/%2e%2e/assets.rs", "/ui/views", "/ui//app.js"] {
        let status = get(gateway.admin(), path).await.status;
        assert!(status == 404 || status == 400, "{path}: {status}");
    }
    send(gateway.admin(), "POST", "/ui/", &[], "").await.assert_status(405);
}

#[tokio::test]
async fn a_page_of_another_name_gets_nothing() {
    let gateway = Gateway::start(&format!("admin: {{address: '127.0.0.1:0'}}\n{ANSWERS}")).await;
    send(gateway.admin(), "GET", "/ui/", &[("host", "rebound.example")], "").await.assert_status(421);
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let gateway =
        Gateway::start(&format!("admin: {{address: '127.0.0.1:0', console: false}}\n{ANSWERS}")).await;
    get(gateway.admin(), "/ui/").await.assert_status(404);
    let browser = [("accept", "text/html,application/xhtml+xml")];
    assert!(
        send(gateway.admin(), "GET", "/", &browser, "").await.assert_status(200).text().contains("/metrics")
    );
}

#[tokio::test]
async fn browsers_are_sent_to_it_and_programs_are_not() {
    let gateway = Gateway::start(&format!("admin: {{address: '127.0.0.1:0'}}\n{ANSWERS}")).await;
    let browser = [("accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
    let answer = send(gateway.admin(), "GET", "/", &browser, "").await;
    assert_eq!(answer.assert_status(303).header("location"), Some("/ui/"));
    assert!(get(gateway.admin(), "/").await.assert_status(200).text().contains("/metrics"));
}
