//! The Prometheus series of this process.
//!
//! Whoever lives as long as the thing that is measured holds a handle: a snapshot its routes', an upstream its
//! endpoints', a listener its own. A handle is asked for by name, so the next snapshot finds the counts of the
//! last one; when the last holder is gone, so are its series. Recording is a few relaxed atomic additions on
//! memory of the thread's own; names become text only when somebody scrapes.
//!
//! The per-request series are our own rather than the `prometheus` crate's: its histogram is as fast on one
//! thread, but threads that share it wait for each other (22 to 99 ns against 7 to 11 with two), its vectors hash
//! every label value, and a removed route would have to be taken out label set by label set. Rare series, and
//! those of other modules, go through [`Metrics::registry`].
//!
//! Label values come from configuration and from closed enums, never from requests.

mod access;
mod acme;
mod certificate;
mod exemplar;
mod exports;
mod exposition;
mod filter;
mod fleet;
mod format;
mod histogram;
mod limits;
mod listener;
mod live;
mod member;
mod parts;
mod plugins;
mod points;
mod registry;
mod resources;
mod route;
mod shape;
mod store;
mod switches;
mod text;
mod tokens;
mod traces;
mod traffic;
mod upstream;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Gauge, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector, proto::MetricFamily,
};

use self::{
    exposition::Exposition, filter::FilterSeries, live::Live, plugins::PluginSeries, points::Points,
    shape::Shape, traces::TraceSeries,
};
use crate::observe::{
    log_writer::SinkStats,
    otlp::{self, Batch, Encoding},
};

pub use self::{
    access::{AccessMetrics, Results},
    acme::AcmeMetrics,
    certificate::{CertificateMetrics, CertificateReloads},
    exemplar::Exemplar,
    exports::{ExportMetrics, ExportSeries},
    filter::FilterMetrics,
    fleet::FleetMetrics,
    format::Format,
    limits::LimitMetrics,
    listener::ListenerMetrics,
    member::MemberMetrics,
    parts::PartMetrics,
    plugins::{PluginCallback, PluginMetrics, PluginTimings},
    registry::{RegistryMetrics, StreamMetrics},
    resources::ResourceMetrics,
    route::{RequestEnd, RouteMetrics, RouteReading},
    shape::{Settings, known_method},
    store::StoreMetrics,
    switches::SwitchMetrics,
    tokens::{SourceMetrics, TokenMetrics},
    traces::TraceMetrics,
    traffic::{States, VariantMetrics},
    upstream::{AffinityResult, EndpointMetrics, UpstreamMetrics},
};

pub struct Metrics {
    registry: Registry,
    /// Held by one who reads the rare series.
    reading: Mutex<()>,
    /// Nanoseconds since 1970: what is counted is so old at most.
    began: u64,
    /// Of the series that are asked for from now on.
    shape: ArcSwap<Shape>,
    listeners: Live<Arc<str>, ListenerMetrics>,
    next_listener: AtomicU32,
    routes: Live<(Arc<str>, Option<Arc<str>>), RouteMetrics>,
    upstreams: Live<Arc<str>, UpstreamMetrics>,
    endpoints: Live<(Arc<str>, Arc<str>), EndpointMetrics>,
    variants: Live<(Arc<str>, Arc<str>), VariantMetrics>,
    certificates: Live<Arc<str>, CertificateMetrics>,
    certificate_reloads: CertificateReloads,
    states: States,
    lines: Arc<SinkStats>,
    reloads_succeeded: IntCounter,
    reloads_failed: IntCounter,
    last_reload_success: Gauge,
    last_reload_successful: IntGauge,
    fleet: OnceLock<FleetMetrics>,
    limits: LimitMetrics,
    parts: PartMetrics,
    resources: ResourceMetrics,
    member: OnceLock<MemberMetrics>,
    access: AccessMetrics,
    identity_updates: IntCounterVec,
    switches: SwitchMetrics,
    tokens: TokenMetrics,
    filters: FilterSeries,
    plugins: PluginSeries,
    traces: TraceSeries,
    spans: ExportSeries,
    logs: ExportSeries,
    points: ExportSeries,
    admin_connections: IntGauge,
    admin_evictions: IntCounter,
    /// Only where a registry is served.
    of_registry: OnceLock<RegistryMetrics>,
    /// Only where one is shared.
    of_store: OnceLock<StoreMetrics>,
    /// Only where certificates are ordered.
    acme: OnceLock<AcmeMetrics>,
    revocations: OnceLock<IntCounterVec>,
    ticket_keys: OnceLock<IntCounterVec>,
}

