//! Who speaks: SPIFFE IDs, and what a caller has proved of itself.

mod caller;

pub use caller::{Caller, Claims};
pub use spiffe::{SpiffeId, TrustDomain};
