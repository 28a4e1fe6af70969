//! A server that says what it has seen of a request: behind the original, and behind the converted gateway.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

pub(crate) struct Backend {
    pub address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
}

impl Backend {
    pub(crate) async fn start(name: &'static str) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(request, name));
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
        });
        Backend { address, accepting }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What only one of two servers sends, or each in its own way.
const OWN: [&str; 6] =
    ["connection", "content-length", "host", "transfer-encoding", "user-agent", "x-tidegate-attempts"];

async fn answer(request: Request<Incoming>, name: &str) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let mut headers: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.as_str())
            .and_modify(|known| *known = format!("{known}, {value}"))
            .or_insert_with(|| value.into_owned());
    }
    let host = headers.get("host").cloned();
    headers.retain(|name, _| !OWN.contains(name));
    let length = body.collect().await?.to_bytes().len();
    let mut response = Response::builder().header("x-echo", "1").header("x-secret", "s");
    // What it is asked to say of its own place.
    for (asked, field) in [("x-say-location", "location"), ("x-say-cookie", "set-cookie")] {
        if let Some(value) = head.headers.get(asked) {
            response = response.header(field, value);
        }
    }
    if let Some(key) = head.headers.get("sec-websocket-key").filter(|_| head.headers.contains_key("upgrade"))
    {
        let response = response.status(101).header("connection", "upgrade").header("upgrade", "websocket");
        let response = response.header("sec-websocket-accept", derive_accept_key(key.as_bytes()));
        return Ok(response.body(Full::default()).unwrap());
    }
    if path.ends_with("/hang") {
        // Longer than any of the cases waits.
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    let status = match (path.as_str(), path.split_once("/status/")) {
        ("/auth", _) => match headers.get("authorization").map(String::as_str) {
            Some("good") => 204,
            Some("bad") => 403,
            _ => 401,
        },
        (_, Some((_, status))) => status.parse().unwrap(),
        _ => 200,
    };
    let seen = serde_json::json!({
        "backend": name, "method": head.method.as_str(), "target": head.uri.to_string(), "host": host, "headers": headers, "body": length,
    });
    let (kind, body) = match path.rsplit('/').collect::<Vec<_>>().as_slice() {
        [kind, "big", ..] => (*kind, "0123456789".repeat(100)),
        [kind, "small", ..] => (*kind, "0123456789".to_owned()),
        _ => ("json", seen.to_string()),
    };
    let kind = match kind {
        "png" => "image/png",
        "html" => "text/html",
        _ => "application/json",
    };
    let response = response.status(status).header("content-type", kind);
    let response = if path == "/auth" { response.header("x-user", "ann") } else { response };
    Ok(response.body(if status == 204 { Full::default() } else { body.into() }).unwrap())
}
