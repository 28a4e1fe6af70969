//! One probe of one endpoint: a TCP connection, an HTTP request, or a gRPC health request.
//! TCP is Pingora's own check. Its HTTP check sends one fixed `Host` to all endpoints and bounds each read but not
//! the whole, so HTTP and gRPC (which it lacks) are done here on its connector, and one deadline spans it all.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_trait::async_trait;
use pingora_core::{
    Error, ErrorType,
    connectors::{L4Connect, http::Connector},
    protocols::{http::client::HttpSession, l4::socket::SocketAddr as PeerAddress},
    upstreams::peer::PeerOptions,
};
use pingora_http::RequestHeader;
use pingora_load_balancing::{
    Backend, Extensions,
    health_check::{HealthCheck, TcpHealthCheck},
};

use crate::config;

use super::{
    endpoint::peer_at,
    grpc,
    proxy_protocol::{self, Announcing},
    registry::Owners,
    source::name_of,
    tls::{Tls, Trouble},
};

/// Connectors for all probes of the process: each reads the system's certificates when it is made, which takes
/// milliseconds and a megabyte. Nothing is released to their pools, so every probe connects anew.
pub(super) struct Connectors {
    tcp: LazyLock<TcpHealthCheck>,
    http: LazyLock<Connector>,
}

impl Default for Connectors {
    fn default() -> Self {
        let tcp = || {
            let mut check = TcpHealthCheck::default();
            // The probe's own deadline, which the operator sets, is the only one.
            check.peer_template.options.connection_timeout = None;
            check
        };
        Connectors { tcp: LazyLock::new(tcp), http: LazyLock::new(|| Connector::new(None)) }
    }
}

/// How an upstream's endpoints are probed.
pub(super) struct Probe {
    kind: Kind,
    timeout: Duration,
    healthy_after: usize,
    unhealthy_after: usize,
    tls: Option<Arc<Tls>>,
    protocol: config::UpstreamProtocol,
    /// Tells those who expect it that nobody's connection is carried on.
    announcing: Option<Arc<Announcing>>,
    connectors: Arc<Connectors>,
}

enum Kind {
    Tcp,
    Http { request: Box<RequestHeader>, host: Option<String>, expect: config::ExpectedStatuses },
    Grpc { service: String },
}

/// As configured, on a `Backend`: what a probe names as the host.
#[derive(Clone)]
struct Origin(Arc<str>);

/// An endpoint in Pingora's terms, of weight 1.
pub(super) fn backend_of(address: PeerAddress, origin: &Arc<str>, owners: &Owners) -> Backend {
    let mut ext = Extensions::new();
    ext.insert(Origin(origin.clone()));
    ext.insert(owners.clone());
    Backend { addr: address, weight: 1, ext }
}

/// What `backend_of` was given; the address itself where it was made elsewhere.
pub(super) fn origin_of(backend: &Backend) -> Arc<str> {
    match backend.ext.get::<Origin>() {
        Some(Origin(origin)) => origin.clone(),
        None => name_of(&backend.addr),
    }
}

impl Probe {
    /// Fails when the check does not name exactly one kind, or the request it describes cannot be written.
    pub(crate) fn new(
        check: &config::HealthCheck,
        protocol: config::UpstreamProtocol,
        proxy_protocol: config::ProxyProtocol,
        tls: Option<Arc<Tls>>,
        connectors: Arc<Connectors>,
    ) -> Result<Probe, String> {
        let kind = match (&check.http, &check.tcp, &check.grpc) {
            (Some(http), None, None) => Kind::Http {
                request: Box::new(http_request(http)?),
                host: http.host.clone(),
                expect: http.expect.clone(),
            },
            (None, Some(_), None) => Kind::Tcp,
            (None, None, Some(grpc)) => Kind::Grpc { service: grpc.service.clone() },
            _ => return Err("exactly one of http, tcp and grpc is needed (remove the others)".into()),
        };
        Ok(Probe {
            kind,
            timeout: check.timeout.into(),
            healthy_after: check.healthy_after.get() as usize,
            unhealthy_after: check.unhealthy_after.get() as usize,
            tls,
            protocol,
            announcing: announcing(proxy_protocol),
            connectors,
        })
    }

