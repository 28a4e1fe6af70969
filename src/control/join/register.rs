//! What this process announces: each instance from the first moment that its application is well, and with its real health from
//! then on, until the process ends. Whoever forgets it is told again.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use super::announcer::{Announced, Announcer, Beat};
use crate::{
    config,
    control::access::own_service,
    observe::{log::event, metrics::MemberMetrics},
    policy::backoff::Backoff,
    snapshot::Current,
};

/// How often it is looked how the applications are.
const LOOK: Duration = Duration::from_millis(500);
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(10) };
/// Heartbeats are up to this share early or late, so that processes that began together do not go on so.
const JITTER: f64 = 0.1;
/// All instances are taken out within this time when the process ends.
const TO_LEAVE: Duration = Duration::from_secs(3);
const REMIND: Duration = Duration::from_secs(60);

/// What a process announces, before it is known of all of it how.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    Written(config::Registration),
    /// The sidecar's application, as the service that our SPIFFE ID names.
    Own {
        inbound: String,
    },
}

/// What the process tells the one that announces it.
enum Order {
    Leave(oneshot::Sender<()>),
    GiveAway,
    TakeBack,
}

/// Dropped, nothing more is announced.
pub(super) struct Registrar {
    orders: mpsc::Sender<Order>,
}

impl Registrar {
    /// Announces `wanted` from now on, on the present runtime.
    pub(super) fn start(
        wanted: Vec<Wanted>,
        announcer: Announcer,
        current: Current,
        metrics: MemberMetrics,
    ) -> Registrar {
        let (orders, received) = mpsc::channel(4);
        let instances = wanted.into_iter().map(Instance::new).collect();
        let task = Task { instances, announcer, current, metrics, is_given_away: false };
        tokio::spawn(task.run(received));
        Registrar { orders }
    }

    /// Takes all of it out. Bounded.
    pub(super) async fn leave(&self) {
        let (sender, done) = oneshot::channel();
        if self.orders.send(Order::Leave(sender)).await.is_ok() {
            let _ = tokio::time::timeout(TO_LEAVE, done).await;
        }
    }

    /// Another process announces the same from now on.
    pub(super) fn give_away(&self) {
        let _ = self.orders.try_send(Order::GiveAway);
    }

    pub(super) fn take_back(&self) {
        let _ = self.orders.try_send(Order::TakeBack);
    }
}

struct Task {
    instances: Vec<Instance>,
    announcer: Announcer,
    current: Current,
    metrics: MemberMetrics,
    is_given_away: bool,
}

struct Instance {
    wanted: Wanted,
    /// Known by this id, where it is registered.
    known: Option<Known>,
    failures: u32,
    /// Not before.
    next: Instant,
    told: Option<Instant>,
}

struct Known {
    id: String,
    service: String,
    every: Duration,
    is_healthy: bool,
    /// The next heartbeat, where nothing changes.
    due: Instant,
}

impl Instance {
    fn new(wanted: Wanted) -> Instance {
        Instance { wanted, known: None, failures: 0, next: Instant::now(), told: None }
    }
}

