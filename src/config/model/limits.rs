//! `limits`: what the whole process may take.

use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::units::MemoryLimit;

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessLimits {
    /// Memory at which new requests are refused and idle connections end, or `off`. Default: half of what its control group or
    /// the machine has.
    pub memory: Option<MemoryLimit>,
    /// Responses that are compressed at once; others go as they are. Default: as many as have room in an eighth of `memory`.
    pub encoders: Option<NonZeroUsize>,
}
