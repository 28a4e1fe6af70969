//! What the operator writes, read with every problem reported at once as `file:line:column: path: message (hint)`.
//! YAML, and JSON with it (`document/json`), becomes a tree whose nodes know their places (`document/tree`, `node`). So do the values of
//! another origin, such as a registry, whose problems name it in place of a line (`origin`). References to variables
//! and files are expanded in the tree (`expand`), included files and what stands beside them (`received`, `parts`) are merged into it (`load`), and it is read into plain
//! serde types (`model`) again and again, each time without what was found wrong (`de`, `collect`).
//!
//! Where something was wrong, the tree lacks something (`omissions`), and no more is concluded from them.
//!
//! A [`Config`] is well-formed, not yet meaningful: names are resolved and filters built by the snapshot, which
//! reads filters' options through [`Sources::read`] and reports through [`Sources::problem`].

mod document;
mod model;
mod schema;
#[cfg(test)]
mod tests;

pub use document::effective::Effective;
pub use document::foreign::{Foreign, ForeignValue, foreign};
pub use document::form::{Form, Received, check_form};
pub use document::load::{from_value, load, load_beside, parse, parse_beside, parse_unread};
pub use document::loaded::Loaded;
pub use document::meant::{VARIABLES, unknown_filter};
pub use document::origin::Origin;
pub use document::parts::{
    EndpointOrder, EndpointOrders, OrderedEndpoint, Part, PartKind, PartName, Parts, Stamp,
};
pub use document::problem::{Location, MOST_PROBLEMS, Path, Problem, Problems, Segment, suggest};
pub use document::received::{Additions, Document, ReceivedConfig};
pub use document::sources::{Sources, UNREAD, unread};
pub use model::acme::*;
pub use model::admin::*;
pub use model::affinity::*;
pub use model::control::*;
pub use model::control_join::*;
pub use model::control_serve::*;
pub use model::defaults::Defaults;
pub use model::error_pages::*;
pub use model::forwarded::*;
pub use model::health_check::*;
pub use model::identity::*;
pub use model::limits::*;
pub use model::listener::*;
pub use model::log_targets::*;
pub use model::logging::*;
pub use model::metrics::*;
pub use model::mirrors::Mirrors;
pub use model::one_or_map::networks;
pub use model::otlp::*;
pub use model::placement::*;
pub use model::plugins::*;
pub use model::proxy_protocol::*;
pub use model::redis::*;
pub use model::rollout::*;
pub use model::route::*;
pub use model::shared_storage::*;
pub use model::sidecar::*;
pub use model::sni::*;
pub use model::systemd::systemd_name;
pub use model::tls::*;
pub use model::tracing::*;
pub use model::traffic::*;
pub use model::units::{ByteSize, HumanDuration, MemoryLimit, MinRate, Rate, RateUnit, Ratio, Secret};
pub use model::unix::{FileMode, unix_path};
pub use model::upstream::*;
pub use model::upstream_tls::*;
pub use model::*;
pub use schema::schema_of;