impl Metrics {
    /// `version` is this build's.
    pub fn new(version: &str) -> Metrics {
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry.register(Box::new(ProcessCollector::for_self())).expect("the registry is empty");

        let build =
            Opts::new("tidegate_build_info", "The version that is running.").const_label("version", version);
        let build = register(&registry, distinct(IntGauge::with_opts(build)));
        build.set(1);

        let reloads =
            Opts::new("tidegate_config_reloads_total", "Attempts to load a configuration, by result.");
        let reloads = register(&registry, distinct(IntCounterVec::new(reloads, &["result"])));
        let last_reload_success = register(
            &registry,
            distinct(Gauge::new(
                "tidegate_config_last_reload_success_timestamp_seconds",
                "When the running configuration was loaded.",
            )),
        );
        let last_reload_successful = register(
            &registry,
            distinct(IntGauge::new(
                "tidegate_config_last_reload_successful",
                "1 if the last attempt to load a configuration succeeded.",
            )),
        );
        let updates = Opts::new(
            "tidegate_identity_updates_total",
            "New identities from each source, and failures to get one.",
        );
        let identity_updates =
            register(&registry, distinct(IntCounterVec::new(updates, &["source", "result"])));
        let admin_connections =
            IntGauge::new("tidegate_admin_connections_active", "Open connections to the admin address.");
        let admin_evictions = IntCounter::new(
            "tidegate_admin_connections_evicted_total",
            "Connections to the admin address that were closed to make room for others.",
        );
        let states = States::new(&registry);
        Metrics {
            fleet: OnceLock::new(),
            limits: LimitMetrics::new(&registry),
            parts: PartMetrics::new(&registry),
            resources: ResourceMetrics::new(&registry),
            member: OnceLock::new(),
            switches: SwitchMetrics::new(&registry),
            tokens: TokenMetrics::new(&registry),
            access: AccessMetrics::new(&registry),
            filters: FilterSeries::new(&registry),
            plugins: PluginSeries::new(&registry),
            traces: TraceSeries::new(&registry),
            spans: ExportSeries::of_spans(&registry),
            logs: ExportSeries::of_logs(&registry),
            points: ExportSeries::of_metrics(&registry),
            admin_connections: register(&registry, distinct(admin_connections)),
            admin_evictions: register(&registry, distinct(admin_evictions)),
            registry,
            of_registry: OnceLock::new(),
            of_store: OnceLock::new(),
            acme: OnceLock::new(),
            revocations: OnceLock::new(),
            ticket_keys: OnceLock::new(),
            reading: Mutex::default(),
            began: otlp::nanos(SystemTime::now()),
            shape: ArcSwap::from_pointee(Shape::new(Settings::default(), Arc::default())),
            listeners: Live::default(),
            next_listener: AtomicU32::new(0),
            routes: Live::default(),
            upstreams: Live::default(),
            endpoints: Live::default(),
            variants: Live::default(),
            certificates: Live::default(),
            certificate_reloads: CertificateReloads::default(),
            states,
            lines: Arc::default(),
            reloads_succeeded: reloads.with_label_values(&["success"]),
            reloads_failed: reloads.with_label_values(&["failure"]),
            last_reload_success,
            last_reload_successful,
            identity_updates,
        }
    }

    /// Series that are asked for from now on are as `settings` say; those of routes and upstreams begin anew where that is
    /// a change.
    pub fn configure(&self, settings: Settings) {
        let shape = self.shape.load();
        if *shape.settings() != settings {
            self.shape.store(Arc::new(Shape::new(settings, shape.totals.clone())));
        }
    }

    /// The handles of the plugin of that name.
    pub fn plugin(&self, name: &str) -> PluginMetrics {
        self.plugins.of(name)
    }

