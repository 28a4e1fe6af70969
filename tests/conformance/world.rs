//! A test's objects as a gateway that runs: converted, on loopback, with pods behind it and certificates where it names them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    fs,
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use openssl::ssl::SslVerifyMode;
use serde_json::Value;
use tempfile::TempDir;
use tidegate::convert::gateway_api;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;

use super::{
    BASE, Test,
    backends::Backends,
    step::{Lasting, Location, Step},
};
use crate::{
    convert::{
        scenario::compile,
        served::{endpoints, relocate},
    },
    support::{
        Answer, Connection, DEADLINE, Gateway, TlsClient,
        certificates::{Issued, Order, authority, server, write},
        connect,
        connect::{asking_for, shake_over, shown},
        within_deadline,
    },
};

const REQUESTS: usize = 500;

/// Authorities by name, made as they are asked for.
#[derive(Default)]
pub(super) struct Authorities(RefCell<BTreeMap<String, Issued>>);

impl Authorities {
    pub(super) fn find(&self, name: &str) -> Issued {
        self.0.borrow_mut().entry(name.to_owned()).or_insert_with(|| authority(name)).clone()
    }

    /// A certificate with these names, of which those with a scheme are URIs.
    pub(super) fn issue(&self, authority: &str, names: &[String]) -> Issued {
        let (uris, dns): (Vec<_>, Vec<_>) = names.iter().cloned().partition(|name| name.contains("://"));
        let dns: Vec<&str> = dns.iter().map(String::as_str).collect();
        self.find(authority).issue(&Order { uris, ..server(&dns) })
    }
}

pub(super) struct World {
    gateway: Gateway,
    listeners: BTreeSet<String>,
    backends: Backends,
    authorities: Authorities,
}

/// What a client got.
struct Got {
    answer: Answer,
    /// What the pod says that it saw; nothing where none was asked.
    seen: Value,
    shown: Vec<String>,
}

impl World {
    pub(super) async fn start(test: &Test) -> Result<World, String> {
        let files =
            [("base.yaml".to_owned(), BASE.to_owned()), ("test.yaml".to_owned(), test.objects.clone())];
        let converted = gateway_api::convert(&files).map_err(|problems| problems.to_string())?;
        let text = converted.file.to_string();
        let (directory, authorities) = (TempDir::new().unwrap(), Authorities::default());
        write_certificates(&text, test, &directory, &authorities);
        compile(&text, directory.path()).map_err(|problems| format!("{problems}\n{text}"))?;
        let mut file = serde_yaml::from_str(&text).unwrap();
        let backends = Backends::start(endpoints(&file), &test.pods, &authorities).await;
        relocate(&mut file, |endpoint| backends.addresses(endpoint));
        let names = file["listeners"].as_sequence().into_iter().flatten();
        let listeners = names.map(|listener| listener["name"].as_str().unwrap().to_owned()).collect();
        let gateway = Gateway::start_in(directory, &serde_yaml::to_string(&file).unwrap(), &[]).await;
        Ok(World { gateway, listeners, backends, authorities })
    }

    pub(super) async fn run(&self, step: &Step) -> Result<(), String> {
        if !step.shares.is_empty() || !step.copied_shares.is_empty() {
            return self.shares(step).await;
        }
        for _ in 0..step.times {
            match timeout(DEADLINE, self.once(step)).await {
                Ok(outcome) => outcome?,
                Err(_) => return Err(format!("nothing within {DEADLINE:?} of {step:?}")),
            }
        }
        Ok(())
    }

    async fn once(&self, step: &Step) -> Result<(), String> {
        let before = self.backends.record.subscribe().borrow().len();
        let got = if step.tcp { self.line(step).await } else { self.exchange(step, &[]).await };
        let got = match got {
            Ok(got) if step.fails => return Err(format!("{step:?} got {:?}", got.answer)),
            Ok(got) => got,
            Err(_) if step.fails => return Ok(()),
            Err(why) => return Err(format!("{why}, of {step:?}")),
        };
        check(step, &got)?;
        for service in &step.copies {
            let mut record = self.backends.record.subscribe();
            let copy = |all: &Vec<(String, Value)>| {
                all[before..].iter().any(|(own, seen)| own == service && seen["path"] == got.seen["path"])
            };
            let is_there = timeout(DEADLINE, record.wait_for(copy)).await.is_ok();
            if !is_there {
                return Err(format!("{service} got no copy of {step:?}"));
            }
        }
        if let Some(lasting) = step.cookie {
            self.stays(step, &got, lasting).await?;
        }
        Ok(())
    }

