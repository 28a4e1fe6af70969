//! The series as points of metrics in OTLP (opentelemetry-proto, `metrics/v1/metrics.proto`): counters as monotonic sums,
//! gauges, and histograms with explicit bounds, all of them cumulative, under the names that they have for Prometheus.
//!
//! They are many where there are many routes, so they come in parts, each small enough for a collector that takes no more
//! than it must.

use serde_json::{Value, json};

use super::{
    exemplar::Exemplar,
    exposition::{Family, Kind, Number},
    histogram::Distribution,
};
use crate::observe::otlp::{
    Batch, Encoding, cut,
    queue::LARGEST_BATCH,
    wire::{bytes, close, double, fixed64, number, open, text_attribute},
};

/// `AGGREGATION_TEMPORALITY_CUMULATIVE`
const CUMULATIVE: u64 = 2;
/// The longest value of a label, in bytes: they are names that the operator has given.
const LONGEST_LABEL: usize = 1024;

pub(super) struct Points {
    encoding: Encoding,
    /// Nanoseconds since 1970: when the process began to count, when what is being written did, and now.
    start: u64,
    since: u64,
    now: u64,
    full: Vec<Batch>,
    filling: Batch,
    /// Where the metric begins that is being written, and its list of points.
    metric: Option<(usize, usize)>,
}

impl Points {
    pub(super) fn new(encoding: Encoding, start: u64, now: u64) -> Points {
        let (full, filling) = (Vec::new(), Batch::default());
        Points { encoding, start, since: start, now, full, filling, metric: None }
    }

    /// Another family follows.
    pub(super) fn begin(&mut self) {
        self.close_metric();
        self.since = self.start;
    }

    pub(super) fn since(&mut self, began: u64) {
        self.since = began;
    }

    pub(super) fn number(&mut self, family: &Family, labels: &[(&str, &str)], value: Number) {
        self.open_metric(family);
        // Levels have no beginning.
        let since = (family.kind == Kind::Counter).then_some(self.since);
        let now = self.now;
        match self.encoding {
            Encoding::Protobuf => self.protobuf(|out| {
                if let Some(since) = since {
                    fixed64(out, 2, since);
                }
                fixed64(out, 3, now);
                match value {
                    Number::Count(count) => fixed64(out, 6, count),
                    Number::Level(level) => fixed64(out, 6, level as u64),
                    Number::Real(value) => double(out, 4, value),
                }
                write_labels(out, 7, labels);
            }),
            Encoding::Json => {
                let mut point = json!({"attributes": json_labels(labels), "timeUnixNano": now.to_string()});
                if let Some(since) = since {
                    point["startTimeUnixNano"] = since.to_string().into();
                }
                match value {
                    Number::Count(count) => point["asInt"] = count.to_string().into(),
                    Number::Level(level) => point["asInt"] = level.to_string().into(),
                    Number::Real(value) => point["asDouble"] = json_double(value),
                }
                self.json(&point);
            }
        }
    }

    pub(super) fn distribution(&mut self, family: &Family, labels: &[(&str, &str)], of: &Distribution<'_>) {
        self.open_metric(family);
        let (since, now) = (self.since, self.now);
        let before = [0].iter().chain(&of.counts);
        let counts: Vec<u64> = of.counts.iter().zip(before).map(|(count, before)| count - before).collect();
        match self.encoding {
            Encoding::Protobuf => self.protobuf(|out| {
                fixed64(out, 2, since);
                fixed64(out, 3, now);
                fixed64(out, 4, of.count());
                double(out, 5, of.sum);
                packed(out, 6, counts.iter().copied());
                packed(out, 7, of.bounds.iter().map(|bound| bound.to_bits()));
                for (_, exemplar, value) in &of.exemplars {
                    write_exemplar(out, exemplar, *value);
                }
                write_labels(out, 9, labels);
            }),
            Encoding::Json => {
                let point = json!({
                    "attributes": json_labels(labels),
                    "startTimeUnixNano": since.to_string(),
                    "timeUnixNano": now.to_string(),
                    "count": of.count().to_string(),
                    "sum": json_double(of.sum),
                    "bucketCounts": counts.iter().map(u64::to_string).collect::<Vec<_>>(),
                    "explicitBounds": of.bounds,
                    "exemplars": of.exemplars.iter().map(json_exemplar).collect::<Vec<_>>(),
                });
                self.json(&point);
            }
        }
    }

    pub(super) fn end(mut self) -> Vec<Batch> {
        self.close_metric();
        self.seal();
        self.full
    }

    /// A point of the metric that is open: in a sum, a gauge and a histogram alike, the first field.
    fn protobuf(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let out = &mut self.filling.bytes;
        let start = open(out, 1);
        write(out);
        close(out, start);
        self.filling.records += 1;
    }

    fn json(&mut self, point: &Value) {
        let out = &mut self.filling.bytes;
        if !out.ends_with(b"[") {
            out.push(b',');
        }
        out.extend_from_slice(point.to_string().as_bytes());
        self.filling.records += 1;
    }

