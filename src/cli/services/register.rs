//! `tidegate services register NAME ADDRESS [-- CMD]`: for what has no sidecar and does not register itself.
//!
//! The command that it follows must not suffer from a registry that is away: it is started at once, runs whatever the
//! registry says, and its exit code is this one's. At the end, the instance is deregistered first and the command told
//! second, so that nobody calls it any more by then.

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    signal::unix::{Signal, SignalKind, signal},
    time::{sleep, timeout},
};

use super::{path_of, watch::PAUSE};
use crate::{
    app::Failure,
    cli::{client::Target, plane::ServerArgs, text::safe},
    upstream::Address,
};

/// Of the check, and of the goodbye.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct RegisterArgs {
    /// The service
    name: String,
    /// Where others reach the instance: `host:port`
    #[arg(value_parser = place)]
    address: Place,
    /// May be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// May be repeated
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Without a sign of life for so long it is gone [default: the control plane's, 30s]
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,
    #[arg(long)]
    weight: Option<u16>,
    /// The instance [default: NAME-HOST-PORT]
    #[arg(long)]
    id: Option<String>,
    /// Ask there, by GET, whether it is well: it is registered after the first good answer (200 to 299), and critical after a bad one
    #[arg(long, value_name = "URL", value_parser = url)]
    check: Option<Uri>,
    /// How long the command serves on after the instance is deregistered
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    linger: Duration,
    #[command(flatten)]
    server: ServerArgs,
    /// Run this, and deregister when it ends
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Clone, Debug)]
struct Place {
    host: String,
    port: u16,
}

pub(super) fn run(args: &RegisterArgs) -> Result<ExitCode, Failure> {
    let announcing = Announcing::new(args)?;
    crate::cli::asynchronous(async {
        let mut signals = Signals::new()?;
        let child = match args.command.split_first() {
            Some((program, arguments)) => {
                let child = Command::new(program).args(arguments).spawn();
                Some(
                    child
                        .map_err(|error| std::io::Error::other(format!("cannot start {program}: {error}")))?,
                )
            }
            None => None,
        };
        Ok(match child {
            Some(child) => Ok(follow(&announcing, child, args.linger, &mut signals).await),
            None => alone(&announcing, &mut signals).await,
        })
    })?
}

