//! The series in one of the forms in which they are told: Prometheus' text format 0.0.4, OpenMetrics 1.0, or OTLP.
//! Written directly: a scrape of ten thousand busy routes is two hundred thousand lines, and the `prometheus`
//! crate would first build a tree that owns a copy of every label's name and value. It cannot write OpenMetrics at all.

use std::{
    borrow::Cow,
    fmt::{self, Display},
};

use prometheus::proto::{MetricFamily, MetricType};

use super::{format::Format, histogram::Distribution, points::Points, text::Text};
use crate::observe::otlp::Batch;

/// A family is named, then its samples follow. A family without samples leaves no trace.
pub(super) struct Exposition {
    form: Form,
    family: Family,
}

enum Form {
    Text(Text),
    Otlp(Points),
}

#[derive(Default)]
pub(super) struct Family {
    pub name: Cow<'static, str>,
    pub help: Cow<'static, str>,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Counter,
    Gauge,
    Histogram,
}

/// What a sample says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Count(u64),
    Level(i64),
    Real(f64),
}

impl Exposition {
    pub(super) fn text(format: Format) -> Exposition {
        Exposition { form: Form::Text(Text::new(format)), family: Family::default() }
    }

    pub(super) fn otlp(points: Points) -> Exposition {
        Exposition { form: Form::Otlp(points), family: Family::default() }
    }

    /// The name ends in `_total`.
    pub(super) fn counter(&mut self, name: impl Into<Cow<'static, str>>, help: impl Into<Cow<'static, str>>) {
        self.begin(Family { name: name.into(), help: help.into(), kind: Kind::Counter });
    }

    pub(super) fn gauge(&mut self, name: impl Into<Cow<'static, str>>, help: impl Into<Cow<'static, str>>) {
        self.begin(Family { name: name.into(), help: help.into(), kind: Kind::Gauge });
    }

    pub(super) fn histogram(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        help: impl Into<Cow<'static, str>>,
    ) {
        self.begin(Family { name: name.into(), help: help.into(), kind: Kind::Histogram });
    }

    /// What follows in this family is counted since then (nanoseconds since 1970). What says nothing is as old as the process.
    pub(super) fn since(&mut self, began: u64) {
        if let Form::Otlp(points) = &mut self.form {
            points.since(began);
        }
    }

    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Number>) {
        match &mut self.form {
            Form::Text(text) => text.sample(&self.family, labels, value.into()),
            Form::Otlp(points) => points.number(&self.family, labels, value.into()),
        }
    }

    pub(super) fn distribution(&mut self, labels: &[(&str, &str)], distribution: &Distribution<'_>) {
        match &mut self.form {
            Form::Text(text) => text.distribution(&self.family, labels, distribution),
            Form::Otlp(points) => points.distribution(&self.family, labels, distribution),
        }
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
                    MetricType::COUNTER => self.sample(&labels, metric.get_counter().get_value()),
                    MetricType::HISTOGRAM => self.distribution(&labels, &gathered(metric.get_histogram())),
                    _ => self.sample(&labels, metric.get_gauge().get_value()),
                }
            }
        }
    }

    /// Nothing, of OTLP.
    pub(super) fn into_text(self) -> String {
        match self.form {
            Form::Text(text) => text.end(),
            Form::Otlp(_) => String::new(),
        }
    }

    /// In parts that a collector takes. None, of text.
    pub(super) fn into_parts(self) -> Vec<Batch> {
        match self.form {
            Form::Text(_) => Vec::new(),
            Form::Otlp(points) => points.end(),
        }
    }

    fn begin(&mut self, family: Family) {
        self.family = family;
        match &mut self.form {
            Form::Text(text) => text.begin(),
            Form::Otlp(points) => points.begin(),
        }
    }
}

fn gathered(histogram: &prometheus::proto::Histogram) -> Distribution<'static> {
    let bounded = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
    let (bounds, mut counts): (Vec<f64>, Vec<u64>) =
        bounded.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).unzip();
    counts.push(histogram.get_sample_count());
    Distribution {
        texts: bounds.iter().map(f64::to_string).collect(),
        bounds: bounds.into(),
        counts,
        sum: histogram.get_sample_sum(),
        exemplars: Vec::new(),
    }
}

impl Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number::Count(count) => count.fmt(f),
            Number::Level(level) => level.fmt(f),
            Number::Real(f64::INFINITY) => f.write_str("+Inf"),
            Number::Real(f64::NEG_INFINITY) => f.write_str("-Inf"),
            Number::Real(value) => value.fmt(f),
        }
    }
}

impl From<u64> for Number {
    fn from(count: u64) -> Number {
        Number::Count(count)
    }
}

impl From<usize> for Number {
    fn from(count: usize) -> Number {
        Number::Count(count as u64)
    }
}

impl From<u8> for Number {
    fn from(count: u8) -> Number {
        Number::Count(count.into())
    }
}

impl From<i64> for Number {
    fn from(level: i64) -> Number {
        Number::Level(level)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Number {
        Number::Real(value)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use prometheus::{HistogramOpts, Registry, TextEncoder};

    use super::*;
    use crate::observe::metrics::{
        exemplar::Exemplar,
        histogram::{Buckets, Histogram},
    };

    #[test]
    fn families_are_headed_once_and_only_with_samples() {
        let mut out = Exposition::text(Format::Text);
        out.counter("a_total", "Unused.");
        out.gauge("b", "Used.");
        out.sample(&[], 1_u64);
        out.sample(&[("x", "1"), ("y", "")], -2_i64);
        assert_eq!(out.into_text(), "# HELP b Used.\n# TYPE b gauge\nb 1\nb{x=\"1\",y=\"\"} -2\n");
    }

    #[test]
    fn label_values_are_escaped() {
        let mut out = Exposition::text(Format::Text);
        out.gauge("b", "Help.");
        out.sample(&[("x", "^/u/\\d+\"\n")], 1_u64);
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
            let mut out = Exposition::text(format);
            out.counter("a_total", "All.");
            out.sample(&[("x", "1")], 2_u64);
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
        let mut out = Exposition::text(Format::OpenMetrics);
        out.families(&gathered());
        assert_eq!(
            out.into_text(),
            "# HELP g Boundless.\n# TYPE g gauge\ng 0.00000015\n# HELP h Times.\n# TYPE h histogram\n\
             h_bucket{le=\"1.0\"} 0\nh_bucket{le=\"+Inf\"} 1\nh_sum 2.5\nh_count 1\n\
             # HELP odd It has no \\\"total\\\".\n# TYPE odd unknown\nodd 0\n# EOF\n"
        );
        let mut out = Exposition::text(Format::Text);
        out.families(&gathered());
        assert_eq!(out.into_text(), TextEncoder::new().encode_to_string(&gathered()).unwrap());
    }
}