impl Task {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    None => return,
                    Some(Order::GiveAway) => self.is_given_away = true,
                    Some(Order::TakeBack) => self.is_given_away = false,
                    Some(Order::Leave(done)) => {
                        self.leave().await;
                        // Whoever asked may have gone on.
                        let _ = done.send(());
                        return;
                    }
                },
                () = tokio::time::sleep(LOOK) => {
                    if !self.is_given_away {
                        self.register().await;
                        self.beat().await;
                    }
                }
            }
        }
    }

    /// Those that are well and not registered.
    async fn register(&mut self) {
        for index in 0..self.instances.len() {
            let instance = &self.instances[index];
            if instance.known.is_some()
                || Instant::now() < instance.next
                || !self.is_healthy(&instance.wanted)
            {
                continue;
            }
            let registered = match self.announced(&self.instances[index].wanted).await {
                Ok(announced) => {
                    let registered = self.announcer.register(&announced).await;
                    registered.map(|(id, every)| (announced, id, every))
                }
                Err(why) => Err(why),
            };
            let instance = &mut self.instances[index];
            match registered {
                Ok((announced, id, every)) => {
                    event!(
                        Info,
                        "registered",
                        service = announced.service,
                        id = id,
                        address = announced.advertise
                    );
                    self.metrics.registration(&announced.service).set(1);
                    let due = Instant::now() + jittered(every);
                    let service = announced.service;
                    instance.known = Some(Known { id, service, every, is_healthy: true, due });
                    instance.failures = 0;
                }
                Err(why) => instance.failed("cannot register, trying again", &why),
            }
        }
    }

    /// One message for all that are due, or whose health has changed.
    async fn beat(&mut self) {
        let now = Instant::now();
        let mut beats = Vec::new();
        for instance in &self.instances {
            let Some(known) = instance.known.as_ref().filter(|_| now >= instance.next) else { continue };
            let is_healthy = self.is_healthy(&instance.wanted);
            if now >= known.due || is_healthy != known.is_healthy {
                beats.push(Beat { id: known.id.clone(), is_healthy });
            }
        }
        if beats.is_empty() {
            return;
        }
        let heard = self.announcer.beat(beats.clone()).await;
        for instance in &mut self.instances {
            let Some(known) = &mut instance.known else { continue };
            let Some(beat) = beats.iter().find(|beat| beat.id == known.id) else { continue };
            match &heard {
                Ok(forgotten) if forgotten.contains(&known.id) => {
                    event!(Warn, "the control plane has forgotten us, registering again", id = known.id);
                    self.metrics.registration(&known.service).set(0);
                    instance.known = None;
                }
                Ok(_) => {
                    if known.is_healthy != beat.is_healthy {
                        let health = if beat.is_healthy { "healthy" } else { "critical" };
                        event!(Info, "announced health has changed", id = known.id, health = health);
                    }
                    known.is_healthy = beat.is_healthy;
                    known.due = Instant::now() + jittered(known.every);
                    self.metrics.registration(&known.service).set(if beat.is_healthy { 1 } else { 2 });
                    instance.failures = 0;
                }
                Err(why) => instance.failed("no heartbeat gets through, trying again", why),
            }
        }
        // Those that were forgotten are not left out for longer than it takes to say so.
        self.register().await;
    }

    async fn leave(&mut self) {
        if self.is_given_away {
            return;
        }
        for known in self.instances.iter_mut().filter_map(|instance| instance.known.take()) {
            match self.announcer.deregister(known.id.clone()).await {
                Ok(()) => event!(Info, "deregistered", service = known.service, id = known.id),
                Err(why) => event!(Warn, "cannot deregister; it expires by itself", id = known.id, why = why),
            }
            self.metrics.registration(&known.service).set(0);
        }
    }

    /// Whether its application is well, as its upstream's probes and ejections have it.
    fn is_healthy(&self, wanted: &Wanted) -> bool {
        let upstream = match wanted {
            Wanted::Written(registration) => registration.upstream.as_deref(),
            Wanted::Own { .. } => Some("inbound"),
        };
        let Some(name) = upstream else { return true };
        self.current.pin().upstreams.get(name).is_some_and(|upstream| upstream.is_ready())
    }

    async fn announced(&self, wanted: &Wanted) -> Result<Announced, String> {
        match wanted {
            Wanted::Written(registration) => Ok(Announced {
                service: registration.service.clone(),
                advertise: registration.advertise.clone(),
                tags: registration.tags.clone(),
                metadata: registration.metadata.clone(),
                weight: registration.weight,
                ttl: registration.ttl.into(),
            }),
            Wanted::Own { inbound } => {
                let snapshot = self.current.pin();
                let identity = snapshot.identity.as_ref().ok_or("there is no identity to be named by")?;
                let material = identity.current();
                let svid = material.svid.as_ref().ok_or("our SVID has not arrived yet")?;
                let service = own_service(&svid.id)
                    .ok_or_else(|| format!("{} names no service (its path is not one of labels)", svid.id))?;
                let (advertise, ttl) = (self.advertised(inbound).await?, Duration::from_secs(30));
                let (tags, metadata) = (Vec::new(), Default::default());
                Ok(Announced { service, advertise, tags, metadata, weight: 1, ttl })
            }
        }
    }

    /// Where others reach what listens at `inbound`.
    async fn advertised(&self, inbound: &str) -> Result<String, String> {
        // As listeners have it: without a host it is every address.
        let full = if inbound.starts_with(':') { format!("0.0.0.0{inbound}") } else { inbound.to_owned() };
        let address: SocketAddr = full.parse().map_err(|_| format!("{inbound} is no address to announce"))?;
        if !address.ip().is_unspecified() {
            return Ok(address.to_string());
        }
        let own = self.announcer.own_address().await;
        let own = own.ok_or("this host's own address is not known; name one in `sidecar.inbound.address`")?;
        Ok(SocketAddr::new(own, address.port()).to_string())
    }
}

impl Instance {
    fn failed(&mut self, message: &'static str, why: &str) {
        self.failures += 1;
        let now = Instant::now();
        self.next = now + BACKOFF.delay(self.failures, &mut fastrand::Rng::new());
        if self.told.is_none_or(|told| now.saturating_duration_since(told) >= REMIND) {
            self.told = Some(now);
            event!(Warn, message, why = why);
        }
    }
}

fn jittered(every: Duration) -> Duration {
    every.mul_f64(1.0 + JITTER * (2.0 * fastrand::f64() - 1.0))
}

/// What `config` has this process announce.
pub(super) fn wanted(config: &config::Config) -> Vec<Wanted> {
    let written = config.control.iter().flat_map(|control| control.register.iter().cloned());
    let sidecar = config.sidecar.as_ref().and_then(|sidecar| sidecar.inbound.as_ref());
    let own = sidecar.filter(|inbound| inbound.register).and_then(|inbound| inbound.address.0.first());
    let own = own.map(|inbound| Wanted::Own { inbound: inbound.clone() });
    written.map(Wanted::Written).chain(own).collect()
}
