//! The connection to an agent of the SPIFFE Workload API. One that hangs says nothing, and neither does one that has nothing
//! new: HTTP/2 pings tell them apart.

use std::{
    io,
    path::PathBuf,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use hyper_util::rt::TokioIo;
use spiffe::{WorkloadApiClient, WorkloadApiError, X509Context, transport::Endpoint};
use tokio::{net::UnixStream, time::timeout};
use tonic::{codegen::Service, codegen::http::Uri, transport};

/// What the agent sends: at once, and whenever something has changed.
pub(super) type Contexts = BoxStream<'static, Result<X509Context, WorkloadApiError>>;

/// When an agent that says nothing is taken to be gone.
#[derive(Clone, Copy)]
pub(super) struct Keepalive {
    /// Between two pings.
    pub interval: Duration,
    /// For the answer to one.
    pub timeout: Duration,
}

impl Default for Keepalive {
    fn default() -> Keepalive {
        // Servers on grpc-go, and SPIRE's agent is one, close connections on which pings come more often than every five
        // minutes.
        Keepalive { interval: Duration::from_secs(330), timeout: Duration::from_secs(20) }
    }
}

/// Opens a stream of which the first item is there. All of it may take as long as `patience`.
///
/// # Errors
///
/// Why there is none, for the operator.
pub(super) async fn ask(
    endpoint: &str,
    patience: Duration,
    keepalive: Keepalive,
) -> Result<Contexts, String> {
    let path = PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
    let open = async {
        let channel = transport::Endpoint::from_static("http://localhost")
            .http2_keep_alive_interval(keepalive.interval)
            .keep_alive_timeout(keepalive.timeout)
            .connect_with_connector(Socket(path.clone()))
            .await
            .map_err(|error| innermost(&error))?;
        let client = WorkloadApiClient::new_with_channel(Endpoint::Unix(path), channel);
        let mut contexts = client.stream_x509_contexts().await.map_err(|error| error.to_string())?;
        let first = contexts.next().await.ok_or("it closed the connection")?;
        let first = first.map_err(|error| error.to_string())?;
        Ok(stream::iter([Ok(first)]).chain(contexts).boxed())
    };
    match timeout(patience, open).await {
        Ok(opened) => opened.map_err(|why: String| format!("the workload API at {endpoint}: {why}")),
        Err(_) => Err(format!("the workload API at {endpoint} does not answer")),
    }
}

/// Connects to a Unix socket, whatever the URI.
#[derive(Clone)]
struct Socket(PathBuf);

impl Service<Uri> for Socket {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<UnixStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.0.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }.boxed()
    }
}

/// The transport's own words are "transport error".
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string().split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use http::Response;
    use tokio::net::UnixListener;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    /// Takes the question, begins to answer, and then never looks at the connection again.
    async fn hang(listener: UnixListener) {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let _body = respond.send_response(response, false).unwrap();
        // What was said goes out as the connection is looked at once more.
        let _ = connection.accept().now_or_never();
        std::future::pending::<()>().await;
    }

    fn socket() -> (tempfile::TempDir, String, UnixListener) {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        (directory, format!("unix://{}", path.display()), listener)
    }

    #[tokio::test]
    async fn an_agent_that_hangs_is_found_out_by_pings() {
        let (_directory, endpoint, listener) = socket();
        let hanging = tokio::spawn(hang(listener));
        let keepalive =
            Keepalive { interval: Duration::from_millis(300), timeout: Duration::from_millis(300) };
        let asked = ask(&endpoint, DEADLINE, keepalive).await;
        let why = asked.err().expect("it sent nothing");
        assert!(!why.contains("does not answer"), "found out before the patience ended: {why}");
        hanging.abort();
    }

    #[tokio::test]
    async fn an_agent_that_sends_nothing_is_not_waited_for_longer_than_that() {
        let (_directory, endpoint, listener) = socket();
        let hanging = tokio::spawn(hang(listener));
        let asked = ask(&endpoint, Duration::from_millis(500), Keepalive::default()).await;
        let why = asked.err().expect("it sent nothing");
        assert!(why.ends_with("does not answer"), "{why}");
        hanging.abort();
    }

    #[tokio::test]
    async fn an_agent_that_is_away_is_named_with_what_is_wrong() {
        let asked = ask("unix:///nonexistent/agent.sock", DEADLINE, Keepalive::default()).await;
        let why = asked.err().expect("nobody is there");
        assert_eq!(why, "the workload API at unix:///nonexistent/agent.sock: no such file or directory");
    }
}
