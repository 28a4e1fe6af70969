//! Where endpoints come from, beyond the addresses written in the file.

mod address;
mod dns;

use async_trait::async_trait;
use pingora_load_balancing::discovery::ServiceDiscovery;

pub use self::{
    address::{Address, BadAddress},
    dns::{Resolve, ResolveError, Resolved, SystemResolver},
};
pub(super) use self::{
    address::{is_hostname, name_of, unix_address},
    dns::Dns,
};

/// A source whose endpoints change while the gateway runs: DNS, or a registry.
///
/// `discover` answers the whole current set. An error keeps the set that was there before, so that a name server that
/// is down for a while takes nobody out. The endpoints it names as not enabled are kept, but sent nothing new.
/// An address that several sources name is one endpoint, and the larger weight counts.
#[async_trait]
pub trait EndpointSource: ServiceDiscovery + Send + Sync {
    /// Waits until `discover` is worth calling again. Dropped and called anew at any time.
    async fn changed(&self);
}
