//! Who may what: by a token, by a certificate, or by both where both are asked for; and where neither is, whoever is on this
//! machine may everything.

use std::sync::Arc;

use http::HeaderMap;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    refused::{Reason, Refused},
    sessions::Session,
};
use crate::{
    api::guard::{bearer, is_token},
    config::{AdminListener, AdminRole, CertificateRoles, Secret},
    identity::{Caller, IdPattern},
};

/// What the configuration says of it.
pub(super) struct Keys {
    tokens: Vec<Key>,
    /// Whoever has no certificate by a known authority is a stranger.
    wants_certificate: bool,
    /// Without them, all who have one are operators.
    roles: Option<Patterns>,
}

struct Key {
    name: Arc<str>,
    role: AdminRole,
    token: Secret,
}

/// Unlisted are viewers, so theirs need not be kept.
struct Patterns {
    all_are_operators: bool,
    operators: Vec<IdPattern>,
}

/// Somebody who has shown who it is, as far as that is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Who {
    pub name: Arc<str>,
    pub role: AdminRole,
    pub via: Via,
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Via {
    Session,
    Token,
    Certificate,
    /// Nothing is asked for.
    Open,
}

/// What a request brings.
pub(super) struct Shown<'a> {
    pub caller: Option<&'a Caller>,
    pub headers: &'a HeaderMap,
    pub session: Option<&'a Session>,
}

impl Keys {
    pub(super) fn of(settings: &AdminListener) -> Keys {
        let one = settings.token.iter().map(|token| Key {
            name: "token".into(),
            role: AdminRole::Operator,
            token: token.clone(),
        });
        let several = settings.tokens.iter().map(|token| Key {
            name: token.name.as_str().into(),
            role: token.role,
            token: token.token.clone(),
        });
        let tls = settings.tls.as_ref();
        Keys {
            tokens: one.chain(several).collect(),
            wants_certificate: tls.is_some_and(|tls| tls.client_ca.is_some()),
            roles: tls.and_then(|tls| tls.roles.as_ref()).map(Patterns::of),
        }
    }

    /// Whether a token is asked for.
    pub(super) fn want_token(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Whose token that is. All are compared, so that the time says nothing of which is near.
    pub(super) fn owner(&self, given: &[u8]) -> Option<(Arc<str>, AdminRole)> {
        let fits = self.tokens.iter().filter(|key| is_token(given, &key.token));
        fits.fold(None, |_, key| Some((key.name.clone(), key.role)))
    }

    /// Refuses a stranger where certificates are asked for.
    pub(super) fn check_caller(&self, caller: Option<&Caller>) -> Result<(), Refused> {
        if caller.is_some() || !self.wants_certificate {
            return Ok(());
        }
        Err(Reason::Certificate
            .because("come with a client certificate by an authority of `admin.tls.client_ca`"))
    }

    /// Who it is, by all that is asked for. `owner` says whose token was given: it counts guesses.
    ///
    /// # Errors
    ///
    /// Something that is asked for is missing or wrong.
    pub(super) fn who(
        &self,
        shown: &Shown<'_>,
        owner: impl FnOnce(&[u8]) -> Result<Option<(Arc<str>, AdminRole)>, Refused>,
    ) -> Result<Who, Refused> {
        self.check_caller(shown.caller)?;
        let by_certificate = shown
            .caller
            .filter(|_| self.wants_certificate)
            .map(|caller| (caller.name(), self.role_of(caller)));
        if !self.want_token() {
            return Ok(match by_certificate {
                Some((name, role)) => Who { name: name.into(), role, via: Via::Certificate },
                None => Who { name: "local".into(), role: AdminRole::Operator, via: Via::Open },
            });
        }
        let (name, role, via) = match (bearer(shown.headers), shown.session) {
            (Some(given), _) => {
                let (name, role) = owner(given)?.ok_or_else(|| unauthorized(WRONG))?;
                (name, role, Via::Token)
            }
            (None, Some(session)) => (session.name.clone(), session.role, Via::Session),
            (None, None) => return Err(unauthorized(MISSING)),
        };
        // Both are asked for, and neither gives more than the other.
        let role = by_certificate.map_or(role, |(_, most)| role.min(most));
        Ok(Who { name, role, via })
    }

    fn role_of(&self, caller: &Caller) -> AdminRole {
        let is_operator = self.roles.as_ref().is_none_or(|roles| roles.has_operator(caller));
        if is_operator { AdminRole::Operator } else { AdminRole::Viewer }
    }
}

const WRONG: &str =
    "this is not the token (it is `admin.token` in the configuration, or one of `admin.tokens`)";
const MISSING: &str = "send the token as `Authorization: Bearer TOKEN` (it is `admin.token` in the configuration, or one of \
`admin.tokens`)";

pub(super) fn unauthorized(why: &str) -> Refused {
    Reason::Unauthorized.because(why)
}

impl Who {
    /// # Errors
    ///
    /// A viewer orders nothing.
    pub(super) fn check_order(&self) -> Result<(), Refused> {
        match self.role {
            AdminRole::Operator => Ok(()),
            AdminRole::Viewer => Err(Reason::Role
                .because(format!("viewer {} may look and not order (ask an operator)", self.name))),
        }
    }
}

impl Patterns {
    fn of(roles: &CertificateRoles) -> Patterns {
        Patterns {
            all_are_operators: roles.operator.iter().any(|pattern| pattern == "*"),
            // What is no pattern is refused when the configuration is read.
            operators: roles.operator.iter().filter_map(|pattern| IdPattern::parse(pattern).ok()).collect(),
        }
    }

