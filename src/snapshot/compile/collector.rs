//! A collector of OpenTelemetry, as it is written for spans, for metrics and for the access log's records.

use std::{
    collections::BTreeMap,
    path::{Path as FilePath, PathBuf},
    str::FromStr,
    time::Duration,
};

use http::{HeaderName, HeaderValue, Uri, uri::PathAndQuery};

use super::{
    Compiler,
    access_log::place,
    control::is_loopback,
    otel::{Otel, pairs},
};
use crate::{
    config::{self, HumanDuration, OtlpCompression, OtlpProtocol, OtlpTls, Path, Secret},
    export::{self, Signal},
    observe::otlp::Limits,
    trust,
};

/// Where records go, and how many may wait.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedExport {
    pub settings: export::Settings,
    pub limits: Limits,
}

/// All that is exported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlannedExports {
    pub traces: Option<PlannedExport>,
    pub logs: Option<PlannedExport>,
    pub metrics: Option<export::Settings>,
}

/// What the file says of a collector, whatever it is for.
struct Collector<'w> {
    signal: Signal,
    at: &'w Path,
    endpoint: Option<&'w str>,
    protocol: Option<OtlpProtocol>,
    headers: &'w BTreeMap<String, Secret>,
    compression: Option<OtlpCompression>,
    timeout: Option<HumanDuration>,
    tls: &'w OtlpTls,
}

/// How a signal's records are put together.
struct Batching {
    every: Option<Duration>,
    batch: Option<u64>,
    most: Option<u64>,
    give_up: Duration,
}

/// Of spans and log records, where nothing else is said.
const BATCH: u64 = 512;
const SPANS_WAIT: Duration = Duration::from_secs(5);
const LOGS_WAIT: Duration = Duration::from_secs(1);
const METRICS_EVERY: Duration = Duration::from_secs(60);
const GIVE_UP: Duration = Duration::from_secs(60);
const SPAN_QUEUE: u64 = 8 * 1024 * 1024;
/// Characters of an attribute's value in a span; as many as a line of the access log has.
const SPAN_VALUE: usize = 1024;
const LOG_VALUE: usize = 2048;
/// A span has about 25 of them, and may be as large as 2 MiB.
const LONGEST_SPAN_VALUE: usize = 16 * 1024;
/// What is said of an endpoint that is none, and what to do about it.
const NO_COLLECTOR: (&str, &str) =
    ("is not the http or https URL of a collector", "such as http://127.0.0.1:4318");
const HAS_QUERY: (&str, &str) =
    ("has a query, which is not sent to a collector", "leave it out: a token belongs in `headers`");

