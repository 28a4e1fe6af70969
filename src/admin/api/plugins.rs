//! Plugins, and how each fares.

use http::StatusCode;

use crate::{
    admin::{State, refused::Refused, router::Asked},
    api::reply::{self, Reply},
};

#[cfg(feature = "wasm")]
pub(in crate::admin) fn list(state: &State, _: &Asked) -> Result<Reply, Refused> {
    use serde_json::{Value, json};

    let snapshot = state.current.pin();
    let reports = snapshot.filters.plugin_reports();
    let shown = reports.iter().map(|(name, file, report)| {
        let timings = state.recorder.metrics.plugin(name).timings();
        let mut shown = json!({
            "name": name,
            "file": file,
            "calls": timings.calls,
            "timed": timings.timed,
            "mean_us": timings.mean_us,
            "p99_below_us": timings.p99_below_us,
        });
        if let (Value::Object(shown), Ok(Value::Object(report))) = (&mut shown, serde_json::to_value(report))
        {
            shown.extend(report);
        }
        shown
    });
    Ok(reply::json(StatusCode::OK, &shown.collect::<Vec<_>>()))
}

#[cfg(not(feature = "wasm"))]
pub(in crate::admin) fn list(_: &State, _: &Asked) -> Result<Reply, Refused> {
    Ok(reply::json(StatusCode::OK, &[(); 0]))
}
