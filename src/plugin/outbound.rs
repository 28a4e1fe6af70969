//! Calls that plugins make. Who makes them is not known here: it is given once the gateway can.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokio::sync::{OwnedSemaphorePermit, mpsc::UnboundedReceiver};

/// A request to an upstream.
#[derive(Debug)]
pub(crate) struct Call {
    pub upstream: Arc<str>,
    pub method: Method,
    pub path: String,
    pub authority: HeaderValue,
    pub fields: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
    /// Behind the body, where the upstream speaks HTTP/2.
    pub trailers: HeaderMap,
    /// All of it; of a stream, until it is there.
    pub timeout: Duration,
    /// Of the answer's body; of a stream, of each message.
    pub most: usize,
    /// Who makes it.
    pub plugin: Arc<str>,
}

/// What came of it; `Err` says why nothing did.
pub(crate) type Outcome = Result<Answered, &'static str>;

#[derive(Debug, Default)]
pub(crate) struct Answered {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

/// Told on another thread, at any time after.
pub(crate) type Told = Box<dyn FnOnce(Outcome) + Send>;

/// What is heard of a stream of gRPC, in this order. Messages may be many, and the end is the last.
#[derive(Debug)]
pub(crate) enum Said {
    Headers(HeaderMap),
    Message(Bytes),
    Trailers(HeaderMap),
    End { status: i32, text: Vec<u8> },
}

/// Told on another thread. What comes back is too early, and to be said again.
pub(crate) type Hears = Box<dyn FnMut(Said) -> Option<Said> + Send>;

/// A message of the plugin's, which takes room until it has been sent.
#[derive(Debug)]
pub(crate) struct Message {
    /// With what is in front of it; nothing, where only the end is said.
    pub framed: Bytes,
    pub is_last: bool,
    pub room: Option<OwnedSemaphorePermit>,
}

/// Who makes calls.
pub(crate) trait Outbound: Send + Sync {
    /// Begins one. Whoever drops what is returned gives it up.
    fn begin(&self, call: Call, told: Told) -> Box<dyn Send>;

    /// The same of a stream, whose messages come one by one.
    fn stream(&self, call: Call, messages: UnboundedReceiver<Message>, hears: Hears) -> Box<dyn Send>;
}

/// The way out, which is open once the gateway runs. What is called before waits.
#[derive(Default)]
pub(super) struct Way(Mutex<Door>);

/// Begins a call.
pub(super) type Begin = Box<dyn FnOnce(&dyn Outbound) -> Box<dyn Send> + Send>;

enum Door {
    Open(Arc<dyn Outbound>),
    Closed { next: u64, waiting: BTreeMap<u64, Waiting> },
}

/// A call that has not begun, and what gives it up once it has.
type Waiting = (Begin, Arc<UnderWay>);

type UnderWay = Mutex<Option<Box<dyn Send>>>;

impl Default for Door {
    fn default() -> Door {
        Door::Closed { next: 0, waiting: BTreeMap::new() }
    }
}

impl Way {
    pub(super) fn open(&self, outbound: Arc<dyn Outbound>) {
        let mut door = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Door::Closed { waiting, .. } = std::mem::replace(&mut *door, Door::Open(outbound.clone())) else {
            return;
        };
        drop(door);
        for (begin, begun) in waiting.into_values() {
            // Nobody waits for it any more.
            if Arc::strong_count(&begun) > 1 {
                let under_way = begin(&*outbound);
                *begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(under_way);
            }
        }
    }

    /// Whoever drops what is returned gives the call up.
    pub(super) fn begin(&self, begin: Begin) -> Box<dyn Send> {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Door::Open(outbound) => begin(&**outbound),
            Door::Closed { next, waiting } => {
                let begun = Arc::default();
                waiting.retain(|_, (_, begun)| Arc::strong_count(begun) > 1);
                waiting.insert(*next, (begin, Arc::clone(&begun)));
                *next += 1;
                Box::new(begun)
            }
        }
    }
}
