//! `GET /v1/watch`: changes as server-sent events. A watch begins with everything (`sync`), or with what came since the event
//! that the client saw last. What it has not been sent yet is in the registry's log and nowhere else, so that one that reads
//! slowly costs nothing, and one that reads nothing is closed.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    reply::{self, Answer},
    router::Api,
    services::Record,
};
use crate::{
    api::{Connection, query::Query},
    control::{
        access::Caller,
        feed::{Subscription, gate::Gate},
        refused::{Reason, Refused},
        registration::check_name,
        registry::Registry,
        store::{Event, Position},
    },
    observe::metrics::StreamMetrics,
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Otherwise an idle stream and a dead one look the same.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// A client that takes nothing for so long is gone, or pretends.
const PATIENCE: Duration = Duration::from_secs(30);
/// Clients come back to whichever server is there then, 20 % sooner or later.
const AGE: Duration = Duration::from_secs(600);
const PAGE: usize = 1000;
/// Of one chunk.
const LARGEST: usize = 256 * 1024;

/// The data of a `sync` event: instances that are there. The last of them has `end`, and whoever kept others forgets them then.
#[derive(Serialize, JsonSchema)]
pub(super) struct Sync {
    instances: Vec<Record>,
    end: bool,
    revision: u64,
    epoch: u64,
    warming: bool,
}

struct Watch {
    registry: Arc<Registry>,
    caller: Caller,
    name: Option<Arc<str>>,
    following: Subscription,
    /// Whoever is sent everything waits here.
    gate: Gate,
    closing: watch::Receiver<bool>,
    stream: StreamMetrics,
    out: mpsc::Sender<Bytes>,
    /// When the next sign of life is due.
    sign: Instant,
    _turn: OwnedSemaphorePermit,
}

/// Why a watch ended.
enum Ended {
    Client,
    /// Here, with the reason's word.
    Here(&'static str),
}

impl Api {
    pub(super) fn watch(
        &self,
        connection: Connection,
        caller: Caller,
        query: &Query,
        headers: &HeaderMap,
    ) -> Result<Answer, Refused> {
        let name: Option<Arc<str>> = query.text("name").map(Into::into);
        if let Some(name) = &name {
            check_name(name)?;
            caller.check_discover(name)?;
        }
        let last = headers.get(LAST_EVENT_ID).map(|last| last.to_str().ok().and_then(Position::parse));
        if last == Some(None) {
            let why = "Last-Event-ID is not the id of an event (leave it out to begin anew)";
            return Err(Reason::BadRequest.because(why));
        }
        let turn = self.watch_turn()?;
        let (out, mut chunks) = mpsc::channel(1);
        let watch = Watch {
            following: self.registry.subscribe(name.clone().map(|name| BTreeSet::from([name]))),
            registry: self.registry.clone(),
            caller,
            name,
            gate: self.gate.clone(),
            closing: self.closing.clone(),
            stream: self.metrics.stream("sse"),
            out,
            sign: Instant::now() + SIGN_OF_LIFE,
            _turn: turn,
        };
        tokio::spawn(async move {
            if let Ended::Here(why) = watch.run(last.flatten()).await
                && why == "slow"
            {
                // Nothing is written while the client takes nothing, so it would never hear that this is the end.
                connection.hang_up();
            }
        });
        let chunks = futures::stream::poll_fn(move |context| {
            chunks.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
        });
        let body = StreamBody::new(chunks).boxed_unsync();
        let mut answer = reply::with_type(StatusCode::OK, "text/event-stream", body);
        // For proxies between that gather answers.
        answer.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(reply::at(self.registry.position(), answer))
    }
}

impl Watch {
    async fn run(mut self, last: Option<Position>) -> Ended {
        let ended = match self.follow(last).await {
            Ok(why) => Ended::Here(why),
            Err(ended) => ended,
        };
        if let Ended::Here(why) = ended {
            self.stream.closed(why);
        }
        ended
    }

    /// Until it is too old, or the process ends.
    async fn follow(&mut self, last: Option<Position>) -> Result<&'static str, Ended> {
        let end = Instant::now() + AGE.mul_f64(0.8 + 0.4 * fastrand::f64());
        let mut position = match last {
            Some(last) => self.catch_up(last).await?,
            None => self.sync().await?,
        };
        loop {
            let closed = closed(self.closing.clone());
            tokio::select! {
                _ = self.following.changed() => position = self.catch_up(position).await?,
                () = sleep_until(self.sign) => self.send(format!(": {position}\n\n")).await?,
                () = sleep_until(end) => return Ok("age"),
                () = closed => return Ok("shutdown"),
                () = self.out.closed() => return Err(Ended::Client),
            }
        }
    }

    /// What came after `from`; everything, where that is no longer known.
    async fn catch_up(&mut self, from: Position) -> Result<Position, Ended> {
        let mut position = self.registry.position();
        let Some(events) = self.registry.store().since(from, self.name.as_deref()) else {
            return self.sync().await;
        };
        let mut text = String::new();
        for event in events {
            position.revision = position.revision.max(event.revision);
            if !self.caller.may_discover(&event.instance.name) {
                continue;
            }
            self.stream.sent(1);
            write_event(&mut text, &event, position.epoch, &self.registry);
            if text.len() >= LARGEST {
                self.send(std::mem::take(&mut text)).await?;
            }
        }
        if !text.is_empty() {
            self.send(text).await?;
        }
        Ok(position)
    }

    async fn sync(&mut self) -> Result<Position, Ended> {
        let _turn = self.turn().await?;
        // Before the list: what changes meanwhile comes once more, as an event.
        let position = self.registry.position();
        let mut after: Option<Arc<str>> = None;
        loop {
            let page = self.registry.store().list(self.name.as_deref(), after.as_deref(), PAGE);
            let end = page.len() < PAGE;
            after = page.last().map(|instance| instance.id.clone());
            let visible = page.iter().filter(|instance| self.caller.may_discover(&instance.name));
            let sync = Sync {
                instances: visible.map(|instance| Record::of(instance, &self.registry)).collect(),
                end,
                revision: position.revision,
                epoch: position.epoch,
                warming: self.registry.is_warming(),
            };
            self.stream.sent(1);
            let mut text = String::new();
            // Whoever comes back in the middle of it has not seen all.
            write(&mut text, "sync", end.then_some(position), &sync);
            self.send(text).await?;
            if end {
                return Ok(position);
            }
        }
    }

    /// Of those who are sent everything. One that waits shows signs of life.
    async fn turn(&mut self) -> Result<Option<OwnedSemaphorePermit>, Ended> {
        let mut turn = std::pin::pin!(self.gate.turn());
        loop {
            tokio::select! {
                turn = &mut turn => return Ok(turn),
                () = sleep_until(self.sign) => self.send(format!(": {}\n\n", self.registry.position())).await?,
                () = closed(self.closing.clone()) => return Err(Ended::Here("shutdown")),
                () = self.out.closed() => return Err(Ended::Client),
            }
        }
    }

    async fn send(&mut self, text: String) -> Result<(), Ended> {
        self.sign = Instant::now() + SIGN_OF_LIFE;
        match timeout(PATIENCE, self.out.send(text.into())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ended::Client),
            Err(_) => Err(Ended::Here("slow")),
        }
    }
}