    /// Of all filters of this name together.
    pub fn filter(&self, name: &str) -> Arc<FilterMetrics> {
        self.filters.of(name)
    }

    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        let name: Arc<str> = name.into();
        self.listeners.find_or_insert(name.clone(), || {
            ListenerMetrics::new(name, self.next_listener.fetch_add(1, Relaxed))
        })
    }

    /// `upstream` is none for a route that answers by itself. Requests that no route matched are recorded
    /// under the empty name.
    pub fn route(&self, route: &str, upstream: Option<&str>) -> Arc<RouteMetrics> {
        let (route, upstream): (Arc<str>, Option<Arc<str>>) = (route.into(), upstream.map(Into::into));
        let shape = self.shape.load_full();
        self.routes.find_if_or_insert(
            (route.clone(), upstream.clone()),
            |found| found.has(&shape),
            || RouteMetrics::new(shape.clone(), route, upstream),
        )
    }

    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        let name: Arc<str> = name.into();
        let shape = self.shape.load_full();
        self.upstreams.find_if_or_insert(
            name.clone(),
            |found| found.has(&shape),
            || UpstreamMetrics::new(shape.clone(), name),
        )
    }

    /// Requests of all routes since the process began.
    pub fn requests(&self) -> u64 {
        self.shape.load().totals.requests()
    }

    /// Requests that the gateway answered by itself since the process began, by reason.
    pub fn own_answers(&self) -> BTreeMap<&'static str, u64> {
        self.shape.load().totals.errors()
    }

    /// An endpoint counts as healthy until somebody says otherwise.
    pub fn endpoint(&self, upstream: &str, endpoint: &str) -> Arc<EndpointMetrics> {
        let (upstream, endpoint): (Arc<str>, Arc<str>) = (upstream.into(), endpoint.into());
        self.endpoints
            .find_or_insert((upstream.clone(), endpoint.clone()), || EndpointMetrics::new(upstream, endpoint))
    }

    /// A variant of a route's split.
    pub fn variant(&self, route: &str, variant: &str) -> Arc<VariantMetrics> {
        let (route, variant): (Arc<str>, Arc<str>) = (route.into(), variant.into());
        self.variants.find_or_insert((route.clone(), variant.clone()), || VariantMetrics::new(route, variant))
    }

    /// A certificate in use. `subject` names it: an SVID's SPIFFE ID, or whatever else tells it from the others.
    pub fn certificate(&self, subject: &str) -> Arc<CertificateMetrics> {
        let subject: Arc<str> = subject.into();
        self.certificates.find_or_insert(subject.clone(), || CertificateMetrics::new(subject))
    }

    /// `source` and `result` are from closed sets.
    pub fn count_identity_update(&self, source: &'static str, result: &'static str) {
        self.identity_updates.with_label_values(&[source, result]).inc();
    }

    pub fn certificate_reloads(&self) -> &CertificateReloads {
        &self.certificate_reloads
    }

    /// Those that are open, and those that had to go.
    pub fn admin_connections(&self) -> (IntGauge, IntCounter) {
        (self.admin_connections.clone(), self.admin_evictions.clone())
    }

    pub fn of_store(&self) -> &StoreMetrics {
        self.of_store.get_or_init(|| StoreMetrics::new(&self.registry))
    }

    /// Of certificates that are ordered. They are there from the first time that they are asked for.
    pub fn acme(&self) -> &AcmeMetrics {
        self.acme.get_or_init(|| AcmeMetrics::new(&self.registry))
    }

    /// What became of a look at the session ticket keys of a fleet. `result` is from a closed set.
    pub fn ticket_keys(&self, result: &'static str) {
        let looks = self.ticket_keys.get_or_init(|| {
            let help = "Session ticket keys of a fleet, by what came of a look at them.";
            let opts = Opts::new("tidegate_ticket_keys_total", help);
            register(&self.registry, distinct(IntCounterVec::new(opts, &["result"])))
        });
        looks.with_label_values(&[result]).inc();
    }

    /// A revocation list was asked for. `result` is from a closed set.
    pub fn revocation_fetched(&self, url: &str, result: &'static str) {
        let fetches = self.revocations.get_or_init(|| {
            let help = "Revocation lists that were asked for, by what came of it.";
            let opts = Opts::new("tidegate_revocation_fetches_total", help);
            register(&self.registry, distinct(IntCounterVec::new(opts, &["url", "result"])))
        });
        fetches.with_label_values(&[url, result]).inc();
    }

    pub fn of_registry(&self) -> &RegistryMetrics {
        self.of_registry.get_or_init(|| RegistryMetrics::new(&self.registry))
    }

    pub fn states(&self) -> &States {
        &self.states
    }

    /// They are there from the first time that they are asked for.
    pub fn fleet(&self) -> &FleetMetrics {
        self.fleet.get_or_init(|| FleetMetrics::new(&self.registry))
    }

    pub fn limits(&self) -> &LimitMetrics {
        &self.limits
    }

    pub fn parts(&self) -> &PartMetrics {
        &self.parts
    }

    pub fn resources(&self) -> &ResourceMetrics {
        &self.resources
    }

    /// Of what follows a control plane. They are there from the first time that they are asked for.
    pub fn member(&self) -> &MemberMetrics {
        self.member.get_or_init(|| MemberMetrics::new(&self.registry))
    }

    pub fn switches(&self) -> &SwitchMetrics {
        &self.switches
    }

    pub fn tokens(&self) -> &TokenMetrics {
        &self.tokens
    }

    pub fn access(&self) -> &AccessMetrics {
        &self.access
    }

    pub fn traces(&self) -> TraceMetrics {
        self.traces.metrics()
    }

    /// Of spans on their way to a collector.
    pub fn span_exports(&self) -> &ExportSeries {
        &self.spans
    }

    /// The same of the access log's records.
    pub fn log_exports(&self) -> &ExportSeries {
        &self.logs
    }

    /// The same of these series themselves.
    pub fn metric_exports(&self) -> &ExportSeries {
        &self.points
    }

    /// What every sink of log lines counts its losses in.
    pub fn lines(&self) -> Arc<SinkStats> {
        Arc::clone(&self.lines)
    }

    /// The configuration loaded at `now` is in force.
    pub fn reload_succeeded(&self, now: SystemTime) {
        self.reloads_succeeded.inc();
        self.last_reload_successful.set(1);
        self.last_reload_success.set(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    }

    pub fn reload_failed(&self) {
        self.reloads_failed.inc();
        self.last_reload_successful.set(0);
    }

    /// For series that are rare or belong to one module only. Their names must not be those written here.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Let go of the series that nobody holds. A scrape does so too, but there may be none, and thousands of routes that
    /// change their names with each reload leave thousands behind.
    pub fn forget_unused(&self) {
        self.listeners.forget();
        self.routes.forget();
        self.upstreams.forget();
        self.endpoints.forget();
        self.variants.forget();
        self.certificates.forget();
    }

    /// The rare series, once `refresh` has set those anew that change without an event. One reader at a time: a scrape must
    /// not see what a push has just cleared.
    pub fn gather(&self, refresh: impl FnOnce()) -> Rare {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        refresh();
        Rare(self.registry.gather())
    }

    /// Everything but idle routes.
    pub fn render(&self, format: Format, rare: &Rare) -> String {
        let mut out = Exposition::text(format);
        self.write(&mut out, rare);
        out.into_text()
    }

    /// The same in OTLP, in parts that a collector takes.
    pub fn export(&self, encoding: Encoding, rare: &Rare, now: SystemTime) -> Vec<Batch> {
        let mut out = Exposition::otlp(Points::new(encoding, self.began, otlp::nanos(now)));
        self.write(&mut out, rare);
        out.into_parts()
    }

    fn write(&self, out: &mut Exposition, rare: &Rare) {
        let listeners = self.listeners.all();
        listener::write(out, &listeners);
        route::write(out, &self.routes.all(), &listeners);
        upstream::write_upstreams(out, &self.upstreams.all());
        upstream::write_endpoints(out, &self.endpoints.all());
        traffic::write_variants(out, &self.variants.all());
        certificate::write(out, &self.certificates.all(), &self.certificate_reloads);
        out.counter(
            "tidegate_access_log_dropped_total",
            "Log lines lost: the target was too slow or broken.",
        );
        out.sample(&[], self.lines.dropped());
        out.counter("tidegate_access_log_write_errors_total", "Failed writes and reopenings of log targets.");
        out.sample(&[], self.lines.write_errors());
        self.spans.write(out);
        self.logs.write(out);
        self.points.write(out);
        out.families(&rare.0);
    }
}

