//! `tidegate status`, `reload` and `drain`: one request to a running gateway's admin API.

use std::{
    io,
    net::IpAddr,
    path::{Path as FilePath, PathBuf},
    process::ExitCode,
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use http::{HeaderValue, Method, Request, StatusCode, header, uri::Authority};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::{
    admin_tls::{Secure, Trust},
    failure,
    text::{count, safe},
};
use crate::{
    app::{Failure, Source},
    config::{Admin, Path, Problem, Problems, Secret},
};

const DEFAULT: &str = "127.0.0.1:9901";
const TOKEN: &str = "TIDEGATE_ADMIN_TOKEN";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A reload of a large configuration takes a while.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const LARGEST_ANSWER: usize = 16 * 1024 * 1024;

#[derive(Debug, Args)]
pub(crate) struct ControlArgs {
    /// Where its admin API listens; https://HOST:PORT where that speaks TLS [default: 127.0.0.1:9901]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    admin: Option<Place>,
    /// Take the address and the token from this configuration, and the certificate that the API has to show
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Its token; better in the environment variable TIDEGATE_ADMIN_TOKEN, where other users do not see it
    #[arg(long, value_parser = |token: &str| Ok::<_, std::convert::Infallible>(Secret::new(token)))]
    token: Option<Secret>,
    /// Speak TLS, and trust certificates by the authorities in this file (PEM)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Speak TLS, and show this certificate (PEM), where `admin.tls.client_ca` asks for one
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key (PEM, without a passphrase)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

/// An address as it was typed.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    at: Authority,
    scheme: Option<Scheme>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Scheme {
    Http,
    Https,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    control: ControlArgs,
    /// Print the answer as it came, for programs
    #[arg(long)]
    json: bool,
}

/// Exit code 1 unless the gateway is ready.
pub(crate) fn status(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let answer = ask(&args.control, Method::GET, "/stats")?;
    let stats = answer.expect(StatusCode::OK)?;
    super::print(&if args.json { answer.text.clone() } else { safe(&summary(&stats)) })?;
    Ok(if stats["phase"] == "ready" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// # Errors
///
/// The problems of a configuration that the gateway rejects are this command's.
pub(crate) fn reload(args: &ControlArgs) -> Result<(), Failure> {
    let answer = ask(args, Method::POST, "/reload")?;
    if answer.status == StatusCode::UNPROCESSABLE_ENTITY {
        let result = answer.json()?;
        let problems = result["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
        return Err(problems.map(|problem| Problem::new(safe(problem))).collect::<Problems>().into());
    }
    let result = answer.expect(StatusCode::OK)?;
    let changes = result["changes"].as_str().map(|changes| format!(": {changes}")).unwrap_or_default();
    let word = result["result"].as_str().unwrap_or_default();
    Ok(super::print(&format!("{}\n", safe(&format!("{word}{changes}"))))?)
}

pub(crate) fn drain(args: &ControlArgs) -> Result<(), Failure> {
    ask(args, Method::POST, "/drain")?.expect(StatusCode::ACCEPTED)?;
    Ok(super::print("draining: the gateway ends when what is in flight is done\n")?)
}

pub(super) struct Answer {
    from: Authority,
    pub status: StatusCode,
    pub text: String,
}

impl Answer {
    pub(crate) fn expect(&self, status: StatusCode) -> Result<Value, Failure> {
        if self.status == status {
            return self.json();
        }
        let said = safe(self.text.trim_end());
        let hint = match self.status {
            StatusCode::UNAUTHORIZED => format!(" (give it with -c FILE, {TOKEN} or --token)"),
            StatusCode::FORBIDDEN if said.contains("client_ca") => {
                " (give it with --cert and --key)".to_owned()
            }
            _ => String::new(),
        };
        Err(failure(format!("the gateway at {} answers {}: {said}{hint}", self.from, self.status.as_u16())))
    }

    pub(crate) fn json(&self) -> Result<Value, Failure> {
        serde_json::from_str(&self.text).map_err(|_| {
            failure(format!("what answers at {} is not tidegate's admin API (give --admin or -c)", self.from))
        })
    }
}

pub(super) fn ask(args: &ControlArgs, method: Method, path: &str) -> Result<Answer, Failure> {
    let Target { at, token, secure } = target(args)?;
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, at.as_str());
    if let Some(token) = token {
        let credentials = HeaderValue::try_from(format!("Bearer {}", token.expose()));
        let mut credentials =
            credentials.map_err(|_| failure("the token holds characters that no header can"))?;
        credentials.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, credentials);
    }
    let request = request.body(Empty::new()).map_err(|error| failure(error.to_string()))?;
    super::asynchronous(async {
        let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(at.as_str())).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(&at, &error.to_string())),
            Err(_) => return Err(unreachable(&at, "no answer")),
        };
        let answer = timeout(ANSWER_TIMEOUT, async {
            match secure {
                Some(secure) => exchange(secure.connect(stream, at.host()).await?, request).await,
                None => exchange(stream, request).await,
            }
        })
        .await;
        let answer = answer.map_err(|_| "no answer".to_owned()).flatten();
        let (status, text) = answer.map_err(|why| unreachable(&at, &why))?;
        Ok(Answer { from: at, status, text })
    })
}