    fn has_operator(&self, caller: &Caller) -> bool {
        let is_listed = |id| self.operators.iter().any(|pattern| pattern.matches(id));
        self.all_are_operators || caller.id.as_ref().is_some_and(is_listed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::header::AUTHORIZATION;

    use super::*;

    fn keys(yaml: &str) -> Keys {
        Keys::of(&serde_yaml::from_str(yaml).unwrap())
    }

    fn caller(id: &str) -> Caller {
        Caller {
            id: id.parse().ok(),
            until: SystemTime::now(),
            subject: "CN=ops".into(),
            hash: String::new(),
            uris: vec![id.to_owned()],
            dns: Vec::new(),
        }
    }

    fn who(
        keys: &Keys,
        caller: Option<&Caller>,
        token: Option<&str>,
    ) -> Result<(String, AdminRole, Via), Reason> {
        let token = token.map(|token| (AUTHORIZATION, format!("Bearer {token}").parse().unwrap()));
        let headers = HeaderMap::from_iter(token);
        let shown = Shown { caller, headers: &headers, session: None };
        let who = keys.who(&shown, |given| Ok(keys.owner(given)));
        who.map(|who| (who.name.to_string(), who.role, who.via)).map_err(|refused| refused.reason)
    }

    #[test]
    fn a_token_names_its_owner_and_says_what_it_may() {
        let keys =
            keys("{token: t, tokens: [{name: alice, role: operator, token: a}, {name: wall, token: w}]}");
        let by_token = |token| who(&keys, None, Some(token));
        assert_eq!(by_token("t"), Ok(("token".into(), AdminRole::Operator, Via::Token)));
        assert_eq!(by_token("a"), Ok(("alice".into(), AdminRole::Operator, Via::Token)));
        assert_eq!(by_token("w"), Ok(("wall".into(), AdminRole::Viewer, Via::Token)));
        for wrong in [Some(""), Some("tt"), Some("T"), None] {
            assert_eq!(who(&keys, None, wrong), Err(Reason::Unauthorized), "{wrong:?}");
        }
    }

    #[test]
    fn where_nothing_is_asked_for_everybody_is_an_operator() {
        assert_eq!(who(&keys("{}"), None, Some("x")), Ok(("local".into(), AdminRole::Operator, Via::Open)));
    }

    #[test]
    fn certificates_have_roles_and_the_unlisted_are_viewers() {
        const TLS: &str = "cert: a, key: b, client_ca: c";
        let ops = caller("spiffe://mesh.local/ops/alice");
        let app = caller("spiffe://mesh.local/shop/cart");
        let role = |yaml: &str, caller| who(&keys(yaml), Some(caller), None).map(|(_, role, _)| role);
        let all = format!("{{tls: {{{TLS}}}}}");
        assert_eq!(role(&all, &app), Ok(AdminRole::Operator), "without roles as ever");
        let some =
            format!("{{tls: {{{TLS}, roles: {{operator: ['spiffe://mesh.local/ops/*'], viewer: ['*']}}}}}}");
        assert_eq!((role(&some, &ops), role(&some, &app)), (Ok(AdminRole::Operator), Ok(AdminRole::Viewer)));
        let none = format!("{{tls: {{{TLS}, roles: {{}}}}}}");
        assert_eq!(role(&none, &ops), Ok(AdminRole::Viewer));
        let star = format!("{{tls: {{{TLS}, roles: {{operator: ['*']}}}}}}");
        assert_eq!(role(&star, &app), Ok(AdminRole::Operator));
        assert_eq!(who(&keys(&all), None, None), Err(Reason::Certificate));
    }

    #[test]
    fn where_both_are_asked_for_the_lesser_role_counts() {
        let both = keys(
            "{tokens: [{name: alice, role: operator, token: a}, {name: wall, token: w}], tls: {cert: a, key: b, \
             client_ca: c, roles: {operator: ['spiffe://mesh.local/ops/*']}}}",
        );
        let (ops, app) = (caller("spiffe://mesh.local/ops/alice"), caller("spiffe://mesh.local/shop/cart"));
        let role = |caller, token| who(&both, caller, Some(token)).map(|(_, role, _)| role);
        assert_eq!(role(Some(&ops), "a"), Ok(AdminRole::Operator));
        assert_eq!(role(Some(&ops), "w"), Ok(AdminRole::Viewer));
        assert_eq!(role(Some(&app), "a"), Ok(AdminRole::Viewer));
        assert_eq!(role(None, "a"), Err(Reason::Certificate));
        assert_eq!(who(&both, Some(&ops), None), Err(Reason::Unauthorized));
    }
}
