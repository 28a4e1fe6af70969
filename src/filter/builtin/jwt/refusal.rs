//! Why a request is refused, and how it is told (RFC 6750, section 3). What the token says is never repeated: neither to
//! the client nor in a metric.

use http::{HeaderValue, header::WWW_AUTHENTICATE};

use crate::filter::{Exchange, Reason, Response};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no token.
    Missing,
    /// There are several.
    Several,
    TooLarge,
    Malformed,
    Algorithm,
    Type,
    Critical,
    UnknownKey,
    Signature,
    /// The payload is no object of JSON, or a name stands twice in it.
    Claims,
    Expiry,
    Expired,
    NotYet,
    Issued,
    Issuer,
    Audience,
    /// The token is valid and says too little.
    Scope,
    /// The issuer says that it is not active (any more).
    Inactive,
    /// There are no keys to verify it with.
    NoKeys,
}

impl Refusal {
    /// The label of a metric.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Refusal::Missing => "missing",
            Refusal::Several => "several",
            Refusal::TooLarge => "too_large",
            Refusal::Malformed => "malformed",
            Refusal::Algorithm => "algorithm",
            Refusal::Type => "type",
            Refusal::Critical => "critical",
            Refusal::UnknownKey => "unknown_key",
            Refusal::Signature => "signature",
            Refusal::Claims => "claims",
            Refusal::Expiry => "expiry",
            Refusal::Expired => "expired",
            Refusal::NotYet => "not_yet_valid",
            Refusal::Issued => "issued",
            Refusal::Issuer => "issuer",
            Refusal::Audience => "audience",
            Refusal::Scope => "scope",
            Refusal::Inactive => "inactive",
            Refusal::NoKeys => "no_keys",
        }
    }

    /// For the client's developer.
    const fn description(self) -> &'static str {
        match self {
            Refusal::Missing | Refusal::NoKeys => "",
            Refusal::Several => "the request has more than one token",
            Refusal::TooLarge => "the token is too large",
            Refusal::Malformed => "the token is malformed",
            Refusal::Algorithm => "the token's algorithm is not accepted",
            Refusal::Type => "the token's type is not accepted",
            Refusal::Critical => "the token needs an extension that is not known here",
            Refusal::UnknownKey => "the token's key is not known",
            Refusal::Signature => "the token's signature is not valid",
            Refusal::Claims => "the token's claims are malformed",
            Refusal::Expiry => "the token has no valid expiry",
            Refusal::Expired => "the token has expired",
            Refusal::NotYet => "the token is not valid yet",
            Refusal::Issued => "the token's time of issue is not valid",
            Refusal::Issuer => "the token's issuer is not accepted",
            Refusal::Audience => "the token is for another audience",
            Refusal::Scope => "the token does not permit this",
            Refusal::Inactive => "the token is not active",
        }
    }

    const fn reason(self) -> Reason {
        match self {
            Refusal::Several => Reason::BadRequest,
            Refusal::Scope => Reason::Forbidden,
            Refusal::NoKeys => Reason::AuthUnavailable,
            _ => Reason::Unauthenticated,
        }
    }

    /// The error code of RFC 6750, section 3.1; none where the request did not try to authenticate.
    const fn error(self) -> Option<&'static str> {
        match self {
            Refusal::Missing | Refusal::NoKeys => None,
            Refusal::Several => Some("invalid_request"),
            Refusal::Scope => Some("insufficient_scope"),
            _ => Some("invalid_token"),
        }
    }
}

/// What challenges say besides why.
#[derive(Clone, Debug)]
pub(crate) struct Challenge {
    realm: String,
    /// Those that are needed, in one line; empty where none is.
    scope: String,
}

impl Challenge {
    /// # Errors
    ///
    /// Why one of them cannot stand in a quoted string.
    pub(crate) fn new(realm: &str, scopes: &[String]) -> Result<Challenge, &'static str> {
        let is_plain = |byte: u8| (byte == b' ' || byte.is_ascii_graphic()) && !matches!(byte, b'"' | b'\\');
        if !realm.bytes().all(is_plain) {
            return Err("a realm is ASCII text without quotes and backslashes");
        }
        Ok(Challenge { realm: realm.to_owned(), scope: scopes.join(" ") })
    }

    pub(crate) fn respond(&self, refusal: Refusal, exchange: &Exchange<'_>) -> Response {
        let mut response = Response::refusal(refusal.reason(), &exchange.request.headers);
        if refusal == Refusal::NoKeys {
            return response;
        }
        let mut challenge = format!("Bearer realm=\"{}\"", self.realm);
        if let Some(error) = refusal.error() {
            let description = refusal.description();
            challenge += &format!(", error=\"{error}\", error_description=\"{description}\"");
        }
        if refusal == Refusal::Scope && !self.scope.is_empty() {
            challenge += &format!(", scope=\"{}\"", self.scope);
        }
        // Its parts are ASCII.
        response.headers.extend(HeaderValue::try_from(challenge).ok().map(|value| (WWW_AUTHENTICATE, value)));
        response
    }
}
