//! Instances as the API shows them, and the calls that register, renew, remove and list them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderValue, StatusCode, header::LOCATION};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use super::{
    reply::{self, Answer},
    router::Api,
};
use crate::{
    api::query::Query,
    config::HumanDuration,
    control::{
        access::Caller,
        instance::{Health, Instance, Protocol, State},
        refused::{Reason, Refused},
        registration::{Registration, Written, check_name},
        registry::{Heartbeat, Outcome, Registry},
        store::Position,
    },
};

/// Without `limit`.
const USUAL: usize = 1000;
pub(super) const MOST: usize = 10_000;
const LONGEST_WAIT: Duration = Duration::from_secs(300);
const LONGEST_DRAIN: Duration = Duration::from_secs(3600);

/// A registered instance.
#[derive(Serialize, JsonSchema)]
pub(super) struct Record {
    id: String,
    name: String,
    address: String,
    host: String,
    port: u16,
    tags: BTreeSet<String>,
    metadata: BTreeMap<String, String>,
    ttl: String,
    weight: u16,
    protocol: Option<Protocol>,
    /// As it says itself.
    health: Health,
    /// As gateways see it.
    state: State,
    /// Who has registered it.
    owner: String,
    registered_at: String,
    /// Since when it is in this state.
    since: String,
    /// If it is not heard again. Null while it is not known.
    expires_at: Option<String>,
    revision: u64,
}

/// The answer to a registration.
#[derive(Serialize, JsonSchema)]
pub(super) struct Registered {
    #[serde(flatten)]
    record: Record,
    heartbeat_every: String,
    epoch: u64,
    warming: bool,
}

/// A page of instances, by id.
#[derive(Serialize, JsonSchema)]
pub(super) struct List {
    instances: Vec<Record>,
    /// There are more: ask again with `after` set to this.
    next: Option<String>,
    revision: u64,
    epoch: u64,
    /// After a start: what is missing may still come back.
    warming: bool,
}

/// The answer to a heartbeat.
#[derive(Serialize, JsonSchema)]
pub(super) struct Renewed {
    id: String,
    state: State,
    heartbeat_every: String,
    revision: u64,
    epoch: u64,
    warming: bool,
}

/// `PUT /v1/services/{id}/heartbeat`; may be left out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Beat {
    health: Option<Health>,
    weight: Option<u16>,
}

/// Services, by name.
#[derive(Serialize, JsonSchema)]
pub(super) struct Catalog {
    services: Vec<CatalogEntry>,
    revision: u64,
    epoch: u64,
    warming: bool,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct CatalogEntry {
    name: String,
    /// How many are in each state.
    instances: BTreeMap<&'static str, usize>,
}

impl Record {
    pub(super) fn of(instance: &Instance, registry: &Registry) -> Record {
        let now = Instant::now();
        let left = registry.due(&instance.id).map(|due| due.saturating_duration_since(now));
        Record {
            id: instance.id.to_string(),
            name: instance.name.to_string(),
            address: instance.address(),
            host: instance.host.to_string(),
            port: instance.port,
            tags: instance.tags.clone(),
            metadata: instance.metadata.clone(),
            ttl: HumanDuration::from(instance.ttl).to_string(),
            weight: instance.weight,
            protocol: instance.protocol,
            health: instance.health,
            state: instance.state(),
            owner: instance.owner.to_string(),
            registered_at: timestamp(instance.registered),
            since: timestamp(instance.since),
            expires_at: left.map(|left| timestamp(SystemTime::now() + left)),
            revision: instance.revision,
        }
    }
}

impl Catalog {
    pub(super) fn of(registry: &Registry, position: Position, may_see: impl Fn(&str) -> bool) -> Catalog {
        let names = registry.store().names().into_iter().filter(|name| may_see(name));
        let services = names.map(|name| {
            let states = registry.store().states(Some(&name)).into_iter();
            let instances = states.map(|(state, instances)| (state.word(), instances)).collect();
            CatalogEntry { name: name.to_string(), instances }
        });
        Catalog {
            services: services.collect(),
            revision: position.revision,
            epoch: position.epoch,
            warming: registry.is_warming(),
        }
    }
}

impl Api {
    pub(super) async fn register(&self, caller: &Caller, body: &[u8]) -> Result<Answer, Refused> {
        let registration = Registration::read(read::<Written>(body)?, self.registry.ttls())?;
        let (instance, outcome) = self.registry.register(registration, caller, Instant::now()).await?;
        let status = match outcome {
            Outcome::Created => StatusCode::CREATED,
            Outcome::Updated => StatusCode::OK,
        };
        let position = self.registry.position();
        let answer = Registered {
            record: Record::of(&instance, &self.registry),
            heartbeat_every: heartbeat_every(&instance),
            epoch: position.epoch,
            warming: self.registry.is_warming(),
        };
        let mut answer = reply::json(status, &answer);
        if let Ok(location) = HeaderValue::try_from(format!("/v1/services/{}", instance.id)) {
            answer.headers_mut().insert(LOCATION, location);
        }
        Ok(reply::at(position, answer))
    }

