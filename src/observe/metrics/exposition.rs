//! The Prometheus text format, version 0.0.4.
//! Written directly: a scrape of ten thousand busy routes is two hundred thousand lines, and the `prometheus`
//! crate would first build a tree that owns a copy of every label's name and value.

use std::fmt::{Display, Write as _};

use super::histogram::Reading;

/// Text in the making: a family is named, then its samples follow. A family without samples leaves no trace.
#[derive(Default)]
pub(super) struct Exposition {
    text: String,
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    headed: bool,
}

impl Exposition {
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) {
        self.family(name, help, "counter");
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) {
        self.family(name, help, "gauge");
    }

    pub(super) fn histogram(&mut self, name: &'static str, help: &'static str) {
        self.family(name, help, "histogram");
    }

    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.head();
        self.line("", labels, None, value);
    }

    pub(super) fn distribution(&mut self, labels: &[(&str, &str)], reading: &Reading<'_>) {
        self.head();
        for (bound, count) in reading.buckets() {
            self.line("_bucket", labels, Some(("le", bound)), count);
        }
        self.line("_sum", labels, None, reading.sum);
        self.line("_count", labels, None, reading.count());
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn family(&mut self, name: &'static str, help: &'static str, kind: &'static str) {
        (self.name, self.help, self.kind, self.headed) = (name, help, kind, false);
    }

    fn head(&mut self) {
        if !self.headed {
            self.headed = true;
            // Writing into a string cannot fail, here and below.
            let _ = writeln!(self.text, "# HELP {0} {1}\n# TYPE {0} {2}", self.name, self.help, self.kind);
        }
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        last: Option<(&str, &str)>,
        value: impl Display,
    ) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let mut before = '{';
        for (name, value) in labels.iter().copied().chain(last) {
            self.text.push(before);
            before = ',';
            self.text.push_str(name);
            self.text.push_str("=\"");
            self.escape(value);
            self.text.push('"');
        }
        if before == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    fn escape(&mut self, value: &str) {
        if !value.contains(['\\', '"', '\n']) {
            return self.text.push_str(value);
        }
        for c in value.chars() {
            match c {
                '\n' => self.text.push_str("\\n"),
                '\\' | '"' => self.text.extend(['\\', c]),
                c => self.text.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_headed_once_and_only_with_samples() {
        let mut out = Exposition::default();
        out.counter("a_total", "Unused.");
        out.gauge("b", "Used.");
        out.sample(&[], 1);
        out.sample(&[("x", "1"), ("y", "")], -2);
        assert_eq!(out.into_text(), "# HELP b Used.\n# TYPE b gauge\nb 1\nb{x=\"1\",y=\"\"} -2\n");
    }

    #[test]
    fn label_values_are_escaped() {
        let mut out = Exposition::default();
        out.gauge("b", "Help.");
        out.sample(&[("x", "^/u/\\d+\"\n")], 1);
        assert!(out.into_text().ends_with("b{x=\"^/u/\\\\d+\\\"\\n\"} 1\n"));
    }
}
