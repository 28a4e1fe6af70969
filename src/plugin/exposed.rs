//! What is read of plugins when somebody looks at the metrics: the memory of their instances, and the metrics that they have
//! defined.

use std::{
    collections::{BTreeMap, HashMap},
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
const INSTANCES: &str = "tidegate_plugin_instances";
const INSTANCES_HELP: &str = "Instances of a plugin, by state.";
const CUSTOM_HELP: &str = "Defined by a plugin.";

pub(super) struct Exposed {
    plugins: Arc<Mutex<Vec<Weak<Plugin>>>>,
    descs: [Desc; 2],
}

impl Exposed {
    /// # Errors
    ///
    /// Never, as the name is a good one.
    pub(super) fn new(plugins: Arc<Mutex<Vec<Weak<Plugin>>>>) -> prometheus::Result<Exposed> {
        let desc = |name: &str, help: &str, labels: &[&str]| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())
        };
        let descs =
            [desc(MEMORY, MEMORY_HELP, &["plugin"])?, desc(INSTANCES, INSTANCES_HELP, &["plugin", "state"])?];
        Ok(Exposed { plugins, descs })
    }
}

impl Collector for Exposed {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let plugins: Vec<Arc<Plugin>> = {
            let plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
            plugins.iter().filter_map(Weak::upgrade).collect()
        };
        let mut families: BTreeMap<String, (Kind, Vec<Metric>)> = BTreeMap::new();
        let mut memory: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        let mut instances: BTreeMap<Arc<str>, Instances> = BTreeMap::new();
        // After a reload there may be an old one beside it, whose requests are not over: the newest tells.
        for plugin in plugins.iter().rev() {
            let (name, report) = (&plugin.settings().name, plugin.report());
            *memory.entry(name.clone()).or_default() += report.memory;
            let instances = instances.entry(name.clone()).or_default();
            if plugin.is_draining() || instances.is_told {
                instances.draining += report.ready;
                continue;
            }
            (instances.ready, instances.starting) = (report.ready, report.instances - report.ready);
            instances.is_told = true;
            for shown in plugin.custom() {
                let series = format!("tidegate_plugin_custom_{}", shown.name);
                let (kind, metrics) = families.entry(series).or_insert_with(|| (shown.kind, Vec::new()));
                // A name has one kind: of two plugins the newer one has it.
                if *kind == shown.kind {
                    metrics.push(metric(&shown, name));
                }
            }
        }
        let memory = memory.into_iter().map(|(name, bytes)| {
            let mut metric = Metric::from_label(vec![label("plugin", &name)]);
            metric.set_gauge(gauge(bytes as f64));
            metric
        });
        let instances = instances.into_iter().flat_map(|(name, instances)| instances.metrics(&name));
        let mut all = vec![
            family(MEMORY.into(), MEMORY_HELP, MetricType::GAUGE, memory.collect()),
            family(INSTANCES.into(), INSTANCES_HELP, MetricType::GAUGE, instances.collect()),
        ];
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

/// Of one name.
#[derive(Default)]
struct Instances {
    ready: usize,
    starting: usize,
    draining: usize,
    is_told: bool,
}

impl Instances {
    fn metrics(&self, plugin: &str) -> [Metric; 3] {
        [("ready", self.ready), ("starting", self.starting), ("draining", self.draining)].map(
            |(state, count)| {
                let mut metric = Metric::from_label(vec![label("plugin", plugin), label("state", state)]);
                metric.set_gauge(gauge(count as f64));
                metric
            },
        )
    }
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