    pub(super) async fn heartbeat(&self, caller: &Caller, id: &str, body: &[u8]) -> Result<Answer, Refused> {
        let Beat { health, weight } =
            if body.trim_ascii().is_empty() { Beat::default() } else { read(body)? };
        let said = Heartbeat { health, weight };
        let instance = self.registry.heartbeat(id, said, caller, Instant::now()).await?;
        let position = self.registry.position();
        let answer = Renewed {
            id: instance.id.to_string(),
            state: instance.state(),
            heartbeat_every: heartbeat_every(&instance),
            revision: instance.revision,
            epoch: position.epoch,
            warming: self.registry.is_warming(),
        };
        Ok(reply::at(position, reply::json(StatusCode::OK, &answer)))
    }

    pub(super) async fn deregister(
        &self,
        caller: &Caller,
        id: &str,
        query: &Query,
    ) -> Result<Answer, Refused> {
        let drain = query.duration("drain", LONGEST_DRAIN)?.unwrap_or_default();
        self.registry.deregister(id, drain, caller, Instant::now()).await?;
        Ok(reply::at(self.registry.position(), reply::empty(StatusCode::NO_CONTENT)))
    }

    pub(super) fn read(&self, caller: &Caller, id: &str) -> Result<Answer, Refused> {
        let instance = self.registry.store().get(id);
        let visible = instance.filter(|instance| caller.may_discover(&instance.name));
        let Some(instance) = visible else {
            return Err(Reason::NotRegistered.because(format!("there is no instance {id:?}")));
        };
        let record = Record::of(&instance, &self.registry);
        Ok(reply::at(self.registry.position(), reply::json(StatusCode::OK, &record)))
    }

    pub(super) async fn list(&self, caller: &Caller, query: &Query) -> Result<Answer, Refused> {
        let wanted = Wanted::read(query, caller)?;
        let present = self.registry.position();
        let wait = query.duration("wait", LONGEST_WAIT)?;
        match (super::query::position(query, "revision", present)?, wait) {
            (Some(known), wait) => {
                if !self.wait_for(known, wanted.name.as_deref(), wait.unwrap_or_default()).await? {
                    return Ok(reply::at(self.registry.position(), reply::empty(StatusCode::NOT_MODIFIED)));
                }
            }
            (None, Some(_)) => {
                let hint = "add `revision`, as `x-tidegate-revision` said it";
                return Err(
                    Reason::BadRequest.because(format!("`wait` is for something newer than what? ({hint})"))
                );
            }
            (None, None) => {}
        }
        // Before the list: what changes meanwhile is then asked for again.
        let position = self.registry.position();
        let mut found = wanted.find(&self.registry, caller);
        let next = (found.len() > wanted.limit).then(|| {
            found.truncate(wanted.limit);
            found.last().map(|instance| instance.id.to_string())
        });
        let list = List {
            instances: found.iter().map(|instance| Record::of(instance, &self.registry)).collect(),
            next: next.flatten(),
            revision: position.revision,
            epoch: position.epoch,
            warming: self.registry.is_warming(),
        };
        Ok(reply::at(position, reply::json(StatusCode::OK, &list)))
    }

