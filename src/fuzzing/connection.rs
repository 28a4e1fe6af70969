//! Whole connections of clients: bytes in at one end, requests out at the other.

use std::{sync::Arc, time::Duration};

use tokio::runtime::{Builder, Runtime};

use crate::{
    accept::fuzzing::{Door, Request},
    acme::Keeper,
    config, filter,
    names::SystemResolver,
    observe::{
        Recorder,
        log_writer::{LineSink, Target},
        metrics::Metrics,
        syslog::Lookup,
    },
    resources::{Descriptors, Resources},
    snapshot::{Live, Snapshot, compile},
    upkeep::Upkeep,
    upstream,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The shortest request: `A / HTTP/1.0` and two line ends.
const SHORTEST: usize = 16;
/// A HEADERS frame with nothing but a head is one.
const SHORTEST_FRAME: usize = 9;
/// Nothing here waits for anybody, so what takes this long has hung.
const PATIENCE: Duration = Duration::from_secs(20);
const HEADER_SIZE: usize = 4096;

thread_local! {
    static ENTRANCE: Entrance = Entrance::new();
}

/// However the bytes come in parts, they are the same requests.
pub(super) fn http1(bytes: &[u8]) {
    ENTRANCE.with(|entrance| {
        let whole = entrance.requests(bytes, bytes.len());
        assert!(whole.len() <= bytes.len() / SHORTEST || bytes.starts_with(PREFACE));
        check(&whole, bytes);
        if !bytes.starts_with(PREFACE) {
            for size in [1, 7] {
                let parted = entrance.requests(bytes, size);
                assert!(is_same(&parted, &whole), "in parts of {size}: {parted:?}, and whole: {whole:?}");
            }
        }
    });
}

/// Of a body that breaks, more or less may have come through before.
fn is_same(one: &[Request], other: &[Request]) -> bool {
    let is_same = |(one, other): (&Request, &Request)| {
        let (short, long) = if one.body.len() < other.body.len() { (one, other) } else { (other, one) };
        let is_cut = one.trailers.is_err() && long.body.starts_with(&short.body);
        (is_cut || one.body == other.body)
            && (&one.method, &one.uri, one.version, &one.headers, &one.trailers)
                == (&other.method, &other.uri, other.version, &other.headers, &other.trailers)
    };
    one.len() == other.len() && one.iter().zip(other).all(is_same)
}

/// The bytes are what follows the preface.
pub(super) fn http2(bytes: &[u8]) {
    ENTRANCE.with(|entrance| {
        let requests = entrance.requests(&[PREFACE, bytes].concat(), usize::MAX);
        assert!(requests.len() <= bytes.len() / SHORTEST_FRAME);
        check(&requests, bytes);
    });
}

/// Nobody is told more than was sent.
fn check(requests: &[Request], sent: &[u8]) {
    let read: usize = requests.iter().map(|request| request.body.len()).sum();
    assert!(read <= sent.len(), "{read} bytes of bodies in {}", sent.len());
    for request in requests {
        let fields: usize =
            request.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        assert!(fields <= HEADER_SIZE, "{fields} bytes of fields pass a limit of {HEADER_SIZE}");
        assert!(request.headers.get_all("host").iter().count() <= 1);
    }
}

struct Entrance {
    runtime: Runtime,
    door: Door,
}

impl Entrance {
    fn new() -> Entrance {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let door = runtime.block_on(async { open() });
        Entrance { runtime, door }
    }

    fn requests(&self, bytes: &[u8], size: usize) -> Vec<Request> {
        let visit = async { tokio::time::timeout(PATIENCE, self.door.visit(bytes, size)).await };
        self.runtime.block_on(visit).expect("a connection whose client is gone ends")
    }
}

fn open() -> Door {
    let yaml = format!(
        "listeners: [{{address: '127.0.0.1:0', name: fuzz, limits: {{header_size: {HEADER_SIZE}B}}}}]\n\
         routes: [{{name: all, respond: {{status: 204}}}}]\n"
    );
    let loaded = config::parse(&yaml, "fuzz.yaml").unwrap_or_else(|problems| panic!("{problems}"));
    let metrics = Arc::new(Metrics::new("fuzz"));
    let names = Arc::new(SystemResolver::new());
    let live = Live {
        upstreams: upstream::Live::offline(names.clone(), Arc::new(())),
        acme: Keeper::new(names.clone(), metrics.clone(), tokio::runtime::Handle::current()),
        upkeep: Upkeep::new(names.clone(), metrics.clone(), tokio::runtime::Handle::current()),
        filters: filter::Live::new(Arc::new(filter::Registry::built_in()), metrics.clone(), names),
        metrics: metrics.clone(),
        runtime: tokio::runtime::Handle::current(),
        issuer: None,
    };
    let plan = compile(loaded, &live.filters).unwrap_or_else(|problems| panic!("{problems}"));
    let snapshot = Snapshot::build(plan, &live, None).unwrap_or_else(|problems| panic!("{problems:?}"));
    let listener = snapshot.listeners.into_values().next().expect("one was written");
    let lookup: Lookup = Arc::new(|_| Err(std::io::ErrorKind::NotFound.into()));
    let lines = LineSink::open(&Target::Stderr, 0, metrics.lines(), &lookup).expect("stderr is open");
    let recorder = Recorder::new(metrics, Arc::new(lines), lookup);
    Door::new(listener, (Arc::new(recorder), Arc::new(Resources::new(Descriptors::of(1 << 20)))))
}
