//! Calls that plugins make. Who makes them is not known here: it is given once the gateway can.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// A request to an upstream.
#[derive(Debug)]
pub(crate) struct Call {
    pub upstream: Arc<str>,
    pub method: Method,
    pub path: String,
    pub authority: HeaderValue,
    pub fields: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
    pub timeout: Duration,
    /// Of the answer's body.
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

/// Who makes calls.
pub(crate) trait Outbound: Send + Sync {
    /// Begins one. Whoever drops what is returned gives it up.
    fn begin(&self, call: Call, told: Told) -> Box<dyn Send>;
}

/// The way out, which is open once the gateway runs. What is called before waits.
#[derive(Default)]
pub(super) struct Way(Mutex<Door>);

enum Door {
    Open(Arc<dyn Outbound>),
    Closed { next: u64, waiting: BTreeMap<u64, Waiting> },
}

/// A call that has not begun, who is told of it, and what gives it up once it has.
type Waiting = (Call, Told, Arc<UnderWay>);

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
        for (call, told, begun) in waiting.into_values() {
            // Nobody waits for it any more.
            if Arc::strong_count(&begun) > 1 {
                let under_way = outbound.begin(call, told);
                *begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(under_way);
            }
        }
    }

    /// Whoever drops what is returned gives the call up.
    pub(super) fn begin(&self, call: Call, told: Told) -> Box<dyn Send> {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Door::Open(outbound) => outbound.begin(call, told),
            Door::Closed { next, waiting } => {
                let begun = Arc::default();
                waiting.retain(|_, (_, _, begun)| Arc::strong_count(begun) > 1);
                waiting.insert(*next, (call, told, Arc::clone(&begun)));
                *next += 1;
                Box::new(begun)
            }
        }
    }
}