    pub(super) fn catalog(&self, caller: &Caller) -> Answer {
        let position = self.registry.position();
        let catalog = Catalog::of(&self.registry, position, |name| caller.may_discover(name));
        reply::at(position, reply::json(StatusCode::OK, &catalog))
    }

    /// False where nothing newer has come within `wait`.
    async fn wait_for(&self, known: Position, name: Option<&str>, wait: Duration) -> Result<bool, Refused> {
        let _turn = self.watch_turn()?;
        let names = name.map(|name| BTreeSet::from([Arc::from(name)]));
        let following = self.registry.subscribe(names);
        let is_newer = || {
            let present = self.registry.position();
            let changed = self.registry.store().changed(name);
            known.epoch != present.epoch || known.revision > present.revision || changed > known.revision
        };
        let _open = self.metrics.stream("long_poll");
        let mut closing = self.closing.clone();
        let waiting = async {
            while !is_newer() {
                tokio::select! {
                    _ = following.changed() => {}
                    _ = closing.wait_for(|closing| *closing) => return,
                }
            }
        };
        let _ = timeout(wait, waiting).await;
        Ok(is_newer())
    }
}

/// Which instances are asked for.
struct Wanted {
    name: Option<String>,
    tag: Option<String>,
    state: Option<State>,
    after: Option<Arc<str>>,
    limit: usize,
}

impl Wanted {
    fn read(query: &Query, caller: &Caller) -> Result<Wanted, Refused> {
        let name = query.text("name");
        if let Some(name) = name {
            check_name(name)?;
            caller.check_discover(name)?;
        }
        let state = query.text("health").map(|word| {
            let state = State::ALL.into_iter().find(|state| state.word() == word);
            let words = State::ALL.map(State::word).join(", ");
            state.ok_or_else(|| Reason::BadRequest.because(format!("health: {word:?} is not one of {words}")))
        });
        Ok(Wanted {
            name: name.map(Into::into),
            tag: query.text("tag").map(Into::into),
            state: state.transpose()?,
            after: query.text("after").map(Into::into),
            limit: query.number("limit", MOST)?.unwrap_or(USUAL),
        })
    }

    /// One more than the limit, where there are more.
    fn find(&self, registry: &Registry, caller: &Caller) -> Vec<Arc<Instance>> {
        let is_wanted = |instance: &Arc<Instance>| {
            self.tag.as_ref().is_none_or(|tag| instance.tags.contains(tag))
                && self.state.is_none_or(|state| instance.state() == state)
                && (self.name.is_some() || caller.may_discover(&instance.name))
        };
        let (mut found, mut after) = (Vec::new(), self.after.clone());
        loop {
            let page = registry.store().list(self.name.as_deref(), after.as_deref(), USUAL);
            let is_last = page.len() < USUAL;
            after = page.last().map(|instance| instance.id.clone());
            found.extend(page.into_iter().filter(is_wanted));
            if is_last || found.len() > self.limit {
                found.truncate(self.limit + 1);
                return found;
            }
        }
    }
}

/// # Errors
///
/// `bad_request`: it is not the JSON that is wanted.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| {
        let hint = match error.classify() {
            serde_json::error::Category::Data => "",
            _ => " (send JSON)",
        };
        Reason::BadRequest.because(format!("{error}{hint}"))
    })
}

/// A third of the TTL: two may be lost.
fn heartbeat_every(instance: &Instance) -> String {
    let every = Duration::from_millis(u64::try_from(instance.ttl.as_millis() / 3).unwrap_or(u64::MAX));
    HumanDuration::from(every).to_string()
}

pub(super) fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
