//! A gateway that has a control plane: it follows the services that its upstreams name, and announces what it serves. The plane
//! is another machine's, or this very process's.
//!
//! Nothing here is on a request's way, and no failure here takes an endpoint out: what is known stays until something else is
//! heard.

mod announcer;
mod follow;
mod held;
mod known;
mod link;
mod local;
mod register;
mod services;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::task::JoinHandle;

use self::{
    announcer::{Announcer, Joined},
    follow::Follower,
    held::Held,
    link::Link,
    register::Registrar,
    services::Services,
};
use super::registry::Registry;
use crate::{
    config::{self, Config},
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
    registrar: OnceLock<Registrar>,
    link: OnceLock<Arc<Link>>,
}

/// Whose registry it is.
pub(crate) enum Plane {
    Own(Arc<Registry>),
    Joined(Box<config::Join>),
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
            registrar: OnceLock::new(),
            link: OnceLock::new(),
        }
    }

    /// Where upstreams find the endpoints of services.
    pub(crate) fn directory(&self) -> Arc<dyn Directory> {
        self.services.clone()
    }

    /// Follows `plane` from now on, and waits until all is known that is asked for; not for longer than is configured.
    pub(crate) async fn follow(
        &self,
        plane: &Plane,
        current: &Current,
        live: &Live,
        names: Arc<dyn Resolve>,
    ) {
        let mut tasks = Vec::new();
        let wait = match plane {
            Plane::Own(registry) => {
                tasks.push(tokio::spawn(local::follow(registry.clone(), self.services.clone())));
                self.metrics.connected(true);
                OWN
            }
            Plane::Joined(join) => {
                let link = || Link::new(join, current.clone(), live.clone(), names.clone());
                let follower = Follower {
                    link: Arc::new(link()),
                    services: self.services.clone(),
                    hello: hello(join, &current.pin().config, self.release),
                    metrics: self.metrics.clone(),
                };
                tasks.push(tokio::spawn(follower.run()));
                // One of its own: a stream and a call fail each by themselves.
                let _ = self.link.set(Arc::new(link()));
                join.wait.into()
            }
        };
        if let Some(held) = &self.held {
            tasks.push(tokio::spawn(held.clone().keep(self.services.clone(), self.release)));
        }
        let _ = self.tasks.set(tasks);
        self.services.settle(wait).await;
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
    }
}

fn hello(join: &config::Join, config: &Config, release: &str) -> v1::Hello {
    let node = join.node.clone().unwrap_or_else(|| {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = match host.trim() {
            "" => "gateway",
            host => host,
        };
        match &config.admin {
            config::Admin::On(admin) => {
                format!("{host}:{}", admin.address.rsplit(':').next().unwrap_or_default())
            }
            config::Admin::Off(_) => format!("{host}:{}", std::process::id()),
        }
    });
    v1::Hello { node, labels: join.labels.clone().into_iter().collect(), version: release.to_owned() }
}
