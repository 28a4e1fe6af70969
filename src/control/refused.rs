//! Why a call of the control plane is refused: a closed list, and the face it has towards each kind of caller.

use std::{fmt, time::Duration};

use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wire::v1;

/// Each with words for whoever called: what is wrong, and what to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    pub(crate) why: String,
    /// Where HTTP has a finer word for it than the reason.
    pub(crate) status: Option<StatusCode>,
    /// Each mistake, where it is a configuration that is refused.
    pub(crate) problems: Vec<Located>,
}

/// What is wrong with a configuration, and where, as far as that is known.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct Located {
    /// The whole line, with the place.
    pub(crate) message: String,
    /// The configuration, or `NAME/upstreams/PART` or `NAME/routes/PART`; empty where it is none of them.
    pub(crate) document: String,
    /// From 1; 0 where there is none.
    pub(crate) line: u32,
    pub(crate) column: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    BadRequest,
    Unauthenticated,
    /// Another identity's service or instance.
    NotYours,
    NotRegistered,
    NotFound,
    /// The id stands for something else.
    Conflict,
    /// Somebody else has changed it meanwhile.
    Stale,
    TooLarge,
    /// A configuration that cannot be put in force.
    ConfigRejected,
    Limit,
    /// It cannot be kept, and nothing was changed.
    StoreUnavailable,
    /// What is kept was not read yet.
    Warming,
}

impl Reason {
    pub(crate) const ALL: [Reason; 12] = [
        Reason::BadRequest,
        Reason::Unauthenticated,
        Reason::NotYours,
        Reason::NotRegistered,
        Reason::NotFound,
        Reason::Conflict,
        Reason::Stale,
        Reason::TooLarge,
        Reason::ConfigRejected,
        Reason::Limit,
        Reason::StoreUnavailable,
        Reason::Warming,
    ];

    pub(crate) fn code(self) -> &'static str {
        match self {
            Reason::BadRequest => "bad_request",
            Reason::Unauthenticated => "unauthenticated",
            Reason::NotYours => "not_yours",
            Reason::NotRegistered => "not_registered",
            Reason::NotFound => "not_found",
            Reason::Conflict => "conflict",
            Reason::Stale => "stale",
            Reason::TooLarge => "too_large",
            Reason::ConfigRejected => "config_rejected",
            Reason::Limit => "limit",
            Reason::StoreUnavailable => "store_unavailable",
            Reason::Warming => "warming",
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        match self {
            Reason::BadRequest => StatusCode::BAD_REQUEST,
            Reason::Unauthenticated => StatusCode::UNAUTHORIZED,
            Reason::NotYours => StatusCode::FORBIDDEN,
            Reason::NotRegistered | Reason::NotFound => StatusCode::NOT_FOUND,
            Reason::Conflict => StatusCode::CONFLICT,
            Reason::Stale => StatusCode::PRECONDITION_FAILED,
            Reason::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Reason::ConfigRejected => StatusCode::UNPROCESSABLE_ENTITY,
            Reason::Limit => StatusCode::TOO_MANY_REQUESTS,
            Reason::StoreUnavailable | Reason::Warming => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// When it is worth asking again.
    pub(crate) fn retry_after(self) -> Option<Duration> {
        match self {
            Reason::Limit => Some(Duration::from_secs(10)),
            Reason::StoreUnavailable => Some(Duration::from_secs(5)),
            Reason::Warming => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    pub(crate) fn because(self, why: impl Into<String>) -> Refused {
        Refused { reason: self, why: why.into(), status: None, problems: Vec::new() }
    }
}

impl Refused {
    pub(crate) fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| self.reason.status())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.why, self.reason.code())
    }
}

impl Located {
    pub(crate) fn of(problem: v1::Problem) -> Located {
        let v1::Problem { message, document, line, column } = problem;
        Located { message, document, line, column }
    }

    pub(crate) fn wire(self) -> v1::Problem {
        let Located { message, document, line, column } = self;
        v1::Problem { message, document, line, column }
    }
}
