//! What stands behind Services: pods that say who they are and what came to them, over HTTP/1.1, HTTP/2, TLS, WebSockets and bare TCP.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use openssl::ssl::{NameType, SslAcceptor, SslVerifyMode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

use super::world::Authorities;
use crate::support::tls::{accept, acceptor};

/// The pods of a Service, where they are no single one that speaks HTTP without TLS.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Pods {
    /// Names (DNS names and URIs) in the certificate that they show, by the authority `ca`.
    tls: Option<Vec<String>>,
    /// The authority whose certificates clients must show.
    client_ca: Option<String>,
    /// Not HTTP: a line comes, and a line goes.
    tcp: bool,
    /// How many there are.
    count: Option<usize>,
    /// Where nothing listens, as many more.
    dead: usize,
}

/// What is known of all pods.
#[derive(Clone)]
pub(super) struct Record(Arc<watch::Sender<Vec<(String, Value)>>>);

impl Record {
    pub(super) fn subscribe(&self) -> watch::Receiver<Vec<(String, Value)>> {
        self.0.subscribe()
    }
}

pub(super) struct Backends {
    addresses: BTreeMap<String, Vec<SocketAddr>>,
    pub record: Record,
    /// Held so that it goes on.
    _serving: JoinSet<()>,
}

impl Backends {
    /// Pods for these endpoints, which are the names of Services in the DNS of a cluster.
    pub(super) async fn start(
        endpoints: Vec<String>,
        pods: &BTreeMap<String, Pods>,
        authorities: &Authorities,
    ) -> Backends {
        let record = Record(Arc::new(watch::channel(Vec::new()).0));
        let (mut addresses, mut serving) = (BTreeMap::new(), JoinSet::new());
        for endpoint in endpoints {
            if addresses.contains_key(&endpoint) {
                continue;
            }
            let service = service(&endpoint);
            let ordinary = Pods::default();
            let pods = pods.get(&service).unwrap_or(&ordinary);
            let mut own = Vec::new();
            for number in 0..pods.count.unwrap_or(1) {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                own.push(listener.local_addr().unwrap());
                let pod = Pod {
                    service: service.clone(),
                    number,
                    tls: pods.tls.as_ref().map(|names| pods.acceptor(names, authorities)),
                    is_tcp: pods.tcp,
                    record: record.clone(),
                    tries: Arc::default(),
                };
                serving.spawn(pod.serve(listener));
            }
            for _ in 0..pods.dead {
                // It was free a moment ago, and nobody listens there now.
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                own.push(listener.local_addr().unwrap());
            }
            addresses.insert(endpoint, own);
        }
        Backends { addresses, record, _serving: serving }
    }

    pub(super) fn addresses(&self, endpoint: &str) -> Vec<SocketAddr> {
        self.addresses[endpoint].clone()
    }
}

/// `NAMESPACE/NAME`, of those in `default` the name alone.
fn service(endpoint: &str) -> String {
    let mut labels = endpoint.split('.');
    match (labels.next().unwrap(), labels.next()) {
        (name, Some("default") | None) => name.to_owned(),
        (name, Some(namespace)) => format!("{namespace}/{name}"),
    }
}

impl Pods {
    fn acceptor(&self, names: &[String], authorities: &Authorities) -> SslAcceptor {
        let own = authorities.issue("ca", names);
        let mut builder = acceptor(&own.certificate, &own.key, &[]);
        if let Some(name) = &self.client_ca {
            builder.cert_store_mut().add_cert(authorities.find(name).certificate).unwrap();
            builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        }
        builder.build()
    }
}

struct Pod {
    service: String,
    number: usize,
    tls: Option<SslAcceptor>,
    is_tcp: bool,
    record: Record,
    /// By the `uuid` of a request: how often it was tried.
    tries: Arc<Mutex<BTreeMap<String, usize>>>,
}

/// What a connection says of itself.
#[derive(Clone, Default)]
struct Link {
    is_tls: bool,
    sni: Option<String>,
    shows_certificate: bool,
}

impl Pod {
    async fn serve(self, listener: TcpListener) {
        let (pod, mut connections) = (Arc::new(self), JoinSet::new());
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(pod.clone().connection(stream));
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let Some(acceptor) = &self.tls else { return self.clone().speak(stream, Link::default()).await };
        let Some(stream) = accept(acceptor, stream).await else { return };
        let ssl = stream.ssl();
        let link = Link {
            is_tls: true,
            sni: ssl.servername(NameType::HOST_NAME).map(ToOwned::to_owned),
            shows_certificate: ssl.peer_certificate().is_some(),
        };
        self.clone().speak(stream, link).await;
    }