impl Compiler<'_> {
    pub(super) fn span_export(
        &mut self,
        otlp: &config::Otlp,
        variables: &mut Otel<'_>,
        at: &Path,
    ) -> Option<PlannedExport> {
        let batching = batching(otlp, variables, "BSP");
        let value = variables.longest_value("SPAN", SPAN_VALUE, LONGEST_SPAN_VALUE);
        let queue = otlp.queue.map_or(SPAN_QUEUE, |queue| queue.bytes());
        let every = batching.every.unwrap_or(SPANS_WAIT);
        let settings = self.export_of(Signal::Traces, otlp, (every, batching.give_up), variables, at)?;
        Some(PlannedExport { settings, limits: limits(&batching, queue, value) })
    }

    /// Of the access log, where one of its places is a collector.
    pub(super) fn log_export(&mut self, variables: &mut Otel<'_>) -> Option<PlannedExport> {
        let access = &self.config.log.access;
        let mut written = access.to.0.iter().enumerate().filter_map(|(index, target)| match target {
            config::LogTarget::Otlp(otlp) => Some((index, otlp)),
            _ => None,
        });
        let (index, otlp) = written.next()?;
        if written.next().is_some() {
            let at = Path::root().key("log").key("access").key("to");
            self.refuse_with_hint(&at, "there can be one `otlp` only", "have a collector pass records on");
        }
        let at = place(&access.to, index).key("otlp");
        variables.about(&at);
        if variables.is_disabled() {
            self.warn_of_disabled(&at);
            return None;
        }
        variables.exported_to(Signal::Logs, true, &[]);
        let batching = batching(otlp, variables, "BLRP");
        let value = variables.longest_value("LOGRECORD", LOG_VALUE, LOG_VALUE);
        let queue = otlp.queue.unwrap_or(access.buffer).bytes();
        let every = batching.every.unwrap_or(LOGS_WAIT);
        let settings = self.export_of(Signal::Logs, otlp, (every, batching.give_up), variables, &at)?;
        Some(PlannedExport { settings, limits: limits(&batching, queue, value) })
    }

    pub(super) fn metric_export(&mut self, variables: &mut Otel<'_>) -> Option<export::Settings> {
        let at = Path::root().key("metrics").key("otlp");
        let written = self.config.metrics.otlp.as_ref();
        variables.about(&at);
        if variables.is_disabled() {
            if written.is_some() {
                self.warn_of_disabled(&at);
            }
            return None;
        }
        let endpoint = variables.exported_to(Signal::Metrics, written.is_some(), &["prometheus"]);
        let otlp = match (written, endpoint) {
            (Some(otlp), _) => otlp.clone(),
            // Nobody is connected to by surprise: it takes an endpoint.
            (None, Some(_)) => config::MetricsOtlp::default(),
            (None, None) => return None,
        };
        let interval = variables.millis("OTEL_METRIC_EXPORT_INTERVAL", otlp.every.is_some());
        let every = otlp.every.map(Duration::from).or(interval).unwrap_or(METRICS_EVERY);
        if let Some(every) = otlp.every {
            self.refuse_zero(&at.key("every"), every);
        }
        // What could not be sent by then is sent with the next.
        let of_push = variables.millis("OTEL_METRIC_EXPORT_TIMEOUT", false);
        let give_up = of_push.map_or(every, |timeout| timeout.min(every));
        let collector = Collector {
            signal: Signal::Metrics,
            at: &at,
            endpoint: otlp.endpoint.as_deref(),
            protocol: otlp.protocol,
            headers: &otlp.headers,
            compression: otlp.compression,
            timeout: otlp.timeout,
            tls: &otlp.tls,
        };
        self.collector(&collector, every, give_up, variables)
    }

    fn export_of(
        &mut self,
        signal: Signal,
        otlp: &config::Otlp,
        (every, give_up): (Duration, Duration),
        variables: &mut Otel<'_>,
        at: &Path,
    ) -> Option<export::Settings> {
        let collector = Collector {
            signal,
            at,
            endpoint: otlp.endpoint.as_deref(),
            protocol: otlp.protocol,
            headers: &otlp.headers,
            compression: otlp.compression,
            timeout: otlp.timeout,
            tls: &otlp.tls,
        };
        self.collector(&collector, every, give_up, variables)
    }

    fn collector(
        &mut self,
        written: &Collector<'_>,
        every: Duration,
        give_up: Duration,
        variables: &mut Otel<'_>,
    ) -> Option<export::Settings> {
        let protocol = protocol(written, variables);
        let endpoint = self.endpoint(written, protocol, variables);
        let headers = self.collector_headers(written, variables);
        let (ca, client_cert) = self.collector_tls(written, variables);
        let authority = endpoint.as_ref().and_then(Uri::authority);
        // No network is between us: what both sides would compute is worth more than what they send.
        let is_far = || !authority.is_some_and(|authority| is_loopback(authority.as_str()));
        let gzip = is_zipped(written, variables).unwrap_or_else(is_far);
        Some(export::Settings {
            endpoint: endpoint?,
            protocol: match protocol {
                OtlpProtocol::Grpc => export::Protocol::Grpc,
                OtlpProtocol::HttpProtobuf => export::Protocol::HttpProtobuf,
                OtlpProtocol::HttpJson => export::Protocol::HttpJson,
            },
            headers,
            gzip,
            timeout: timeout(written, variables).unwrap_or(Duration::from_secs(10)),
            ca,
            client_cert,
            every,
            give_up,
            resource: variables.resource(self.config.tracing.as_ref()),
        })
    }

    /// With the path for the protocol. One that a variable gives for this signal alone is taken as it is.
    fn endpoint(
        &mut self,
        written: &Collector<'_>,
        protocol: OtlpProtocol,
        variables: &mut Otel<'_>,
    ) -> Option<Uri> {
        let signal = written.signal;
        let is_grpc = protocol == OtlpProtocol::Grpc;
        let of_variables = variables.endpoint(signal, written.endpoint.is_some());
        let (text, is_whole) = match (written.endpoint, of_variables) {
            (Some(written), _) => (written.to_owned(), false),
            (None, Some(of_variables)) => of_variables,
            (None, None) if is_grpc => ("http://127.0.0.1:4317".to_owned(), false),
            (None, None) => ("http://127.0.0.1:4318".to_owned(), false),
        };
        let at = written.at.key("endpoint");
        let uri = collector_url(&text).map_err(|(why, hint)| self.refuse_with_hint(&at, why, hint)).ok()?;
        let path = match (is_grpc, is_whole) {
            (true, _) => signal.method().to_owned(),
            (false, true) => uri.path().to_owned(),
            (false, false) => format!("{}{}", uri.path().trim_end_matches('/'), signal.path()),
        };
        let mut parts = uri.into_parts();
        parts.path_and_query = PathAndQuery::try_from(path).ok();
        let whole = Uri::from_parts(parts).ok();
        if whole.is_none() {
            let (why, hint) = NO_COLLECTOR;
            self.refuse_with_hint(&at, why, hint);
        }
        whole
    }

    fn collector_headers(
        &mut self,
        written: &Collector<'_>,
        variables: &mut Otel<'_>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = Vec::new();
        let is_written = !written.headers.is_empty();
        variables.of(written.signal, "HEADERS", is_written);
        let variable = variables.name_of(written.signal, "HEADERS");
        for (name, value) in variables.get(&variable).iter().flat_map(|all| pairs(all)) {
            match (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value)) {
                (Ok(name), Ok(value)) => headers.push((name, value)),
                _ => variables.ignore(&variable, "it has what no header can"),
            }
        }
        if is_written {
            headers.clear();
        }
        for (name, value) in written.headers {
            let at = written.at.key("headers").key(name);
            match (HeaderName::try_from(name), HeaderValue::try_from(value.expose())) {
                (Ok(name), Ok(value)) => headers.push((name, value)),
                (Err(_), _) => self.refuse(&at, "is not a header name"),
                (_, Err(_)) => self.refuse(&at, "has what no header's value can"),
            }
        }
        headers.iter_mut().for_each(|(_, value)| value.set_sensitive(true));
        headers
    }

    #[expect(clippy::type_complexity, reason = "the authorities; a certificate and its key")]
    fn collector_tls(
        &mut self,
        written: &Collector<'_>,
        variables: &mut Otel<'_>,
    ) -> (Option<Vec<u8>>, Option<(Vec<u8>, Vec<u8>)>) {
        let (tls, at) = (written.tls, written.at.key("tls"));
        if tls.cert.is_some() != tls.key.is_some() {
            self.refuse(&at, "`cert` and `key` go together");
        }
        let mut file = |key: &str, path: &Option<PathBuf>, variable: &str| {
            let named = variables.of(written.signal, variable, path.is_some());
            let at = at.key(key);
            let path = match (path, named) {
                (Some(path), _) => self.sources.full_path(&at, path),
                (None, named) => PathBuf::from(named?),
            };
            self.read_pem(&path, &at)
        };
        let ca = file("ca", &tls.ca, "CERTIFICATE");
        let cert = file("cert", &tls.cert, "CLIENT_CERTIFICATE");
        let key = file("key", &tls.key, "CLIENT_KEY");
        let client_cert = cert.zip(key);
        self.check_tls(ca.as_deref(), client_cert.as_ref(), &at);
        (ca, client_cert)
    }

    /// Whether these certificates, in PEM, can be used towards a server.
    pub(super) fn check_tls(
        &mut self,
        ca: Option<&[u8]>,
        client_cert: Option<&(Vec<u8>, Vec<u8>)>,
        at: &Path,
    ) {
        // Whom the system trusts is another's business.
        if ca.is_none() && client_cert.is_none() {
            return;
        }
        match trust::connector(ca) {
            Err(why) => self.refuse(&at.key("ca"), why),
            Ok(mut connector) => {
                if let Some((cert, key)) = client_cert
                    && let Err(why) = trust::identify(&mut connector, cert, key)
                {
                    self.refuse(&at.key("cert"), why);
                }
            }
        }
    }

    pub(super) fn read_pem(&mut self, path: &FilePath, at: &Path) -> Option<Vec<u8>> {
        match std::fs::read(path) {
            Ok(pem) => Some(pem),
            Err(error) => {
                self.refuse(at, format!("cannot read {}: {error}", path.display()));
                None
            }
        }
    }
}

