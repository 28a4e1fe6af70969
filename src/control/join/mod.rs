//! A gateway that has a control plane: it follows the services that its upstreams name, and announces what it serves. The plane
//! is another machine's, or this very process's.
//!
//! Nothing here is on a request's way, and no failure here takes an endpoint out: what is known stays until something else is
//! heard.

mod announcer;
mod config;
mod follow;
mod held;
mod held_config;
mod issue;
mod known;
pub(super) mod link;
mod local;
mod register;
mod services;
mod streams;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

pub(crate) use self::{
    config::{Counting, Kind, Order, Served},
    held_config::HeldConfig,
};

pub(crate) use self::issue::Signed;
use self::{
    announcer::{Announcer, Joined},
    config::{Known, Receiver},
    follow::Follower,
    held::Held,
    link::{Link, Who},
    register::Registrar,
    services::Services,
};
use super::registry::Registry;
use crate::{
    config::{Admin, Config, Join},
    names::Resolve,
    observe::metrics::MemberMetrics,
    snapshot::Current,
    upstream::{Directory, Live},
    wire::v1,
};

/// An application that goes serves for at least so long after it was taken out: others hear of it by then.
const TAKEN_OUT: Duration = Duration::from_secs(5);
/// A registry in this process answers at once.
const OWN: Duration = Duration::from_secs(1);

pub(crate) struct Member {
    services: Arc<Services>,
    held: Option<Arc<Held>>,
    metrics: MemberMetrics,
    release: &'static str,
    tasks: OnceLock<Vec<JoinHandle<()>>>,
    /// Of the task that takes configurations.
    receiving: OnceLock<JoinHandle<()>>,
    registrar: OnceLock<Registrar>,
    link: OnceLock<Arc<Link>>,
    started: SystemTime,
}

/// The configurations that a control plane gives. Whoever carries the orders out answers them.
pub(crate) struct Configurations {
    orders: mpsc::Receiver<Order>,
    heard: watch::Receiver<bool>,
}

/// Whose registry it is.
pub(crate) enum Plane {
    Own(Arc<Registry>),
    Joined(Box<Join>),
}

impl Member {
    /// Follows nobody yet: endpoints are what was held, once that counts.
    pub(crate) fn new(config: &Config, metrics: MemberMetrics, release: &'static str) -> Member {
        let joins = config.control.as_ref().is_some_and(|control| control.join.is_some());
        let state_dir = config.state_dir.as_deref().filter(|_| joins);
        let held = state_dir.map(|directory: &Path| Arc::new(Held::new(directory)));
        let standing = held.as_ref().map(|held| held.read(release)).unwrap_or_default();
        Member {
            services: Arc::new(Services::new(standing, metrics.clone())),
            held,
            metrics,
            release,
            tasks: OnceLock::new(),
            receiving: OnceLock::new(),
            registrar: OnceLock::new(),
            link: OnceLock::new(),
            started: SystemTime::now(),
        }
    }

    /// Where upstreams find the endpoints of services.
    pub(crate) fn directory(&self) -> Arc<dyn Directory> {
        self.services.clone()
    }

    /// Follows `plane` from now on. All that is asked for is to be known at the instant that is returned: longer than is
    /// configured nobody waits.
    pub(crate) fn follow(
        &self,
        plane: &Plane,
        current: &Current,
        live: &Live,
        names: Arc<dyn Resolve>,
    ) -> Instant {
        let mut tasks = Vec::new();
        let wait = match plane {
            Plane::Own(registry) => {
                tasks.push(tokio::spawn(local::follow(registry.clone(), self.services.clone())));
                self.metrics.connected(true);
                OWN
            }
            Plane::Joined(join) => {
                let who = || Who::Current(current.clone());
                let link = || Arc::new(Link::new(join, who(), live.clone(), names.clone()));
                let follower = Follower {
                    link: link(),
                    services: self.services.clone(),
                    hello: hello(join, &current.pin().config, self.release),
                    metrics: self.metrics.clone(),
                };
                tasks.push(tokio::spawn(follower.run()));
                // One of its own: a stream and a call fail each by themselves.
                let _ = self.link.set(link());
                join.wait.into()
            }
        };
        if let Some(held) = &self.held {
            tasks.push(tokio::spawn(held.clone().keep(self.services.clone(), self.release)));
        }
        let _ = self.tasks.set(tasks);
        Instant::now() + wait
    }

