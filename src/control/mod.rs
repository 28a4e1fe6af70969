//! The control plane: services register here, and whoever calls them finds them here. Gateways take configurations from here.
//!
//! `instance` is the model and `registry` the one place that changes it, on a `store` that gives each change a revision.
//! Whoever follows services is told through `feed`; `configs` is what gateways are to serve, and how it spreads; `rest` and `grpc` are the API. A gateway that follows a plane is in
//! `join`. Who may what is decided in `access`, and why something is refused in `refused`.

mod access;
mod configs;
mod feed;
pub(crate) mod fuzzing;
mod grpc;
mod instance;
mod issuing;
pub(crate) mod join;
mod peers;
mod refused;
mod registration;
mod registry;
mod rest;
mod saving;
mod store;
mod tokens;

use std::{
    io,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
};

use self::{
    access::Access,
    configs::{Configs, Follow},
    feed::{gate::Gate, seats::Seats, stream::Feed},
    grpc::Grpc,
    issuing::Issuing,
    registration::Ttls,
    registry::{Registry, Settings},
    rest::Api,
    saving::Saving,
    store::{
        Memory, Position, StateFile,
        etcd::{Replicated, Shared},
    },
    tokens::Tokens,
};
use crate::{
    api::{self, Terms, Tls},
    config::{Config, ControlServe, HoldRule, Store},
    observe::metrics::Metrics,
    policy::{expiry::Hold, flapping::Flapping},
    snapshot::Current,
};

pub(crate) use self::{peers::Reach, rest::ShownPlane};

/// The control plane's key among the sockets of a hand-over.
pub(crate) const KEY: &str = "control";

/// For the store to hear of it; its lease says so in the end.
const LEAVING: Duration = Duration::from_secs(2);

/// A control plane that this process serves.
pub(crate) struct Plane {
    registry: Arc<Registry>,
    configs: Arc<Configs>,
    kept: Kept,
    saving: Option<Arc<Saving>>,
    /// Keeps the registry current, with a store that is shared.
    session: Mutex<Option<JoinHandle<()>>>,
    /// Once it is prepared.
    issuing: OnceLock<Arc<Issuing>>,
    metrics: Arc<Metrics>,
    draining: Arc<AtomicBool>,
    closing: watch::Sender<bool>,
    watches: usize,
    address: String,
}

/// Where configurations are kept.
enum Kept {
    Here(Arc<configs::Memory>),
    ForAll(Arc<Replicated>),
}

/// A plane's address that has only to be served.
pub(crate) struct Prepared {
    socket: api::Prepared,
    api: Arc<Api>,
    terms: Terms,
}

impl Plane {
    /// With what an earlier process has kept in the `state_dir`, or what is in the store that replicas share.
    pub(crate) fn open(serve: &ControlServe, config: &Config, metrics: &Arc<Metrics>) -> Plane {
        match &serve.store {
            Store::Memory => Plane::keeping(serve, config, metrics),
            Store::Etcd(etcd) => {
                let settings = settings(serve);
                let advertise = serve.advertise.as_deref().unwrap_or_default();
                let shared = Shared::new(etcd, advertise, settings.ttls, metrics.of_store().clone());
                let nothing = Arc::new(Memory::new(Position { epoch: 0, revision: 0 }, Vec::new()));
                let registry =
                    Registry::new(settings, nothing, metrics.of_registry().clone(), Instant::now());
                let shared = Arc::new(shared);
                let registry = Arc::new(registry.sharing(shared.clone()));
                let kept = Replicated::new(shared, registry.clone(), &serve.configs.rollout);
                Plane::of(registry, Kept::ForAll(Arc::new(kept)), None, serve, metrics)
            }
        }
    }

    fn keeping(serve: &ControlServe, config: &Config, metrics: &Arc<Metrics>) -> Plane {
        let settings = settings(serve);
        let file = config.state_dir.as_deref().map(StateFile::within);
        let saved = file.as_ref().and_then(|file| file.read(&settings.ttls));
        let (revision, instances) = match saved {
            Some((position, instances)) => {
                crate::observe::log::event!(Info, "registry goes on", instances = instances.len());
                (position.revision, instances)
            }
            None => (0, Vec::new()),
        };
        // Another epoch each time: what was told after the last save is not known here.
        let position = Position { epoch: new_epoch(), revision };
        let store = Arc::new(Memory::new(position, instances));
        let registry = Registry::new(settings, store, metrics.of_registry().clone(), Instant::now());
        let registry = Arc::new(registry);
        let saving =
            file.map(|file| Arc::new(Saving::new(file, registry.clone(), metrics.of_registry().clone())));
        let kept = configs::Memory::new(config.state_dir.as_deref(), &serve.configs.rollout);
        Plane::of(registry, Kept::Here(Arc::new(kept)), saving, serve, metrics)
    }

