//! What the operator writes, read with every problem reported at once as `file:line:column: path: message (hint)`.
//! YAML, and JSON with it (`json`), becomes a tree whose nodes know their places (`tree`, `node`). So do the values of
//! another origin, such as a registry, whose problems name it in place of a line (`origin`). References to variables
//! and files are expanded in the tree (`expand`), included files are merged into it (`load`), and it is read into plain
//! serde types (`model`) again and again, each time without what was found wrong (`de`, `collect`).
//!
//! Where something was wrong, the tree has gaps (`gaps`), and no more is concluded from them.
//!
//! A [`Config`] is well-formed, not yet meaningful: names are resolved and filters built by the snapshot, which
//! reads filters' options through [`Sources::read`] and reports through [`Sources::problem`].

mod access;
mod collect;
mod de;
mod expand;
mod fault;
mod forms;
mod gaps;
mod identity;
mod json;
mod load;
mod loaded;
mod model;
mod node;
mod origin;
mod problem;
mod proxy_protocol;
mod schema;
mod sidecar;
mod sni;
mod sources;
#[cfg(test)]
mod tests;
mod tls;
mod traffic;
mod traffic_forms;
mod tree;
mod units;
mod unix;
mod upstream_tls;

pub use forms::networks;
pub use identity::*;
pub use load::{from_value, load, parse};
pub use loaded::Loaded;
pub use model::*;
pub use origin::Origin;
pub use problem::{Location, MOST_PROBLEMS, Path, Problem, Problems, Segment, suggest};
pub use proxy_protocol::*;
pub use schema::schema_of;
pub use sidecar::*;
pub use sni::*;
pub use sources::Sources;
pub use tls::*;
pub use traffic::*;
pub use units::{ByteSize, HumanDuration, Rate, Ratio, Secret};
pub use unix::{FileMode, unix_path};
pub use upstream_tls::*;
