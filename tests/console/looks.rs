//! For everybody: by keyboard, in any light, on any screen, with any number of routes.

use std::{fmt::Write, path::Path};

use crate::support::{
    Gateway,
    browser::{Look, Page},
};

use super::fixture::Stage;

const VIEWS: [&str; 13] = [
    "overview",
    "map",
    "routes?row=users",
    "upstreams",
    "canaries",
    "tail",
    "config",
    "config?tab=check",
    "config?tab=try",
    "identity",
    "history",
    "plugins",
    "map?focus=route:users",
];

/// The view, and nothing of the one before.
async fn turn_to(page: &Page, view: &str) {
    page.go(view).await;
    // It is drawn with the next frame.
    let drawn =
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))";
    page.until(drawn).await;
    page.see("#main h1", "").await;
    page.see_no("main", "Reading…").await;
}

async fn assert_no_violation(page: &Page, view: &str) {
    assert_eq!(page.violations().await, [""; 0], "{view}");
}

async fn assert_for_everybody(scheme: &'static str) {
    let stage = Stage::start().await;
    stage.warm().await;
    let page = Page::look(stage.gateway.admin(), "", Look { scheme, audited: true, ..Look::default() }).await;
    for view in VIEWS {
        turn_to(&page, view).await;
        assert_no_violation(&page, view).await;
    }
    page.go("canaries").await;
    page.click("button", "promote search").await;
    page.see("dialog", "Promote").await;
    assert_no_violation(&page, "a question").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn axe_finds_nothing_in_the_light() {
    assert_for_everybody("light").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn axe_finds_nothing_in_the_dark() {
    assert_for_everybody("dark").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn axe_finds_nothing_where_one_signs_in_or_has_a_control_plane() {
    let tokens = "tokens: [{name: wallboard, role: viewer, token: only-for-looking-at}]";
    let gateway = Gateway::start(&format!(
        "admin: {{address: '127.0.0.1:0', {tokens}}}\ncontrol: {{serve: {{address: '127.0.0.1:0'}}}}\n"
    ))
    .await;
    let page = Page::look(gateway.admin(), "services", Look { audited: true, ..Look::default() }).await;
    page.see("button", "Sign in").await;
    assert_no_violation(&page, "signing in").await;
    page.fill("Token", "only-for-looking-at").await;
    page.press(&["Enter"]).await;
    page.see("nav", "Services").await;
    for view in ["services", "gateways", "rollouts", "overview"] {
        turn_to(&page, view).await;
        assert_no_violation(&page, view).await;
    }
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_done_by_keyboard() {
    let stage = Stage::start().await;
    let page = Page::open(stage.gateway.admin(), "").await;
    page.see("h1", "Overview").await;
    page.press(&["g", "r"]).await;
    page.see("h1", "Routes").await;
    page.until("() => document.activeElement.tagName === 'MAIN'").await;
    page.press(&["/"]).await;
    for letter in ["s", "e", "a"] {
        page.press(&[letter]).await;
    }
    page.see("h1 + p", "1 of 4 routes").await;
    // Updates come each second, and take neither focus nor what was typed.
    let now = page.run("Date.now()").await.as_f64().unwrap();
    page.until(&format!("() => Date.now() > {now} + 2500")).await;
    assert_eq!(page.run("document.activeElement.id + document.activeElement.value").await, "findsea");
    page.press(&["Tab", "Tab", "Enter"]).await;
    page.press(&["Escape"]).await;
    page.press(&["?"]).await;
    page.see("dialog", "g r").await;
    page.press(&["Escape"]).await;
    page.see_no("dialog", "g r").await;
    page.press(&["g", "u"]).await;
    page.see("h1", "Upstreams").await;
    page.until("() => document.activeElement.tagName === 'MAIN'").await;
    // The first row's button, and what it opens.
    page.until("() => document.querySelector('tbody button.row')").await;
    page.run("document.querySelector('tbody button.row').focus()").await;
    page.press(&["Enter"]).await;
    page.see("section", "Last probe").await;
    assert_eq!(page.run("document.activeElement.className").await, "row");
    page.press(&["Escape"]).await;
    page.see_no("section", "Last probe").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_chosen_on_the_map_filters_all_views() {
    let stage = Stage::start().await;
    let page = Page::open(stage.gateway.admin(), "map").await;
    page.see(".map button", "search").await;
    page.run("[...document.querySelectorAll('.map button')].find(node => node.title === 'search').click()")
        .await;
    page.see("header", "only route search").await;
    page.click("link", "Routes").await;
    page.see("h1 + p", "1 of 4 routes").await;
    page.click("link", "Upstreams").await;
    page.see("tr", "v1").await;
    page.see_no("tr", "users").await;
    page.press(&["Escape"]).await;
    page.see("tr", "users").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_view_is_wider_than_a_small_screen() {
    let stage = Stage::start().await;
    stage.warm().await;
    let look = Look { width: 320, height: 640, ..Look::default() };
    let page = Page::look(stage.gateway.admin(), "", look).await;
    for view in VIEWS {
        page.go(view).await;
        page.see("#main h1", "").await;
        page.see_no("main", "Reading…").await;
        let width = page.run("document.documentElement.scrollWidth").await;
        assert!(width.as_u64().unwrap() <= 320, "{view} is {width} wide");
    }
    page.click("button", "Menu").await;
    page.click("link", "History").await;
    page.see("h1", "History").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_routes_are_scrolled_and_searched() {
    let mut yaml = String::from(
        "admin: {address: '127.0.0.1:0'}\nlisteners: [{name: main, address: '127.0.0.1:0'}]\nroutes:\n",
    );
    for at in 0..10_000 {
        writeln!(yaml, "- {{name: r{at:05}, match: {{path: /r{at:05}}}, respond: {{status: 200}}}}").unwrap();
    }
    let gateway = Gateway::start(&yaml).await;
    let page = Page::open(gateway.admin(), "routes").await;
    page.see("h1 + p", "10,000 routes").await;
    page.see("tr", "r00000").await;
    let rows = page.run("document.querySelectorAll('tbody tr').length").await;
    assert!(rows.as_u64().unwrap() < 100, "{rows} rows are in the page");
    page.run("document.querySelector('.rows').scrollTop = 1e9").await;
    page.see("tr", "r09999").await;
    page.fill("Filter by name, host, path, target", "r0777").await;
    page.see("h1 + p", "10 of 10,000 routes").await;
    page.go("map").await;
    page.see("main", "busiest routes").await;
    page.go("config").await;
    page.see(".tools", "lines").await;
    page.fill("Find; Enter goes to the next", "r09999").await;
    page.see(".code .hit", "r09999").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_route_each_view_says_what_to_do() {
    let gateway =
        Gateway::start("admin: {address: '127.0.0.1:0'}\ncontrol: {serve: {address: '127.0.0.1:0'}}\n").await;
    let page = Page::open(gateway.admin(), "routes").await;
    for (view, says) in [
        ("routes", "There is no route"),
        ("upstreams", "There is no upstream"),
        ("canaries", "There is no canary"),
        ("overview", "Nothing"),
    ] {
        page.go(view).await;
        page.see("main", says).await;
    }
    page.close().await;
}

/// The pictures of docs/console.md. They are only written where they are asked for: `TIDEGATE_SCREENSHOTS=1`.
#[tokio::test(flavor = "multi_thread")]
async fn pictures_of_the_views() {
    if std::env::var_os("TIDEGATE_SCREENSHOTS").is_none() {
        return;
    }
    let stage = Stage::start().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/console");
    std::fs::create_dir_all(&folder).unwrap();
    let flowing = async {
        loop {
            stage.warm().await;
        }
    };
    let pictures = async {
        for (name, view, scheme, width, height) in [
            ("overview", "overview", "light", 1280, 900),
            ("map", "map", "dark", 1280, 720),
            ("routes", "routes?row=users", "light", 1280, 900),
            ("canaries", "canaries", "dark", 900, 760),
            ("tail", "tail", "light", 1280, 640),
            ("small", "upstreams", "light", 390, 640),
        ] {
            let look = Look { width, height, scheme, audited: false };
            let page = Page::look(stage.gateway.admin(), view, look).await;
            page.see("header", "live").await;
            let now = page.run("Date.now()").await.as_f64().unwrap();
            page.until(&format!("() => Date.now() > {now} + 4000")).await;
            page.shoot(&folder.join(format!("{name}.png"))).await;
            page.close().await;
        }
    };
    tokio::select! {
        () = pictures => {}
        () = flowing => {}
    }
}