    /// Only whether a connection can be opened.
    pub(crate) fn connect_only(
        upstream: &config::Upstream,
        tls: Option<Arc<Tls>>,
        connectors: Arc<Connectors>,
    ) -> Probe {
        Probe {
            kind: Kind::Tcp,
            timeout: upstream.connect_timeout.into(),
            healthy_after: 1,
            unhealthy_after: 1,
            tls,
            protocol: upstream.protocol,
            announcing: announcing(upstream.proxy_protocol),
            connectors,
        }
    }

    /// An error of `check` for the operator.
    pub(crate) fn explain(error: &Error) -> String {
        match (&error.etype, &error.context) {
            (ErrorType::Custom(PROBE_FAILED), Some(why)) => why.as_str().to_string(),
            // The rest of its text is the engine's options, pages of them.
            (etype, _) => match error.root_cause().downcast_ref::<std::io::Error>() {
                Some(cause) => cause.to_string(),
                None => words(etype),
            },
        }
    }

    async fn ask_http(
        &self,
        target: &Backend,
        request: &RequestHeader,
        host: Option<&str>,
        expect: &config::ExpectedStatuses,
    ) -> pingora_core::Result<()> {
        let mut session = self.connect(target, self.protocol).await?;
        let http2 = matches!(session, HttpSession::H2(_));
        let mut request = Box::new(request.clone());
        let origin = origin_of(target);
        address_to(&mut request, host.unwrap_or(host_of(target, &origin)), http2.then_some(self.scheme()))?;
        session.write_request_header(request).await?;
        session.finish_request_body().await?;
        session.read_response_header().await?;
        let status = session.response_header().map_or(0, |header| header.status.as_u16());
        if expect.contains(status) {
            Ok(())
        } else {
            Err(failed(format!("status {status} is not as expected")))
        }
    }

    async fn ask_grpc(&self, target: &Backend, service: &str) -> pingora_core::Result<()> {
        let mut session = self.connect(target, config::UpstreamProtocol::Grpc).await?;
        let mut request = RequestHeader::build("POST", grpc::PATH.as_bytes(), Some(3))?;
        request.insert_header("content-type", "application/grpc")?;
        request.insert_header("te", "trailers")?;
        address_to(&mut request, host_of(target, &origin_of(target)), Some(self.scheme()))?;
        session.write_request_header(Box::new(request)).await?;
        session.write_request_body(grpc::request(service), true).await?;
        session.read_response_header().await?;
        let HttpSession::H2(mut session) = session else {
            return Err(failed("the endpoint does not speak HTTP/2".into()));
        };
        let Some(header) = session.response_header() else {
            return Err(failed("no response header".into()));
        };
        if header.status != 200 {
            return Err(failed(format!("status {} is not as expected", header.status.as_u16())));
        }
        // A server that refuses at once sends its status in the header ("trailers-only").
        let mut status = header.headers.get("grpc-status").cloned();
        let mut body = Vec::new();
        while let Some(chunk) = session.read_response_body().await? {
            body.extend_from_slice(&chunk);
            if body.len() > grpc::LARGEST_RESPONSE {
                return Err(failed("the response is too large for a health answer".into()));
            }
        }
        if status.is_none() {
            status = session.read_trailers().await?.and_then(|trailers| trailers.get("grpc-status").cloned());
        }
        grpc::verdict(status.as_ref().and_then(|value| value.to_str().ok()), &body).map_err(failed)
    }

    fn announce(&self, options: &mut PeerOptions) {
        if let Some(announcing) = &self.announcing {
            options.custom_l4 = Some(announcing.clone());
        }
    }

