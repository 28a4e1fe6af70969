//! What the operator chooses of the series: the buckets of their histograms, and labels that cost many series.

use std::{sync::Arc, time::Duration};

use super::{histogram::Buckets, route::Totals};

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Upper bounds of the buckets of durations, ascending.
    pub durations: Vec<Duration>,
    /// The same of sizes, in bytes.
    pub sizes: Vec<u64>,
    /// Whether requests are told apart by their method.
    pub by_method: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        let micros = [
            500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
            2_500_000, 10_000_000, 60_000_000,
        ];
        Settings {
            durations: micros.map(Duration::from_micros).into(),
            // 256 B to 1 GiB.
            sizes: (0..12).map(|step| 256 << (2 * step)).collect(),
            by_method: false,
        }
    }
}

/// The settings as they are used.
pub(super) struct Shape {
    settings: Settings,
    pub(super) durations: Arc<Buckets>,
    pub(super) sizes: Arc<Buckets>,
    /// Of all that have had any shape.
    pub(super) totals: Arc<Totals>,
}

impl Shape {
    pub(super) fn new(settings: Settings, totals: Arc<Totals>) -> Shape {
        Shape {
            totals,
            durations: Arc::new(Buckets::of_durations(&settings.durations)),
            sizes: Arc::new(Buckets::of_sizes(&settings.sizes)),
            settings,
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// The methods that have a name of their own in metrics and spans: clients may make up any others.
const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

/// `None` for one that a client has made up.
pub fn known_method(method: &str) -> Option<&'static str> {
    METHODS.into_iter().find(|known| *known == method)
}

/// A method as a label; none where methods are not told apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MethodLabel(u8);

impl MethodLabel {
    pub(super) fn new(method: &str, shape: &Shape) -> MethodLabel {
        if !shape.settings.by_method {
            return MethodLabel(0);
        }
        let known = METHODS.iter().position(|known| *known == method);
        MethodLabel(known.unwrap_or(METHODS.len()) as u8 + 1)
    }

    pub(super) fn text(self) -> Option<&'static str> {
        let place = usize::from(self.0).checked_sub(1)?;
        Some(METHODS.get(place).copied().unwrap_or("other"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_a_label_only_where_it_is_asked_for_and_never_a_made_up_one() {
        let shape = |by_method| Shape::new(Settings { by_method, ..Settings::default() }, Arc::default());
        let labels = |shape| ["GET", "TRACE", "get", "PURGE"].map(|m| MethodLabel::new(m, &shape).text());
        assert_eq!(labels(shape(false)), [None; 4]);
        assert_eq!(labels(shape(true)), [Some("GET"), Some("TRACE"), Some("other"), Some("other")]);
    }
}
