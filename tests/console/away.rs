//! A gateway that goes, comes back, or is another one; and a browser that sleeps.

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::{Gateway, RawConnection, browser::Page};

use super::fixture::Stage;

const SIMPLE: &str =
    "listeners: [{name: main, address: '127.0.0.1:0'}]\nroutes: [{name: only, respond: {body: hello}}]\n";

#[tokio::test(flavor = "multi_thread")]
async fn without_news_it_says_so_and_keeps_what_it_knew() {
    let stage = Stage::start().await;
    let page = Page::open(stage.gateway.admin(), "routes").await;
    page.see("tr", "users").await;
    page.see("header", "live").await;
    // A gateway that hangs: its connections stay open.
    stage.gateway.signal(Signal::SIGSTOP);
    page.see("header", "no news since").await;
    page.see("tr", "users").await;
    page.see(".shell.stale", "Routes").await;
    stage.gateway.signal(Signal::SIGCONT);
    page.see("header", "live").await;
    page.see_no("header", "no news since").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_is_taken_for_what_it_is() {
    let gateway = Gateway::start(&format!("admin: {{address: '127.0.0.1:0'}}\n{SIMPLE}")).await;
    let page = Page::open(gateway.admin(), "routes").await;
    page.see("tr", "only").await;
    page.see("header", "live").await;
    gateway
        .write_config(&format!("admin: {{address: '127.0.0.1:0'}}\n{}", SIMPLE.replace("only", "another")));
    let next = gateway.upgrade().await;
    page.see("tr", "another").await;
    page.see("header", "live").await;
    page.go("history").await;
    page.see("tr", "started").await;
    drop(next);
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_it_shows_the_new_one() {
    let tokens = "tokens: [{name: alice, role: operator, token: correct-horse-battery}]";
    let first = Gateway::start(&format!("admin: {{address: '127.0.0.1:0', {tokens}}}\n{SIMPLE}")).await;
    let admin = first.admin();
    let page = Page::open(admin, "routes").await;
    page.fill("Token", "correct-horse-battery").await;
    page.press(&["Enter"]).await;
    page.see("tr", "only").await;
    first.signal(Signal::SIGKILL);
    first.wait_exit().await;
    page.see("header", "no news").await;
    let yaml = format!("admin: {{address: '{admin}', {tokens}}}\n{}", SIMPLE.replace("only", "another"));
    let _second = Gateway::start_in(TempDir::new().unwrap(), &yaml, &[]).await;
    // Sessions are in memory: whoever was signed in signs in again, and is where it was.
    page.see("main", "Your session is over").await;
    page.fill("Token", "correct-horse-battery").await;
    page.press(&["Enter"]).await;
    page.see("tr", "another").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_drains_orders_are_off() {
    let stage = Stage::with("", "shutdown: {grace: 60s}\n").await;
    let page = Page::open(stage.gateway.admin(), "canaries").await;
    page.see("header", "live").await;
    // Something to wait for.
    let mut slow = RawConnection::open(stage.gateway.address("main"));
    slow.write("GET /users/slow HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n");
    stage.gateway.signal(Signal::SIGTERM);
    page.see("header", "draining").await;
    page.see("button[aria-disabled=true]", "Promote…").await;
    drop(slow);
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_slept_for_an_hour_is_up_to_date_at_once() {
    let first = Gateway::start(&format!("admin: {{address: '127.0.0.1:0'}}\n{SIMPLE}")).await;
    let admin = first.admin();
    let page = Page::open(admin, "identity").await;
    page.take_clock().await;
    page.go("routes").await;
    page.run("location.reload()").await;
    page.see("tr", "only").await;
    page.see("header", "live").await;
    // No timer runs; meanwhile its connection dies with the gateway, and another gateway is there.
    page.sleep().await;
    first.signal(Signal::SIGKILL);
    first.wait_exit().await;
    let yaml = format!("admin: {{address: '{admin}'}}\n{}", SIMPLE.replace("only", "another"));
    let _second = Gateway::start_in(TempDir::new().unwrap(), &yaml, &[]).await;
    page.wake(3600).await;
    page.see("tr", "another").await;
    page.see("header", "live").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_when_too_many_look_is_told() {
    let stage = Stage::start().await;
    let mut others = Vec::new();
    for _ in 0..16 {
        let mut other = RawConnection::open(stage.gateway.admin());
        other.write("GET /v1/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
        assert_eq!(other.read_head().status, 200);
        others.push(other);
    }
    let page = Page::open(stage.gateway.admin(), "routes").await;
    page.see("tr", "users").await;
    page.see("header", "no news").await;
    page.see("header", "16").await;
    drop(others);
    // It may have come back by itself meanwhile.
    page.run(
        "[...document.querySelectorAll('button')].find(button => button.textContent === 'Try now')?.click()",
    )
    .await;
    page.see("header", "live").await;
    page.close().await;
}