/// The series that go through the `prometheus` crate, as they were when somebody asked.
pub struct Rare(Vec<MetricFamily>);

fn register<T: Collector + Clone + 'static>(registry: &Registry, collector: T) -> T {
    registry.register(Box::new(collector.clone())).expect("each name is registered once");
    collector
}

fn distinct<T>(made: prometheus::Result<T>) -> T {
    made.expect("names and labels are valid and written out above")
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        hint::black_box,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::policy::failure::Outcome;

    const MS: Duration = Duration::from_millis(1);

    fn record(route: &RouteMetrics, listener: &ListenerMetrics, status: u16, duration: Duration) {
        let (first_byte, sizes) = (Some(duration), Some((0, 100)));
        route.record(&RequestEnd {
            listener,
            status,
            method: "GET",
            duration,
            first_byte,
            sizes,
            exemplar: None,
        });
    }

    fn rendered(metrics: &Metrics) -> String {
        metrics.render(Format::Text, &metrics.gather(|| {}))
    }

    /// Lines of the exposition that start with `prefix`.
    fn lines(metrics: &Metrics, prefix: &str) -> Vec<String> {
        rendered(metrics).lines().filter(|line| line.starts_with(prefix)).map(str::to_owned).collect()
    }

    #[test]
    fn a_request_shows_in_every_series_it_touches() {
        let metrics = Metrics::new("1.2.3");
        let (edge, other) = (metrics.listener("edge"), metrics.listener("other"));
        let route = metrics.route("users", Some("users-v1"));
        let (upstream, endpoint) =
            (metrics.upstream("users-v1"), metrics.endpoint("users-v1", "10.0.0.1:80"));
        edge.connection_opened();
        edge.request_started();
        endpoint.attempt_started();
        endpoint.attempt_ended(Outcome::ConnectFailed);
        route.retry("connect_failed");
        endpoint.attempt_started();
        endpoint.attempt_ended(Outcome::Success);
        endpoint.attempt_started();
        upstream.record(2 * MS, None);
        upstream.queued(MS);
        (0..3).for_each(|n| upstream.connected(n > 0));
        edge.set_limit(1000);
        record(&route, &edge, 200, 3 * MS);
        record(&route, &edge, 200, 4 * MS);
        record(&route, &other, 503, MS);
        route.error("overloaded");
        other.connection_refused("limit");
        endpoint.probe_failed();
        endpoint.set_healthy(false);
        upstream.lookup_succeeded();
        metrics.reload_failed();
        metrics.reload_succeeded(UNIX_EPOCH + Duration::from_millis(1500));

        let text = rendered(&metrics);
        for line in [
            r#"tidegate_requests_total{listener="edge",route="users",upstream="users-v1",status="200"} 2"#,
            r#"tidegate_requests_total{listener="other",route="users",upstream="users-v1",status="503"} 1"#,
            r#"tidegate_request_duration_seconds_bucket{route="users",upstream="users-v1",le="0.001"} 1"#,
            r#"tidegate_request_duration_seconds_bucket{route="users",upstream="users-v1",le="0.005"} 3"#,
            r#"tidegate_request_duration_seconds_bucket{route="users",upstream="users-v1",le="+Inf"} 3"#,
            r#"tidegate_request_duration_seconds_sum{route="users",upstream="users-v1"} 0.008"#,
            r#"tidegate_request_duration_seconds_count{route="users",upstream="users-v1"} 3"#,
            r#"tidegate_upstream_duration_seconds_count{upstream="users-v1"} 1"#,
            r#"tidegate_time_to_first_byte_seconds_bucket{route="users",upstream="users-v1",le="0.001"} 1"#,
            r#"tidegate_request_size_bytes_sum{route="users",upstream="users-v1"} 0"#,
            r#"tidegate_response_size_bytes_bucket{route="users",upstream="users-v1",le="256"} 3"#,
            r#"tidegate_response_size_bytes_sum{route="users",upstream="users-v1"} 300"#,
            r#"tidegate_upstream_queue_wait_seconds_count{upstream="users-v1"} 1"#,
            r#"tidegate_upstream_connections_total{upstream="users-v1",connection="reused"} 2"#,
            r#"tidegate_upstream_connections_total{upstream="users-v1",connection="new"} 1"#,
            r#"tidegate_connections_limit{listener="edge"} 1000"#,
            "tidegate_config_last_reload_successful 1",
            r#"tidegate_requests_in_flight{listener="edge"} 1"#,
            r#"tidegate_errors_total{route="users",reason="overloaded"} 1"#,
            r#"tidegate_retries_total{route="users",reason="connect_failed"} 1"#,
            r#"tidegate_upstream_active_requests{upstream="users-v1",endpoint="10.0.0.1:80"} 1"#,
            r#"tidegate_upstream_healthy{upstream="users-v1",endpoint="10.0.0.1:80"} 0"#,
            r#"tidegate_upstream_attempts_total{upstream="users-v1",endpoint="10.0.0.1:80",outcome="success"} 1"#,
            r#"tidegate_upstream_attempts_total{upstream="users-v1",endpoint="10.0.0.1:80",outcome="connect_failed"} 1"#,
            r#"tidegate_connections_active{listener="edge"} 1"#,
            r#"tidegate_connections_total{listener="edge"} 1"#,
            r#"tidegate_connections_refused_total{listener="other",reason="limit"} 1"#,
            r#"tidegate_health_checks_total{upstream="users-v1",endpoint="10.0.0.1:80",result="failure"} 1"#,
            r#"tidegate_dns_lookups_total{upstream="users-v1",result="success"} 1"#,
            r#"tidegate_config_reloads_total{result="failure"} 1"#,
            r#"tidegate_config_reloads_total{result="success"} 1"#,
            "tidegate_config_last_reload_success_timestamp_seconds 1.5",
            r#"tidegate_build_info{version="1.2.3"} 1"#,
            "tidegate_access_log_dropped_total 0",
            "tidegate_access_log_write_errors_total 0",
        ] {
            assert!(text.lines().any(|written| written == line), "{line}\nis not in\n{text}");
        }
        assert!(!cfg!(target_os = "linux") || text.contains("\nprocess_resident_memory_bytes "));
    }

    #[test]
    fn no_series_or_family_is_written_twice() {
        let metrics = Metrics::new("1.2.3");
        let edge = metrics.listener("edge");
        let routes = [Some("a"), Some("b"), None].map(|upstream| metrics.route("split", upstream));
        for route in &routes {
            record(route, &edge, 200, MS);
            route.error("timeout");
        }
        let text = rendered(&metrics);
        let mut seen = BTreeSet::new();
        for line in text.lines() {
            let series = line.rsplit_once(' ').unwrap().0;
            assert!(seen.insert(series), "{series} in\n{text}");
        }
        assert_eq!(
            lines(&metrics, "tidegate_errors_total"),
            [r#"tidegate_errors_total{route="split",reason="timeout"} 3"#]
        );
    }

    #[test]
    fn series_begin_anew_with_other_settings_and_go_on_with_equal_ones() {
        let metrics = Metrics::new("1.2.3");
        let edge = metrics.listener("edge");
        let first = metrics.route("users", None);
        record(&first, &edge, 200, MS);
        metrics.configure(Settings::default());
        assert!(Arc::ptr_eq(&first, &metrics.route("users", None)));

        let settings = Settings { by_method: true, durations: vec![2 * MS], ..Settings::default() };
        metrics.configure(settings);
        let next = metrics.route("users", None);
        record(&next, &edge, 200, MS);
        let requests = r#"tidegate_requests_total{listener="edge",route="users",upstream="",status="200",method="GET"} 1"#;
        assert_eq!(lines(&metrics, "tidegate_requests_total"), [requests]);
        let bucket = |le| {
            format!(r#"tidegate_request_duration_seconds_bucket{{route="users",upstream="",le="{le}"}} 1"#)
        };
        assert_eq!(
            lines(&metrics, "tidegate_request_duration_seconds_bucket"),
            ["0.002", "+Inf"].map(bucket)
        );
    }

    #[test]
    fn idle_routes_and_upstreams_are_not_written() {
        let metrics = Metrics::new("1.2.3");
        let _held = (metrics.route("users", Some("users-v1")), metrics.upstream("users-v1"));
        assert!(!rendered(&metrics).contains("users"));
    }

    #[test]
    fn counts_go_on_across_snapshots_and_vanish_with_the_last_holder() {
        let metrics = Metrics::new("1.2.3");
        let edge = metrics.listener("edge");
        let (kept, removed) = (metrics.route("kept", None), metrics.route("removed", None));
        let endpoint = metrics.endpoint("users", "10.0.0.1:80");
        record(&kept, &edge, 200, MS);
        record(&removed, &edge, 200, MS);

        let next = metrics.route("kept", None);
        drop((kept, removed, endpoint));
        record(&next, &edge, 200, MS);
        assert_eq!(
            lines(&metrics, "tidegate_requests_total"),
            [r#"tidegate_requests_total{listener="edge",route="kept",upstream="",status="200"} 2"#]
        );
        let text = rendered(&metrics);
        assert!(!text.contains("removed") && !text.contains("10.0.0.1:80"));

        drop(edge);
        assert_eq!(lines(&metrics, "tidegate_requests_total"), Vec::<String>::new());
    }

    #[test]
    fn a_certificate_shows_when_it_ends_while_it_is_held() {
        let metrics = Metrics::new("1.2.3");
        let certificate = metrics.certificate("spiffe://mesh.local/a");
        let series = "tidegate_certificate_expiry_timestamp_seconds{";
        assert_eq!(lines(&metrics, series), Vec::<String>::new());
        certificate.expires(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        assert_eq!(
            lines(&metrics, series),
            [format!(r#"{series}subject="spiffe://mesh.local/a"}} 1700000000"#)]
        );
        drop(certificate);
        assert_eq!(lines(&metrics, series), Vec::<String>::new());
    }

    #[test]
    fn losses_of_log_lines_are_written() {
        use crate::observe::log_writer::tests::nowhere;
        use crate::observe::log_writer::{LineSink, Target};

        let metrics = Metrics::new("1.2.3");
        let sink = LineSink::open(&Target::Stderr, 0, metrics.lines(), &nowhere()).unwrap();
        sink.push(b"there is no room for this\n");
        assert_eq!(lines(&metrics, "tidegate_access_log_dropped"), ["tidegate_access_log_dropped_total 1"]);
    }

    /// `cargo test --release -- --ignored --nocapture cost`
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_a_request_and_of_a_scrape() {
        let metrics = Metrics::new("1.2.3");
        let edge = metrics.listener("edge");
        let route = metrics.route("users", Some("users-v1"));
        let (upstream, endpoint) =
            (metrics.upstream("users-v1"), metrics.endpoint("users-v1", "10.0.0.1:80"));
        let measure = |what: &str, mut work: Box<dyn FnMut() + '_>| {
            let rounds = 5_000_000;
            let start = Instant::now();
            (0..rounds).for_each(|_| work());
            println!("{what}: {:?}", start.elapsed() / rounds);
        };
        measure(
            "route.record",
            Box::new(|| record(&route, black_box(&edge), black_box(200), black_box(3 * MS))),
        );
        measure("upstream.record", Box::new(|| upstream.record(black_box(3 * MS), None)));
        measure(
            "everything a request records",
            Box::new(|| {
                edge.request_started();
                endpoint.attempt_started();
                endpoint.attempt_ended(black_box(Outcome::Success));
                upstream.record(black_box(3 * MS), None);
                record(&route, black_box(&edge), black_box(200), black_box(3 * MS));
                edge.request_ended();
            }),
        );
        let options = prometheus::HistogramOpts::new("h", "h").buckets(
            [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0].into(),
        );
        let theirs = prometheus::Histogram::with_opts(options).unwrap();
        measure("prometheus::Histogram", Box::new(|| theirs.observe(black_box(0.003))));

        let ours = histogram::Histogram::new(&metrics.shape.load().durations);
        for (name, observe) in [
            ("prometheus::Histogram", &(|| theirs.observe(black_box(0.003))) as &(dyn Fn() + Sync)),
            ("histogram", &|| ours.observe_time(black_box(3 * MS), None)),
        ] {
            let start = Instant::now();
            std::thread::scope(|scope| {
                (0..2).for_each(|_| drop(scope.spawn(|| (0..5_000_000).for_each(|_| observe()))));
            });
            println!("{name}, two threads at once: {:?}", start.elapsed() / 5_000_000);
        }

        let routes: Vec<_> =
            (0..10_000).map(|n| metrics.route(&format!("route-{n}"), Some("users-v1"))).collect();
        for busy in [0, 100, 10_000] {
            routes[..busy].iter().for_each(|route| record(route, &edge, 200, MS));
            let start = Instant::now();
            let text = rendered(&metrics);
            println!("scrape, {busy} busy of 10000 routes: {:?}, {} bytes", start.elapsed(), text.len());
        }
    }
}
