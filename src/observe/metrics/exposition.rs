//! The text formats: Prometheus' 0.0.4, and OpenMetrics 1.0 for those who ask for it.
//! Written directly: a scrape of ten thousand busy routes is two hundred thousand lines, and the `prometheus`
//! crate would first build a tree that owns a copy of every label's name and value. It cannot write OpenMetrics at all.

use std::{
    borrow::Cow,
    fmt::{Display, Write as _},
};

use prometheus::proto::{MetricFamily, MetricType};

use super::{exemplar::Exemplar, format::Format, histogram::Reading};

type Text = Cow<'static, str>;

/// Text in the making: a family is named, then its samples follow. A family without samples leaves no trace.
#[derive(Default)]
pub(super) struct Exposition {
    format: Format,
    text: String,
    name: Text,
    help: Text,
    kind: &'static str,
    headed: bool,
}

impl Exposition {
    pub(super) fn new(format: Format) -> Exposition {
        Exposition { format, ..Exposition::default() }
    }

    /// The name ends in `_total`.
    pub(super) fn counter(&mut self, name: impl Into<Text>, help: impl Into<Text>) {
        self.family(name.into(), help.into(), "counter");
    }

    pub(super) fn gauge(&mut self, name: impl Into<Text>, help: impl Into<Text>) {
        self.family(name.into(), help.into(), "gauge");
    }

