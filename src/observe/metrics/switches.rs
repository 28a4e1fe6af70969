//! The series of switches, such as those of maintenance: rare, so through the `prometheus` crate.

use std::path::Path;

use prometheus::{IntGaugeVec, Opts, Registry};

use super::{distinct, register};

/// Cheap to clone.
#[derive(Clone)]
pub struct SwitchMetrics {
    on: IntGaugeVec,
}

impl SwitchMetrics {
    pub(super) fn new(registry: &Registry) -> SwitchMetrics {
        let help = "Whether a maintenance switch is on, by its name and the file that it follows.";
        let labels = &["switch", "file"];
        SwitchMetrics {
            on: register(
                registry,
                distinct(IntGaugeVec::new(Opts::new("tidegate_maintenance_on", help), labels)),
            ),
        }
    }

    pub fn show(&self, switch: &str, file: Option<&Path>, is_on: bool) {
        self.on.with_label_values(&[switch, &shown(file)]).set(is_on.into());
    }

    /// Nobody looks at it any more.
    pub fn forget(&self, switch: &str, file: Option<&Path>) {
        // There is none where it never was in force.
        let _ = self.on.remove_label_values(&[switch, &shown(file)]);
    }
}

fn shown(file: Option<&Path>) -> String {
    file.map(|file| file.display().to_string()).unwrap_or_default()
}