fn limits(batching: &Batching, bytes: u64, value: usize) -> Limits {
    Limits {
        bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
        records: batching.most.unwrap_or(u64::MAX),
        batch: batching.batch.unwrap_or(BATCH),
        value,
    }
}

/// # Errors
///
/// What is wrong with it, and what to do about that.
pub(super) fn collector_url(text: &str) -> Result<Uri, (&'static str, &'static str)> {
    let uri = Uri::from_str(text).map_err(|_| NO_COLLECTOR)?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(NO_COLLECTOR);
    }
    if uri.query().is_some() { Err(HAS_QUERY) } else { Ok(uri) }
}

/// What the variables say of spans while none are exported is read for what may be wrong with it alone.
pub(super) fn understand_spans(variables: &mut Otel<'_>) {
    let otlp = config::Otlp::default();
    batching(&otlp, variables, "BSP");
    variables.longest_value("SPAN", SPAN_VALUE, LONGEST_SPAN_VALUE);
    let (at, headers, tls) = (Path::root(), BTreeMap::new(), OtlpTls::default());
    let nothing = Collector {
        signal: Signal::Traces,
        at: &at,
        endpoint: None,
        protocol: None,
        headers: &headers,
        compression: None,
        timeout: None,
        tls: &tls,
    };
    protocol(&nothing, variables);
    is_zipped(&nothing, variables);
    timeout(&nothing, variables);
}