    fn open_metric(&mut self, family: &Family) {
        if self.filling.bytes.len() >= LARGEST_BATCH {
            self.close_metric();
            self.seal();
        }
        if self.metric.is_none() {
            let out = &mut self.filling.bytes;
            self.metric = Some(match self.encoding {
                Encoding::Protobuf => open_protobuf(out, family),
                Encoding::Json => {
                    open_json(out, family);
                    (0, 0)
                }
            });
        }
    }

    fn close_metric(&mut self) {
        let Some((metric, points)) = self.metric.take() else { return };
        let out = &mut self.filling.bytes;
        match self.encoding {
            Encoding::Protobuf => {
                close(out, points);
                close(out, metric);
            }
            Encoding::Json => out.extend_from_slice(b"]}}"),
        }
    }

    fn seal(&mut self) {
        if self.filling.records > 0 {
            self.full.push(std::mem::take(&mut self.filling));
        }
    }
}

fn open_protobuf(out: &mut Vec<u8>, family: &Family) -> (usize, usize) {
    let metric = open(out, 2);
    bytes(out, 1, family.name.as_bytes());
    bytes(out, 2, family.help.as_bytes());
    if let Some(unit) = unit(family) {
        bytes(out, 3, unit.as_bytes());
    }
    let field = match family.kind {
        Kind::Gauge => 5,
        Kind::Counter => 7,
        Kind::Histogram => 9,
    };
    let points = open(out, field);
    if family.kind != Kind::Gauge {
        number(out, 2, CUMULATIVE);
    }
    if family.kind == Kind::Counter {
        // `is_monotonic`
        number(out, 3, 1);
    }
    (metric, points)
}

