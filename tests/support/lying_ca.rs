//! An ACME server that believes everybody, and lies as it is told to: real TLS and real certificates, but no proofs, and no signature is
//! looked at. What a well-behaved server does is tested with `pebble`.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use openssl::{
    pkey::{PKey, Public},
    x509::X509Req,
};
use pingora_core::tls::tokio_ssl::SslStream;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{
    certificates::{HOUR, Issued, Order, authority, keep, server},
    own_address,
    tls::acceptor,
};

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Lie {
    #[default]
    None,
    /// No answer to an order.
    Hangs,
    /// The directory names somebody else's server.
    ForeignDirectory,
    /// An order's certificate is said to be there.
    ForeignCertificate,
    /// For another name.
    WrongNames,
    /// For the name and another.
    MoreNames,
    /// For another key.
    WrongKey,
    /// It has ended already.
    Ended,
    /// No nonce is good.
    Nonces,
    /// For so many seconds.
    RateLimited(u64),
    /// The proof of another name.
    WrongProof,
    /// A body that never fits.
    Huge,
    /// No ACME.
    Nonsense,
    /// Every second order fails.
    Half,
}

#[derive(Default)]
struct State {
    lie: Lie,
    orders: Vec<Ordered>,
    accounts: usize,
    /// The window that is suggested for whatever is asked for.
    window: Option<(SystemTime, SystemTime)>,
    asked_when: Vec<String>,
    replaced: Vec<String>,
    refused: usize,
}

struct Ordered {
    name: String,
    chain: Option<String>,
}

pub(crate) struct LyingCa {
    address: SocketAddr,
    home: TempDir,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

impl LyingCa {
    pub(crate) async fn start(lie: Lie) -> LyingCa {
        let listener = TcpListener::bind(own_address()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (home, root) = (TempDir::new().unwrap(), authority("lying"));
        keep(home.path(), "root", &root);
        let own = Order { ips: vec![address.ip().to_string()], ..server(&["ca.test"]) };
        let own = root.issue(&own);
        let acceptor = acceptor(&own.certificate, &own.key, &[]).build();
        let state = Arc::new(Mutex::new(State { lie, ..State::default() }));
        let shared = state.clone();
        let accepting = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let ssl = openssl::ssl::Ssl::new(acceptor.context()).unwrap();
                let (state, root) = (shared.clone(), root.clone());
                serving.spawn(async move {
                    let mut stream = SslStream::new(ssl, stream).unwrap();
                    if Pin::new(&mut stream).accept().await.is_err() {
                        return;
                    }
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (state, root) = (state.clone(), root.clone());
                        async move { Ok::<_, Infallible>(answer(request, address, &state, &root).await) }
                    });
                    let io = TokioIo::new(stream);
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
                });
            }
        });
        LyingCa { address, home, state, accepting }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn lie(&self, lie: Lie) {
        self.state().lie = lie;
    }

    /// Suggest this window of whatever certificate is asked for.
    pub(crate) fn suggest(&self, from: SystemTime, until: SystemTime) {
        self.state().window = Some((from, until));
    }

    /// The names that were ordered, in order.
    pub(crate) fn ordered(&self) -> Vec<String> {
        self.state().orders.iter().map(|order| order.name.clone()).collect()
    }

    /// How many orders it has not taken.
    pub(crate) fn refused(&self) -> usize {
        self.state().refused
    }

    pub(crate) fn accounts(&self) -> usize {
        self.state().accounts
    }

    /// Of how many certificates it was asked when to renew them.
    pub(crate) fn asked_when(&self) -> Vec<String> {
        self.state().asked_when.clone()
    }

    /// In whose place orders came.
    pub(crate) fn replaced(&self) -> Vec<String> {
        self.state().replaced.clone()
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.home.path().join("root.crt")
    }

    /// As an entry of `cas`.
    pub(crate) fn entry(&self) -> String {
        format!("{{directory: 'https://{}/dir', ca: '{}'}}", self.address, self.ca().display())
    }
}

