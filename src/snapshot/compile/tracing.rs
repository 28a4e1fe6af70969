//! `tracing`, and the `OTEL_*` variables for what it does not say (OpenTelemetry, "Environment Variable Specification"). The
//! file wins; a variable that is empty is not set, and one that cannot be understood is told and ignored.

use std::{
    collections::BTreeMap,
    fmt::Display,
    path::{Path as FilePath, PathBuf},
    str::FromStr,
    time::Duration,
};

use http::{HeaderName, HeaderValue, Uri, uri::PathAndQuery};

use super::Compiler;
use crate::{
    config::{self, OtlpCompression, OtlpProtocol, Path, Problem, Propagate, TellTrace},
    export,
    filter::Template,
    observe::spans,
    policy::{
        bucket::Limit,
        sample::{Known, Threshold},
    },
    snapshot::tracing::{Also, PlannedTracing},
    trace::{Format, Formats},
};

/// Where spans go, and how many may wait.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedExport {
    pub settings: export::Settings,
    pub limits: spans::Limits,
}

/// Attributes of the operator's own.
const MOST_ATTRIBUTES: usize = 16;
/// A second's worth may come at once, and that in bursts of up to so many.
const LARGEST_BURST: u64 = 1000;

/// The environment, by name.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Compiler<'_> {
    pub(super) fn tracing(
        &mut self,
        variables: Variables<'_>,
    ) -> (Option<PlannedTracing>, Option<PlannedExport>) {
        let mut variables = Otel { variables, wrong: Vec::new(), overridden: Vec::new() };
        let planned = self.tracing_with(&mut variables);
        let Otel { wrong, overridden, .. } = variables;
        let ignored = wrong.into_iter().map(|(name, why)| {
            Problem::new(format!("{name} is ignored: {why}"))
                .hint("correct the variable, or say it in `tracing`")
        });
        self.warnings.extend(ignored);
        for name in overridden {
            let at = Path::root().key("tracing");
            self.warnings
                .push(self.sources.problem(&at, format!("{name} is set, and the file says otherwise")));
        }
        planned
    }

    fn tracing_with(&mut self, variables: &mut Otel<'_>) -> (Option<PlannedTracing>, Option<PlannedExport>) {
        let at = Path::root().key("tracing");
        if variables.get("OTEL_SDK_DISABLED").is_some_and(|word| word.eq_ignore_ascii_case("true")) {
            return (None, None);
        }
        let endpoint = variables.exported_to();
        let written = match (&self.config.tracing, &endpoint) {
            (Some(written), _) => written.clone(),
            // Nobody is connected to by surprise: it takes an endpoint.
            (None, Some(_)) => config::Tracing::default(),
            (None, None) => return (None, None),
        };
        let otlp = match (&written.otlp, endpoint) {
            (Some(otlp), _) => Some(otlp.clone()),
            (None, Some(_)) => Some(config::Otlp::default()),
            (None, None) => None,
        };
        let export = otlp.as_ref().and_then(|otlp| self.export(&written, otlp, variables, &at));
        if written.attributes.len() > MOST_ATTRIBUTES {
            self.refuse(&at.key("attributes"), format!("at most {MOST_ATTRIBUTES} attributes"));
        }
        let mut attributes = Vec::new();
        for (name, text) in &written.attributes {
            match Template::parse(text) {
                Ok(template) => attributes.push((name.clone(), template.redacted(&self.config.log.redact).0)),
                Err(why) => self.refuse(&at.key("attributes").key(name), why),
            }
        }
        let sample = &written.sample;
        let at_most = sample.at_most.0.and_then(|rate| {
            let burst = rate.count().min(LARGEST_BURST);
            match Limit::new(rate.count(), rate.period(), burst) {
                Ok(limit) => Some((rate, limit)),
                Err(_) => {
                    let at = at.key("sample").key("at_most");
                    self.refuse_with_hint(&at, "is faster than can be counted", "`off` is no limit");
                    None
                }
            }
        });
        let planned = PlannedTracing {
            formats: self.formats(&written, variables, &at),
            accept: written.accept,
            new: self.new_traces(sample.new, variables),
            known: match sample.known {
                config::KnownTrace::Follow => Known::Follow,
                config::KnownTrace::Decide => Known::Decide,
            },
            at_most,
            also: Also {
                errors: sample.also.errors,
                slower_than: sample.also.slower_than.map(Duration::from),
            },
            query: written.query,
            attributes,
            baggage_attributes: written.baggage_attributes.clone(),
            responds: written.respond == TellTrace::ServerTiming,
            exports: export.is_some(),
        };
        (Some(planned), export)
    }

    fn formats(&mut self, written: &config::Tracing, variables: &mut Otel<'_>, at: &Path) -> Formats {
        let format = |propagate: &Propagate| match propagate {
            Propagate::W3c => Format::W3c,
            Propagate::B3 => Format::B3,
            Propagate::B3Single => Format::B3Single,
            Propagate::Baggage => Format::Baggage,
        };
        let propagate = written.propagate.as_deref();
        let mut formats: Vec<Format> = propagate.unwrap_or(&[Propagate::W3c]).iter().map(format).collect();
        if let Some(listed) = variables.or_written("OTEL_PROPAGATORS", propagate.is_some()) {
            let read: Result<Vec<Format>, String> = listed
                .split(',')
                .map(str::trim)
                .filter(|word| !matches!(*word, "" | "none"))
                .map(|word| match word {
                    "tracecontext" => Ok(Format::W3c),
                    "b3multi" => Ok(Format::B3),
                    "b3" => Ok(Format::B3Single),
                    "baggage" => Ok(Format::Baggage),
                    _ => Err(format!("`{word}` is none of tracecontext, b3multi, b3, baggage and none")),
                })
                .collect();
            match read {
                Ok(read) => formats = read,
                Err(why) => variables.wrong.push(("OTEL_PROPAGATORS", why)),
            }
        }
        if (1..formats.len()).any(|at| formats[..at].contains(&formats[at])) {
            self.refuse(&at.key("propagate"), "names a form twice");
        }
        formats.into_iter().collect()
    }

    fn new_traces(&mut self, written: Option<config::Ratio>, variables: &mut Otel<'_>) -> Threshold {
        let share = variables.or_written("OTEL_TRACES_SAMPLER", written.is_some());
        if let Some(written) = written {
            return Threshold::of(written.as_f64());
        }
        match share.as_deref() {
            None | Some("always_on" | "parentbased_always_on") => Threshold::ALL,
            Some("always_off" | "parentbased_always_off") => Threshold::of(0.0),
            Some("traceidratio" | "parentbased_traceidratio") => {
                let share = variables.parse("OTEL_TRACES_SAMPLER_ARG", |text| match text.parse::<f64>() {
                    Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
                    _ => Err("it is no number from 0 to 1"),
                });
                Threshold::of(share.unwrap_or(1.0))
            }
            Some(_) => {
                let why = "it is none of always_on, always_off and traceidratio, with parentbased_ before it or not";
                variables.wrong.push(("OTEL_TRACES_SAMPLER", why.into()));
                Threshold::ALL
            }
        }
    }

    fn export(
        &mut self,
        written: &config::Tracing,
        otlp: &config::Otlp,
        variables: &mut Otel<'_>,
        at: &Path,
    ) -> Option<PlannedExport> {
        let of_otlp = at.key("otlp");
        let protocol = self.protocol(otlp, variables);
        let endpoint = self.endpoint(otlp, protocol, variables, &of_otlp);
        let headers = self.collector_headers(otlp, variables, &of_otlp);
        let (ca, client_cert) = self.collector_tls(otlp, variables, &of_otlp);
        let compression = variables.of_traces("COMPRESSION", otlp.compression.is_some());
        let gzip = match (otlp.compression, compression.as_deref()) {
            (Some(compression), _) => compression == OtlpCompression::Gzip,
            (None, Some("none")) => false,
            _ => true,
        };
        let timeout = variables.of_traces("TIMEOUT", otlp.timeout.is_some());
        let timeout = otlp
            .timeout
            .map(Duration::from)
            .or_else(|| variables.millis("OTEL_EXPORTER_OTLP_TIMEOUT", timeout));
        let delay = variables.or_written("OTEL_BSP_SCHEDULE_DELAY", otlp.every.is_some());
        let every =
            otlp.every.map(Duration::from).or_else(|| variables.millis("OTEL_BSP_SCHEDULE_DELAY", delay));
        let batch = variables.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", otlp.batch.is_some());
        let batch = otlp.batch.map(|batch| batch.get()).or(batch).unwrap_or(512);
        let spans = variables.number("OTEL_BSP_MAX_QUEUE_SIZE", false).unwrap_or(u64::MAX);
        let settings = export::Settings {
            endpoint: endpoint?,
            protocol: match protocol {
                OtlpProtocol::Grpc => export::Protocol::Grpc,
                OtlpProtocol::HttpProtobuf => export::Protocol::HttpProtobuf,
                OtlpProtocol::HttpJson => export::Protocol::HttpJson,
            },
            headers,
            gzip,
            timeout: timeout.unwrap_or(Duration::from_secs(10)),
            ca,
            client_cert,
            every: every.unwrap_or(Duration::from_secs(5)),
            give_up: otlp.give_up.into(),
            resource: resource(written, variables),
        };
        let bytes = usize::try_from(otlp.queue.bytes()).unwrap_or(usize::MAX);
        Some(PlannedExport { settings, limits: spans::Limits { bytes, spans, batch } })
    }

    fn protocol(&mut self, otlp: &config::Otlp, variables: &mut Otel<'_>) -> OtlpProtocol {
        let named = variables.of_traces("PROTOCOL", otlp.protocol.is_some());
        match (otlp.protocol, named.as_deref()) {
            (Some(protocol), _) => protocol,
            (None, Some("grpc")) => OtlpProtocol::Grpc,
            (None, Some("http/json")) => OtlpProtocol::HttpJson,
            (None, None | Some("http/protobuf")) => OtlpProtocol::HttpProtobuf,
            (None, Some(_)) => {
                let why = "it is none of grpc, http/protobuf and http/json";
                variables.wrong.push(("OTEL_EXPORTER_OTLP_PROTOCOL", why.into()));
                OtlpProtocol::HttpProtobuf
            }
        }
    }

    /// With the path for the protocol. One that a variable gives for traces alone is taken as it is.
    fn endpoint(
        &mut self,
        otlp: &config::Otlp,
        protocol: OtlpProtocol,
        variables: &mut Otel<'_>,
        at: &Path,
    ) -> Option<Uri> {
        const GRPC: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        let is_grpc = protocol == OtlpProtocol::Grpc;
        let of_traces = variables.or_written("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", otlp.endpoint.is_some());
        let of_all = variables.or_written("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.endpoint.is_some());
        let (text, is_whole) = match (&otlp.endpoint, of_traces, of_all) {
            (Some(written), ..) => (written.clone(), false),
            (None, Some(of_traces), _) => (of_traces, true),
            (None, None, Some(base)) => (base, false),
            (None, None, None) if is_grpc => ("http://127.0.0.1:4317".to_owned(), false),
            (None, None, None) => ("http://127.0.0.1:4318".to_owned(), false),
        };
        let uri = Uri::from_str(&text).ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
        });
        let path = uri.as_ref().map(|uri| match (is_grpc, is_whole) {
            (true, _) => GRPC.to_owned(),
            (false, true) => uri.path().to_owned(),
            (false, false) => format!("{}/v1/traces", uri.path().trim_end_matches('/')),
        });
        let whole = uri.zip(path).and_then(|(uri, path)| {
            let mut parts = uri.into_parts();
            parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
            Uri::from_parts(parts).ok()
        });
        if whole.is_none() {
            let hint = "such as http://127.0.0.1:4318";
            self.refuse_with_hint(&at.key("endpoint"), "is not the http or https URL of a collector", hint);
        }
        whole
    }

    fn collector_headers(
        &mut self,
        otlp: &config::Otlp,
        variables: &mut Otel<'_>,
        at: &Path,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = Vec::new();
        let is_written = !otlp.headers.is_empty();
        for (name, value) in variables
            .of_traces("HEADERS", is_written)
            .filter(|_| !is_written)
            .iter()
            .flat_map(|all| pairs(all))
        {
            match (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value)) {
                (Ok(name), Ok(value)) => headers.push((name, value)),
                _ => variables.wrong.push(("OTEL_EXPORTER_OTLP_HEADERS", "it has what no header can".into())),
            }
        }
        for (name, value) in &otlp.headers {
            match (HeaderName::try_from(name), HeaderValue::try_from(value.expose())) {
                (Ok(name), Ok(value)) => headers.push((name, value)),
                (Err(_), _) => self.refuse(&at.key("headers").key(name), "is not a header name"),
                (_, Err(_)) => self.refuse(&at.key("headers").key(name), "has what no header's value can"),
            }
        }
        headers.iter_mut().for_each(|(_, value)| value.set_sensitive(true));
        headers
    }

    #[expect(clippy::type_complexity, reason = "the authorities; a certificate and its key")]
    fn collector_tls(
        &mut self,
        otlp: &config::Otlp,
        variables: &mut Otel<'_>,
        at: &Path,
    ) -> (Option<Vec<u8>>, Option<(Vec<u8>, Vec<u8>)>) {
        let tls = &otlp.tls;
        if tls.cert.is_some() != tls.key.is_some() {
            self.refuse(&at.key("tls"), "`cert` and `key` go together");
        }
        let mut file = |key: &str, written: &Option<PathBuf>, variable: &str| {
            let named = variables.of_traces(variable, written.is_some());
            let at = at.key("tls").key(key);
            let path = match (written, named) {
                (Some(written), _) => self.sources.full_path(&at, written),
                (None, named) => PathBuf::from(named?),
            };
            self.read_pem(&path, &at)
        };
        let ca = file("ca", &tls.ca, "CERTIFICATE");
        let cert = file("cert", &tls.cert, "CLIENT_CERTIFICATE");
        let key = file("key", &tls.key, "CLIENT_KEY");
        (ca, cert.zip(key))
    }

    fn read_pem(&mut self, path: &FilePath, at: &Path) -> Option<Vec<u8>> {
        match std::fs::read(path) {
            Ok(pem) => Some(pem),
            Err(error) => {
                self.refuse(at, format!("cannot read {}: {error}", path.display()));
                None
            }
        }
    }
}

