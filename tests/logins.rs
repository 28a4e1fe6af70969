//! Logins with other people's provider and browser: npm's `oidc-provider`, and Chromium, which keeps, sends and refuses cookies by rules of its
//! own, over HTTP/2 in several fields.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    filters::Echo,
    support::{
        Gateway, Process, Yaml,
        browser::Page,
        certificates::{Order, authority, keep, server, write},
        metric, node, within_deadline,
    },
};

/// Not as it stands in a form.
const SECRET: &str = "s3cret/of+shop";

struct Stage {
    provider: Process,
    issuer: String,
    upstream: Echo,
    gateway: Gateway,
    app: String,
}

impl Stage {
    /// `lifetime` is that of an access token, in seconds. `by_session`: the provider ends sessions by their names, not all of a user's.
    /// A public client has no secret, and PKCE alone protects its login; its ID tokens are signed with a younger algorithm.
    async fn start(lifetime: u64, by_session: bool, secret: Option<&str>) -> Stage {
        let directory = TempDir::new().unwrap();
        let root = authority("cluster.local");
        let names = Order { ips: vec!["127.0.0.1".to_owned()], ..server(&["app.localhost"]) };
        keep(directory.path(), "edge", &root.issue(&names));
        let trusted = directory.path().join("root.pem");
        write(&trusted, &root.pem(), 0o644);
        let mut command = node::script("oidc_provider.mjs", "oidc-provider/lib/index.js");
        command.env("NODE_EXTRA_CA_CERTS", trusted);
        let provider = Process::spawn_with_input(command);
        let port: u16 = provider.find("its port", |line| line.parse().ok()).await;
        let issuer = format!("http://127.0.0.1:{port}");
        let upstream = Echo::start().await;
        let client_secret = secret.map(|secret| format!("client_secret: {secret},")).unwrap_or_default();
        let yaml = Yaml::to(upstream.address)
            .listener("tls: {certificates: [{cert: edge.crt, key: edge.key}]}")
            .with_route("name: bye, match: {path: {exact: /bye}}, respond: {body: You are logged out}")
            .route(&format!(
                "filters: [{{oidc: {{issuer: '{issuer}', client_id: shop, {client_secret} \
                 session: {{secret: 0123456789abcdef0123456789abcdef, cookie: session}}, \
                 scopes: [email, groups, offline_access], parameters: {{prompt: consent}}, userinfo: true, \
                 logout_path: /logout, after_logout: /bye, backchannel_logout_path: /oidc/ended, \
                 forward_claims: {{sub: x-user, groups: x-groups, email: x-email}}}}}}]"
            ));
        let gateway = Gateway::start_in(directory, &yaml.to_string(), &[]).await;
        let address = gateway.address("main");
        let app = format!("https://app.localhost:{}", address.port());
        let algorithm = if secret.is_some() { "RS256" } else { "Ed25519" };
        let told = json!({
            "application": app, "backchannel": format!("https://{address}/oidc/ended"), "secret": secret,
            "algorithm": algorithm, "sessions": by_session, "lifetime": lifetime, "groups": 120,
        });
        provider.write_line(&told.to_string());
        Stage { provider, issuer, upstream, gateway, app }
    }

    fn app(&self, path: &str) -> String {
        format!("{}{path}", self.app)
    }

    /// How often the provider said that this has happened.
    fn count(&self, happened: &str) -> usize {
        let output = self.provider.output();
        let said = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        said.filter(|said| said["happened"] == happened).count()
    }

    async fn wait_for(&self, happened: &str) {
        self.provider.wait_for_output(&format!("{{\"happened\":\"{happened}\"")).await;
    }

    /// A browser of `user`, at the application.
    async fn logged_in(&self, user: &str) -> Page {
        let page = Page::visit(&self.app("/")).await;
        log_in(&page, user).await;
        page.see("body", "echo").await;
        page
    }

    async fn asks_to_log_in(&self, page: &Page) {
        page.go_to(&self.app("/")).await;
        page.see("h1", "Sign-in").await;
    }

    async fn log_out_at_the_provider(&self, page: &Page) {
        page.go_to(&format!("{}/session/end", self.issuer)).await;
        page.click("button", "Yes, sign me out").await;
        page.see("body", "Sign-out Success").await;
    }
}

