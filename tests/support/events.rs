//! A client of server-sent events.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::{connect, within_deadline};

/// One that is open, or an answer that is none.
pub(crate) struct EventStream {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    text: String,
    _sender: http1::SendRequest<Full<Bytes>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StreamEvent {
    pub(crate) kind: String,
    pub(crate) id: Option<String>,
    pub(crate) data: Value,
}

impl EventStream {
    pub(crate) async fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> EventStream {
        let opened = async {
            let stream = connect(address).await.unwrap();
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let mut request = Request::get(path);
            if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
                request = request.header("host", address.to_string());
            }
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let answer = sender.send_request(request.body(Full::default()).unwrap()).await.unwrap();
            let (head, body) = answer.into_parts();
            EventStream {
                status: head.status,
                headers: head.headers,
                body,
                text: String::new(),
                _sender: sender,
            }
        };
        within_deadline(path, opened).await
    }

    /// The next event; `None` where the stream has ended, however it did.
    pub(crate) async fn next(&mut self) -> Option<StreamEvent> {
        within_deadline("an event", self.read()).await
    }

    /// The next of this kind, past all others.
    pub(crate) async fn next_of(&mut self, kind: &str) -> StreamEvent {
        let waiting = async {
            loop {
                let event = self.read().await.unwrap_or_else(|| panic!("the stream ended before `{kind}`"));
                if event.kind == kind {
                    return event;
                }
            }
        };
        within_deadline(&format!("the event `{kind}`"), waiting).await
    }

    async fn read(&mut self) -> Option<StreamEvent> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                match event(&block) {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.text.push_str(std::str::from_utf8(&data).unwrap());
            }
        }
    }
}

/// `None` for a sign of life.
fn event(block: &str) -> Option<StreamEvent> {
    let field = |name: &str| {
        let found = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.map(str::to_owned)
    };
    let data = field("data").map(|data| serde_json::from_str(&data).unwrap()).unwrap_or_default();
    Some(StreamEvent { kind: field("event")?, id: field("id"), data })
}
