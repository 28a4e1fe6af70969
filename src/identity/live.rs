//! The identity in force: read by every handshake without a lock, replaced by whatever source it comes from.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::{runtime::Handle, sync::watch, task::JoinHandle};

use super::{
    Bundles, Issuer, Reading, Settings, Source, Svid,
    feed::Feed,
    issuer, local,
    workload::{self, Backoff},
};
use crate::observe::metrics::Metrics;

/// What one handshake needs, all of one moment.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// None until the source has given one.
    pub svid: Option<Arc<Svid>>,
    pub bundles: Bundles,
}

impl Material {
    /// Whether a handshake would see no difference.
    pub fn is_same(&self, other: &Material) -> bool {
        let print = |material: &Material| material.svid.as_ref().map(|svid| svid.fingerprint);
        print(self) == print(other) && self.bundles.is_same(&other.bundles)
    }
}

/// Who this gateway is, as of now. Whoever shakes hands asks for the current material each time.
#[derive(Debug)]
pub struct Identity {
    state: Arc<State>,
    /// What keeps it current, for as long as it lives.
    task: Option<JoinHandle<()>>,
}

/// What the source writes and handshakes read.
#[derive(Debug)]
pub(super) struct State {
    current: ArcSwap<Material>,
    changes: watch::Sender<u64>,
    /// When it changed last.
    changed: ArcSwapOption<SystemTime>,
    /// Why there is nothing new, while that is so.
    failing: ArcSwapOption<String>,
}

impl Identity {
    /// One that changes only when somebody [`replace`](Identity::replace)s it.
    pub fn new(material: Material) -> Identity {
        let state = State {
            current: ArcSwap::from_pointee(material),
            changes: watch::Sender::new(0),
            changed: ArcSwapOption::empty(),
            failing: ArcSwapOption::empty(),
        };
        Identity { state: Arc::new(state), task: None }
    }

    /// One that begins with what was read and follows its source from then on. `issuer` signs where that is a control plane.
    pub fn start(
        settings: Settings,
        reading: Reading,
        runtime: &Handle,
        metrics: &Arc<Metrics>,
        issuer: Option<Arc<dyn Issuer>>,
    ) -> Identity {
        let Reading { material, print, issued, .. } = reading;
        let mut identity = Identity::new(Material::default());
        let mut feed = Feed::new(identity.state.clone(), settings.clone(), metrics.clone());
        feed.put(material);
        let task = match &settings.source {
            Source::WorkloadApi { .. } => runtime.spawn(workload::follow(feed, print, Backoff::default())),
            Source::Files { .. } | Source::Ca { .. } => {
                runtime.spawn(local::follow(feed, print, SystemTime::now()))
            }
            Source::Control { .. } => {
                // One that nobody signs for stays as it is.
                let Some(issuer) = issuer else { return identity };
                runtime.spawn(issuer::follow(feed, print, issued, issuer))
            }
        };
        identity.task = Some(task);
        identity
    }

    /// Without a lock.
    pub fn current(&self) -> Arc<Material> {
        self.state.current()
    }

    /// A new number with each change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.state.subscribe()
    }

    /// Put `material` in force. Connections that stand keep what they were opened with.
    pub fn replace(&self, material: Material) {
        self.state.replace(material);
    }

    /// When it changed last.
    pub fn changed_at(&self) -> Option<SystemTime> {
        self.state.changed.load().as_deref().copied()
    }

    /// Why its source gives nothing new, while that is so.
    pub fn failing(&self) -> Option<Arc<String>> {
        self.state.failing.load_full()
    }

    /// Resolves once there is an SVID.
    pub async fn settled(&self) {
        let mut changes = self.subscribe();
        while self.current().svid.is_none() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl State {
    pub(crate) fn current(&self) -> Arc<Material> {
        self.current.load_full()
    }

    pub(super) fn fails(&self, why: Option<&str>) {
        self.failing.store(why.map(|why| Arc::new(why.to_owned())));
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn replace(&self, material: Material) {
        self.current.store(Arc::new(material));
        self.changed.store(Some(Arc::new(SystemTime::now())));
        self.changes.send_modify(|number| *number += 1);
    }
}

/// When to renew an SVID that was issued at `issued`: at half of its life, and one that lives for more than two hours at
/// latest an hour before its end. Whoever cannot renew in time has at least as long again to find out why.
pub fn renewal(issued: SystemTime, not_after: SystemTime) -> SystemTime {
    const LATEST: Duration = Duration::from_secs(3600);
    let life = not_after.duration_since(issued).unwrap_or_default();
    let latest = if life > 2 * LATEST { life - LATEST } else { life };
    issued + latest.min(life / 2)
}
