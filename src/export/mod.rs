//! OTLP: spans to a collector, over gRPC or HTTP. One task takes batches from the queue, sends them, and tries again where the
//! specification says so; what happens to the collector happens to nobody's request.
//!
//! Source: OpenTelemetry Protocol Specification 1.10, "OTLP/gRPC" and "OTLP/HTTP".

mod envelope;
pub(crate) mod fuzzing;
mod reply;

use std::{
    io::Write as _,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};

use self::reply::{Reply, of_grpc, of_http};
use crate::{
    fetch::{Client, Options},
    names::Resolve,
    observe::{
        log::event,
        metrics::ExportMetrics,
        spans::{Batch, Encoding, Queue},
    },
    policy::backoff::Backoff,
};

/// How spans reach the collector.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where they are sent, path and all.
    pub endpoint: Uri,
    pub protocol: Protocol,
    /// They may hold secrets.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub gzip: bool,
    /// Of one attempt.
    pub timeout: Duration,
    /// PEM of whom is trusted; `None` for whom the system trusts.
    pub ca: Option<Vec<u8>>,
    /// PEM of the certificate and its key that say who we are.
    pub client_cert: Option<(Vec<u8>, Vec<u8>)>,
    /// Spans wait this long for others.
    pub every: Duration,
    /// A batch is tried again for this long.
    pub give_up: Duration,
    /// What the spans are of.
    pub resource: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    HttpProtobuf,
    HttpJson,
}

impl Protocol {
    pub const fn encoding(self) -> Encoding {
        match self {
            Protocol::Grpc | Protocol::HttpProtobuf => Encoding::Protobuf,
            Protocol::HttpJson => Encoding::Json,
        }
    }
}

/// Waits between attempts, where the collector names none.
const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(30) };
/// The most of an answer that is read.
const LONGEST_ANSWER: usize = 64 * 1024;
/// How often a collector that fails is spoken of.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

pub(crate) struct Exporter {
    settings: Settings,
    client: Client,
    queue: Arc<Queue>,
    metrics: ExportMetrics,
    complained: Option<Instant>,
}

impl Exporter {
    /// Connects nowhere yet.
    ///
    /// # Errors
    ///
    /// The certificates cannot be used.
    pub(crate) fn new(
        settings: Settings,
        queue: Arc<Queue>,
        metrics: ExportMetrics,
        names: Arc<dyn Resolve>,
    ) -> Result<Exporter, String> {
        let options = Options {
            ca: settings.ca.clone(),
            client_cert: settings.client_cert.clone(),
            http2_only: settings.protocol == Protocol::Grpc,
            idle_connections: 1,
            ..Options::default()
        };
        let client = Client::new(&options, names).map_err(|error| error.to_string())?;
        Ok(Exporter { settings, client, queue, metrics, complained: None })
    }

    /// Until the queue is closed and empty.
    pub(crate) async fn run(mut self) {
        while let Some(batch) = self.queue.next(self.settings.every).await {
            self.deliver(&batch).await;
            self.queue.left(&batch);
        }
    }

    /// Sends a batch, again and again where that may help.
    async fn deliver(&mut self, batch: &Batch) {
        let body = envelope::wrap(&self.settings.resource, batch, self.queue.encoding);
        let request = self.request(body);
        let began = Instant::now();
        if self.is_late(began) {
            return self.drop_batch(batch, "no more come for this collector, and it takes none");
        }
        for attempt in 1_u32.. {
            let sent = Instant::now();
            let reply = self.attempt(&request).await;
            self.metrics.took(sent.elapsed());
            let (why, after) = match reply {
                Reply::Taken { rejected, message } => {
                    self.metrics.export("success");
                    let rejected = rejected.min(batch.spans);
                    let stats = self.queue.stats();
                    stats.exported.fetch_add(batch.spans - rejected, Relaxed);
                    stats.rejected.fetch_add(rejected, Relaxed);
                    if rejected > 0 {
                        self.complain(&format!("the collector rejected {rejected} spans: {message}"));
                    }
                    return;
                }
                Reply::Refused(why) => {
                    self.metrics.export("refused");
                    return self.drop_batch(batch, &why);
                }
                Reply::Later { why, after } => {
                    self.metrics.export("retry");
                    (why, after)
                }
            };
            let wait = after.unwrap_or_else(|| BACKOFF.delay(attempt, &mut fastrand::Rng::new()));
            if began.elapsed() + wait > self.settings.give_up || self.is_late(Instant::now() + wait) {
                return self.drop_batch(batch, &why);
            }
            self.complain(&why);
            tokio::time::sleep(wait).await;
        }
    }

