//! Every filter does over real sockets what `tests/filters/<name>.yaml` says: a configuration, requests, and what the
//! client and the upstream must see. And every filter has such a file, and a page whose example compiles.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::support::{Answer, Gateway, RawConnection, plugins::directory_with, send, send_h2c};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// Routes, filters and whatever else is needed. Where they are not given, `listeners` is one named `main`, and
    /// `upstreams` one named `echo` that answers any request with 200, `x-upstream: echo` and the body `echo`.
    /// `$UPSTREAM` is its address, here and in `requests`. The plugin `headers.wasm` of `tests/plugins` is there.
    config: serde_yaml::Mapping,
    requests: Vec<Exchange>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exchange {
    send: Sent,
    expect: Expected,
    /// Also as HEAD, as OPTIONS, with `Upgrade: x`, as a WebSocket handshake, and over HTTP/2: the same must hold.
    #[serde(default)]
    every_way: bool,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    #[serde(default = "get")]
    method: String,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
}

fn get() -> String {
    "GET".to_owned()
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, Value>,
    #[serde(default)]
    absent: Vec<String>,
    body: Option<String>,
    /// What the upstream must have seen; without it, the upstream must have seen nothing.
    upstream: Option<Seen>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    /// With the query.
    path: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Value>,
    #[serde(default)]
    absent: Vec<String>,
}

/// All values of a field, joined by `, `; or a regular expression for that.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Value {
    Exact(String),
    Regex { regex: String },
}

impl Value {
    fn matches(&self, found: &str) -> bool {
        match self {
            Value::Exact(value) => value == found,
            Value::Regex { regex } => regex::Regex::new(&format!("^(?:{regex})$")).unwrap().is_match(found),
        }
    }
}

fn check_fields(what: &str, headers: &HeaderMap, expected: &BTreeMap<String, Value>, absent: &[String]) {
    for (name, value) in expected {
        let found: Vec<&str> = headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        let found = found.join(", ");
        assert!(
            headers.contains_key(name) && value.matches(&found),
            "{what}: {name} is {found:?}, not {value:?}"
        );
    }
    for name in absent {
        assert_eq!(headers.get(name), None, "{what}: {name}");
    }
}

/// How a request is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Plain,
    Head,
    Options,
    Upgrade,
    WebSocket,
    Http2,
}

const EVERY_WAY: [Way; 6] = [Way::Plain, Way::Head, Way::Options, Way::Upgrade, Way::WebSocket, Way::Http2];

impl Exchange {
    async fn run(&self, way: Way, gateway: SocketAddr, upstream: &Echo) {
        let Sent { method, path, headers, body } = &self.send;
        let what = format!("{method} {path} ({way:?})");
        let mut headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        if way == Way::Upgrade {
            headers.extend([("connection", "upgrade"), ("upgrade", "x")]);
        }
        let answer = match way {
            Way::Plain | Way::Upgrade => send(gateway, method, path, &headers, body.clone()).await,
            Way::Head => send(gateway, "HEAD", path, &headers, "").await,
            Way::Options => send(gateway, "OPTIONS", path, &headers, "").await,
            Way::Http2 => send_h2c(gateway, method, path, &headers, body.clone()).await,
            Way::WebSocket => tokio::task::block_in_place(|| handshake(gateway, path, &headers)),
        };
        let seen = upstream.take();
        self.check_answer(&what, way, &answer);
        match (&self.expect.upstream, seen.as_slice()) {
            (None, []) => {}
            (None, seen) => panic!("{what}: reached the upstream as {seen:?}"),
            (Some(expected), [(path, headers)]) => {
                if let Some(expected) = &expected.path {
                    assert_eq!(path, expected, "{what}: the upstream's path");
                }
                check_fields(
                    &format!("{what}: at the upstream"),
                    headers,
                    &expected.headers,
                    &expected.absent,
                );
            }
            (Some(_), seen) => panic!("{what}: the upstream saw {} requests: {seen:?}", seen.len()),
        }
    }

    fn check_answer(&self, what: &str, way: Way, answer: &Answer) {
        // Where the upstream answers, it accepts a handshake.
        let switches = way == Way::WebSocket && self.expect.upstream.is_some() && self.expect.status == 200;
        let status = if switches { 101 } else { self.expect.status };
        assert_eq!(answer.status.as_u16(), status, "{what}: {answer:?}");
        check_fields(what, &answer.headers, &self.expect.headers, &self.expect.absent);
        match &self.expect.body {
            _ if way == Way::Head || switches => assert!(answer.body.is_empty(), "{what}: {answer:?}"),
            Some(body) => assert_eq!(String::from_utf8_lossy(&decoded(answer)), *body, "{what}"),
            None => {}
        }
    }
}

/// The body without its content coding.
fn decoded(answer: &Answer) -> Vec<u8> {
    let mut decoded = Vec::new();
    match answer.header("content-encoding") {
        // A HEAD's, or none at all.
        _ if answer.body.is_empty() => 0,
        Some("br") => brotli::Decompressor::new(&*answer.body, 4096).read_to_end(&mut decoded).unwrap(),
        Some("zstd") => zstd::Decoder::new(&*answer.body).unwrap().read_to_end(&mut decoded).unwrap(),
        Some("gzip") => flate2::read::GzDecoder::new(&*answer.body).read_to_end(&mut decoded).unwrap(),
        Some(other) => panic!("{other:?} is not decoded here"),
        None => return answer.body.to_vec(),
    };
    decoded
}

