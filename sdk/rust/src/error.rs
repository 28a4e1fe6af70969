//! What can go wrong, for whoever calls.

use std::{fmt, time::Duration};

/// Why something did not work. It never holds a token or a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The client cannot be made like this.
    Setup(String),
    /// No server of the control plane has answered.
    Unreachable(String),
    /// The control plane says no.
    #[non_exhaustive]
    Refused {
        /// The status of HTTP.
        status: u16,
        /// One word of a closed list, such as `not_yours`; empty where something else than a control plane has answered.
        reason: String,
        /// What is wrong, and what to do.
        detail: String,
        /// When it is worth asking again, where the control plane says so.
        retry_after: Option<Duration>,
    },
    /// The answer makes no sense.
    Unreadable(String),
}

impl Error {
    /// Asking again changes nothing: whoever asks has to.
    pub fn is_permanent(&self) -> bool {
        match self {
            Error::Setup(_) => true,
            Error::Refused { reason, .. } => {
                ["bad_request", "unauthenticated", "not_yours", "conflict", "too_large"]
                    .contains(&reason.as_str())
            }
            Error::Unreachable(_) | Error::Unreadable(_) => false,
        }
    }

    pub(crate) fn is_not_registered(&self) -> bool {
        matches!(self, Error::Refused { reason, .. } if reason == "not_registered")
    }

    pub(crate) fn retry_after(&self) -> Duration {
        match self {
            Error::Refused { retry_after: Some(after), .. } => *after,
            _ => Duration::ZERO,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Setup(why) => f.write_str(why),
            Error::Unreachable(why) => write!(f, "no control plane answers: {why}"),
            Error::Refused { status, reason, detail, .. } if reason.is_empty() => {
                write!(f, "refused with {status}: {detail}")
            }
            Error::Refused { reason, detail, .. } => write!(f, "refused: {detail} ({reason})"),
            Error::Unreadable(why) => write!(f, "the answer is not a control plane's: {why}"),
        }
    }
}

impl std::error::Error for Error {}
