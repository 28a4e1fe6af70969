//! One destination of one signal: requests are made, sent, and tried again where the specification says so.

use std::{
    io::Write as _,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use flate2::{Compress, Compression, write::ZlibEncoder};
use http::{HeaderMap, Request, header, uri::Authority};

use super::{
    Protocol, Settings,
    envelope::{self, Envelope},
    reply::{Reply, of_grpc, of_http},
    signal::Signal,
};
use crate::{
    fetch::{Client, Options},
    names::Resolve,
    observe::{
        log::event,
        metrics::ExportMetrics,
        otlp::{Batch, QueueStats},
    },
    policy::backoff::Backoff,
};

/// Waits between attempts, where the collector names none.
const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(30) };
/// The most of an answer that is read.
const LONGEST_ANSWER: usize = 64 * 1024;
/// How often a collector that fails is spoken of.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Sender {
    signal: Signal,
    settings: Settings,
    client: Client,
    metrics: ExportMetrics,
    stats: Arc<QueueStats>,
    /// Where batches are compressed.
    gzip: Option<Gzip>,
    /// When each of them was last spoken of.
    complained: [Option<Instant>; 3],
}

/// What is spoken of, each by itself: batches that are tried again come before one that is lost, and must not hide why it is.
#[derive(Clone, Copy)]
enum Complaint {
    Retried,
    Rejected,
    Lost,
}

