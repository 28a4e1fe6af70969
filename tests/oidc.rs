//! Logins over real sockets, at a provider that plays by the rules and at one that does not: whatever it, or a stranger, sends back, nobody is
//! let in who has not logged in, and nobody is sent to another host.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::{
    filters::Echo,
    support::{
        Answer, Gateway, Yaml,
        issuer::{Signer, token_by_secret},
        metric,
        provider::{Browser, Provider, SECRET, fields, now, sign},
    },
};

const KEY: &str = "0123456789abcdef0123456789abcdef";
const OTHER_KEY: &str = "fedcba9876543210fedcba9876543210";

fn yaml(provider: &Provider, upstream: &Echo, session: &str, more: &str, behind: &str) -> Yaml {
    let issuer = provider.issuer();
    Yaml::to(upstream.address).route(&format!(
        "filters: [{{oidc: {{issuer: '{issuer}', client_id: shop, client_secret: '{SECRET}', session: {{{session}, cookie: session}}, \
         logout_path: /logout, after_logout: /bye, backchannel_logout_path: /oidc/ended, \
         forward_claims: {{sub: x-user, groups: x-groups, email: x-email}}{more}}}}}{behind}]"
    ))
}

struct World {
    provider: Provider,
    upstream: Echo,
    gateway: Gateway,
}

impl World {
    async fn start() -> World {
        World::with("", "").await
    }

    async fn with(more: &str, behind: &str) -> World {
        World::of(Provider::start(), more, behind).await
    }

    async fn of(provider: Provider, more: &str, behind: &str) -> World {
        let upstream = Echo::start().await;
        let gateway = yaml(&provider, &upstream, &format!("secret: {KEY}"), more, behind).start().await;
        World { provider, upstream, gateway }
    }

    fn address(&self) -> SocketAddr {
        self.gateway.address("main")
    }

    async fn logged_in(&self) -> Browser {
        let mut browser = Browser::default();
        browser.log_in(self.address(), &self.provider, "/").await.assert_status(302);
        browser
    }

    /// The gateway has let it through.
    async fn passes(&self, browser: &mut Browser) {
        browser.go(self.address(), "/").await.assert_status(200).assert_no_reason();
    }

    /// The browser is sent to the provider.
    async fn asks_to_log_in(&self, browser: &mut Browser) {
        let answer = browser.go(self.address(), "/").await;
        let location = answer.assert_status(302).header("location").unwrap().to_owned();
        assert!(location.starts_with(&format!("{}/auth?", self.provider.issuer())), "{location}");
    }

    /// The last line of the access log says why.
    async fn said(&self, path: &str, detail: &str) {
        self.gateway.wait_for_line(|line| line["path"] == path && line["detail"] == detail).await;
    }

    async fn count(&self, result: &str) -> f64 {
        metric(&self.gateway, "tidegate_oidc_total", &[&format!("result=\"{result}\"")]).await
    }

