//! The text formats: Prometheus' 0.0.4, and OpenMetrics 1.0 for those who ask for it.

use std::fmt::{Display, Write as _};

use super::{
    exemplar::Exemplar,
    exposition::{Family, Kind, Number},
    format::Format,
    histogram::Distribution,
};

#[derive(Default)]
pub(super) struct Text {
    format: Format,
    text: String,
    /// The family that is being written has its head.
    headed: bool,
}

impl Text {
    pub(super) fn new(format: Format) -> Text {
        Text { format, ..Text::default() }
    }

    /// Another family follows.
    pub(super) fn begin(&mut self) {
        self.headed = false;
    }

    pub(super) fn sample(&mut self, family: &Family, labels: &[(&str, &str)], value: Number) {
        self.head(family);
        self.line(&family.name, "", labels, None, value, None);
    }

    pub(super) fn distribution(&mut self, family: &Family, labels: &[(&str, &str)], of: &Distribution<'_>) {
        self.head(family);
        for (place, (bound, count)) in of.buckets().enumerate() {
            let exemplar = of.exemplars.iter().find(|(bucket, ..)| *bucket == place && self.is_open());
            let exemplar = exemplar.map(|(_, exemplar, value)| (*exemplar, *value));
            self.bucket(&family.name, labels, bound, count, exemplar);
        }
        self.line(&family.name, "_sum", labels, None, Number::Real(of.sum), None);
        self.line(&family.name, "_count", labels, None, of.count(), None);
    }

    pub(super) fn end(mut self) -> String {
        if self.is_open() {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn is_open(&self) -> bool {
        self.format == Format::OpenMetrics
    }

    fn head(&mut self, family: &Family) {
        if std::mem::replace(&mut self.headed, true) {
            return;
        }
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let (name, kind) = match (self.is_open(), family.kind) {
            (true, Kind::Counter) => match family.name.strip_suffix("_total") {
                Some(name) => (name, kind),
                None => (&*family.name, "unknown"),
            },
            _ => (&*family.name, kind),
        };
        // Writing into a string cannot fail, here and below.
        let _ = write!(self.text, "# HELP {name} ");
        match self.format {
            Format::Text => self.text.push_str(&family.help.replace('\\', "\\\\").replace('\n', "\\n")),
            Format::OpenMetrics => self.escape(&family.help),
        }
        let _ = writeln!(self.text, "\n# TYPE {name} {kind}");
    }

    fn bucket(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        bound: &str,
        count: u64,
        exemplar: Option<(Exemplar, f64)>,
    ) {
        // OpenMetrics writes bounds as numbers with a point.
        if self.is_open() && !bound.contains(['.', 'I']) {
            let bound = format!("{bound}.0");
            return self.line(name, "_bucket", labels, Some(("le", &bound)), count, exemplar);
        }
        self.line(name, "_bucket", labels, Some(("le", bound)), count, exemplar);
    }

    fn line(
        &mut self,
        name: &str,
        suffix: &str,
        labels: &[(&str, &str)],
        last: Option<(&str, &str)>,
        value: impl Display,
        exemplar: Option<(Exemplar, f64)>,
    ) {
        self.text.push_str(name);
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
        let _ = write!(self.text, " {value}");
        if let Some((Exemplar { trace, at }, value)) = exemplar {
            let trace = u128::from_be_bytes(trace);
            let (seconds, millis) = (at / 1000, at % 1000);
            let _ = write!(self.text, " # {{trace_id=\"{trace:032x}\"}} {value} {seconds}.{millis:03}");
        }
        self.text.push('\n');
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
