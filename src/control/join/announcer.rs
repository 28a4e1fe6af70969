//! At whom this process announces itself: the control plane it has joined, or its own.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{error::Elapsed, timeout};
use tonic::transport::Channel;

use super::{
    link::{Link, PATIENCE},
    streams::explain,
};
use crate::{
    control::{
        access::Caller,
        instance::Health,
        refused::Reason,
        registration::{Registration, Written},
        registry::{Heartbeat, Registry},
    },
    wire::v1::{self, registry_client::RegistryClient},
};

pub(super) enum Announcer {
    Own(Arc<Registry>),
    Joined(Joined),
}

pub(super) struct Joined {
    link: Arc<Link>,
    /// A connection that has failed is not used again.
    client: Option<RegistryClient<Channel>>,
}

/// An instance, as it is announced.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Announced {
    pub service: String,
    pub advertise: String,
    pub tags: Vec<String>,
    pub metadata: std::collections::BTreeMap<String, String>,
    pub weight: u16,
    pub ttl: Duration,
}

/// A sign of life of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Beat {
    pub id: String,
    pub is_healthy: bool,
}

impl Announcer {
    /// Registers, as healthy; the id that it is known by then, and how often it is to be heard of.
    ///
    /// # Errors
    ///
    /// Why not, for the operator.
    pub(super) async fn register(&mut self, announced: &Announced) -> Result<(String, Duration), String> {
        let Announced { service, advertise, tags, metadata, weight, ttl } = announced.clone();
        let joined = match self {
            Announcer::Joined(joined) => joined,
            Announcer::Own(registry) => {
                let written = Written {
                    name: service,
                    address: Some(advertise),
                    tags,
                    metadata,
                    ttl: Some(ttl.into()),
                    weight: Some(weight),
                    ..Written::default()
                };
                let read =
                    Registration::read(written, registry.ttls()).map_err(|refused| refused.to_string())?;
                let registered = registry.register(read, &Caller::gateway(), Instant::now()).await;
                let (instance, _) = registered.map_err(|refused| refused.to_string())?;
                return Ok((instance.id.to_string(), instance.ttl / 3));
            }
        };
        let request = v1::RegisterRequest {
            name: service,
            address: advertise,
            tags,
            metadata: metadata.into_iter().collect(),
            weight: Some(weight.into()),
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            health: v1::Health::Healthy.into(),
            ..v1::RegisterRequest::default()
        };
        let mut client = joined.client().await?;
        let answer = timeout(PATIENCE, client.register(joined.link.request(request))).await;
        let answer = joined.take(client, answer)?;
        let id = answer.instance.map(|instance| instance.id).ok_or("it does not say the id")?;
        Ok((id, Duration::from_millis(answer.heartbeat_every_ms)))
    }

    /// Those that have to register again.
    ///
    /// # Errors
    ///
    /// Nobody was told, and why.
    pub(super) async fn beat(&mut self, beats: Vec<Beat>) -> Result<Vec<String>, String> {
        let joined = match self {
            Announcer::Joined(joined) => joined,
            Announcer::Own(registry) => {
                let mut unknown = Vec::new();
                for beat in beats {
                    let health = Some(if beat.is_healthy { Health::Healthy } else { Health::Critical });
                    let said = Heartbeat { health, weight: None };
                    let heard = registry.heartbeat(&beat.id, said, &Caller::gateway(), Instant::now()).await;
                    if heard.is_err_and(|refused| refused.reason == Reason::NotRegistered) {
                        unknown.push(beat.id);
                    }
                }
                return Ok(unknown);
            }
        };
        let beats = beats.into_iter().map(|beat| v1::Beat {
            id: beat.id,
            health: if beat.is_healthy { v1::Health::Healthy } else { v1::Health::Critical }.into(),
            weight: None,
        });
        let request = v1::HeartbeatRequest { beats: beats.collect() };
        let mut client = joined.client().await?;
        let answer = timeout(PATIENCE, client.heartbeat(joined.link.request(request))).await;
        let answer = joined.take(client, answer)?;
        match answer.refused.into_iter().next() {
            Some((id, why)) => Err(format!("{id}: {why}")),
            None => Ok(answer.not_registered),
        }
    }

    /// # Errors
    ///
    /// Nobody was told, and why.
    pub(super) async fn deregister(&mut self, id: String) -> Result<(), String> {
        let joined = match self {
            Announcer::Joined(joined) => joined,
            Announcer::Own(registry) => {
                let caller = Caller::gateway();
                let gone = registry.deregister(&id, Duration::ZERO, &caller, Instant::now());
                return gone.await.map_err(|refused| refused.to_string());
            }
        };
        let request = v1::DeregisterRequest { id, drain_ms: 0 };
        let mut client = joined.client().await?;
        let answer = timeout(PATIENCE, client.deregister(joined.link.request(request))).await;
        joined.take(client, answer).map(drop)
    }

    /// The address of this host on the way to the control plane.
    pub(super) async fn own_address(&self) -> Option<IpAddr> {
        let Announcer::Joined(joined) = self else { return None };
        joined.link.addresses().await.into_iter().find_map(address_towards)
    }
}

impl Joined {
    pub(super) fn new(link: Arc<Link>) -> Joined {
        Joined { link, client: None }
    }

    /// Taken out until its answer was good.
    async fn client(&mut self) -> Result<RegistryClient<Channel>, String> {
        match self.client.take() {
            Some(client) => Ok(client),
            None => Ok(RegistryClient::new(self.link.connect().await?.0)),
        }
    }

    fn take<T>(
        &mut self,
        client: RegistryClient<Channel>,
        answer: Result<Result<tonic::Response<T>, tonic::Status>, Elapsed>,
    ) -> Result<T, String> {
        match answer {
            Ok(Ok(answer)) => {
                self.client = Some(client);
                Ok(answer.into_inner())
            }
            Ok(Err(status)) => Err(explain(&status)),
            Err(_) => Err("the control plane does not answer".into()),
        }
    }
}

/// Connecting a UDP socket looks up the route and sends nothing.
fn address_towards(server: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(server).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}
