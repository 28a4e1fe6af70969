//! OTLP: spans, lines of the access log and metrics to a collector, over gRPC or HTTP. What happens to the collector happens
//! to nobody's request.
//!
//! Source: OpenTelemetry Protocol Specification 1.10, "OTLP/gRPC" and "OTLP/HTTP".

mod envelope;
pub(crate) mod fuzzing;
mod reply;
mod sender;
mod signal;

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Uri};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use self::sender::Sender;
pub(crate) use self::signal::Signal;
use crate::{
    names::Resolve,
    observe::{
        metrics::ExportSeries,
        otlp::{Batch, Encoding, Queue},
    },
};

/// How a signal reaches the collector.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where it is sent, path and all.
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
    /// Records wait this long for others; metrics are sent so often.
    pub every: Duration,
    /// A batch is tried again for this long.
    pub give_up: Duration,
    /// What the records are of.
    pub resource: Vec<(String, Value)>,
}

/// What an attribute of the resource says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Integer(u64),
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

/// Takes batches of records from a queue and sends them, one after the other.
pub(crate) struct Exporter {
    sender: Sender,
    queue: Arc<Queue>,
}

impl Exporter {
    /// Connects nowhere yet.
    ///
    /// # Errors
    ///
    /// The certificates cannot be used.
    pub(crate) fn new(
        signal: Signal,
        settings: Settings,
        queue: Arc<Queue>,
        series: &ExportSeries,
        names: Arc<dyn Resolve>,
    ) -> Result<Exporter, String> {
        let sender = Sender::new(signal, settings, series.metrics(), queue.stats().clone(), names)?;
        Ok(Exporter { sender, queue })
    }

    /// Until the queue is closed and empty.
    pub(crate) async fn run(mut self) {
        let (every, give_up) = (self.sender.settings().every, self.sender.settings().give_up);
        while let Some(batch) = self.queue.next(every).await {
            // Once no more come, all that wait have together the time that one batch has otherwise: an exporter that a reload
            // has replaced ends, whatever its collector does.
            let end = || self.queue.closed().map(|closed| closed + give_up);
            self.sender.deliver(&batch, end).await;
            self.queue.left(batch);
        }
    }
}

/// Reads all metrics, in parts that a collector takes.
pub(crate) type Read = Box<dyn FnMut(Encoding) -> Vec<Batch> + Send>;

/// Sends all metrics, again and again. What cannot be sent is not kept: they are counts, and the next have it all.
pub(crate) struct Pusher {
    sender: Sender,
    read: Read,
}

impl Pusher {
    /// Connects nowhere yet.
    ///
    /// # Errors
    ///
    /// The certificates cannot be used.
    pub(crate) fn new(
        settings: Settings,
        series: &ExportSeries,
        read: Read,
        names: Arc<dyn Resolve>,
    ) -> Result<Pusher, String> {
        let sender = Sender::new(Signal::Metrics, settings, series.metrics(), series.stats(), names)?;
        Ok(Pusher { sender, read })
    }

    /// Until `closing` is told or dropped, and then once more.
    pub(crate) async fn run(mut self, mut closing: oneshot::Receiver<()>) {
        let every = self.sender.settings().every;
        let mut next = Instant::now() + every;
        loop {
            let pushing = async {
                sleep_until(next).await;
                self.push().await;
            };
            tokio::select! {
                // One that is under way can be let go, as the last has it all.
                _ = &mut closing => break,
                () = pushing => next = (next + every).max(Instant::now()),
            }
        }
        self.push().await;
    }

    async fn push(&mut self) {
        let encoding = self.sender.settings().protocol.encoding();
        let parts = (self.read)(encoding);
        let until = std::time::Instant::now() + self.sender.settings().give_up;
        for (number, part) in parts.into_iter().enumerate() {
            // The first has all the time there is; the others share it.
            let end = (number > 0).then_some(until);
            self.sender.deliver(&part, || end).await;
        }
    }
}