fn unreachable(at: &Authority, why: &str) -> io::Error {
    // The kernel's words come with a number that says nothing to a reader.
    let why = why.split(" (os error").next().unwrap_or_default().to_lowercase();
    let hint = if why.ends_with(')') { "" } else { " (is it running? give --admin or -c)" };
    io::Error::other(format!("cannot reach the gateway at {at}: {}{hint}", safe(&why)))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<(StatusCode, String), String> {
    let words = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(words)?;
    // Its errors also reach the request they concern.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(words)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Whom to ask, and how.
struct Target {
    at: Authority,
    token: Option<Secret>,
    secure: Option<Secure>,
}

/// What was typed goes before the environment, and that before the file.
fn target(args: &ControlArgs) -> Result<Target, Failure> {
    let mut at = Authority::from_static(DEFAULT);
    let (mut token, mut shown) = (None, None);
    if let Some(file) = &args.config {
        let loaded = Source::File(file.clone()).load()?;
        match &loaded.config().map_err(Problems::clone)?.admin {
            Admin::On(admin) => {
                let cert = Path::root().key("admin").key("tls").key("cert");
                shown = admin.tls.as_ref().map(|tls| loaded.sources.full_path(&cert, &tls.cert));
                at =
                    reachable(&admin.address).map_err(|why| failure(format!("{}: {why}", file.display())))?;
                token = admin.token.clone();
            }
            Admin::Off(_) => {
                let hint = "signal the process instead: SIGHUP reloads, SIGTERM drains";
                return Err(failure(format!(
                    "{}: `admin: false` turns the API off ({hint})",
                    file.display()
                )));
            }
        }
    }
    let environment = std::env::var(TOKEN).ok().filter(|token| !token.is_empty()).map(Secret::new);
    let token = args.token.clone().or(environment).or(token);
    let secure = secure(args, shown.as_deref()).map_err(failure)?;
    Ok(Target { at: args.admin.as_ref().map_or(at, |place| place.at.clone()), token, secure })
}

/// `None` where plain text is spoken. `shown` is the certificate that the configuration names.
fn secure(args: &ControlArgs, shown: Option<&FilePath>) -> Result<Option<Secure>, String> {
    let scheme = args.admin.as_ref().and_then(|place| place.scheme);
    let own = args.cert.as_deref().zip(args.key.as_deref());
    let trust = match (&args.ca, shown) {
        (Some(file), _) => Trust::Authorities(file),
        (None, Some(file)) => Trust::Pinned(file),
        (None, None) if own.is_some() || scheme == Some(Scheme::Https) => Trust::System,
        (None, None) => return Ok(None),
    };
    if scheme == Some(Scheme::Http) {
        return Err("plain http is asked for, and TLS (give --admin https://...)".to_owned());
    }
    Secure::new(&trust, own).map(Some)
}

/// Where to connect to reach what listens on `address`: "every address" is no place to go to.
fn reachable(address: &str) -> Result<Authority, String> {
    let (host, port) = address.rsplit_once(':').ok_or_else(|| format!("{address:?} has no port"))?;
    if port == "0" {
        return Err(
            "the admin address has port 0, so only the gateway's log tells which (give --admin)".into()
        );
    }
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let host = match ip {
        Ok(ip) if ip.is_unspecified() && ip.is_ipv6() => "[::1]",
        Ok(ip) if ip.is_unspecified() => "127.0.0.1",
        Err(_) if host.is_empty() => "127.0.0.1",
        _ => host,
    };
    format!("{host}:{port}").parse().map_err(|_| format!("{address:?} is not an address"))
}

fn address(text: &str) -> Result<Place, String> {
    let (scheme, bare) = match text.split_once("://") {
        Some(("http", rest)) => (Some(Scheme::Http), rest),
        Some(("https", rest)) => (Some(Scheme::Https), rest),
        _ => (None, text),
    };
    let bare = bare.trim_end_matches('/');
    let at = reachable(bare)?;
    match at.port_u16() {
        Some(_) if !bare.contains('@') => Ok(Place { at, scheme }),
        _ => Err("not an address (try 127.0.0.1:9901)".to_owned()),
    }
}

fn summary(stats: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let uptime = humantime::format_duration(Duration::from_secs(number(&stats["uptime_seconds"])));
    let mut lines = vec![format!(
        "{}  tidegate {}, up {uptime}, {}, configuration {}",
        text(&stats["phase"]),
        text(&stats["version"]),
        count(number(&stats["routes"]) as usize, "route"),
        text(&stats["config_hash"]),
    )];
    lines.extend(list(&stats["listeners"]).iter().map(|listener| {
        let (name, address) = (text(&listener["name"]), text(&listener["address"]));
        let connections = count(number(&listener["connections"]) as usize, "connection");
        let requests = count(number(&listener["requests_in_flight"]) as usize, "request");
        format!("listener {name}  {address}  {connections}, {requests} in flight")
    }));
    lines.extend(list(&stats["upstreams"]).iter().map(|upstream| {
        let ready = if upstream["ready"] == true { "ready" } else { "not ready" };
        let (usable, all) =
            (number(&upstream["usable"]), count(number(&upstream["endpoints"]) as usize, "endpoint"));
        format!("upstream {}  {ready}  {usable} of {all} usable", text(&upstream["name"]))
    }));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_made_one_that_can_be_reached() {
        for (given, expected) in [
            ("127.0.0.1:9901", "127.0.0.1:9901"),
            ("http://gateway.internal:9901/", "gateway.internal:9901"),
            (":9901", "127.0.0.1:9901"),
            ("0.0.0.0:9901", "127.0.0.1:9901"),
            ("[::]:9901", "[::1]:9901"),
            ("[2001:db8::1]:9901", "[2001:db8::1]:9901"),
        ] {
            assert_eq!(address(given).map(|place| place.at.to_string()).as_deref(), Ok(expected), "{given}");
        }
        for bad in ["gateway", "127.0.0.1:0", "127.0.0.1:http", "user@127.0.0.1:9901", "127.0.0.1:"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_summary_says_what_is_not_ready() {
        let stats = serde_json::json!({
            "phase": "ready", "version": "1.0.0", "uptime_seconds": 61, "routes": 1, "config_hash": "abc",
            "listeners": [{"name": "edge", "address": ":80", "connections": 2, "requests_in_flight": 1}],
            "upstreams": [{"name": "users", "ready": false, "usable": 0, "endpoints": 2}],
        });
        let expected = "ready  tidegate 1.0.0, up 1m 1s, 1 route, configuration abc\n\
            listener edge  :80  2 connections, 1 request in flight\n\
            upstream users  not ready  0 of 2 endpoints usable\n";
        assert_eq!(summary(&stats), expected);
    }
}
