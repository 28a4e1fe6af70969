//! What each view shows, of traffic and of what happens to it.

use serde_json::json;

use crate::support::{Gateway, browser::Page, get, send};

use super::fixture::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn each_view_shows_what_there_is() {
    let stage = Stage::start().await;
    stage.warm().await;
    let page = Page::open(stage.gateway.admin(), "").await;
    page.see("h1", "Overview").await;
    page.see("header", "ready").await;
    page.see("header", "live").await;
    page.see("tr", "main").await;
    page.go("map").await;
    page.see(".map button", "search").await;
    page.see(".map button", "candidate").await;
    page.see("tr", "upstream users").await;
    page.go("routes").await;
    page.see("tr", "users").await;
    page.see("tr", "answers 403").await;
    page.see("h1 + p", "4 routes").await;
    page.go("routes?row=users").await;
    page.see("dd", "gateway.yaml:").await;
    page.go("upstreams").await;
    page.see("tr", &stage.users[0].address().to_string()).await;
    page.go("canaries").await;
    page.see("section", "10.0 %").await;
    page.go("config").await;
    page.see(".code", "admin:").await;
    page.go("identity").await;
    page.see("main", "No certificate is in use").await;
    page.go("history").await;
    page.see("tr", "started").await;
    page.go("plugins").await;
    page.see("main", "No plugin is in use").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_is_counted_as_it_flows() {
    let stage = Stage::start().await;
    let page = Page::open(stage.gateway.admin(), "routes").await;
    page.see("tr", "users").await;
    let row = "[...document.querySelectorAll('tbody tr')].find(row => row.innerText.startsWith('users'))";
    let flowing = async {
        loop {
            stage.ask(&["/users/1"]).await;
        }
    };
    // The fifth column: requests per second.
    let busy = format!("() => parseFloat({row}.children[4].innerText) > 0");
    let seen = page.until(&busy);
    tokio::select! {
        () = seen => {}
        () = flowing => {}
    }
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_dies_is_seen_and_why() {
    let stage = Stage::start().await;
    let page = Page::open(stage.gateway.admin(), "upstreams").await;
    let name = stage.users[0].address().to_string();
    page.see("tr", &name).await;
    page.see_no("tr", "unhealthy").await;
    stage.users[0].kill().await;
    page.see("tr", "unhealthy").await;
    page.see("tr", "refused").await;
    page.go("overview").await;
    page.see("section", &name).await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stands_in_who_stays_where_and_who_comes_first_is_shown() {
    let text = "admin: {address: '127.0.0.1:0'}
listeners: [{name: main, address: '127.0.0.1:0'}]
routes:
- {match: {path: /new}, upstream: shop, subset: {version: v2}}
- {upstream: shop}
upstreams:
  shop:
    endpoints: [{address: '127.0.0.1:9', tags: {version: v1}}, {address: '127.0.0.1:7', priority: 1, tags: {version: v2}}]
    affinity: {cookie: {name: shop_at, keys: [a-key-of-more-than-thirty-two-characters]}}
    then: backup
  backup: {endpoints: ['127.0.0.1:11']}
";
    let gateway = Gateway::start(text).await;
    let shown = get(gateway.admin(), "/v1/upstreams/shop").await.json();
    assert_eq!(shown["affinity"], json!({"by": "cookie", "name": "shop_at"}));
    assert_eq!(
        (&shown["subsets"], &shown["failover"]["to"]),
        (&json!([{"version": "v2"}]), &json!("backup"))
    );
    let backup = get(gateway.admin(), "/v1/upstreams/backup").await.json();
    assert_eq!((&backup["affinity"], &backup["subsets"]), (&json!(null), &json!([])));
    let page = Page::open(gateway.admin(), "upstreams?row=shop%2F127.0.0.1%3A7").await;
    for shown in
        ["backup", "100.0 % served here", "shop_at", "priority 0: 100.0 %", "version: v2", "priority 1"]
    {
        page.see("dd", shown).await;
    }
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_was_refused_shows_its_problems_at_their_lines() {
    let stage = Stage::start().await;
    let page = Page::open(stage.gateway.admin(), "config?tab=problems").await;
    page.see("main", "no problems").await;
    let outcome = stage.gateway.reload(&stage.file("upstream: users}", "upstream: user}")).await;
    assert_eq!(outcome["msg"], "configuration rejected");
    page.see("li", "line 4").await;
    page.see("li", "did you mean `users`").await;
    page.go("history").await;
    page.see("tr", "rejected").await;
    // Mended, by the button.
    stage.gateway.write_config(&stage.file("upstream: user}", "upstream: users, timeout: 9s}"));
    page.go("config").await;
    page.click("button", "Reload…").await;
    page.click_in("dialog", "button", "Reload").await;
    page.see("header", "reloaded").await;
    page.go("history").await;
    page.see("tr", "SIGHUP").await;
    page.see("tr", "changed route users").await;
    page.run("document.querySelector('tbody button.row').click()").await;
    page.see(".code .added", "9s").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pasted_is_checked_and_changes_nothing() {
    let stage = Stage::start().await;
    let page = Page::open(stage.gateway.admin(), "config?tab=check").await;
    page.fill(
        "A whole configuration",
        "listeners: [{address: '127.0.0.1:0'}]\nroutes:\n- {upstream: nobody}\n",
    )
    .await;
    page.click("button", "Check").await;
    page.see("[role=status]", "1 problem").await;
    page.see(".code .problem", "nobody").await;
    page.see(".code .hit", "- {upstream: nobody}").await;
    page.fill(
        "A whole configuration",
        "listeners: [{address: '127.0.0.1:0'}]\nroutes: [{respond: {status: 200}}]\n",
    )
    .await;
    page.click("button", "Check").await;
    page.see("[role=status]", "It would be taken").await;
    page.fill("A whole configuration", "include: [/etc/passwd]\nlisteners: [{address: '${env:HOME}'}]\n")
        .await;
    page.click("button", "Check").await;
    page.see(".code .problem", "include").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_is_explained() {
    let stage = Stage::start().await;
    let page = Page::open(stage.gateway.admin(), "routes?row=users").await;
    page.click("link", "Explain this route").await;
    page.click("button", "Explain").await;
    page.see("section", "On main").await;
    page.see("section dd", "users").await;
    page.see("section dd", "headers").await;
    page.fill("Method", "POST").await;
    page.click("button", "Explain").await;
    page.see("section", "405").await;
    page.fill("URL or path", "/nowhere").await;
    page.click("button", "Explain").await;
    page.see("section", "no_route").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_shows_what_is_asked_for_and_nothing_else() {
    let stage = Stage::start().await;
    let page = Page::open(stage.gateway.admin(), "tail").await;
    page.see("main", "No request like that").await;
    stage.ask(&["/closed"]).await;
    page.see("tr", "/closed").await;
    page.fill("Status", "2xx").await;
    page.see("main", "No request like that").await;
    // Lines are of the new filter from when it is connected.
    let connected = async {
        loop {
            stage.ask(&["/closed", "/users/7"]).await;
        }
    };
    let seen = page.see("tr", "/users/7");
    tokio::select! {
        () = seen => {}
        () = connected => {}
    }
    page.see_no("tr", "/closed").await;
    page.run("document.querySelector('tbody button.row').click()").await;
    page.click("button", "Copy as curl").await;
    page.see("header", "copied as curl").await;
    let copied = page.run("navigator.clipboard.readText()").await;
    let copied = copied.as_str().unwrap().to_owned();
    assert!(copied.starts_with("curl -i -X 'GET'") && copied.contains("/users/7"), "{copied}");
    page.click("button", "Copy as explain").await;
    page.until("async () => (await navigator.clipboard.readText()).startsWith('tidegate explain')").await;
    page.see("button", "Go on").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_and_a_drained_endpoint_are_seen() {
    let stage = Stage::start().await;
    let page = Page::open(stage.gateway.admin(), "routes").await;
    page.see("tr", "users").await;
    let part = "match: {path: /cart}\nupstream: users\n";
    send(stage.gateway.admin(), "PUT", "/v1/routes/cart", &[], part).await.assert_status(201);
    page.see("tr", "/cart").await;
    page.go("history").await;
    page.see("tr", "added route cart").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_shows_who_is_registered() {
    let gateway = crate::support::Gateway::start(
        "admin: {address: '127.0.0.1:0'}\ncontrol: {serve: {address: '127.0.0.1:0'}}\n",
    )
    .await;
    let registration = r#"{"name": "users", "address": "127.0.0.1:3001", "ttl": "5m"}"#;
    send(gateway.address("control"), "POST", "/v1/services", &[], registration).await.assert_status(201);
    let put = "listeners: [{address: '127.0.0.1:0'}]\nroutes: [{respond: {status: 200}}]\n";
    let answer = send(gateway.address("control"), "PUT", "/v1/configs/edge", &[], put).await;
    assert!(answer.status.is_success(), "{answer:?}");
    let page = Page::open(gateway.admin(), "services").await;
    page.see("tr", "users").await;
    page.run("document.querySelector('tbody button.row').click()").await;
    page.see("tr", "127.0.0.1:3001").await;
    page.go("gateways").await;
    page.see("main", "No gateway has joined").await;
    page.go("rollouts").await;
    page.see("section", "edge, version 1").await;
    page.go("map").await;
    page.see("main", "nothing to draw").await;
    page.go("routes").await;
    page.see("main", "There is no route").await;
    page.close().await;
}