    /// Whether a connection can be opened, and no more.
    async fn knock(&self, target: &Backend) -> pingora_core::Result<()> {
        let Some(announcing) = &self.announcing else { return self.connectors.tcp.check(target).await };
        // Closed without a word, some servers would take it for a client that has failed.
        announcing.connect(&target.addr).await.map(drop)
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// A connection as requests would be given one: over TLS, and to whom they would be sent.
    async fn connect(
        &self,
        target: &Backend,
        protocol: config::UpstreamProtocol,
    ) -> pingora_core::Result<HttpSession<()>> {
        let mut peer = peer_at(&target.addr);
        self.announce(&mut peer.options);
        match protocol {
            config::UpstreamProtocol::Http1 => {}
            config::UpstreamProtocol::Http2 | config::UpstreamProtocol::Grpc => {
                peer.options.set_http_version(2, 2);
            }
            config::UpstreamProtocol::Auto => peer.options.set_http_version(2, 1),
        }
        let origin = origin_of(target);
        let handshake = match &self.tls {
            Some(tls) => {
                let terms = tls.terms().map_err(|none| failed(none.to_string()))?;
                let owners = target.ext.get::<Owners>().cloned().unwrap_or_default();
                Some(Tls::secure(&mut peer, terms, &origin, &owners))
            }
            None => None,
        };
        let connected = self.connectors.http.get_http_session(&peer).await.map(|(session, _reused)| session);
        let Some(handshake) = handshake else { return connected };
        let session = match connected {
            Ok(session) => session,
            Err(error) => {
                let Some(trouble) = Trouble::of(&error, &handshake) else { return Err(error) };
                let why = match (trouble.explain(), &target.addr) {
                    (None, PeerAddress::Inet(at)) => {
                        let announcement = self.announcing.as_ref().map(|a| a.0.clone()).unwrap_or_default();
                        handshake.diagnose(trouble, *at, origin.to_string(), announcement).await
                    }
                    (why, _) => why,
                };
                return Err(why.map_or(error, failed));
            }
        };
        handshake.check(session.digest()).map_err(|distrust| failed(distrust.to_string()))?;
        Ok(session)
    }
}

#[async_trait]
impl HealthCheck for Probe {
    async fn check(&self, target: &Backend) -> pingora_core::Result<()> {
        let probe = async {
            match &self.kind {
                Kind::Tcp if self.tls.is_some() => self.connect(target, self.protocol).await.map(drop),
                Kind::Tcp => self.knock(target).await,
                Kind::Http { request, host, expect } => {
                    self.ask_http(target, request, host.as_deref(), expect).await
                }
                Kind::Grpc { service } => self.ask_grpc(target, service).await,
            }
        };
        let late = |_| failed(format!("no answer within {:?}", self.timeout));
        tokio::time::timeout(self.timeout, probe).await.map_err(late)?
    }

    fn health_threshold(&self, success: bool) -> usize {
        if success { self.healthy_after } else { self.unhealthy_after }
    }
}

fn announcing(version: config::ProxyProtocol) -> Option<Arc<Announcing>> {
    match proxy_protocol::header(version, None) {
        header if header.is_empty() => None,
        header => Some(Arc::new(Announcing(header))),
    }
}

/// What a probe names as the host, where the operator does not say: a socket's path is no host.
fn host_of<'a>(target: &Backend, origin: &'a str) -> &'a str {
    match target.addr {
        PeerAddress::Inet(_) => origin,
        PeerAddress::Unix(_) => "localhost",
    }
}

/// The engine's names for what went wrong run their words together.
pub(crate) fn words(etype: &ErrorType) -> String {
    let known = match etype {
        ErrorType::ConnectTimedout => "connecting took too long",
        ErrorType::ConnectRefused => "connection refused",
        ErrorType::ConnectNoRoute => "no route to host",
        ErrorType::ConnectError => "cannot connect",
        ErrorType::ConnectionClosed => "the connection was closed before an answer",
        ErrorType::ReadError => "the answer cannot be read",
        ErrorType::WriteError => "the request cannot be sent",
        ErrorType::ReadTimedout => "the answer took too long",
        ErrorType::WriteTimedout => "sending the request took too long",
        ErrorType::InvalidHTTPHeader => "the answer is not HTTP",
        ErrorType::H1Error => "the answer is not HTTP/1",
        ErrorType::H2Error | ErrorType::InvalidH2 => "the answer is not HTTP/2",
        ErrorType::HandshakeError | ErrorType::TLSHandshakeFailure => "the TLS handshake failed",
        ErrorType::TLSHandshakeTimedout => "the TLS handshake took too long",
        ErrorType::InvalidCert => "its certificate is not valid",
        _ => return spaced(etype.as_str()),
    };
    known.to_owned()
}

