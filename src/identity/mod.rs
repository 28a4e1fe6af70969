//! Who speaks: SPIFFE IDs, the X509-SVID that proves ours, the bundles that prove others', and what a caller has proved
//! of itself.
//!
//! [`verify()`] is the one place where a certificate becomes an identity.

mod agent;
mod bundle;
pub mod ca;
mod caller;
pub mod csr;
mod error;
mod feed;
mod files;
pub(crate) mod fuzzing;
mod held;
mod hexadecimal;
mod id;
mod issuer;
mod join_token;
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
    held::within as held_within,
    id::{IdError, LONGEST_ID, parse_id, parse_trust_domain},
    issuer::{Authorities, Issued, Issuer, Proof},
    join_token::JoinToken,
    leaf::{authority_domain, leaf_id},
    live::{Identity, Material, renewal},
    pattern::IdPattern,
    settings::{Fault, Part, Reading, Settings, Source},
    svid::Svid,
    verify::verify,
};

pub(crate) use self::{
    hexadecimal::{hex, unhex},
    svid::ends,
};

#[cfg(test)]
#[path = "../../tests/support/certificates.rs"]
pub(crate) mod certificates;