/// `of` names the variables: `BSP` those of spans, `BLRP` those of log records.
fn batching(otlp: &config::Otlp, variables: &mut Otel<'_>, of: &str) -> Batching {
    let name = |what: &str| format!("OTEL_{of}_{what}");
    let delay = variables.millis(&name("SCHEDULE_DELAY"), otlp.every.is_some());
    let batch = variables.number(&name("MAX_EXPORT_BATCH_SIZE"), otlp.batch.is_some());
    let give_up = variables.millis(&name("EXPORT_TIMEOUT"), otlp.give_up.is_some());
    Batching {
        give_up: otlp.give_up.map(Duration::from).or(give_up).unwrap_or(GIVE_UP),
        every: otlp.every.map(Duration::from).or(delay),
        batch: otlp.batch.map(|batch| batch.get()).or(batch),
        most: variables.number(&name("MAX_QUEUE_SIZE"), false),
    }
}

fn protocol(written: &Collector<'_>, variables: &mut Otel<'_>) -> OtlpProtocol {
    let of_variables =
        of_collector(written, variables, "PROTOCOL", written.protocol.is_some(), |word| match word {
            "grpc" => Ok(OtlpProtocol::Grpc),
            "http/json" => Ok(OtlpProtocol::HttpJson),
            "http/protobuf" => Ok(OtlpProtocol::HttpProtobuf),
            _ => Err("it is none of grpc, http/protobuf and http/json"),
        });
    written.protocol.or(of_variables).unwrap_or(OtlpProtocol::HttpProtobuf)
}

/// `None` where nobody says.
fn is_zipped(written: &Collector<'_>, variables: &mut Otel<'_>) -> Option<bool> {
    let compression = written.compression;
    let of_variables =
        of_collector(written, variables, "COMPRESSION", compression.is_some(), |word| match word {
            "gzip" => Ok(true),
            "none" => Ok(false),
            _ => Err("it is neither gzip nor none"),
        });
    compression.map(|compression| compression == OtlpCompression::Gzip).or(of_variables)
}

/// Of one attempt; `None` where nobody says.
fn timeout(written: &Collector<'_>, variables: &mut Otel<'_>) -> Option<Duration> {
    let is_written = written.timeout.is_some();
    variables.of(written.signal, "TIMEOUT", is_written);
    let name = variables.name_of(written.signal, "TIMEOUT");
    let of_variables = variables.millis(&name, false);
    written.timeout.map(Duration::from).or(of_variables)
}

/// What a variable says of a collector, whatever the file says, which is noted.
fn of_collector<T>(
    written: &Collector<'_>,
    variables: &mut Otel<'_>,
    what: &str,
    is_written: bool,
    parse: impl FnOnce(&str) -> Result<T, &'static str>,
) -> Option<T> {
    variables.of(written.signal, what, is_written);
    let name = variables.name_of(written.signal, what);
    variables.parse(&name, parse)
}
