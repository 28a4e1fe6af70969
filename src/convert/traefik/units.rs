//! Durations of Traefik: those of Go, `1m30s`, or a number of seconds.

use crate::convert::{
    durations::{self, GO, written},
    fields::{Fields, Report},
};

/// As ours are written; `0s` for none.
pub(crate) fn duration(fields: &mut Fields<'_>, name: &str, report: &mut Report) -> Option<String> {
    let value = fields.take(name)?;
    let found = value.text().and_then(milliseconds).map(written);
    if found.is_none() {
        report.entry(name, value, "a duration such as 10s is expected here");
    }
    found
}

pub(crate) fn milliseconds(text: &str) -> Option<u64> {
    durations::milliseconds(text, &GO)
}
