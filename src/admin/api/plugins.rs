//! Plugins, and how each fares.

use http::StatusCode;

#[cfg(feature = "wasm")]
use crate::observe::metrics::PluginTimings;
use crate::{
    admin::{State, refused::Refused, router::Asked},
    api::reply::{self, Reply},
};

#[cfg(feature = "wasm")]
pub(in crate::admin) fn list(state: &State, _: &Asked) -> Result<Reply, Refused> {
    let snapshot = state.current.pin();
    let reports = snapshot.filters.plugin_reports();
    let shown = reports.into_iter().map(|(name, file, report)| {
        let timings = state.recorder.metrics.plugin(&name).timings();
        let PluginTimings { calls, timed, mean_us, p99_below_us } = timings;
        Shown { name, file, report, calls, timed, mean_us, p99_below_us }
    });
    Ok(reply::json(StatusCode::OK, &shown.collect::<Vec<_>>()))
}

/// In the order in which it is read.
#[cfg(feature = "wasm")]
#[derive(serde::Serialize)]
struct Shown<R> {
    name: String,
    file: std::path::PathBuf,
    #[serde(flatten)]
    report: R,
    calls: u64,
    timed: u64,
    mean_us: Option<f64>,
    p99_below_us: Option<f64>,
}

#[cfg(not(feature = "wasm"))]
pub(in crate::admin) fn list(_: &State, _: &Asked) -> Result<Reply, Refused> {
    Ok(reply::json(StatusCode::OK, &[(); 0]))
}
