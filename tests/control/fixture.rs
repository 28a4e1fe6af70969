//! A control plane, instances at it, and gateways that have joined.

use std::{net::SocketAddr, time::Duration};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Answer, Gateway, get, own_address, send};

/// Paces questions; whatever is waited for happens by itself.
const PAUSE: Duration = Duration::from_millis(10);

/// A control plane that listens nowhere else. `more` stands in its configuration, a line each.
pub(super) async fn plane(more: &str) -> Gateway {
    plane_at(own_address(), more).await
}

/// One at the address of another that is gone.
pub(super) async fn plane_at(address: SocketAddr, more: &str) -> Gateway {
    let admin = "admin: {address: '127.0.0.1:0'}";
    Gateway::start(&format!("{admin}\ncontrol: {{serve: {{address: '{address}'}}}}\n{more}\n")).await
}

/// Ends it at once.
pub(super) async fn kill(plane: &Gateway) {
    plane.signal(Signal::SIGKILL);
    plane.wait_exit().await;
}

pub(super) fn at(plane: &Gateway) -> SocketAddr {
    plane.address("control")
}

/// Registers an instance of `users` at `address`, with what more is said of it; its id.
pub(super) async fn register(plane: &Gateway, address: SocketAddr, more: Value) -> String {
    let mut body = json!({"name": "users", "address": address.to_string(), "ttl": "1h"});
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let answer = ask(plane, "POST", "/v1/services", body.to_string()).await;
    assert!(answer.status.is_success(), "{answer:?}");
    answer.json()["id"].as_str().unwrap().to_owned()
}

pub(super) async fn deregister(plane: &Gateway, id: &str) {
    ask(plane, "DELETE", &format!("/v1/services/{id}"), String::new()).await.assert_status(204);
}

pub(super) async fn heartbeat(plane: &Gateway, id: &str, body: Value) {
    ask(plane, "PUT", &format!("/v1/services/{id}/heartbeat"), body.to_string()).await.assert_status(200);
}

async fn ask(plane: &Gateway, method: &str, path: &str, body: String) -> Answer {
    let json = [("content-type", "application/json")];
    send(at(plane), method, path, if body.is_empty() { &[] } else { &json }, body).await
}

/// Who is registered as `service`, by id and state.
pub(super) async fn registered(plane: &Gateway, service: &str) -> Vec<(String, String)> {
    let list = get(at(plane), &format!("/v1/services?name={service}")).await.json();
    let of = |field: &Value| field.as_str().unwrap_or_default().to_owned();
    let services = list["instances"].as_array().unwrap_or_else(|| panic!("{list}"));
    services.iter().map(|one| (of(&one["id"]), of(&one["state"]))).collect()
}

/// Waits until those of `service` are in these states.
pub(super) async fn until_registered(plane: &Gateway, service: &str, states: &[&str]) {
    let mut last = Vec::new();
    let reached = async {
        loop {
            last = registered(plane, service).await;
            if last.iter().map(|(_, state)| state.as_str()).eq(states.iter().copied()) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    if tokio::time::timeout(crate::support::DEADLINE, reached).await.is_err() {
        panic!("{service} is {last:?} and not {states:?}");
    }
}

/// A gateway with a listener `main` that sends all to the upstream `users`, whose endpoints are these.
pub(super) fn joining(server: SocketAddr, endpoints: &str, more: &str) -> String {
    format!(
        "admin: {{address: '127.0.0.1:0'}}\ncontrol:\n  join: {{servers: ['{server}'], wait: 300ms}}\n{more}\n\
         listeners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes: [{{upstream: users}}]\n\
         upstreams: {{users: {{endpoints: [{endpoints}]}}}}\n"
    )
}

/// All instances of the service `users`.
pub(super) const USERS: &str = "{registry: users}";

/// The endpoints of the first upstream, by name and weight.
pub(super) async fn endpoints(gateway: &Gateway) -> Vec<(String, u64)> {
    let upstreams = get(gateway.admin(), "/upstreams").await.json();
    let endpoints = upstreams[0]["endpoints"].as_array().unwrap();
    let of = |one: &Value| (one["name"].as_str().unwrap().to_owned(), one["weight"].as_u64().unwrap());
    let mut all: Vec<_> = endpoints.iter().map(of).collect();
    all.sort();
    all
}

/// Waits until they are these.
pub(super) async fn until_endpoints(gateway: &Gateway, expected: &[(SocketAddr, u64)]) {
    let mut expected: Vec<_> = expected.iter().map(|(at, weight)| (at.to_string(), *weight)).collect();
    expected.sort();
    let mut last = Vec::new();
    let reached = async {
        loop {
            last = endpoints(gateway).await;
            if last == expected {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    if tokio::time::timeout(crate::support::DEADLINE, reached).await.is_err() {
        panic!("endpoints are {last:?} and not {expected:?}");
    }
}
