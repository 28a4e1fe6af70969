//! Orders from the page: they ask first, carry what was seen, and say why they cannot be given.

use crate::support::{browser::Page, send};

use super::fixture::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_led_by_its_buttons() {
    let stage = Stage::start().await;
    let page = Page::open(stage.gateway.admin(), "canaries").await;
    page.see("section", "progressing").await;
    page.click("button", "step search").await;
    page.click_in("dialog", "button", "Step").await;
    // What comes next is told before the step as well: an order given now would carry what is seen no more.
    page.see("section", "to 30.0 %").await;
    page.click("button", "pause search").await;
    page.click_in("dialog", "button", "Pause").await;
    page.see("section", "paused").await;
    page.click("button", "promote search").await;
    page.click_in("dialog", "button", "Promote").await;
    page.see("section", "promoted").await;
    page.go("history").await;
    page.see("tr", "promote").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_for_what_has_moved_shows_how_it_is_now() {
    let stage = Stage::start().await;
    let page = Page::open(stage.gateway.admin(), "canaries").await;
    page.click("button", "step search").await;
    page.see("dialog", "10.0 %").await;
    // Somebody else was quicker.
    send(stage.gateway.admin(), "POST", "/canaries/search/step", &[], "").await.assert_status(200);
    page.click_in("dialog", "button", "Step").await;
    page.see("dialog [role=alert]", "Below is how it is now").await;
    page.see("dialog dd", "20.0 %").await;
    page.click_in("dialog", "button", "Step all the same").await;
    page.see("section", "to 40.0 %").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_fails_is_seen_to_be_rolled_back() {
    let stage = Stage::with("", "").await;
    let page = Page::open(stage.gateway.admin(), "canaries").await;
    page.see("section", "progressing").await;
    stage.kill_candidate().await;
    let asked = async {
        loop {
            stage.ask(&["/search"]).await;
        }
    };
    let seen = page.see("section", "rolled back");
    tokio::select! {
        () = seen => {}
        () = asked => {}
    }
    page.see("section .refused", "").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_and_an_endpoint_are_ordered_and_the_order_undone() {
    let stage = Stage::start().await;
    let page = Page::open(stage.gateway.admin(), "upstreams?q=users").await;
    page.see("tr", "users").await;
    page.run("document.querySelector('tbody button.row').click()").await;
    page.click("button", "Open breaker…").await;
    page.click_in("dialog", "button", "Open breaker").await;
    page.see("section dd", "by hand").await;
    page.click("button", "Reset breaker…").await;
    page.click_in("dialog", "button", "Reset breaker").await;
    page.see_no("section dd", "by hand").await;
    page.click("button", "Drain endpoint…").await;
    page.click_in("dialog", "button", "Drain endpoint").await;
    page.see("tr", "drained").await;
    page.click("button", "Undo the drain").await;
    page.click_in("dialog", "button", "Undo").await;
    page.see_no("tr", "drained").await;
    page.close().await;
}

const TOKENS: &str = "tokens: [{name: alice, role: operator, token: correct-horse-battery}, {name: wallboard, role: viewer, token: only-for-looking-at}]";

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_sees_all_and_is_told_why_it_may_not_order() {
    let stage = Stage::with(TOKENS, "").await;
    let page = Page::open(stage.gateway.admin(), "canaries").await;
    page.fill("Token", "a guess").await;
    page.click("button", "Sign in").await;
    page.see("[role=alert]", "token").await;
    page.fill("Token", "only-for-looking-at").await;
    page.press(&["Enter"]).await;
    page.see("h1", "Canaries").await;
    page.see("aside", "wallboard, viewer").await;
    page.see("button[aria-disabled=true]", "Promote…").await;
    page.run("document.querySelector('button[aria-disabled=true]').click()").await;
    page.see("header", "wallboard may look and not order").await;
    assert_eq!(page.run("document.querySelectorAll('dialog').length").await, 0);
    // The page is not what keeps it out.
    let status = page
        .run(
            "fetch('/v1/reload', {method: 'POST', headers: {'x-tidegate-console': '1'}}).then(r => r.status)",
        )
        .await;
    assert_eq!(status, 403);
    page.go("config?tab=try&url=/users").await;
    page.click("button", "Explain").await;
    page.see("section", "On main").await;
    page.click("button", "Sign out").await;
    page.see("button", "Sign in").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_in_again_is_where_it_was() {
    let stage = Stage::with(TOKENS, "").await;
    let admin = stage.gateway.admin();
    let page = Page::open(admin, "routes?q=use").await;
    page.fill("Token", "correct-horse-battery").await;
    page.press(&["Enter"]).await;
    page.see("tr", "users").await;
    // Its session ends elsewhere.
    page.run(
        "fetch('/v1/session', {method: 'DELETE', headers: {'x-tidegate-console': '1'}}).then(r => r.status)",
    )
    .await;
    page.click("link", "History").await;
    page.see("main", "Your session is over").await;
    page.fill("Token", "correct-horse-battery").await;
    page.press(&["Enter"]).await;
    page.see("h1", "History").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_has_to_be_typed() {
    let stage = Stage::start().await;
    let page = Page::open(stage.gateway.admin(), "").await;
    page.click("button", "Drain…").await;
    page.see("dialog button[disabled]", "Drain and stop").await;
    page.press(&["Escape"]).await;
    page.see_no("dialog", "Drain").await;
    page.click("button", "Drain…").await;
    page.fill("Type drain to confirm", "drain").await;
    page.click_in("dialog", "button", "Drain and stop").await;
    assert!(stage.gateway.wait_exit().await.success());
    page.see("header", "no news").await;
    page.close().await;
}
