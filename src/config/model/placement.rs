//! Which of an upstream's endpoints come first, and what comes after them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::{short_forms::or_upstream, units::HumanDuration};

/// A bare string is `upstream`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = or_upstream)]
pub struct Then {
    /// The upstream that stands in, with its own protocol, TLS and limits.
    pub upstream: String,
    /// How long endpoints must be usable again, without a break, before requests come back.
    #[serde(default = "stay")]
    pub stay: HumanDuration,
    /// How long it then takes until all requests are back. It begins with a tenth of them. 0s: all at once.
    #[serde(default = "recover")]
    pub recover: HumanDuration,
}

fn stay() -> HumanDuration {
    HumanDuration::from_secs(10)
}

fn recover() -> HumanDuration {
    HumanDuration::from_secs(30)
}

impl Then {
    pub fn at(upstream: impl Into<String>) -> Then {
        Then { upstream: upstream.into(), stay: stay(), recover: recover() }
    }
}