impl Sender {
    /// Connects nowhere yet. What becomes of records is counted in `stats`.
    ///
    /// # Errors
    ///
    /// The certificates cannot be used.
    pub(super) fn new(
        signal: Signal,
        settings: Settings,
        metrics: ExportMetrics,
        stats: Arc<QueueStats>,
        names: Arc<dyn Resolve>,
    ) -> Result<Sender, String> {
        let options = Options {
            ca: settings.ca.clone(),
            client_cert: settings.client_cert.clone(),
            http2_only: settings.protocol == Protocol::Grpc,
            idle_connections: 1,
            ..Options::default()
        };
        let client = Client::new(&options, names).map_err(|error| error.to_string())?;
        let gzip = settings.gzip.then(Gzip::new);
        Ok(Sender { signal, settings, client, metrics, stats, gzip, complained: [None; 3] })
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sends a batch, again and again where that may help; but no attempt begins after `end`.
    pub(super) async fn deliver(&mut self, batch: &Batch, end: impl Fn() -> Option<Instant>) {
        let request = self.request(batch);
        let began = Instant::now();
        let is_late = |at| end().is_some_and(|end| at > end);
        if is_late(began) {
            return self.lost(batch, "there was no time left for it");
        }
        for attempt in 1_u32.. {
            let sent = Instant::now();
            let reply = self.attempt(&request).await;
            self.metrics.took(sent.elapsed());
            let (why, after) = match reply {
                Reply::Taken { rejected, message } => {
                    self.metrics.export("success");
                    return self.taken(batch, rejected.min(batch.records), &message);
                }
                Reply::Refused(why) => {
                    self.metrics.export("refused");
                    return self.lost(batch, &why);
                }
                Reply::Later { why, after } => {
                    self.metrics.export("retry");
                    (why, after)
                }
            };
            let wait = after.unwrap_or_else(|| BACKOFF.delay(attempt, &mut fastrand::Rng::new()));
            if began.elapsed() + wait > self.settings.give_up || is_late(Instant::now() + wait) {
                return self.lost(batch, &why);
            }
            self.complain(Complaint::Retried, &why);
            tokio::time::sleep(wait).await;
        }
    }

    fn taken(&mut self, batch: &Batch, rejected: u64, message: &str) {
        self.stats.exported.fetch_add(batch.records - rejected, Relaxed);
        self.stats.rejected.fetch_add(rejected, Relaxed);
        if rejected > 0 {
            let of = match self.signal {
                Signal::Metrics => "data points",
                signal => signal.records(),
            };
            let why = format!("the collector rejected {rejected} {of}: {message}");
            self.complain(Complaint::Rejected, &why);
        }
    }

    fn lost(&mut self, batch: &Batch, why: &str) {
        self.stats.dropped_export.fetch_add(batch.records, Relaxed);
        let lost = match self.signal {
            // What was counted is told the next time.
            Signal::Metrics => String::new(),
            Signal::Traces | Signal::Logs => {
                format!("; {} {} are lost", batch.records, self.signal.records())
            }
        };
        self.complain(Complaint::Lost, &format!("{why}{lost}"));
    }

    fn complain(&mut self, about: Complaint, why: &str) {
        let now = Instant::now();
        let complained = &mut self.complained[about as usize];
        if complained.is_none_or(|last| now.duration_since(last) >= COMPLAIN_EVERY) {
            *complained = Some(now);
            let message = format!("{} could not be exported", self.signal.records());
            event!(Warn, message, endpoint = self.place(), why = why);
        }
    }

    /// Without a user or a query, which may hold secrets.
    fn place(&self) -> String {
        let endpoint = &self.settings.endpoint;
        let authority = endpoint.authority().map_or("", Authority::as_str);
        let (_, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        format!("{}://{place}{}", endpoint.scheme_str().unwrap_or_default(), endpoint.path())
    }

    fn request(&mut self, batch: &Batch) -> Request<Bytes> {
        let Settings { endpoint, protocol, headers, resource, .. } = &self.settings;
        let Envelope { before, after } = envelope::around(self.signal, resource, batch, protocol.encoding());
        let parts: [&[u8]; 3] = [&before, &batch.bytes, after];
        let is_zipped = self.gzip.is_some();
        let body = match &mut self.gzip {
            Some(gzip) => gzip.compressed(&parts),
            None => parts.concat(),
        };
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
                if is_zipped {
                    request = request.header("grpc-encoding", "gzip");
                }
                framed(&body, is_zipped)
            }
            _ => {
                if is_zipped {
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
            Ok((response, trailers)) => {
                let (status, headers, body) = (response.status(), response.headers(), response.body());
                match self.settings.protocol {
                    Protocol::Grpc => {
                        let trailers: HeaderMap = trailers.unwrap_or_default();
                        of_grpc(self.signal, status, headers, &trailers, body)
                    }
                    protocol => of_http(self.signal, status, headers, body, protocol.encoding()),
                }
            }
            Err(error) => Reply::Later { why: error.to_string(), after: None },
        }
    }
}

/// Compresses one batch after the other with the same tables: they are a quarter of a megabyte, which would be got from the system,
/// page by page, for each batch.
struct Gzip(ZlibEncoder<Vec<u8>>);

impl Gzip {
    /// The largest window that there is.
    const WINDOW_BITS: u8 = 15;

    fn new() -> Gzip {
        // The encoder adds nothing of its own: what it writes is in the form that `Compress` has, of gzip.
        let compress = Compress::new_gzip(Compression::fast(), Self::WINDOW_BITS);
        Gzip(ZlibEncoder::new_with_compress(Vec::new(), compress))
    }

    fn compressed(&mut self, parts: &[&[u8]]) -> Vec<u8> {
        let written = parts.iter().try_for_each(|part| self.0.write_all(part));
        written.and_then(|()| self.0.reset(Vec::new())).expect("memory takes all that is written")
    }
}

/// A message of gRPC: whether it is compressed, its length, and itself.
fn framed(message: &[u8], compressed: bool) -> Vec<u8> {
    let mut framed = Vec::with_capacity(5 + message.len());
    framed.push(compressed.into());
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn each_batch_is_compressed_by_itself() {
        let mut gzip = Gzip::new();
        for batch in [&[&b"one "[..], b"batch"][..], &[&b""[..]], &[&[7; 300_000][..], b"and more"]] {
            let mut read = Vec::new();
            GzDecoder::new(&gzip.compressed(batch)[..]).read_to_end(&mut read).unwrap();
            assert_eq!(read, batch.concat());
        }
    }
}
