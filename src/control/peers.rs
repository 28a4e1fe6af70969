//! Heartbeats that reached another replica than the one that keeps the instance's clock: gathered here, and passed on once a
//! second. What cannot be passed on makes this replica the keeper: an instance that is heard somewhere is alive.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::timeout};
use tonic::transport::Channel;

use super::{
    instance::Health,
    join::link::{Link, PATIENCE, Who},
    registry::{Heartbeat, Registry},
    store::etcd::Shared,
};
use crate::{
    config::{ControlProtocol, ExpectedIds, HumanDuration, Join, UpstreamTls, Verify},
    identity::SpiffeId,
    names::Resolve,
    snapshot::Current,
    upstream::Live,
    wire::v1::{self, peers_client::PeersClient},
};

/// What is said of health or weight is passed on at once.
const EVERY: Duration = Duration::from_secs(1);
/// Heartbeats of one message: with the longest ids they are as large as one may be.
pub(super) const MOST_BEATS: usize = 2_000;
/// A configuration of 4 MiB, and what stands beside it.
pub(super) const LARGEST_MESSAGE: usize = 10 * 1024 * 1024;

/// By replica, then by instance.
#[derive(Default)]
pub(crate) struct Passing {
    by_replica: Mutex<Gathered>,
    soon: Notify,
}

/// One for each instance, however many came: it is no more than there are instances.
type Gathered = HashMap<Arc<str>, HashMap<Arc<str>, Heartbeat>>;
type Beats = Vec<(Arc<str>, Heartbeat)>;

impl Passing {
    pub(crate) fn pass(&self, replica: &Arc<str>, id: &Arc<str>, beat: Heartbeat) {
        let says_more = beat.health.is_some() || beat.weight.is_some();
        let mut by_replica = self.gathered();
        let gathered = by_replica.entry(replica.clone()).or_default().entry(id.clone()).or_default();
        let is_news = says_more && gathered.health != beat.health;
        gathered.health = beat.health.or(gathered.health);
        gathered.weight = beat.weight.or(gathered.weight);
        drop(by_replica);
        if is_news {
            self.soon.notify_one();
        }
    }

    /// Those for replicas that are not `busy`.
    fn take(&self, busy: &HashSet<Arc<str>>) -> Vec<(Arc<str>, Beats)> {
        let mut by_replica = self.gathered();
        let ready: Vec<_> = by_replica.keys().filter(|replica| !busy.contains(*replica)).cloned().collect();
        let taken = ready.into_iter().filter_map(|replica| by_replica.remove_entry(&replica));
        taken.map(|(replica, beats)| (replica, beats.into_iter().collect())).collect()
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.by_replica.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How other replicas are reached: as this one wants to be reached.
pub(crate) struct Reach {
    pub(crate) current: Current,
    pub(crate) live: Live,
    pub(crate) names: Arc<dyn Resolve>,
}

impl Reach {
    /// # Errors
    ///
    /// Why there is no way to it.
    fn link(&self, advertise: &str) -> Result<Arc<Link>, String> {
        let snapshot = self.current.pin();
        let has_tls = snapshot.control.as_ref().is_some_and(|control| control.tls.is_some());
        let tls = match (has_tls, own_id(&self.current)) {
            (false, _) => None,
            (true, None) => return Err("this replica has no SVID yet".to_owned()),
            // A replica is whoever has our own ID.
            (true, Some(own)) => Some(UpstreamTls {
                verify: Verify { spiffe: ExpectedIds::Names(vec![own.to_string()]), ..Verify::default() },
                client_identity: true,
                ..UpstreamTls::default()
            }),
        };
        let join = Join {
            servers: vec![advertise.to_owned()],
            tls,
            protocol: ControlProtocol::Tidegate,
            token: None,
            config: None,
            node: None,
            labels: BTreeMap::new(),
            wait: HumanDuration::from_secs(0),
            secrets: Vec::new(),
        };
        Ok(Arc::new(Link::new(
            &join,
            Who::Current(self.current.clone()),
            self.live.clone(),
            self.names.clone(),
        )))
    }

    /// What a gateway of the replica at `advertise` thinks of a configuration. It takes as long as the caller waits.
    ///
    /// # Errors
    ///
    /// Why that cannot be found out.
    pub(crate) async fn check(
        &self,
        advertise: &str,
        request: v1::CheckRequest,
    ) -> Result<v1::CheckResponse, String> {
        let link = self.link(advertise)?;
        let (channel, _) = link.connect().await?;
        let client = PeersClient::new(channel).max_encoding_message_size(LARGEST_MESSAGE);
        let answered = client.max_decoding_message_size(LARGEST_MESSAGE).check(link.request(request)).await;
        answered.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
    }
}

/// By which the replicas of a control plane know each other.
pub(crate) fn own_id(current: &Current) -> Option<SpiffeId> {
    let snapshot = current.pin();
    let material = snapshot.identity.as_ref()?.shared().current();
    material.svid.as_ref().map(|svid| svid.id.clone())
}

/// A replica, and the connection with it while it works.
struct Peer {
    replica: Arc<str>,
    link: Arc<Link>,
    client: Option<PeersClient<Channel>>,
}

/// For ever.
pub(crate) async fn run(shared: Arc<Shared>, registry: Arc<Registry>, reach: Arc<Reach>) {
    let mut peers: HashMap<Arc<str>, Peer> = HashMap::new();
    let mut busy = HashSet::new();
    let mut calls = tokio::task::JoinSet::new();
    let mut look = tokio::time::interval(EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = shared.passing().soon.notified() => {}
            Some(done) = calls.join_next(), if !calls.is_empty() => {
                // A panic in it is logged by the hook; its replica is then reached anew.
                match done {
                    Ok(Call { peer, beats, outcome }) => {
                        busy.remove(&peer.replica);
                        let is_reached = outcome.is_ok();
                        settle(&shared, &registry, &peer.replica, beats, outcome);
                        if is_reached {
                            peers.insert(peer.replica.clone(), peer);
                        }
                    }
                    Err(_) => busy.clear(),
                }
            }
        }
        peers.retain(|replica, _| registry.address_of(replica).is_some());
        for (replica, beats) in shared.passing().take(&busy) {
            let peer = match (peers.remove(&replica), registry.address_of(&replica)) {
                (Some(peer), _) => Ok(peer),
                (None, Some(advertise)) => {
                    reach.link(&advertise).map(|link| Peer { replica: replica.clone(), link, client: None })
                }
                (None, None) => Err("it is gone".to_owned()),
            };
            match peer {
                Ok(peer) => {
                    busy.insert(replica);
                    calls.spawn(peer.tell(shared.me().clone(), beats));
                }
                Err(why) => settle(&shared, &registry, &replica, beats, Err(why)),
            }
        }
    }
}

struct Call {
    peer: Peer,
    beats: Beats,
    /// Those whose clocks are not kept there.
    outcome: Result<HashSet<String>, String>,
}

impl Peer {
    async fn tell(mut self, me: Arc<str>, beats: Beats) -> Call {
        let mut not_owned = HashSet::new();
        for part in beats.chunks(MOST_BEATS) {
            match self.tell_part(&me, part).await {
                Ok(refused) => not_owned.extend(refused),
                Err(why) => {
                    return Call { peer: self, beats, outcome: Err(why) };
                }
            }
        }
        Call { peer: self, beats, outcome: Ok(not_owned) }
    }