/// Until it is told to end, or the control plane will not have it.
async fn alone(announcing: &Announcing, signals: &mut Signals) -> Result<ExitCode, Failure> {
    let refused = tokio::select! {
        refused = announcing.run(Refusal::Ends) => Some(refused),
        () = signals.next() => None,
    };
    announcing.deregister().await;
    refused.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Until the command ends.
async fn follow(
    announcing: &Announcing,
    mut child: Child,
    linger: Duration,
    signals: &mut Signals,
) -> ExitCode {
    let ended = tokio::select! {
        ended = child.wait() => Some(ended),
        _ = announcing.run(Refusal::IsTold) => None,
        () = signals.next() => None,
    };
    announcing.deregister().await;
    let ended = match ended {
        Some(ended) => ended,
        None => {
            tokio::select! {
                () = sleep(linger) => {}
                _ = child.wait() => {}
                () = signals.next() => {}
            }
            tell(&child);
            tokio::select! {
                ended = child.wait() => ended,
                () = signals.next() => {
                    // Whoever asks three times does not want to wait.
                    let _ = child.start_kill();
                    child.wait().await
                }
            }
        }
    };
    ended.map_or(ExitCode::FAILURE, code)
}

/// SIGTERM, where it has not ended.
fn tell(child: &Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended this moment.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// As a shell says it.
fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What a refusal does.
#[derive(Clone, Copy, PartialEq)]
enum Refusal {
    /// Nothing else is there to do.
    Ends,
    /// The command runs on, and the control plane may come to another opinion.
    IsTold,
}

struct Announcing {
    target: Target,
    id: String,
    registration: Value,
    check: Option<Uri>,
    is_registered: AtomicBool,
}

impl Announcing {
    fn new(args: &RegisterArgs) -> Result<Announcing, Failure> {
        let Place { host, port } = &args.address;
        // As the control plane would make it: said here, so that it can be deregistered before its answer has come.
        let id = args.id.clone().unwrap_or_else(|| format!("{}-{host}-{port}", args.name));
        let metadata: BTreeMap<_, _> = args.metadata.iter().cloned().collect();
        let mut registration = json!({
            "name": args.name, "host": host, "port": port, "id": id, "tags": args.tags, "metadata": metadata,
        });
        if let Some(ttl) = &args.ttl {
            registration["ttl"] = json!(ttl);
        }
        if let Some(weight) = args.weight {
            registration["weight"] = json!(weight);
        }
        let (target, check) = (args.server.target()?, args.check.clone());
        Ok(Announcing { target, id, registration, check, is_registered: AtomicBool::new(false) })
    }

    /// Registers and renews. Ends only where it is refused and that ends it.
    async fn run(&self, refusal: Refusal) -> Failure {
        let (mut failures, mut told, mut rng) = (0, String::new(), fastrand::Rng::new());
        loop {
            let pause = match self.beat().await {
                Ok(Some(every)) => {
                    failures = 0;
                    told.clear();
                    every.mul_f64(0.9 + 0.2 * rng.f64())
                }
                // Its check has yet to succeed.
                Ok(None) => Duration::from_secs(1),
                Err((Told::Refused, why)) if refusal == Refusal::Ends => return why,
                Err((_, why)) => {
                    let why = why.to_string();
                    // Once for each that is different from the one before.
                    if told != why {
                        eprintln!("{}: {why}; trying again", safe(&self.id));
                        told = why;
                    }
                    failures += 1;
                    PAUSE.delay(failures, &mut rng).max(Duration::from_millis(100))
                }
            };
            sleep(pause).await;
        }
    }

    /// When the next is due; `None` where it is not registered, as its check fails.
    async fn beat(&self) -> Result<Option<Duration>, (Told, Failure)> {
        let health = match &self.check {
            Some(url) => is_well(url).await,
            None => true,
        };
        let health_word = if health { "healthy" } else { "critical" };
        if self.is_registered.load(Relaxed) {
            let path = format!("{}/heartbeat", path_of(&self.id));
            let body = match self.check {
                Some(_) => json!({"health": health_word}).to_string(),
                None => String::new(),
            };
            let answer = self.ask(Method::PUT, &path, body).await?;
            match answer.status {
                StatusCode::OK => return Ok(Some(every(&answer.json().map_err(unclear)?))),
                // It was away for too long, or the control plane has lost it.
                StatusCode::NOT_FOUND => self.is_registered.store(false, Relaxed),
                status => return Err((told(status), answer.failure())),
            }
        }
        if !health {
            return Ok(None);
        }
        let answer = self.ask(Method::POST, "/v1/services", self.registration.to_string()).await?;
        if !matches!(answer.status, StatusCode::OK | StatusCode::CREATED) {
            return Err((told(answer.status), answer.failure()));
        }
        let every = every(&answer.json().map_err(unclear)?);
        self.is_registered.store(true, Relaxed);
        eprintln!("registered {}, renewed every {}", safe(&self.id), humantime::format_duration(every));
        Ok(Some(every))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<crate::cli::client::Answer, (Told, Failure)> {
        self.target.ask(method, path, body).await.map_err(|error| (Told::Unreachable, error.into()))
    }

    /// At the end, so what goes wrong is only told.
    async fn deregister(&self) {
        let path = path_of(&self.id);
        let answer = timeout(PATIENCE, self.target.ask(Method::DELETE, &path, "")).await;
        match answer {
            Ok(Ok(answer)) if answer.status == StatusCode::NO_CONTENT => {
                if self.is_registered.load(Relaxed) {
                    eprintln!("deregistered {}", safe(&self.id));
                }
            }
            Ok(Ok(answer)) => eprintln!("{}", answer.failure()),
            Ok(Err(error)) => eprintln!("not deregistered: {error}"),
            Err(_) => eprintln!("not deregistered: the control plane does not answer"),
        }
    }
}

/// What kind of failure it was.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    Unreachable,
    Refused,
}

fn told(status: StatusCode) -> Told {
    // Too many may be fewer in a while.
    let is_for_good = status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS;
    if is_for_good { Told::Refused } else { Told::Unreachable }
}

fn unclear(failure: Failure) -> (Told, Failure) {
    (Told::Refused, failure)
}

fn every(answer: &Value) -> Duration {
    let every = answer["heartbeat_every"].as_str().and_then(|every| humantime::parse_duration(every).ok());
    every.unwrap_or(Duration::from_secs(10)).max(Duration::from_millis(100))
}

async fn is_well(url: &Uri) -> bool {
    let asking = async {
        let authority = url.authority()?;
        let stream = TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80))).await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path).header(header::HOST, authority.as_str());
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).ok()?).await.ok()?;
        Some(answer.status().is_success())
    };
    timeout(PATIENCE, asking).await.ok().flatten().unwrap_or(false)
}

fn place(text: &str) -> Result<Place, String> {
    match text.parse::<Address>().map_err(|bad| bad.to_string())? {
        Address::Ip(ip) => Ok(Place { host: ip.ip().to_string(), port: ip.port() }),
        Address::Host { host, port } => Ok(Place { host, port }),
        Address::Unix(_) => Err("others cannot reach a Unix socket (give host:port)".to_owned()),
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or_else(|| "write key=value".to_owned())
}

fn url(text: &str) -> Result<Uri, String> {
    let url: Uri = text.parse().map_err(|_| "is not a URL (try http://127.0.0.1:8080/health)".to_owned())?;
    let is_plain = url.scheme_str() == Some("http") && url.authority().is_some();
    if is_plain { Ok(url) } else { Err("write it as http://HOST:PORT/PATH".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_cannot_work_are_refused_where_they_were_typed() {
        assert!(place("127.0.0.1:80").is_ok() && place("Users:80").is_ok_and(|place| place.host == "users"));
        assert!(place("users").is_err() && place("unix:/run/a.sock").is_err());
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(pair("a").is_err() && pair("=b").is_err());
        assert!(url("http://127.0.0.1:80/health").is_ok());
        assert!(url("https://a/").is_err() && url("/health").is_err());
    }

    #[test]
    fn an_exit_code_is_passed_on() {
        for (raw, expected) in [(0, 0), (3 << 8, 3), (15, 143)] {
            let expected = ExitCode::from(expected);
            assert_eq!(format!("{:?}", code(ExitStatus::from_raw(raw))), format!("{expected:?}"));
        }
    }
}