    fn address(&self, step: &Step) -> Result<std::net::SocketAddr, String> {
        let name = format!("default/{}", step.to);
        if !self.listeners.contains(&name) {
            return Err(format!("nothing listens at {name}"));
        }
        Ok(self.gateway.address(&name))
    }

    /// The handshake of a client that looks at no certificate, and the names that it was shown.
    async fn shake(
        &self,
        step: &Step,
        sni: &str,
    ) -> Result<(crate::support::connect::Tls, Vec<String>), String> {
        let mut client = TlsClient::trusting_all();
        if let Some(by) = &step.shows {
            client = client.showing(&self.authorities.issue(by, &["client.example".to_owned()]));
        }
        let mut context = client.context();
        context.set_verify(SslVerifyMode::NONE);
        let socket = connect(self.address(step)?).await.map_err(|error| error.to_string())?;
        let stream = shake_over(socket, asking_for(context, sni)).await?;
        let names = shown(stream.ssl());
        Ok((stream, names))
    }

    async fn exchange(&self, step: &Step, more: &[(&str, &str)]) -> Result<Got, String> {
        match &step.tls {
            Some(sni) => {
                let (stream, shown) = self.shake(step, sni).await?;
                self.over(stream, shown, step, more).await
            }
            None => {
                let stream = connect(self.address(step)?).await.map_err(|error| error.to_string())?;
                self.over(stream, Vec::new(), step, more).await
            }
        }
    }