/// `FileOpenError` as `file open error`.
fn spaced(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 4);
    let mut before = 'A';
    for letter in name.chars() {
        if letter.is_uppercase() && before.is_lowercase() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
        before = letter;
    }
    words
}

const PROBE_FAILED: &str = "ProbeFailed";

fn failed(why: String) -> Box<Error> {
    Error::explain(ErrorType::Custom(PROBE_FAILED), why)
}

fn http_request(probe: &config::HttpProbe) -> Result<RequestHeader, String> {
    if !probe.path.starts_with('/') || probe.path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("path {:?} is not a path (try \"/health\")", probe.path));
    }
    let mut request = RequestHeader::build("GET", probe.path.as_bytes(), None)
        .map_err(|_| format!("path {:?} is not a path (try \"/health\")", probe.path))?;
    let mut insert = |name: String, value: &str| {
        let why = format!("header {name:?} cannot be written (names and values are printable ASCII)");
        request.insert_header(name, value).map_err(|_| why)
    };
    insert("user-agent".into(), "tidegate-health-check")?;
    for (name, value) in &probe.headers {
        if name.eq_ignore_ascii_case("host") {
            return Err("header \"host\" has its own key (set `host` instead)".into());
        }
        insert(name.clone(), value)?;
    }
    // Reported here rather than by every probe.
    if let Some(host) = &probe.host {
        address_to(&mut request.clone(), host, Some("http"))
            .map_err(|_| format!("host {host:?} is not a host"))?;
    }
    Ok(request)
}

