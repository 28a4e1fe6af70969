//! The control plane over real sockets.

mod announcing;
mod authority;
mod cli;
mod configs;
mod configs_kept;
mod configured;
pub(crate) mod etcd;
mod fixture;
mod gateway;
mod grpc;
mod joined;
mod outage;
mod refusals;
mod registered;
mod rest;
mod state;
mod tls;
mod watch;

use std::{net::SocketAddr, sync::OnceLock};

use serde_json::{Value, json};

use crate::support::{Answer, DEADLINE, Gateway, get, send};

/// A control plane, and what its own description says of it.
pub(crate) struct Plane {
    pub(crate) gateway: Gateway,
    described: OnceLock<Value>,
}

impl Plane {
    /// With all defaults.
    pub(crate) async fn start() -> Plane {
        Plane::with("").await
    }

    /// With more in `control.serve`.
    pub(crate) async fn with(serve: &str) -> Plane {
        Plane::of(Gateway::start(&yaml(serve)).await)
    }

    pub(crate) fn of(gateway: Gateway) -> Plane {
        Plane { gateway, described: OnceLock::new() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.gateway.address("control")
    }

    /// An answer, which must be one that the API describes.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        self.ask_with(method, path, &[], body).await
    }

    pub(crate) async fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let answer = send(self.address(), method, path, headers, body.to_owned()).await;
        if self.described.get().is_none() {
            let described = get(self.address(), "/v1/openapi.json").await.assert_status(200).json();
            let _ = self.described.set(described);
        }
        self.check_described(method, path, &answer);
        answer
    }

    fn check_described(&self, method: &str, path: &str, answer: &Answer) {
        let described = &self.described.get().unwrap()["paths"];
        let path = path.split('?').next().unwrap();
        // Which is GET without a body.
        let method = if method == "HEAD" { "GET" } else { method };
        let is_template = |template: &str| {
            template.split('/').count() == path.split('/').count()
                && template.split('/').zip(path.split('/')).all(|(t, p)| t.starts_with('{') || t == p)
        };
        let found = described.as_object().unwrap().iter().find(|(template, _)| is_template(template));
        let operation = found.map(|(_, operations)| &operations[method.to_lowercase()]);
        let Some(operation) = operation.filter(|operation| !operation.is_null()) else {
            assert!(answer.status.is_client_error(), "{method} {path} is not described: {answer:?}");
            return;
        };
        let status = answer.status.as_u16().to_string();
        let answers = &operation["responses"];
        let described = if answers[&status].is_null() { &answers["4XX"] } else { &answers[&status] };
        assert!(answers[&status].is_object() || answer.status.is_client_error(), "{method} {path}: {status}");
        let content_type = answer.header("content-type").unwrap_or_default().split(';').next().unwrap();
        let content = described["content"].as_object().unwrap();
        assert!(content.contains_key(content_type) || content.is_empty(), "{method} {path}: {content_type}");
    }

    pub(crate) async fn register(&self, name: &str, port: u16) -> Value {
        let body = json!({"name": name, "address": format!("127.0.0.1:{port}")}).to_string();
        let answer = self.ask("POST", "/v1/services", &body).await;
        assert!(answer.status.is_success(), "{answer:?}");
        answer.json()
    }

    /// The ids of those that are there, and what is asked for beside them.
    pub(crate) async fn list(&self, query: &str) -> Vec<String> {
        let list = self.ask("GET", &format!("/v1/services{query}"), "").await.assert_status(200).json();
        let ids = list["instances"].as_array().unwrap().iter();
        ids.map(|instance| instance["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until the instance is in this state, or is gone where that is `None`.
    pub(crate) async fn wait_for(&self, id: &str, state: Option<&str>) {
        let mut last = None;
        let reached = async {
            loop {
                let answer = get(self.address(), &format!("/v1/services/{id}")).await;
                last = answer.json()["state"].as_str().map(str::to_owned);
                if last.as_deref() == state {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(DEADLINE, reached).await.is_err() {
            panic!("{id} is {last:?} and not {state:?}");
        }
    }
}

/// A control plane on a port of its own, and no listener.
pub(crate) fn yaml(serve: &str) -> String {
    format!("admin: {{address: '127.0.0.1:0'}}\ncontrol: {{serve: {{address: '127.0.0.1:0', {serve}}}}}\n")
}

/// A refusal says why, in the form of RFC 9457.
#[track_caller]
pub(crate) fn assert_refused(answer: &Answer, status: u16, reason: &str, says: &str) {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let problem = answer.assert_status(status).json();
    assert_eq!((&problem["reason"], &problem["status"]), (&json!(reason), &json!(status)), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(says), "{problem}");
    assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{problem}");
}
