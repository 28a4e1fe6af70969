//! What is read of plugins when somebody looks at the metrics: the memory of their instances, and the metrics that they have
//! defined.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use prometheus::{
    core::{Collector, Desc},
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use super::{
    Plugin,
    custom::{BUCKETS, Kind, Shown},
};

const MEMORY: &str = "tidegate_plugin_memory_bytes";
const MEMORY_HELP: &str = "Memory of a plugin's instances.";
const CUSTOM_HELP: &str = "Defined by a plugin.";

pub(super) struct Exposed {
    plugins: Arc<Mutex<Vec<Weak<Plugin>>>>,
    desc: Desc,
}

impl Exposed {
    /// # Errors
    ///
    /// Never, as the name is a good one.
    pub(super) fn new(plugins: Arc<Mutex<Vec<Weak<Plugin>>>>) -> prometheus::Result<Exposed> {
        let labels = vec!["plugin".to_owned()];
        let desc = Desc::new(MEMORY.into(), MEMORY_HELP.into(), labels, std::collections::HashMap::new())?;
        Ok(Exposed { plugins, desc })
    }
}

impl Collector for Exposed {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let plugins: Vec<Arc<Plugin>> = {
            let plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
            plugins.iter().filter_map(Weak::upgrade).collect()
        };
        let mut families: BTreeMap<String, (Kind, Vec<Metric>)> = BTreeMap::new();
        let mut memory: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        // After a reload there may be an old one beside it, whose requests are not over: the newest tells.
        for plugin in plugins.iter().rev() {
            let name = &plugin.settings().name;
            let is_newest = !memory.contains_key(name);
            *memory.entry(name.clone()).or_default() += plugin.report().memory;
            if !is_newest {
                continue;
            }
            for shown in plugin.custom() {
                let (_, metrics) =
                    families.entry(series_name(&shown.name)).or_insert_with(|| (shown.kind, Vec::new()));
                metrics.push(metric(&shown, name));
            }
        }
        let memory = memory.into_iter().map(|(name, bytes)| {
            let mut metric = Metric::from_label(vec![label("plugin", &name)]);
            metric.set_gauge(gauge(bytes as f64));
            metric
        });
        let mut all = vec![family(MEMORY.into(), MEMORY_HELP, MetricType::GAUGE, memory.collect())];
        all.extend(families.into_iter().map(|(name, (kind, metrics))| {
            let kind = match kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
                Kind::Histogram => MetricType::HISTOGRAM,
            };
            family(name, CUSTOM_HELP, kind, metrics)
        }));
        all
    }
}

/// Other characters than a name may have become `_`.
fn series_name(name: &str) -> String {
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    format!("tidegate_plugin_custom_{name}")
}

fn metric(shown: &Shown, plugin: &str) -> Metric {
    let mut labels = vec![label("plugin", plugin)];
    labels.extend(shown.labels.iter().map(|(name, value)| label(name, value)));
    let mut metric = Metric::from_label(labels);
    match shown.kind {
        Kind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(shown.value as f64);
            metric.set_counter(counter);
        }
        Kind::Gauge => metric.set_gauge(gauge(shown.value as f64)),
        Kind::Histogram => {
            let mut histogram = Histogram::default();
            histogram.set_sample_sum(shown.value as f64);
            histogram.set_sample_count(shown.count);
            let buckets = BUCKETS.iter().zip(&shown.buckets).map(|(bound, count)| {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound as f64);
                bucket.set_cumulative_count(*count);
                bucket
            });
            histogram.set_bucket(buckets.collect());
            metric.set_histogram(histogram);
        }
    }
    metric
}

fn family(name: String, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name);
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn gauge(value: f64) -> Gauge {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    gauge
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}
