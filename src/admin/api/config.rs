//! Where the objects of the configuration stand in the files, and what was not taken last.

use std::collections::BTreeMap;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    admin::{
        State,
        journal::{Rejected, hash},
        refused::Refused,
        router::Asked,
    },
    api::reply::{self, Reply},
};

#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct ConfigPlaces {
    /// `file:line:column` by `routes/NAME`, `upstreams/NAME`, `listeners/NAME`, `filters/NAME` and `plugins/NAME`.
    places: BTreeMap<String, String>,
    hash: String,
    /// Null where the last reload was taken.
    rejected: Option<Rejected>,
}

pub(in crate::admin) fn places(state: &State, _: &Asked) -> Result<Reply, Refused> {
    let snapshot = state.current.pin();
    let routes = snapshot.routes.iter().enumerate();
    let routes = routes
        .filter_map(|(index, route)| Some((format!("routes/{}", route.name), snapshot.places.route(index)?)));
    let others = snapshot.places.others().map(|(name, place)| (name.to_owned(), place));
    let places = ConfigPlaces {
        places: routes.chain(others).collect(),
        hash: hash(snapshot.hash),
        rejected: state.journal.last_rejected(),
    };
    Ok(reply::json(StatusCode::OK, &places))
}