impl Drop for LyingCa {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn answer(
    request: Request<Incoming>,
    address: SocketAddr,
    state: &Mutex<State>,
    root: &Issued,
) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let jws: Value = serde_json::from_slice(&body).unwrap_or_default();
    let payload = BASE64.decode(jws["payload"].as_str().unwrap_or_default()).unwrap_or_default();
    let payload: Value = serde_json::from_slice(&payload).unwrap_or_default();
    let is_hanging = state.lock().unwrap().lie == Lie::Hangs;
    if is_hanging && path == "/order" {
        std::future::pending::<()>().await;
    }
    let mut state = state.lock().unwrap();
    let url = |path: &str| format!("https://{address}{path}");
    let (what, number) = path.rsplit_once('/').unwrap_or_default();
    let number: usize = number.parse().unwrap_or(0);
    let is_signed = !jws.is_null();
    match (&state.lie, path.as_str()) {
        (Lie::Nonsense, _) => return reply(200, None, "<html>".into()),
        (Lie::Huge, "/dir") => return reply(200, None, "x".repeat(4 << 20)),
        (Lie::Nonces, _) if is_signed => return refuse(400, "badNonce", None),
        (Lie::RateLimited(seconds), "/order") => {
            let seconds = *seconds;
            state.refused += 1;
            return refuse(429, "rateLimited", Some(seconds));
        }
        _ => {}
    }
    match (what, path.as_str()) {
        (_, "/dir") => {
            let new_order = match state.lie {
                Lie::ForeignDirectory => "https://evil.test/order".to_owned(),
                _ => url("/order"),
            };
            json_reply(
                200,
                None,
                &json!({
                    "newNonce": url("/nonce"), "newAccount": url("/account"), "newOrder": new_order,
                    "renewalInfo": url("/ari"),
                }),
            )
        }
        (_, "/nonce") => reply(200, None, String::new()),
        (_, "/account") => {
            state.accounts += 1;
            json_reply(201, Some(url("/account/1")), &json!({"status": "valid"}))
        }
        (_, "/order") => {
            if state.lie == Lie::Half {
                state.refused += 1;
                if state.refused % 2 == 1 {
                    return refuse(500, "serverInternal", None);
                }
            }
            let name = payload["identifiers"][0]["value"].as_str().unwrap_or_default().to_owned();
            state.replaced.extend(payload["replaces"].as_str().map(str::to_owned));
            state.orders.push(Ordered { name, chain: None });
            let number = state.orders.len() - 1;
            json_reply(201, Some(url(&format!("/order/{number}"))), &order(&state, number, &url))
        }
        ("/order", _) => json_reply(200, None, &order(&state, number, &url)),
        ("/authz", _) => {
            let name = match state.lie {
                Lie::WrongProof => "evil.test".to_owned(),
                _ => state.orders[number].name.clone(),
            };
            let authorization = json!({
                "status": "valid", "identifier": {"type": "dns", "value": name}, "challenges": [],
            });
            json_reply(200, None, &authorization)
        }
        ("/finalize", _) => {
            let csr = BASE64.decode(payload["csr"].as_str().unwrap_or_default()).unwrap();
            let csr = X509Req::from_der(&csr).unwrap();
            let chain = issue(&state.orders[number].name, &csr.public_key().unwrap(), &state.lie, root);
            state.orders[number].chain = Some(chain);
            json_reply(200, None, &order(&state, number, &url))
        }
        ("/cert", _) => reply(200, None, state.orders[number].chain.clone().unwrap_or_default()),
        ("/ari", _) => {
            state.asked_when.push(path.rsplit('/').next().unwrap_or_default().to_owned());
            match state.window {
                None => refuse(404, "malformed", None),
                Some((from, until)) => {
                    let time = |time| humantime::format_rfc3339_seconds(time).to_string();
                    let window = json!({"suggestedWindow": {"start": time(from), "end": time(until)}});
                    json_reply(200, None, &window)
                }
            }
        }
        _ => refuse(404, "malformed", None),
    }
}

fn order(state: &State, number: usize, url: &impl Fn(&str) -> String) -> Value {
    let is_done = state.orders[number].chain.is_some();
    let certificate = match state.lie {
        Lie::ForeignCertificate => "https://evil.test/cert/0".to_owned(),
        _ => url(&format!("/cert/{number}")),
    };
    json!({
        "status": if is_done { "valid" } else { "ready" },
        "identifiers": [{"type": "dns", "value": state.orders[number].name}],
        "authorizations": [url(&format!("/authz/{number}"))],
        "finalize": url(&format!("/finalize/{number}")),
        "certificate": if is_done { json!(certificate) } else { Value::Null },
    })
}

fn issue(name: &str, key: &PKey<Public>, lie: &Lie, root: &Issued) -> String {
    let mut wanted = server(&[name]);
    wanted.not_before = SystemTime::now() - Duration::from_secs(60);
    wanted.not_after = SystemTime::now() + 24 * HOUR;
    match lie {
        Lie::WrongNames => wanted = server(&["other.example.com"]),
        Lie::MoreNames => wanted = server(&[name, "other.example.com"]),
        Lie::Ended => wanted.not_after = SystemTime::now() - Duration::from_secs(30),
        _ => {}
    }
    let leaf = match lie {
        Lie::WrongKey => root.issue(&wanted).certificate,
        _ => root.issue_for(&wanted, key),
    };
    let pem = [leaf.to_pem().unwrap(), root.certificate.to_pem().unwrap()].concat();
    String::from_utf8(pem).unwrap()
}

fn json_reply(status: u16, location: Option<String>, body: &Value) -> Response<Full<Bytes>> {
    reply(status, location, body.to_string())
}

fn refuse(status: u16, kind: &str, retry_after: Option<u64>) -> Response<Full<Bytes>> {
    let problem = json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "so it is"});
    let mut reply = json_reply(status, None, &problem);
    if let Some(seconds) = retry_after {
        reply.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    reply
}

fn reply(status: u16, location: Option<String>, body: String) -> Response<Full<Bytes>> {
    let mut reply = Response::builder().status(status).header("replay-nonce", "nonce-1");
    if let Some(location) = location {
        reply = reply.header(header::LOCATION, location);
    }
    reply.body(Full::new(body.into())).unwrap()
}
