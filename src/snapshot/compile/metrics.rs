//! What the operator chooses of the metrics.

use std::time::Duration;

use super::Compiler;
use crate::{config::Path, observe::metrics::Settings};

/// Each is a series of every route in use.
const MOST_BUCKETS: usize = 30;

/// Durations are counted in microseconds.
const SHORTEST: Duration = Duration::from_micros(1);

impl Compiler<'_> {
    pub(super) fn metrics(&mut self) -> Settings {
        let written = &self.config.metrics;
        let at = Path::root().key("metrics").key("buckets");
        let mut settings = Settings { by_method: written.labels.method, ..Settings::default() };
        if let Some(durations) = &written.buckets.duration {
            settings.durations = durations.iter().map(|bound| bound.as_std()).collect();
            self.buckets(&at.key("duration"), durations, |bound| bound.as_std() >= SHORTEST);
        }
        if let Some(sizes) = &written.buckets.size {
            settings.sizes = sizes.iter().map(|bound| bound.bytes()).collect();
            self.buckets(&at.key("size"), sizes, |bound| bound.bytes() > 0);
        }
        settings
    }

    fn buckets<T: PartialOrd + std::fmt::Display>(
        &mut self,
        at: &Path,
        bounds: &[T],
        is_large_enough: impl Fn(&T) -> bool,
    ) {
        // What could not be read is missing here.
        if self.sources.is_doubtful(at) {
            return;
        }
        if bounds.is_empty() || bounds.len() > MOST_BUCKETS {
            let why = format!("there are {} buckets, and there must be 1 to {MOST_BUCKETS}", bounds.len());
            self.refuse_with_hint(at, why, "leave the key out for the default");
        }
        for (place, bound) in bounds.iter().enumerate() {
            let at = at.index(place);
            if !is_large_enough(bound) {
                self.refuse_with_hint(
                    &at,
                    format!("{bound} is too small for a bucket"),
                    "start with a larger one",
                );
            }
            if let Some(before) = place.checked_sub(1).and_then(|before| bounds.get(before))
                && before >= bound
            {
                let why = format!("{bound} does not come after {before}");
                self.refuse_with_hint(&at, why, "write the upper bounds in ascending order, each once");
            }
        }
    }
}