async fn closed(mut closing: watch::Receiver<bool>) {
    // Where nobody can say it any more, it is so.
    let _ = closing.wait_for(|closing| *closing).await;
}

fn write_event(text: &mut String, event: &Event, epoch: u64, registry: &Registry) {
    let position = Position { epoch, revision: event.revision };
    write(text, event.kind.word(), Some(position), &Record::of(&event.instance, registry));
}

/// JSON has no line ends within.
fn write(text: &mut String, kind: &str, id: Option<Position>, data: &impl Serialize) {
    let data = serde_json::to_string(data).unwrap_or_else(|error| {
        log::error!("cannot write an event of the control plane: {error}");
        "null".to_owned()
    });
    text.push_str(&format!("event: {kind}\n"));
    if let Some(id) = id {
        text.push_str(&format!("id: {id}\n"));
    }
    text.push_str(&format!("data: {data}\n\n"));
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::{
        config::ControlServe,
        control::{
            access::Access, registration::Registration, registration::Written, settings, store::Memory,
        },
        observe::metrics::Metrics,
    };

    /// A watch of everything, with what it sends and what keeps it from ending.
    fn watching() -> (Watch, mpsc::Receiver<Bytes>, watch::Sender<bool>) {
        let metrics = Metrics::new("test").of_registry().clone();
        let store = Arc::new(Memory::new(Position { epoch: 1, revision: 0 }, Vec::new()));
        let now = std::time::Instant::now();
        let registry = Registry::new(settings(&ControlServe::default()), store, metrics.clone(), now);
        let (out, sent) = mpsc::channel(1);
        let (open, closing) = watch::channel(false);
        let places = Arc::new(tokio::sync::Semaphore::new(1));
        let watch = Watch {
            following: registry.subscribe(None),
            registry: Arc::new(registry),
            caller: anybody(),
            name: None,
            gate: Gate::default(),
            closing,
            stream: metrics.stream("sse"),
            out,
            sign: Instant::now() + SIGN_OF_LIFE,
            _turn: places.try_acquire_owned().unwrap(),
        };
        (watch, sent, open)
    }

    fn anybody() -> Caller {
        Access::new(Vec::new()).caller(None, &HeaderMap::new()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_nothing_for_thirty_seconds_is_given_up() {
        let (watch, _sent, _open) = watching();
        let registry = watch.registry.clone();
        let running = tokio::spawn(watch.run(None));
        let written = Written { name: "a".into(), address: Some("b:1".into()), ..Written::default() };
        let registration = Registration::read(written, registry.ttls()).unwrap();
        registry.register(registration, &anybody(), std::time::Instant::now()).await.unwrap();
        let began = Instant::now();
        assert!(matches!(running.await.unwrap(), Ended::Here("slow")));
        assert!((PATIENCE..PATIENCE + SIGN_OF_LIFE * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_read_shows_signs_of_life_and_ends_of_age() {
        let (watch, mut sent, _open) = watching();
        let running = tokio::spawn(watch.run(None));
        let (began, mut signs) = (Instant::now(), 0);
        while let Some(chunk) = sent.recv().await {
            signs += u32::from(chunk.starts_with(b": 1:0"));
        }
        assert!(matches!(running.await.unwrap(), Ended::Here("age")));
        assert!(began.elapsed() >= AGE.mul_f64(0.8) && began.elapsed() <= AGE.mul_f64(1.21));
        assert!(signs >= 31, "{signs}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_sent_everything_waits_for_its_turn_and_shows_that_it_lives() {
        let (watch, mut sent, _open) = watching();
        let mut others = Vec::new();
        while let Some(turn) = watch.gate.turn().now_or_never().flatten() {
            others.push(turn);
        }
        let running = tokio::spawn(watch.run(None));
        let began = Instant::now();
        for _ in 0..2 {
            assert!(sent.recv().await.unwrap().starts_with(b": "), "not before it is its turn");
        }
        assert_eq!(began.elapsed(), 2 * SIGN_OF_LIFE);
        others.pop();
        assert!(sent.recv().await.unwrap().starts_with(b"event: sync"));
        assert_eq!(began.elapsed(), 2 * SIGN_OF_LIFE);
        drop(sent);
        assert!(matches!(running.await.unwrap(), Ended::Client));
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_its_client_and_with_the_process() {
        let (watch, sent, _open) = watching();
        drop(sent);
        assert!(matches!(watch.run(None).await, Ended::Client));
        let (watch, _sent, open) = watching();
        open.send_replace(true);
        assert!(matches!(watch.run(None).await, Ended::Here("shutdown")));
    }
}