/// What the spans are of: what the file says, over the variables, over what we know.
fn resource(written: &config::Tracing, variables: &mut Otel<'_>) -> Vec<(String, String)> {
    let mut all = BTreeMap::new();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let service = variables.or_written("OTEL_SERVICE_NAME", written.service.is_some());
    let service = written.service.clone().or(service);
    for (key, value) in [
        ("service.name", "tidegate".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", instance()),
        ("host.name", host),
        ("process.pid", std::process::id().to_string()),
    ] {
        all.insert(key.to_owned(), value);
    }
    let given = variables.get("OTEL_RESOURCE_ATTRIBUTES");
    all.extend(given.iter().flat_map(|given| pairs(given)));
    all.extend(service.map(|service| ("service.name".to_owned(), service)));
    all.extend(written.resource.clone());
    // Not those of OpenTelemetry's SDK, and nobody can say otherwise.
    for (key, value) in [("telemetry.sdk.name", "tidegate"), ("telemetry.sdk.language", "rust")] {
        all.insert(key.to_owned(), value.to_owned());
    }
    all.into_iter().collect()
}

/// One for the life of the process.
fn instance() -> String {
    static ID: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ID.get_or_init(|| uuid::Uuid::new_v4().to_string()).clone()
}

/// `key=value,key=value`, percent-encoded.
fn pairs(text: &str) -> Vec<(String, String)> {
    let decode =
        |text: &str| percent_encoding::percent_decode_str(text.trim()).decode_utf8_lossy().into_owned();
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (decode(key), decode(value))).filter(|(key, _)| !key.is_empty()).collect()
}

