//! Load that notices every failure: a fixed number of keep-alive connections, each one request after the other.
//! It forgives exactly what every real client does: a kept-alive connection that closes before the first byte of an
//! answer. That request is sent once more, on a fresh connection, where nothing is forgiven.

use std::error::Error as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::StatusCode;
use hyper_util::rt::TokioIo;
use tokio::io::{self, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::client::{Connection, Error};
use super::{connect, within_deadline};

const FAILURES_KEPT: usize = 10;

/// What happened under load.
#[derive(Debug, Clone, Default)]
pub(crate) struct Totals {
    /// Requests that were answered as expected.
    pub requests: u64,
    /// Requests that were not.
    pub failed: u64,
    /// The first ten failures.
    pub failures: Vec<String>,
    /// The longest a request took, with its second try and new connections.
    pub max_latency: Duration,
}

impl Totals {
    #[track_caller]
    pub(crate) fn assert_no_failures(&self) {
        assert!(self.failed == 0 && self.requests > 0, "{self:#?}");
    }
}

/// Requests in the background until `stop`.
pub(crate) struct Load {
    workers: JoinSet<()>,
    stopping: Arc<AtomicBool>,
    totals: watch::Receiver<Totals>,
}

impl Load {
    /// GETs `path` over HTTP/1.1 on that many connections; anything but a whole 200 is a failure.
    pub(crate) fn start(address: SocketAddr, path: &str, connections: usize) -> Self {
        Self::launch(address, path, connections, Protocol::Http1, StatusCode::OK)
    }

    /// Like `start`, over HTTP/2 without TLS.
    pub(crate) fn start_h2c(address: SocketAddr, path: &str, connections: usize) -> Self {
        Self::launch(address, path, connections, Protocol::H2c, StatusCode::OK)
    }

    /// Like `start`, with another status than 200 expected.
    pub(crate) fn start_expecting(status: u16, address: SocketAddr, path: &str, connections: usize) -> Self {
        let expected = StatusCode::from_u16(status).unwrap();
        Self::launch(address, path, connections, Protocol::Http1, expected)
    }

    fn launch(
        address: SocketAddr,
        path: &str,
        connections: usize,
        protocol: Protocol,
        expected: StatusCode,
    ) -> Self {
        let (totals, watched) = watch::channel(Totals::default());
        let totals = Arc::new(totals);
        let stopping = Arc::new(AtomicBool::new(false));
        let mut workers = JoinSet::new();
        for _ in 0..connections {
            let worker = Worker { address, path: path.to_owned(), protocol, expected, connection: None };
            workers.spawn(worker.run(Arc::clone(&stopping), Arc::clone(&totals)));
        }
        Self { workers, stopping, totals: watched }
    }

    /// Waits until `count` more requests have been answered as expected.
    pub(crate) async fn wait_for_requests(&self, count: u64) {
        let wanted = self.totals().requests + count;
        self.wait_for(&format!("{wanted} requests"), |totals| totals.requests >= wanted).await;
    }

    /// Waits until one more request has failed.
    pub(crate) async fn wait_for_failure(&self) {
        let before = self.totals().failed;
        self.wait_for("a failure", |totals| totals.failed > before).await;
    }

    async fn wait_for(&self, what: &str, reached: impl FnMut(&Totals) -> bool) {
        let mut totals = self.totals.clone();
        let reached = tokio::time::timeout(super::DEADLINE, totals.wait_for(reached)).await.is_ok();
        assert!(reached, "load did not see {what}: {:#?}", self.totals());
    }

    /// So far.
    pub(crate) fn totals(&self) -> Totals {
        self.totals.borrow().clone()
    }

    /// Lets every connection finish its request.
    pub(crate) async fn stop(mut self) -> Totals {
        self.stopping.store(true, Relaxed);
        within_deadline("the last requests of a load", async {
            while let Some(ended) = self.workers.join_next().await {
                ended.unwrap();
            }
        })
        .await;
        self.totals()
    }
}

#[derive(Clone, Copy)]
enum Protocol {
    Http1,
    H2c,
}

struct Worker {
    address: SocketAddr,
    path: String,
    protocol: Protocol,
    expected: StatusCode,
    connection: Option<Kept>,
}

struct Kept {
    connection: Connection,
    received: Arc<AtomicU64>,
}

impl Worker {
    async fn run(mut self, stopping: Arc<AtomicBool>, totals: Arc<watch::Sender<Totals>>) {
        while !stopping.load(Relaxed) {
            let started = Instant::now();
            let outcome = match tokio::time::timeout(super::DEADLINE, self.request()).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    self.connection = None;
                    Err(format!("no answer within {:?}", super::DEADLINE))
                }
            };
            let failed = outcome.is_err();
            totals.send_modify(|totals| {
                totals.max_latency = totals.max_latency.max(started.elapsed());
                match outcome {
                    Ok(()) => totals.requests += 1,
                    Err(failure) => {
                        totals.failed += 1;
                        if totals.failures.len() < FAILURES_KEPT {
                            totals.failures.push(failure);
                        }
                    }
                }
            });
            if failed {
                // Waits for nothing: it paces attempts at something that refuses at once, which would else take the
                // processor from what is to come back.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    async fn request(&mut self) -> Result<(), String> {
        // A connection known to be closed before the request was sent is no failure.
        if let Some(kept) = self.connection.take_if(|kept| !kept.connection.is_closed()) {
            match self.request_on(kept).await {
                Ok(()) => return Ok(()),
                Err(failure) if failure.unanswered => {}
                Err(failure) => return Err(failure.text),
            }
        }
        let fresh = self.connect().await.map_err(|error| describe(&*error))?;
        self.request_on(fresh).await.map_err(|failure| failure.text)
    }

    async fn connect(&self) -> Result<Kept, Error> {
        let received = Arc::new(AtomicU64::new(0));
        let stream = connect(self.address).await?;
        let stream = TokioIo::new(Counted { stream, received: Arc::clone(&received) });
        let host = self.address.to_string();
        let connection = match self.protocol {
            Protocol::Http1 => Connection::http1_over(stream, host).await?,
            Protocol::H2c => Connection::http2_over(stream, host).await?,
        };
        Ok(Kept { connection, received })
    }

    /// Keeps the connection for the next request when all went well.
    async fn request_on(&mut self, mut kept: Kept) -> Result<(), Failure> {
        let before = kept.received.load(Relaxed);
        match kept.connection.send("GET", &self.path, &[], "").await {
            Ok(answer) if answer.status == self.expected => {
                self.connection = Some(kept);
                Ok(())
            }
            Ok(answer) => {
                let reason = answer.header("x-tidegate-reason");
                Err(Failure { text: format!("status {} ({reason:?})", answer.status), unanswered: false })
            }
            Err(error) => {
                let unanswered = match self.protocol {
                    Protocol::Http1 => kept.received.load(Relaxed) == before,
                    Protocol::H2c => was_not_processed(&*error),
                };
                Err(Failure { text: describe(&*error), unanswered })
            }
        }
    }
}

struct Failure {
    text: String,
    /// The connection was closed before any of an answer came.
    unanswered: bool,
}

/// Whether the server said, or the client knows, that it did not touch the request (RFC 9113 section 8.7).
fn was_not_processed(error: &(dyn std::error::Error + 'static)) -> bool {
    let canceled = error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled);
    let refused = chain(error).filter_map(|cause| cause.downcast_ref::<h2::Error>()).any(|error| {
        let left = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        left || error.reason() == Some(h2::Reason::REFUSED_STREAM)
    });
    canceled || refused
}

fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    chain(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Counts what is received, to tell a connection that closed from one that broke off in an answer.
struct Counted {
    stream: TcpStream,
    received: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.received.fetch_add((buffer.filled().len() - before) as u64, Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

mod tests {
    use super::*;
    use crate::support::{ScriptedUpstream, Step};

    fn answer() -> Vec<Step> {
        vec![Step::ReadHead, Step::respond("x")]
    }

    #[tokio::test]
    async fn a_kept_connection_that_closes_before_answering_is_forgiven() {
        let script = [answer(), answer(), vec![Step::ReadHead, Step::Reset]].concat();
        let upstream = ScriptedUpstream::start(script).await;
        let load = Load::start(upstream.address(), "/", 2);
        load.wait_for_requests(30).await;
        load.stop().await.assert_no_failures();
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_a_failure() {
        let script = [answer(), vec![Step::ReadHead, Step::write("HTTP/1.1 20"), Step::Close]].concat();
        let upstream = ScriptedUpstream::start(script).await;
        let load = Load::start(upstream.address(), "/", 1);
        load.wait_for_requests(1).await;
        load.wait_for_failure().await;
    }

    #[tokio::test]
    async fn a_fresh_connection_that_closes_before_answering_is_a_failure() {
        let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::Close]).await;
        let load = Load::start(upstream.address(), "/", 1);
        load.wait_for_failure().await;
        assert_eq!(load.stop().await.requests, 0);
    }

    #[tokio::test]
    async fn another_status_than_expected_is_a_failure() {
        let upstream = ScriptedUpstream::start([answer(), vec![Step::Again]].concat()).await;
        let load = Load::start_expecting(503, upstream.address(), "/", 1);
        load.wait_for_failure().await;
        assert!(load.stop().await.failures[0].starts_with("status 200"));
    }
}