    async fn tell_part(&mut self, me: &str, beats: &[(Arc<str>, Heartbeat)]) -> Result<Vec<String>, String> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(PeersClient::new(self.link.connect().await?.0)),
        };
        let beats = beats.iter().map(|(id, beat)| written(id, *beat)).collect();
        let request = v1::RenewRequest { replica: me.to_owned(), beats };
        match timeout(PATIENCE, client.renew(self.link.request(request))).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().not_owned),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }
}

fn settle(
    shared: &Shared,
    registry: &Registry,
    replica: &str,
    beats: Beats,
    outcome: Result<HashSet<String>, String>,
) {
    let all = beats.len();
    let mine: Beats = match &outcome {
        Ok(not_owned) => beats.into_iter().filter(|(id, _)| not_owned.contains(&**id)).collect(),
        Err(why) => {
            log::info!(
                "replica {replica} cannot be told of {all} heartbeats: {why}; their instances are kept here"
            );
            beats
        }
    };
    shared.metrics().renewals("passed_on", all - mine.len());
    shared.metrics().renewals("kept_here", mine.len());
    registry.take_over(replica, mine, Instant::now());
}

fn written(id: &str, beat: Heartbeat) -> v1::Beat {
    let health = match beat.health {
        None => v1::Health::Unspecified,
        Some(Health::Healthy) => v1::Health::Healthy,
        Some(Health::Critical) => v1::Health::Critical,
    };
    v1::Beat { id: id.to_owned(), health: health.into(), weight: beat.weight.map(Into::into) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_are_gathered_one_for_each_instance_and_the_last_word_counts() {
        let passing = Passing::default();
        let [one, two, a]: [Arc<str>; 3] = ["one", "two", "a"].map(Into::into);
        let beat = |health| Heartbeat { health, weight: None };
        for health in [None, Some(Health::Critical), None, Some(Health::Healthy)] {
            passing.pass(&one, &a, beat(health));
        }
        passing.pass(&two, &a, Heartbeat { health: None, weight: Some(3) });
        let busy = passing.take(&[two.clone()].into());
        assert_eq!((busy.len(), &busy[0].0, busy[0].1.len()), (1, &one, 1));
        assert_eq!(busy[0].1[0].1.health, Some(Health::Healthy));
        let rest = passing.take(&HashSet::new());
        assert_eq!((&rest[0].0, rest[0].1[0].1.weight), (&two, Some(3)));
        assert!(passing.take(&HashSet::new()).is_empty());
    }
}