struct Otel<'a> {
    variables: Variables<'a>,
    wrong: Vec<(&'static str, String)>,
    overridden: Vec<String>,
}

impl Otel<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.variables)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// The endpoint, where one is given and spans are exported over OTLP.
    fn exported_to(&mut self) -> Option<String> {
        match self.get("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("otlp") => {}
            Some("none") => return None,
            Some(other) => {
                let why = format!("`{other}` is neither `otlp` nor `none`");
                self.wrong.push(("OTEL_TRACES_EXPORTER", why));
                return None;
            }
        }
        let name = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        self.get(name).or_else(|| self.get("OTEL_EXPORTER_OTLP_ENDPOINT"))
    }

    /// The variable's value; that it is not used where the file says it as well is noted.
    fn or_written(&mut self, name: &str, is_written: bool) -> Option<String> {
        let value = self.get(name)?;
        if is_written {
            self.overridden.push(name.to_owned());
        }
        Some(value).filter(|_| !is_written)
    }

    /// What is said of traces goes before what is said of all signals.
    fn of_traces(&mut self, what: &str, is_written: bool) -> Option<String> {
        let of_traces = self.or_written(&format!("OTEL_EXPORTER_OTLP_TRACES_{what}"), is_written);
        let of_all = self.or_written(&format!("OTEL_EXPORTER_OTLP_{what}"), is_written);
        of_traces.or(of_all)
    }

    fn parse<T, E: Display>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.get(name)?;
        parse(&text).map_err(|why| self.wrong.push((name, why.to_string()))).ok()
    }

    fn number(&mut self, name: &'static str, is_written: bool) -> Option<u64> {
        let text = self.or_written(name, is_written)?;
        let number = text.parse().ok().filter(|number| *number > 0);
        if number.is_none() {
            self.wrong.push((name, "it is no number above 0".into()));
        }
        number
    }

    fn millis(&mut self, name: &'static str, text: Option<String>) -> Option<Duration> {
        let millis = text?.parse().ok().filter(|millis| *millis > 0);
        if millis.is_none() {
            self.wrong.push((name, "it is no number of milliseconds above 0".into()));
        }
        millis.map(Duration::from_millis)
    }
}