    async fn over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        shown: Vec<String>,
        step: &Step,
        more: &[(&str, &str)],
    ) -> Result<Got, String> {
        let host = step.host.clone().unwrap_or_else(|| "any.example".to_owned());
        if step.websocket {
            return frames(stream, &host, step).await;
        }
        let (stream, wants_http2) = (TokioIo::new(stream), step.h2c || step.call.is_some());
        let connection = match wants_http2 {
            true => Connection::http2_over(stream, host).await,
            false => Connection::http1_over(stream, host).await,
        };
        let mut connection = connection.map_err(|error| error.to_string())?;
        let mut headers: Vec<(&str, &str)> =
            step.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        headers.extend(more);
        let sent = match &step.call {
            Some(path) => {
                headers.extend([("content-type", "application/grpc"), ("te", "trailers")]);
                connection.send("POST", path, &headers, Bytes::from_static(&[0; 5])).await
            }
            None => connection.send(&step.method, &step.path, &headers, "").await,
        };
        let answer = sent.map_err(|error| error.to_string())?;
        let seen = answer.header("x-seen").map_or(Value::Null, |seen| serde_json::from_str(seen).unwrap());
        Ok(Got { answer, seen, shown })
    }

    async fn line(&self, step: &Step) -> Result<Got, String> {
        async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<Value, String> {
            let mut stream = BufReader::new(stream);
            stream.write_all(b"who\n").await.map_err(|error| error.to_string())?;
            let mut line = String::new();
            stream.read_line(&mut line).await.map_err(|error| error.to_string())?;
            serde_json::from_str(&line).map_err(|_| format!("{line:?} is no line of a pod"))
        }
        let (seen, shown) = match &step.tls {
            Some(sni) => {
                let (stream, shown) = self.shake(step, sni).await?;
                (ask(stream).await?, shown)
            }
            None => (
                ask(connect(self.address(step)?).await.map_err(|error| error.to_string())?).await?,
                Vec::new(),
            ),
        };
        Ok(Got { answer: nothing(200), seen, shown })
    }

    /// As the suite does, the shares of answers are looked at up to ten times.
    async fn shares(&self, step: &Step) -> Result<(), String> {
        let mut found = BTreeMap::new();
        for _ in 0..10 {
            let before = self.backends.record.subscribe().borrow().len();
            found = BTreeMap::<String, usize>::new();
            for _ in 0..REQUESTS {
                let got = if step.tcp { self.line(step).await? } else { self.exchange(step, &[]).await? };
                check(step, &got)?;
                *found.entry(got.seen["service"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
            }
            self.copied_shares(step, before).await?;
            let share = |name: &str| found.get(name).copied().unwrap_or_default() as f64 / REQUESTS as f64;
            if step.shares.iter().all(|(name, expected)| (share(name) - expected).abs() <= 0.05) {
                return Ok(());
            }
        }
        Err(format!("{found:?} instead of {:?}", step.shares))
    }

    async fn copied_shares(&self, step: &Step, before: usize) -> Result<(), String> {
        for (name, share) in &step.copied_shares {
            let width = 5.0 * (share * (1.0 - share) * REQUESTS as f64).sqrt();
            let expected = share * REQUESTS as f64;
            let copies = |all: &Vec<(String, Value)>| {
                all[before..].iter().filter(|(own, _)| own == name).count() as f64
            };
            let mut record = self.backends.record.subscribe();
            let is_enough =
                timeout(DEADLINE, record.wait_for(|all| copies(all) >= expected - width)).await.is_ok();
            let count = copies(&record.borrow());
            if !is_enough || count > expected + width {
                return Err(format!("{name} got {count} copies instead of {expected}"));
            }
        }
        Ok(())
    }

    async fn stays(&self, step: &Step, got: &Got, lasting: Lasting) -> Result<(), String> {
        let cookie = got.answer.header("set-cookie").ok_or("no cookie was given out")?;
        let outlives = cookie.to_ascii_lowercase().contains("max-age=")
            || cookie.to_ascii_lowercase().contains("expires=");
        if outlives != (lasting == Lasting::Permanent) {
            return Err(format!("{cookie} is to be {lasting:?}"));
        }
        let pair = cookie.split(';').next().unwrap_or_default();
        for _ in 0..10 {
            let again = self.exchange(step, &[("cookie", pair)]).await?;
            if again.seen["pod"] != got.seen["pod"] {
                return Err(format!("{} after {} with {cookie}", again.seen["pod"], got.seen["pod"]));
            }
        }
        Ok(())
    }
}

/// The files below `certs` that the configuration names: of a ConfigMap the authority of its name, of a Secret a certificate by `ca`.
fn write_certificates(text: &str, test: &Test, directory: &TempDir, authorities: &Authorities) {
    let mut pairs = BTreeMap::new();
    for file in
        text.split_whitespace().map(|word| word.trim_matches('"')).filter(|word| word.starts_with("certs/"))
    {
        let path = directory.path().join(file);
        let folder = path.parent().unwrap();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        fs::create_dir_all(folder).unwrap();
        let content = match path.file_name().and_then(|name| name.to_str()) {
            Some("ca.crt") => authorities.find(&name).pem(),
            part => {
                let own = pairs.entry(name.clone()).or_insert_with(|| {
                    let ordinary =
                        || ["*.example.com", "*.example.org", "example.org"].map(ToOwned::to_owned).to_vec();
                    authorities.issue("ca", &test.certificates.get(&name).cloned().unwrap_or_else(ordinary))
                });
                if part == Some("tls.key") { own.key_pem() } else { own.pem() }
            }
        };
        write(&path, &content, 0o600);
    }
}

fn nothing(status: u16) -> Answer {
    Answer {
        status: status.try_into().unwrap(),
        version: http::Version::HTTP_11,
        headers: http::HeaderMap::new(),
        body: Bytes::new(),
        trailers: None,
    }
}

async fn frames(stream: impl AsyncRead + AsyncWrite + Unpin, host: &str, step: &Step) -> Result<Got, String> {
    let url = format!("ws://{host}{}", step.path);
    let opened = tokio_tungstenite::client_async(url, stream).await;
    let (mut socket, response) = opened.map_err(|error| error.to_string())?;
    for message in [Message::text("some text"), Message::binary(vec![1, 2, 3, 4, 5, 6, 7])] {
        socket.send(message.clone()).await.map_err(|error| error.to_string())?;
        match within_deadline("a frame", socket.next()).await {
            Some(Ok(echo)) if echo == message => {}
            other => return Err(format!("{other:?} instead of {message:?}")),
        }
    }
    let seen = response
        .headers()
        .get("x-seen")
        .map_or(Value::Null, |seen| serde_json::from_slice(seen.as_bytes()).unwrap());
    Ok(Got { answer: nothing(200), seen, shown: Vec::new() })
}

fn check(step: &Step, got: &Got) -> Result<(), String> {
    let told = || format!("{:?} seen as {} of {step:?}", got.answer, got.seen);
    let status = got.answer.status.as_u16();
    let ok = if step.call.is_some() { got.answer.status.is_success() } else { status == 200 };
    let fits = if step.status.is_empty() { ok } else { step.status.contains(&status) };
    if !fits {
        return Err(format!("status {status}: {}", told()));
    }
    if step.call.is_some() {
        let fields = [Some(&got.answer.headers), got.answer.trailers.as_ref()];
        let code = fields
            .into_iter()
            .flatten()
            .find_map(|fields| fields.get("grpc-status")?.to_str().ok()?.parse().ok());
        same("the code", &Some(step.code.unwrap_or(0)), &code).map_err(|why| format!("{why}: {}", told()))?;
    }
    let text = |name: &str| got.seen[name].as_str().map(ToOwned::to_owned);
    let mut results = Vec::new();
    // Who answers is known where nothing is said of it: the gateway alone, if it is no success.
    let is_own =
        !step.status.is_empty() && !step.status.contains(&200) || step.code.is_some_and(|code| code != 0);
    if is_own || step.backend.is_some() {
        results.push(same("the backend", &step.backend, &text("service")));
    }
    let sees = &step.sees;
    for (name, expected) in
        [("path", &sees.path), ("host", &sees.host), ("version", &sees.version), ("sni", &sees.sni)]
    {
        if expected.is_some() {
            results.push(same(name, expected, &text(name)));
        }
    }
    for (name, expected) in [("tls", sees.tls), ("certificate", sees.certificate)] {
        if expected.is_some() {
            results.push(same(name, &expected, &got.seen[name].as_bool()));
        }
    }
    for (name, expected) in &sees.headers {
        let found =
            got.seen["headers"].get(name.to_ascii_lowercase()).and_then(Value::as_str).map(ToOwned::to_owned);
        results.push(same(name, expected, &found));
    }
    if let Some(name) = &step.own_name_in {
        let found = got.seen["headers"][name].as_str().map(ToOwned::to_owned);
        results.push(same(name, &text("service"), &found));
    }
    for (name, expected) in &step.answer {
        let all: Vec<&str> =
            got.answer.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        let found = (!all.is_empty()).then(|| all.join(", "));
        let fits = match &found {
            None => expected.is_empty(),
            Some(found) => expected.contains(found),
        };
        if !fits {
            results.push(Err(format!("{name}: {found:?} instead of one of {expected:?}")));
        }
    }
    if let Some(location) = &step.location {
        results.push(check_location(location, got.answer.header("location"), step));
    }
    if let Some(name) = &step.certificate
        && !got.shown.contains(name)
    {
        results.push(Err(format!("the certificate is for {:?}", got.shown)));
    }
    results.into_iter().collect::<Result<(), String>>().map_err(|why| format!("{why}: {}", told()))
}

fn same<T: PartialEq + Debug>(what: &str, expected: &T, found: &T) -> Result<(), String> {
    if expected == found { Ok(()) } else { Err(format!("{what}: {found:?} instead of {expected:?}")) }
}

fn check_location(expected: &Location, found: Option<&str>, step: &Step) -> Result<(), String> {
    let found = found.ok_or("no location")?;
    let uri: http::Uri = found.parse().map_err(|_| format!("{found} is no location"))?;
    let Location { scheme, host, port, path } = expected;
    if scheme.is_some() {
        same("the scheme", &scheme.as_deref(), &uri.scheme_str())?;
    }
    if host.is_some() {
        same("the host", &host.as_deref(), &uri.host())?;
    }
    if let Some(port) = port {
        let of_scheme = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        same(
            "the port",
            &(*port).max(if *port == 0 { of_scheme } else { 0 }),
            &uri.port_u16().unwrap_or(of_scheme),
        )?;
    }
    // Of what is not said the request's path stays.
    let path = path.as_deref().unwrap_or(&step.path);
    same("the path", &path, &uri.path_and_query().map_or("", |path| path.as_str()))
}
