//! rotel, a collector of other people's (PyPI), in front of a receiver on grpcio that tells what it was sent: what we export has
//! to be understood by both.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    process::Command,
};

use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{
    Process,
    collector::Taken,
    python::{PythonServer, of_package},
    within_deadline,
};

pub(crate) struct Rotel {
    process: Process,
    receiver: PythonServer,
    /// Where it takes OTLP over gRPC, and over HTTP.
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    _home: TempDir,
}

/// As otlp_receiver.py tells a span.
#[derive(Deserialize)]
struct Told {
    trace: String,
    id: String,
    parent: String,
    state: String,
    kind: i32,
    name: String,
    error: bool,
    start: u64,
    end: u64,
    attributes: BTreeMap<String, String>,
    service: String,
    scope: String,
}

impl Rotel {
    pub(crate) async fn start() -> Rotel {
        let receiver = PythonServer::start("otlp_receiver.py", &[]).await;
        let home = TempDir::new().unwrap();
        // It takes no port of the system's choice, so somebody else may have had ours.
        for _ in 0..20 {
            let (grpc, http) = (free(), free());
            let process = Process::spawn(command(&home, grpc, http, receiver.address()));
            if listens(&process, grpc).await && listens(&process, http).await {
                return Rotel { process, receiver, grpc, http, _home: home };
            }
        }
        panic!("rotel does not start");
    }

    /// All spans that have passed it, once `enough` says so.
    pub(crate) async fn spans(&self, what: &str, enough: impl Fn(&[Taken]) -> bool) -> Vec<Taken> {
        let so_far = || -> Vec<Taken> {
            let output = self.receiver.process.output();
            // The first line is the port.
            output.lines().skip(1).map(|line| serde_json::from_str::<Told>(line).unwrap().into()).collect()
        };
        let waited = async {
            loop {
                let spans = so_far();
                if enough(&spans) {
                    return spans;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(super::DEADLINE, waited).await {
            Ok(spans) => spans,
            Err(_) => panic!("{what}: not in\n{:#?}\n{}", so_far(), self.process.output()),
        }
    }
}

fn free() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}

fn command(home: &TempDir, grpc: SocketAddr, http: SocketAddr, to: SocketAddr) -> Command {
    let mut command = Command::new(of_package("rotel/rotel-agent"));
    command.arg("start").current_dir(home.path());
    for (option, value) in [
        ("--otlp-grpc-endpoint", grpc.to_string()),
        ("--otlp-http-endpoint", http.to_string()),
        ("--exporter", "otlp".into()),
        ("--otlp-exporter-protocol", "grpc".into()),
        ("--otlp-exporter-endpoint", format!("http://{to}")),
        ("--otlp-exporter-retry-initial-backoff", "50ms".into()),
        ("--batch-timeout", "50ms".into()),
        ("--pid-file", "pid".into()),
        ("--log-file", "log".into()),
    ] {
        command.arg(option).arg(value);
    }
    command
}

/// Whether it does before it ends.
async fn listens(process: &Process, address: SocketAddr) -> bool {
    within_deadline("a port of rotel's", async {
        loop {
            if TcpStream::connect(address).await.is_ok() {
                return !process.has_ended();
            }
            if process.has_ended() {
                return false;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
}

impl From<Told> for Taken {
    fn from(told: Told) -> Taken {
        let span = Span {
            trace_id: bytes(&told.trace),
            span_id: bytes(&told.id),
            parent_span_id: bytes(&told.parent),
            trace_state: told.state,
            kind: told.kind,
            name: told.name,
            start_time_unix_nano: told.start,
            end_time_unix_nano: told.end,
            status: told.error.then(|| Status { code: 2, ..Status::default() }),
            ..Span::default()
        };
        let resource = BTreeMap::from([("service.name".to_owned(), told.service)]);
        Taken { span, attributes: told.attributes, resource, scope: told.scope }
    }
}

fn bytes(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