async fn log_in(page: &Page, user: &str) {
    page.fill("Enter any login", user).await;
    page.fill("and password", "any").await;
    page.click("button", "Sign-in").await;
    page.click("button", "Continue").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_logs_in_stays_logged_in_and_logs_out() {
    let stage = Stage::start(2, true, Some(SECRET)).await;
    let page = Page::visit(&stage.app("/orders?id=7")).await;
    // Who thinks better of it is not let in.
    page.click("link", "[ Cancel ]").await;
    page.see("body", "the login failed").await;
    assert!(stage.upstream.take().is_empty());
    page.go_to(&stage.app("/orders?id=7")).await;
    log_in(&page, "alice").await;
    page.see("body", "echo").await;
    assert_eq!(page.run("location.href").await, stage.app("/orders?id=7"));
    let seen = stage.upstream.take();
    let (_, headers) = seen.iter().find(|(path, _)| path == "/orders?id=7").unwrap();
    let field = |name: &str| headers[name].to_str().unwrap();
    assert_eq!((field("x-user"), field("x-email")), ("alice", "alice@example.com"));
    assert_eq!(field("x-groups").split(',').count(), 120);
    assert!(!headers.contains_key("cookie"), "the session is not the upstream's: {headers:?}");
    let cookies = page.cookies(&stage.app).await;
    let of_session = |cookie: &&Value| {
        let name = cookie["name"].as_str().unwrap();
        name == "__Host-session" || name.starts_with("__Host-session.")
    };
    let ours: Vec<_> = cookies.iter().filter(of_session).collect();
    let is_safe = |cookie: &&Value| {
        cookie["httpOnly"] == true && cookie["secure"] == true && cookie["sameSite"] == "Lax"
    };
    assert!(ours.len() > 2 && ours.iter().all(is_safe), "{ours:?}");
    assert_eq!(page.run("document.cookie").await, "");

    // Several requests at once, again and again: the provider takes each refresh token once, and would take a second use for theft.
    let requests = "Promise.all([...Array(8)].map(() => fetch('/api').then(answer => answer.status)))";
    within_deadline("three renewals", async {
        while stage.count("refresh_token") < 3 {
            assert_eq!(page.run(requests).await, json!([200, 200, 200, 200, 200, 200, 200, 200]));
        }
    })
    .await;
    assert_eq!([stage.count("grant refused"), stage.count("grant revoked")], [0, 0]);
    assert_eq!(stage.count("authorization_code"), 1);

    // Another site cannot log her out.
    page.go_to(&format!("{}/jwks", stage.issuer)).await;
    page.run(&format!("void setTimeout(() => location.assign('{}'))", stage.app("/logout"))).await;
    page.see("body", "this request is not allowed here").await;
    page.go_to(&stage.app("/")).await;
    page.see("body", "echo").await;

    page.run("void setTimeout(() => location.assign('/logout'))").await;
    page.click("button", "Yes, sign me out").await;
    page.see("body", "You are logged out").await;
    assert_eq!(page.run("location.href").await, stage.app("/bye"));
    stage.wait_for("logged out").await;
    assert!(!page.cookies(&stage.app).await.iter().any(|cookie| of_session(&cookie)));
    stage.asks_to_log_in(&page).await;
    assert_eq!(metric(&stage.gateway, "tidegate_oidc_total", &["result=\"logged_in\""]).await, 1.0);
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ended_at_the_provider_is_over_here() {
    for (by_session, secret) in [(true, Some(SECRET)), (false, None)] {
        let stage = Stage::start(3600, by_session, secret).await;
        let first = stage.logged_in("alice").await;
        let second = stage.logged_in("alice").await;
        let other = stage.logged_in("bob").await;
        stage.log_out_at_the_provider(&first).await;
        stage.wait_for("backchannel").await;
        assert_eq!(stage.count("backchannel failed"), 0, "{}", stage.provider.output());
        stage.asks_to_log_in(&first).await;
        stage.gateway.wait_for_line(|line| line["detail"] == "logged_out").await;
        second.go_to(&stage.app("/")).await;
        if by_session {
            // That was another browser, with a session of its own; and she can come back at once.
            second.see("body", "echo").await;
            log_in(&first, "alice").await;
            first.see("body", "echo").await;
        } else {
            // There she is still logged in at the provider.
            second.see("h1", "Authorize").await;
        }
        other.go_to(&stage.app("/")).await;
        other.see("body", "echo").await;
        for page in [first, second, other] {
            page.close().await;
        }
    }
}
