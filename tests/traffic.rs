//! How traffic is shared out, tried again, limited and kept from what fails, over real sockets. Upstreams are servers in
//! this process: they fail, wait and answer on the test's word, and know exactly what reached them.

mod affinity;
mod bodies;
mod breakers;
mod canaries;
mod concurrency;
mod ejection;
mod failover;
mod hedging;
mod limits;
mod mirroring;
mod placement;
mod retries;
mod splits;
mod timeouts;
mod tracing;
mod unreachable;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::{Answer, Connection, Gateway, Yaml, within_deadline};

/// One listener `main`, one route `r` with `route` (flow style, without braces), and these upstreams.
fn yaml(route: &str, upstreams: &[(&str, &[&Origin], &str)]) -> String {
    let yaml = Yaml::new().top("trusted_proxies: [127.0.0.0/8]").with_route(&format!("name: r, {route}"));
    let yaml = upstreams.iter().fold(yaml, |yaml, (name, origins, settings)| {
        yaml.with_upstream(name, origins.iter().map(|origin| origin.address), settings)
    });
    yaml.to_string()
}

/// A gateway whose one route sends to `origins` under these settings of the upstream.
async fn gateway(route: &str, origins: &[&Origin], settings: &str) -> Gateway {
    Gateway::start(&yaml(&format!("upstream: u, {route}"), &[("u", origins, settings)])).await
}

/// What is asked of an upstream.
#[derive(Debug, Clone)]
struct Seen {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// An upstream that answers with the status it is told, over HTTP/1 and HTTP/2. `/status/N` and `/grpc/N` are answered
/// with that status whatever it was told.
struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    status: AtomicU16,
    seen: Mutex<Vec<Seen>>,
    counts: watch::Sender<Counts>,
    held: watch::Sender<bool>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    requests: usize,
    in_flight: usize,
    most_in_flight: usize,
}

impl Origin {
    async fn start() -> Origin {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            status: AtomicU16::new(200),
            seen: Mutex::default(),
            counts: watch::Sender::default(),
            held: watch::Sender::default(),
        });
        let serving = tokio::spawn({
            let shared = shared.clone();
            async move {
                // Aborted with this task when the origin is dropped.
                let mut connections = tokio::task::JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    let shared = shared.clone();
                    let service = hyper::service::service_fn(move |request| answer(shared.clone(), request));
                    connections.spawn(async move {
                        let server = auto::Builder::new(TokioExecutor::new());
                        let _ = server.serve_connection(TokioIo::new(stream), service).await;
                    });
                }
            }
        });
        Origin { address, shared, serving }
    }

    async fn failing() -> Origin {
        let origin = Origin::start().await;
        origin.answer(503);
        origin
    }

    /// As metrics and the configuration call it.
    fn name(&self) -> String {
        self.address.to_string()
    }

    /// From now on, requests that are held included.
    fn answer(&self, status: u16) {
        self.shared.status.store(status, SeqCst);
    }

    /// Requests wait for `release`.
    fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    fn release(&self) {
        self.shared.held.send_replace(false);
    }

    fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    fn requests(&self) -> usize {
        self.shared.counts.borrow().requests
    }

    fn in_flight(&self) -> usize {
        self.shared.counts.borrow().in_flight
    }

    fn most_in_flight(&self) -> usize {
        self.shared.counts.borrow().most_in_flight
    }

    async fn wait_for(&self, what: &str, reached: impl FnMut(&Counts) -> bool) {
        let mut counts = self.shared.counts.subscribe();
        within_deadline(what, counts.wait_for(reached)).await.unwrap();
    }

    async fn wait_for_requests(&self, count: usize) {
        self.wait_for("requests upstream", |counts| counts.requests >= count).await;
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Over when the answer is there, or when the gateway gave up waiting for it.
struct InFlight(Arc<Shared>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.in_flight -= 1);
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let path = head.uri.path().to_owned();
    shared.seen.lock().unwrap().push(Seen { path: path.clone(), headers: head.headers, body });
    shared.counts.send_modify(|counts| {
        counts.requests += 1;
        counts.in_flight += 1;
        counts.most_in_flight = counts.most_in_flight.max(counts.in_flight);
    });
    let _in_flight = InFlight(shared.clone());
    shared.held.subscribe().wait_for(|held| !held).await.unwrap();
    let number = |prefix: &str| path.strip_prefix(prefix).map(|number| number.parse::<u16>().unwrap());
    let status = match (number("/status/"), number("/grpc/")) {
        (Some(status), _) => status,
        (None, Some(_)) => 200,
        (None, None) => shared.status.load(SeqCst),
    };
    let mut response = Response::builder().status(status);
    if let Some(grpc) = number("/grpc/") {
        response = response.header("grpc-status", grpc).header("content-type", "application/grpc");
    }
    let text = format!("origin says {status}");
    Ok(response.body(Full::new(text.into())).unwrap())
}

/// A client with one connection: thousands of requests must not cost as many ports.
struct Client {
    address: SocketAddr,
    connection: Option<Connection>,
}

impl Client {
    fn new(gateway: &Gateway) -> Client {
        Client { address: gateway.address("main"), connection: None }
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    /// The gateway closes after some of its own answers, so a closed connection is replaced.
    async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => Connection::http1(self.address).await.unwrap(),
        };
        let connection = self.connection.insert(connection);
        let answer = within_deadline("an answer", connection.send(method, path, headers, body)).await;
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"));
        if answer.header("connection") == Some("close") {
            self.connection = None;
        }
        answer
    }
}

/// An operator's order: the status and what was said.
async fn order(gateway: &Gateway, path: &str) -> (u16, Value) {
    let answer = crate::support::send(gateway.admin(), "POST", path, &[], "").await;
    (answer.status.as_u16(), answer.json())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_has_everything_serves() {
    let (a, b, shadow) = (Origin::start().await, Origin::start().await, Origin::start().await);
    let route = "timeout: 10s, timeout_header: x-time-left, retry: {attempts: 2}, hedge: {after: p95, max: 1, budget: 5%}, \
                 mirror: {upstream: shadow, ratio: 10%, max_requests: 5}, \
                 split: {by: round_robin, to: [{upstream: a}, {upstream: b}]}";
    let guarded = "circuit_breaker: {}, outlier: {}, slow_start: 1s, panic_threshold: 50%, \
                   pool: {max_requests: 100, max_pending: 10}";
    let upstreams: [(_, &[&Origin], _); 3] =
        [("a", &[&a], guarded), ("b", &[&b], guarded), ("shadow", &[&shadow], "")];
    let gateway = Gateway::start(&yaml(route, &upstreams)).await;
    let mut client = Client::new(&gateway);
    for _ in 0..50 {
        client.get("/").await.assert_no_reason().assert_status(200);
    }
    assert!(a.requests() >= 25 && b.requests() >= 25);
}
