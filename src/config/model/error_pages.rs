//! `error_pages`: what clients read in the place of the gateway's own short answers, and of an upstream's errors where that is asked for.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::short_forms::or_html;

/// By what they are for: a reason (`no_route`), a status (`404`) or a class (`5xx`). The nearest of them is sent: by reason, then by
/// status, then by class.
pub type ErrorPages = BTreeMap<String, ErrorPage>;

/// At least one of `html` and `json`; what the client's `Accept` prefers is sent. A bare string is the `html`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", default, deny_unknown_fields)]
#[schemars(transform = or_html)]
pub struct ErrorPage {
    /// The page, with placeholders such as `{status}` and `{request_id}`; `${file:404.html}` is what a file holds.
    pub html: Option<String>,
    /// The same for clients that ask for JSON.
    pub json: Option<String>,
    /// Also sent in the place of what an upstream answers with such a status.
    pub upstream: bool,
}
