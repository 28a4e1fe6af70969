//! Names of hosts, wherever one is written: endpoints, authorization services, key sets, Redis. All of them are asked for in
//! one way, so that a name that works in one place works in each.
//!
//! The hosts file comes first: what stands there needs no name server. Then the system's name servers are asked. Both
//! files are followed ([`SystemResolver`]), because containers and VPNs rewrite them under a process that runs.

mod host;
mod hosts_file;
mod system;
#[cfg(test)]
pub(crate) mod tests;

use std::{fmt, net::IpAddr, time::Duration};

use async_trait::async_trait;

pub(crate) use self::host::check as check_host;
pub use self::system::{Files, SystemResolver};

/// Turns a host name into addresses.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// # Errors
    ///
    /// No address is known, in words for the operator.
    async fn resolve(&self, host: &str) -> Result<Resolved, ResolveError>;

    /// Where a service is, by its SRV records (RFC 2782).
    ///
    /// # Errors
    ///
    /// None is known, in words for the operator.
    async fn services(&self, _name: &str) -> Result<Services, ResolveError> {
        Err(ResolveError("nobody is asked for SRV records here".into()))
    }

    /// Another number each time when what this machine says about names has changed.
    fn edition(&self) -> u64 {
        0
    }

    /// Waits until the edition is another than `seen`: each answer from before is worth asking again.
    async fn changed(&self, _seen: u64) {
        std::future::pending().await
    }
}

/// An answer: at least one address, and how long it is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub addresses: Vec<IpAddr>,
    pub ttl: Duration,
}

/// An answer of SRV records. None of them says that the service is decidedly not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Services {
    pub records: Vec<ServiceRecord>,
    pub ttl: Duration,
}

/// One place where a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// The lowest comes first.
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    /// A host, without the dot at its end.
    pub target: String,
}

/// Why a name has no addresses; written for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolveError(pub String);

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ResolveError {}
