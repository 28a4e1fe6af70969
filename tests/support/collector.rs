//! A collector of OpenTelemetry: takes spans, metrics and log records over HTTP/1 and HTTP/2, in protobuf, JSON and gRPC,
//! decodes them with OpenTelemetry's own types, and answers as it is told.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    io::Read,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use openssl::ssl::{SslAcceptor, SslVerifyMode};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest,
        metrics::v1::ExportMetricsServiceRequest,
        trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
    },
    common::v1::{KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::Metric,
    resource::v1::Resource,
    trace::v1::Span,
};
use prost::Message;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use super::{
    certificates::{Issued, Order, server},
    own_address, tls, within_deadline,
};

pub(crate) struct Collector {
    address: SocketAddr,
    /// Where it speaks TLS.
    tls: Option<SslAcceptor>,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    taken: watch::Sender<Vec<Taken>>,
    metrics: watch::Sender<Vec<TakenMetric>>,
    logs: watch::Sender<Vec<TakenLog>>,
    requests: watch::Sender<Vec<(String, HeaderMap)>>,
    replies: Mutex<VecDeque<Reply>>,
}

/// How one export is answered; those without a reply are taken.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Status(u16, &'static [(&'static str, &'static str)]),
    /// Taken but for so many spans.
    Partial(u64),
    /// Taken but for one, and this is why.
    Says(&'static str),
    /// Never.
    Stall,
}

/// A span, with its attributes as text.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub span: Span,
    pub attributes: BTreeMap<String, String>,
    pub resource: BTreeMap<String, String>,
    /// The name of what made it.
    pub scope: String,
}

impl Taken {
    pub(crate) fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    pub(crate) fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    pub(crate) fn trace(&self) -> String {
        hex(&self.span.trace_id)
    }

    pub(crate) fn is_server(&self) -> bool {
        self.span.kind == 2
    }

    #[track_caller]
    pub(crate) fn get(&self, key: &str) -> &str {
        self.attributes.get(key).unwrap_or_else(|| panic!("no {key} in {:#?}", self.attributes))
    }

    pub(crate) fn is_error(&self) -> bool {
        self.span.status.as_ref().is_some_and(|status| status.code == 2)
    }
}

/// A metric with its points, of one export.
#[derive(Clone, Debug)]
pub(crate) struct TakenMetric {
    pub metric: Metric,
    pub resource: BTreeMap<String, String>,
}

/// A log record, with its attributes as text.
#[derive(Clone, Debug)]
pub(crate) struct TakenLog {
    pub record: LogRecord,
    pub attributes: BTreeMap<String, String>,
    pub resource: BTreeMap<String, String>,
}

