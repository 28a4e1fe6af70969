//! The series of plugins, by their names. Through the `prometheus` crate: beside a callback, a count is nothing.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Metric,
};

use super::{distinct, register};

/// Seconds: from what a look at a header takes to what a firewall does with a body.
const BUCKETS: [f64; 10] = [1e-6, 5e-6, 2e-5, 1e-4, 5e-4, 2e-3, 1e-2, 5e-2, 0.25, 1.0];

/// What is called in a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PluginCallback {
    ContextCreate,
    RequestHeaders,
    RequestBody,
    RequestTrailers,
    ResponseHeaders,
    ResponseBody,
    ResponseTrailers,
    Log,
    Done,
    Delete,
    Tick,
    QueueReady,
    HttpCallResponse,
    GrpcReceive,
}

const CALLBACKS: [(PluginCallback, &str); 14] = [
    (PluginCallback::ContextCreate, "context_create"),
    (PluginCallback::RequestHeaders, "request_headers"),
    (PluginCallback::RequestBody, "request_body"),
    (PluginCallback::RequestTrailers, "request_trailers"),
    (PluginCallback::ResponseHeaders, "response_headers"),
    (PluginCallback::ResponseBody, "response_body"),
    (PluginCallback::ResponseTrailers, "response_trailers"),
    (PluginCallback::Log, "log"),
    (PluginCallback::Done, "done"),
    (PluginCallback::Delete, "delete"),
    (PluginCallback::Tick, "tick"),
    (PluginCallback::QueueReady, "queue_ready"),
    (PluginCallback::HttpCallResponse, "http_call_response"),
    (PluginCallback::GrpcReceive, "grpc_receive"),
];

pub(super) struct PluginSeries {
    all: Arc<All>,
    by_name: Mutex<HashMap<String, Weak<Handles>>>,
}

struct All {
    calls: IntCounterVec,
    seconds: HistogramVec,
    failures: IntCounterVec,
    skipped: IntCounterVec,
    replies: IntCounterVec,
    restarts: IntCounterVec,
    paused: IntGaugeVec,
    log_dropped: IntCounterVec,
    http_calls: IntCounterVec,
}

/// The handles of one plugin. Cheap to clone; its series end with the last of them.
#[derive(Clone)]
pub struct PluginMetrics(Arc<Handles>);

pub struct Handles {
    name: String,
    all: Arc<All>,
    calls: [IntCounter; CALLBACKS.len()],
    seconds: Histogram,
    pub skipped: IntCounter,
    pub replies: IntCounter,
    pub restarts: IntCounter,
    pub paused: IntGauge,
    pub log_dropped: IntCounter,
    called: Mutex<BTreeSet<(String, &'static str)>>,
}

impl PluginSeries {
    pub(super) fn new(registry: &Registry) -> PluginSeries {
        let counter = |name, help, labels: &[&str]| {
            register(registry, distinct(IntCounterVec::new(Opts::new(name, help), labels)))
        };
        let gauge = |name, help, labels: &[&str]| {
            register(registry, distinct(IntGaugeVec::new(Opts::new(name, help), labels)))
        };
        let seconds = HistogramOpts::new(
            "tidegate_plugin_call_seconds",
            "Time that a plugin took over one callback of a request.",
        );
        let seconds = HistogramVec::new(seconds.buckets(BUCKETS.to_vec()), &["plugin"]);
        let all = All {
            calls: counter(
                "tidegate_plugin_calls_total",
                "Callbacks made in a plugin.",
                &["plugin", "callback"],
            ),
            seconds: register(registry, distinct(seconds)),
            failures: counter(
                "tidegate_plugin_failures_total",
                "Failures of a plugin, by why.",
                &["plugin", "why"],
            ),
            skipped: counter(
                "tidegate_plugin_skipped_total",
                "Requests that went on without a plugin that failed, as `fail: open` says.",
                &["plugin"],
            ),
            replies: counter(
                "tidegate_plugin_replies_total",
                "Requests that a plugin answered itself.",
                &["plugin"],
            ),
            restarts: counter(
                "tidegate_plugin_restarts_total",
                "Times that instances of a plugin were made in the place of failed ones.",
                &["plugin"],
            ),
            paused: gauge("tidegate_plugin_paused", "Requests that a plugin holds back.", &["plugin"]),
            http_calls: counter(
                "tidegate_plugin_http_calls_total",
                "Calls of a plugin, by upstream and by what came of them.",
                &["plugin", "upstream", "outcome"],
            ),
            log_dropped: counter(
                "tidegate_plugin_log_dropped_total",
                "Log lines of a plugin beyond its rate.",
                &["plugin"],
            ),
        };
        PluginSeries { all: Arc::new(all), by_name: Mutex::default() }
    }

