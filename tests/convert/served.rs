//! A converted file, served: its listeners on free ports of loopback, and each endpoint that it names a backend that says which one it is.

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde::Deserialize;
use serde_json::json;
use serde_yaml::Value;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::support::{Answer, Gateway, send, send_h2c};

/// A request, and what must come of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    /// Name of the listener.
    to: String,
    #[serde(default = "get")]
    method: String,
    #[serde(default = "root")]
    path: String,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// A call of gRPC, over HTTP/2.
    #[serde(default)]
    grpc: bool,
    #[serde(default = "ok")]
    status: u16,
    /// The endpoint that answers, as the converted file has it; none if the gateway does.
    #[serde(default)]
    backend: Option<String>,
    /// As it sees the request.
    #[serde(default)]
    seen: Seen,
    /// Of the answer; `null` is none of that name.
    #[serde(default)]
    answer: BTreeMap<String, Option<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Seen {
    path: Option<String>,
    headers: BTreeMap<String, Option<String>>,
}

fn get() -> String {
    "GET".into()
}

fn root() -> String {
    "/".into()
}

fn ok() -> u16 {
    200
}

pub(super) struct Served {
    pub(super) gateway: Gateway,
    backends: Vec<JoinHandle<()>>,
}

impl Served {
    /// `directory` has the files that `converted` names.
    pub(super) async fn start(converted: &str, directory: TempDir) -> Served {
        let mut file: Value = serde_yaml::from_str(converted).unwrap();
        let mut backends = Backends::default();
        for name in endpoints(&file) {
            backends.address(&name).await;
        }
        let addresses = &backends.addresses;
        relocate(&mut file, |name| vec![addresses[name]]);
        let gateway = Gateway::start_in(directory, &serde_yaml::to_string(&file).unwrap(), &[]).await;
        Served { gateway, backends: backends.serving }
    }

    pub(super) async fn check(&self, case: &Case) {
        let what = format!("{case:?}");
        let answer = self.send(case).await;
        assert_eq!(answer.status.as_u16(), case.status, "{what}: {answer:?}");
        assert_eq!(answer.header("x-backend"), case.backend.as_deref(), "{what}: {answer:?}");
        for (name, expected) in &case.answer {
            assert_eq!(answer.header(name), expected.as_deref(), "{name} of {what}: {answer:?}");
        }
        if case.backend.is_none() {
            return;
        }
        let seen = answer.json();
        if let Some(path) = &case.seen.path {
            assert_eq!(seen["path"], path.as_str(), "{what}");
        }
        for (name, expected) in &case.seen.headers {
            assert_eq!(
                seen["headers"].get(name).and_then(|found| found.as_str()),
                expected.as_deref(),
                "{name} in {what}: {seen}"
            );
        }
    }

    async fn send(&self, case: &Case) -> Answer {
        let address = self.gateway.address(&case.to);
        let mut headers: Vec<(&str, &str)> =
            case.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        headers.extend(case.host.as_deref().map(|host| ("host", host)));
        if case.grpc {
            headers.extend([("content-type", "application/grpc"), ("te", "trailers")]);
            return send_h2c(address, "POST", &case.path, &headers, Bytes::from_static(&[0; 5])).await;
        }
        send(address, &case.method, &case.path, &headers, "").await
    }

    /// How many of so many requests each backend answers; those of the gateway's own count under their status.
    pub(super) async fn spread(&self, case: &Case, requests: usize) -> BTreeMap<String, usize> {
        let mut spread = BTreeMap::new();
        for _ in 0..requests {
            let answer = self.send(case).await;
            let by = answer
                .header("x-backend")
                .map_or_else(|| answer.status.as_str().to_owned(), ToOwned::to_owned);
            *spread.entry(by).or_default() += 1;
        }
        spread
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.backends.iter().for_each(JoinHandle::abort);
    }
}

/// The endpoints that a converted file names.
pub(crate) fn endpoints(file: &Value) -> Vec<String> {
    let mut names = Vec::new();
    for_each_list(&mut file.clone(), |endpoints| {
        names.extend(endpoints.iter_mut().map(|endpoint| address_of(endpoint).as_str().unwrap().to_owned()));
    });
    names
}

/// The same file on loopback: its listeners on free ports, and each endpoint at these addresses, as its name might have several.
pub(crate) fn relocate(file: &mut Value, addresses: impl Fn(&str) -> Vec<SocketAddr>) {
    file["admin"] = serde_yaml::from_str("{address: '127.0.0.1:0'}").unwrap();
    for listener in file["listeners"].as_sequence_mut().into_iter().flatten() {
        if listener.get("name").is_none() {
            listener["name"] = listener["address"].clone();
        }
        listener["address"] = "127.0.0.1:0".into();
    }
    for_each_list(file, |endpoints| {
        let mut moved = Vec::new();
        for mut endpoint in std::mem::take(endpoints) {
            let name = address_of(&mut endpoint).as_str().unwrap().to_owned();
            for address in addresses(&name) {
                *address_of(&mut endpoint) = address.to_string().into();
                moved.push(endpoint.clone());
            }
        }
        *endpoints = moved;
    });
}

fn for_each_list(file: &mut Value, mut edit: impl FnMut(&mut Vec<Value>)) {
    let upstreams = file.get_mut("upstreams").and_then(Value::as_mapping_mut);
    for (_, upstream) in upstreams.into_iter().flatten() {
        upstream["endpoints"].as_sequence_mut().into_iter().for_each(&mut edit);
    }
}

fn address_of(endpoint: &mut Value) -> &mut Value {
    if endpoint.is_string() { endpoint } else { &mut endpoint["address"] }
}

#[derive(Default)]
struct Backends {
    addresses: BTreeMap<String, SocketAddr>,
    serving: Vec<JoinHandle<()>>,
}

impl Backends {
    async fn address(&mut self, name: &str) {
        if self.addresses.contains_key(name) {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.addresses.insert(name.to_owned(), address);
        let name = name.to_owned();
        self.serving.push(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let name = name.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| describe(name.clone(), request));
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        }));
    }
}

/// Says who was asked, and what.
async fn describe(name: String, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut headers = BTreeMap::new();
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers
            .entry(name.as_str().to_owned())
            .and_modify(|all: &mut String| *all = format!("{all}, {value}"))
            .or_insert(value);
    }
    let path = request.uri().path_and_query().map(ToString::to_string);
    let seen = json!({"path": path, "headers": headers});
    let _ = request.into_body().collect().await;
    let response = Response::builder().header("x-backend", name).header("x-powered-by", "tests");
    Ok(response.body(Full::from(seen.to_string())).unwrap())
}
