//! Which route a request would take, and why not another.

use http::{HeaderName, HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;

use super::read_json;
use crate::{
    admin::{
        State,
        orders::no_such,
        refused::{Reason, Refused},
    },
    api::reply::{self, Reply},
    snapshot::explain::{Asked, Question as Asking, read_method, read_url},
};

/// More header fields than any client sends.
const MOST_HEADERS: usize = 100;

/// A request that is not sent.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::admin) struct Question {
    #[serde(default = "get")]
    method: String,
    /// `http://HOST/PATH`, or a path.
    url: String,
    /// Names and values.
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// By name or address; all without it.
    #[serde(default)]
    listener: Option<String>,
}

fn get() -> String {
    "GET".to_owned()
}

pub(in crate::admin) fn answer(state: &State, body: &[u8]) -> Result<Reply, Refused> {
    let question: Question = read_json(body)?;
    let bad = |what: &str, why: String| Reason::BadRequest.because(format!("{what}: {why}"));
    let method = read_method(&question.method).map_err(|why| bad("method", why))?;
    let url = read_url(&question.url).map_err(|why| bad("url", why))?;
    if question.headers.len() > MOST_HEADERS {
        return Err(bad("headers", format!("more than {MOST_HEADERS} are not looked at")));
    }
    let mut headers = Vec::new();
    for (name, value) in &question.headers {
        let name: HeaderName =
            name.parse().map_err(|_| bad("headers", format!("{name:?} is not a header's name")))?;
        let value: HeaderValue = value
            .parse()
            .map_err(|_| bad("headers", format!("the value of {name} is not one of a header")))?;
        headers.push((name, value));
    }
    let snapshot = state.current.pin();
    let asked = Asked::snapshot(&snapshot);
    let listener = question.listener.as_deref();
    let explained = asked.explain(&Asking { method: &method, url: &url, headers: &headers }, listener);
    if let Some(listener) = listener
        && explained.refused.is_none()
        && explained.listeners.is_empty()
    {
        let known = asked.listeners.iter().map(|listener| listener.name);
        return Err(Reason::NotFound.because(no_such("listener of HTTP", listener, known)));
    }
    Ok(reply::json(StatusCode::OK, &explained))
}
