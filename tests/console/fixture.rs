//! A gateway as an operator may have one: a route with two endpoints, a canary, a redirect, plain answers.

use crate::support::{Backend, Gateway, get};

pub(crate) struct Stage {
    pub(crate) gateway: Gateway,
    /// The two endpoints of `users`.
    pub(crate) users: [Backend; 2],
    sides: [Backend; 2],
}

/// The configuration, with `admin` in its section and `more` at its end.
pub(crate) fn yaml(admin: &str, users: &[&Backend], sides: &[&Backend], more: &str) -> String {
    let of = |backends: &[&Backend]| {
        let addresses: Vec<_> = backends.iter().map(|backend| format!("'{}'", backend.address())).collect();
        addresses.join(", ")
    };
    format!(
        "admin: {{address: '127.0.0.1:0', {admin}}}
listeners: [{{name: main, address: '127.0.0.1:0'}}]
routes:
- {{name: users, match: {{path: /users, methods: [GET]}}, filters: [{{headers: {{response: {{set: {{x-a: b}}}}}}}}, {{rewrite: {{path: /}}}}], upstream: users}}
- {{name: search, match: {{path: /search}}, canary: {{stable: v1, candidate: v2, start: 10%, step: 10%, every: 10m, require: {{success_rate: 90%, min_requests: 5}}}}}}
- {{name: old, match: {{path: /old}}, redirect: {{to: /users}}}}
- {{name: closed, match: {{path: /closed}}, respond: {{status: 403, body: no}}}}
upstreams:
  users:
    endpoints: [{}]
    health_check: {{tcp: {{}}, interval: 100ms, timeout: 1s, unhealthy_after: 1, healthy_after: 1}}
    circuit_breaker: {{}}
  v1: {{endpoints: ['{}']}}
  v2: {{endpoints: ['{}']}}
{more}",
        of(users),
        sides[0].address(),
        sides[1].address(),
    )
}

impl Stage {
    pub(crate) async fn start() -> Stage {
        Stage::with("", "").await
    }

    /// With more in `admin`, and more at the end of the file.
    pub(crate) async fn with(admin: &str, more: &str) -> Stage {
        let users = [Backend::named("one").await, Backend::named("two").await];
        let sides = [Backend::named("stable").await, Backend::named("candidate").await];
        let yaml = yaml(admin, &[&users[0], &users[1]], &[&sides[0], &sides[1]], more);
        let gateway = Gateway::start(&yaml).await;
        Stage { gateway, users, sides }
    }

    /// Its file, as it was given, with something replaced.
    pub(crate) fn file(&self, from: &str, to: &str) -> String {
        let text = std::fs::read_to_string(self.gateway.directory().join("gateway.yaml")).unwrap();
        assert!(text.contains(from), "{text}");
        text.replace(from, to)
    }

    /// Asks for each of these, so that there is something to see.
    pub(crate) async fn ask(&self, paths: &[&str]) {
        for path in paths {
            get(self.gateway.address("main"), path).await;
        }
    }

    pub(crate) async fn kill_candidate(&self) {
        self.sides[1].kill().await;
    }

    pub(crate) async fn warm(&self) {
        self.ask(&["/users/1", "/users/2", "/search", "/search?q=a", "/old", "/closed", "/none"]).await;
    }
}
