//! What is wrong with a configuration that somebody has written, without putting it in force.

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    admin::{
        State,
        journal::PlacedProblem,
        refused::{Reason, Refused},
    },
    api::reply::{self, Reply},
};

/// Nothing is read for it: no file, no variable of this machine.
#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct CheckedConfig {
    valid: bool,
    problems: Vec<PlacedProblem>,
    warnings: Vec<PlacedProblem>,
    /// What a reload would change, in words, where it is valid.
    changes: Option<String>,
}

pub(in crate::admin) fn answer(state: &State, body: &[u8]) -> Result<Reply, Refused> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let at = error.valid_up_to();
        Reason::BadRequest
            .because(format!("the body is not UTF-8 text from byte {at} on (send YAML or JSON)"))
    })?;
    let checked = state.process.check(text);
    let valid = checked.problems.is_empty();
    let (problems, warnings, changes) = (checked.problems, checked.warnings, checked.changes);
    Ok(reply::json(StatusCode::OK, &CheckedConfig { valid, problems, warnings, changes }))
}