    /// Once no more spans come, all that wait have together the time that one batch has otherwise: an exporter that a reload has
    /// replaced ends, whatever its collector does.
    fn is_late(&self, at: Instant) -> bool {
        self.queue.closed().is_some_and(|closed| at.duration_since(closed) > self.settings.give_up)
    }

    fn drop_batch(&mut self, batch: &Batch, why: &str) {
        self.queue.stats().dropped_export.fetch_add(batch.spans, Relaxed);
        self.complain(&format!("{why}; {} spans are lost", batch.spans));
    }

    fn complain(&mut self, why: &str) {
        let now = Instant::now();
        if self.complained.is_none_or(|last| now.duration_since(last) >= COMPLAIN_EVERY) {
            self.complained = Some(now);
            event!(Warn, "spans could not be exported", endpoint = self.place(), why = why);
        }
    }

    /// Without a query, which may hold secrets.
    fn place(&self) -> String {
        let endpoint = &self.settings.endpoint;
        format!(
            "{}://{}{}",
            endpoint.scheme_str().unwrap_or_default(),
            endpoint.authority().map_or("", |authority| authority.host()),
            endpoint.path()
        )
    }

    fn request(&self, body: Vec<u8>) -> Request<Bytes> {
        let Settings { endpoint, protocol, headers, gzip, .. } = &self.settings;
        let body = if *gzip { compressed(&body) } else { body };
        let mut request = Request::post(endpoint.clone());
        let content_type = match protocol {
            Protocol::Grpc => "application/grpc",
            Protocol::HttpProtobuf => "application/x-protobuf",
            Protocol::HttpJson => "application/json",
        };
        request = request.header(header::CONTENT_TYPE, content_type);
        request = request.header(header::USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")));
        let body = match protocol {
            Protocol::Grpc => {
                request = request.header(header::TE, "trailers");
                if *gzip {
                    request = request.header("grpc-encoding", "gzip");
                }
                framed(&body, *gzip)
            }
            _ => {
                if *gzip {
                    request = request.header(header::CONTENT_ENCODING, "gzip");
                }
                body
            }
        };
        let mut request = request.body(Bytes::from(body)).expect("an absolute URI and valid fields");
        for (name, value) in headers {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        request
    }

    async fn attempt(&self, request: &Request<Bytes>) -> Reply {
        let answered = self.client.send_whole(request.clone(), self.settings.timeout, LONGEST_ANSWER).await;
        match answered {
            Ok((response, trailers)) => match self.settings.protocol {
                Protocol::Grpc => {
                    let trailers: HeaderMap = trailers.unwrap_or_default();
                    of_grpc(response.status(), response.headers(), &trailers, response.body())
                }
                _ => of_http(response.status(), response.headers(), response.body(), self.queue.encoding),
            },
            Err(error) => Reply::Later { why: error.to_string(), after: None },
        }
    }
}

fn compressed(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("memory takes all that is written")
}

/// A message of gRPC: whether it is compressed, its length, and itself.
fn framed(message: &[u8], compressed: bool) -> Vec<u8> {
    let mut framed = Vec::with_capacity(5 + message.len());
    framed.push(compressed.into());
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(message);
    framed
}