fn open_json(out: &mut Vec<u8>, family: &Family) {
    if !out.is_empty() {
        out.push(b',');
    }
    let text = |text: &str| Value::from(text).to_string();
    let (name, help, unit) = (text(&family.name), text(&family.help), text(unit(family).unwrap_or_default()));
    let points = match family.kind {
        Kind::Gauge => r#""gauge":{"#.to_owned(),
        Kind::Counter => format!(r#""sum":{{"aggregationTemporality":{CUMULATIVE},"isMonotonic":true,"#),
        Kind::Histogram => format!(r#""histogram":{{"aggregationTemporality":{CUMULATIVE},"#),
    };
    let metric = format!(r#"{{"name":{name},"description":{help},"unit":{unit},{points}"dataPoints":["#);
    out.extend_from_slice(metric.as_bytes());
}

/// In UCUM, as the name says it.
fn unit(family: &Family) -> Option<&'static str> {
    let name = family.name.strip_suffix("_total").unwrap_or(&family.name);
    match name {
        _ if name.ends_with("_seconds") => Some("s"),
        _ if name.ends_with("_bytes") => Some("By"),
        _ => None,
    }
}

fn write_labels(out: &mut Vec<u8>, field: u8, labels: &[(&str, &str)]) {
    for (key, value) in labels {
        text_attribute(out, field, key, &[cut(value, LONGEST_LABEL)]);
    }
}

fn json_labels(labels: &[(&str, &str)]) -> Value {
    let label = |(key, value): &(&str, &str)| json!({"key": key, "value": {"stringValue": cut(value, LONGEST_LABEL)}});
    labels.iter().map(label).collect()
}

/// A list of numbers of 64 bits.
fn packed(out: &mut Vec<u8>, field: u8, values: impl Iterator<Item = u64>) {
    let start = open(out, field);
    values.for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
    close(out, start);
}

/// Which bucket it is of follows from its value.
fn write_exemplar(out: &mut Vec<u8>, exemplar: &Exemplar, value: f64) {
    let start = open(out, 8);
    fixed64(out, 2, exemplar.at.saturating_mul(1_000_000));
    double(out, 3, value);
    bytes(out, 5, &exemplar.trace);
    close(out, start);
}

fn json_exemplar((_, exemplar, value): &(usize, Exemplar, f64)) -> Value {
    let trace = u128::from_be_bytes(exemplar.trace);
    json!({
        "timeUnixNano": exemplar.at.saturating_mul(1_000_000).to_string(),
        "asDouble": value,
        "traceId": format!("{trace:032x}"),
    })
}

/// JSON has no numbers without end; protobuf's mapping has words for them.
fn json_double(value: f64) -> Value {
    match value {
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        value if value.is_nan() => "NaN".into(),
        value => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use opentelemetry_proto::tonic::metrics::v1::{
        Metric, ScopeMetrics, exemplar, metric::Data, number_data_point,
    };
    use prost::Message;

    use super::*;
    use crate::observe::metrics::{
        exposition::Exposition,
        histogram::{Buckets, Histogram},
    };

    /// As a receiver reads it.
    fn read(encoding: Encoding, parts: &[Batch]) -> Vec<Metric> {
        let scope = |part: &Batch| match encoding {
            Encoding::Protobuf => ScopeMetrics::decode(&*part.bytes).unwrap(),
            Encoding::Json => {
                let metrics = std::str::from_utf8(&part.bytes).unwrap();
                let mut written = serde_json::from_str(&format!("{{\"metrics\":[{metrics}]}}")).unwrap();
                plain_numbers(&mut written);
                serde_json::from_value(written).unwrap()
            }
        };
        parts.iter().flat_map(|part| scope(part).metrics).collect()
    }

    /// 64-bit numbers are text in OTLP, but the types do not expect it here.
    fn plain_numbers(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                if let Some(number @ Value::String(_)) = fields.get_mut("asInt") {
                    *number = number.as_str().unwrap().parse::<i64>().unwrap().into();
                }
                fields.values_mut().for_each(plain_numbers);
            }
            Value::Array(items) => items.iter_mut().for_each(plain_numbers),
            _ => {}
        }
    }

    fn written(encoding: Encoding) -> Vec<Metric> {
        let mut out = Exposition::otlp(Points::new(encoding, 1000, 5000));
        out.counter("a_total", "All \"of\" them.");
        out.since(2000);
        out.sample(&[("x", "1"), ("y", "\"ä\n")], 7_u64);
        out.since(3000);
        out.sample(&[("x", "2")], 8_u64);
        out.gauge("unused", "It leaves no trace.");
        out.gauge("b_bytes", "A level.");
        out.sample(&[], -2_i64);
        let buckets = Arc::new(Buckets::of_durations(&[500, 1000].map(Duration::from_millis)));
        let histogram = Histogram::new(&buckets);
        let exemplar = Exemplar { trace: [0xab; 16], at: 1_700_000_000_005 };
        histogram.observe_time(Duration::from_millis(600), Some(exemplar));
        histogram.observe_time(Duration::from_millis(700), None);
        histogram.observe_time(Duration::from_millis(5000), None);
        out.histogram("h_seconds", "Times.");
        out.distribution(&[("x", "1")], &histogram.read());
        read(encoding, &out.into_parts())
    }

    #[test]
    fn both_encodings_mean_the_same() {
        let metrics = written(Encoding::Protobuf);
        let names: Vec<_> = metrics.iter().map(|metric| (&*metric.name, &*metric.unit)).collect();
        assert_eq!(names, [("a_total", ""), ("b_bytes", "By"), ("h_seconds", "s")]);
        assert_eq!(metrics, written(Encoding::Json));
    }

    #[test]
    fn counters_are_monotonic_sums_since_they_began_and_levels_are_gauges() {
        let metrics = written(Encoding::Protobuf);
        let Some(Data::Sum(sum)) = &metrics[0].data else { panic!("{metrics:?}") };
        assert_eq!((metrics[0].description.as_str(), sum.is_monotonic), ("All \"of\" them.", true));
        assert_eq!(sum.aggregation_temporality, CUMULATIVE as i32);
        let points = sum.data_points.iter();
        let points: Vec<_> = points.map(|p| (p.start_time_unix_nano, p.time_unix_nano, p.value)).collect();
        let value = |count| Some(number_data_point::Value::AsInt(count));
        assert_eq!(points, [(2000, 5000, value(7)), (3000, 5000, value(8))]);
        assert_eq!(sum.data_points[0].attributes[1].key, "y");
        let Some(Data::Gauge(gauge)) = &metrics[1].data else { panic!("{metrics:?}") };
        assert_eq!(gauge.data_points[0].value, value(-2));
    }

    #[test]
    fn histograms_have_a_count_for_each_bucket_and_their_exemplars() {
        let metrics = written(Encoding::Protobuf);
        let Some(Data::Histogram(histogram)) = &metrics[2].data else { panic!("{metrics:?}") };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum), (3, Some(6.3)));
        assert_eq!((&*point.bucket_counts, &*point.explicit_bounds), (&[0, 2, 1][..], &[0.5, 1.0][..]));
        assert_eq!(point.start_time_unix_nano, 1000, "as old as the process");
        let [exemplar] = &*point.exemplars else { panic!("{point:?}") };
        assert_eq!(exemplar.value, Some(exemplar::Value::AsDouble(0.6)));
        assert_eq!(
            (&*exemplar.trace_id, exemplar.time_unix_nano),
            (&[0xab; 16][..], 1_700_000_000_005_000_000)
        );
    }

    #[test]
    fn many_series_come_in_parts_that_a_collector_takes() {
        for encoding in [Encoding::Protobuf, Encoding::Json] {
            let mut out = Exposition::otlp(Points::new(encoding, 0, 1));
            out.counter("a_total", "All.");
            let route = "r".repeat(2 * LONGEST_LABEL);
            (0..3000_u64).for_each(|n| out.sample(&[("route", &route), ("n", &n.to_string())], n));
            let parts = out.into_parts();
            assert!(parts.len() > 2 && parts.iter().all(|part| part.bytes.len() < 2 * LARGEST_BATCH));
            assert_eq!(parts.iter().map(|part| part.records).sum::<u64>(), 3000);
            let metrics = read(encoding, &parts);
            let points = metrics.iter().map(|metric| match &metric.data {
                Some(Data::Sum(sum)) => sum.data_points.len(),
                other => panic!("{other:?}"),
            });
            assert_eq!((points.sum::<usize>(), metrics.len()), (3000, parts.len()));
        }
    }
}