    fn of(
        registry: Arc<Registry>,
        kept: Kept,
        saving: Option<Arc<Saving>>,
        serve: &ControlServe,
        metrics: &Arc<Metrics>,
    ) -> Plane {
        let store: Arc<dyn configs::Versions> = match &kept {
            Kept::Here(here) => here.clone(),
            Kept::ForAll(replicated) => replicated.clone(),
        };
        let configs = Configs::new(store, serve.configs.clone(), metrics.of_registry().clone());
        Plane {
            registry,
            configs: Arc::new(configs),
            kept,
            saving,
            session: Mutex::default(),
            issuing: OnceLock::new(),
            metrics: metrics.clone(),
            draining: Arc::default(),
            closing: watch::Sender::new(false),
            watches: serve.registry.limits.watches.get(),
            address: serve.address.clone(),
        }
    }

    /// What it takes to serve it on `socket`.
    ///
    /// # Errors
    ///
    /// The runtime cannot take the socket.
    pub(crate) fn prepare(&self, socket: std::net::TcpListener, current: &Current) -> io::Result<Prepared> {
        if let (Some(shared), Ok(address)) = (self.registry.shared(), socket.local_addr()) {
            shared.listens_at(address.port());
        }
        let snapshot = current.pin();
        let control = snapshot.control.as_ref();
        let tls = control.and_then(|control| control.tls.as_ref()).map(|_| {
            let current = current.clone();
            Tls::Following(Box::new(move || {
                let snapshot = current.pin();
                Some(snapshot.control.as_ref()?.tls.as_ref()?.shared().clone())
            }))
        });
        let socket = api::Prepared::new(socket, tls)?;
        let watches = Arc::new(Semaphore::new(self.watches));
        let seats = Seats::new(watches.clone(), self.metrics.of_registry().clone());
        let gate = Gate::default();
        let feed = Feed {
            registry: self.registry.clone(),
            gate: gate.clone(),
            seats: seats.clone(),
            closing: self.closing.subscribe(),
        };
        let follow = Follow {
            configs: self.configs.clone(),
            gate: Gate::default(),
            seats: seats.clone(),
            closing: self.closing.subscribe(),
        };
        let feed = Arc::new(feed);
        let access = Access::new(control.map(|control| control.rules.clone()).unwrap_or_default());
        let issuing = self.issuing(current);
        let authority = grpc::authority(issuing.clone(), seats.clone(), self.closing.subscribe());
        let mut services = vec![
            grpc::registry(feed.clone()),
            grpc::peers(feed, self.configs.clone()),
            grpc::configs(Arc::new(follow)),
            authority,
        ];
        let (draining, closing) = (self.draining.clone(), self.closing.subscribe());
        services.push(grpc::health(&services, self.registry.clone(), seats.clone(), draining, closing));
        let api = Arc::new(Api {
            grpc: Grpc::new(services, seats, self.registry.clone()),
            issuing,
            registry: self.registry.clone(),
            configs: self.configs.clone(),
            access: match self.registry.shared() {
                Some(_) => access.with_replicas(current.clone()),
                None => access,
            },
            is_loopback: socket.is_loopback(),
            draining: self.draining.clone(),
            closing: self.closing.subscribe(),
            watches,
            gate,
            all_metrics: self.metrics.clone(),
            metrics: self.metrics.of_registry().clone(),
        });
        Ok(Prepared { socket, api, terms: self.terms() })
    }

    fn issuing(&self, current: &Current) -> Option<Arc<Issuing>> {
        let snapshot = current.pin();
        let issue = snapshot.config.serves_control()?.issue?;
        // One that issues has it, or is refused.
        let state_dir = snapshot.config.state_dir.as_deref()?;
        let issuing = self.issuing.get_or_init(|| {
            let metrics = self.metrics.of_registry().clone();
            let tokens = match self.registry.shared() {
                Some(shared) => Tokens::sharing(shared.clone()),
                None => Tokens::within(state_dir),
            };
            Arc::new(Issuing::new(tokens, current.clone(), issue.ttl.into(), metrics))
        });
        Some(issuing.clone())
    }

