//! What the API shows, one file for each resource, as types whose fields are the JSON's. Each answer is made from one pinned
//! snapshot, so it is about one configuration. What comes from the operator's file is taken from its redacted form.

pub(super) mod canaries;
pub(super) mod certificates;
pub(super) mod check;
pub(super) mod config;
pub(super) mod control;
pub(super) mod endpoints;
pub(super) mod explain;
pub(super) mod history;
pub(super) mod maintenance;
pub(super) mod me;
pub(super) mod overview;
pub(super) mod plugins;
pub(super) mod reloads;
pub(super) mod routes;
pub(super) mod topology;
pub(super) mod upstreams;

use serde::de::DeserializeOwned;

use super::refused::{Reason, Refused};

/// # Errors
///
/// It is not the JSON that is wanted.
fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| {
        let hint = match error.classify() {
            serde_json::error::Category::Data => "",
            _ => " (send JSON)",
        };
        Reason::BadRequest.because(format!("{error}{hint}"))
    })
}
