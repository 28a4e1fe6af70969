//! Why there is no certificate: one closed list, the same word in the log, the metrics and the admin API.

use std::{fmt, time::Duration};

use crate::fetch;

/// The CA's own words are never longer than this in ours.
const LONGEST: usize = 400;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Trouble {
    pub reason: Reason,
    pub why: String,
    /// So long the CA wants to be left alone.
    pub retry_after: Option<Duration>,
}

/// In one table with its word and what to do next.
macro_rules! reasons {
    ($($name:ident, $word:literal, $hint:literal;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Reason {
            $($name,)*
        }

        impl Reason {
            /// For logs, metrics and the API.
            pub(crate) const fn word(self) -> &'static str {
                match self { $(Reason::$name => $word,)* }
            }

            pub(crate) const fn hint(self) -> &'static str {
                match self { $(Reason::$name => $hint,)* }
            }
        }
    };
}

reasons! {
    Unreachable, "unreachable", "is the CA's `directory` right, and may this machine connect to it?";
    Timeout, "timeout", "the CA did not finish in time; raise `order_timeout` if it is always that slow";
    BadAnswer, "bad_answer", "is `directory` the URL of an ACME directory?";
    ForeignUrl, "foreign_url", "a CA names only URLs of its own host; use another CA";
    NonceStorm, "nonce_storm", "the CA refuses its own nonces; it is broken, and is asked again later";
    RateLimited, "rate_limited", "the CA's limits are passed; it is asked again when it allows";
    AccountRefused, "account_refused", "look at `email` and `eab`, and at the CA's terms";
    OrderRefused, "order_refused", "does the CA give certificates for this name, and is a CAA record in the way?";
    NoChallenge, "no_challenge", "add a kind of challenge that the CA offers to `challenges`";
    ChallengeFailed, "challenge_failed", "does the name lead here, and do ports 80 and 443 reach this gateway?";
    WrongNames, "wrong_names", "the certificate is not used; use another CA";
    WrongKey, "wrong_key", "the certificate is not used; use another CA";
    BadCertificate, "bad_certificate", "the certificate is not used; is the clock of this machine right?";
    Storage, "storage", "is the storage there, and may the gateway write to it?";
    Hook, "hook_failed", "run the hook by hand with the same arguments";
    Internal, "internal", "OpenSSL refuses to make a key or a signature; see the log";
}

impl Trouble {
    pub(super) fn new(reason: Reason, why: impl Into<String>) -> Trouble {
        Trouble { reason, why: cut(why.into()), retry_after: None }
    }

    pub(super) fn bad_answer(why: impl Into<String>) -> Trouble {
        Trouble::new(Reason::BadAnswer, why)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.why, self.reason.hint())
    }
}

impl From<openssl::error::ErrorStack> for Trouble {
    fn from(error: openssl::error::ErrorStack) -> Trouble {
        Trouble::new(Reason::Internal, format!("OpenSSL refuses: {error}"))
    }
}

impl From<fetch::Error> for Trouble {
    fn from(error: fetch::Error) -> Trouble {
        let reason = match error {
            fetch::Error::Timeout => Reason::Timeout,
            fetch::Error::TooLarge => Reason::BadAnswer,
            fetch::Error::Trust(_) | fetch::Error::Connect(_) | fetch::Error::Broken(_) => {
                Reason::Unreachable
            }
        };
        Trouble::new(reason, error.to_string())
    }
}

/// What strangers have written, in one line of bearable length.
pub(super) fn cut(text: String) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
    if clean.chars().count() < text.chars().count() { format!("{clean}...") } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_ca_says_stays_in_one_line() {
        let trouble = Trouble::new(Reason::OrderRefused, format!("a\r\nb{}", "x".repeat(1000)));
        assert!(trouble.why.starts_with("a  bxxx") && trouble.why.len() < 410, "{trouble}");
        assert!(!trouble.to_string().contains('\n'));
    }
}