impl TakenLog {
    pub(crate) fn body(&self) -> &str {
        match self.record.body.as_ref().and_then(|any| any.value.as_ref()) {
            Some(Value::StringValue(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn get(&self, key: &str) -> &str {
        self.attributes.get(key).unwrap_or_else(|| panic!("no {key} in {:#?}", self.attributes))
    }

    pub(crate) fn trace(&self) -> String {
        hex(&self.record.trace_id)
    }

    pub(crate) fn span(&self) -> String {
        hex(&self.record.span_id)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Collector {
    pub(crate) async fn start() -> Collector {
        Collector::at(TcpListener::bind(own_address()).await.unwrap(), None)
    }

    /// One that speaks TLS with a certificate of `root` for its address, and takes those only who show one of `root` as well.
    pub(crate) async fn start_tls(root: &Issued) -> Collector {
        let listener = TcpListener::bind(own_address()).await.unwrap();
        let ip = listener.local_addr().unwrap().ip();
        let own = root.issue(&Order { ips: vec![ip.to_string()], ..server(&[]) });
        let mut acceptor = tls::acceptor(&own.certificate, &own.key, &[]);
        acceptor.cert_store_mut().add_cert(root.certificate.clone()).unwrap();
        acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        acceptor.set_session_id_context(b"collector").unwrap();
        Collector::at(listener, Some(acceptor.build()))
    }

    fn at(listener: TcpListener, tls: Option<SslAcceptor>) -> Collector {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let serving = serve(listener, tls.clone(), shared.clone());
        Collector { address, tls, shared, serving }
    }

    /// It is gone, in the middle of whatever it was asked.
    pub(crate) async fn kill(&mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }

    /// It is back at the same address.
    pub(crate) async fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serving = serve(listener, self.tls.clone(), self.shared.clone());
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The next exports are answered so, in this order.
    pub(crate) fn script(&self, replies: &[Reply]) {
        self.shared.replies.lock().unwrap().extend(replies.iter().cloned());
    }

    /// All spans so far, once there are so many.
    pub(crate) async fn spans(&self, count: usize) -> Vec<Taken> {
        let mut taken = self.shared.taken.subscribe();
        let spans = taken.wait_for(|taken| taken.len() >= count);
        within_deadline(&format!("{count} spans"), spans).await.unwrap().clone()
    }

    pub(crate) fn spans_now(&self) -> Vec<Taken> {
        self.shared.taken.borrow().clone()
    }

    /// All log records so far, once there are so many.
    pub(crate) async fn logs(&self, count: usize) -> Vec<TakenLog> {
        let mut logs = self.shared.logs.subscribe();
        let records = logs.wait_for(|taken| taken.len() >= count);
        within_deadline(&format!("{count} log records"), records).await.unwrap().clone()
    }

    pub(crate) fn logs_now(&self) -> Vec<TakenLog> {
        self.shared.logs.borrow().clone()
    }

    /// All metrics of all exports so far, once one of them is as `wanted`.
    pub(crate) async fn metrics(
        &self,
        what: &str,
        wanted: impl Fn(&TakenMetric) -> bool,
    ) -> Vec<TakenMetric> {
        let mut metrics = self.shared.metrics.subscribe();
        let taken = metrics.wait_for(|taken| taken.iter().any(&wanted));
        within_deadline(what, taken).await.unwrap().clone()
    }

    pub(crate) fn metrics_now(&self) -> Vec<TakenMetric> {
        self.shared.metrics.borrow().clone()
    }

    /// Paths and fields of all exports so far, once there are so many.
    pub(crate) async fn requests(&self, count: usize) -> Vec<(String, HeaderMap)> {
        let mut requests = self.shared.requests.subscribe();
        let seen = requests.wait_for(|seen| seen.len() >= count);
        within_deadline(&format!("{count} exports"), seen).await.unwrap().clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn serve(listener: TcpListener, tls: Option<SslAcceptor>, shared: Arc<Shared>) -> JoinHandle<()> {
    tokio::spawn(async move {
        // Aborted with this task.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (tls, shared) = (tls.clone(), shared.clone());
            let service = hyper::service::service_fn(move |request| answer(shared.clone(), request));
            connections.spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let Some(acceptor) = tls else {
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                    return;
                };
                if let Some(stream) = tls::accept(&acceptor, stream).await {
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                }
            });
        }
    })
}

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let Ok(body) = body.collect().await else { return Ok(Response::new(Full::default().boxed())) };
    let kind = head.headers["content-type"].to_str().unwrap().to_owned();
    let reply = shared.replies.lock().unwrap().pop_front();
    let rejected = match &reply {
        None => 0,
        Some(Reply::Partial(rejected)) => *rejected,
        Some(Reply::Says(_)) => 1,
        Some(Reply::Status(..) | Reply::Stall) => u64::MAX,
    };
    if rejected < u64::MAX {
        let message = plain(&head.headers, &kind, &body.to_bytes());
        shared.take(&path, &kind, &message, rejected as usize);
    }
    shared.requests.send_modify(|seen| seen.push((path, head.headers)));
    match reply {
        Some(Reply::Stall) => std::future::pending().await,
        Some(Reply::Status(status, fields)) => {
            let mut response = Response::builder().status(status);
            for (name, value) in fields {
                response = response.header(*name, *value);
            }
            Ok(response.body(Full::default().boxed()).unwrap())
        }
        Some(Reply::Says(why)) => Ok(taken(&kind, rejected, why)),
        None | Some(Reply::Partial(_)) => Ok(taken(&kind, rejected, "no")),
    }
}

impl Shared {
    /// All of a message but what is rejected of it.
    fn take(&self, path: &str, kind: &str, message: &[u8], rejected: usize) {
        if path.ends_with("/v1/metrics") || path.contains(".MetricsService/") {
            let metrics = metrics(read::<ExportMetricsServiceRequest>(kind, message));
            self.metrics.send_modify(|taken| taken.extend(metrics));
        } else if path.ends_with("/v1/logs") || path.contains(".LogsService/") {
            let logs = logs(read::<ExportLogsServiceRequest>(kind, message));
            self.logs.send_modify(|taken| taken.extend(logs.into_iter().skip(rejected)));
        } else {
            let spans = spans(read::<ExportTraceServiceRequest>(kind, message));
            self.taken.send_modify(|taken| taken.extend(spans.into_iter().skip(rejected)));
        }
    }
}

fn read<T: Message + Default + serde::de::DeserializeOwned>(kind: &str, message: &[u8]) -> T {
    if kind != "application/json" {
        return T::decode(message).expect("OTLP in protobuf");
    }
    let mut written = serde_json::from_slice(message).expect("JSON");
    plain_numbers(&mut written);
    serde_json::from_value(written).expect("OTLP in JSON")
}

/// 64-bit numbers are text in OTLP, but the types do not expect it everywhere.
fn plain_numbers(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            if let Some(number @ serde_json::Value::String(_)) = fields.get_mut("asInt") {
                *number = number.as_str().unwrap().parse::<i64>().unwrap().into();
            }
            fields.values_mut().for_each(plain_numbers);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(plain_numbers),
        _ => {}
    }
}

/// The message, out of what it is wrapped in.
fn plain(headers: &HeaderMap, kind: &str, body: &[u8]) -> Vec<u8> {
    let (body, encoding) = match kind {
        "application/grpc" => (&body[5..], headers.get("grpc-encoding")),
        _ => (body, headers.get("content-encoding")),
    };
    match encoding.map(HeaderValue::as_bytes) {
        Some(b"gzip") => {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(body).read_to_end(&mut plain).unwrap();
            plain
        }
        _ => body.to_vec(),
    }
}

fn taken(kind: &str, rejected: u64, why: &str) -> Response<Body> {
    let partial_success = (rejected > 0).then(|| ExportTracePartialSuccess {
        rejected_spans: rejected as i64,
        error_message: why.to_owned(),
    });
    let partial = ExportTraceServiceResponse { partial_success }.encode_to_vec();
    let response = Response::builder().header("content-type", kind);
    let body = match kind {
        "application/json" if rejected > 0 => {
            Full::from(format!(r#"{{"partialSuccess":{{"rejectedSpans":"{rejected}"}}}}"#)).boxed()
        }
        "application/json" => Full::from("{}").boxed(),
        "application/grpc" => {
            let framed = [&[0, 0, 0, 0, partial.len() as u8][..], &partial].concat();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let frames = [Frame::data(Bytes::from(framed)), Frame::trailers(trailers)];
            StreamBody::new(futures::stream::iter(frames.map(Ok))).boxed()
        }
        _ => Full::from(partial).boxed(),
    };
    response.body(body).unwrap()
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Taken> {
    let mut all = Vec::new();
    for of in request.resource_spans {
        let resource = of_resource(of.resource);
        for scope in of.scope_spans {
            let name = scope.scope.unwrap().name;
            all.extend(scope.spans.into_iter().map(|span| Taken {
                attributes: text(&span.attributes),
                resource: resource.clone(),
                scope: name.clone(),
                span,
            }));
        }
    }
    all
}

fn metrics(request: ExportMetricsServiceRequest) -> Vec<TakenMetric> {
    let mut all = Vec::new();
    for of in request.resource_metrics {
        let resource = of_resource(of.resource);
        for scope in of.scope_metrics {
            assert_eq!(scope.scope.unwrap().name, "tidegate");
            let resource = resource.clone();
            all.extend(
                scope
                    .metrics
                    .into_iter()
                    .map(move |metric| TakenMetric { metric, resource: resource.clone() }),
            );
        }
    }
    all
}

fn logs(request: ExportLogsServiceRequest) -> Vec<TakenLog> {
    let mut all = Vec::new();
    for of in request.resource_logs {
        let resource = of_resource(of.resource);
        for scope in of.scope_logs {
            assert_eq!(scope.scope.unwrap().name, "tidegate");
            all.extend(scope.log_records.into_iter().map(|record| TakenLog {
                attributes: text(&record.attributes),
                resource: resource.clone(),
                record,
            }));
        }
    }
    all
}

fn of_resource(resource: Option<Resource>) -> BTreeMap<String, String> {
    text(&resource.unwrap_or_default().attributes)
}

pub(crate) fn text(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let value = |pair: &KeyValue| match pair.value.as_ref().and_then(|any| any.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        other => panic!("{}: {other:?}", pair.key),
    };
    attributes.iter().map(|pair| (pair.key.clone(), value(pair))).collect()
}
