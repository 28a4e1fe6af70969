//! The admin API, version 1: what it shows while requests flow, who may what, orders that carry what was seen, and streams.

mod bad_input;
mod orders;
mod roles;
mod streams;
mod views;

use serde_json::Value;

use crate::support::{Answer, Gateway, get, send, within_deadline};

const OPEN: &str = "{address: 127.0.0.1:0}";
/// An operator, and somebody who only looks.
const KEYS: &str = "{address: 127.0.0.1:0, tokens: [{name: alice, role: operator, token: alices-token}, \
     {name: wall, token: walls-token}]}";
const ALICE: (&str, &str) = ("authorization", "Bearer alices-token");
const WALL: (&str, &str) = ("authorization", "Bearer walls-token");

async fn ask(gateway: &Gateway, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    send(gateway.admin(), method, path, headers, body.to_owned()).await
}

/// GET of a path that is there.
async fn show(gateway: &Gateway, path: &str) -> Value {
    get(gateway.admin(), path).await.assert_status(200).json()
}

/// GET it again until it is as wanted: rates are of the last second that is over.
async fn show_until(gateway: &Gateway, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let waiting = async {
        loop {
            let shown = show(gateway, path).await;
            if wanted(&shown) {
                return shown;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within_deadline(path, waiting).await
}

#[track_caller]
fn assert_problem(answer: &Answer, status: u16, reason: &str) -> Value {
    let problem = answer.assert_status(status).json();
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{problem}");
    assert_eq!(
        (problem["reason"].as_str(), problem["status"].as_u64()),
        (Some(reason), Some(status.into())),
        "{problem}"
    );
    assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
    problem
}