    /// Waits until something was heard of all services that are asked for; from `until` on, what was held counts.
    pub(crate) async fn settle(&self, until: Instant) {
        self.services.settle(until.saturating_duration_since(Instant::now())).await;
    }

    /// Takes configurations from now on, if one is wanted.
    pub(crate) fn receive(
        &self,
        plane: &Plane,
        current: &Current,
        live: &Live,
        names: Arc<dyn Resolve>,
        counting: Counting,
    ) -> Option<Configurations> {
        let Plane::Joined(join) = plane else { return None };
        let snapshot = current.pin();
        let (join, name) = (&**join, join.config.clone()?);
        let known = Known::beginning_with(snapshot.additions.received.as_deref());
        known.show(&self.metrics);
        let (orders, received) = mpsc::channel(1);
        let (heard, hearing) = watch::channel(false);
        let receiver = Receiver {
            link: Arc::new(Link::new(join, Who::Current(current.clone()), live.clone(), names)),
            hello: hello(join, &snapshot.config, self.release),
            name,
            secrets: join.secrets.clone().into(),
            started: self.started,
            known,
            orders,
            heard,
            counting,
            metrics: self.metrics.clone(),
        };
        let _ = self.receiving.set(tokio::spawn(receiver.run()));
        Some(Configurations { orders: received, heard: hearing })
    }

    /// Takes no configuration any more: this process is about to end.
    pub(crate) fn receive_no_more(&self) {
        self.receiving.get().into_iter().for_each(JoinHandle::abort);
    }

    /// Announces from now on what `current` says: it serves.
    pub(crate) fn announce(&self, plane: &Plane, current: &Current) {
        let wanted = register::wanted(&current.pin().config);
        if wanted.is_empty() {
            return;
        }
        let announcer = match (plane, self.link.get()) {
            (Plane::Own(registry), _) => Announcer::Own(registry.clone()),
            (Plane::Joined(_), Some(link)) => Announcer::Joined(Joined::new(link.clone())),
            (Plane::Joined(_), None) => return,
        };
        let _ =
            self.registrar.set(Registrar::start(wanted, announcer, current.clone(), self.metrics.clone()));
    }

    /// Takes out what was announced; for how long it is to be served on then.
    pub(crate) async fn leave(&self) -> Duration {
        let Some(registrar) = self.registrar.get() else { return Duration::ZERO };
        registrar.leave().await;
        TAKEN_OUT
    }

    /// Another process goes on with what was announced, and with what is held.
    pub(crate) fn give_away(&self) {
        self.write();
        if let Some(registrar) = self.registrar.get() {
            registrar.give_away();
        }
    }

    /// It does not come about.
    pub(crate) fn take_back(&self) {
        if let Some(registrar) = self.registrar.get() {
            registrar.take_back();
        }
    }

    /// Writes down what is known, as the process ends.
    pub(crate) fn write(&self) {
        if let Some(held) = &self.held {
            held.write(&self.services, self.release);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.tasks.get().into_iter().flatten().for_each(JoinHandle::abort);
        self.receive_no_more();
    }
}

impl Configurations {
    /// The next order. May be dropped and asked again.
    pub(crate) async fn next(&mut self) -> Order {
        match self.orders.recv().await {
            Some(order) => order,
            None => std::future::pending().await,
        }
    }

    /// Whether the control plane has said what it wants.
    pub(crate) fn is_heard(&self) -> bool {
        *self.heard.borrow()
    }

    /// The next order that comes before `until`; `None` where there is none, or nothing is to be put in force.
    pub(crate) async fn next_before(&mut self, until: Instant) -> Option<Order> {
        let settled = async {
            // Whoever could say so may have gone.
            if self.heard.wait_for(|heard| *heard).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            order = self.orders.recv() => order,
            () = settled => None,
            () = tokio::time::sleep_until(until) => None,
        }
    }
}

fn hello(join: &Join, config: &Config, release: &str) -> v1::Hello {
    let node = join.node.clone().unwrap_or_else(|| {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = match host.trim() {
            "" => "gateway",
            host => host,
        };
        match &config.admin {
            Admin::On(admin) => {
                format!("{host}:{}", admin.address.rsplit(':').next().unwrap_or_default())
            }
            Admin::Off(_) => format!("{host}:{}", std::process::id()),
        }
    });
    v1::Hello { node, labels: join.labels.clone().into_iter().collect(), version: release.to_owned() }
}