    /// Those of the plugin of that name, whatever its settings.
    pub(super) fn of(&self, name: &str) -> PluginMetrics {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handles) = by_name.get(name).and_then(Weak::upgrade) {
            return PluginMetrics(handles);
        }
        by_name.retain(|_, handles| handles.strong_count() > 0);
        let all = self.all.clone();
        let handles = Arc::new(Handles {
            calls: CALLBACKS.map(|(_, callback)| all.calls.with_label_values(&[name, callback])),
            seconds: all.seconds.with_label_values(&[name]),
            skipped: all.skipped.with_label_values(&[name]),
            replies: all.replies.with_label_values(&[name]),
            restarts: all.restarts.with_label_values(&[name]),
            paused: all.paused.with_label_values(&[name]),
            log_dropped: all.log_dropped.with_label_values(&[name]),
            called: Mutex::default(),
            name: name.to_owned(),
            all,
        });
        by_name.insert(name.to_owned(), Arc::downgrade(&handles));
        PluginMetrics(handles)
    }
}

impl std::ops::Deref for PluginMetrics {
    type Target = Handles;

    fn deref(&self) -> &Handles {
        &self.0
    }
}

impl Handles {
    pub fn called(&self, callback: PluginCallback) {
        self.calls[callback as usize].inc();
    }

    pub fn took(&self, time: Duration) {
        self.seconds.observe(time.as_secs_f64());
    }

    /// `why` is from a closed set.
    pub fn failed(&self, why: &'static str) {
        self.all.failures.with_label_values(&[self.name.as_str(), why]).inc();
    }

    /// A call to that upstream is over. `outcome` is from a closed set.
    pub fn http_call(&self, upstream: &str, outcome: &'static str) {
        self.all.http_calls.with_label_values(&[self.name.as_str(), upstream, outcome]).inc();
        let mut called = self.called.lock().unwrap_or_else(PoisonError::into_inner);
        called.insert((upstream.to_owned(), outcome));
    }

    /// How long its callbacks of requests have taken since its series began.
    pub fn timings(&self) -> PluginTimings {
        let mut timings =
            PluginTimings { calls: self.calls.iter().map(IntCounter::get).sum(), ..PluginTimings::default() };
        let told = self.seconds.metric();
        let histogram = told.get_histogram();
        let (count, us) = (histogram.get_sample_count(), |seconds: f64| (seconds * 1e9).round() / 1e3);
        timings.timed = count;
        if count > 0 {
            timings.mean_us = Some(us(histogram.get_sample_sum() / count as f64));
            // The bound below which so many are.
            let most = (count as f64 * 0.99).ceil() as u64;
            let bucket = histogram.get_bucket().iter().find(|bucket| bucket.cumulative_count() >= most);
            timings.p99_below_us = bucket.map(|bucket| us(bucket.upper_bound()));
        }
        timings
    }
}

/// What a plugin costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PluginTimings {
    /// Callbacks of any kind.
    pub calls: u64,
    /// Those that were timed.
    pub timed: u64,
    pub mean_us: Option<f64>,
    /// `None` also where it is beyond the last bucket.
    pub p99_below_us: Option<f64>,
}

/// Why a plugin fails, in words.
const WHY: [&str; 7] = ["trap", "time", "memory", "pause", "buffer", "length", "start"];

impl Drop for Handles {
    fn drop(&mut self) {
        let name = self.name.as_str();
        // There may be none.
        for (_, callback) in CALLBACKS {
            let _ = self.all.calls.remove_label_values(&[name, callback]);
        }
        for why in WHY {
            let _ = self.all.failures.remove_label_values(&[name, why]);
        }
        let called = self.called.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (upstream, outcome) in std::mem::take(called) {
            let _ = self.all.http_calls.remove_label_values(&[name, upstream.as_str(), outcome]);
        }
        let _ = self.all.seconds.remove_label_values(&[name]);
        let _ = self.all.paused.remove_label_values(&[name]);
        let All { skipped, replies, restarts, log_dropped, .. } = &*self.all;
        for series in [skipped, replies, restarts, log_dropped] {
            let _ = series.remove_label_values(&[name]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_last_as_long_as_a_plugin_of_that_name() {
        let registry = Registry::new();
        let series = PluginSeries::new(&registry);
        let (old, new) = (series.of("waf"), series.of("waf"));
        old.called(PluginCallback::Log);
        old.failed("trap");
        old.took(Duration::from_micros(30));
        let timings = old.timings();
        assert_eq!((timings.calls, timings.timed), (1, 1));
        assert_eq!((timings.mean_us, timings.p99_below_us), (Some(30.0), Some(100.0)));
        drop(old);
        assert_eq!(new.calls[PluginCallback::Log as usize].get(), 1);
        assert!(CALLBACKS.iter().enumerate().all(|(at, (callback, _))| *callback as usize == at));
        drop(new);
        assert!(registry.gather().iter().all(|family| family.get_metric().is_empty()));
    }
}
