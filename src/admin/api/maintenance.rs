//! The switches of `maintenance` filters: which are on, and why.

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    admin::{State, refused::Refused, router::Asked},
    api::reply::{self, Reply},
};

/// `GET /v1/maintenance`.
#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Maintenance {
    /// By name.
    switches: Vec<SwitchView>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
struct SwitchView {
    name: String,
    on: bool,
    /// `on`, `off`, or `auto`: the file says it.
    ordered: &'static str,
    /// The file that turns it on; null where only orders do.
    file: Option<String>,
    /// Whether that is there.
    file_is_there: Option<bool>,
}

impl Maintenance {
    /// All of them, or those of one name.
    pub(in crate::admin) fn of(state: &State, name: Option<&str>) -> Maintenance {
        let snapshot = state.current.pin();
        let all = snapshot.filters.switches().all();
        let named = all.iter().filter(|switch| name.is_none_or(|name| switch.name == name));
        let mut switches: Vec<SwitchView> = named
            .map(|switch| SwitchView {
                name: switch.name.clone(),
                on: switch.is_on(),
                ordered: switch.ordered().word(),
                file: switch.file().map(|(file, _)| file.display().to_string()),
                file_is_there: switch.file().map(|(_, is_there)| is_there),
            })
            .collect();
        switches.sort();
        Maintenance { switches }
    }
}

pub(in crate::admin) fn list(state: &State, _: &Asked) -> Result<Reply, Refused> {
    Ok(reply::json(StatusCode::OK, &Maintenance::of(state, None)))
}
