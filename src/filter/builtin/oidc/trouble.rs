//! Why somebody is not let in, or a login comes to nothing: a word for the access log and the metric, and what the client gets. Neither
//! repeats what the browser or the provider has sent.

use std::sync::Arc;

use crate::{
    error::Reason,
    fetch::{self, Undiscovered},
    filter::builtin::jwt::Refusal,
};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Trouble {
    /// There is no session.
    Missing,
    /// Some of the session's cookies are missing.
    Cut,
    /// The session was not sealed here, or with a secret that is gone.
    Forged,
    /// The session is as old as it may become.
    Over,
    /// The provider has ended the session: by a back-channel logout, or as it refuses to renew it.
    LoggedOut,
    /// The state of a login is missing, not from here, or another browser's.
    State,
    /// The login took too long.
    Late,
    /// The answer is not of the provider that was asked.
    MixedUp,
    /// The provider has not let the user in.
    Denied,
    /// The code is missing, or the provider does not take it: it was used before, or is another client's.
    Code,
    /// The provider does not know us by our `client_id` and `client_secret`.
    Client,
    /// The ID token is not the answer to this login.
    Nonce,
    /// The ID token was issued to another client.
    Party,
    /// The provider now speaks of another user.
    Subject,
    /// A logout token that is none.
    LogoutToken,
    /// A logout token that has counted already.
    Replayed,
    /// The session does not fit into cookies.
    TooLarge,
    /// The token is refused for the reasons that any is.
    Token(Refusal),
    /// Another site sent the browser to the logout.
    CrossSite,
    /// The provider cannot be asked, or answers what makes no sense: why.
    Unavailable(Arc<str>),
    /// So many questions are under way.
    Overloaded,
    Internal,
}

impl Trouble {
    /// The word in the access log and the metric.
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Trouble::Missing => "missing",
            Trouble::Cut => "cookie_cut",
            Trouble::Forged => "cookie_forged",
            Trouble::Over => "session_over",
            Trouble::LoggedOut => "logged_out",
            Trouble::State => "state",
            Trouble::Late => "late",
            Trouble::MixedUp => "mixed_up",
            Trouble::Denied => "denied",
            Trouble::Code => "code",
            Trouble::Client => "client",
            Trouble::Nonce => "nonce",
            Trouble::Party => "party",
            Trouble::Subject => "subject",
            Trouble::LogoutToken => "logout_token",
            Trouble::Replayed => "replayed",
            Trouble::TooLarge => "session_too_large",
            Trouble::Token(Refusal::NoKeys) => "no_keys",
            Trouble::Token(refusal) => refusal.code(),
            Trouble::CrossSite => "cross_site",
            Trouble::Unavailable(_) => "unavailable",
            Trouble::Overloaded => "overloaded",
            Trouble::Internal => "internal",
        }
    }

    /// What the client is told where a login, or a logout, comes to nothing.
    pub(super) const fn reason(&self) -> Reason {
        match self {
            Trouble::Unavailable(_) | Trouble::Client | Trouble::Token(Refusal::NoKeys) => {
                Reason::AuthUnavailable
            }
            Trouble::Overloaded => Reason::Overloaded,
            Trouble::Internal => Reason::Internal,
            Trouble::CrossSite => Reason::Forbidden,
            Trouble::LogoutToken | Trouble::Replayed => Reason::BadRequest,
            _ => Reason::LoginFailed,
        }
    }

    /// What an operator has to act on, and reads in the log.
    pub(super) fn to_act_on(&self) -> Option<&str> {
        match self {
            Trouble::Unavailable(why) => Some(why),
            Trouble::Client => Some(
                "the provider does not take our client_id and client_secret (compare them with its registration)",
            ),
            Trouble::TooLarge => Some(
                "a session does not fit into its cookies (have the provider send fewer claims, such as groups; turn \
                 `userinfo` or `forward_token` off)",
            ),
            Trouble::Token(Refusal::NoKeys) => Some("the provider's keys cannot be read"),
            _ => None,
        }
    }

    /// Whether asking the provider again may help, so that a session outlives it.
    pub(super) const fn passes(&self) -> bool {
        matches!(self.reason(), Reason::AuthUnavailable | Reason::Overloaded | Reason::Internal)
    }

    pub(super) fn unavailable(why: impl Into<Arc<str>>) -> Trouble {
        Trouble::Unavailable(why.into())
    }
}

impl From<fetch::Error> for Trouble {
    fn from(error: fetch::Error) -> Trouble {
        Trouble::unavailable(error.to_string())
    }
}

impl From<Undiscovered> for Trouble {
    fn from(undiscovered: Undiscovered) -> Trouble {
        Trouble::unavailable(undiscovered.why)
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Trouble {
        Trouble::Token(refusal)
    }
}

impl From<openssl::error::ErrorStack> for Trouble {
    fn from(_: openssl::error::ErrorStack) -> Trouble {
        Trouble::Internal
    }
}
