//! The identity in force: read by every handshake without a lock, replaced by whatever source it comes from.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{Bundles, Svid};

/// What one handshake needs, all of one moment.
#[derive(Debug, Default)]
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
    current: ArcSwap<Material>,
    changes: watch::Sender<u64>,
}

impl Identity {
    /// One that changes only when somebody [`replace`](Identity::replace)s it.
    pub fn new(material: Material) -> Identity {
        Identity { current: ArcSwap::from_pointee(material), changes: watch::Sender::new(0) }
    }

    /// Without a lock.
    pub fn current(&self) -> Arc<Material> {
        self.current.load_full()
    }

    /// A new number with each change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Put `material` in force. Connections that stand keep what they were opened with.
    pub fn replace(&self, material: Material) {
        self.current.store(Arc::new(material));
        self.changes.send_modify(|number| *number += 1);
    }
}
