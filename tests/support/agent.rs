//! A SPIFFE agent: the one method of the Workload API that serves X509-SVIDs, over a Unix socket, as gRPC by hand.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use h2::server;
use http::{HeaderMap, HeaderValue, Response};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::certificates::Issued;

/// An `X509SVIDResponse`.
#[derive(Clone)]
pub(crate) struct Update(Vec<u8>);

impl Update {
    pub(crate) fn new(id: &str, issued: &Issued, authority: &Issued) -> Update {
        let der = |issued: &Issued| issued.certificate.to_der().unwrap();
        let mut svid = Vec::new();
        field(&mut svid, 1, id.as_bytes());
        field(&mut svid, 2, &der(issued));
        field(&mut svid, 3, &issued.key.private_key_to_pkcs8().unwrap());
        field(&mut svid, 4, &der(authority));
        let mut message = Vec::new();
        field(&mut message, 1, &svid);
        Update(message)
    }

    pub(crate) fn federated(mut self, trust_domain: &str, authority: &Issued) -> Update {
        let mut entry = Vec::new();
        field(&mut entry, 1, format!("spiffe://{trust_domain}").as_bytes());
        field(&mut entry, 2, &authority.certificate.to_der().unwrap());
        field(&mut self.0, 3, &entry);
        self
    }

    /// A gRPC message: not compressed, its length, itself.
    fn frame(&self) -> Bytes {
        let length = u32::try_from(self.0.len()).unwrap().to_be_bytes();
        [&[0][..], &length, &self.0].concat().into()
    }
}

/// A length-delimited protobuf field.
fn field(out: &mut Vec<u8>, number: u8, value: &[u8]) {
    out.push(number << 3 | 2);
    let mut length = value.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(value);
}

pub(crate) struct Agent {
    socket: PathBuf,
    updates: watch::Sender<Vec<Update>>,
    task: JoinHandle<()>,
}

impl Agent {
    /// Sends `first` to everybody who asks, and then what is sent.
    pub(crate) fn start(socket: &Path, first: Update) -> Agent {
        let listener = UnixListener::bind(socket).unwrap();
        let (updates, receiver) = watch::channel(vec![first]);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, receiver.clone()));
            }
        });
        Agent { socket: socket.to_owned(), updates, task }
    }

    pub(crate) fn send(&self, update: Update) {
        self.updates.send_modify(|all| all.push(update));
    }

    /// Gone with all its connections, as after SIGKILL.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
        std::fs::remove_file(self.socket).unwrap();
    }
}

async fn serve(stream: UnixStream, updates: watch::Receiver<Vec<Update>>) {
    let Ok(mut connection) = server::handshake(stream).await else { return };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let is_known = request.uri().path() == "/SpiffeWorkloadAPI/FetchX509SVID"
            // The specification asks for it, so that no server is talked into it by somebody else's client.
            && request.headers().get("workload.spiffe.io").is_some_and(|value| value == "true");
        let mut updates = updates.clone();
        streams.spawn(async move {
            let response = Response::builder().header("content-type", "application/grpc");
            let Ok(mut body) = respond.send_response(response.body(()).unwrap(), false) else { return };
            if !is_known {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("12"));
                let _ = body.send_trailers(trailers);
                return;
            }
            let mut sent = 0;
            loop {
                let new = updates.borrow_and_update()[sent..].to_vec();
                sent += new.len();
                for update in new {
                    if body.send_data(update.frame(), false).is_err() {
                        return;
                    }
                }
                if updates.changed().await.is_err() {
                    return;
                }
            }
        });
    }
}