    async fn speak(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        link: Link,
    ) {
        if self.is_tcp {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            if stream.read_line(&mut line).await.is_ok_and(|length| length > 0) {
                let said = format!("{}\n", self.say(&link, json!({})));
                let _ = stream.write_all(said.as_bytes()).await;
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
            return;
        }
        let service = service_fn(|request| self.clone().answer(request, link.clone()));
        let server = auto::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
    }

    /// Who is asked, and what; remembered as well.
    fn say(&self, link: &Link, mut seen: Value) -> Value {
        seen["pod"] = format!("{}-{}", self.service, self.number).into();
        seen["service"] = self.service.as_str().into();
        seen["tls"] = link.is_tls.into();
        seen["sni"] = link.sni.clone().into();
        seen["certificate"] = link.shows_certificate.into();
        self.record.0.send_modify(|record| record.push((self.service.clone(), seen.clone())));
        seen
    }

    async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        link: Link,
    ) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
        let host = request.uri().authority().map(ToString::to_string);
        let host =
            host.or_else(|| request.headers().get("host").map(|host| host.to_str().unwrap().to_owned()));
        let seen = self.say(
            &link,
            json!({
                "method": request.method().as_str(),
                "path": request.uri().path_and_query().map(ToString::to_string),
                "host": host,
                "version": format!("{:?}", request.version()),
                "headers": joined(request.headers()),
            }),
        );
        let response = Response::builder().header("x-seen", seen.to_string());
        if let Some(key) = request.headers().get("sec-websocket-key").cloned() {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move { echo_frames(TokioIo::new(upgrade.await.unwrap())).await });
            let response =
                response.status(101).header("connection", "upgrade").header("upgrade", "websocket");
            let response = response.header("sec-websocket-accept", derive_accept_key(key.as_bytes()));
            return Ok(response.body(Full::default().boxed()).unwrap());
        }
        let (status, delay) = self.asked_for(request.uri().query().unwrap_or_default());
        let is_call = request.headers().get("content-type").is_some_and(|kind| kind == "application/grpc");
        // What a pod that answers with fields of its own has: the request says which.
        let own = request.headers().get("x-answer-with").map(|own| own.to_str().unwrap().to_owned());
        let _ = request.into_body().collect().await;
        tokio::time::sleep(delay).await;
        let mut response = response.status(status);
        for (name, value) in
            own.as_deref().unwrap_or_default().split("; ").filter_map(|own| own.split_once(": "))
        {
            response = response.header(name, value);
        }
        if is_call {
            let trailers =
                HeaderMap::from_iter([("grpc-status".try_into().unwrap(), "0".try_into().unwrap())]);
            let message =
                Full::new(Bytes::from_static(&[0; 5])).with_trailers(std::future::ready(Some(Ok(trailers))));
            return Ok(response.header("content-type", "application/grpc").body(message.boxed()).unwrap());
        }
        Ok(response.body(Full::default().boxed()).unwrap())
    }

    /// `delay=MS`; and with `uuid=X&code=C&after=N&delay_tries=MS` the code, late, for the first N tries.
    fn asked_for(&self, query: &str) -> (u16, Duration) {
        let asked: BTreeMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let millis = |name: &str| asked.get(name).map_or(0, |text| text.parse().unwrap());
        let delay = Duration::from_millis(millis("delay"));
        let Some(uuid) = asked.get("uuid") else { return (200, delay) };
        let mut tries = self.tries.lock().unwrap();
        let count = tries.entry((*uuid).to_owned()).or_default();
        *count += 1;
        if *count > asked["after"].parse().unwrap() {
            return (200, delay);
        }
        (asked["code"].parse().unwrap(), Duration::from_millis(millis("delay_tries")))
    }
}

fn joined(headers: &HeaderMap) -> BTreeMap<&str, String> {
    let mut all: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        all.entry(name.as_str())
            .and_modify(|all| *all = format!("{all}, {value}"))
            .or_insert_with(|| value.into_owned());
    }
    all
}

async fn echo_frames(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut stream = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    while let Some(Ok(message)) = stream.next().await {
        if stream.send(message).await.is_err() {
            return;
        }
    }
}