/// A WebSocket handshake (RFC 6455, section 4.1), byte by byte: a client library would not show a refusal.
pub(crate) fn handshake(gateway: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut connection = RawConnection::open(gateway);
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request += &format!("host: {gateway}\r\n");
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    connection.write(format!(
        "{request}connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ));
    let response = connection.read_response();
    let headers =
        response.headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    Answer {
        status: response.status.try_into().unwrap(),
        version: http::Version::HTTP_11,
        headers: headers.collect::<Vec<(http::HeaderName, HeaderValue)>>().into_iter().collect(),
        body: response.body.into(),
        trailers: None,
    }
}

/// An upstream that takes any path, accepts any handshake and remembers what it was asked.
pub(crate) struct Echo {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<(String, HeaderMap)>>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Echo {
    pub(crate) async fn start() -> Echo {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<(String, HeaderMap)>>> = Arc::default();
        let record = seen.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let record = record.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(request, record.clone()));
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
        });
        Echo { address, seen, accepting }
    }

    /// What was seen since this was last asked.
    pub(crate) fn take(&self) -> Vec<(String, HeaderMap)> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<(String, HeaderMap)>>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let path = request.uri().path_and_query().unwrap().to_string();
    let headers = request.headers().clone();
    seen.lock().unwrap().push((path, headers.clone()));
    request.into_body().collect().await?;
    let response = Response::builder().header("x-upstream", "echo");
    let response = match headers.get("sec-websocket-key") {
        Some(key) if headers.contains_key("upgrade") => response
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-accept", derive_accept_key(key.as_bytes()))
            .body(Full::default()),
        _ => response.body("echo".into()),
    };
    Ok(response.unwrap())
}

impl Scenario {
    fn read(path: &Path, upstream: SocketAddr) -> Scenario {
        let text = fs::read_to_string(path).unwrap().replace("$UPSTREAM", &upstream.to_string());
        serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub(crate) async fn run(mut self, upstream: &Echo) {
        for (key, value) in [
            ("admin", "false".to_owned()),
            ("listeners", "[{name: main, address: '127.0.0.1:0'}]".to_owned()),
            ("upstreams", format!("{{echo: {{endpoints: ['{}']}}}}", upstream.address)),
        ] {
            self.config.entry(key.into()).or_insert_with(|| serde_yaml::from_str(&value).unwrap());
        }
        let yaml = serde_yaml::to_string(&self.config).unwrap();
        let gateway = Gateway::start_in(directory_with(&["headers"]), &yaml, &[]).await;
        for request in &self.requests {
            let ways = if request.every_way { &EVERY_WAY[..] } else { &[Way::Plain] };
            for way in ways {
                request.run(*way, gateway.address("main"), upstream).await;
            }
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn scenarios() -> Vec<PathBuf> {
    let files = fs::read_dir(root().join("tests/filters")).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scenario_holds() {
    let running = scenarios().into_iter().map(|path| async move {
        let upstream = Echo::start().await;
        let scenario = Scenario::read(&path, upstream.address);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // On a task of its own, so that one failure does not hide another.
        (name, tokio::spawn(async move { scenario.run(&upstream).await }).await)
    });
    let ended = futures::future::join_all(running).await;
    let failed: Vec<_> = ended.iter().filter(|(_, ended)| ended.is_err()).map(|(name, _)| name).collect();
    assert!(!ended.is_empty() && failed.is_empty(), "{failed:?} failed; what they said stands above");
}

#[test]
fn every_filter_has_its_page_and_its_scenario() {
    for name in tidegate::filter::Registry::built_in().names() {
        for file in [format!("docs/filters/{name}.md"), format!("tests/filters/{name}.yaml")] {
            assert!(root().join(&file).is_file(), "filter `{name}` lacks {file}");
        }
    }
}

/// The first YAML block of a page.
fn example(page: &str) -> &str {
    let (_, from) = page.split_once("```yaml\n").expect("the page has a YAML block");
    from.split_once("```").expect("the block ends").0
}

#[test]
fn the_example_on_every_page_compiles() {
    for name in tidegate::filter::Registry::built_in().names() {
        let file = format!("docs/filters/{name}.md");
        let page = fs::read_to_string(root().join(&file)).unwrap();
        let example = example(&page);
        assert!(example.contains(&format!("{name}:")), "{file}: the example does not show `{name}`");
        // Variables that the reader is to set.
        let example = example
            .replace("${env:OIDC_SECRET}", "secret")
            .replace("${env:SESSION_SECRET}", &"secret".repeat(8));
        let loaded = tidegate::config::parse(&example, &file).unwrap_or_else(|problems| panic!("{problems}"));
        tidegate::snapshot::compile(loaded, &tidegate::filter::Live::offline())
            .unwrap_or_else(|problems| panic!("{problems}"));
    }
}
