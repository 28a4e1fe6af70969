//! Who speaks: SPIFFE IDs, the X509-SVID that proves ours, the bundles that prove others', and what a caller has proved
//! of itself.
//!
//! [`verify()`] is the one place where a certificate becomes an identity.

mod agent;
mod bundle;
pub mod ca;
mod caller;
mod error;
mod feed;
mod files;
mod id;
mod leaf;
mod live;
mod local;
mod pattern;
mod settings;
mod svid;
mod verify;
mod workload;

pub use spiffe::{SpiffeId, TrustDomain};

pub use self::{
    bundle::{Bundle, Bundles},
    caller::{Caller, Claims},
    error::{CaError, SvidError},
    id::{IdError, LONGEST_ID, parse_id, parse_trust_domain},
    leaf::{authority_domain, leaf_id},
    live::{Identity, Material, renewal},
    pattern::IdPattern,
    settings::{Fault, Part, Reading, Settings, Source},
    svid::Svid,
    verify::verify,
};

#[cfg(test)]
#[path = "../../tests/support/certificates.rs"]
pub(crate) mod certificates;
