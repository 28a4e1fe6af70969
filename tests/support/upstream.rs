//! An upstream that plays a script, byte by byte: half an answer, a reset, two answers to one request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::within_deadline;

/// One step of a connection's script. A connection is closed after its last step.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Reads up to and including the empty line after a request's head, and records the head.
    ReadHead,
    /// Reads this many bytes more.
    ReadBody(usize),
    /// Reads until the gateway closes.
    ReadToEnd,
    Write(Vec<u8>),
    /// Writes these bytes again and again, with pauses, until the gateway closes.
    Dribble(Vec<u8>),
    /// Sits there, reading nothing, until the upstream is dropped.
    Stall,
    /// The same until [`ScriptedUpstream::release`].
    Hold,
    Close,
    /// Closes with a TCP reset.
    Reset,
    /// Starts over with the first step: an upstream that keeps connections alive.
    Again,
}

impl Step {
    /// Writes a response with these bytes as the body and `content-length` set.
    pub(crate) fn respond(body: &str) -> Self {
        Self::write(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
    }

    pub(crate) fn write(bytes: impl AsRef<[u8]>) -> Self {
        Self::Write(bytes.as_ref().to_vec())
    }
}

/// Accepts connections on a port of its own and plays the script on each; dropping it ends them all.
pub(crate) struct ScriptedUpstream {
    address: SocketAddr,
    record: watch::Receiver<Record>,
    released: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Record {
    /// Everything read, by connection in order of acceptance.
    connections: Vec<Vec<u8>>,
    heads: Vec<String>,
}

impl ScriptedUpstream {
    /// Plays the same steps on every connection.
    pub(crate) async fn start(steps: Vec<Step>) -> Self {
        Self::with(move |_| steps.clone()).await
    }

    /// Plays on each connection what `script` gives for its number; the first is 0.
    pub(crate) async fn with(script: impl Fn(usize) -> Vec<Step> + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, record) = watch::channel(Record::default());
        let sender = Arc::new(sender);
        let released = watch::Sender::new(false);
        let gate = released.subscribe();
        let accepting = tokio::spawn(async move {
            // Aborted with this task when the upstream is dropped.
            let mut playing = tokio::task::JoinSet::new();
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                sender.send_modify(|record| record.connections.push(Vec::new()));
                let (record, released) = (Arc::clone(&sender), gate.clone());
                let play = Play { number, stream, buffer: Vec::new(), record, released };
                playing.spawn(play.run(script(number)));
            }
        });
        Self { address, record, released, accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections have been accepted.
    pub(crate) fn connections(&self) -> usize {
        self.record.borrow().connections.len()
    }

    /// Every request head read, in order, with its line ends and the empty line.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.record.borrow().heads.clone()
    }

    /// Everything received on one connection, whether a step asked for it or it came along.
    #[track_caller]
    pub(crate) fn received(&self, connection: usize) -> Vec<u8> {
        self.record.borrow().connections[connection].clone()
    }

    /// Whoever holds, and is to hold later, goes on.
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }

    pub(crate) async fn wait_for_connections(&self, count: usize) {
        self.wait_for("connections", |record| record.connections.len() >= count).await;
    }

    pub(crate) async fn wait_for_heads(&self, count: usize) {
        self.wait_for("request heads", |record| record.heads.len() >= count).await;
    }

    async fn wait_for(&self, what: &str, reached: impl FnMut(&Record) -> bool) {
        let mut record = self.record.clone();
        within_deadline(what, record.wait_for(reached))
            .await
            .expect("the upstream plays as long as it lives");
    }
}

impl Drop for ScriptedUpstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

struct Play {
    number: usize,
    stream: TcpStream,
    /// Read but not yet asked for by a step.
    buffer: Vec<u8>,
    record: Arc<watch::Sender<Record>>,
    released: watch::Receiver<bool>,
}

impl Play {
    async fn run(mut self, steps: Vec<Step>) {
        let mut next = 0;
        while let Some(step) = steps.get(next) {
            next += 1;
            let goes_on = match step {
                Step::ReadHead => self.read_head().await,
                Step::ReadBody(length) => self.read_body(*length).await,
                Step::ReadToEnd => {
                    while self.receive().await {}
                    true
                }
                Step::Write(bytes) => self.stream.write_all(bytes).await.is_ok(),
                Step::Dribble(bytes) => self.dribble(bytes).await,
                Step::Stall => std::future::pending().await,
                Step::Hold => self.released.wait_for(|released| *released).await.is_ok(),
                Step::Close => false,
                Step::Reset => {
                    self.stream.set_zero_linger().unwrap();
                    false
                }
                Step::Again => {
                    next = 0;
                    true
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    async fn read_head(&mut self) -> bool {
        loop {
            if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..at + 4).collect();
                let head = String::from_utf8_lossy(&head).into_owned();
                self.record.send_modify(|record| record.heads.push(head));
                return true;
            }
            if !self.receive().await {
                return false;
            }
        }
    }

    async fn read_body(&mut self, length: usize) -> bool {
        while self.buffer.len() < length {
            if !self.receive().await {
                return false;
            }
        }
        self.buffer.drain(..length);
        true
    }

    /// Ends when the gateway has closed.
    async fn dribble(&mut self, bytes: &[u8]) -> bool {
        /// Often enough that no pause is a timeout, and not so often that the header gets too large meanwhile.
        const PAUSE: Duration = Duration::from_millis(30);
        while self.stream.write_all(bytes).await.is_ok() {
            if tokio::time::timeout(PAUSE, self.receive()).await.is_ok_and(|goes_on| !goes_on) {
                break;
            }
        }
        false
    }

    /// False when the gateway has closed.
    async fn receive(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk).await {
            Ok(received) if received > 0 => {
                self.buffer.extend_from_slice(&chunk[..received]);
                let (number, bytes) = (self.number, &chunk[..received]);
                self.record.send_modify(|record| record.connections[number].extend_from_slice(bytes));
                true
            }
            _ => false,
        }
    }
}

mod tests {
    use super::*;
    use crate::support::{RawConnection, raw};

    #[tokio::test(flavor = "multi_thread")]
    async fn plays_each_connection_its_script_and_records_all_it_received() {
        let upstream = ScriptedUpstream::with(|number| match number {
            0 => vec![Step::ReadHead, Step::ReadBody(5), Step::respond("hi"), Step::Again],
            1 => vec![Step::ReadHead, Step::Reset],
            _ => vec![Step::ReadHead, Step::Stall],
        })
        .await;
        let mut kept = RawConnection::open(upstream.address());
        for _ in 0..2 {
            kept.write("POST /kept HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello");
            assert_eq!(kept.read_response().text(), "hi");
        }
        assert!(raw(upstream.address(), "GET /reset HTTP/1.1\r\n\r\n").is_empty());
        let mut stalled = RawConnection::open(upstream.address());
        stalled.write("GET /stalled HTTP/1.1\r\n\r\nSMUGGLED");
        upstream.wait_for_heads(4).await;
        assert_eq!(upstream.connections(), 3);
        assert_eq!(upstream.heads()[3], "GET /stalled HTTP/1.1\r\n\r\n");
        assert!(upstream.received(2).starts_with(b"GET /stalled"));
        drop(upstream);
        assert!(stalled.is_closed());
    }
}