    /// For those who look over the admin API.
    pub(crate) fn shown(&self) -> ShownPlane {
        ShownPlane {
            registry: self.registry.clone(),
            configs: self.configs.clone(),
            address: self.address.clone(),
        }
    }

    /// What is registered, for this very process.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.registry.clone()
    }

    /// Reads a store that is shared from now on, and hears of its changes. Others are reached by `reach`.
    pub(crate) fn connect(&self, reach: impl FnOnce() -> Reach) {
        let Some(shared) = self.registry.shared() else { return };
        let session = tokio::spawn(shared.clone().run(self.registry.clone(), self.closing.subscribe()));
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        let reach = Arc::new(reach());
        if let Kept::ForAll(kept) = &self.kept {
            kept.reached_by(reach.clone());
        }
        tokio::spawn(peers::run(shared.clone(), self.registry.clone(), reach));
    }

    /// The other replicas are told that this one is gone.
    pub(crate) async fn leave(&self) {
        self.end();
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(session) = session {
            let _ = tokio::time::timeout(LEAVING, session).await;
        }
    }

    /// Looks at the clocks and writes the state down, in the background.
    pub(crate) fn start(&self) {
        tokio::spawn(self.registry.clone().run());
        tokio::spawn(self.configs.clone().run());
        if let Some(saving) = &self.saving {
            tokio::spawn(saving.clone().run());
        }
    }

    /// What the predecessor has written down last.
    pub(crate) fn catch_up(&self) {
        self.tokens().for_each(Tokens::catch_up);
        let saved = self.saving.as_ref().and_then(|saving| saving.read());
        if let Some(instances) = saved {
            self.registry.replace(instances, Instant::now());
        }
    }

    /// A successor goes on from here: write everything down, and nothing more after that.
    pub(crate) fn give_away(&self) {
        if let Kept::Here(kept) = &self.kept {
            kept.give_away();
        }
        self.tokens().for_each(Tokens::give_away);
        if let Some(saving) = &self.saving {
            saving.give_away();
        }
    }

    /// The successor did not go on.
    pub(crate) fn take_back(&self) {
        if let Kept::Here(kept) = &self.kept {
            kept.take_back();
        }
        self.tokens().for_each(Tokens::take_back);
        if let Some(saving) = &self.saving {
            saving.take_back();
        }
    }

    /// Say that it is about to end.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// End the watches, and write everything down.
    pub(crate) fn end(&self) {
        self.closing.send_replace(true);
        if let Some(saving) = &self.saving {
            saving.save();
        }
    }

    fn tokens(&self) -> impl Iterator<Item = &Tokens> {
        self.issuing.get().into_iter().map(|issuing| issuing.tokens())
    }

    fn terms(&self) -> Terms {
        let (open, evicted) = self.metrics.of_registry().connections();
        // Beside the watches, those who register and renew.
        let places = self.watches + 10_000;
        Terms {
            key: KEY,
            setting: "control.serve.address",
            places,
            // Many machines come from one address where there is a gateway between, and all on loopback.
            strangers: places,
            lifetime: Duration::from_secs(600),
            jitter: 0.2,
            // A watch that began just before the end of its connection.
            last_answer: Duration::from_secs(750),
            streams: 1000,
            open,
            evicted,
        }
    }
}

impl Prepared {
    /// In the background.
    pub(crate) fn serve(self) -> api::Socket {
        self.socket.serve(self.api, self.terms)
    }
}

fn settings(serve: &ControlServe) -> Settings {
    let registry = &serve.registry;
    Settings {
        ttls: Ttls {
            default: registry.ttl.default.into(),
            min: registry.ttl.min.into(),
            max: registry.ttl.max.into(),
        },
        hold: match &registry.hold {
            HoldRule::Off(_) => None,
            HoldRule::On(hold) => Some(Hold {
                overdue: hold.overdue.as_f64(),
                of_service: hold.of_service.as_f64(),
                at_least: hold.at_least.get(),
                limit: hold.r#for.into(),
            }),
        },
        flapping: Flapping { turns: registry.flapping.turns.get(), window: registry.flapping.window.into() },
        instances: registry.limits.instances.get(),
        instances_per_service: registry.limits.instances_per_service.get(),
    }
}

/// A number that no process before has used: the time, in milliseconds.
fn new_epoch() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
