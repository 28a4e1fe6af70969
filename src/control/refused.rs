//! Why a call of the control plane is refused: a closed list, and the face it has towards each kind of caller.

use std::{fmt, time::Duration};

use http::StatusCode;

/// Each with words for whoever called: what is wrong, and what to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    pub(crate) why: String,
    /// Where HTTP has a finer word for it than the reason.
    pub(crate) status: Option<StatusCode>,
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
    TooLarge,
    Limit,
}

impl Reason {
    pub(crate) const ALL: [Reason; 8] = [
        Reason::BadRequest,
        Reason::Unauthenticated,
        Reason::NotYours,
        Reason::NotRegistered,
        Reason::NotFound,
        Reason::Conflict,
        Reason::TooLarge,
        Reason::Limit,
    ];

    pub(crate) fn code(self) -> &'static str {
        match self {
            Reason::BadRequest => "bad_request",
            Reason::Unauthenticated => "unauthenticated",
            Reason::NotYours => "not_yours",
            Reason::NotRegistered => "not_registered",
            Reason::NotFound => "not_found",
            Reason::Conflict => "conflict",
            Reason::TooLarge => "too_large",
            Reason::Limit => "limit",
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        match self {
            Reason::BadRequest => StatusCode::BAD_REQUEST,
            Reason::Unauthenticated => StatusCode::UNAUTHORIZED,
            Reason::NotYours => StatusCode::FORBIDDEN,
            Reason::NotRegistered | Reason::NotFound => StatusCode::NOT_FOUND,
            Reason::Conflict => StatusCode::CONFLICT,
            Reason::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Reason::Limit => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// When it is worth asking again.
    pub(crate) fn retry_after(self) -> Option<Duration> {
        (self == Reason::Limit).then_some(Duration::from_secs(10))
    }

    pub(crate) fn because(self, why: impl Into<String>) -> Refused {
        Refused { reason: self, why: why.into(), status: None }
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
