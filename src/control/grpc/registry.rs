//! `tidegate.control.v1.Registry`: the registry's own functions, as REST calls them too.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::{Answer, Entry, open, service::entry, status};
use crate::{
    control::{
        access::Caller,
        feed::{
            difference::Difference,
            messages,
            stream::{Feed, Reader, read_selector},
        },
        instance::{Health, Protocol},
        refused::{Reason, Refused},
        registration::{Registration, Written},
        registry::{Heartbeat, Outcome},
        store::Position,
    },
    wire::v1::{self, registry_server},
};

/// Heartbeats of one message.
const MOST_BEATS: usize = 10_000;
/// Batches that wait for a reader: it is told the newest when it takes them.
const AHEAD: usize = 1;

/// More than any message that is taken.
const LARGEST_MESSAGE: usize = 1024 * 1024;

pub(crate) struct Registry {
    feed: Arc<Feed>,
}

pub(crate) fn registry(feed: Arc<Feed>) -> Entry {
    let server = registry_server::RegistryServer::new(Registry { feed });
    entry(server.max_decoding_message_size(LARGEST_MESSAGE))
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Registry {
    fn refuse(&self, refused: &Refused) -> Status {
        self.feed.seats.refused(refused);
        status(refused)
    }
}

#[tonic::async_trait]
impl registry_server::Registry for Registry {
    async fn register(&self, request: Request<v1::RegisterRequest>) -> Answer<v1::RegisterResponse> {
        let (caller, request) = open(request)?;
        let registry = &self.feed.registry;
        let registration = written(request).and_then(|written| Registration::read(written, registry.ttls()));
        let registration = registration.map_err(|refused| self.refuse(&refused))?;
        let registered = registry.register(registration, &caller, Instant::now()).await;
        let (instance, outcome) = registered.map_err(|refused| self.refuse(&refused))?;
        Ok(Response::new(v1::RegisterResponse {
            heartbeat_every_ms: milliseconds(instance.ttl / 3),
            instance: Some(messages::of(&instance)),
            epoch: registry.position().epoch,
            created: outcome == Outcome::Created,
        }))
    }

    async fn deregister(&self, request: Request<v1::DeregisterRequest>) -> Answer<v1::DeregisterResponse> {
        let (caller, v1::DeregisterRequest { id, drain_ms }) = open(request)?;
        // A day is as good as for ever.
        let drain = Duration::from_millis(drain_ms).min(Duration::from_secs(86_400));
        let done = self.feed.registry.deregister(&id, drain, &caller, Instant::now()).await;
        done.map_err(|refused| self.refuse(&refused))?;
        Ok(Response::new(v1::DeregisterResponse {}))
    }

    async fn heartbeat(&self, request: Request<v1::HeartbeatRequest>) -> Answer<v1::HeartbeatResponse> {
        let (caller, request) = open(request)?;
        Ok(Response::new(beat(&self.feed, request, &caller).await?))
    }

    type HeartbeatsStream = Answers<v1::HeartbeatResponse>;

    async fn heartbeats(
        &self,
        request: Request<Streaming<v1::HeartbeatRequest>>,
    ) -> Answer<Self::HeartbeatsStream> {
        let (caller, batches) = open(request)?;
        let feed = self.feed.clone();
        let answers = batches.then(move |batch| {
            let (feed, caller) = (feed.clone(), caller.clone());
            async move { beat(&feed, batch?, &caller).await }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn discover(&self, request: Request<v1::DiscoverRequest>) -> Answer<v1::DiscoverResponse> {
        let (caller, request) = open(request)?;
        let selector = read_selector(request.selector).map_err(|refused| self.refuse(&refused))?;
        caller.check_discover(selector.name()).map_err(|refused| self.refuse(&refused))?;
        let nothing = Position { epoch: 0, revision: 0 };
        let all = Difference::since(&self.feed.registry, selector.name(), nothing);
        let instances = all.changed.iter().filter(|instance| messages::matches(&selector, instance));
        Ok(Response::new(v1::DiscoverResponse {
            instances: instances.map(messages::of).collect(),
            epoch: all.position.epoch,
            revision: all.position.revision,
            warming: all.warming,
        }))
    }

    type WatchServicesStream = Answers<v1::Update>;

    async fn watch_services(
        &self,
        request: Request<Streaming<v1::WatchRequest>>,
    ) -> Answer<Self::WatchServicesStream> {
        let (caller, mut requests) = open(request)?;
        let first = requests.message().await?.and_then(|first| first.message);
        let Some(v1::watch_request::Message::Hello(hello)) = first else {
            let refused = Reason::BadRequest.because("the first message of a stream is `hello`");
            return Err(self.refuse(&refused));
        };
        let (sender, receiver) = mpsc::channel(AHEAD);
        let seat = self.feed.seats.take("services").map_err(|refused| self.refuse(&refused))?;
        log::debug!("{} follows the registry", hello.node.escape_debug());
        let reader = Reader::new(self.feed.clone(), seat, caller, sender);
        tokio::spawn(reader.run(requests.boxed()));
        let batches =
            stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
        let updates = batches.flat_map(|batch| match batch {
            Ok(updates) => stream::iter(updates).map(Ok).left_stream(),
            Err(status) => stream::iter([Err(status)]).right_stream(),
        });
        Ok(Response::new(updates.boxed()))
    }
}

fn written(request: v1::RegisterRequest) -> Result<Written, Refused> {
    let (protocol, health) = (request.protocol(), request.health());
    let given = |text: String| (!text.is_empty()).then_some(text);
    Ok(Written {
        name: request.name,
        address: given(request.address),
        id: given(request.id),
        tags: request.tags,
        metadata: request.metadata.into_iter().collect(),
        ttl: (request.ttl_ms > 0).then(|| Duration::from_millis(request.ttl_ms).into()),
        weight: weight(request.weight)?,
        protocol: match protocol {
            v1::Protocol::Unspecified => None,
            v1::Protocol::Http1 => Some(Protocol::Http1),
            v1::Protocol::Http2 => Some(Protocol::Http2),
            v1::Protocol::Grpc => Some(Protocol::Grpc),
            v1::Protocol::Tcp => Some(Protocol::Tcp),
        },
        health: self::health(health).unwrap_or_default(),
        ..Written::default()
    })
}

fn weight(weight: Option<u32>) -> Result<Option<u16>, Refused> {
    let read = |weight| {
        u16::try_from(weight).map_err(|_| {
            Reason::BadRequest.because(format!("a weight of {weight} is more than {}", u16::MAX))
        })
    };
    weight.map(read).transpose()
}

fn health(health: v1::Health) -> Option<Health> {
    match health {
        v1::Health::Unspecified => None,
        v1::Health::Healthy => Some(Health::Healthy),
        v1::Health::Critical => Some(Health::Critical),
    }
}

/// What a heartbeat says beside that the instance is there.
///
/// # Errors
///
/// `bad_request`: no weight is that large.
pub(super) fn heartbeat_of(beat: &v1::Beat) -> Result<Heartbeat, Refused> {
    Ok(Heartbeat { health: health(beat.health()), weight: weight(beat.weight)? })
}

/// All of a batch, whatever becomes of one of it. What a store has to write is written together.
async fn beat(
    feed: &Feed,
    request: v1::HeartbeatRequest,
    caller: &Caller,
) -> Result<v1::HeartbeatResponse, Status> {
    if request.beats.len() > MOST_BEATS {
        let refused = Reason::TooLarge.because(format!("a batch has at most {MOST_BEATS} heartbeats"));
        return Err(status(&refused));
    }
    let now = Instant::now();
    let heard = request.beats.into_iter().map(async |beat| {
        let heard = match heartbeat_of(&beat) {
            Ok(said) => feed.registry.heartbeat(&beat.id, said, caller, now).await.map(drop),
            Err(refused) => Err(refused),
        };
        (beat.id, heard)
    });
    let mut answer = v1::HeartbeatResponse { not_registered: Vec::new(), refused: HashMap::new() };
    for (id, heard) in futures::future::join_all(heard).await {
        match heard {
            Ok(()) => {}
            Err(Refused { reason: Reason::NotRegistered, .. }) => answer.not_registered.push(id),
            // It was heard. What it said beside is said again by the next one.
            Err(Refused { reason: Reason::StoreUnavailable, .. }) => {}
            Err(refused) => _ = answer.refused.insert(id, refused.to_string()),
        }
    }
    Ok(answer)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