    pub(super) fn histogram(&mut self, name: impl Into<Text>, help: impl Into<Text>) {
        self.family(name.into(), help.into(), "histogram");
    }

    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.head();
        self.line("", labels, None, value, None);
    }

    pub(super) fn distribution(&mut self, labels: &[(&str, &str)], reading: &Reading<'_>) {
        self.head();
        for (place, (bound, count)) in reading.buckets().enumerate() {
            let exemplar = if self.is_open() { reading.exemplar(place) } else { None };
            self.bucket(labels, bound, count, exemplar);
        }
        self.line("_sum", labels, None, reading.sum, None);
        self.line("_count", labels, None, reading.count(), None);
    }

    /// What the `prometheus` crate has gathered.
    pub(super) fn families(&mut self, families: &[MetricFamily]) {
        for family in families {
            let (name, help) = (family.name().to_owned(), family.help().to_owned());
            match family.get_field_type() {
                MetricType::COUNTER => self.counter(name, help),
                MetricType::GAUGE => self.gauge(name, help),
                MetricType::HISTOGRAM => self.histogram(name, help),
                kind @ (MetricType::SUMMARY | MetricType::UNTYPED) => {
                    log::error!("{name} is missing from a scrape: nothing else is a {kind:?}");
                    continue;
                }
            }
            for metric in family.get_metric() {
                let labels: Vec<(&str, &str)> =
                    metric.get_label().iter().map(|label| (label.name(), label.value())).collect();
                match family.get_field_type() {
                    MetricType::COUNTER => self.sample(&labels, number(metric.get_counter().get_value())),
                    MetricType::HISTOGRAM => self.gathered(&labels, metric.get_histogram()),
                    _ => self.sample(&labels, number(metric.get_gauge().get_value())),
                }
            }
        }
    }

    pub(super) fn into_text(mut self) -> String {
        if self.is_open() {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn gathered(&mut self, labels: &[(&str, &str)], histogram: &prometheus::proto::Histogram) {
        self.head();
        let bounded = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
        for bucket in bounded {
            self.bucket(labels, &bucket.upper_bound().to_string(), bucket.cumulative_count(), None);
        }
        self.bucket(labels, "+Inf", histogram.get_sample_count(), None);
        self.line("_sum", labels, None, number(histogram.get_sample_sum()), None);
        self.line("_count", labels, None, histogram.get_sample_count(), None);
    }

    fn is_open(&self) -> bool {
        self.format == Format::OpenMetrics
    }

    fn family(&mut self, name: Text, help: Text, kind: &'static str) {
        (self.name, self.help, self.kind, self.headed) = (name, help, kind, false);
    }

    fn head(&mut self) {
        if std::mem::replace(&mut self.headed, true) {
            return;
        }
        let (name, help) = (self.name.clone(), self.help.clone());
        let (name, kind) = match (self.is_open(), self.kind) {
            (true, "counter") => match name.strip_suffix("_total") {
                Some(name) => (name, "counter"),
                None => (&*name, "unknown"),
            },
            (_, kind) => (&*name, kind),
        };
        // Writing into a string cannot fail, here and below.
        let _ = write!(self.text, "# HELP {name} ");
        match self.format {
            Format::Text => self.text.push_str(&help.replace('\\', "\\\\").replace('\n', "\\n")),
            Format::OpenMetrics => self.escape(&help),
        }
        let _ = writeln!(self.text, "\n# TYPE {name} {kind}");
    }

    fn bucket(
        &mut self,
        labels: &[(&str, &str)],
        bound: &str,
        count: u64,
        exemplar: Option<(Exemplar, f64)>,
    ) {
        // OpenMetrics writes bounds as numbers with a point.
        if self.is_open() && !bound.contains(['.', 'I']) {
            let bound = format!("{bound}.0");
            return self.line("_bucket", labels, Some(("le", &bound)), count, exemplar);
        }
        self.line("_bucket", labels, Some(("le", bound)), count, exemplar);
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        last: Option<(&str, &str)>,
        value: impl Display,
        exemplar: Option<(Exemplar, f64)>,
    ) {
        self.text.push_str(&self.name);
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

fn number(value: f64) -> Text {
    match value {
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        value => value.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use prometheus::{HistogramOpts, Registry, TextEncoder};

    use super::*;
    use crate::observe::metrics::histogram::{Buckets, Histogram};

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

    #[test]
    fn openmetrics_names_families_without_total_and_has_exemplars_and_an_end() {
        let histogram =
            Histogram::new(&Arc::new(Buckets::of_durations(&[500, 1000].map(Duration::from_millis))));
        let exemplar = Exemplar { trace: [0xab; 16], at: 1_700_000_000_005 };
        histogram.observe_time(Duration::from_millis(600), Some(exemplar));
        histogram.observe_time(Duration::from_millis(1), None);
        let written = |format| {
            let mut out = Exposition::new(format);
            out.counter("a_total", "All.");
            out.sample(&[("x", "1")], 2);
            out.histogram("h", "Times.");
            out.distribution(&[], &histogram.read());
            out.into_text()
        };
        let trace = "ab".repeat(16);
        assert_eq!(
            written(Format::OpenMetrics),
            format!(
                "# HELP a All.\n# TYPE a counter\na_total{{x=\"1\"}} 2\n# HELP h Times.\n# TYPE h histogram\n\
                 h_bucket{{le=\"0.5\"}} 1\nh_bucket{{le=\"1.0\"}} 2 # {{trace_id=\"{trace}\"}} 0.6 1700000000.005\n\
                 h_bucket{{le=\"+Inf\"}} 2\nh_sum 0.601\nh_count 2\n# EOF\n"
            )
        );
        assert_eq!(
            written(Format::Text),
            "# HELP a_total All.\n# TYPE a_total counter\na_total{x=\"1\"} 2\n# HELP h Times.\n# TYPE h histogram\n\
             h_bucket{le=\"0.5\"} 1\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 2\nh_sum 0.601\nh_count 2\n"
        );
    }

    fn gathered() -> Vec<MetricFamily> {
        let registry = Registry::new();
        let counter = prometheus::IntCounter::new("odd", "It has no \"total\".").unwrap();
        let gauge = prometheus::Gauge::new("g", "Boundless.").unwrap();
        let histogram =
            prometheus::Histogram::with_opts(HistogramOpts::new("h", "Times.").buckets(vec![1.0])).unwrap();
        gauge.set(1.5e-7);
        histogram.observe(2.5);
        registry.register(Box::new(counter)).unwrap();
        registry.register(Box::new(gauge)).unwrap();
        registry.register(Box::new(histogram)).unwrap();
        registry.gather()
    }

    #[test]
    fn what_others_gather_is_written_as_well() {
        let mut out = Exposition::new(Format::OpenMetrics);
        out.families(&gathered());
        assert_eq!(
            out.into_text(),
            "# HELP g Boundless.\n# TYPE g gauge\ng 0.00000015\n# HELP h Times.\n# TYPE h histogram\n\
             h_bucket{le=\"1.0\"} 0\nh_bucket{le=\"+Inf\"} 1\nh_sum 2.5\nh_count 1\n\
             # HELP odd It has no \\\"total\\\".\n# TYPE odd unknown\nodd 0\n# EOF\n"
        );
        let mut out = Exposition::new(Format::Text);
        out.families(&gathered());
        assert_eq!(out.into_text(), TextEncoder::new().encode_to_string(&gathered()).unwrap());
    }
}