    /// The provider posts this.
    async fn post(&self, token: &str) -> Answer {
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let body = format!("logout_token={token}");
        crate::support::send(self.address(), "POST", "/oidc/ended", &form, body).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_logs_in_and_comes_back_to_the_page_it_asked_for() {
    let world = World::start().await;
    let mut browser = Browser::default();
    let sent = browser.go(world.address(), "/orders?id=7").await;
    let location = sent.assert_status(302).header("location").unwrap();
    assert_eq!(sent.header("cache-control"), Some("no-store"));
    let said = fields(location.split_once('?').unwrap().1);
    assert_eq!(said["redirect_uri"], format!("http://{}/oidc/callback", world.address()));
    assert_eq!(said["scope"], "openid profile email");
    assert!(!location.contains("orders"), "where it goes is sealed: {location}");
    let query = world.provider.log_in(location);
    let back = browser.go(world.address(), &format!("/oidc/callback?{query}")).await;
    assert_eq!(back.assert_status(302).header("location"), Some("/orders?id=7"));
    let cookie = back.header("set-cookie").unwrap();
    assert!(cookie.starts_with("session=1.") && cookie.contains("; HttpOnly; SameSite=Lax"), "{cookie}");
    assert!(world.upstream.take().is_empty(), "nothing went on before");
    browser.cookies.insert("theirs".to_owned(), "1".to_owned());
    let forged = [("x-user", "mallory"), ("x_email", "mallory@example.com"), ("accept", "application/json")];
    browser.send(world.address(), "POST", "/orders", &forged, "{}").await.assert_status(200);
    let [(path, headers)] = &world.upstream.take()[..] else { panic!() };
    let field = |name| headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(
        (path.as_str(), field("x-user"), field("x-groups")),
        ("/orders", Some("alice"), Some("staff,admins"))
    );
    assert_eq!((field("x-email"), field("x_email")), (None, None), "the token does not say it");
    assert_eq!(field("cookie"), Some("theirs=1"), "the session is not the upstream's");
    assert_eq!([world.count("redirected").await, world.count("logged_in").await], [1.0, 1.0]);
    let logged = world.gateway.output();
    assert!(
        !logged.contains(&browser.cookies["session"]) && !logged.contains(KEY) && !logged.contains("s3cret")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_is_told_in_place_of_being_sent_elsewhere() {
    let world = World::start().await;
    let browser = Browser::default();
    for (method, headers) in [
        ("GET", &[("accept", "application/json")][..]),
        ("GET", &[("accept", "text/html"), ("sec-fetch-mode", "cors")]),
        ("POST", &[("accept", "text/html"), ("sec-fetch-mode", "navigate")]),
    ] {
        let answer = browser.clone().send(world.address(), method, "/", headers, "").await;
        answer.assert_reason(401, "unauthenticated");
        assert_eq!(answer.header("www-authenticate"), Some("Cookie realm=\"login\""));
    }
    world.said("/", "missing").await;
    assert!(world.upstream.take().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_to_another_host() {
    let world = World::start().await;
    for path in ["//evil.test/a", "//evil.test", "/\\evil.test", "/%2f%2fevil.test/"] {
        let mut browser = Browser::default();
        let answer = browser.go(world.address(), path).await;
        if answer.status == 400 {
            continue;
        }
        let query = world.provider.log_in(answer.header("location").unwrap());
        let back =
            browser.go(world.address(), &format!("/oidc/callback?{query}&return_to=//evil.test")).await;
        let location = back.assert_status(302).header("location").unwrap();
        assert!(location.starts_with('/') && !location[1..].starts_with(['/', '\\']), "{path}: {location}");
    }
}

/// What becomes of a login whose way back is changed by `change`.
async fn comes_back(world: &World, browser: &mut Browser, change: impl Fn(&str) -> String) -> Answer {
    let sent = browser.go(world.address(), "/").await;
    let query = world.provider.log_in(sent.header("location").unwrap());
    browser.go(world.address(), &format!("/oidc/callback?{}", change(&query))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_the_providers_to_this_login_counts_for_nothing() {
    let world = World::start().await;
    let without = |name: &str, query: &str| {
        query.split('&').filter(|pair| !pair.starts_with(name)).collect::<Vec<_>>().join("&")
    };
    let other = {
        let mut other = Browser::default();
        let sent = other.go(world.address(), "/").await;
        fields(sent.header("location").unwrap().split_once('?').unwrap().1)["state"].clone()
    };
    type Change<'c> = &'c dyn Fn(&str) -> String;
    let cases: &[(&str, Change<'_>)] = &[
        ("state", &|query| without("state", query)),
        ("state", &|query| query.replace("state=", "state=A")),
        ("state", &|query| format!("{}&state={other}", without("state", query))),
        ("state", &|query| format!("{query}&state=x")),
        ("state", &|query| format!("{query}&code=x")),
        ("mixed_up", &|query| format!("{}&iss=https%3A%2F%2Fevil.test", without("iss", query))),
        ("mixed_up", &|query| without("iss", query)),
        ("denied", &|query| format!("{}&error=access_denied", without("code", query))),
        ("code", &|query| without("code", query)),
        ("code", &|query| format!("{}&code=stolen", without("code", query))),
    ];
    for (index, (detail, change)) in cases.iter().enumerate() {
        let mut browser = Browser::default();
        comes_back(&world, &mut browser, change).await.assert_reason(403, "login_failed");
        assert!(!browser.cookies.contains_key("session"), "case {index}");
        world.said("/oidc/callback", detail).await;
        world.asks_to_log_in(&mut browser).await;
    }
    assert_eq!(world.provider.asked("/token"), 1, "a code is only sent where all else was right");
    // Another browser than the one that began.
    let sent = Browser::default().go(world.address(), "/").await;
    let query = world.provider.log_in(sent.header("location").unwrap());
    let stranger = Browser::default().go(world.address(), &format!("/oidc/callback?{query}")).await;
    stranger.assert_reason(403, "login_failed");
    assert!(world.upstream.take().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_counts_once() {
    let world = World::start().await;
    let mut browser = Browser::default();
    let sent = browser.go(world.address(), "/").await;
    let back = format!("/oidc/callback?{}", world.provider.log_in(sent.header("location").unwrap()));
    browser.go(world.address(), &back).await.assert_status(302);
    browser.go(world.address(), &back).await.assert_reason(403, "login_failed");
    world.said("/oidc/callback", "code").await;
    world.passes(&mut browser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_token_that_is_not_the_providers_to_us_counts_for_nothing() {
    let world = World::start().await;
    let issuer = world.provider.issuer();
    let stranger = Signer::new("k");
    let unknown = Signer::new("other");
    let good = json!({"iss": issuer, "aud": "shop", "sub": "alice", "exp": now() + 300});
    let none =
        token_by_secret("x", &good.to_string()).replacen("eyJhbGciOiJIUzI1NiJ9", "eyJhbGciOiJub25lIn0", 1);
    for (claims, id_token, detail) in [
        (json!({"nonce": "another"}), None, "nonce"),
        (json!({"nonce": null}), None, "nonce"),
        (json!({"aud": "bank"}), None, "audience"),
        (json!({"aud": ["shop", "bank"]}), None, "party"),
        (json!({"azp": "bank"}), None, "party"),
        (json!({"iss": "https://evil.test"}), None, "issuer"),
        (json!({"sub": null}), None, "subject"),
        // Beyond the skew that is allowed.
        (json!({"exp": now() - 120}), None, "expired"),
        (json!({"iat": now() + 180}), None, "issued"),
        (json!({"nbf": now() + 180}), None, "not_yet_valid"),
        (json!({}), Some(sign(&stranger, &good)), "signature"),
        (json!({}), Some(sign(&unknown, &good)), "unknown_key"),
        (json!({}), Some(token_by_secret(SECRET, &good.to_string())), "algorithm"),
        (json!({}), Some(none), "algorithm"),
        (json!({}), Some("no.token".to_owned()), "malformed"),
    ] {
        world.provider.script().claims = claims.clone();
        world.provider.script().id_token = id_token;
        let mut browser = Browser::default();
        browser.log_in(world.address(), &world.provider, "/").await.assert_reason(403, "login_failed");
        world.said("/oidc/callback", detail).await;
        assert!(!browser.cookies.contains_key("session"), "{claims}");
    }
    // Within it.
    world.provider.script().id_token = None;
    world.provider.script().claims = json!({"exp": now() - 20, "iat": now() + 20});
    world.passes(&mut world.logged_in().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_that_was_cut_off_or_forged_is_no_session() {
    let world = World::start().await;
    world.provider.script().claims = json!({"groups": vec!["a-group-with-a-long-name"; 150]});
    let whole = world.logged_in().await;
    assert!(whole.cookies.contains_key("session.1"), "it takes two");
    world.passes(&mut whole.clone()).await;
    let changed = |name: &str, change: &dyn Fn(&str) -> String| {
        let mut browser = whole.clone();
        let value = change(&browser.cookies[name]);
        browser.cookies.insert(name.to_owned(), value);
        browser
    };
    let mut cut = whole.clone();
    cut.cookies.remove("session.1");
    let json = [("accept", "application/json")];
    for (mut browser, detail) in [
        (cut, "cookie_cut"),
        (changed("session", &|value| value.replacen("2.", "9.", 1)), "cookie_cut"),
        (changed("session", &|value| value.replacen("2.", "1.", 1)), "cookie_forged"),
        (changed("session.1", &|value| value[4..].to_owned()), "cookie_forged"),
        (changed("session", &|value| format!("2.{}", &value[6..])), "cookie_forged"),
        (changed("session", &|_| "2.AAAA".to_owned()), "cookie_forged"),
    ] {
        browser
            .clone()
            .send(world.address(), "GET", "/api", &json, "")
            .await
            .assert_reason(401, "unauthenticated");
        world.said("/api", detail).await;
        world.asks_to_log_in(&mut browser).await;
        assert!(!browser.cookies.contains_key("session"), "it is taken off");
        assert!(world.count(detail).await > 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_with_one_secret_serve_one_session_and_the_secret_can_be_exchanged() {
    let world = World::start().await;
    let mut browser = world.logged_in().await;
    let with = |session: &str| yaml(&world.provider, &world.upstream, session, "", "");
    let second = with(&format!("secret: {KEY}")).start().await;
    // Cookies are of a host, whatever its port.
    browser.go(second.address("main"), "/").await.assert_status(200);
    let stranger = with(&format!("secret: {OTHER_KEY}")).start().await;
    browser.clone().go(stranger.address("main"), "/").await.assert_status(302);
    second.reload(&with(&format!("secret: {OTHER_KEY}, previous_secret: {KEY}")).to_string()).await;
    browser.go(second.address("main"), "/").await.assert_status(200);
    // It was encrypted anew meanwhile.
    browser.go(stranger.address("main"), "/").await.assert_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_away_lets_nobody_in_and_ends_no_session() {
    let provider = Provider::start();
    let document = "/.well-known/openid-configuration";
    provider.script().broken.insert(document, (503, String::new()));
    let world = World::of(provider, ", timeout: 5s", "").await;
    let mut browser = Browser::default();
    let answer = browser.go(world.address(), "/").await;
    answer.assert_reason(503, "auth_unavailable");
    world.said("/", "unavailable").await;
    world.gateway.wait_for_message("oidc cannot log users in").await;
    for (wrong, why) in [
        (json!({"issuer": "https://evil.test"}), "another issuer"),
        (json!({"token_endpoint": "http://evil.test/token"}), "`token_endpoint`"),
    ] {
        world.provider.script().broken.clear();
        world.provider.script().document = wrong;
        let is_told = |line: &Value| {
            line["msg"] == "oidc cannot log users in" && line["problem"].as_str().unwrap().contains(why)
        };
        while !world.gateway.lines().iter().any(is_told) {
            browser.go(world.address(), "/").await.assert_reason(503, "auth_unavailable");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    world.provider.script().document = json!({});
    while browser.go(world.address(), "/").await.status == 503 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let mut browser = world.logged_in().await;
    for path in [document, "/token", "/jwks"] {
        world.provider.script().broken.insert(path, (500, String::new()));
    }
    world.passes(&mut browser).await;
    let lost = Browser::default().log_in(world.address(), &world.provider, "/").await;
    lost.assert_reason(503, "auth_unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_renewed_once_for_all_that_wait_and_ends_where_the_provider_says_so() {
    let world = World::start().await;
    world.provider.script().expires_in = 0;
    let mut browser = world.logged_in().await;
    let before = browser.cookies["session"].clone();
    let tabs = (0..8).map(|_| {
        let (mut tab, address) = (browser.clone(), world.address());
        tokio::spawn(async move { (tab.go(address, "/").await, tab) })
    });
    let tabs = futures::future::join_all(tabs).await;
    for tab in &tabs {
        tab.as_ref().unwrap().0.assert_status(200);
    }
    assert_eq!(world.provider.asked("/token"), 2, "the login, and one renewal");
    // Each answer has sealed the session anew, and it is one session all the same. No cache may keep it for others.
    let again = tabs.iter().map(|tab| {
        let (answer, tab) = tab.as_ref().unwrap();
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let (mut tab, address) = (tab.clone(), world.address());
        tokio::spawn(async move {
            tab.go(address, "/").await.assert_status(200);
            tab
        })
    });
    let mut tabs = futures::future::join_all(again).await;
    assert_eq!(world.provider.asked("/token"), 3, "one more renewal for all");
    browser = tabs.pop().unwrap().unwrap();
    assert_ne!(browser.cookies["session"], before);
    // A provider that is away: these tokens have expired.
    world.provider.script().broken.insert("/token", (500, String::new()));
    browser.go(world.address(), "/").await.assert_reason(503, "auth_unavailable");
    world.said("/", "unavailable").await;
    // One that has ended it.
    let refused = json!({"error": "invalid_grant"}).to_string();
    world.provider.script().broken.insert("/token", (400, refused));
    let mut ended = world.renewed_later(&browser).await;
    world.said("/", "logged_out").await;
    assert!(!ended.cookies.contains_key("session"));
    world.asks_to_log_in(&mut ended).await;
}

impl World {
    /// What a failed renewal says is kept for a second.
    async fn renewed_later(&self, browser: &Browser) -> Browser {
        loop {
            let mut browser = browser.clone();
            if browser.go(self.address(), "/").await.status != 503 {
                return browser;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_tokens_still_count_outlives_a_provider_that_is_away() {
    let world = World::start().await;
    // Renewed ahead, after half of it.
    world.provider.script().expires_in = 6;
    let mut browser = world.logged_in().await;
    world.provider.script().broken.insert("/token", (500, String::new()));
    while world.provider.asked("/token") == 1 {
        world.passes(&mut browser).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    world.gateway.wait_for_message("oidc cannot log users in").await;
    world.passes(&mut browser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_speaks_of_somebody_else_ends_the_session() {
    let world = World::start().await;
    world.provider.script().expires_in = 0;
    let mut browser = world.logged_in().await;
    world.provider.script().claims = json!({"sub": "mallory"});
    world.asks_to_log_in(&mut browser).await;
    world.said("/", "subject").await;
    assert!(world.upstream.take().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_logs_out_here_and_at_the_provider() {
    let world = World::start().await;
    let mut browser = world.logged_in().await;
    let elsewhere = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
    let refused = browser.send(world.address(), "GET", "/logout", &elsewhere, "").await;
    refused.assert_reason(403, "forbidden");
    world.passes(&mut browser).await;
    let answer = browser.go(world.address(), "/logout?return_to=//evil.test").await;
    let location = answer.assert_status(302).header("location").unwrap();
    let said = fields(location.split_once('?').unwrap().1);
    assert!(location.starts_with(&format!("{}/logout?a=b&", world.provider.issuer())), "{location}");
    assert_eq!(said["post_logout_redirect_uri"], format!("http://{}/bye", world.address()));
    assert_eq!((said["id_token_hint"].split('.').count(), said["client_id"].as_str()), (3, "shop"));
    assert!(!browser.cookies.contains_key("session"));
    world.asks_to_log_in(&mut browser).await;
    // Without a session there is nothing to end at the provider.
    let answer = Browser::default().go(world.address(), "/logout").await;
    assert_eq!(answer.assert_status(302).header("location"), Some("/bye"));
    browser
        .send(world.address(), "DELETE", "/logout", &[], "")
        .await
        .assert_reason(405, "method_not_allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_whose_clock_is_behind_ends_sessions_and_none_that_began_later() {
    let world = World::start().await;
    world.provider.script().claims = json!({"iat": now() - 600});
    let mut browser = world.logged_in().await;
    for (issued, passes) in [(now() - 700, true), (now() - 590, false)] {
        world.post(&world.provider.logout_token(&json!({"iat": issued}))).await.assert_status(200);
        match passes {
            true => world.passes(&mut browser).await,
            false => world.asks_to_log_in(&mut browser).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_ends_sessions_and_nobody_else_does() {
    // Filters behind are not asked: the provider has no session.
    let world = World::with("", ", {authz: {allow: [{claims: {groups: admins}}]}}").await;
    let [mut first, mut second] = [world.logged_in().await, world.logged_in().await];
    let stranger = Signer::new("k");
    let good = json!({"iss": world.provider.issuer(), "aud": "shop", "exp": now() + 60, "sub": "alice"});
    let session = first.cookies["session"].clone();
    for token in [
        world.provider.logout_token(&json!({"aud": "bank"})),
        world.provider.logout_token(&json!({"iss": "https://evil.test"})),
        world.provider.logout_token(&json!({"exp": now() - 120})),
        world.provider.logout_token(&json!({"exp": null})),
        world.provider.logout_token(&json!({"nonce": "n"})),
        world.provider.logout_token(&json!({"events": {}})),
        world.provider.logout_token(&json!({"sub": null})),
        world.provider.logout_token(&json!({"jti": null})),
        world.provider.logout_token(&json!({"iat": null})),
        sign(&stranger, &good),
        session,
        String::new(),
    ] {
        world.post(&token).await.assert_reason(400, "bad_request");
    }
    crate::support::send(world.address(), "POST", "/oidc/ended", &[], "")
        .await
        .assert_reason(400, "bad_request");
    crate::support::get(world.address(), "/oidc/ended").await.assert_reason(405, "method_not_allowed");
    let long = "a".repeat(100_000);
    world.post(&long).await.assert_reason(413, "request_too_large");
    world.passes(&mut first).await;
    // Another session of hers, and another user.
    for other in [json!({"sid": "session-2"}), json!({"sub": "bob"})] {
        let answer = world.post(&world.provider.logout_token(&other)).await;
        assert_eq!(answer.assert_status(200).header("cache-control"), Some("no-store"));
        world.passes(&mut first).await;
    }
    world.post(&world.provider.logout_token(&json!({"sid": "session-1"}))).await.assert_status(200);
    world.asks_to_log_in(&mut first).await;
    world.said("/", "logged_out").await;
    // A reload forgets none.
    let yaml = yaml(&world.provider, &world.upstream, &format!("secret: {KEY}"), ", scopes: [email]", "");
    world.gateway.reload(&yaml.to_string()).await;
    world.asks_to_log_in(&mut second).await;
    assert!(world.count("backchannel_logout").await == 3.0 && world.count("logout_token").await >= 11.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_token_counts_once_and_ends_nothing_that_began_after_it() {
    let world = World::start().await;
    let mut before = world.logged_in().await;
    let token = world.provider.logout_token(&json!({}));
    world.post(&token).await.assert_status(200);
    world.asks_to_log_in(&mut before).await;
    // Sessions are older than what ends them by whole seconds.
    let began = now();
    while now() == began {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let mut since = world.logged_in().await;
    world.post(&token).await.assert_reason(400, "bad_request");
    world.said("/oidc/ended", "replayed").await;
    world.passes(&mut since).await;
    // Kept back on its way, or brought back from a memory that is gone.
    world.post(&world.provider.logout_token(&json!({"iat": now() - 3600}))).await.assert_status(200);
    world.passes(&mut since).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_is_no_get_is_refused_and_its_code_is_in_no_log() {
    let world = World::start().await;
    for method in ["POST", "HEAD", "PUT"] {
        let path = format!("/oidc/callback?code=secret-{method}&state=x");
        let answer = crate::support::send(world.address(), method, &path, &[], "").await;
        assert_eq!(answer.assert_status(405).header("allow"), Some("GET"));
        let is_it = |line: &Value| line["msg"] == "request" && line["method"] == method;
        let line = world.gateway.wait_for_line(is_it).await;
        assert!(line["path"] == "/oidc/callback" && !line.to_string().contains("secret-"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_in_no_log_where_the_filters_behind_change_requests() {
    let (provider, upstream) = (Provider::start(), Echo::start().await);
    let login = format!(
        "{{oidc: {{issuer: '{}', client_id: shop, client_secret: '{SECRET}', session: {{secret: {KEY}}}}}}}",
        provider.issuer()
    );
    let gateway = Yaml::to(upstream.address)
        .listener(&format!("filters: [{login}, {{hold: {{path: /changed}}}}]"))
        .top("log: {access: {fields: {add: {asked: '{uri}'}}}}")
        .start()
        .await;
    let path = "/oidc/callback?code=secret&state=x";
    crate::support::get(gateway.address("main"), path).await.assert_reason(403, "login_failed");
    let line = gateway.wait_for_line(|line| line["msg"] == "request").await;
    assert!(line["asked"] == "/oidc/callback" && !line.to_string().contains("secret"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_token_waits_for_the_key_that_it_was_signed_with() {
    let world = World::start().await;
    let mut browser = world.logged_in().await;
    let rotated = Signer::new("new");
    {
        let mut script = world.provider.script();
        script.shown = Signer { kid: rotated.kid.clone(), key: rotated.key.clone() };
        script.signer = rotated;
    }
    world.post(&world.provider.logout_token(&json!({}))).await.assert_status(200);
    world.asks_to_log_in(&mut browser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_decide_what_a_user_may_do() {
    let rule = ", {authz: {allow: [{claims: {groups: [admins], email: alice@example.com}}]}}, \
                {headers: {request: {set: {x-name: '{claim.name}'}}}}";
    let world = World::with(", userinfo: true, forward_token: true", rule).await;
    let mut browser = world.logged_in().await;
    let forged = [("authorization", "Bearer forged")];
    browser.send(world.address(), "GET", "/", &forged, "").await.assert_status(200);
    let [(_, headers)] = &world.upstream.take()[..] else { panic!() };
    let field = |name: &str| headers[name].to_str().unwrap().to_owned();
    assert_eq!((field("x-name"), field("x-email")), ("Alice".to_owned(), "alice@example.com".to_owned()));
    assert!(field("authorization").starts_with("Bearer access-"), "{}", field("authorization"));
    world.provider.script().claims = json!({"groups": ["staff"]});
    world.logged_in().await.go(world.address(), "/").await.assert_reason(403, "forbidden");
    // What the provider says of somebody else is not said of her.
    world.provider.script().userinfo = json!({"sub": "mallory", "email": "alice@example.com"});
    let answer = Browser::default().log_in(world.address(), &world.provider, "/").await;
    answer.assert_reason(403, "login_failed");
    world.said("/oidc/callback", "subject").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_takes_no_secret_or_sends_too_much_is_the_operators_matter() {
    let world = World::start().await;
    let refused = json!({"error": "invalid_client"}).to_string();
    world.provider.script().broken.insert("/token", (401, refused));
    let answer = Browser::default().log_in(world.address(), &world.provider, "/").await;
    answer.assert_reason(503, "auth_unavailable");
    world.said("/oidc/callback", "client").await;
    let line = world.gateway.wait_for_message("oidc cannot log users in").await;
    assert!(
        line["problem"].as_str().unwrap().contains("client_id and client_secret")
            && !line.to_string().contains("s3cret")
    );
    world.provider.script().broken.clear();
    world.provider.script().claims = json!({"groups": vec!["a-group-with-a-long-name"; 1000]});
    let answer = Browser::default().log_in(world.address(), &world.provider, "/").await;
    answer.assert_reason(403, "login_failed");
    world.said("/oidc/callback", "session_too_large").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_cookies_are_of_this_host_alone() {
    let world = World::with(", external_url: 'https://app.example.com'", "").await;
    let mut browser = Browser::default();
    let sent = browser.go(world.address(), "/").await;
    let location = sent.header("location").unwrap();
    let said = fields(location.split_once('?').unwrap().1);
    assert_eq!(said["redirect_uri"], "https://app.example.com/oidc/callback");
    let query = world.provider.log_in(location);
    let back = browser.go(world.address(), &format!("/oidc/callback?{query}")).await;
    back.assert_status(302);
    let cookies: Vec<_> =
        back.headers.get_all("set-cookie").iter().map(|field| field.to_str().unwrap()).collect();
    assert!(
        cookies.iter().all(|cookie| cookie.starts_with("__Host-session=") && cookie.ends_with("; Secure"))
    );
    world.passes(&mut browser).await;
    // A name without the prefix is another's to set.
    let value = browser.cookies.remove("__Host-session").unwrap();
    browser.cookies.insert("session".to_owned(), value);
    world.asks_to_log_in(&mut browser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_that_nobody_ends_leave_nothing_behind() {
    let world = World::start().await;
    let mut browser = Browser::default();
    let mut sent = Vec::new();
    for _ in 0..50 {
        sent.push(browser.go(world.address(), "/").await);
    }
    assert_eq!(browser.cookies.len(), 1, "one cookie for all of them: {browser:?}");
    let query = world.provider.log_in(sent[0].header("location").unwrap());
    browser.go(world.address(), &format!("/oidc/callback?{query}")).await.assert_status(302);
    world.passes(&mut browser).await;
}
