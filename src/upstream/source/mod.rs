//! Where endpoints come from. A line of `endpoints` is of one of a few kinds; each kind is one file here and one line in
//! the table [`KINDS`], and the pool knows none of them. A kind answers what it has [`Found`], once and for good or
//! again and again; merging, weights and what survives a change are the pool's. A line that is no address is a selector of a registry.

mod address;
mod dns;
mod fixed;
mod registry;
mod srv;
mod unix;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;

use super::{Live, Refusal};
use crate::{config, identity::SpiffeId};

pub use self::address::{Address, BadAddress};
pub(super) use self::{address::name_of, registry::selector};

/// A source whose endpoints change while the gateway runs: DNS, or a registry.
#[async_trait]
pub trait EndpointSource: Send + Sync {
    /// Whom it asks for, as logs and metrics call it.
    fn name(&self) -> &str;

    /// The whole current set, in any order. An address that several sources name is one endpoint, and the larger weight
    /// counts.
    ///
    /// # Errors
    ///
    /// Why nothing is known, in words for the operator. The set that was there before stays, so that a name server that
    /// is down for a while takes nobody out.
    async fn discover(&self) -> Result<Vec<Found>, String>;

    /// Waits until `discover` is worth calling again. Dropped and called anew at any time.
    async fn changed(&self);

    /// Whether it asks for a host's name, which is counted as such. Others tell by themselves what goes wrong.
    fn is_lookup(&self) -> bool {
        true
    }
}

/// An endpoint as its source tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub address: PeerAddress,
    /// Among those of its source, which share the weight of their line: the two are multiplied.
    pub weight: u32,
    /// Where the source says it: the lowest comes first, others get what those before cannot take. `None`: that of its line.
    pub priority: Option<u16>,
    /// `Some(false)` keeps it, with its state, but sends it nothing new. `None` where the source knows nothing of it.
    /// Health checks decide beside it.
    pub healthy: Option<bool>,
    /// What the source says of it beside, by name.
    pub metadata: BTreeMap<String, String>,
    /// The address it is known by, which becomes the host and the SNI of what is asked of it. `None`: that of its line.
    pub origin: Option<Arc<str>>,
    /// Who has registered it, where that was proved by an SVID.
    pub owner: Option<SpiffeId>,
}

impl Found {
    /// One like any other, of which no more than the address is known.
    pub fn at(address: impl Into<PeerAddress>) -> Found {
        Found {
            address: address.into(),
            weight: 1,
            priority: None,
            healthy: None,
            metadata: BTreeMap::new(),
            origin: None,
            owner: None,
        }
    }
}

/// What stands behind one line of `endpoints`.
pub(super) enum Supply {
    /// Known at once, and it never changes.
    Fixed(Vec<Found>),
    Followed(Box<dyn EndpointSource>),
}

/// A line of `endpoints` that is an address, and what sources need to live.
struct Line<'a> {
    address: Address,
    live: &'a Live,
}

/// What a line is known by: pools that follow each other go on by it.
pub(super) fn origin_of(endpoint: &config::Endpoint) -> Arc<str> {
    match &endpoint.origin {
        config::EndpointOrigin::Address { address } => address.as_str().into(),
        config::EndpointOrigin::Srv(endpoint) => endpoint.srv.as_str().into(),
        // One that is none is refused.
        config::EndpointOrigin::Registry(endpoint) => selector(endpoint)
            .map_or_else(|_| endpoint.registry.clone(), |selector| selector.to_string())
            .into(),
    }
}

/// Makes what stands behind a line of its kind; `None` for those of other kinds.
type Kind = fn(&Line<'_>) -> Option<Supply>;

const KINDS: [Kind; 3] = [fixed::supply, dns::supply, unix::supply];

/// What stands behind `endpoint`. Looks nothing up yet.
///
/// # Errors
///
/// What cannot work, by its path within the endpoint.
pub(super) fn of(endpoint: &config::Endpoint, live: &Live) -> Result<Supply, Refusal> {
    let refuse = |bad: BadAddress| Refusal { path: "address".into(), why: bad.to_string() };
    let address = match &endpoint.origin {
        config::EndpointOrigin::Address { address } => address.parse().map_err(refuse)?,
        config::EndpointOrigin::Srv(endpoint) => return srv::supply(endpoint, live),
        config::EndpointOrigin::Registry(endpoint) => return registry::supply(endpoint, live),
    };
    let line = Line { address, live };
    let supply = KINDS.iter().find_map(|kind| kind(&line));
    Ok(supply.expect("each kind of address has its line in KINDS"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::SystemResolver;

    #[test]
    fn each_kind_of_address_has_its_source_and_only_names_are_followed() {
        let live = Live::offline(Arc::new(SystemResolver::new()), Arc::new(()));
        for (address, is_followed) in
            [("127.0.0.1:80", false), ("[::1]:80", false), ("unix:/run/app.sock", false), ("users:80", true)]
        {
            let endpoint = config::Endpoint::at(address, 1);
            match of(&endpoint, &live).ok() {
                Some(Supply::Fixed(found)) => {
                    assert!(!is_followed, "{address}");
                    assert_eq!(found.len(), 1, "{address}");
                    assert_eq!(&*name_of(&found[0].address), address);
                }
                Some(Supply::Followed(source)) => {
                    assert!(is_followed, "{address}");
                    assert_eq!(source.name(), "users");
                }
                None => panic!("{address} is refused"),
            }
        }
    }
}