/// HTTP/2 has `:authority` in the place of `Host` (RFC 9113 section 8.3.1), and `:scheme` beside it: the one that is given.
fn address_to(request: &mut RequestHeader, host: &str, scheme: Option<&str>) -> pingora_core::Result<()> {
    let Some(scheme) = scheme else {
        return request.insert_header("host", host);
    };
    let path = request.uri.path_and_query().map_or("/", |path| path.as_str()).to_string();
    let uri = http::Uri::builder().scheme(scheme).authority(host).path_and_query(path).build();
    request.set_uri(uri.map_err(|_| failed(format!("{host:?} is not a host")))?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn http_check() -> config::HealthCheck {
        let mut check = crate::upstream::tests::health_check();
        check.http = Some(config::HttpProbe::default());
        check
    }

    fn probe(check: &config::HealthCheck) -> Result<Probe, String> {
        let config::Upstream { protocol, proxy_protocol, .. } = config::Upstream::default();
        Probe::new(check, protocol, proxy_protocol, None, Arc::default())
    }

    async fn outcome(check: &config::HealthCheck, address: SocketAddr) -> Result<(), String> {
        let probe = probe(check).unwrap();
        let backend = backend_of(address.into(), &"users.internal:80".into(), &Owners::default());
        probe.check(&backend).await.map_err(|error| Probe::explain(&error))
    }

    /// Answers one connection with `response` and gives back what it was asked.
    async fn server(response: &'static str) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 4096];
            let length = stream.read(&mut buffer).await.unwrap();
            stream.write_all(response.as_bytes()).await.unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        });
        (address, asked)
    }

    /// An address at which nobody listens.
    async fn closed() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn tcp_asks_only_for_a_connection() {
        let mut check = crate::upstream::tests::health_check();
        check.tcp = Some(config::TcpProbe {});
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert_eq!(outcome(&check, listener.local_addr().unwrap()).await, Ok(()));
        let error = outcome(&check, closed().await).await.unwrap_err();
        assert!(error.to_lowercase().contains("connection refused"), "{error}");
    }

    #[test]
    fn what_went_wrong_is_said_in_words() {
        let explain = |etype| Probe::explain(&Error::new(etype));
        assert_eq!(explain(ErrorType::ConnectRefused), "connection refused");
        assert_eq!(explain(ErrorType::FileOpenError), "file open error");
    }

    #[tokio::test]
    async fn http_sends_what_is_configured() {
        let mut check = http_check();
        let http = check.http.as_mut().unwrap();
        http.path = "/health?deep=1".into();
        http.headers.insert("x-probe".into(), "yes".into());
        let (address, asked) = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(outcome(&check, address).await, Ok(()));
        let asked = asked.await.unwrap().to_lowercase();
        assert!(asked.starts_with("get /health?deep=1 http/1.1\r\n"), "{asked}");
        assert!(asked.contains("\r\nhost: users.internal:80\r\n"), "{asked}");
        assert!(asked.contains("\r\nx-probe: yes\r\n"), "{asked}");
    }

    #[tokio::test]
    async fn http_names_the_configured_host() {
        let mut check = http_check();
        check.http.as_mut().unwrap().host = Some("api.example.com".into());
        let (address, asked) = server("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(outcome(&check, address).await, Ok(()));
        assert!(asked.await.unwrap().to_lowercase().contains("\r\nhost: api.example.com\r\n"));
    }

    #[tokio::test]
    async fn an_unexpected_status_and_silence_are_failures() {
        let (address, _asked) = server("HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(outcome(&http_check(), address).await.unwrap_err(), "status 503 is not as expected");

        let mut check = http_check();
        check.timeout = config::HumanDuration::from_millis(20);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = outcome(&check, listener.local_addr().unwrap()).await.unwrap_err();
        assert_eq!(error, "no answer within 20ms");
    }

    /// Answers one gRPC call with `body` and the trailer `grpc-status`; gives back the path and message it was asked.
    async fn grpc_server(
        body: &'static [u8],
        status: &'static str,
    ) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (mut request, mut respond) = connection.accept().await.unwrap().unwrap();
            // The connection makes progress only while it is polled.
            let driver = tokio::spawn(async move { while connection.accept().await.is_some() {} });
            let message = request.body_mut().data().await.unwrap().unwrap();
            let mut response = respond.send_response(http::Response::new(()), false).unwrap();
            response.send_data(body.into(), false).unwrap();
            let trailers =
                [(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static(status))];
            response.send_trailers(trailers.into_iter().collect()).unwrap();
            driver.await.unwrap();
            format!("{} {}", request.uri(), String::from_utf8_lossy(&message[5..]))
        });
        (address, asked)
    }

    #[tokio::test]
    async fn grpc_asks_for_the_service_and_requires_serving() {
        let mut check = crate::upstream::tests::health_check();
        check.grpc = Some(config::GrpcProbe { service: "users.Users".into() });
        let (address, asked) = grpc_server(&[0, 0, 0, 0, 2, 8, 1], "0").await;
        assert_eq!(outcome(&check, address).await, Ok(()));
        let asked = asked.await.unwrap();
        assert_eq!(asked, "http://users.internal:80/grpc.health.v1.Health/Check \n\u{b}users.Users");

        let (address, _asked) = grpc_server(&[0, 0, 0, 0, 2, 8, 2], "0").await;
        assert_eq!(outcome(&check, address).await.unwrap_err(), "the endpoint says NOT_SERVING");
        let (address, _asked) = grpc_server(&[], "12").await;
        assert!(outcome(&check, address).await.unwrap_err().contains("does not implement"));
        let (address, _asked) = server("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        assert!(outcome(&check, address).await.is_err());
    }

    #[test]
    fn a_check_that_cannot_be_written_is_refused() {
        let refusal = |change: fn(&mut config::HealthCheck)| {
            let mut check = http_check();
            change(&mut check);
            probe(&check).err().unwrap_or_default()
        };
        assert!(refusal(|check| check.tcp = Some(config::TcpProbe {})).contains("exactly one"));
        assert!(refusal(|check| check.http = None).contains("exactly one"));
        assert!(refusal(|check| check.http.as_mut().unwrap().path = "health".into()).contains("\"/health\""));
        assert!(refusal(|check| check.http.as_mut().unwrap().host = Some("a b".into())).contains("host"));
        let with_header = |name: &str, value: &str| {
            let mut check = http_check();
            check.http.as_mut().unwrap().headers.insert(name.into(), value.into());
            probe(&check).err().unwrap_or_default()
        };
        assert!(with_header("x y", "1").contains("\"x y\""));
        assert!(with_header("x", "a\nb").contains("\"x\""));
        assert!(with_header("Host", "a").contains("`host`"));
    }
}
