//! What strangers send, and what operators write, is text on the page and never more.

use serde_json::json;

use crate::support::{Gateway, ScriptedUpstream, Step, Yaml, browser::Page, raw, send};

use super::fixture::Stage;

const MARKUP: &str = "<img src=x onerror=pwned=1><script>pwned=1</script>";
/// As it may stand in a path.
const IN_A_PATH: &str = "%3Cimg%20src=x%20onerror=pwned=1%3E";

async fn assert_unharmed(page: &Page) {
    assert_eq!(page.run("typeof pwned").await, "undefined");
    assert_eq!(page.run("document.querySelectorAll('#page img, #page script, dialog img').length").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_and_agents_are_text() {
    let stage = Stage::start().await;
    let page = Page::open(stage.gateway.admin(), "tail").await;
    page.see("main", "No request like that").await;
    let path = format!("/users/{IN_A_PATH}<svg/onload=pwned=1>'\"");
    let agent = [("user-agent", MARKUP), ("host", "\"><script>.example")];
    let main = stage.gateway.address("main");
    // Some of it is refused, and all of it is logged.
    raw(main, format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", agent[1].1));
    send(main, "GET", &format!("/users/last{IN_A_PATH}"), &agent[..1], "").await;
    page.see("tr", "/users/last").await;
    let row =
        "[...document.querySelectorAll('tbody tr')].find(row => row.textContent.includes('/users/last'))";
    page.run(&format!("{row}.querySelector('button.row').click()")).await;
    page.see("section", "user_agent").await;
    assert_unharmed(&page).await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_filters_and_answers_in_the_configuration_are_text() {
    let name = serde_json::to_string(MARKUP).unwrap();
    let yaml = format!(
        "admin: {{address: '127.0.0.1:0'}}
listeners: [{{name: main, address: '127.0.0.1:0'}}]
routes:
- {{name: {name}, match: {{path: {{regex: '<script>pwned=1</script>'}}}}, respond: {{body: {name}}}}}
- {{name: to, match: {{path: /to}}, upstream: {name}}}
upstreams: {{? {name} : {{endpoints: ['127.0.0.1:9'], health_check: {{tcp: {{}}, interval: 100ms}}}}}}
"
    );
    let gateway = Gateway::start(&yaml).await;
    let page = Page::open(gateway.admin(), "routes").await;
    page.see("tr", "onerror").await;
    for (view, seen) in [
        ("map", ".map button"),
        ("upstreams", "tr"),
        ("config?q=onerror", ".code .hit"),
        ("overview", "main"),
        ("routes", "tr"),
    ] {
        page.go(view).await;
        page.see(seen, "<img").await;
        assert_unharmed(&page).await;
    }
    page.run("document.querySelector('tbody button.row').click()").await;
    page.see("section", "<img").await;
    assert_unharmed(&page).await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pasted_and_asked_is_text() {
    let stage = Stage::start().await;
    let page = Page::open(stage.gateway.admin(), "config?tab=check").await;
    page.fill("A whole configuration", &format!("routes:\n- {{upstream: {}}}\n{MARKUP}: 1\n", json!(MARKUP)))
        .await;
    page.click("button", "Check").await;
    page.see("[role=status] .problem", "<img").await;
    assert_unharmed(&page).await;
    page.go(&format!("config?tab=try&url={IN_A_PATH}")).await;
    page.fill("URL or path", "/<script>pwned=1</script>").await;
    page.fill("Header fields", &format!("x-a: {MARKUP}")).await;
    page.click("button", "Explain").await;
    page.until("() => document.querySelector('[role=status] section, [role=alert]')").await;
    assert_unharmed(&page).await;
    page.go(&format!("routes?q={IN_A_PATH}&focus=route:{IN_A_PATH}&row={IN_A_PATH}")).await;
    page.see("header", "only route <img").await;
    assert_unharmed(&page).await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_says_is_text() {
    let upstream = ScriptedUpstream::start(vec![
        Step::ReadHead,
        Step::write(format!(
            "HTTP/1.1 200 {MARKUP}\r\nx-a: {MARKUP}\r\ncontent-length: zero\r\n\r\n{MARKUP}"
        )),
        Step::Close,
    ])
    .await;
    let yaml = Yaml::to(upstream.address())
        .settings("health_check: {http: {path: /h}, interval: 100ms, unhealthy_after: 1}");
    let gateway = yaml.start().await;
    let page = Page::open(gateway.admin(), "upstreams").await;
    page.see("tr", "origin").await;
    send(gateway.address("main"), "GET", "/", &[], "").await;
    page.see("tr", "unhealthy").await;
    assert_unharmed(&page).await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_would_stop_what_slipped_in() {
    let stage = Stage::start().await;
    let page = Page::open(stage.gateway.admin(), "").await;
    page.see("h1", "Overview").await;
    let tried = "(() => { try { document.body.innerHTML = '<img src=x onerror=pwned=1>'; return 'done'; } catch (error) { return error.name; } })()";
    assert_eq!(page.run(tried).await, "TypeError", "trusted types");
    let script = "(() => { const script = document.createElement('script'); try { script.text = 'pwned=1'; document.body.append(script); } catch {} return typeof pwned; })()";
    assert_eq!(page.run(script).await, "undefined");
    let elsewhere = "fetch('http://127.0.0.2:9/').then(() => 'gone', () => 'stopped')";
    assert_eq!(page.run(elsewhere).await, "stopped");
    // These were reported, which is right.
    page.abandon().await;
}
