//! A plugin with one configuration: what a step of a chain stands for. It has a context of its own in each instance.

use std::sync::Arc;

use super::{Failure, Plugin, Stream};

pub(crate) struct Root {
    pub(super) plugin: Arc<Plugin>,
    pub(super) number: u64,
    pub(super) config: Arc<[u8]>,
}

impl Root {
    pub(crate) fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// A context for one request.
    ///
    /// # Errors
    ///
    /// No instance is ready, or it fails.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Stream, Failure> {
        Plugin::enter(self)
    }
}

impl Drop for Root {
    /// The last request that held it is over.
    fn drop(&mut self) {
        self.plugin.remove_root(self.number);
    }
}
