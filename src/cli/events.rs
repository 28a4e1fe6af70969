//! Server-sent events of a running gateway, as they come; whoever follows them comes back when the gateway is another one.

use std::{collections::VecDeque, io, time::Duration};

use http::{HeaderName, Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{client::Target, failure, text::safe};
use crate::app::Failure;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// A sign of life comes every 15 s.
const SILENCE: Duration = Duration::from_secs(45);
/// Between two tries to come back.
const PAUSE: Duration = Duration::from_secs(1);
/// Longer than any event is.
const LARGEST: usize = 16 * 1024 * 1024;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Event {
    pub(super) kind: String,
    pub(super) id: Option<String>,
    pub(super) data: String,
}

/// What has come of a stream and is not an event yet.
#[derive(Default)]
pub(super) struct Reader {
    text: Vec<u8>,
    ready: VecDeque<Event>,
}

/// Follows `path` until `take` says that it is enough. The first try has to succeed.
///
/// # Errors
///
/// Nobody answers there, or the answer is a refusal.
pub(super) async fn follow(
    target: &Target,
    path: &str,
    mut take: impl FnMut(Event) -> io::Result<bool>,
) -> Result<(), Failure> {
    let (mut last, mut was_there) = (None, false);
    loop {
        match open(target, path, last.as_deref()).await {
            Ok(body) => {
                was_there = true;
                if read(body, &mut last, &mut take).await? {
                    return Ok(());
                }
                eprintln!("the stream has ended, coming back");
            }
            // A gateway that starts anew is away for a moment.
            Err(Refusal::Away(error)) if was_there => eprintln!("{}", safe(&error.to_string())),
            Err(Refusal::Away(error)) => return Err(error.into()),
            Err(Refusal::Said(failure)) => return Err(failure),
        }
        sleep(PAUSE).await;
    }
}

enum Refusal {
    Away(io::Error),
    Said(Failure),
}

async fn open(target: &Target, path: &str, last: Option<&str>) -> Result<Incoming, Refusal> {
    let mut request = target.request(Method::GET, path, "").map_err(Refusal::Away)?;
    if let Some(last) = last.and_then(|last| last.parse().ok()) {
        request.headers_mut().insert(LAST_EVENT_ID, last);
    }
    let answer = target.open(request).await.map_err(Refusal::Away)?;
    let status = answer.status();
    if status == StatusCode::OK {
        return Ok(answer.into_body());
    }
    let body = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let why = problem["detail"].as_str().unwrap_or("it does not say why");
    Err(Refusal::Said(failure(safe(&format!(
        "the gateway at {} answers {}: {why}",
        target.at,
        status.as_u16()
    )))))
}

/// True where it is enough.
async fn read(
    mut body: Incoming,
    last: &mut Option<String>,
    take: &mut impl FnMut(Event) -> io::Result<bool>,
) -> Result<bool, Failure> {
    let mut reader = Reader::default();
    loop {
        let frame = match timeout(SILENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            // It has broken off, or ended, or nothing comes any more.
            Ok(Some(Err(_)) | None) | Err(_) => return Ok(false),
        };
        let Ok(data) = frame.into_data() else { continue };
        if !reader.push(&data) {
            return Err(failure("what comes is no stream of events (is it tidegate's admin API?)"));
        }
        while let Some(event) = reader.next() {
            if event.id.is_some() {
                last.clone_from(&event.id);
            }
            if take(event)? {
                return Ok(true);
            }
        }
    }
}

impl Reader {
    /// False where it is no stream of events.
    pub(super) fn push(&mut self, data: &[u8]) -> bool {
        self.text.extend_from_slice(data);
        while let Some(end) = memchr::memmem::find(&self.text, b"\n\n") {
            let block: Vec<u8> = self.text.drain(..end + 2).collect();
            self.ready.extend(event(&String::from_utf8_lossy(&block)));
        }
        self.text.len() <= LARGEST
    }

    pub(super) fn next(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }
}

/// `None` for a sign of life.
fn event(block: &str) -> Option<Event> {
    let mut event = Event::default();
    for line in block.lines() {
        match line.split_once(": ") {
            Some(("event", kind)) => event.kind = kind.to_owned(),
            Some(("id", id)) => event.id = Some(id.to_owned()),
            Some(("data", data)) => event.data.push_str(data),
            _ => {}
        }
    }
    (!event.kind.is_empty()).then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let text = b"retry: 5\nevent: hello\ndata: {\"a\": 1}\n\n: ping\n\nevent: reload\nid: 1-2\ndata: {}\n\nevent: x";
        for size in 1..text.len() {
            let mut reader = Reader::default();
            assert!(text.chunks(size).all(|chunk| reader.push(chunk)));
            let events: Vec<_> = std::iter::from_fn(|| reader.next()).collect();
            assert_eq!(events.len(), 2, "{size}");
            assert_eq!((events[0].kind.as_str(), events[0].data.as_str()), ("hello", "{\"a\": 1}"));
            assert_eq!(events[1].id.as_deref(), Some("1-2"));
        }
    }

    #[test]
    fn what_never_ends_is_no_event() {
        let mut reader = Reader::default();
        assert!(!reader.push(&vec![b'x'; LARGEST + 1]));
    }
}
